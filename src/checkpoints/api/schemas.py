"""The requests and responses of the API."""

import operator
from contextlib import suppress
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    FailFast,
    Field,
    StrictBool,
    StrictInt,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError, PydanticKnownError

from checkpoints.records.numbers import storable

MAX_PAGE_SIZE = 100
DEFAULT_PAGE_SIZE = 20

DRY_RUN_DESCRIPTION = (
    "If true in the query or in the body, nothing is deleted. The response shows what would be "
    "deleted. Another spelling, such as dryRun, is refused with 422."
)


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
    """How many checkpoints were (or would be) deleted, and which steps have no checkpoint."""

    deleted_count: int
    not_found_steps: list[int]
    # Only in the response to a dry run. Without it, this is the response of the contract.
    dry_run: Annotated[
        bool,
        Field(
            description="True if this was a dry run: nothing was deleted.", exclude_if=operator.not_
        ),
    ] = False


class CheckpointResponse(BaseModel):
    """A checkpoint. Its id is its step as a string."""

    id: str
    step: int
    # The union keeps an integer an integer in JSON: `3`, not `3.0`.
    metrics: dict[str, Annotated[int | float, WithJsonSchema({"type": "number"})]]


class PaginatedResponse[T](BaseModel):
    """A page of a list. If `has_more` is true, get the next page with `after=last_id`."""

    object: str = "list"
    data: list[T]
    first_id: str = ""
    last_id: str = ""
    has_more: bool


ListCheckpointsResponse = PaginatedResponse[CheckpointResponse]


class DeleteCheckpointsRequest(BaseModel):
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


class ListCheckpointsRequest(BaseModel):
    """Which page to list: its maximum length, its order, and the step after which it starts."""

    after: Annotated[int, BeforeValidator(_parse_id)] | None = None
    limit: Annotated[int, BeforeValidator(_parse_integer), Field(ge=1, le=MAX_PAGE_SIZE)] = (
        DEFAULT_PAGE_SIZE
    )
    order: Literal["asc", "desc"] = "asc"
