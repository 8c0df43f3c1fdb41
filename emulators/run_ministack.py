"""Run MiniStack, with some changes to what it deploys and to whom it allows what.

It ignores all alarms, saved queries and queue policies of a template: MiniStack cannot deploy saved
queries, nor alarms on several metrics, and the queues accept only TLS, which it does not speak. It
also deploys the routes of an API that are for any method. And it does as AWS does here: a batch of
messages needs the permission for a single one, the header x-amzn-RequestId of a response is the id
that the function gets, and a path reaches the function as it was sent, with its escapes.
The Makefile runs this with the Python of MiniStack's own environment.
"""

import sys
from contextvars import ContextVar
from typing import Any

from ministack import app  # type: ignore[import-not-found]
from ministack.core import iam_actions  # type: ignore[import-not-found]
from ministack.services import apigateway_v1  # type: ignore[import-not-found]
from ministack.services.cloudformation.provisioners import (  # type: ignore[import-not-found]
    _RESOURCE_HANDLERS,
)


def _create_nothing(logical_id: str, _properties: object, stack_name: str) -> tuple[str, object]:
    return f"{stack_name}-{logical_id}", {}


def _delete_nothing(_physical_id: str, _properties: object) -> None:
    pass


for kind in ("AWS::CloudWatch::Alarm", "AWS::Logs::QueryDefinition", "AWS::SQS::QueuePolicy"):
    _RESOURCE_HANDLERS[kind] = {"create": _create_nothing, "delete": _delete_nothing}

_import_path_item = apigateway_v1._import_path_item  # noqa: SLF001 it has no public name


def _import_any_method(api_id: str, path: str, methods: dict[str, Any], *rest: object) -> None:
    names = {"x-amazon-apigateway-any-method": "any"}
    renamed = {names.get(name, name): operation for name, operation in methods.items()}
    _import_path_item(api_id, path, renamed, *rest)


apigateway_v1._import_path_item = _import_any_method  # noqa: SLF001
apigateway_v1._OPENAPI_HTTP_METHODS = {*apigateway_v1._OPENAPI_HTTP_METHODS, "any"}  # noqa: SLF001

_build_event, _execute = apigateway_v1._build_lambda_event_v1, apigateway_v1.handle_execute  # noqa: SLF001
_request_id: ContextVar[str] = ContextVar("_request_id")


def _build_event_and_keep_id(*arguments: object, **options: object) -> dict[str, Any]:
    event: dict[str, Any] = _build_event(*arguments, **options)
    _request_id.set(event["requestContext"]["requestId"])
    return event


async def _execute_with_id(*request: object) -> tuple[int, dict[str, Any], bytes]:
    status, headers, body = await _execute(*request)
    if request_id := _request_id.get(None):  # else no function was invoked
        headers.setdefault("x-amzn-requestid", request_id)
    return status, headers, body


apigateway_v1._build_lambda_event_v1 = _build_event_and_keep_id  # noqa: SLF001
apigateway_v1.handle_execute = _execute_with_id

_handle_request = app._handle_execute_api_request  # noqa: SLF001


async def _handle_request_with_raw_path(
    host: str, path: str, *request: object, raw_path: str | None = None, **options: object
) -> object:
    return await _handle_request(host, raw_path or path, *request, raw_path=raw_path, **options)


app._handle_execute_api_request = _handle_request_with_raw_path  # noqa: SLF001

_extract_iam_action = iam_actions.extract_iam_action


def _extract_action(service: str, *request: object) -> str | None:
    action: str | None = _extract_iam_action(service, *request)
    return action.removesuffix("Batch") if action and service == "sqs" else action


iam_actions.extract_iam_action = _extract_action

if __name__ == "__main__":
    sys.exit(app.main())
