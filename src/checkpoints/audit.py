"""What an operator learns of a request: its log line and its CloudWatch metrics.

Neither holds a token, a token's hash, or what a refused caller sent.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence

from aws_lambda_powertools.logging import Logger
from aws_lambda_powertools.metrics import Metrics, MetricUnit

# CloudWatch cuts a log event at 256 KiB. All else on a line stays well below 50 KiB.
RANGES_BYTES = 200_000

logger = Logger(service="checkpoints", location=None, serialize_stacktrace=False)
metrics = Metrics(namespace="Checkpoints", service="checkpoints")

# At DEBUG botocore logs each call, and with it the hash of the caller's token.
for _library in ("boto3", "botocore", "urllib3"):
    logging.getLogger(_library).setLevel(logging.INFO)
# An error that nothing handles is logged by `Audit.failed`; the resolver would log it too.
logging.getLogger("aws_lambda_powertools.event_handler").setLevel(logging.CRITICAL)


class Audit:
    """The report on one request, from its arrival on."""

    def __init__(self) -> None:
        self._arrived = time.perf_counter()

    def identify(self, **names: str) -> None:
        """Name the caller or the model on every line that follows."""
        logger.append_keys(**names)

    def completed(self, deleted: Sequence[int], not_found_count: int) -> None:
        """Report a deletion that was answered with 200."""
        metrics.add_metric("CheckpointsDeleted", MetricUnit.Count, len(deleted))
        metrics.add_metric("StepsNotFound", MetricUnit.Count, not_found_count)
        first, *others = _parts(deleted)
        logger.info(
            "Deletion completed",
            status=200,
            deleted_count=len(deleted),
            not_found_count=not_found_count,
            deleted_steps=first,
            duration_ms=self._elapsed_ms(),
        )
        self._continue("deleted_steps", others)

    def incomplete(
        self, status: int, deleted: Sequence[int], unconfirmed: Sequence[int], cause: BaseException
    ) -> None:
        """Report a deletion that was answered with 5xx, and may have been done in part."""
        metrics.add_metric("CheckpointsDeleted", MetricUnit.Count, len(deleted))
        metrics.add_metric("DeletionsIncomplete", MetricUnit.Count, 1)
        if status == 500:  # noqa: PLR2004 a fault of ours
            metrics.add_metric("RequestsFailed", MetricUnit.Count, 1)
        first, *others = _parts(deleted)
        logger.error(
            "Deletion incomplete",
            status=status,
            deleted_count=len(deleted),
            unconfirmed_count=len(unconfirmed),
            deleted_steps=first,
            duration_ms=self._elapsed_ms(),
            exc_info=cause,
        )
        self._continue("deleted_steps", others)
        if unconfirmed:
            self._continue("unconfirmed_steps", _parts(unconfirmed))

    def refused(self, status: int, reason: str) -> None:
        """Report a request that was answered with 4xx."""
        metrics.add_dimension("reason", reason)
        metrics.add_metric("RequestsRefused", MetricUnit.Count, 1)
        logger.warning(
            "Request refused", status=status, reason=reason, duration_ms=self._elapsed_ms()
        )

    def failed(self, status: int, error: Exception) -> None:
        """Report a request that was answered with 5xx before anything could be deleted."""
        metrics.add_metric("RequestsFailed", MetricUnit.Count, 1)
        logger.error(
            "Request failed", status=status, duration_ms=self._elapsed_ms(), exc_info=error
        )

    def _continue(self, key: str, parts: Iterable[list[list[int]]]) -> None:
        for part in parts:
            logger.info("Deletion continued", extra={key: part})

    def _elapsed_ms(self) -> float:
        return round((time.perf_counter() - self._arrived) * 1000, 1)


def _parts(steps: Iterable[int]) -> list[list[list[int]]]:
    """Return the steps as ranges `[first, last]`, in parts that each fit on a log line."""
    parts: list[list[list[int]]] = [[]]
    size = 0
    for pair in _ranges(steps):
        size += len(f"[{pair[0]}, {pair[1]}], ")
        if size > RANGES_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(pair)
    return parts


def _ranges(steps: Iterable[int]) -> Iterator[list[int]]:
    """Yield the first and the last of each run of consecutive steps."""
    run: list[int] = []
    for step in sorted(steps):
        if run and step == run[1] + 1:
            run[1] = step
            continue
        if run:
            yield run
        run = [step, step]
    if run:
        yield run
