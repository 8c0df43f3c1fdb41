"""The published document says what the contract says, and what the function does."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from emulators.dynamodb import put_token
from events import ENTITY, Call
from faulty_dynamodb import Endpoint, reject
from scripts import openapi

# The contract's facts: what a client of it may rely on.
PATH = "/v1/preview/models/{model_id}/checkpoints"
INTEGERS = {"type": "array", "items": {"type": "integer"}}
CONTRACT: dict[str, Any] = {
    "openapi": "3.1.0",
    "paths": {
        PATH: {
            "delete": {
                "tags": ["models"],
                "operationId": "delete_model_checkpoints_v1_preview_models__model_id_"
                "_checkpoints_delete",
                "parameters": [
                    {
                        "in": "path",
                        "name": "model_id",
                        "required": True,
                        "schema": {"title": "Model Id", "type": "string"},
                    }
                ],
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": {"$ref": "#/components/schemas/DeleteCheckpointsRequest"}
                        }
                    },
                },
                "responses": {
                    "200": {
                        "content": {
                            "application/json": {
                                "schema": {"$ref": "#/components/schemas/DeleteCheckpointsResponse"}
                            }
                        }
                    },
                    "422": {
                        "content": {
                            "application/json": {
                                "schema": {"$ref": "#/components/schemas/HTTPValidationError"}
                            }
                        }
                    },
                },
                "security": [{"HTTPBearer": []}],
            }
        }
    },
    "components": {
        "schemas": {
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

# What is added to a request; no client needs to know of it.
DRY_RUN = {"title": "Dry Run", "type": "boolean", "default": False}

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


def test_contains_the_contract_and_adds_the_dry_run(document: Any) -> None:
    published = without_words(document)
    (operation,) = published["paths"][PATH].values()
    operation["responses"] = {status: operation["responses"][status] for status in ("200", "422")}
    for name in ("ErrorMessage", "IncompleteDeletion"):
        del published["components"]["schemas"][name]
    dry_run = published["components"]["schemas"]["DeleteCheckpointsRequest"]["properties"].pop(
        "dry_run"
    )

    assert DRY_RUN == dry_run
    assert {
        "in": "query",
        "name": "dry_run",
        "required": False,
        "schema": DRY_RUN,
    } == operation["parameters"].pop()
    assert CONTRACT == {key: published[key] for key in CONTRACT}


def test_adds_the_refusals_to_the_contract(document: Any) -> None:
    published = without_words(document)
    (operation,) = published["paths"][PATH].values()

    def response(body: str = "ErrorMessage", **headers: str) -> dict[str, Any]:
        message = {"schema": {"$ref": f"#/components/schemas/{body}"}}
        named = {name.replace("_", "-"): {"schema": {"type": headers[name]}} for name in headers}
        return {"content": {"application/json": message}} | ({"headers": named} if named else {})

    added = {
        status: response
        for status, response in operation["responses"].items()
        if status not in ("200", "422")
    }
    assert {
        "401": response(WWW_Authenticate="string"),
        "403": response(WWW_Authenticate="string"),
        "404": response(),
        "503": response("IncompleteDeletion", Retry_After="integer"),
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
        ({"token": "under-scoped"}, 403),
        ({"path": "/"}, 404),
        ({"steps": list(range(101))}, 503),
    ],
)
def test_the_function_answers_as_published(
    call: Call, endpoint: Endpoint, document: Any, event: dict[str, Any], status: int
) -> None:
    put_token("under-scoped", entity=ENTITY, scopes=["checkpoints:read"])
    endpoint.keep_failing("Query", reject(503, "ServiceUnavailable"))

    answer = call(**event)

    assert status == answer.status
    response = document["paths"][PATH]["delete"]["responses"][str(status)]
    schema = response["content"][answer.headers["Content-Type"]]["schema"]
    jsonschema.validate(answer.body, schema | {"components": document["components"]})
    assert {"Content-Type", *response.get("headers", {})} == set(answer.headers)
    if status == 503:
        assert answer.headers["Retry-After"].isdecimal()


def test_the_check_tells_whether_the_file_is_current(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == openapi.main(["--check"])

    monkeypatch.setattr(openapi, "DOCUMENT", tmp_path / "openapi.json")
    assert 1 == openapi.main(["--check"])
    assert "out of date" in capsys.readouterr().err

    assert 0 == openapi.main([])
    assert 0 == openapi.main(["--check"])
