"""Handle one request: authenticate, parse, list or delete, respond."""

import gc

# The imports create many objects and no garbage, so garbage collection would only waste time: 7 %
# of a cold start.
gc.disable()

import os
import re
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from aws_lambda_powertools.event_handler.api_gateway import APIGatewayRestResolver, Response
from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from aws_lambda_powertools.logging import correlation_paths
from aws_lambda_powertools.utilities.typing import LambdaContext

from checkpoints import dynamodb
from checkpoints.api.audit import Audit
from checkpoints.api.auth import DELETE_SCOPE, READ_SCOPE, AuthError, authenticate
from checkpoints.api.requests import (
    InvalidRequestError,
    decode_model_id,
    parse_delete_request,
    parse_list_request,
)
from checkpoints.api.responses import (
    INTERNAL_SERVER_ERROR,
    DeleteCheckpointsResponse,
    ErrorMessage,
    HTTPValidationError,
    IncompleteDeletion,
    ListCheckpointsResponse,
    deletion_unavailable,
    describe,
    describe_errors,
    describe_outage,
    fill_page,
    list_unavailable,
    respond,
)
from checkpoints.records.checkpoints import IncompleteDeletionError, Outcome, OwnedCheckpoints
from checkpoints.telemetry import logger

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

MODELS_PATH = "/v1/preview/models/"
ROUTE = f"{MODELS_PATH}<model_id>/checkpoints"
RESOURCE = ROUTE.replace("<", "{").replace(">", "}")  # API Gateway's name for it

# The resolver's own validation is off: it would parse the body before the token is checked, and
# return 500 for deep JSON, long integers and invalid UTF-8. Debug mode is off explicitly, because
# POWERTOOLS_DEV could turn it on: it would log the event, which has the token.
app = APIGatewayRestResolver(
    enable_validation=False,
    debug=False,
    # API Gateway leaves the base path of a custom domain in the path of the event.
    strip_prefixes=[re.compile(f"^(?!{MODELS_PATH})/[^/].*?(?={MODELS_PATH})")],
)

# What docs/openapi.json says of both operations.
OPERATION: dict[str, Any] = {"tags": ["models"], "security": [{"HTTPBearer": []}]}


class MissingSettingError(Exception):
    """A required environment variable is missing or empty."""


class Request(NamedTuple):
    """What belongs to the current request besides its event."""

    calls: dynamodb.Calls
    audit: Audit


class Connection(NamedTuple):
    """The client, and the names of the tables."""

    client: "DynamoDBClient"
    tokens_table: str
    checkpoints_table: str


@app.get(
    ROUTE,
    summary="List checkpoints of a model",
    description="Lists the caller's checkpoints in pages, sorted by training step. To get the next "
    "page, pass last_id as after. This works even if that checkpoint was deleted since. If there "
    "are very many metrics, a page can be shorter than limit although has_more is true.",
    responses={
        200: describe("A page of the checkpoints", ListCheckpointsResponse),
        **describe_errors(READ_SCOPE),
        503: describe_outage("The database is not available", ErrorMessage),
    },
    **OPERATION,
)
def list_model_checkpoints(model_id: str) -> Response[str]:
    """Return a page of the caller's checkpoints of a model."""
    checkpoints = _authorize(READ_SCOPE, model_id)
    request = parse_list_request(app.current_event)

    page = fill_page(
        checkpoints.after(
            request.after,
            request.limit + 1,  # one more, to know whether there are more
            descending=request.order == "desc",
        ),
        request.limit,
    )
    _audit().listed(len(page.data))
    return respond(200, page)


@app.delete(
    ROUTE,
    summary="Delete checkpoints of a model",
    description="Deletes the caller's checkpoints at the given training steps. If a step has no "
    "checkpoint, or the checkpoint of another owner, it is reported as not found. A protected "
    "checkpoint is not deleted, and the others are. A request for more than 100 steps is not "
    "atomic. It is safe to repeat a request. With dry_run, nothing is deleted.",
    responses={
        200: describe(
            "The number of deleted checkpoints, and the steps that were not found or protected",
            DeleteCheckpointsResponse,
        ),
        **describe_errors(DELETE_SCOPE),
        500: describe(
            "An internal error. If it has counts, a part of the checkpoints may be deleted.",
            IncompleteDeletion | ErrorMessage,
        ),
        503: describe_outage(
            "The database is not available. A part of the checkpoints may be deleted.",
            IncompleteDeletion,
        ),
    },
    **OPERATION,
)
def delete_model_checkpoints(model_id: str) -> Response[str]:
    """Delete the caller's checkpoints of a model at the steps in the body.

    A dry run only reports what would be deleted.
    """
    checkpoints = _authorize(DELETE_SCOPE, model_id)
    request = parse_delete_request(app.current_event)

    outcome: Outcome
    if request.dry_run:
        _audit().add_fields(dry_run=True)
        outcome = checkpoints.dry_run(request.steps)
        _audit().dry_run_completed(outcome)
    else:
        outcome = deletion = checkpoints.delete(request.steps)
        _audit().completed(deletion)  # first, so that it is logged even if the response fails
    response = DeleteCheckpointsResponse(
        deleted_count=len(outcome.deleted),
        not_found_steps=outcome.not_found_steps,
        protected_steps=outcome.protected_steps,
        dry_run=request.dry_run,
    )
    return respond(200, response)


