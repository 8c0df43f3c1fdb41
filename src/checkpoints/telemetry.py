"""The logger and the metrics that all functions share: Powertools' Logger and Metrics."""

import json
import logging
import traceback
from contextlib import suppress
from functools import partial

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

MAX_MESSAGE_CHARACTERS = 2_000  # of an exception, because a log line must stay below 256 KB

# The service is POWERTOOLS_SERVICE_NAME; the template sets it to the stack's name.
# The serializer writes ASCII and accepts values of any type, so that writing a line never fails.
_to_json = partial(json.dumps, separators=(",", ":"), default=str)
logger = Logger(use_rfc3339=True, utc=True, json_serializer=_to_json)
metrics = Metrics(namespace="Checkpoints")

# At INFO, these libraries log where they found credentials. At DEBUG, they log each call, with the
# hash of the caller's token.
for _library in ("boto3", "botocore", "urllib3"):
    logging.getLogger(_library).setLevel(logging.WARNING)


def emit_metrics(**counts: int) -> None:
    """Write metrics to the log, in CloudWatch's embedded metric format."""
    for name, value in counts.items():
        unit = MetricUnit.Bytes if name.startswith("Bytes") else MetricUnit.Count
        metrics.add_metric(name, unit, value)
    with suppress(OSError, ValueError):  # a failure to log must not change the response
        metrics.flush_metrics()
    metrics.clear_metrics()  # a failed flush does not clear them


def describe_error(error: BaseException) -> dict[str, str]:
    """Return an exception and its causes as text, with long messages truncated."""
    parts = traceback.format_exception(error)  # each part is a frame or a message
    return {
        "exception": "".join(
            part if len(part) <= MAX_MESSAGE_CHARACTERS else f"{part[:MAX_MESSAGE_CHARACTERS]}...\n"
            for part in parts
        ).rstrip(),
        "exception_name": type(error).__name__,
    }
