"""Write docs/openapi.json, the description of the API, from the code."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from aws_lambda_powertools.event_handler.api_gateway import APIGatewayRestResolver
from aws_lambda_powertools.event_handler.openapi.models import HTTPBearer
from aws_lambda_powertools.event_handler.openapi.params import Body, Query
from aws_lambda_powertools.event_handler.openapi.params import Path as PathParameter
from aws_lambda_powertools.event_handler.openapi.types import (
    OpenAPIResponse,
    OpenAPIResponseHeader,
)
from pydantic import TypeAdapter

from checkpoints.api.app import ROUTE
from checkpoints.api.auth import DELETE_SCOPE, READ_SCOPE
from checkpoints.api.schemas import (
    DEFAULT_PAGE_SIZE,
    DRY_RUN_DESCRIPTION,
    MAX_PAGE_SIZE,
    DeleteCheckpointsRequest,
    DeleteCheckpointsResponse,
    ErrorMessage,
    HTTPValidationError,
    IncompleteDeletion,
    ListCheckpointsResponse,
)
from scripts.terminal import Parser

DOCUMENT = Path(__file__).parents[1] / "docs" / "openapi.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the document, or with `--check` only check whether the file is up to date."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing, and fail if the file is out of date"
    )
    check = parser.parse_args(arguments).check
    text = json.dumps(document(), indent=2) + "\n"
    if not check:
        DOCUMENT.write_text(text)
        return 0
    if not DOCUMENT.exists() or DOCUMENT.read_text() != text:
        print("openapi.py: docs/openapi.json is out of date. Run make update.", file=sys.stderr)
        return 1
    return 0


def document() -> dict[str, Any]:
    """Return the OpenAPI document of both operations.

    The routes are declared again here, because the generator reads the request from a function's
    signature. The signatures of the handlers do not have it, because they authenticate before they
    parse. Tests compare these declarations with the handlers.
    """
    resolver = APIGatewayRestResolver(enable_validation=True)

    @resolver.get(
        ROUTE,
        summary="List checkpoints of a model",
        description=(
            "Lists the caller's checkpoints in pages, sorted by training step. To get the next "
            "page, pass last_id as after. This works even if that checkpoint was deleted since. "
            "If there are very many metrics, a page can be shorter than limit although has_more is "
            "true."
        ),
        operation_id="list_model_checkpoints_v1_preview_models__model_id__checkpoints_get",
        tags=["models"],
        security=[{"HTTPBearer": []}],
        responses={
            200: _response("A page of the checkpoints", ListCheckpointsResponse),
            **_client_errors(READ_SCOPE),
            503: _response("The database is not available", ErrorMessage, RETRY_AFTER),
        },
    )
    def list_page(
        model_id: Annotated[str, PathParameter(title="Model Id")],
        after: Annotated[
            str,
            Query(
                title="After",
                description="The id of a checkpoint. The page starts after this checkpoint.",
                default_factory=str,  # so that the document has no default
            ),
        ],
        limit: Annotated[int, Query(title="Limit", ge=1, le=MAX_PAGE_SIZE)] = DEFAULT_PAGE_SIZE,
        order: Annotated[Literal["asc", "desc"], Query(title="Order")] = "asc",
    ) -> ListCheckpointsResponse:
        raise NotImplementedError

    @resolver.delete(
        ROUTE,
        summary="Delete checkpoints of a model",
        description=(
            "Deletes the caller's checkpoints at the given training steps. If a step has no "
            "checkpoint, or the checkpoint of another owner, it is reported as not found. A "
            "request for more than 100 steps is not atomic. It is safe to repeat a request. "
            "With dry_run, nothing is deleted."
        ),
        operation_id="delete_model_checkpoints_v1_preview_models__model_id__checkpoints_delete",
        tags=["models"],
        security=[{"HTTPBearer": []}],
        responses={
            200: _response(
                "The number of deleted checkpoints, and the steps that were not found",
                DeleteCheckpointsResponse,
            ),
            **_client_errors(DELETE_SCOPE),
            503: _response(
                "The database is not available. A part of the checkpoints may be deleted.",
                IncompleteDeletion,
                RETRY_AFTER,
            ),
        },
    )
    def delete(
        model_id: Annotated[str, PathParameter(title="Model Id")],
        body: Annotated[DeleteCheckpointsRequest, Body()],
        dry_run: Annotated[bool, Query(title="Dry Run", description=DRY_RUN_DESCRIPTION)] = False,
    ) -> DeleteCheckpointsResponse:
        raise NotImplementedError

    schema: dict[str, Any] = json.loads(
        resolver.get_openapi_json_schema(
            title="Model checkpoints",
            version="1.0.0",
            security_schemes={"HTTPBearer": HTTPBearer()},
        )
    )
    # The generator adds its own schemas of errors. Its ValidationError does not describe `msg`, and
    # no response uses its ResponseValidationError.
    schemas = schema["components"]["schemas"]
    del schemas["ResponseValidationError"]
    schemas |= TypeAdapter.json_schemas(
        [("422", "serialization", TypeAdapter(HTTPValidationError))],
        ref_template="#/components/schemas/{model}",
    )[1]["$defs"]
    return schema


def _client_errors(scope: str) -> dict[int, OpenAPIResponse]:
    """Return the 4xx responses by their status."""
    return {
        401: _response(
            "The bearer token is missing, malformed, unknown or expired",
            ErrorMessage,
            {"WWW-Authenticate": _header("string", "The challenge of RFC 6750")},
        ),
        403: _response(
            f"The token lacks the scope {scope}",
            ErrorMessage,
            {"WWW-Authenticate": _header("string", "The challenge, with the scope")},
        ),
        404: _response("There is no such path or method", ErrorMessage),
        422: _response("The request is invalid", HTTPValidationError),
    }


def _response(
    description: str, model: type, headers: dict[str, OpenAPIResponseHeader] | None = None
) -> OpenAPIResponse:
    response: OpenAPIResponse = {
        "description": description,
        "content": {"application/json": {"model": model}},
    }
    return response | {"headers": headers} if headers else response


def _header(kind: str, description: str) -> OpenAPIResponseHeader:
    return {"description": description, "schema": {"type": kind}}


RETRY_AFTER = {"Retry-After": _header("integer", "Seconds to wait before repeating the request")}


if __name__ == "__main__":
    sys.exit(main())
