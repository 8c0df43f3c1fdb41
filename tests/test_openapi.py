"""The published document says what the contract says, and what the function does."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from checkpoints.api.auth import READ_SCOPE
from checkpoints.api.requests import ListCheckpointsRequest
from emulators.dynamodb import put_checkpoints, put_token
from events import AUTH_ERRORS, ENTITY, MODEL, TOKEN, Call, query
from faulty_dynamodb import Endpoint, reject
from scripts import openapi

# The parts of the two contracts that an API client may rely on.
PATH = "/v1/preview/models/{model_id}/checkpoints"
STRING, INTEGER = {"type": "string"}, {"type": "integer"}
INTEGERS = {"type": "array", "items": INTEGER}
MODEL_ID = {
    "in": "path",
    "name": "model_id",
    "required": True,
    "schema": {"title": "Model Id", "type": "string"},
}


def in_query(name: str, **schema: object) -> dict[str, object]:
    return {"in": "query", "name": name, "required": False, "schema": schema}


def object_of(title: str, required: list[str] | None = None, **properties: object) -> object:
    schema = {"title": title, "type": "object", "properties": properties}
    return schema | ({"required": required} if required else {})


def list_of(schema: str, title: str) -> object:
    return {"title": title, "type": "array", "items": {"$ref": f"#/components/schemas/{schema}"}}


def json_of(schema: str) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{schema}"}
    return {"content": {"application/json": {"schema": reference}}}


CONTRACT: dict[str, Any] = {
    "openapi": "3.1.0",
    "paths": {
        PATH: {
            "get": {
                "tags": ["models"],
                "operationId": "list_model_checkpoints_v1_preview_models__model_id_"
                "_checkpoints_get",
                "parameters": [
                    MODEL_ID,
                    in_query("after", type="string", title="After"),
                    in_query(
                        "limit", type="integer", minimum=1, maximum=100, default=20, title="Limit"
                    ),
                    in_query(
                        "order", type="string", enum=["asc", "desc"], default="asc", title="Order"
                    ),
                ],
                "responses": {
                    "200": json_of("PaginatedResponse_CheckpointResponse_"),
                    "422": json_of("HTTPValidationError"),
                },
                "security": [{"HTTPBearer": []}],
            },
            "delete": {
                "tags": ["models"],
                "operationId": "delete_model_checkpoints_v1_preview_models__model_id_"
                "_checkpoints_delete",
                "parameters": [MODEL_ID],
                "requestBody": {"required": True} | json_of("DeleteCheckpointsRequest"),
                "responses": {
                    "200": json_of("DeleteCheckpointsResponse"),
                    "422": json_of("HTTPValidationError"),
                },
                "security": [{"HTTPBearer": []}],
            },
        }
    },
    "components": {
        "schemas": {
            "CheckpointResponse": object_of(
                "CheckpointResponse",
                ["id", "step", "metrics"],
                id=STRING | {"title": "Id"},
                step=INTEGER | {"title": "Step"},
                metrics={
                    "type": "object",
                    "additionalProperties": {"type": "number"},
                    "title": "Metrics",
                },
            ),
            "PaginatedResponse_CheckpointResponse_": object_of(
                "PaginatedResponse[CheckpointResponse]",
                ["data", "has_more"],
                object=STRING | {"default": "list", "title": "Object"},
                data=list_of("CheckpointResponse", "Data"),
                first_id=STRING | {"default": "", "title": "First Id"},
                last_id=STRING | {"default": "", "title": "Last Id"},
                has_more={"type": "boolean", "title": "Has More"},
            ),
            "DeleteCheckpointsRequest": object_of(
                "DeleteCheckpointsRequest", ["steps"], steps=INTEGERS | {"title": "Steps"}
            ),
            "DeleteCheckpointsResponse": object_of(
                "DeleteCheckpointsResponse",
                ["deleted_count", "not_found_steps"],
                deleted_count=INTEGER | {"title": "Deleted Count"},
                not_found_steps=INTEGERS | {"title": "Not Found Steps"},
            ),
            "HTTPValidationError": object_of(
                "HTTPValidationError", detail=list_of("ValidationError", "Detail")
            ),
            "ValidationError": object_of(
                "ValidationError",
                ["loc", "msg", "type"],
                loc={"title": "Location", "type": "array", "items": {"anyOf": [STRING, INTEGER]}},
                msg=STRING | {"title": "Message"},
                type=STRING | {"title": "Error Type"},
            ),
        },
        "securitySchemes": {"HTTPBearer": {"type": "http", "scheme": "bearer"}},
    },
}

# Additions to the contracts, which a client can ignore: query parameters by method, and fields by
# schema.
DRY_RUN: dict[str, Any] = {"title": "Dry Run", "type": "boolean", "default": False}
ADDED: dict[str, dict[str, Any]] = {
    "delete": {"dry_run": in_query("dry_run", **DRY_RUN)},
    "DeleteCheckpointsRequest": {"dry_run": DRY_RUN},
    "DeleteCheckpointsResponse": {"dry_run": DRY_RUN},
}

LISTING: dict[str, Any] = {"method": "GET", "token": "reader"}

WORDS = {"description", "summary"}  # not in the contracts


@pytest.fixture
def document() -> Any:
    return json.loads(openapi.DOCUMENT.read_bytes())


def without_words(document: Any) -> Any:
    if isinstance(document, dict):
        return {key: without_words(document[key]) for key in document.keys() - WORDS}
    if isinstance(document, list):
        return [without_words(element) for element in document]
    return document


def test_contains_the_contracts_and_only_known_additions(document: Any) -> None:
    published = without_words(document)
    for method, operation in published["paths"][PATH].items():
        responses = operation["responses"]
        operation["responses"] = {status: responses[status] for status in ("200", "422")}
        parameters = {each["name"]: each for each in operation["parameters"]}
        promised = CONTRACT["paths"][PATH][method]["parameters"]
        more = [parameters.pop(name) for name in [*parameters] if name not in str(promised)]
        operation["parameters"] = [*parameters.values()]
        assert more == [*ADDED.get(method, {}).values()], "ADDED in tests/test_openapi.py"
    schemas = published["components"]["schemas"]
    for name in ("ErrorMessage", "IncompleteDeletion"):
        del schemas[name]
    for name, promised in CONTRACT["components"]["schemas"].items():
        fields = schemas[name]["properties"]
        extra = {key: fields.pop(key) for key in fields.keys() - promised["properties"].keys()}
        assert extra == ADDED.get(name, {}), "ADDED in tests/test_openapi.py"

    assert CONTRACT == {key: published[key] for key in CONTRACT}, "CONTRACT in this file"


@pytest.mark.parametrize(
    ("method", "unavailable"), [("get", "ErrorMessage"), ("delete", "IncompleteDeletion")]
)
def test_adds_the_other_statuses_to_the_contracts(
    document: Any, method: str, unavailable: str
) -> None:
    published = without_words(document)

    def response(body: str = "ErrorMessage", **headers: str) -> dict[str, Any]:
        named = {name.replace("_", "-"): {"schema": {"type": headers[name]}} for name in headers}
        return json_of(body) | ({"headers": named} if named else {})

    internal_error = response()
    if method == "delete":
        schemas = [
            json_of(name)["content"]["application/json"]["schema"]
            for name in ("IncompleteDeletion", "ErrorMessage")
        ]
        internal_error["content"]["application/json"]["schema"] = {
            "anyOf": schemas,
            "title": "Return",
        }
    added = {
        status: response
        for status, response in published["paths"][PATH][method]["responses"].items()
        if status not in ("200", "422")
    }
    assert {
        "401": response(WWW_Authenticate="string"),
        "403": response(WWW_Authenticate="string"),
        "404": response(),
        "500": internal_error,
        "503": response(unavailable, Retry_After="integer"),
    } == added, "added in tests/test_openapi.py"
    message = object_of("ErrorMessage", ["detail"], detail=STRING | {"title": "Detail"})
    assert message == published["components"]["schemas"]["ErrorMessage"]


@pytest.mark.parametrize(
    ("event", "status"),
    [
        ({"steps": [1]}, 200),
        ({"steps": "1"}, 422),
        ({"token": None}, 401),
        ({"token": "unknown"}, 401),
        ({"token": "reader"}, 403),
        ({"path": "/"}, 404),
        ({"steps": list(range(101))}, 503),
        (LISTING, 200),
        (LISTING | query(limit=0), 422),
        (LISTING | {"token": None}, 401),
        (LISTING | {"token": "unknown"}, 401),
        (LISTING | {"token": TOKEN}, 403),
        (LISTING | {"path": "/"}, 404),
        (LISTING, 503),
    ],
)
def test_the_response_is_as_published(
    call: Call, endpoint: Endpoint, document: Any, event: dict[str, Any], status: int
) -> None:
    put_token("reader", entity=ENTITY, scopes=[READ_SCOPE])
    put_checkpoints(MODEL, range(30), entity=ENTITY, metrics={"M": {"loss": {"N": "0.5"}}})
    if status == 503:
        endpoint.keep_failing("Query", reject(503, "ServiceUnavailable"))

    response = call(**event)

    assert status == response.status
    method = event.get("method", "DELETE").lower()
    promised = document["paths"][PATH][method]["responses"][str(status)]
    schema = promised["content"][response.headers["Content-Type"]]["schema"]
    jsonschema.validate(response.body, schema | {"components": document["components"]})
    assert {"Content-Type", *promised.get("headers", {})} == set(response.headers)
    if status == 503:
        assert response.headers["Retry-After"].isdecimal()


def test_publishes_each_query_parameter_of_the_list_with_its_default(document: Any) -> None:
    published = {
        parameter["name"]: parameter["schema"].get("default")
        for parameter in document["paths"][PATH]["get"]["parameters"]
        if parameter["in"] == "query"
    }
    fields = ListCheckpointsRequest.model_fields

    assert {name: field.default for name, field in fields.items()} == published, (
        "ListCheckpointsRequest in api/requests.py"
    )


def test_publishes_each_status_of_a_refused_token(document: Any) -> None:
    statuses = {str(kind.status) for kind in AUTH_ERRORS}

    for operation in document["paths"][PATH].values():
        assert statuses <= operation["responses"].keys(), "describe_errors in api/responses.py"


def test_check_says_whether_the_file_is_up_to_date(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == openapi.main(check=True)

    monkeypatch.setattr(openapi, "DOCUMENT", tmp_path / "openapi.json")
    assert 1 == openapi.main(check=True)
    assert "out of date" in capsys.readouterr().err

    assert 0 == openapi.main()
    assert 0 == openapi.main(check=True)
