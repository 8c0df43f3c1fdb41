"""The bodies on the wire. What a caller sends is validated; what it is answered, types describe."""

from typing import Annotated, NotRequired, Self, TypedDict

import pydantic
from pydantic import BaseModel, FailFast, Field, StrictInt
from pydantic_core import from_json

# Arrays and objects in a body, or what looks like them; a request has two. Each that is where it
# does not belong becomes a Python object before it is refused, and a million overflow the memory.
MOST_BRACKETS = 10_000


class ValidationError(TypedDict):
    """One thing that is wrong with a request."""

    loc: Annotated[list[str | int], Field(title="Location")]
    msg: Annotated[str, Field(title="Message")]
    type: Annotated[str, Field(title="Error Type")]


class HTTPValidationError(TypedDict):
    """Why a request was not understood."""

    detail: NotRequired[list[ValidationError]]


class ErrorMessage(TypedDict):
    """Why a request was refused, or not finished."""

    detail: str


class InvalidRequestError(Exception):
    """The caller's request is not what the API describes."""

    def __init__(self, *errors: ValidationError) -> None:
        super().__init__(*(error["type"] for error in errors))
        self.errors = errors


class DeleteCheckpointsRequest(BaseModel):
    """The training steps whose checkpoints to delete, in any order; repeats count once."""

    # Stops at the first wrong element: a million of them must not become a million errors.
    steps: Annotated[list[StrictInt], FailFast()]

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read a request body: JSON in UTF-8, whatever its content type is called.

        The parser takes nesting to a depth of 200, numbers of up to 4,300 digits, no unpaired
        surrogates and `MOST_BRACKETS`, as RFC 8259 section 9 lets it. So no body is costly to
        refuse.

        Raises:
            InvalidRequestError: the body is not JSON, or does not have this shape.

        """
        if body.count(b"[") + body.count(b"{") > MOST_BRACKETS:
            raise not_json("too many arrays and objects")
        try:
            if b"NaN" in body or b"Infinity" in body:
                from_json(body, allow_inf_nan=False)  # pydantic lets them pass; JSON has no such
            return cls.model_validate_json(body)
        except pydantic.ValidationError as error:
            faults = error.errors(include_url=False, include_input=False)
            raise InvalidRequestError(
                *(
                    ValidationError(
                        loc=["body", *fault["loc"]], msg=fault["msg"], type=fault["type"]
                    )
                    for fault in faults
                )
            ) from None
        except ValueError as error:
            raise not_json(str(error)) from None


class DeleteCheckpointsResponse(TypedDict):
    """How many checkpoints the request deleted, and which of its steps have none to delete."""

    deleted_count: int
    not_found_steps: list[int]


def not_json(reason: str) -> InvalidRequestError:
    """Return the error for a body that cannot even be read."""
    return InvalidRequestError(
        ValidationError(loc=["body"], msg=f"Invalid JSON: {reason}", type="json_invalid")
    )
