"""The DynamoDB client: how long it waits, and which faults it outlasts."""

import random
import time
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import botocore.session
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
READ_SECONDS = 2.0  # of silence
FAILURES = 9
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 2.0

# Time kept free at the end of an invocation: to write the log and hand over the answer, and for
# the cold start before it, which API Gateway counts in its 29 seconds and Lambda does not.
ANSWER_SECONDS = 1.5

# The system's, as every copy that Lambda restores of a snapshot would draw the same numbers else.
_jitter = random.SystemRandom()

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


class CallError(Exception):
    """A call of DynamoDB did not succeed; `__cause__` is what botocore made of it.

    `unanswered` tells that it was sent and its outcome is not known: it may have been applied.
    """

    def __init__(self, message: str, *, unanswered: bool) -> None:
        super().__init__(message)
        self.unanswered = unanswered


class UnavailableError(CallError):
    """DynamoDB was throttled, in conflict or down for longer than could be waited."""


class RefusedError(CallError):
    """DynamoDB refused, and would again.

    `cancellation_codes` are the outcomes of each action of a cancelled transaction, in their
    order; `None` (a string) is that of an action that was in order.
    """

    def __init__(self, error: ClientError, *, unanswered: bool) -> None:
        super().__init__(str(error), unanswered=unanswered)
        self.cancellation_codes = _cancellation_codes(error)


def connect() -> "DynamoDBClient":
    """Return a client that makes each call once, with time limits; `call` is what repeats it.

    botocore could retry too, but neither within a deadline nor inside a cancelled transaction.
    """
    client: DynamoDBClient = botocore.session.get_session().create_client(  # type: ignore[assignment]
        "dynamodb",
        config=Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": 1},
            tcp_keepalive=True,
            parameter_validation=False,  # a quarter of a large deletion's CPU; DynamoDB checks too
        ),
    )
    client.meta.events.register("before-parse.dynamodb", _check_integrity)
    return client


def deadline_in(milliseconds: int) -> float:
    """Return the `time.monotonic` moment to stop waiting, `milliseconds` before time-out."""
    return time.monotonic() + milliseconds / 1000 - ANSWER_SECONDS


def call[T](operation: Callable[..., T], *, deadline: float, **parameters: Any) -> T:  # noqa: ANN401 the operation's own
    """Call `operation` until it succeeds, with exponential backoff and full jitter in between.

    Throttling and conflicts are waited out until the deadline, outages for `FAILURES` attempts. No
    attempt is begun that might outlast the deadline, as long as an answer that has begun to come
    goes on coming.

    Raises:
        UnavailableError: the attempts or the time are used up.
        RefusedError: waiting does not help.

    """
    unanswered = False
    failures = 0
    ceiling = 0.0
    last_error: Exception | None = None
    while failures < FAILURES:
        pause = _jitter.uniform(0, ceiling) if ceiling else 0.0
        ceiling = min(LONGEST_PAUSE_SECONDS, 2 * ceiling or 2 * FIRST_PAUSE_SECONDS)
        if time.monotonic() + pause + CONNECT_SECONDS + READ_SECONDS > deadline:
            raise UnavailableError("no time left", unanswered=unanswered) from last_error
        if pause:
            time.sleep(pause)
        try:
            return operation(**parameters)
        except ClientError as error:
            last_error = error
            if _status(error) >= _SERVER_ERROR:
                failures += 1
                unanswered = True
            elif not _passes(error):
                raise RefusedError(error, unanswered=unanswered) from error
        except (EndpointConnectionError, ConnectTimeoutError) as error:  # never sent
            last_error = error
            failures += 1
        except (ConnectionError, HTTPClientError, ChecksumError, ResponseParserError) as error:
            last_error = error
            failures += 1
            unanswered = True
    raise UnavailableError(f"failed {failures} times", unanswered=unanswered) from last_error


def _passes(error: ClientError) -> bool:
    culprits = set(_cancellation_codes(error)) - {"None"}
    if culprits:
        return culprits <= _PASSING_CANCELLATIONS
    return error.response["Error"]["Code"] in _PASSING_ERRORS


def _cancellation_codes(error: ClientError) -> list[str]:
    reasons: list[dict[str, str]] = error.response.get("CancellationReasons", [])  # type: ignore[assignment]
    return [reason["Code"] for reason in reasons]


def _status(error: ClientError) -> int:
    return error.response["ResponseMetadata"]["HTTPStatusCode"]


def _check_integrity(response_dict: dict[str, Any], **_: object) -> None:
    """Refuse a response that was cut short or garbled; botocore would read it as an empty one.

    Raises:
        ChecksumError: the body is not the one that DynamoDB sent.

    """
    headers, body = response_dict["headers"], response_dict["body"]
    for kind, promised, received in (
        ("length", headers.get("content-length"), str(len(body))),
        ("crc32", headers.get("x-amz-crc32"), str(zlib.crc32(body))),
        ("beginning", "{", body[:1].decode("latin-1")),
    ):
        if promised is not None and promised != received:
            raise ChecksumError(
                checksum_type=kind, expected_checksum=promised, actual_checksum=received
            )
