"""The published document says what the contracts say. Every test checks what the function does."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from checkpoints.api.auth import READ_SCOPE
from checkpoints.api.requests import DRY_RUN_DESCRIPTION
from checkpoints.records.record import Checkpoint
from emulators.dynamodb import put_token
from events import ENTITY, Call
from faulty_dynamodb import Endpoint
from published import DOCUMENT
from scripts import openapi

# What an API client may rely on: the two contracts, and what this API adds to them, which is the
# statuses other than 200 and 422, the two schemas of these, `dry_run`, `protected_steps`, and the
# optional parts of a checkpoint. See `simplify`.
PROMISED = yaml.safe_load("""
openapi: 3.1.0
paths:
  /v1/preview/models/{model_id}/checkpoints:
    get:
      tags: [models]
      operationId: list_model_checkpoints_v1_preview_models__model_id__checkpoints_get
      security: &security [HTTPBearer: []]
      parameters:
        - &model_id {name: model_id, in: path, required: true, schema: string}
        - {name: after, in: query, required: false, schema: string}
        - {name: limit, in: query, required: false,
           schema: {type: integer, minimum: 1, maximum: 100, default: 20}}
        - {name: order, in: query, required: false,
           schema: {type: string, enum: [asc, desc], default: asc}}
      responses:
        "200": {application/json: PaginatedResponse_CheckpointResponse_}
        "401": &refused {application/json: ErrorMessage, WWW-Authenticate: string}
        "403": *refused
        "404": &error {application/json: ErrorMessage}
        "422": &invalid {application/json: HTTPValidationError}
        "500": *error
        "503": {application/json: ErrorMessage, Retry-After: integer}
    delete:
      tags: [models]
      operationId: delete_model_checkpoints_v1_preview_models__model_id__checkpoints_delete
      security: *security
      parameters:
        - *model_id
        - {name: dry_run, in: query, required: false,
           schema: &dry_run {type: boolean, default: false}}
      requestBody: {required: true, application/json: DeleteCheckpointsRequest}
      responses:
        "200": {application/json: DeleteCheckpointsResponse}
        "401": *refused
        "403": *refused
        "404": *error
        "422": *invalid
        "500": {application/json: {anyOf: [IncompleteDeletion, ErrorMessage]}}
        "503": {application/json: IncompleteDeletion, Retry-After: integer}
components:
  securitySchemes: {HTTPBearer: {type: http, scheme: bearer}}
  schemas:
    CheckpointResponse:
      id!: string
      step!: integer
      metrics!: {type: object, additionalProperties: number}
      size_bytes: integer
      created_at: integer
      expires_at: integer
      protected: {type: boolean, default: false}
    PaginatedResponse_CheckpointResponse_:
      object: {type: string, default: list}
      data!: {type: array, items: CheckpointResponse}
      first_id: {type: string, default: ""}
      last_id: {type: string, default: ""}
      has_more!: boolean
    DeleteCheckpointsRequest: {steps!: &steps {type: array, items: integer}, dry_run: *dry_run}
    DeleteCheckpointsResponse:
      deleted_count!: integer
      not_found_steps!: *steps
      protected_steps: *steps
      dry_run: *dry_run
    HTTPValidationError: {detail: {type: array, items: ValidationError}}
    ValidationError:
      loc!: {type: array, items: {anyOf: [string, integer]}}
      msg!: string
      type!: string
    ErrorMessage: {detail!: string}
    IncompleteDeletion: {detail!: string, deleted_count!: integer, unconfirmed_count!: integer}
""")


def simplify(document: Any) -> Any:
    """Leave titles and descriptions out, and write what is left more briefly.

    A schema is its name, or its type if that is all. The schema of an object is its properties, of
    which the required ones have a "!". A response is the schemas of its content and its headers.
    """
    if isinstance(document, list):
        return [simplify(each) for each in document]
    if not isinstance(document, dict):
        return document
    if "$ref" in document:
        return document["$ref"].removeprefix("#/components/schemas/")
    if "properties" in document:
        assert document.keys() <= {"type", "title", "description", "required", "properties"}
        required = document.get("required", [])
        return {
            f"{name}!" if name in required else name: simplify(schema)
            for name, schema in document["properties"].items()
        }
    kept = document.keys() - {"title", "description", "summary"}
    brief = {key: simplify(document[key]) for key in kept}
    brief = brief.pop("content", {}) | brief.pop("headers", {}) | brief
    return brief.popitem()[1] if brief.keys() in ({"schema"}, {"type"}) else brief


def test_promises_the_contracts_and_only_known_additions() -> None:
    published = simplify(DOCUMENT)

    assert PROMISED == {key: published[key] for key in PROMISED}, "PROMISED in this file"


def test_the_list_reads_the_attributes_that_it_shows(call: Call, endpoint: Endpoint) -> None:
    put_token("reader", entity=ENTITY, scopes=[READ_SCOPE])

    assert 200 == call(method="GET", token="reader").status

    read = endpoint.requests[-1]["ProjectionExpression"].replace("#", "").split(", ")
    assert {*Checkpoint._fields} == {*read}, "OwnedCheckpoints._query in records/checkpoints.py"


def test_describes_the_dry_run_in_the_query_and_in_the_body() -> None:
    (operations,) = DOCUMENT["paths"].values()
    (in_query,) = (each for each in operations["delete"]["parameters"] if each["in"] == "query")
    body = DOCUMENT["components"]["schemas"]["DeleteCheckpointsRequest"]
    in_body = body["properties"]["dry_run"]

    assert DRY_RUN_DESCRIPTION == in_query["description"] == in_body["description"]


def test_check_says_whether_the_file_is_up_to_date(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == openapi.main(check=True)

    monkeypatch.setattr(openapi, "DOCUMENT", tmp_path / "openapi.json")
    assert 1 == openapi.main(check=True)
    assert "out of date" in capsys.readouterr().err

    assert 0 == openapi.main()
    assert 0 == openapi.main(check=True)
