"""The DynamoDB client, and the calls of one request, with their deadline, retries and duration."""

import os
import random
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    ChecksumError,
    ClientError,
    ConnectionError,  # noqa: A004 botocore's own: the connection failed before an HTTP response
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
)
from botocore.parsers import ResponseParserError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

CONNECT_TIMEOUT_SECONDS = 1.0
READ_TIMEOUT_SECONDS = 2.0
MAX_ATTEMPTS = 9  # not counting throttling and conflicts, which are retried until the deadline
MAX_CREDENTIAL_ATTEMPTS = 5  # few, so that a wrong role soon becomes an internal error
INITIAL_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 2.0

# Reserved at the end of an invocation to write the log and return the response. It also covers the
# cold start, which counts in API Gateway's 29 seconds but not in Lambda's.
RESPONSE_SECONDS = 1.5

# Error codes (with status 4xx) that are worth a retry.
RETRYABLE_ERRORS = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "ReplicatedWriteConflictException",
        "RequestLimitExceeded",
        "ThrottlingException",
        "TransactionInProgressException",
    }
)
# The same for the reasons of a cancelled transaction, which have other names.
RETRYABLE_CANCELLATIONS = frozenset(
    {"ProvisionedThroughputExceeded", "ThrottlingError", "TransactionConflict"}
)
# Worth a few retries, each with a new signature: new credentials can be unknown for a short time.
CREDENTIAL_ERRORS = frozenset(
    {"ExpiredTokenException", "InvalidSignatureException", "UnrecognizedClientException"}
)
# DynamoDB lost the connection. As after a status 5xx, the outcome is unknown.
CONNECTION_ERRORS = frozenset({"RequestAbortedException", "RequestTimeoutException"})
# botocore's own string, also with `user_agent_appid`, takes 10 % of the CPU of a small request.
_EXECUTION_ENVIRONMENT = os.getenv("AWS_EXECUTION_ENV", "local")
USER_AGENT = f"Boto3/{boto3.__version__} exec-env/{_EXECUTION_ENVIRONMENT} app/checkpoints"

_NEVER_SENT = (EndpointConnectionError, ConnectTimeoutError, CredentialRetrievalError)
_NO_RESPONSE = (ConnectionError, HTTPClientError, ChecksumError, ResponseParserError)

# SystemRandom, because all environments that Lambda restores from one SnapStart snapshot would
# share the state of an ordinary generator, and would retry at the same time.
_jitter = random.SystemRandom()


class CallError(Exception):
    """A call to DynamoDB failed; `__cause__` is botocore's error.

    `outcome_unknown` is true if an attempt may have succeeded: it got no response, a damaged one, a
    status 5xx, or a connection error. `cancellation_codes` has one code for each action of a
    cancelled transaction, in order; the string `None` means that this action was valid.
    """

    cancellation_codes: Sequence[str] = ()

    def __init__(self, message: str, *, outcome_unknown: bool) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown


class UnavailableError(CallError):
    """DynamoDB throttled, reported conflicts or was down until attempts or time ran out."""


class RejectedError(CallError):
    """DynamoDB rejected the call and would reject it again; `code` is DynamoDB's error code.

    `failed_items` has one item for each action of a cancelled transaction, in order: the record
    that did not meet the action's condition. It is empty if there is no record, or the action did
    not fail, or it did not ask for the record.
    """

    def __init__(self, error: ClientError, *, outcome_unknown: bool) -> None:
        super().__init__(str(error), outcome_unknown=outcome_unknown)
        self.code = error.response["Error"]["Code"]
        self.cancellation_codes = _cancellation_codes(error)
        self.failed_items = [reason.get("Item", {}) for reason in _cancellation_reasons(error)]


def connect() -> "DynamoDBClient":
    """Return a client that sends each call once, with timeouts; `Calls` retries it.

    botocore's own retries ignore the deadline and the reasons of a cancelled transaction.
    """
    client = boto3.client(
        "dynamodb",
        config=Config(
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            read_timeout=READ_TIMEOUT_SECONDS,
            retries={"mode": "standard", "total_max_attempts": 1},
            tcp_keepalive=True,
            user_agent=USER_AGENT,
            parameter_validation=False,  # 25 % of a large deletion's CPU; DynamoDB validates too
        ),
    )
    client.meta.events.register("before-parse.dynamodb", _check_integrity)
    return client


