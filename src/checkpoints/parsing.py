"""Parse requests: the body, the query, and the model id in the path of an event."""

import base64
import json
from urllib.parse import unquote

import pydantic
from aws_lambda_powertools.utilities.data_classes import APIGatewayProxyEvent
from pydantic_core import from_json

from checkpoints.schemas import (
    DeleteCheckpointsRequest,
    ListCheckpointsRequest,
    ValidationError,
)

# Maximum number of "[" and "{" in a body; a valid request needs two. The error for an invalid body
# contains the body as Python objects: a million of them need more memory than the function has.
MAX_NESTED_VALUES = 10_000


class InvalidRequestError(Exception):
    """The request is invalid; `errors` says why."""

    def __init__(self, errors: list[ValidationError]) -> None:
        super().__init__(*(error.type for error in errors))
        self.errors = errors


def parse_delete_request(event: APIGatewayProxyEvent) -> DeleteCheckpointsRequest:
    """Parse the body, and `dry_run` in the query. It is a dry run if either says so.

    Raises:
        InvalidRequestError: with the errors in the query and in the body.

    """
    in_query = _query_values(event, "dry_run")
    errors = []
    if any(value not in ("true", "false") for value in in_query):
        loc = ["query", "dry_run"]
        msg = "Input should be true or false"
        errors.append(ValidationError(loc=loc, msg=msg, type="bool_parsing"))
    try:
        request = _parse_body(event)
    except InvalidRequestError as error:
        raise InvalidRequestError([*errors, *error.errors]) from None
    if errors:
        raise InvalidRequestError(errors)
    request.dry_run |= "true" in in_query
    return request


def _parse_body(event: APIGatewayProxyEvent) -> DeleteCheckpointsRequest:
    """Parse the body as JSON in UTF-8, whatever its content type is.

    The parser allows 200 levels of nesting, 4,300 digits in a number, and no unpaired surrogates.
    `MAX_NESTED_VALUES` is a further limit. RFC 8259 section 9 allows such limits. They limit the
    CPU and memory for a body.

    Raises:
        InvalidRequestError: the body is not valid JSON, or does not match the schema.

    """
    body = _read_body(event)
    if not body:
        raise _invalid_json("the body is empty")
    if body.count(b"[") + body.count(b"{") > MAX_NESTED_VALUES:
        raise _invalid_json(f"more than {MAX_NESTED_VALUES:,} arrays and objects")
    try:
        if b"NaN" in body or b"Infinity" in body:
            from_json(body, allow_inf_nan=False)  # pydantic accepts both, but JSON does not
        request = DeleteCheckpointsRequest.model_validate_json(body)
        # If a key is repeated, the parser uses the last one, so `"dry_run": true` could be ignored.
        # If the body has a backslash, the key can be written with escapes.
        keys = _keys(body) if body.count(b'"dry_run"') > 1 or b"\\" in body else []
    except pydantic.ValidationError as error:
        raise _invalid("body", error) from None
    except ValueError as error:
        raise _invalid_json(str(error)) from None
    if keys.count("dry_run") > 1:
        raise _invalid_json("the key dry_run is repeated")
    return request


def parse_list_request(event: APIGatewayProxyEvent) -> ListCheckpointsRequest:
    """Parse the query. If a parameter is repeated, the last one counts.

    Raises:
        InvalidRequestError: with the errors in the query.

    """
    values = {name: _query_values(event, name) for name in ListCheckpointsRequest.model_fields}
    try:
        return ListCheckpointsRequest.model_validate(
            {name: each[-1] for name, each in values.items() if each}
        )
    except pydantic.ValidationError as error:
        raise _invalid("query", error) from None


def decode_model_id(encoded: str) -> str:
    """Decode the model id in a path. API Gateway passes it on percent-encoded.

    Raises:
        InvalidRequestError: it is not percent-encoded UTF-8. Replacing the invalid bytes could
            select another model.

    """
    try:
        return unquote(encoded, errors="strict")
    except UnicodeError:
        msg = "Input should be percent-encoded UTF-8"
        error = ValidationError(loc=["path", "model_id"], msg=msg, type="string_unicode")
        raise InvalidRequestError([error]) from None


def _query_values(event: APIGatewayProxyEvent, name: str) -> list[str]:
    """Return the values of a query parameter, which the event has in two places."""
    single = event.query_string_parameters
    multiple = event.multi_value_query_string_parameters
    if name not in single and name not in multiple:
        return []
    return multiple.get(name) or [single.get(name) or ""]


def _read_body(event: APIGatewayProxyEvent) -> bytes:
    body = event.body or ""
    try:
        if event.is_base64_encoded:
            return base64.b64decode(body, validate=True)
        return str(body).encode()
    except ValueError as error:  # not base64, or not Unicode
        raise _invalid_json(str(error)) from None


def _keys(body: bytes) -> list[str]:
    """Return the keys of a JSON object, including duplicates."""
    return [key for key, _ in json.loads(body, object_pairs_hook=list)]


def _invalid(place: str, error: pydantic.ValidationError) -> InvalidRequestError:
    return InvalidRequestError(
        [
            ValidationError(loc=[place, *each["loc"]], msg=each["msg"], type=each["type"])
            for each in error.errors(include_url=False, include_input=False)
        ]
    )


def _invalid_json(reason: str) -> InvalidRequestError:
    return InvalidRequestError(
        [ValidationError(loc=["body"], msg=f"Invalid JSON: {reason}", type="json_invalid")]
    )
