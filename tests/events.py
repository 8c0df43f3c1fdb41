"""Call the function as API Gateway does."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import EllipsisType
from typing import Any
from urllib.parse import quote

from checkpoints.api import auth

TOKEN = "a-good-token"
ENTITY = "vision-team"
MODEL = "resnet-50"

# The expected status of each event in events/.
SAMPLE_STATUSES = {
    "base64-body": 200,
    "delete-checkpoints": 200,
    "delete-many": 200,
    "delete-nothing": 200,
    "dry-run": 200,
    "encoded-model-id": 200,
    "invalid-body": 422,
    "list-checkpoints": 200,
    "list-next-page": 200,
    "no-token": 401,
    "other-entity": 200,
    "protected-step": 200,
    "repeated-and-impossible-steps": 200,
    "under-scoped-token": 403,
    "unknown-route": 404,
    "unknown-token": 401,
}


type Invoke = Callable[..., "Response"]
type Call = Callable[..., "Response"]


@dataclass(frozen=True)
class Response:
    """What the caller sees: the status, the headers, and the body as JSON.

    `size` is the number of characters that the function returned, which Lambda limits.
    """

    status: int
    headers: dict[str, str]
    body: Any
    size: int = field(default=0, compare=False)


AUTH_ERRORS = auth.AuthError.__subclasses__()  # all refusals of a token
JSON = {"Content-Type": "application/json"}
INTERNAL_SERVER_ERROR = Response(500, JSON, {"detail": "Internal Server Error"})


def deleted(count: int, not_found: Iterable[int] = (), protected: Collection[int] = ()) -> Response:
    """Return the response to a deletion."""
    body = {"deleted_count": count, "not_found_steps": list(not_found)}
    return Response(200, JSON, body | ({"protected_steps": [*protected]} if protected else {}))


def would_delete(
    count: int, not_found: Iterable[int] = (), protected: Collection[int] = ()
) -> Response:
    """Return the response to a dry run."""
    deletion = deleted(count, not_found, protected)
    return replace(deletion, body=deletion.body | {"dry_run": True})


def failed_deletion(
    status: int, detail: str, *, unconfirmed: int = 0, deleted: int = 0
) -> Response:
    """Return the response to a deletion that stopped."""
    headers = JSON | ({"Retry-After": "2"} if status == 503 else {})
    body = {"detail": detail, "deleted_count": deleted, "unconfirmed_count": unconfirmed}
    return Response(status, headers, body)


NOTHING_DELETED = failed_deletion(
    503,
    "The database is not available. Nothing was deleted. Send the request again. If this happens "
    "repeatedly, send fewer steps.",
)


LIST_UNAVAILABLE = Response(
    503,
    JSON | {"Retry-After": "2"},
    {"detail": "The database is not available. Send the request again."},
)


def refused(status: int, detail: str, challenge: str) -> Response:
    """Return the response to a request whose token is missing, wrong or not sufficient."""
    return Response(status, JSON | {"WWW-Authenticate": challenge}, {"detail": detail})


def error(loc: list[str | int], kind: str, message: str) -> dict[str, object]:
    """Return one error in the response to an invalid request."""
    return {"loc": loc, "msg": message, "type": kind}


def invalid(*errors: dict[str, object]) -> Response:
    """Return the response to an invalid request."""
    return Response(422, JSON, {"detail": [*errors]})


def query(**parameters: object) -> dict[str, Any]:
    """Return the parts of an event with a query string; a list is a repeated parameter."""
    values = {
        name: [*map(str, value)] if isinstance(value, list) else [str(value)]
        for name, value in parameters.items()
    }
    return {
        "queryStringParameters": {name: each[-1] for name, each in values.items()} or None,
        "multiValueQueryStringParameters": values or None,
    }


def make_event(  # noqa: PLR0913 an event has so many parts
    *,
    steps: object = None,
    body: str | None = None,
    token: str | None = TOKEN,
    model_id: str = MODEL,
    headers: Mapping[str, object] | EllipsisType | None = ...,
    path: str | None = None,
    method: str = "DELETE",
    **others: object,
) -> dict[str, Any]:
    """Return a REST API proxy event. It is valid by default; arguments change parts of it."""
    if isinstance(headers, EllipsisType):
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {token}"} if token is not None else {}
    if path is None:
        path = f"/v1/preview/models/{quote(model_id, safe='')}/checkpoints"
    return {
        "resource": "/v1/preview/models/{model_id}/checkpoints",
        "path": path,
        "httpMethod": method,
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in (headers or {}).items()},
        "queryStringParameters": None,
        "pathParameters": {"model_id": model_id},
        "requestContext": {
            "requestId": "gateway-request-1",
            "stage": "prod",
            "path": path,
            "identity": {"sourceIp": "192.0.2.1"},
        },
        "body": json.dumps({"steps": steps}) if body is None and steps is not None else body,
        "isBase64Encoded": False,
    } | others


DELETED_AT = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)


def make_stream_record(
    uri: object,
    *,
    step: int = 1,
    at: datetime = DELETED_AT,
    event_name: str = "REMOVE",
    **attributes: object,
) -> dict[str, Any]:
    """Return what the function reads of the stream record of a deleted checkpoint.

    The URI is a string, any attribute, or `None` if there is none.
    """
    keys = {"model_id": {"S": MODEL}, "step": {"N": str(step)}}
    image: dict[str, object] = keys | {"entity": {"S": ENTITY}} | attributes
    if uri is not None:
        image["artifact_uri"] = {"S": uri} if isinstance(uri, str) else uri
    return {
        "eventName": event_name,
        "dynamodb": {
            "ApproximateCreationDateTime": at.timestamp(),
            "Keys": keys,
            "OldImage": image,
        },
    }


def expired(record: dict[str, Any], **identity: str) -> dict[str, Any]:
    """Return a stream record as one of time to live; `identity` changes who deleted it."""
    service = {"type": "Service", "principalId": "dynamodb.amazonaws.com"}
    return record | {"userIdentity": service | identity}
