"""Build the responses of the API."""

from aws_lambda_powertools.event_handler.api_gateway import Response
from pydantic import BaseModel

from checkpoints.schemas import ErrorMessage, IncompleteDeletion

INTERNAL_SERVER_ERROR = "Internal Server Error"
RETRY_LATER = {"Retry-After": "2"}  # seconds


def respond(status: int, body: BaseModel, headers: dict[str, str] | None = None) -> Response[str]:
    """Return a response with a JSON body."""
    return Response(status, "application/json", body.model_dump_json(), headers)


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
