"""Free the storage of deleted checkpoints: a Lambda function that takes messages from a queue.

For each deleted record, it deletes the objects in S3 that the record's `artifact_uri` names. It
never deletes an object of another checkpoint of the model, and none whose LastModified is after the
deletion of the record. An attempt that fails raises an error, and the queue delivers the message
again, or moves it to the dead-letter queue.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.utilities.data_classes import SQSEvent
from aws_lambda_powertools.utilities.typing import LambdaContext

from checkpoints import dynamodb
from checkpoints.reclaim import MAX_CALL_SECONDS, artifacts, queue
from checkpoints.reclaim.artifacts import ArtifactDeletion, Artifacts, InvalidUriError
from checkpoints.reclaim.audit import (
    INVALID_MESSAGE,
    describe,
    report,
    to_logged,
)
from checkpoints.reclaim.queue import Message
from checkpoints.reclaim.reasons import POSSIBLE_CONFLICT, SAVED_AGAIN, SHARED, Refusal
from checkpoints.records.record import key
from checkpoints.telemetry import describe_error, logger

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

# After the last page of objects: ask for the record again, send a message, and write the log.
SEND_MS = MAX_CALL_SECONDS * 1000 + 1_000
END_MS = SEND_MS + 20_000
RETRY_DELAY_SECONDS = 300  # of the message that goes on after an error

# Deleting one page of objects and listing the next takes at most two calls.
MIN_REMAINING_MS = 2 * MAX_CALL_SECONDS * 1000 + END_MS


class NotFreedError(Exception):
    """The attempt failed, and its log line says why; the message must be delivered again."""


class OutOfTimeError(Exception):
    """The invocation has too little time left."""


class RefusedError(Exception):
    """The artifacts are not deleted, and somebody must decide; the message is the reason code."""


class KeptError(Exception):
    """The artifacts belong to another record; `fields` are for the log line."""

    def __init__(self, **fields: object) -> None:
        super().__init__()
        self.fields = fields


# Explicit, because an environment variable could turn `log_event` on. Messages can be long.
@logger.inject_lambda_context(log_event=False, clear_state=True)
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> None:
    """Free the storage of each deleted record; the queue sends one at a time.

    Raises:
        NotFreedError: the storage of a record could not be freed.
        Exception: the function cannot connect, has no name of a bucket, or the message is invalid.

    """
    connect()
    bucket = os.environ["ARTIFACTS_BUCKET"]
    for record in SQSEvent(event).records:
        try:
            message = Message.read(record.body)
            reclaim = Reclaim(message, context)
            logger.append_keys(**describe(message))
        except Exception as error:
            logger.error(INVALID_MESSAGE, extra=describe_error(error))
            raise
        reclaim.run(bucket)


class Reclaim:
    """An attempt to free the storage of one deleted record."""

    def __init__(self, message: Message, context: LambdaContext) -> None:
        self._message = message
        self._deleted_at = datetime.fromisoformat(message.deleted_at).astimezone(UTC)
        self._step = Decimal(message.step)
        self._context = context
        self._dynamodb, self._s3 = connect()
        self._deletion: ArtifactDeletion | None = None
        self._error: Exception | None = None
        self._fields: dict[str, object] = {}  # of the log line

    def run(self, bucket: str) -> None:
        """Delete the artifacts, and report the outcome.

        Raises:
            NotFreedError: the message must be delivered again.

        """
        outcome = self._attempt(bucket)
        if self._deletion and self._deletion.keys and outcome != "conflict":
            outcome = self._ask_again(outcome)
        if outcome == "continued":
            try:
                queue.send(
                    self._message._replace(started=True),
                    # Later after an error: the service may be throttling.
                    delay_seconds=RETRY_DELAY_SECONDS if self._error else 0,
                )
            except Exception as error:  # noqa: BLE001 it is logged
                self._add_error(error)
                outcome = "retry"
        report(outcome, self._deletion, self._error, **self._fields)
        if outcome in ("refused", "retry"):
            raise NotFreedError(self._fields.get("reason") or repr(self._error))

    def _attempt(self, bucket: str) -> str:
        """Delete the artifacts, and return the outcome. It raises no errors."""
        try:
            targets = self._find_artifacts(bucket)
            self._deletion = ArtifactDeletion(self._s3, targets, before=self._deleted_at)
            return self._delete(self._deletion)
        except (InvalidUriError, RefusedError) as refusal:
            self._fields["reason"] = str(refusal)
            return "refused"
        except KeptError as kept:
            self._fields |= kept.fields
            has_started = self._message.started or (self._deletion and self._deletion.keys)
            is_conflict = has_started and kept.fields["reason"] == SAVED_AGAIN
            return "conflict" if is_conflict else "kept"
        except Exception as error:  # noqa: BLE001 it is logged
            self._add_error(error)
            return self._continue_or_retry()

    def _add_error(self, error: Exception) -> None:
        """Log this error instead of an earlier one, with a note about that."""
        if self._error:
            error.add_note(f"after {self._error!r}")
        self._error = error

    def _continue_or_retry(self) -> str:
        """Return the outcome of an attempt that must go on."""
        # The queue gives a message up after five attempts, but not while it makes progress.
        return "continued" if self._deletion and self._deletion.has_progressed else "retry"

    def _ask_again(self, outcome: str) -> str:
        """Return `conflict` if the checkpoint was saved again while objects were deleted.

        S3 cannot tell whether such an object was overwritten with the same bytes. Without a new
        message, the next attempt would find the record, and not know that objects were deleted.
        """
        try:
            self._ensure_not_saved_again(reserve_ms=SEND_MS)
        except KeptError as kept:
            self._error = None
            self._fields |= kept.fields
            return "conflict"
        except Exception as error:  # noqa: BLE001 it is logged
            self._add_error(error)
            outcome = self._continue_or_retry()
            if outcome == "retry":
                self._fields["reason"] = POSSIBLE_CONFLICT
        return outcome

    def _find_artifacts(self, bucket: str) -> Artifacts:
        try:
            if self._message.problem:
                raise RefusedError(self._message.problem)  # noqa: TRY301 handled like an invalid URI
            return Artifacts.parse(self._message.artifact_uri, bucket=bucket)
        except (InvalidUriError, RefusedError):
            self._ensure_not_saved_again()  # if it was, nobody has to decide anything
            raise

    def _delete(self, deletion: ArtifactDeletion) -> str:
        """Delete the artifacts if no other record has them, and return the outcome."""

        def ensure_allowed() -> None:
            self._ensure_not_saved_again()
            self._ensure_time()  # afterwards, because DynamoDB can be slow, too

        self._ensure_time()
        self._ensure_not_shared(deletion.artifacts)
        self._ensure_time()
        try:
            deletion.run(ensure_allowed)
        except OutOfTimeError:
            if not deletion.has_progressed:
                deletion.raise_errors()  # they say more
                raise
            return "continued"
        if not deletion.found and not self._message.started:
            return "nothing_found"
        if deletion.found and deletion.kept.total() == deletion.found:
            return "kept"
        return "freed"

    def _ensure_time(self) -> None:
        if self._context.get_remaining_time_in_millis() < MIN_REMAINING_MS:
            raise OutOfTimeError

    def _calls(self, reserve_ms: int = END_MS) -> dynamodb.Calls:
        return dynamodb.Calls(
            remaining_ms=self._context.get_remaining_time_in_millis() - reserve_ms
        )

    def _ensure_not_saved_again(self, *, reserve_ms: int = END_MS) -> None:
        """Raise an error if the record exists again, with a URI that may refer to the artifacts."""
        response = self._calls(reserve_ms).make(
            self._dynamodb.get_item,
            TableName=os.environ["CHECKPOINTS_TABLE"],
            Key=key(self._message.model_id, self._message.step),
            ProjectionExpression="artifact_uri",
            ConsistentRead=True,
        )
        self._ensure_other_artifacts(response.get("Item", {}))

    def _ensure_other_artifacts(self, record: Mapping[str, Any]) -> None:
        """Raise an error if the URI of this record of the step overlaps, or is not valid."""
        if "artifact_uri" not in record:
            return
        try:
            saved = Artifacts.parse(record["artifact_uri"].get("S"))
        except InvalidUriError:
            raise KeptError(reason=SAVED_AGAIN) from None
        deleted = Artifacts.split(self._message.artifact_uri)
        if deleted and saved.overlap(deleted):
            raise KeptError(reason=SAVED_AGAIN)

    def _ensure_not_shared(self, targets: Artifacts) -> None:
        """Raise an error if a record of the model has a URI that overlaps.

        Raises:
            KeptError: the checkpoint was saved again, or another one also has these artifacts.
            RefusedError: the record was protected, or the artifacts of others are among them.

        """
        owner: str | None = None
        covers_others = False
        for record in self._read_records():
            if Decimal(record["step"]["N"]) == self._step:
                self._ensure_other_artifacts(record)
            elif other := Artifacts.split(record.get("artifact_uri", {}).get("S")):
                if other.cover(targets):
                    owner = record["step"]["N"]
                elif targets.cover(other):
                    covers_others = True
        if self._message.protected:
            raise RefusedError(Refusal.PROTECTED)
        if owner is not None:
            raise KeptError(reason=SHARED, other_step=to_logged(owner))
        if covers_others:
            raise RefusedError(Refusal.COVERS_OTHER_CHECKPOINTS)

    def _read_records(self) -> Iterator[Mapping[str, Any]]:
        """Yield the step and the URI of all records of the model."""
        calls = self._calls()
        start: dict[str, Any] = {}
        while True:
            page = calls.make(
                self._dynamodb.query,
                TableName=os.environ["CHECKPOINTS_TABLE"],
                KeyConditionExpression="model_id = :model_id",
                ProjectionExpression="#step, artifact_uri",
                ExpressionAttributeNames={"#step": "step"},
                ExpressionAttributeValues={":model_id": {"S": self._message.model_id}},
                ConsistentRead=True,
                **start,
            )
            yield from page["Items"]
            if "LastEvaluatedKey" not in page:
                return
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}


@cache
def connect() -> tuple["DynamoDBClient", "S3Client"]:
    """Return the clients, one of each for the lifetime of the process."""
    return dynamodb.connect(), artifacts.connect()


# Connect during Lambda's init phase. If this fails, the first attempt fails for the same reason.
with suppress(Exception):
    connect()
