"""The artifacts of a checkpoint in S3: parse their URI, and delete the objects."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Self

import boto3
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from checkpoints.reclaim import CONFIG
from checkpoints.reclaim.reasons import Refusal

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectTypeDef, PaginatorConfigTypeDef

MAX_KEY_BYTES = 1024  # S3's limit

# DeleteObjects uses XML for the request and the response. XML 1.0 does not allow these characters,
# and a parser reads a carriage return as a newline, so such a key needs a DeleteObject.
_NOT_IN_XML = re.compile("[\x00-\x08\x0b-\x1f\ufffe\uffff]")

_CONTROL_CHARACTER = re.compile("[\x00-\x1f\x7f-\x9f]")

MAX_NAMED_KEYS_BYTES = 100_000  # of a log line


class InvalidUriError(Exception):
    """A URI is not valid, or is outside the bucket; the message is the reason code."""


class NotDeletedError(Exception):
    """S3 did not delete some of the objects; the message counts them by error code."""

    def __init__(self, codes: Mapping[str, int]) -> None:
        super().__init__(", ".join(f"{code}: {count}" for code, count in codes.items()))


class Artifacts(NamedTuple):
    """One object in a bucket or, if the key ends with a slash, all objects with this prefix."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: object, *, bucket: str | None = None) -> Self:
        """Parse a URI such as `s3://bucket/key` or `s3://bucket/prefix/`, without decoding.

        Raises:
            InvalidUriError: it is not such a URI, has no key, names another bucket than the given
                one, or has characters that no tool writes on purpose.

        """
        artifacts = cls.split(uri)
        if not artifacts:
            raise InvalidUriError(Refusal.NOT_AN_S3_URI)
        key = artifacts.key
        if bucket not in (None, artifacts.bucket):
            raise InvalidUriError(Refusal.ANOTHER_BUCKET)
        if not re.search(r"[^\s/]", key):
            raise InvalidUriError(Refusal.BLANK_KEY)
        if key != key.rstrip() or _CONTROL_CHARACTER.search(key):
            raise InvalidUriError(Refusal.INVALID_CHARACTERS)
        try:
            size = len(key.encode())
        except UnicodeEncodeError:
            raise InvalidUriError(Refusal.NOT_UNICODE) from None
        if size > MAX_KEY_BYTES:
            raise InvalidUriError(Refusal.URI_TOO_LONG)
        return artifacts

    @classmethod
    def split(cls, uri: object) -> Self | None:
        """Split the URI of a record into bucket and key, also if it is not valid."""
        match = re.fullmatch("s3://([^/]+)/(.*)", uri, re.DOTALL) if isinstance(uri, str) else None
        return cls(match[1], match[2]) if match else None

    @property
    def uri(self) -> str:
        """The URI that `parse` reads."""
        return f"s3://{self.bucket}/{self.key}"

    @property
    def is_prefix(self) -> bool:
        """Whether the key ends with a slash, and so means all objects with this prefix."""
        return self.key.endswith("/")

    def include(self, key: str) -> bool:
        """Return whether the object with this key is one of them."""
        return key == self.key or (self.is_prefix and key.startswith(self.key))

    def cover(self, other: "Artifacts") -> bool:
        """Return whether the two are the same, or the other is inside this one."""
        above, below = self.segments(), other.segments()
        return self.bucket == other.bucket and above == below[: len(above)]

    def segments(self) -> list[str]:
        """Return the parts of the key between slashes, by which artifacts are compared.

        Slashes at the end of a key are left out, and white space at the end of each segment: a
        writer who forgot the slash, or wrote a space, may mean the prefix.
        """
        key = re.sub(r"[\s/]+\Z", "", self.key)
        return [segment.rstrip() for segment in key.split("/")] if key else []

    def overlap(self, other: "Artifacts") -> bool:
        """Return whether one of the two covers the other."""
        return self.cover(other) or other.cover(self)


