"""Build the responses of the API."""

import json
from collections.abc import Iterable

from aws_lambda_powertools.event_handler.api_gateway import Response
from pydantic import BaseModel

from checkpoints.api.schemas import (
    CheckpointResponse,
    ErrorMessage,
    IncompleteDeletion,
    ListCheckpointsResponse,
)
from checkpoints.records.reads import Checkpoint

# A page of the list ends early if its checkpoints exceed this size, because Lambda limits a
# response to 6 MB (6,291,456 bytes). One checkpoint always fits: a record of 400 KB takes 3 MB.
MAX_PAGE_BYTES = 6_000_000

INTERNAL_SERVER_ERROR = "Internal Server Error"
RETRY_LATER = {"Retry-After": "2"}  # seconds


def respond(status: int, body: BaseModel, headers: dict[str, str] | None = None) -> Response[str]:
    """Return a response with a JSON body."""
    return Response(status, "application/json", body.model_dump_json(), headers)


def fill_page(checkpoints: Iterable[Checkpoint], limit: int) -> ListCheckpointsResponse:
    """Return a page with the first checkpoints: `limit` of them, or as many as fit.

    Take one more, if there is one, to know whether there are more.

    Raises:
        CallError: DynamoDB failed while it was read.

    """
    page = ListCheckpointsResponse(data=[], has_more=False)
    size = 0
    for step, metrics in checkpoints:
        checkpoint = CheckpointResponse(id=str(step), step=step, metrics=metrics)
        # Lambda sends JSON that contains the body as a string, so count the body's escapes, too.
        size += len(json.dumps(checkpoint.model_dump_json()))
        if len(page.data) == limit or size > MAX_PAGE_BYTES:
            page.has_more = True
            break
        page.data.append(checkpoint)
    if page.data:
        page.first_id, page.last_id = page.data[0].id, page.data[-1].id
    return page


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
