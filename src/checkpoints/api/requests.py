"""The requests: their models, and how to parse them from the path, the query and the body."""

import base64
import json
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from typing import Annotated, Literal
from urllib.parse import unquote

import pydantic
from aws_lambda_powertools.utilities.data_classes import APIGatewayProxyEvent
from pydantic import (
    BaseModel,
    BeforeValidator,
    FailFast,
    Field,
    StrictBool,
    StrictInt,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError, PydanticKnownError, from_json

from checkpoints.api.responses import ValidationError
from checkpoints.records.numbers import storable

MAX_PAGE_SIZE = 100
DEFAULT_PAGE_SIZE = 20

# Maximum number of "[" and "{" in a body; a valid request needs two. The error for an invalid body
# contains the body as Python objects: a million of them need more memory than the function has.
MAX_NESTED_VALUES = 10_000

MAX_NAME_LENGTH = 100  # characters of a misspelled name that the response repeats


DRY_RUN_DESCRIPTION = (
    "If true in the query or in the body, nothing is deleted. The response shows what would be "
    "deleted. Another spelling, such as dryRun, is refused with 422."
)


class InvalidRequestError(Exception):
    """The request is invalid; `errors` says why."""

    def __init__(self, errors: list[ValidationError]) -> None:
        super().__init__(*(error.type for error in errors))
        self.errors = errors


class DeleteCheckpointsRequest(BaseModel, frozen=True):
    """The training steps whose checkpoints to delete, in any order; duplicates count once."""

    # Stop at the first invalid element, so that a million of them do not cause a million errors.
    steps: Annotated[list[StrictInt], FailFast()]
    dry_run: Annotated[StrictBool, Field(description=DRY_RUN_DESCRIPTION)] = False


def _parse_integer(text: str) -> int:
    """Parse an integer in JSON notation: not "+7", "07", " 7" or "7.0"."""
    with suppress(TypeError, ValueError):
        if str(number := int(text)) == text:
            return number
    raise PydanticKnownError("int_parsing")


def _parse_id(text: str) -> int:
    step = _parse_integer(text)
    if not storable([step]):
        raise PydanticCustomError(
            "impossible_checkpoint_id",
            "No checkpoint can have this id: DynamoDB cannot store the number",
        )
    return step


class ListCheckpointsRequest(BaseModel, frozen=True):
    """Which page to list: its maximum length, its order, and the step after which it starts."""

    after: Annotated[
        int | None,
        BeforeValidator(_parse_id),
        WithJsonSchema({"type": "string", "title": "After"}),
        Field(description="The id of a checkpoint. The page starts after this checkpoint."),
    ] = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE_SIZE), BeforeValidator(_parse_integer)] = (
        DEFAULT_PAGE_SIZE
    )
    order: Literal["asc", "desc"] = "asc"


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
    names = [*event.query_string_parameters, *event.multi_value_query_string_parameters]
    errors += _check_spelling("query", names)
    try:
        request = _parse_body(event)
    except InvalidRequestError as error:
        raise InvalidRequestError([*errors, *error.errors]) from None
    if errors:
        raise InvalidRequestError(errors)
    return request.model_copy(update={"dry_run": True}) if "true" in in_query else request


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
        # A wish for a dry run must not be ignored: the key can be misspelled, and of repeated keys,
        # the parser uses the last one. Such a body has more quotes than those of the two keys.
        keys = _keys(body) if body.count(b'"') > (4 if b'"dry_run"' in body else 2) else []
    except pydantic.ValidationError as error:
        raise _invalid("body", error) from None
    except ValueError as error:
        raise _invalid_json(str(error)) from None
    if keys.count("dry_run") > 1:
        raise _invalid_json("the key dry_run is repeated")
    if errors := _check_spelling("body", keys):
        raise InvalidRequestError(errors)
    return request


def _check_spelling(place: str, names: Iterable[str]) -> list[ValidationError]:
    """Return an error for the first name, if any, that is a misspelled `dry_run`."""
    for name in names:
        if name != "dry_run" and _resembles_dry_run(name):
            # The query of an event can have unpaired surrogates, which a response cannot have.
            shown = name[:MAX_NAME_LENGTH].encode(errors="replace").decode()
            msg = "The name should be spelled dry_run"
            return [ValidationError(loc=[place, shown], msg=msg, type="misspelled_name")]
    return []


def _resembles_dry_run(name: str) -> bool:
    """Return whether a name is `dry_run` but for case, width, spaces and punctuation."""
    # Filter first: the time to normalize many accents grows with the square of their number.
    letters = "".join(filter(str.isalnum, name))
    return len(letters) == len("dryrun") and (
        unicodedata.normalize("NFKC", letters).casefold() == "dryrun"
    )


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
