"""What an operator learns of a request: one line of JSON, which CloudWatch reads as metrics too.

It never holds a token, a token's hash, or what a refused caller sent, but for the correlation id
and the trace id: API Gateway lets a caller choose those, by headers.
"""

import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from itertools import count
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic_core import to_json

NAMESPACE = "Checkpoints"
SERVICE = "checkpoints"

# CloudWatch cuts a log event at 256 KiB, and a cut line is no metric. What can be long on a line of
# a request that came through API Gateway is the steps and the messages of exceptions.
RANGES_BYTES = 150_000
MESSAGE_CHARACTERS = 2_000

# With provisioned concurrency the start was over before there was a request to wait for it.
_requests = count(
    int(os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "provisioned-concurrency")
)

# At DEBUG botocore logs each call, and with it the hash of the caller's token.
for _library in ("botocore", "urllib3"):
    logging.getLogger(_library).setLevel(logging.INFO)
# An error that nothing handles is logged by `Audit.failed`; the resolver would log it too.
logging.getLogger("aws_lambda_powertools.event_handler").setLevel(logging.CRITICAL)


class Audit:
    """The report on one request, from its arrival on.

    The metrics are in CloudWatch's embedded metric format. Powertools has a logger and metrics
    too; together they took half the CPU time of a request, and wrote a second line.
    """

    def __init__(self, event: Mapping[str, Any], context: LambdaContext) -> None:
        self._arrived = time.perf_counter()
        self._cold_start = next(_requests) == 0
        names = {
            "correlation_id": _gateway_request_id(event),
            "function_name": getattr(context, "function_name", None),
            "function_request_id": getattr(context, "aws_request_id", None),
            "xray_trace_id": _trace_id(),
        }
        # What is no text could fail to be written: event and context can come from elsewhere.
        self._names = {key: name for key, name in names.items() if isinstance(name, str)}

    def identify(self, **names: str) -> None:
        """Name the caller or the model on every line that follows."""
        self._names |= names

    def completed(self, deleted: Sequence[int], not_found_count: int) -> None:
        """Report a deletion that was answered with 200."""
        first, *others = _parts(deleted)
        self._write(
            "INFO",
            "Deletion completed",
            {"CheckpointsDeleted": len(deleted), "StepsNotFound": not_found_count},
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
        metrics = {"CheckpointsDeleted": len(deleted), "DeletionsIncomplete": 1}
        if status == 500:  # noqa: PLR2004 a fault of ours
            metrics["RequestsFailed"] = 1
        first, *others = _parts(deleted)
        self._write(
            "ERROR",
            "Deletion incomplete",
            metrics,
            status=status,
            deleted_count=len(deleted),
            unconfirmed_count=len(unconfirmed),
            deleted_steps=first,
            duration_ms=self._elapsed_ms(),
            **_exception(cause),
        )
        self._continue("deleted_steps", others)
        if unconfirmed:
            self._continue("unconfirmed_steps", _parts(unconfirmed))

    def refused(self, status: int, reason: str) -> None:
        """Report a request that was answered with 4xx."""
        self._write(
            "WARNING",
            "Request refused",
            {"RequestsRefused": 1},
            status=status,
            reason=reason,
            duration_ms=self._elapsed_ms(),
        )

    def failed(self, status: int, error: Exception) -> None:
        """Report a request that was answered with 5xx before anything could be deleted."""
        self._write(
            "ERROR",
            "Request failed",
            {"RequestsFailed": 1},
            status=status,
            duration_ms=self._elapsed_ms(),
            **_exception(error),
        )

    def _continue(self, key: str, parts: Iterable[list[list[int]]]) -> None:
        for part in parts:
            self._write("INFO", "Deletion continued", {}, **{key: part})

    def _write(
        self, level: str, message: str, metrics: Mapping[str, int], **fields: object
    ) -> None:
        now = time.time()
        line = {
            "level": level,
            "message": message,
            "timestamp": datetime.fromtimestamp(now, UTC),
            "service": SERVICE,
            **self._names,
            **fields,
            **metrics,
        }
        directives = []
        if metrics:
            dimensions = ("reason", "service") if "reason" in fields else ("service",)
            directives.append(_directive(dimensions, tuple(metrics)))
        if self._cold_start:
            self._cold_start = False
            line["ColdStart"] = 1
            directives.append(_directive(("function_name", "service"), ("ColdStart",)))
        if directives:
            line["_aws"] = {"Timestamp": int(now * 1000), "CloudWatchMetrics": directives}
        with suppress(OSError, ValueError):  # a broken log is no reason to answer otherwise
            sys.stdout.write(_encode(line) + "\n")  # Lambda's runtime flushes it

    def _elapsed_ms(self) -> float:
        return round((time.perf_counter() - self._arrived) * 1000, 1)


@cache
def _directive(dimensions: tuple[str, ...], metrics: tuple[str, ...]) -> dict[str, object]:
    """Return what tells CloudWatch which keys of a line are metrics, and of what."""
    return {
        "Namespace": NAMESPACE,
        "Dimensions": [dimensions],
        "Metrics": [{"Name": name, "Unit": "Count"} for name in metrics],
    }


def _encode(line: Mapping[str, object]) -> str:
    try:
        return to_json(line).decode()
    except ValueError:  # an unpaired surrogate, of which there is none in UTF-8
        return json.dumps(line, default=datetime.isoformat)


def _gateway_request_id(event: Mapping[str, Any]) -> object:
    """Return API Gateway's name for the request, if the event comes from one."""
    try:
        return event["requestContext"]["requestId"]
    except (KeyError, TypeError):
        return None


def _trace_id() -> str | None:
    """Return the id that X-Ray's console knows, out of the header that the runtime sets."""
    root = os.environ.get("_X_AMZN_TRACE_ID", "").partition(";")[0]
    return root.removeprefix("Root=") or None


def _exception(error: BaseException) -> dict[str, str]:
    parts = traceback.format_exception(error)  # each a frame or a message
    return {
        "exception": "".join(
            part if len(part) <= MESSAGE_CHARACTERS else f"{part[:MESSAGE_CHARACTERS]}...\n"
            for part in parts
        ).rstrip(),
        "exception_name": type(error).__name__,
    }


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


def _ranges(steps: Iterable[int]) -> list[list[int]]:
    """Return the first and the last of each run of consecutive steps."""
    ranges: list[list[int]] = []
    last: int | None = None
    for step in sorted(steps):
        if last is not None and step == last + 1:
            ranges[-1][1] = step
        else:
            ranges.append([step, step])
        last = step
    return ranges
