"""The numbers that DynamoDB can hold, and how to compare steps with them."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from decimal import Decimal

# DynamoDB's limits for a number: significant digits, and digits before the decimal point.
MAX_SIGNIFICANT_DIGITS = 38
MAX_DIGITS = 126


def storable(steps: list[int]) -> list[int]:
    """Return the steps that fit into a DynamoDB number: 38 significant digits, below 10**126."""
    limit = 10**MAX_SIGNIFICANT_DIGITS
    if not steps or (min(steps) > -limit and max(steps) < limit):
        return steps
    return [
        step
        for step in steps
        if len(digits := str(abs(step))) <= MAX_DIGITS
        and len(digits.rstrip("0")) <= MAX_SIGNIFICANT_DIGITS
    ]


def intersect(steps: Sequence[int], numbers: Iterable[str]) -> list[int]:
    """Return the steps that are also in `numbers`, which are from DynamoDB.

    The steps must be ascending, for a binary search: an API client can choose steps that make
    lookups in a set slow.
    """
    found = []
    for number in numbers:
        value = _parse(number)
        place = bisect_left(steps, value)
        if place < len(steps) and steps[place] == value:
            found.append(steps[place])
    return found


def to_integer(number: str) -> int | None:
    """Convert a number from DynamoDB to a step; return `None` if it is not an integer."""
    value = _parse(number)
    step = int(value)
    return step if step == value else None


def _parse(number: str) -> int | Decimal:
    """Parse a number from DynamoDB, as an `int` if possible: its comparison is much faster."""
    try:
        return int(number)
    except ValueError:
        return Decimal(number)
