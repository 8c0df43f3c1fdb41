"""Functions on training steps: remove duplicates, check limits, find common steps, make ranges."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import islice
from operator import gt, lt

# DynamoDB's limits for a number: significant digits, and digits before the decimal point.
MAX_SIGNIFICANT_DIGITS = 38
MAX_DIGITS = 126


def distinct(steps: Sequence[int]) -> list[int]:
    """Return the steps without duplicates, in the same order."""
    for is_in_order in (lt, gt):
        if all(map(is_in_order, steps, islice(steps, 1, None))):
            return list(steps)
    # Use strings, not integers, as keys: an API client can choose integers whose hashes collide. A
    # set of many of them takes minutes to build. String hashes are randomised in each process.
    return list({str(step): step for step in steps}.values())


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


def ranges(steps: Iterable[int]) -> list[list[int]]:
    """Return the first and the last of each run of consecutive steps."""
    found: list[list[int]] = []
    for step in sorted(steps):
        if found and step == found[-1][1] + 1:
            found[-1][1] = step
        else:
            found.append([step, step])
    return found


def _parse(number: str) -> int | Decimal:
    """Parse a number from DynamoDB, as an `int` if possible: its comparison is much faster."""
    try:
        return int(number)
    except ValueError:
        return Decimal(number)