class Calls:
    """Makes the calls to DynamoDB of one request. Thread-safe.

    `attempts` counts all attempts, and `retries` the repeated ones. `milliseconds` is the time
    during which at least one call was running, including backoff.
    """

    def __init__(self, *, remaining_ms: int) -> None:
        """Set the deadline from the milliseconds that the invocation has left."""
        self._deadline = time.monotonic() + remaining_ms / 1000 - RESPONSE_SECONDS
        self.attempts = 0
        self.retries = 0
        self._seconds = 0.0
        self._under_way = 0
        self._since = 0.0
        self._lock = Lock()

    @property
    def milliseconds(self) -> float:
        """The time during which at least one call was running."""
        return round(self._seconds * 1000, 1)

    def make[T](
        self,
        operation: Callable[..., T],
        *,
        retries: int = 0,
        **parameters: Any,  # noqa: ANN401 the operation's own
    ) -> T:
        """Call `operation` until it succeeds, with exponential backoff and full jitter.

        Throttling and conflicts are retried until the deadline, other failures up to a number of
        attempts. An attempt starts only if its timeouts end before the deadline. `retries` is the
        number of earlier calls for the same data whose responses were incomplete.

        Raises:
            CallError: there are no valid credentials.
            UnavailableError: there are no attempts or time left.
            RejectedError: a retry does not help.

        """
        with self._timed():
            outcome_unknown = False
            failures = credential_errors = 0
            last_error: Exception | None = None
            while failures < MAX_ATTEMPTS and credential_errors < MAX_CREDENTIAL_ATTEMPTS:
                if not self._pause(retries):
                    break
                with self._lock:
                    self.attempts += 1
                    self.retries += retries > 0
                retries += 1
                try:
                    return operation(**parameters)
                except ClientError as error:
                    last_error = error
                    code = error.response["Error"]["Code"]
                    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                    if status >= 500 or code in CONNECTION_ERRORS:  # noqa: PLR2004
                        failures += 1
                        outcome_unknown = True
                    elif code in CREDENTIAL_ERRORS:
                        credential_errors += 1
                    elif not is_retryable(error):
                        raise RejectedError(error, outcome_unknown=outcome_unknown) from error
                except NoCredentialsError as error:
                    raise CallError(str(error), outcome_unknown=outcome_unknown) from error
                except (*_NEVER_SENT, *_NO_RESPONSE) as error:
                    last_error = error
                    failures += 1
                    outcome_unknown |= not isinstance(error, _NEVER_SENT)
            # Bad credentials are an internal error, not an outage.
            kind = CallError if credential_errors == MAX_CREDENTIAL_ATTEMPTS else UnavailableError
            raise kind("no attempts or time left", outcome_unknown=outcome_unknown) from last_error

    def _pause(self, retries: int) -> bool:
        """Wait before a retry. If its timeouts would exceed the deadline, return false at once."""
        longest = INITIAL_BACKOFF_SECONDS * 2 ** min(retries - 1, 30) if retries else 0
        pause = _jitter.uniform(0, min(longest, MAX_BACKOFF_SECONDS)) if longest else 0
        attempt = CONNECT_TIMEOUT_SECONDS + READ_TIMEOUT_SECONDS
        if time.monotonic() + pause + attempt > self._deadline:
            return False
        if pause:
            time.sleep(pause)
        return True

    @contextmanager
    def _timed(self) -> Iterator[None]:
        with self._lock:
            if not self._under_way:
                self._since = time.monotonic()
            self._under_way += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1
                if not self._under_way:
                    self._seconds += time.monotonic() - self._since


def is_retryable(error: ClientError) -> bool:
    """Return whether the same call can succeed if it is sent again."""
    if causes := set(_cancellation_codes(error)) - {"None"}:
        return causes <= RETRYABLE_CANCELLATIONS
    return error.response["Error"]["Code"] in RETRYABLE_ERRORS


def _cancellation_codes(error: ClientError) -> list[str]:
    return [reason["Code"] for reason in _cancellation_reasons(error)]


def _cancellation_reasons(error: ClientError) -> list[dict[str, Any]]:
    reasons: list[dict[str, Any]] = error.response.get("CancellationReasons", [])  # type: ignore[assignment]
    return reasons


def _check_integrity(response_dict: dict[str, Any], **_: object) -> None:
    """Refuse an incomplete or damaged response; botocore could parse it as an empty one.

    Raises:
        ChecksumError: the body is not what DynamoDB sent.

    """
    headers, body = response_dict["headers"], response_dict["body"]
    for kind, expected, actual in (
        ("content-length", headers.get("content-length"), str(len(body))),
        ("crc32", headers.get("x-amz-crc32"), str(zlib.crc32(body))),
        ("first byte", "{", body[:1].decode("latin-1")),
    ):
        if expected is not None and expected != actual:
            raise ChecksumError(
                checksum_type=kind, expected_checksum=expected, actual_checksum=actual
            )
