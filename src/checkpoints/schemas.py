"""What is on the wire: how a request is read, and the bodies that come in and go out."""

import base64
import json
from typing import Annotated, Self
from urllib.parse import unquote

import pydantic
from aws_lambda_powertools.utilities.data_classes import APIGatewayProxyEvent
from pydantic import BaseModel, FailFast, Field, StrictBool, StrictInt
from pydantic_core import from_json

# Arrays and objects in a body, or characters that look like one; a valid request needs two. Each
# that is in the wrong place becomes a Python object before it is rejected, and a million of them
# need more memory than the function has.
MAX_NESTED_VALUES = 10_000

DRY_RUN_DESCRIPTION = (
    "If true, in the query or in the body, nothing is deleted: the answer tells what would be."
)


class ValidationError(BaseModel):
    """One thing that is wrong with a request."""

    loc: Annotated[list[str | int], Field(title="Location")]
    msg: Annotated[str, Field(title="Message")]
    type: Annotated[str, Field(title="Error Type")]


class HTTPValidationError(BaseModel):
    """Why a request is invalid."""

    detail: Annotated[list[ValidationError], Field(default_factory=list)]


class ErrorMessage(BaseModel):
    """Why a request was not done."""

    detail: str


class IncompleteDeletion(ErrorMessage):
    """Why a deletion was not finished, and how far it got."""

    deleted_count: int
    unconfirmed_count: int


class DeleteCheckpointsResponse(BaseModel):
    """How many checkpoints were deleted, or would be in a dry run, and which steps have none."""

    deleted_count: int
    not_found_steps: list[int]


class InvalidRequestError(Exception):
    """The request is not what the API describes."""

    def __init__(self, errors: list[ValidationError]) -> None:
        super().__init__(*(error.type for error in errors))
        self.errors = errors


class DeleteCheckpointsRequest(BaseModel):
    """The training steps whose checkpoints to delete, in any order; repeats count once."""

    # Stops at the first wrong element: a million of them must not become a million errors.
    steps: Annotated[list[StrictInt], FailFast()]
    dry_run: Annotated[StrictBool, Field(description=DRY_RUN_DESCRIPTION)] = False

    @classmethod
    def parse(cls, event: APIGatewayProxyEvent) -> Self:
        """Read the body of an event, and `dry_run` in its query: one `true` is enough.

        Raises:
            InvalidRequestError: with everything that is wrong in the query and in the body.

        """
        in_query = event.resolved_query_string_parameters.get("dry_run", [])
        errors = []
        if any(value not in ("true", "false") for value in in_query):
            loc = ["query", "dry_run"]
            msg = "Input should be true or false"
            errors.append(ValidationError(loc=loc, msg=msg, type="bool_parsing"))
        try:
            request = cls._parse_body(event)
        except InvalidRequestError as error:
            raise InvalidRequestError([*errors, *error.errors]) from None
        if errors:
            raise InvalidRequestError(errors)
        request.dry_run |= "true" in in_query
        return request

    @classmethod
    def _parse_body(cls, event: APIGatewayProxyEvent) -> Self:
        """Read the body: JSON in UTF-8, whatever its content type says.

        The limits are those of the parser and `MAX_NESTED_VALUES`: 200 levels of nesting, 4,300
        digits in a number, no unpaired surrogates. RFC 8259 section 9 allows them. They keep the
        cost of every body low.

        Raises:
            InvalidRequestError: the body is not JSON, or does not have this shape.

        """
        body = _read_body(event)
        if body.count(b"[") + body.count(b"{") > MAX_NESTED_VALUES:
            raise _not_json("too many arrays and objects")
        try:
            if b"NaN" in body or b"Infinity" in body:
                from_json(body, allow_inf_nan=False)  # pydantic accepts both; JSON has neither
            request = cls.model_validate_json(body)
            # Parsers take the last of repeated keys, but no wish for a dry run must be lost.
            # A backslash can be part of a key that is written in another way.
            keys = _keys(body) if body.count(b'"dry_run"') > 1 or b"\\" in body else []
        except pydantic.ValidationError as error:
            raise InvalidRequestError(
                [
                    ValidationError(loc=["body", *each["loc"]], msg=each["msg"], type=each["type"])
                    for each in error.errors(include_url=False, include_input=False)
                ]
            ) from None
        except ValueError as error:
            raise _not_json(str(error)) from None
        if keys.count("dry_run") > 1:
            raise _not_json("dry_run is repeated")
        return request


def decode_model_id(encoded: str) -> str:
    """Return the model id of a path, which a REST API passes on percent-encoded.

    Raises:
        InvalidRequestError: it does not decode to UTF-8. To replace what is wrong would name
            another model.

    """
    try:
        return unquote(encoded, errors="strict")
    except UnicodeError:
        error = ValidationError(
            loc=["path", "model_id"],
            msg="Input should be percent-encoded UTF-8",
            type="string_unicode",
        )
        raise InvalidRequestError([error]) from None


def _read_body(event: APIGatewayProxyEvent) -> bytes:
    body = event.body or ""
    try:
        if event.is_base64_encoded:
            return base64.b64decode(body, validate=True)
        return str(body).encode()
    except ValueError as error:  # not base64, or not Unicode
        raise _not_json(str(error)) from None


def _keys(body: bytes) -> list[str]:
    """Return the keys of a JSON object, with their repeats."""
    return [key for key, _ in json.loads(body, object_pairs_hook=list)]


def _not_json(reason: str) -> InvalidRequestError:
    return InvalidRequestError(
        [ValidationError(loc=["body"], msg=f"Invalid JSON: {reason}", type="json_invalid")]
    )