class ArtifactDeletion:
    """Deletes artifacts that were last modified before a given time, and counts the results.

    `found` counts the objects that were listed, and `vanished` those that were gone before they
    could be deleted. `freed_bytes` is the total size of the `deleted` objects. `kept` counts the
    objects that stay, by reason. `keys` are those of the objects that were deleted or may have been
    deleted, as far as they fit on a log line.
    """

    def __init__(self, client: "S3Client", artifacts: Artifacts, *, before: datetime) -> None:
        self._client = client
        self.artifacts = artifacts
        self._before = before
        self.found = 0
        self.deleted = 0
        self.vanished = 0
        self.freed_bytes = 0
        self.kept: Counter[str] = Counter()
        self.keys: list[str] = []
        self._keys_bytes = 0
        self._errors: Counter[str] = Counter()

    @property
    def has_progressed(self) -> bool:
        """Whether the next attempt will find fewer objects."""
        return self.deleted > 0 or self.vanished > 0

    def run(self, ensure_allowed: Callable[[], None]) -> None:
        """Delete page by page. Call `ensure_allowed` before each call that deletes; it may raise.

        Raises:
            BotoCoreError, ClientError, ResponseParserError: a call to S3 failed.
            NotDeletedError: some objects were not deleted.
            InvalidUriError: there are objects below the key, which lacks the slash of a prefix.

        """
        if not self.artifacts.is_prefix:
            folder = self.artifacts._replace(key=f"{self.artifacts.key}/")
            if any(_list(self._client, folder, limit=1)):
                raise InvalidUriError(Refusal.NO_TRAILING_SLASH)
        for objects in _list(self._client, self.artifacts):
            ensure_allowed()
            self.found += len(objects)
            old = {each["Key"]: each for each in objects if each["LastModified"] < self._before}
            self.kept["saved_later"] += len(objects) - len(old)
            single = [key for key in old if _NOT_IN_XML.search(key)]
            self._delete_batch([old[key] for key in old.keys() - set(single)])
            for key in single:
                ensure_allowed()
                self._delete_one(old[key])
        self.raise_errors()

    def raise_errors(self) -> None:
        """Raise an error if some objects were not deleted.

        Raises:
            NotDeletedError: some objects were not deleted.

        """
        if self._errors:
            raise NotDeletedError(self._errors)

    # Each delete has the listed ETag as its condition, so that an object stays if it is overwritten
    # after it was listed.

    def _delete_batch(self, objects: list["ObjectTypeDef"]) -> None:
        if not objects:
            return
        try:
            response = self._client.delete_objects(
                Bucket=self.artifacts.bucket,
                Delete={"Objects": [{"Key": each["Key"], "ETag": _etag(each)} for each in objects]},
            )
        except Exception:
            self._name(objects)
            raise
        deleted = {each["Key"] for each in response.get("Deleted", [])}
        errors = {each["Key"]: each["Code"] for each in response.get("Errors", [])}
        for each in objects:
            if each["Key"] in deleted:
                self._count_deleted(each)
            else:
                # If the response does not name an object, it may have been deleted or not.
                self._count_error(each, errors.get(each["Key"], "InternalError"))

    def _delete_one(self, each: "ObjectTypeDef") -> None:
        try:
            self._client.delete_object(
                Bucket=self.artifacts.bucket, Key=each["Key"], IfMatch=_etag(each)
            )
        except ClientError as error:
            self._count_error(each, error.response["Error"]["Code"])
        except Exception:
            self._name([each])
            raise
        else:
            self._count_deleted(each)

    def _count_deleted(self, each: "ObjectTypeDef") -> None:
        self.deleted += 1
        self.freed_bytes += each["Size"]
        self._name([each])

    def _count_error(self, each: "ObjectTypeDef", code: str) -> None:
        if code not in ("AccessDenied", "PreconditionFailed"):
            self._name([each])
        if code == "PreconditionFailed":  # it was overwritten after it was listed
            self.kept["changed"] += 1
        elif code == "NoSuchKey":  # it is already deleted, maybe by a call whose response was lost
            self.vanished += 1
        else:
            self._errors[code] += 1

    def _name(self, objects: Iterable["ObjectTypeDef"]) -> None:
        for each in objects:
            self._keys_bytes += len(json.dumps(each["Key"])) + len(", ")
            if self._keys_bytes > MAX_NAMED_KEYS_BYTES:
                break
            self.keys.append(each["Key"])


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
