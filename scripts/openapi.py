"""Write docs/openapi.json, the description of the API, from the code."""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from aws_lambda_powertools.event_handler.openapi.models import HTTPBearer
from pydantic import TypeAdapter

from checkpoints.api.app import RESOURCE, app
from checkpoints.api.requests import DeleteCheckpointsRequest, ListCheckpointsRequest
from checkpoints.api.responses import HTTPValidationError
from cli.runner import run
from scripts import generated

DOCUMENT = Path(__file__).parents[1] / "docs" / "openapi.json"


def main(check: generated.Check = False) -> int:
    """Write docs/openapi.json, the description of the API, from the code."""
    return generated.write(DOCUMENT, json.dumps(document(), indent=2) + "\n", check=check)


def document() -> dict[str, Any]:
    """Return the OpenAPI document of all operations.

    The routes describe themselves and their responses. The generator reads a request from the
    signature of a route, which has only what is in the path, because the routes authenticate before
    they parse. So the query and the body are added here.
    """
    schema: dict[str, Any] = json.loads(
        app.get_openapi_json_schema(
            title="Model checkpoints",
            # The version of the project. The version of the API is in the path.
            version=version("checkpoints"),
            security_schemes={"HTTPBearer": HTTPBearer()},
        )
    )
    operations = schema["paths"][RESOURCE]
    _, definitions = TypeAdapter.json_schemas(
        [
            ("delete", "validation", TypeAdapter(DeleteCheckpointsRequest)),
            ("list", "validation", TypeAdapter(ListCheckpointsRequest)),
            ("422", "serialization", TypeAdapter(HTTPValidationError)),
        ],
        ref_template="#/components/schemas/{model}",
    )
    schemas = definitions["$defs"]
    listing = schemas.pop("ListCheckpointsRequest")["properties"]
    operations["get"]["parameters"] += [_parameter(name, listing[name]) for name in listing]
    dry_run = schemas["DeleteCheckpointsRequest"]["properties"]["dry_run"]
    operations["delete"]["parameters"].append(_parameter("dry_run", dry_run))
    body = {"$ref": "#/components/schemas/DeleteCheckpointsRequest"}
    operations["delete"]["requestBody"] = {
        "content": {"application/json": {"schema": body}},
        "required": True,
    }
    # The generator gives a choice between two models this title.
    del operations["delete"]["responses"]["500"]["content"]["application/json"]["schema"]["title"]
    # The generator has its own schemas of errors, which no response uses.
    del schema["components"]["schemas"]["ResponseValidationError"]
    schema["components"]["schemas"] |= schemas
    return schema


def _parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return a parameter in the query, with the schema of a field."""
    of_parameter = {"description": schema["description"]} if "description" in schema else {}
    of_value = {
        key: value
        for key, value in schema.items()
        if key != "description" and (key, value) != ("default", None)  # it has none in the query
    }
    return {"name": name, "in": "query", "required": False, "schema": of_value} | of_parameter


if __name__ == "__main__":
    sys.exit(run(main))
