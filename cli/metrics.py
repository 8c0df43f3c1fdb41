"""Read metrics that training libraries leave in the name of a checkpoint, or in a file of it."""

import json
import re
from collections.abc import Iterable
from decimal import Decimal, DecimalException
from typing import Any

from boto3.dynamodb.types import TypeSerializer

MAX_BYTES = 100_000  # of the metrics of one record, which can have 400 KB
NUMBER_BYTES = 22  # at most, of a number with its type in DynamoDB
# DynamoDB's numbers but 0 are at least the first, and below the second. boto3 does not check it.
SMALLEST, LIMIT = Decimal("1E-130"), Decimal("1E+126")

# In a name such as `epoch=1-val_loss=0.25-step=500.ckpt`. A sign belongs to the number.
_PART = re.compile(
    r"([^\W\d_]\w*)=([+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)(?![0-9A-Za-z.])", re.ASCII
)


class TooManyError(Exception):
    """There are more metrics than a record can have; `metrics` are those that fit."""

    def __init__(self, metrics: dict[str, Any]) -> None:
        super().__init__("It has too many metrics for one record, so some are left out.")
        self.metrics = metrics


def from_name(name: str) -> dict[str, object]:
    """Return the numbers in the name of a checkpoint of Lightning or NeMo, but for its step."""
    parts = _PART.findall(name.removesuffix(".ckpt"))
    return {part: float(number) for part, number in parts if part != "step"}


def from_trainer_state(text: bytes, step: int) -> dict[str, object]:
    """Return what a `trainer_state.json` of Transformers logged at a step: values of any type.

    Raises:
        ValueError, RecursionError: it is not such a file.

    """
    match json.loads(text):
        case {"log_history": [*history]}:
            logged: dict[Any, object] = {}
            for entry in history:
                match entry:
                    case {"step": int(at) | float(at), **numbers} if at == step:
                        logged |= numbers
            return logged
    raise ValueError("It has no log_history.")


def to_attribute(metrics: Iterable[tuple[str, object]]) -> dict[str, Any]:
    """Return the finite numbers that DynamoDB can hold, in its notation.

    Raises:
        TooManyError: they are too many for one record.

    """
    attribute: dict[str, Any] = {}
    size = 0
    for name, value in metrics:
        number = _to_number(value)
        encoded = name.encode(errors="replace")
        if not number or not name or encoded.decode() != name:
            continue
        size += len(encoded) + NUMBER_BYTES
        if size > MAX_BYTES:
            raise TooManyError(attribute)
        attribute[name] = number
    return attribute


def _to_number(value: object) -> Any:  # noqa: ANN401 boto3's type has all attributes
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = Decimal(repr(value))
        is_in_range = number == 0 or SMALLEST <= abs(number) < LIMIT
        return TypeSerializer().serialize(number) if is_in_range else None
    except (DecimalException, TypeError, ValueError):  # too many digits, or not a number
        return None
