"""The way of one request: authenticate, parse, delete, answer."""

import gc

# The imports make many objects and no garbage. Looking for some takes 7 % of a cold start.
gc.disable()

import base64
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any
from urllib.parse import unquote

from aws_lambda_powertools.event_handler.api_gateway import APIGatewayRestResolver, Response
from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic_core import to_json

from checkpoints import dynamodb
from checkpoints.audit import Audit
from checkpoints.auth import Authenticator, RefusalError
from checkpoints.schemas import (
    DeleteCheckpointsRequest,
    DeleteCheckpointsResponse,
    ErrorMessage,
    HTTPValidationError,
    InvalidRequestError,
    ValidationError,
    not_json,
)
from checkpoints.settings import Settings
from checkpoints.store import CheckpointStore, IncompleteDeletionError

ROUTE = "/v1/preview/models/<model_id>/checkpoints"
RETRY_AFTER_SECONDS = 2
INTERNAL_SERVER_ERROR = ErrorMessage(detail="Internal Server Error")

# The resolver's own validation stays off. It would look at the body before the token, and turn
# deep JSON, long integers and invalid UTF-8 into a 500. Its debug mode would print the event.
app = APIGatewayRestResolver(enable_validation=False, debug=False)


@app.delete(ROUTE)
def delete_model_checkpoints(model_id: str) -> Response[str]:
    """Delete the caller's checkpoints of a model at the steps that the body names."""
    audit: Audit = app.context["audit"]
    deadline = dynamodb.deadline_in(app.lambda_context.get_remaining_time_in_millis())
    authenticator, store = connect()

    principal = authenticator.authenticate(app.current_event.raw_event, deadline=deadline)
    audit.identify(entity=principal.entity, token_name=principal.token_name)

    model_id = _percent_decoded(model_id)
    steps = DeleteCheckpointsRequest.parse(_body(app.current_event.raw_event)).steps
    audit.identify(model_id=model_id)

    deletion = store.delete(model_id, steps, entity=principal.entity, deadline=deadline)
    audit.completed(deletion.deleted, len(deletion.not_found))
    return _answer(
        200,
        DeleteCheckpointsResponse(
            deleted_count=len(deletion.deleted), not_found_steps=deletion.not_found
        ),
    )


@app.exception_handler(RefusalError)
def refuse(error: RefusalError) -> Response[str]:
    """Answer a caller who may not do this."""
    audit: Audit = app.context["audit"]
    if error.principal:
        audit.identify(entity=error.principal.entity, token_name=error.principal.token_name)
    audit.refused(error.status, error.reason)
    return _answer(
        error.status, ErrorMessage(detail=error.detail), {"WWW-Authenticate": error.challenge}
    )


@app.exception_handler(InvalidRequestError)
def reject(error: InvalidRequestError) -> Response[str]:
    """Answer a request that cannot be understood."""
    app.context["audit"].refused(422, "invalid_request")
    return _answer(422, HTTPValidationError(detail=list(error.errors)))


@app.exception_handler(NotFoundError)
def not_found(_: NotFoundError) -> Response[str]:
    """Answer a request for anything but the one route."""
    app.context["audit"].refused(404, "unknown_route")
    return _answer(404, ErrorMessage(detail="Not Found"))


@app.exception_handler(dynamodb.UnavailableError)
def leave_unauthenticated(error: dynamodb.UnavailableError) -> Response[str]:
    """Answer when the token could not be looked up."""
    app.context["audit"].failed(503, error)
    return _unavailable(deleted=0, unconfirmed=0)


@app.exception_handler(IncompleteDeletionError)
def stop_short(error: IncompleteDeletionError) -> Response[str]:
    """Answer when the deletion could not be finished."""
    outage = isinstance(error.__cause__, dynamodb.UnavailableError)
    app.context["audit"].incomplete(503 if outage else 500, error.deleted, error.unconfirmed, error)
    if not outage:
        return _answer(500, INTERNAL_SERVER_ERROR)
    return _unavailable(deleted=len(error.deleted), unconfirmed=len(error.unconfirmed))


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Handle one REST API proxy event. Whatever happens, the caller gets an answer."""
    audit = Audit(event, context)
    app.context["audit"] = audit
    try:
        return app.resolve(event, context)
    except Exception as error:  # noqa: BLE001 the last resort, and it is logged
        audit.failed(500, error)
        return {
            "statusCode": 500,
            "multiValueHeaders": {"Content-Type": ["application/json"]},
            "body": _encode(INTERNAL_SERVER_ERROR),
            "isBase64Encoded": False,
        }


@cache
def connect() -> tuple[Authenticator, CheckpointStore]:
    """Return the two tables, connected to once in the life of the process."""
    settings = Settings.from_environment()
    client = dynamodb.connect()
    return (
        Authenticator(client, settings.tokens_table),
        CheckpointStore(client, settings.checkpoints_table),
    )


def _percent_decoded(model_id: str) -> str:
    """Return the model's id as the caller meant it; a REST API passes the path on as sent."""
    try:
        return unquote(model_id, errors="strict")
    except UnicodeError:
        raise InvalidRequestError(
            ValidationError(
                loc=["path", "model_id"],
                msg="Input should be percent-encoded UTF-8",
                type="string_unicode",
            )
        ) from None


def _body(event: dict[str, Any]) -> bytes:
    body = event.get("body") or ""
    try:
        if event.get("isBase64Encoded"):
            return base64.b64decode(body, validate=True)
        return str(body).encode()
    except ValueError as error:  # not base64, or not Unicode
        raise not_json(str(error)) from None


def _answer(
    status: int, body: Mapping[str, object], headers: dict[str, str] | None = None
) -> Response[str]:
    return Response(status, "application/json", _encode(body), headers)


def _encode(body: Mapping[str, object]) -> str:
    return to_json(body).decode()


def _unavailable(*, deleted: int, unconfirmed: int) -> Response[str]:
    more = f", and perhaps {unconfirmed} more" if unconfirmed else ""
    detail = (
        f"The database is not available. Checkpoints deleted so far: {deleted}{more}. Repeat the "
        "request to finish it: what is deleted already will then be reported as not found."
    )
    return _answer(503, ErrorMessage(detail=detail), {"Retry-After": str(RETRY_AFTER_SECONDS)})


# Connecting is work for the initialisation, which has a full CPU. If it fails, the first request
# fails of the same and logs why.
with suppress(Exception):
    connect()

gc.freeze()  # what there is now, stays
gc.enable()
