"""Run work on batches of steps, concurrently."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import batched
from threading import Event

from checkpoints.dynamodb import UnavailableError

# Number of batches in flight, to hide the round-trip time. A partition allows 1,000 write units per
# second, and a transaction of 100 deletes uses at least 200, so more would only be throttled.
CONCURRENT_BATCHES = 4


def run_in_batches(
    work: Callable[[Sequence[int]], None], steps: Sequence[int], batch_size: int
) -> None:
    """Run `work` on batches of the steps, concurrently. After a failure, start no more batches.

    Raises:
        Exception: the failure, after all started batches have ended. If several batches failed, an
            error that is not an `UnavailableError` comes first, because a retry does not help.

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
    failures = [failure for future in futures if (failure := future.exception())]
    if failures:
        raise min(failures, key=lambda failure: isinstance(failure, UnavailableError))
