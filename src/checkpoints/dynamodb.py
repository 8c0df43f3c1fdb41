"""The DynamoDB client: how long it waits, and which faults it outlasts."""

import random
import time
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    ChecksumError,
    ClientError,
    ConnectionError,  # noqa: A004 botocore's own, for what never became an HTTP exchange
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
)
from botocore.parsers import ResponseParserError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

CONNECT_SECONDS = 1.0
READ_SECONDS = 2.0
ATTEMPTS = 9
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 2.0

# Time kept free at the end of an invocation to write the log and hand over the answer.
ANSWER_SECONDS = 0.5

# Client errors (status 400) that are gone when the same call is made a moment later.
_PASSING_ERRORS = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "ReplicatedWriteConflictException",
        "RequestLimitExceeded",
        "ThrottlingException",
        "TransactionInProgressException",
    }
)
# The same inside a cancelled transaction, where they have other names.
_PASSING_CANCELLATIONS = frozenset(
    {"ProvisionedThroughputExceeded", "ThrottlingError", "TransactionConflict"}
)
_SERVER_ERROR = 500


class UnavailableError(Exception):
    """DynamoDB was throttled, in conflict or down for longer than could be waited.

    `unanswered` tells that a call was sent whose outcome is not known: it may have been applied.
    """

    def __init__(self, message: str, *, unanswered: bool) -> None:
        super().__init__(message)
        self.unanswered = unanswered


def connect() -> "DynamoDBClient":
    """Return a client that makes each call once, with time limits; `call` is what repeats it.

    botocore could retry too, but neither within a deadline nor inside a cancelled transaction.
    """
    client = boto3.client(
        "dynamodb",
        config=Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": 1},
            tcp_keepalive=True,
        ),
    )
    client.meta.events.register("before-parse.dynamodb", _check_integrity)
    return client


def deadline_in(milliseconds: int) -> float:
    """Return the `time.monotonic` moment to stop waiting, `milliseconds` before time-out."""
    return time.monotonic() + milliseconds / 1000 - ANSWER_SECONDS


def call[T](operation: Callable[..., T], *, deadline: float, **parameters: Any) -> T:  # noqa: ANN401 the operation's own
    """Call `operation` until it succeeds, with exponential backoff and full jitter in between.

    No attempt is begun that might outlast the deadline.

    Raises:
        UnavailableError: the attempts or the time are used up.
        ClientError: DynamoDB refused, and would again.

    """
    unanswered = False
    last_error: Exception | None = None
    for attempt in range(ATTEMPTS):
        ceiling = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**attempt) if attempt else 0
        pause = random.uniform(0, ceiling)  # noqa: S311 jitter, not a secret
        if time.monotonic() + pause + CONNECT_SECONDS + READ_SECONDS > deadline:
            raise UnavailableError("no time left", unanswered=unanswered) from last_error
        time.sleep(pause)
        try:
            return operation(**parameters)
        except ClientError as error:
            if not _passes(error):
                raise
            unanswered = unanswered or _status(error) >= _SERVER_ERROR
            last_error = error
        except (EndpointConnectionError, ConnectTimeoutError) as error:  # never sent
            last_error = error
        except (ConnectionError, HTTPClientError, ChecksumError, ResponseParserError) as error:
            unanswered = True
            last_error = error
    raise UnavailableError(f"failed {ATTEMPTS} times", unanswered=unanswered) from last_error


def cancellation_codes(error: ClientError) -> list[str]:
    """Return the outcome of each action of a cancelled transaction, in their order.

    `None` (a string) marks an action that was in order.
    """
    reasons: list[dict[str, str]] = error.response.get("CancellationReasons", [])  # type: ignore[assignment]
    return [reason["Code"] for reason in reasons]


def _passes(error: ClientError) -> bool:
    if _status(error) >= _SERVER_ERROR or error.response["Error"]["Code"] in _PASSING_ERRORS:
        return True
    culprits = set(cancellation_codes(error)) - {"None"}
    return bool(culprits) and culprits <= _PASSING_CANCELLATIONS


def _status(error: ClientError) -> int:
    return error.response["ResponseMetadata"]["HTTPStatusCode"]


def _check_integrity(response_dict: dict[str, Any], **_: object) -> None:
    """Refuse a response that was cut short or garbled; botocore would read it as an empty one.

    Raises:
        ChecksumError: the body is not the one that DynamoDB sent.

    """
    headers, body = response_dict["headers"], response_dict["body"]
    for kind, promised, received in (
        ("length", headers.get("content-length"), len(body)),
        ("crc32", headers.get("x-amz-crc32"), zlib.crc32(body)),
    ):
        if promised is not None and int(promised) != received:
            raise ChecksumError(
                checksum_type=kind, expected_checksum=promised, actual_checksum=str(received)
            )
