"""The artifacts of a checkpoint in S3: parse their URI, and delete the objects."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
from botocore.parsers import ResponseParserError

from checkpoints.dynamodb import USER_AGENT

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectTypeDef, PaginatorConfigTypeDef

MAX_KEY_BYTES = 1024  # S3's limit

CONNECT_TIMEOUT_SECONDS = 2
READ_TIMEOUT_SECONDS = 10
MAX_ATTEMPTS = 3
BACKOFF_SECONDS = 3  # botocore pauses for up to 1 s, and then for up to 2 s
MAX_CALL_SECONDS = MAX_ATTEMPTS * (CONNECT_TIMEOUT_SECONDS + READ_TIMEOUT_SECONDS) + BACKOFF_SECONDS
CONFIG = Config(
    connect_timeout=CONNECT_TIMEOUT_SECONDS,
    read_timeout=READ_TIMEOUT_SECONDS,
    retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
    user_agent=USER_AGENT,
)

# S3 errors that are worth a retry, in addition to RETRYABLE_STATUSES. The response to DeleteObjects
# has an error code for each object, but no status. Errors of credentials are temporary, because
# Lambda provides and replaces them; a role without the permission gets `AccessDenied`.
RETRYABLE_ERRORS = frozenset(
    {
        "BadDigest",
        "ConditionalRequestConflict",
        "ExpiredToken",
        "InternalError",
        "InvalidAccessKeyId",
        "InvalidToken",
        "OperationAborted",
        "RequestTimeTooSkewed",
        "RequestTimeout",
        "ServiceUnavailable",
        "SignatureDoesNotMatch",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TokenRefreshRequired",
    }
)
RETRYABLE_STATUSES = frozenset({429, 500, 502, 503, 504})

# DeleteObjects uses XML for the request and the response. XML 1.0 does not allow these characters,
# and a parser reads a carriage return as a newline, so such a key needs a DeleteObject.
_NOT_IN_XML = re.compile("[\x00-\x08\x0b-\x1f\ufffe\uffff]")


class InvalidUriError(Exception):
    """A URI is not valid, or is outside the bucket; the message is the reason code."""


class NotDeletedError(Exception):
    """S3 did not delete some of the objects; `codes` counts them by error code."""

    def __init__(self, codes: Mapping[str, int]) -> None:
        super().__init__(", ".join(f"{code}: {count}" for code, count in codes.items()))
        self.codes = codes


class Artifacts(NamedTuple):
    """One object in a bucket or, if the key ends with a slash, all objects with this prefix."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: object, *, bucket: str | None = None) -> Self:
        """Parse a URI such as `s3://bucket/key` or `s3://bucket/prefix/`, without decoding.

        Raises:
            InvalidUriError: it is not such a URI, has no key, or names another bucket than the
                given one.

        """
        match = re.fullmatch("s3://([^/]+)/(.*)", uri, re.DOTALL) if isinstance(uri, str) else None
        if not match:
            raise InvalidUriError("not_an_s3_uri")
        key = match[2]
        if bucket not in (None, match[1]):
            raise InvalidUriError("another_bucket")
        if not re.search(r"[^\s/]", key):
            raise InvalidUriError("blank_key")
        try:
            size = len(key.encode())
        except UnicodeEncodeError:
            raise InvalidUriError("not_unicode") from None
        if size > MAX_KEY_BYTES:
            raise InvalidUriError("key_too_long")
        return cls(match[1], key)

    @property
    def is_prefix(self) -> bool:
        """Whether the key ends with a slash, and so means all objects with this prefix."""
        return self.key.endswith("/")

    def include(self, key: str) -> bool:
        """Return whether the object with this key is one of them."""
        return key == self.key or (self.is_prefix and key.startswith(self.key))

    def overlap(self, other: "Artifacts") -> bool:
        """Return whether the two are the same, or one is inside the other.

        A slash at the end of a key is ignored: a writer who forgot it may mean the prefix.
        """
        one, two = (f"{key.rstrip('/')}/" for key in (self.key, other.key))
        return self.bucket == other.bucket and (one.startswith(two) or two.startswith(one))


