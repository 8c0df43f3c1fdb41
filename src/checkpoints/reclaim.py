"""Free the storage of deleted checkpoints: a Lambda function on the checkpoints table's stream.

For each deleted record, it deletes the objects in S3 that the record's `artifact_uri` names. It
never deletes an object whose LastModified is after the deletion of the record.
"""

import math
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from aws_lambda_powertools.utilities.batch import (
    BatchProcessor,
    EventType,
    process_partial_response,
)
from aws_lambda_powertools.utilities.data_classes.dynamo_db_stream_event import DynamoDBRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from checkpoints import artifacts, dynamodb
from checkpoints.artifacts import ArtifactDeletion, Artifacts, InvalidUriError
from checkpoints.audit import Fields, logger
from checkpoints.reclaim_audit import INVALID_RECORD, ReclaimAudit
from checkpoints.steps import to_integer

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

# Deleting one page of objects and listing the next takes at most two calls. 5 s are for the log.
MIN_REMAINING_MS = (2 * artifacts.MAX_CALL_SECONDS + 5) * 1000

# Lambda handles the records of a shard in order, so a record that keeps failing blocks those after
# it. If an error occurs more than this long after the deletion, the record is not retried.
MAX_RETRY_AGE = timedelta(hours=6)

MAX_LOGGED_URI = 2_000  # characters; a valid URI has fewer

processor = BatchProcessor(EventType.DynamoDBStreams, raise_on_entire_batch_failure=False)


class OutOfTimeError(Exception):
    """The invocation has too little time left; Lambda sends the record again."""


class RetryError(Exception):
    """The record was not finished, and its log line says why; Lambda sends it again."""


class SavedAgainError(Exception):
    """The checkpoint was saved again, and may use the artifacts that were to be deleted."""


class DeletedRecord(NamedTuple):
    """A record that was deleted from the checkpoints table, as the stream has it."""

    keys: Mapping[str, Any]
    image: Mapping[str, Any]  # the whole record; like the keys, in DynamoDB's JSON
    deleted_at: datetime

    @classmethod
    def read(cls, stream_record: Mapping[str, Any]) -> Self | None:
        """Read a record of the stream; return `None` if there are no artifacts to delete."""
        change = stream_record["dynamodb"]
        image = change.get("OldImage", {})
        if stream_record["eventName"] != "REMOVE" or (image and "artifact_uri" not in image):
            return None
        # Rounded down, so that objects stay that were saved in the same second.
        deleted_at = math.floor(float(change["ApproximateCreationDateTime"]))
        return cls(change["Keys"], image, datetime.fromtimestamp(deleted_at, UTC))

    def find_artifacts(self, bucket: str) -> Artifacts:
        """Return the artifacts that the record's URI names.

        Raises:
            InvalidUriError: it is not valid or outside the bucket, or the stream has no old images.

        """
        if not self.image:
            raise InvalidUriError("no_old_image")
        return Artifacts.parse(self.image["artifact_uri"].get("S"), bucket=bucket)

    def describe(self) -> dict[str, object]:
        """Return the fields for the log line."""
        number = self.keys["step"]["N"]
        step = to_integer(number)
        attribute = self.image.get("artifact_uri", {"S": ""})
        return {
            "entity": self.image.get("entity", {}).get("S", ""),
            "model_id": self.keys["model_id"]["S"],
            "step": number if step is None else step,
            "artifact_uri": str(attribute.get("S", attribute))[:MAX_LOGGED_URI],
            "deleted_at": self.deleted_at.isoformat(),
        }


