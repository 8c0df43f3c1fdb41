"""What a record is: one checkpoint of a model, with its owner, as an item of DynamoDB."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from checkpoints.records.numbers import to_integer

MAX_MODEL_ID_BYTES = 2048  # DynamoDB's limit for a partition key

MAX_EXACT_INTEGER = 2**53  # a 64-bit float holds every integer up to it


# A record without the attribute `protected` is not protected, and neither is one with this value.
# Every other value protects it, also one of a wrong type, because that is the safe side.
NOT_PROTECTED = {"BOOL": False}
# The condition that a record is not protected, where `:not_protected` is the value above.
IS_NOT_PROTECTED = "(attribute_not_exists(protected) OR protected = :not_protected)"


class Checkpoint(NamedTuple):
    """A checkpoint as the list shows it. An optional attribute that is not valid is left out."""

    step: int
    metrics: dict[str, float]
    size_bytes: int | None = None
    created_at: int | None = None  # in epoch seconds, as `expires_at`
    expires_at: int | None = None
    protected: bool = False

    @classmethod
    def from_item(cls, item: Mapping[str, Any]) -> Self | None:
        """Read an item; return `None` if its step is not an integer. No API client can name it."""
        step = to_integer(item["step"]["N"])
        if step is None:
            return None
        return cls(
            step,
            _numbers(item.get("metrics", {}).get("M", {})),
            size_bytes=_natural_number(item.get("size_bytes", {})),
            created_at=_natural_number(item.get("created_at", {})),
            expires_at=_natural_number(item.get("expires_at", {})),
            protected=item.get("protected") == {"BOOL": True},
        )


def is_protected(item: Mapping[str, Any]) -> bool:
    """Return whether a record is protected: no request of the API may delete it."""
    return "protected" in item and item["protected"] != NOT_PROTECTED


def key(model_id: str, step: int | str) -> dict[str, Any]:
    """Return the key of the record of a model's checkpoint at a step."""
    return {"model_id": {"S": model_id}, "step": {"N": str(step)}}


def _numbers(attributes: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a map with the precision of JSON clients, which have 64-bit floats."""
    floats = {name: float(value["N"]) for name, value in attributes.items() if "N" in value}
    return {
        name: int(number) if number.is_integer() and abs(number) < MAX_EXACT_INTEGER else number
        for name, number in floats.items()
    }


def _natural_number(attribute: Mapping[str, Any]) -> int | None:
    """Return an integer of 0 or more that JSON clients can read exactly, otherwise `None`."""
    number = to_integer(attribute["N"]) if "N" in attribute else None
    return number if number is not None and 0 <= number < MAX_EXACT_INTEGER else None
