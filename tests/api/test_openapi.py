"""The published document says what the contracts say. Every test checks what the function does."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from published import DOCUMENT
from scripts import openapi

# What an API client may rely on: the two contracts, and what this API adds to them, which is the
# statuses other than 200 and 422, the two schemas of these, and `dry_run`. A schema is named
# instead of referred to, and descriptions are left out.
PROMISED = yaml.safe_load("""
openapi: 3.1.0
paths:
  /v1/preview/models/{model_id}/checkpoints:
    get:
      tags: [models]
      operationId: list_model_checkpoints_v1_preview_models__model_id__checkpoints_get
      security: &security [HTTPBearer: []]
      parameters:
        - &model_id {name: model_id, in: path, required: true,
                     schema: {title: Model Id, type: string}}
        - {name: after, in: query, required: false, schema: {title: After, type: string}}
        - {name: limit, in: query, required: false,
           schema: {title: Limit, type: integer, minimum: 1, maximum: 100, default: 20}}
        - {name: order, in: query, required: false,
           schema: {title: Order, type: string, enum: [asc, desc], default: asc}}
      responses:
        "200": {content: {application/json: {schema: PaginatedResponse_CheckpointResponse_}}}
        "401": &refused
          content: &error {application/json: {schema: ErrorMessage}}
          headers: {WWW-Authenticate: {schema: {type: string}}}
        "403": *refused
        "404": &not_found {content: *error}
        "422": &invalid {content: {application/json: {schema: HTTPValidationError}}}
        "500": {content: *error}
        "503": {content: *error, headers: &retry {Retry-After: {schema: {type: integer}}}}
    delete:
      tags: [models]
      operationId: delete_model_checkpoints_v1_preview_models__model_id__checkpoints_delete
      security: *security
      parameters:
        - *model_id
        - {name: dry_run, in: query, required: false,
           schema: &dry_run {title: Dry Run, type: boolean, default: false}}
      requestBody:
        required: true
        content: {application/json: {schema: DeleteCheckpointsRequest}}
      responses:
        "200": {content: {application/json: {schema: DeleteCheckpointsResponse}}}
        "401": *refused
        "403": *refused
        "404": *not_found
        "422": *invalid
        "500":
          content:
            application/json: {schema: {title: Return, anyOf: [IncompleteDeletion, ErrorMessage]}}
        "503": {content: {application/json: {schema: IncompleteDeletion}}, headers: *retry}
components:
  securitySchemes: {HTTPBearer: {type: http, scheme: bearer}}
  schemas:
    CheckpointResponse:
      title: CheckpointResponse
      type: object
      required: [id, step, metrics]
      properties:
        id: {title: Id, type: string}
        step: {title: Step, type: integer}
        metrics: {title: Metrics, type: object, additionalProperties: {type: number}}
    PaginatedResponse_CheckpointResponse_:
      title: PaginatedResponse[CheckpointResponse]
      type: object
      required: [data, has_more]
      properties:
        object: {title: Object, type: string, default: list}
        data: {title: Data, type: array, items: CheckpointResponse}
        first_id: {title: First Id, type: string, default: ""}
        last_id: {title: Last Id, type: string, default: ""}
        has_more: {title: Has More, type: boolean}
    DeleteCheckpointsRequest:
      title: DeleteCheckpointsRequest
      type: object
      required: [steps]
      properties:
        steps: {title: Steps, type: array, items: {type: integer}}
        dry_run: *dry_run
    DeleteCheckpointsResponse:
      title: DeleteCheckpointsResponse
      type: object
      required: [deleted_count, not_found_steps]
      properties:
        deleted_count: &count {title: Deleted Count, type: integer}
        not_found_steps: {title: Not Found Steps, type: array, items: {type: integer}}
        dry_run: *dry_run
    HTTPValidationError:
      title: HTTPValidationError
      type: object
      properties: {detail: {title: Detail, type: array, items: ValidationError}}
    ValidationError:
      title: ValidationError
      type: object
      required: [loc, msg, type]
      properties:
        loc: {title: Location, type: array, items: {anyOf: [{type: string}, {type: integer}]}}
        msg: {title: Message, type: string}
        type: {title: Error Type, type: string}
    ErrorMessage:
      title: ErrorMessage
      type: object
      required: [detail]
      properties: {detail: &detail {title: Detail, type: string}}
    IncompleteDeletion:
      title: IncompleteDeletion
      type: object
      required: [detail, deleted_count, unconfirmed_count]
      properties:
        detail: *detail
        deleted_count: *count
        unconfirmed_count: {title: Unconfirmed Count, type: integer}
""")


def simplify(document: Any) -> Any:
    """Leave descriptions out, and name a schema instead of referring to it."""
    if isinstance(document, list):
        return [simplify(each) for each in document]
    if not isinstance(document, dict):
        return document
    if "$ref" in document:
        return document["$ref"].removeprefix("#/components/schemas/")
    return {key: simplify(document[key]) for key in document.keys() - {"description", "summary"}}


def test_promises_the_contracts_and_only_known_additions() -> None:
    published = simplify(DOCUMENT)

    assert PROMISED == {key: published[key] for key in PROMISED}


def test_check_says_whether_the_file_is_up_to_date(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == openapi.main(check=True)

    monkeypatch.setattr(openapi, "DOCUMENT", tmp_path / "openapi.json")
    assert 1 == openapi.main(check=True)
    assert "out of date" in capsys.readouterr().err

    assert 0 == openapi.main()
    assert 0 == openapi.main(check=True)
