"""Run MiniStack, with two changes to what it deploys.

It ignores all alarms and saved queries of a template: MiniStack cannot deploy saved queries, nor
alarms on several metrics. It also deploys the routes of an API that are for any method.
The Makefile runs this with the Python of MiniStack's own environment.
"""

import sys
from typing import Any

from ministack.app import main  # type: ignore[import-not-found]
from ministack.services import apigateway_v1  # type: ignore[import-not-found]
from ministack.services.cloudformation.provisioners import (  # type: ignore[import-not-found]
    _RESOURCE_HANDLERS,
)


def _create_nothing(logical_id: str, _properties: object, stack_name: str) -> tuple[str, object]:
    return f"{stack_name}-{logical_id}", {}


def _delete_nothing(_physical_id: str, _properties: object) -> None:
    pass


for kind in ("AWS::CloudWatch::Alarm", "AWS::Logs::QueryDefinition"):
    _RESOURCE_HANDLERS[kind] = {"create": _create_nothing, "delete": _delete_nothing}

_import_path_item = apigateway_v1._import_path_item  # noqa: SLF001 it has no public name


def _import_any_method(api_id: str, path: str, methods: dict[str, Any], *rest: object) -> None:
    names = {"x-amazon-apigateway-any-method": "any"}
    renamed = {names.get(name, name): operation for name, operation in methods.items()}
    _import_path_item(api_id, path, renamed, *rest)


apigateway_v1._import_path_item = _import_any_method  # noqa: SLF001
apigateway_v1._OPENAPI_HTTP_METHODS = {*apigateway_v1._OPENAPI_HTTP_METHODS, "any"}  # noqa: SLF001

if __name__ == "__main__":
    sys.exit(main())
