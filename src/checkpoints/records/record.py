"""What a record is: one checkpoint of a model, with its owner, as an item of DynamoDB."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from checkpoints.records.numbers import to_integer

MAX_MODEL_ID_BYTES = 2048  # DynamoDB's limit for a partition key

MAX_EXACT_INTEGER = 2**53  # a 64-bit float holds every integer up to it


class Checkpoint(NamedTuple):
    """A checkpoint as the list shows it."""

    step: int
    metrics: dict[str, float]

    @classmethod
    def from_item(cls, item: Mapping[str, Any]) -> Self | None:
        """Read an item; return `None` if its step is not an integer. No API client can name it."""
        step = to_integer(item["step"]["N"])
        return None if step is None else cls(step, _numbers(item.get("metrics", {}).get("M", {})))


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
