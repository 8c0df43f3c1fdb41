"""The published document says what the contract says, and what the function does."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from checkpoints.auth import READ_SCOPE, AuthError
from checkpoints.schemas import ListCheckpointsRequest
from emulators.dynamodb import put_checkpoints, put_token
from events import ENTITY, MODEL, TOKEN, Call
from faulty_dynamodb import Endpoint, reject
from scripts import openapi

# The facts of the two contracts: what a client of them may rely on.
PATH = "/v1/preview/models/{model_id}/checkpoints"
INTEGERS = {"type": "array", "items": {"type": "integer"}}
MODEL_ID = {
    "in": "path",
    "name": "model_id",
    "required": True,
    "schema": {"title": "Model Id", "type": "string"},
}


def in_query(name: str, **schema: object) -> dict[str, object]:
    return {"in": "query", "name": name, "required": False, "schema": schema}


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
            "CheckpointResponse": {
                "title": "CheckpointResponse",
                "type": "object",
                "required": ["id", "step", "metrics"],
                "properties": {
                    "id": {"type": "string", "title": "Id"},
                    "step": {"type": "integer", "title": "Step"},
                    "metrics": {
                        "type": "object",
                        "additionalProperties": {"type": "number"},
                        "title": "Metrics",
                    },
                },
            },
            "PaginatedResponse_CheckpointResponse_": {
                "title": "PaginatedResponse[CheckpointResponse]",
                "type": "object",
                "required": ["data", "has_more"],
                "properties": {
                    "object": {"type": "string", "default": "list", "title": "Object"},
                    "data": {
                        "type": "array",
                        "items": {"$ref": "#/components/schemas/CheckpointResponse"},
                        "title": "Data",
                    },
                    "first_id": {"type": "string", "default": "", "title": "First Id"},
                    "last_id": {"type": "string", "default": "", "title": "Last Id"},
                    "has_more": {"type": "boolean", "title": "Has More"},
                },
            },
            "DeleteCheckpointsRequest": {
                "title": "DeleteCheckpointsRequest",
                "type": "object",
                "required": ["steps"],
                "properties": {"steps": {"title": "Steps"} | INTEGERS},
            },
            "DeleteCheckpointsResponse": {
                "title": "DeleteCheckpointsResponse",
                "type": "object",
                "required": ["deleted_count", "not_found_steps"],
                "properties": {
                    "deleted_count": {"title": "Deleted Count", "type": "integer"},
                    "not_found_steps": {"title": "Not Found Steps"} | INTEGERS,
                },
            },
            "HTTPValidationError": {
                "title": "HTTPValidationError",
                "type": "object",
                "properties": {
                    "detail": {
                        "title": "Detail",
                        "type": "array",
                        "items": {"$ref": "#/components/schemas/ValidationError"},
                    }
                },
            },
            "ValidationError": {
                "title": "ValidationError",
                "type": "object",
                "required": ["loc", "msg", "type"],
                "properties": {
                    "loc": {
                        "title": "Location",
                        "type": "array",
                        "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
                    },
                    "msg": {"title": "Message", "type": "string"},
                    "type": {"title": "Error Type", "type": "string"},
                },
            },
        },
        "securitySchemes": {"HTTPBearer": {"type": "http", "scheme": "bearer"}},
    },
}

# What is added to a deletion; no client needs to know of it.
DRY_RUN: dict[str, Any] = {"title": "Dry Run", "type": "boolean", "default": False}

LISTING: dict[str, Any] = {"method": "GET", "token": "reader"}

# In words of its own, and not part of the structure.
WORDS = {"description", "summary"}


@pytest.fixture
def document() -> Any:
    return json.loads(openapi.DOCUMENT.read_bytes())


def without_words(document: Any) -> Any:
    if isinstance(document, dict):
        return {key: without_words(document[key]) for key in document.keys() - WORDS}
    if isinstance(document, list):
        return [without_words(element) for element in document]
    return document


def test_contains_the_contracts_and_adds_the_dry_run(document: Any) -> None:
    published = without_words(document)
    for operation in published["paths"][PATH].values():
        responses = operation["responses"]
        operation["responses"] = {status: responses[status] for status in ("200", "422")}
    for name in ("ErrorMessage", "IncompleteDeletion"):
        del published["components"]["schemas"][name]
    dry_run = published["components"]["schemas"]["DeleteCheckpointsRequest"]["properties"].pop(
        "dry_run"
    )

    assert DRY_RUN == dry_run
    deletion = published["paths"][PATH]["delete"]
    assert in_query("dry_run", **DRY_RUN) == deletion["parameters"].pop()
    assert CONTRACT == {key: published[key] for key in CONTRACT}


@pytest.mark.parametrize(
    ("method", "unavailable"), [("get", "ErrorMessage"), ("delete", "IncompleteDeletion")]
)
def test_adds_the_refusals_to_the_contracts(document: Any, method: str, unavailable: str) -> None:
    published = without_words(document)

    def response(body: str = "ErrorMessage", **headers: str) -> dict[str, Any]:
        named = {name.replace("_", "-"): {"schema": {"type": headers[name]}} for name in headers}
        return json_of(body) | ({"headers": named} if named else {})

    added = {
        status: response
        for status, response in published["paths"][PATH][method]["responses"].items()
        if status not in ("200", "422")
    }
    assert {
        "401": response(WWW_Authenticate="string"),
        "403": response(WWW_Authenticate="string"),
        "404": response(),
        "503": response(unavailable, Retry_After="integer"),
    } == added
    assert {
        "title": "ErrorMessage",
        "type": "object",
        "required": ["detail"],
        "properties": {"detail": {"title": "Detail", "type": "string"}},
    } == published["components"]["schemas"]["ErrorMessage"]


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
        (LISTING | {"queryStringParameters": {"limit": "0"}}, 422),
        (LISTING | {"token": None}, 401),
        (LISTING | {"token": "unknown"}, 401),
        (LISTING | {"token": TOKEN}, 403),
        (LISTING | {"path": "/"}, 404),
        (LISTING, 503),
    ],
)
def test_the_function_answers_as_published(
    call: Call, endpoint: Endpoint, document: Any, event: dict[str, Any], status: int
) -> None:
    put_token("reader", entity=ENTITY, scopes=[READ_SCOPE])
    put_checkpoints(MODEL, range(30), entity=ENTITY, metrics={"M": {"loss": {"N": "0.5"}}})
    if status == 503:
        endpoint.keep_failing("Query", reject(503, "ServiceUnavailable"))

    answer = call(**event)

    assert status == answer.status
    method = event.get("method", "DELETE").lower()
    response = document["paths"][PATH][method]["responses"][str(status)]
    schema = response["content"][answer.headers["Content-Type"]]["schema"]
    jsonschema.validate(answer.body, schema | {"components": document["components"]})
    assert {"Content-Type", *response.get("headers", {})} == set(answer.headers)
    if status == 503:
        assert answer.headers["Retry-After"].isdecimal()


def test_publishes_each_query_parameter_of_the_list_with_its_default(document: Any) -> None:
    published = {
        parameter["name"]: parameter["schema"].get("default")
        for parameter in document["paths"][PATH]["get"]["parameters"]
        if parameter["in"] == "query"
    }
    fields = ListCheckpointsRequest.model_fields

    assert {name: field.default for name, field in fields.items()} == published


def test_publishes_the_limits_of_a_page(document: Any, call: Call) -> None:
    put_token("reader", entity=ENTITY, scopes=[READ_SCOPE])
    (schema,) = [
        parameter["schema"]
        for parameter in document["paths"][PATH]["get"]["parameters"]
        if parameter["name"] == "limit"
    ]

    def status(limit: int) -> int:
        query = {"limit": [str(limit)]}
        return call(method="GET", token="reader", multiValueQueryStringParameters=query).status

    least, most = int(schema["minimum"]), int(schema["maximum"])
    assert [422, 200, 200, 422] == [*map(status, (least - 1, least, most, most + 1))]


def test_publishes_each_status_of_a_refused_token(document: Any) -> None:
    for operation in document["paths"][PATH].values():
        assert {str(kind.status) for kind in AuthError.__subclasses__()} <= set(
            operation["responses"]
        )


def test_check_says_whether_the_file_is_up_to_date(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == openapi.main(["--check"])

    monkeypatch.setattr(openapi, "DOCUMENT", tmp_path / "openapi.json")
    assert 1 == openapi.main(["--check"])
    assert "out of date" in capsys.readouterr().err

    assert 0 == openapi.main([])
    assert 0 == openapi.main(["--check"])
