"""The log lines and metrics of a request.

Each request has one log line with its outcome. No line contains a token, or more of its hash than
its id. If the token is not valid, no line contains input of the caller, except the correlation id
and the trace id, which a caller can choose.
"""

import logging
import os
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from enum import StrEnum
from http import HTTPStatus

from aws_lambda_powertools.utilities.typing import LambdaContext

from checkpoints.dynamodb import Calls
from checkpoints.records.checkpoints import Deletion, Outcome
from checkpoints.telemetry import describe_error, emit_metrics, logger, metrics

# Keep each log line below 256 KB, so that nothing on the way to CloudWatch splits it.
MAX_RANGES_BYTES = 150_000

# `Audit.failed` logs unhandled errors. The resolver would log them too.
logging.getLogger("aws_lambda_powertools.event_handler").setLevel(logging.CRITICAL)


class Line(StrEnum):
    """The messages of the log lines. docs/operations.md explains each line."""

    LISTED = "Checkpoints listed"
    COMPLETED = "Deletion completed"
    CONTINUED = "Deletion continued"
    DRY_RUN_COMPLETED = "Dry run completed"
    DRY_RUN_CONTINUED = "Dry run continued"
    INCOMPLETE = "Deletion incomplete"
    REFUSED = "Request refused"
    FAILED = "Request failed"


class Audit:
    """The log lines and metrics of one request. Create it when the request arrives."""

    def __init__(self) -> None:
        self._arrived = time.perf_counter()
        self._calls: Calls | None = None

    def watch(self, calls: Calls) -> None:
        """Include the number and the duration of these calls to DynamoDB in the log line."""
        self._calls = calls

    def count_cold_start(self, context: LambdaContext) -> None:
        """Count the first request of a process, unless provisioned concurrency started it."""
        if logger.get_current_keys().get("cold_start"):
            with suppress(OSError, ValueError):
                metrics.provider.add_cold_start_metric(context)

    def add_fields(self, **fields: str | bool) -> None:
        """Add fields to all following lines of the request."""
        logger.append_keys(**fields)

    def listed(self, count: int) -> None:
        """Report a page of the list; the status is 200."""
        self._log(logger.info, Line.LISTED, status=200, listed_count=count)
        emit_metrics(CheckpointsListed=count)

    def completed(self, deletion: Deletion) -> None:
        """Report a complete deletion; the status is 200."""
        not_found_count = _count_not_found(deletion)
        first, *others = _split_ranges(deletion.deleted)
        self._log(
            logger.info,
            Line.COMPLETED,
            status=200,
            deleted_count=len(deletion.deleted),
            not_found_count=not_found_count,
            protected_count=len(deletion.protected),
            deleted_steps=first,
        )
        self._continue(Line.CONTINUED, "deleted_steps", others)
        emit_metrics(
            CheckpointsDeleted=len(deletion.deleted),
            CheckpointsProtected=len(deletion.protected),
            StepsNotFound=not_found_count,
        )

    def dry_run_completed(self, outcome: Outcome) -> None:
        """Report a dry run; the status is 200. It has no metrics, because nothing was deleted."""
        first, *others = _split_ranges(outcome.deleted)
        self._log(
            logger.info,
            Line.DRY_RUN_COMPLETED,
            status=200,
            would_delete_count=len(outcome.deleted),
            not_found_count=_count_not_found(outcome),
            protected_count=len(outcome.protected),
            would_delete_steps=first,
        )
        self._continue(Line.DRY_RUN_CONTINUED, "would_delete_steps", others)

    def incomplete(self, status: int, deletion: Deletion, cause: BaseException) -> None:
        """Report a deletion that stopped before it was complete; the status is 5xx."""
        first, *others = _split_ranges(deletion.deleted)
        self._log(
            logger.error,
            Line.INCOMPLETE,
            status=status,
            deleted_count=len(deletion.deleted),
            unconfirmed_count=len(deletion.unconfirmed),
            protected_count=len(deletion.protected),
            deleted_steps=first,
            **describe_error(cause),
        )
        self._continue(Line.CONTINUED, "deleted_steps", others)
        if deletion.unconfirmed:
            parts = _split_ranges(deletion.unconfirmed)
            self._continue(Line.CONTINUED, "unconfirmed_steps", parts)
        emit_metrics(
            CheckpointsDeleted=len(deletion.deleted),
            CheckpointsProtected=len(deletion.protected),
            DeletionsIncomplete=1,
        )
        _emit_failure(status)

    def refused(self, status: int, reason: str) -> None:
        """Report a request that is refused; the status is 4xx."""
        self._log(logger.warning, Line.REFUSED, status=status, reason=reason)
        metrics.add_dimension("reason", reason)
        emit_metrics(RequestsRefused=1)

    def failed(self, status: int, error: Exception) -> None:
        """Report an error or an outage, unless a deletion stopped; the status is 5xx."""
        self._log(logger.error, Line.FAILED, status=status, **describe_error(error))
        _emit_failure(status)

    def _log(self, log: Callable[..., None], message: str, **fields: object) -> None:
        """Write the line with the outcome."""
        calls = self._calls
        fields |= {
            "duration_ms": round((time.perf_counter() - self._arrived) * 1000, 1),
            "dynamodb_calls": calls.attempts if calls else 0,
            "dynamodb_retries": calls.retries if calls else 0,
            "dynamodb_ms": calls.milliseconds if calls else 0.0,
        }
        log(message, extra=fields)

    def _continue(self, message: str, key: str, parts: Iterable[list[list[int]]]) -> None:
        for part in parts:
            logger.info(message, extra={key: part})


def _count_not_found(outcome: Outcome) -> int:
    return len(outcome.requested) - len(outcome.deleted) - len(outcome.protected)


def _emit_failure(status: int) -> None:
    """Write the metric of a 5xx. A 503 has its own, because a single one triggers no alarm.

    A failure also counts for the version of the function, so that an alarm can watch only a new
    version.
    """
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        emit_metrics(RequestsUnavailable=1)
        return
    version = os.environ.get("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
    metrics.add_dimensions(service=logger.service, function_version=version)
    emit_metrics(RequestsFailed=1)


def _split_ranges(steps: Collection[int]) -> list[list[list[int]]]:
    """Return the steps as ranges `[first, last]`, in parts that each fit on one log line."""
    parts: list[list[list[int]]] = [[]]
    size = 0
    for pair in _ranges(steps):
        size += len(f"[{pair[0]}, {pair[1]}], ")
        if size > MAX_RANGES_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(pair)
    return parts


def _ranges(steps: Iterable[int]) -> list[list[int]]:
    """Return the first and the last of each run of consecutive steps."""
    found: list[list[int]] = []
    for step in sorted(steps):
        if found and step == found[-1][1] + 1:
            found[-1][1] = step
        else:
            found.append([step, step])
    return found