def _authorize(scope: str, model_id: str) -> OwnedCheckpoints:
    """Return the caller's checkpoints of a model, if the token has the scope.

    `model_id` is as in the path.

    Raises:
        AuthError: the caller is not authenticated, or the token lacks the scope.
        InvalidRequestError: the model id cannot be decoded.
        CallError: DynamoDB failed.
        InvalidRecordError, MissingSettingError: the function is misconfigured.

    """
    calls, audit = _request()
    client, tokens_table, checkpoints_table = connect()
    principal = authenticate(
        app.current_event.raw_event, client=client, table=tokens_table, calls=calls
    )
    audit.add_fields(**principal.log_fields)
    # The log has the model also if the scope is missing. That is a 403, even if the model id is not
    # valid; with the scope, the same error is a 422 below.
    with suppress(InvalidRequestError):
        audit.add_fields(model_id=decode_model_id(model_id))
    principal.require(scope)
    return OwnedCheckpoints(
        client,
        checkpoints_table,
        model_id=decode_model_id(model_id),
        entity=principal.entity,
        calls=calls,
    )


def _request() -> Request:
    request: Request = app.context["request"]
    return request


def _audit() -> Audit:
    return _request().audit


@app.exception_handler(AuthError)
def handle_auth_error(error: AuthError) -> Response[str]:
    """Return the status and the challenge of the error."""
    if error.principal:
        _audit().add_fields(**error.principal.log_fields)
    _audit().refused(error.status, error.reason)
    return respond(
        error.status, ErrorMessage(detail=error.detail), {"WWW-Authenticate": error.challenge}
    )


@app.exception_handler(InvalidRequestError)
def handle_invalid_request(error: InvalidRequestError) -> Response[str]:
    """Return 422."""
    _audit().refused(422, "invalid_request")
    return respond(422, HTTPValidationError(detail=error.errors))


@app.exception_handler(NotFoundError)
def handle_not_found(_: NotFoundError) -> Response[str]:
    """Return 404."""
    _audit().refused(404, "unknown_route")
    return respond(404, ErrorMessage(detail="Not Found"))


@app.exception_handler(dynamodb.UnavailableError)
def handle_unavailable(error: dynamodb.UnavailableError) -> Response[str]:
    """Return 503 if DynamoDB failed before a deletion started, or during a list or a dry run."""
    _audit().failed(503, error)
    if app.current_event.http_method == "GET":
        return list_unavailable()
    return deletion_unavailable()


@app.exception_handler(IncompleteDeletionError)
def handle_incomplete_deletion(error: IncompleteDeletionError) -> Response[str]:
    """Return 503 or 500 for a deletion that stopped before it was complete, with the counts."""
    is_outage = isinstance(error.__cause__, dynamodb.UnavailableError)
    _audit().incomplete(503 if is_outage else 500, error.deletion, error)
    deleted, unconfirmed = len(error.deletion.deleted), len(error.deletion.unconfirmed)
    if is_outage:
        return deletion_unavailable(deleted=deleted, unconfirmed=unconfirmed)
    return respond(
        500,
        IncompleteDeletion(
            detail=INTERNAL_SERVER_ERROR, deleted_count=deleted, unconfirmed_count=unconfirmed
        ),
    )


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Handle one REST API proxy event. Any exception becomes a 500."""
    audit = Audit()
    try:
        return _resolve(event, context, audit)
    except Exception as error:  # noqa: BLE001 it is logged, and the caller gets a response
        audit.failed(500, error)
        return {
            "statusCode": 500,
            "multiValueHeaders": {"Content-Type": ["application/json"]},
            "body": ErrorMessage(detail=INTERNAL_SERVER_ERROR).model_dump_json(),
            "isBase64Encoded": False,
        }


# Explicit, because an environment variable could turn `log_event` on. The event has the token.
@logger.inject_lambda_context(
    log_event=False, clear_state=True, correlation_id_path=correlation_paths.API_GATEWAY_REST
)
def _resolve(event: dict[str, Any], context: LambdaContext, audit: Audit) -> dict[str, Any]:
    audit.count_cold_start(context)
    calls = dynamodb.Calls(remaining_ms=context.get_remaining_time_in_millis())
    audit.watch(calls)
    app.context["request"] = Request(calls, audit)
    # Unknown routes arrive as `/` or `/{proxy+}`. Without this, the resolver would accept one that
    # ends like a known route, as if it began with a base path.
    if event.get("resource") != RESOURCE:
        event = event | {"path": "/"}
    return app.resolve(event, context)


@cache
def connect() -> Connection:
    """Return the connection to the database, one for the lifetime of the process.

    Raises:
        MissingSettingError: the name of a table is missing in the environment, or empty.

    """
    tokens_table, checkpoints_table = _setting("TOKENS_TABLE"), _setting("CHECKPOINTS_TABLE")
    return Connection(dynamodb.connect(), tokens_table, checkpoints_table)


def _setting(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise MissingSettingError(f"The environment variable {name} is not set")
    return value


# Connect during Lambda's init phase, which has a full CPU. If this fails, the first request fails
# for the same reason, and logs it.
with suppress(Exception):
    connect()

gc.freeze()  # the objects created so far are never garbage
gc.enable()
