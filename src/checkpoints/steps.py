"""Training steps: which are distinct, which DynamoDB can hold, and work on them in batches."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from itertools import batched, islice
from operator import gt, lt
from threading import Event

# DynamoDB's limits: the significant digits and the magnitude of a number.
MAX_STEP_DIGITS = 38
MAX_STEP_MAGNITUDE = 126

# Batches in flight at a time, to hide the round trip. A partition writes 1,000 units a second, and
# a transaction of 100 uses 200; above that, throttling sets the pace.
CONCURRENT_BATCHES = 4


def side_by_side(
    work: Callable[[Sequence[int]], None], steps: Sequence[int], batch_size: int
) -> None:
    """Do the work for all steps in batches, a few at a time. After a failure none is begun.

    Raises:
        Exception: the first failure, once the work that was under way has ended.

    """
    if len(steps) <= batch_size:
        if steps:
            work(steps)
        return
    failed = Event()

    def work_unless_failed(batch: Sequence[int]) -> None:
        if failed.is_set():
            return
        try:
            work(batch)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(CONCURRENT_BATCHES) as pool:
        futures = [
            pool.submit(work_unless_failed, batch)
            for batch in batched(steps, batch_size, strict=False)
        ]
    for future in futures:
        future.result()


def distinct(steps: Sequence[int]) -> list[int]:
    """Return the steps without repeats, in their order."""
    for is_in_order in (lt, gt):
        if all(map(is_in_order, steps, islice(steps, 1, None))):
            return list(steps)
    # A caller can choose integers whose hashes collide, and a set of many such takes minutes. The
    # hash of a string is randomised in each process.
    return list({str(step): step for step in steps}.values())


def storable(steps: list[int]) -> list[int]:
    """Return the steps that a DynamoDB number can hold: 38 significant digits, below 10**126."""
    limit = 10**MAX_STEP_DIGITS
    if not steps or (min(steps) > -limit and max(steps) < limit):
        return steps
    return [
        step
        for step in steps
        if len(digits := str(abs(step))) <= MAX_STEP_MAGNITUDE
        and len(digits.rstrip("0")) <= MAX_STEP_DIGITS
    ]


def number(text: str) -> int | Decimal:
    """Return a DynamoDB number, as an `int` if it is written as one: that takes less memory."""
    try:
        return int(text)
    except ValueError:
        return Decimal(text)
