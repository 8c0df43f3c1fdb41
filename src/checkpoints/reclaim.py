"""Free the storage of deleted checkpoints: a Lambda function on the checkpoints table's stream.

For each record that was removed from the table, it deletes the objects in S3 that the record's
`artifact_uri` names, but never one that was saved after the removal.
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
from checkpoints.audit import Fields, ReclaimAudit, logger
from checkpoints.steps import to_integer

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

# To delete one page of objects and list the next takes two calls at most; the rest is for the log.
MIN_REMAINING_MS = (2 * artifacts.MAX_CALL_SECONDS + 5) * 1000

# An error that lasts longer no longer holds up the records behind: this one counts as failed.
MAX_RETRY_AGE = timedelta(hours=6)

MAX_LOGGED_URI = 2_000  # characters; a valid one has fewer

processor = BatchProcessor(EventType.DynamoDBStreams, raise_on_entire_batch_failure=False)


class OutOfTimeError(Exception):
    """The invocation ends too soon to go on; the record comes again."""


class RetryError(Exception):
    """The record was not finished, as its line in the log tells; it comes again."""


class SavedAgainError(Exception):
    """The checkpoint was saved again, and its artifacts may be among those to delete."""


class Removal(NamedTuple):
    """A record that was removed from the checkpoints table."""

    keys: Mapping[str, Any]
    image: Mapping[str, Any]  # the whole record, in DynamoDB's notation as the keys
    removed_at: datetime

    @classmethod
    def read(cls, event: Mapping[str, Any]) -> Self | None:
        """Read a record of the stream; return `None` if it tells of no artifacts that are to go."""
        change = event["dynamodb"]
        image = change.get("OldImage", {})
        if event["eventName"] != "REMOVE" or (image and "artifact_uri" not in image):
            return None
        # In whole seconds, so the removal can be up to a second later.
        removed_at = math.floor(float(change["ApproximateCreationDateTime"]))
        return cls(change["Keys"], image, datetime.fromtimestamp(removed_at, UTC))

    def find_artifacts(self, bucket: str) -> Artifacts:
        """Return what the record's URI names.

        Raises:
            InvalidUriError: it names nothing that may be deleted, or the stream does not tell.

        """
        if not self.image:
            raise InvalidUriError("no_old_image")
        return Artifacts.parse(self.image["artifact_uri"].get("S"), bucket=bucket)

    def describe(self) -> dict[str, object]:
        """Return what a line of the log tells of it."""
        number = self.keys["step"]["N"]
        step = to_integer(number)
        attribute = self.image.get("artifact_uri", {"S": ""})
        return {
            "entity": self.image.get("entity", {}).get("S", ""),
            "model_id": self.keys["model_id"]["S"],
            "step": number if step is None else step,
            "artifact_uri": str(attribute.get("S", attribute))[:MAX_LOGGED_URI],
            "removed_at": self.removed_at.isoformat(),
        }


# Explicit, because an environment variable could turn `log_event` on, and records can be long.
@logger.inject_lambda_context(log_event=False, clear_state=True)
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Handle a batch of the stream's records; return those that are to come again.

    `scripts/reclaim.py` sends events with `dry_run`. Unless that is false, nothing is deleted, and
    in any case the answer also has the `outcomes`, one for each record that was begun.

    Raises:
        Exception: the function is not set up to handle any record.

    """
    # What fails here is reported by Lambda. Powertools logs no error of a single record.
    connect()
    bucket = os.environ["ARTIFACTS_BUCKET"]
    dry_run = event.get("dry_run", False) is not False
    outcomes: list[Fields] = []

    def handle(record: DynamoDBRecord) -> None:
        try:
            removal = Removal.read(record.raw_event)
        except Exception:
            logger.exception("Record not understood")
            raise
        if removal:
            _ensure_time(context)
            audit = ReclaimAudit(dry_run=dry_run, **removal.describe())
            try:
                wanted = removal.find_artifacts(bucket)
                outcome = reclaim(removal, wanted, context, audit, dry_run=dry_run)
            except InvalidUriError as error:
                outcome = audit.refused(str(error))
            outcomes.append(outcome)
            if outcome["outcome"] == "retry":
                raise RetryError

    failures = process_partial_response(event, handle, processor, context)
    return {**failures, "outcomes": outcomes} if "dry_run" in event else {**failures}


def reclaim(
    removal: Removal,
    wanted: Artifacts,
    context: LambdaContext,
    audit: ReclaimAudit,
    *,
    dry_run: bool,
) -> Fields:
    """Delete the artifacts of a removed record, and return the line that was logged of it.

    Raises:
        InvalidUriError: its URI names no object, but lacks the slash that would name a prefix.

    """
    dynamodb_client, s3_client = connect()

    def ensure_allowed() -> None:
        _ensure_not_saved_again(dynamodb_client, removal.keys, wanted, context)
        _ensure_time(context)

    deletion = ArtifactDeletion(s3_client, wanted, before=removal.removed_at)
    try:
        deletion.run(ensure_allowed, dry_run=dry_run)
    except InvalidUriError:
        raise
    except SavedAgainError:
        return audit.finished("kept", deletion)
    except OutOfTimeError as error:
        return audit.finished("retry", deletion, error)
    except Exception as error:  # noqa: BLE001 it is logged, and decides whether the record comes again
        is_late = datetime.now(UTC) - removal.removed_at > MAX_RETRY_AGE
        can_retry = _is_transient(error) and not is_late
        return audit.finished("retry" if can_retry else "failed", deletion, error)
    return audit.finished("freed", deletion)


def _ensure_time(context: LambdaContext) -> None:
    if context.get_remaining_time_in_millis() < MIN_REMAINING_MS:
        raise OutOfTimeError


def _ensure_not_saved_again(
    client: "DynamoDBClient", keys: Mapping[str, Any], wanted: Artifacts, context: LambdaContext
) -> None:
    calls = dynamodb.Calls(remaining_ms=context.get_remaining_time_in_millis())
    answer = calls.make(
        client.get_item,
        TableName=os.environ["CHECKPOINTS_TABLE"],
        Key=keys,
        ProjectionExpression="artifact_uri",
        ConsistentRead=True,
    )
    uri = answer.get("Item", {}).get("artifact_uri")
    if uri is None:
        return
    try:
        saved = Artifacts.parse(uri.get("S"))
    except InvalidUriError:  # it may mean any object
        raise SavedAgainError from None
    if saved.overlap(wanted):
        raise SavedAgainError


def _is_transient(error: Exception) -> bool:
    if isinstance(error, dynamodb.CallError):
        return not isinstance(error, dynamodb.RejectedError)
    return artifacts.is_transient(error)


@cache
def connect() -> tuple["DynamoDBClient", "S3Client"]:
    """Return the clients, one of each for the life of the process."""
    return dynamodb.connect(), artifacts.connect()


# Connect while Lambda initialises. If that fails, the first batch fails for the same reason.
with suppress(Exception):
    connect()