class ArtifactDeletion:
    """Deletes artifacts that were last modified before a given time, and counts the results.

    `freed_bytes` is the total size of the `deleted` objects. `kept` counts the objects that stay,
    by reason.
    """

    def __init__(self, client: "S3Client", artifacts: Artifacts, *, before: datetime) -> None:
        self._client = client
        self._artifacts = artifacts
        self._before = before
        self.deleted = 0
        self.freed_bytes = 0
        self.kept: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()

    def run(self, ensure_allowed: Callable[[], None], *, dry_run: bool) -> None:
        """Delete page by page. Call `ensure_allowed` before each call that deletes; it may raise.

        A dry run deletes nothing, and counts what would be deleted.

        Raises:
            BotoCoreError, ClientError, ResponseParserError: a call to S3 failed. `is_retryable`
                says whether to retry.
            NotDeletedError: some objects were not deleted.
            InvalidUriError: there is no object with this key, but there are objects below it.

        """
        found = 0
        for objects in _list(self._client, self._artifacts):
            ensure_allowed()
            found += len(objects)
            old = {each["Key"]: each for each in objects if each["LastModified"] < self._before}
            self.kept["saved_later"] += len(objects) - len(old)
            if dry_run:
                self._count_deleted(old.values())
                continue
            single = [key for key in old if _NOT_IN_XML.search(key)]
            self._delete_batch([old[key] for key in old.keys() - set(single)])
            for key in single:
                ensure_allowed()
                self._delete_one(old[key])
        if self._errors:
            raise NotDeletedError(self._errors)
        if not found and not self._artifacts.is_prefix:
            folder = self._artifacts._replace(key=f"{self._artifacts.key}/")
            if any(_list(self._client, folder, limit=1)):
                raise InvalidUriError("no_trailing_slash")

    # Each delete has the listed ETag as its condition, so that an object stays if it is overwritten
    # after it was listed.

    def _delete_batch(self, objects: list["ObjectTypeDef"]) -> None:
        if not objects:
            return
        response = self._client.delete_objects(
            Bucket=self._artifacts.bucket,
            Delete={"Objects": [{"Key": each["Key"], "ETag": _etag(each)} for each in objects]},
        )
        deleted = {each["Key"] for each in response.get("Deleted", [])}
        errors = {each["Key"]: each["Code"] for each in response.get("Errors", [])}
        self._count_deleted(each for each in objects if each["Key"] in deleted)
        for each in objects:
            if each["Key"] not in deleted:
                # If the response does not name an object, it may have been deleted or not.
                self._count_error(errors.get(each["Key"], "InternalError"))

    def _delete_one(self, each: "ObjectTypeDef") -> None:
        try:
            self._client.delete_object(
                Bucket=self._artifacts.bucket, Key=each["Key"], IfMatch=_etag(each)
            )
        except ClientError as error:
            if is_retryable(error):
                raise
            self._count_error(error.response["Error"]["Code"])
        else:
            self._count_deleted([each])

    def _count_deleted(self, objects: Iterable["ObjectTypeDef"]) -> None:
        for each in objects:
            self.deleted += 1
            self.freed_bytes += each["Size"]

    def _count_error(self, code: str) -> None:
        if code == "PreconditionFailed":  # it was overwritten after it was listed
            self.kept["changed"] += 1
        elif code != "NoSuchKey":  # an object that is already deleted is no error
            self._errors[code] += 1


def _list(
    client: "S3Client", artifacts: Artifacts, *, limit: int | None = None
) -> Iterator[list["ObjectTypeDef"]]:
    """Yield the objects in pages of up to 1,000, and at most `limit` in total."""
    if not artifacts.is_prefix:
        limit = 1  # S3 lists keys in order, so a key that equals the prefix comes first
    limits: PaginatorConfigTypeDef = {"MaxItems": limit, "PageSize": limit} if limit else {}
    for page in client.get_paginator("list_objects_v2").paginate(
        Bucket=artifacts.bucket, Prefix=artifacts.key, PaginationConfig=limits
    ):
        if "IsTruncated" not in page:  # botocore parses a response without a body as an empty list
            raise ResponseParserError("The list of objects has no body.")
        yield [each for each in page.get("Contents", []) if artifacts.include(each["Key"])]


def _etag(each: "ObjectTypeDef") -> str:
    return each["ETag"].strip('"')


def connect() -> "S3Client":
    """Return a client for S3."""
    return boto3.client("s3", config=CONFIG)


def is_retryable(error: Exception) -> bool:
    """Return whether an error that `ArtifactDeletion.run` raised is worth a retry."""
    match error:
        case ClientError(response={"ResponseMetadata": {"HTTPStatusCode": status}}):
            code = error.response["Error"]["Code"]
            return status in RETRYABLE_STATUSES or code in RETRYABLE_ERRORS
        case NotDeletedError():
            return not RETRYABLE_ERRORS.isdisjoint(error.codes)
        case ParamValidationError():
            return False
    # No response, an incomplete response, or temporarily no credentials.
    return isinstance(error, BotoCoreError | ResponseParserError)