# Explicit, because an environment variable could turn `log_event` on. Records can be long.
@logger.inject_lambda_context(log_event=False, clear_state=True)
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Handle a batch of stream records; return the records that Lambda must send again.

    Events from `scripts/reclaim.py` have the key `dry_run`. For these, nothing is deleted unless
    its value is false, and the response also has the `outcomes` of all records that were started.

    Raises:
        Exception: the function cannot connect, or has no name of a bucket.

    """
    # Here, so that Lambda logs the error. Powertools does not log the errors of single records.
    connect()
    bucket = os.environ["ARTIFACTS_BUCKET"]
    dry_run = event.get("dry_run", False) is not False
    outcomes: list[Fields] = []

    def handle(record: DynamoDBRecord) -> None:
        try:
            deleted_record = DeletedRecord.read(record.raw_event)
        except Exception:
            logger.exception(INVALID_RECORD)
            raise
        if deleted_record:
            _ensure_time(context)
            audit = ReclaimAudit(dry_run=dry_run, **deleted_record.describe())
            try:
                targets = deleted_record.find_artifacts(bucket)
                outcome = reclaim(deleted_record, targets, context, audit, dry_run=dry_run)
            except InvalidUriError as error:
                outcome = audit.refused(str(error))
            outcomes.append(outcome)
            if outcome["outcome"] == "retry":
                raise RetryError

    failures = process_partial_response(event, handle, processor, context)
    return {**failures, "outcomes": outcomes} if "dry_run" in event else {**failures}


def reclaim(
    deleted_record: DeletedRecord,
    targets: Artifacts,
    context: LambdaContext,
    audit: ReclaimAudit,
    *,
    dry_run: bool,
) -> Fields:
    """Delete the artifacts of a deleted record, and return the fields of its log line.

    Raises:
        InvalidUriError: the URI names no object, and lacks the slash that would make it a prefix.

    """
    dynamodb_client, s3_client = connect()

    def ensure_allowed() -> None:
        _ensure_not_saved_again(dynamodb_client, deleted_record.keys, targets, context)
        _ensure_time(context)

    deletion = ArtifactDeletion(s3_client, targets, before=deleted_record.deleted_at)
    try:
        deletion.run(ensure_allowed, dry_run=dry_run)
    except InvalidUriError:
        raise
    except SavedAgainError:
        return audit.finished("kept", deletion)
    except OutOfTimeError as error:
        return audit.finished("retry", deletion, error)
    except Exception as error:  # noqa: BLE001 it is logged, and decides whether to retry
        is_late = datetime.now(UTC) - deleted_record.deleted_at > MAX_RETRY_AGE
        can_retry = _is_retryable(error) and not is_late
        return audit.finished("retry" if can_retry else "failed", deletion, error)
    return audit.finished("freed", deletion)


def _ensure_time(context: LambdaContext) -> None:
    if context.get_remaining_time_in_millis() < MIN_REMAINING_MS:
        raise OutOfTimeError


def _ensure_not_saved_again(
    client: "DynamoDBClient", keys: Mapping[str, Any], targets: Artifacts, context: LambdaContext
) -> None:
    calls = dynamodb.Calls(remaining_ms=context.get_remaining_time_in_millis())
    response = calls.make(
        client.get_item,
        TableName=os.environ["CHECKPOINTS_TABLE"],
        Key=keys,
        ProjectionExpression="artifact_uri",
        ConsistentRead=True,
    )
    uri = response.get("Item", {}).get("artifact_uri")
    if uri is None:
        return
    try:
        saved = Artifacts.parse(uri.get("S"))
    except InvalidUriError:  # it may refer to any object
        raise SavedAgainError from None
    if saved.overlap(targets):
        raise SavedAgainError


def _is_retryable(error: Exception) -> bool:
    if isinstance(error, dynamodb.CallError):
        return not isinstance(error, dynamodb.RejectedError)
    return artifacts.is_retryable(error)


@cache
def connect() -> tuple["DynamoDBClient", "S3Client"]:
    """Return the clients, one of each for the lifetime of the process."""
    return dynamodb.connect(), artifacts.connect()


# Connect during Lambda's init phase. If this fails, the first batch fails for the same reason.
with suppress(Exception):
    connect()
