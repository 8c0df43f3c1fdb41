"""The responses: their models, how to build them, and how docs/openapi.json describes them."""

import json
import operator
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

from aws_lambda_powertools.event_handler.api_gateway import Response
from pydantic import BaseModel, Field, WithJsonSchema

from checkpoints.records.record import Checkpoint

if TYPE_CHECKING:
    from aws_lambda_powertools.event_handler.openapi.types import OpenAPIResponse

# A page of the list ends early if its checkpoints exceed this size, because Lambda limits a
# response to 6 MB (6,291,456 bytes). One checkpoint always fits: a record of 400 KB takes 3 MB.
MAX_PAGE_BYTES = 6_000_000

INTERNAL_SERVER_ERROR = "Internal Server Error"
RETRY_LATER = {"Retry-After": "2"}  # seconds


class ValidationError(BaseModel):
    """One error in a request."""

    loc: Annotated[list[str | int], Field(title="Location")]
    msg: Annotated[str, Field(title="Message")]
    type: Annotated[str, Field(title="Error Type")]


class HTTPValidationError(BaseModel):
    """Why a request is invalid."""

    detail: Annotated[list[ValidationError], Field(default_factory=list)]


class ErrorMessage(BaseModel):
    """Why the API did not do what was requested."""

    detail: str


class IncompleteDeletion(ErrorMessage):
    """Why a deletion stopped before it was complete, and how many checkpoints it deleted."""

    deleted_count: int
    unconfirmed_count: int


class DeleteCheckpointsResponse(BaseModel):
    """How many checkpoints were (or would be) deleted, and at which steps there was none to delete.

    A protected checkpoint is not deleted.
    """

    # The contract has the first two. The other parts are only there if they say something.
    deleted_count: int
    not_found_steps: list[int]
    protected_steps: Annotated[
        list[int],
        Field(
            description="The steps whose checkpoints are protected, so they are not deleted.",
            default_factory=list,
            exclude_if=operator.not_,
        ),
    ]
    dry_run: Annotated[
        bool,
        Field(
            description="True if this was a dry run: nothing was deleted.", exclude_if=operator.not_
        ),
    ] = False


# A number that is left out if it is None. The factory keeps the default out of docs/openapi.json.
OptionalInteger = Annotated[
    int | None,
    WithJsonSchema({"type": "integer"}),
    Field(default_factory=lambda: None, exclude_if=lambda number: number is None),
]


class CheckpointResponse(BaseModel):
    """A checkpoint. Its id is its step as a string. The optional parts are as in its record."""

    id: str
    step: int
    # The union keeps an integer an integer in JSON: `3`, not `3.0`.
    metrics: dict[str, Annotated[int | float, WithJsonSchema({"type": "number"})]]
    size_bytes: Annotated[OptionalInteger, Field(description="Size of the artifacts in bytes")]
    created_at: Annotated[OptionalInteger, Field(description="In seconds since 1970, UTC")]
    expires_at: Annotated[OptionalInteger, Field(description="In seconds since 1970, UTC")]
    protected: Annotated[
        bool,
        Field(description="True if no request can delete it", exclude_if=operator.not_),
    ] = False


class PaginatedResponse[T](BaseModel):
    """A page of a list. If `has_more` is true, get the next page with `after=last_id`."""

    object: str = "list"
    data: list[T]
    first_id: str = ""
    last_id: str = ""
    has_more: bool


ListCheckpointsResponse = PaginatedResponse[CheckpointResponse]


def respond(status: int, body: BaseModel, headers: dict[str, str] | None = None) -> Response[str]:
    """Return a response with a JSON body."""
    return Response(status, "application/json", body.model_dump_json(), headers)


def fill_page(checkpoints: Iterable[Checkpoint], limit: int) -> ListCheckpointsResponse:
    """Return a page with the first checkpoints: `limit` of them, or as many as fit.

    Take one more, if there is one, to know whether there are more.

    Raises:
        CallError: DynamoDB failed while it was read.

    """
    data: list[CheckpointResponse] = []
    size = 0
    has_more = False
    for found in checkpoints:
        checkpoint = CheckpointResponse(id=str(found.step), **found._asdict())
        # Lambda sends JSON that contains the body as a string, so count the body's escapes, too.
        size += len(json.dumps(checkpoint.model_dump_json()))
        if len(data) == limit or size > MAX_PAGE_BYTES:
            has_more = True
            break
        data.append(checkpoint)
    ids = {"first_id": data[0].id, "last_id": data[-1].id} if data else {}
    return ListCheckpointsResponse(data=data, has_more=has_more, **ids)


def list_unavailable() -> Response[str]:
    """Return 503 for a list."""
    detail = "The database is not available. Send the request again."
    return respond(503, ErrorMessage(detail=detail), RETRY_LATER)


def deletion_unavailable(*, deleted: int = 0, unconfirmed: int = 0) -> Response[str]:
    """Return 503 for a deletion, with the counts. By default, nothing was deleted."""
    if deleted or unconfirmed:
        detail = (
            f"The database is not available, so the deletion stopped. Deleted: {deleted}. Possibly "
            f"deleted: {unconfirmed}. Send the request again to delete the rest. Checkpoints that "
            "are already deleted are then reported as not found."
        )
    else:
        detail = (
            "The database is not available. Nothing was deleted. Send the request again. If this "
            "happens repeatedly, send fewer steps."
        )
    body = IncompleteDeletion(detail=detail, deleted_count=deleted, unconfirmed_count=unconfirmed)
    return respond(503, body, RETRY_LATER)


def describe(description: str, model: object, **headers: tuple[str, str]) -> "OpenAPIResponse":
    """Describe a response for docs/openapi.json.

    A header is its type and its meaning. Its name has underscores instead of hyphens.
    """
    content: Any = {"application/json": {"model": model}}
    response: OpenAPIResponse = {"description": description, "content": content}
    if headers:
        response["headers"] = {
            name.replace("_", "-"): {"schema": {"type": kind}, "description": meaning}
            for name, (kind, meaning) in headers.items()
        }
    return response


def describe_errors(scope: str) -> dict[int, "OpenAPIResponse"]:
    """Describe the errors of an operation that needs this scope, but for an outage."""
    return {
        401: describe(
            "The bearer token is missing, malformed, unknown or expired",
            ErrorMessage,
            WWW_Authenticate=("string", "The challenge of RFC 6750"),
        ),
        403: describe(
            f"The token lacks the scope {scope}",
            ErrorMessage,
            WWW_Authenticate=("string", "The challenge, with the scope"),
        ),
        404: describe("There is no such path or method", ErrorMessage),
        422: describe("The request is invalid", HTTPValidationError),
        500: describe("An internal error", ErrorMessage),
    }


def describe_outage(description: str, model: object) -> "OpenAPIResponse":
    """Describe the response 503, which says when to send the request again."""
    retry_after = ("integer", "Seconds to wait before repeating the request")
    return describe(description, model, Retry_After=retry_after)
