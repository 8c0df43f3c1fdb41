"""Free the storage of deleted checkpoints: a Lambda function on the checkpoints table's stream.

For each record that was removed from the table, it deletes the objects in S3 that the record's
`artifact_uri` names, but never one that was saved after the removal.
"""

import math
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.utilities.batch import (
    BatchProcessor,
    EventType,
    process_partial_response,
)
from aws_lambda_powertools.utilities.data_classes.dynamo_db_stream_event import DynamoDBRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from checkpoints import artifacts, dynamodb
from checkpoints.artifacts import Artifacts, Cleanup, InvalidUriError
from checkpoints.audit import Fields, ReclaimAudit, logger
from checkpoints.steps import to_integer

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

# To delete one page of objects and list the next takes two calls at most; the rest is for the log.
MIN_REMAINING_MS = (2 * artifacts.MAX_CALL_SECONDS + 5) * 1000

MAX_LOGGED_URI = 2_000  # characters; a valid one has fewer

processor = BatchProcessor(EventType.DynamoDBStreams, raise_on_entire_batch_failure=False)


class OutOfTimeError(Exception):
    """The invocation ends too soon to go on; the record comes again."""


class SavedAgainError(Exception):
    """The checkpoint was saved again, and its artifacts may be among those to delete."""


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
        reclaim(record, context, outcomes, bucket=bucket, dry_run=dry_run)

    failures = process_partial_response(event, handle, processor, context)
    return {**failures, "outcomes": outcomes} if "dry_run" in event else {**failures}


def reclaim(
    record: DynamoDBRecord,
    context: LambdaContext,
    outcomes: list[Fields],
    *,
    bucket: str,
    dry_run: bool,
) -> None:
    """Delete the artifacts of one removed record, and add the outcome to the outcomes.

    Raises:
        Exception: the record is not finished, and a later attempt can succeed.

    """
    change = record.raw_event["dynamodb"]
    image = change.get("OldImage", {})
    if record.raw_event["eventName"] != "REMOVE" or "artifact_uri" not in image:
        return
    _ensure_time(context)
    keys, uri = change["Keys"], image["artifact_uri"].get("S")
    # The stream has whole seconds, so the removal can be up to a second later than this.
    removed_at = datetime.fromtimestamp(math.floor(change["ApproximateCreationDateTime"]), UTC)
    step = to_integer(keys["step"]["N"])
    audit = ReclaimAudit(
        dry_run=dry_run,
        entity=image.get("entity", {}).get("S"),
        model_id=keys["model_id"]["S"],
        step=keys["step"]["N"] if step is None else step,
        artifact_uri=uri and uri[:MAX_LOGGED_URI],
        removed_at=removed_at.isoformat(),
    )
    dynamodb_client, s3_client = connect()
    try:
        wanted = Artifacts.parse(uri, bucket=bucket)
    except InvalidUriError as error:
        outcomes.append(audit.refused(str(error)))
        return

    def ensure_allowed() -> None:
        _ensure_not_saved_again(dynamodb_client, keys, wanted, context)
        _ensure_time(context)

    cleanup = Cleanup(s3_client, wanted, before=removed_at)
    try:
        cleanup.run(ensure_allowed, dry_run=dry_run)
    except SavedAgainError:
        outcomes.append(audit.finished("kept", cleanup))
    except Exception as error:
        is_transient = _is_transient(error)
        outcomes.append(audit.finished("retry" if is_transient else "failed", cleanup, error))
        if is_transient:
            raise
    else:
        outcomes.append(audit.finished("freed", cleanup))


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
    return isinstance(error, OutOfTimeError) or artifacts.is_transient(error)


@cache
def connect() -> tuple["DynamoDBClient", "S3Client"]:
    """Return the clients, one of each for the life of the process."""
    return dynamodb.connect(), artifacts.connect()


# Connect while Lambda initialises. If that fails, the first batch fails for the same reason.
with suppress(Exception):
    connect()
