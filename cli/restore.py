"""Copy deleted records back from a restored table, and recover their artifacts."""

import sys
import time
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import batched
from typing import TYPE_CHECKING, Any
from uuid import UUID

import boto3
from boto3.dynamodb.types import TypeDeserializer

from checkpoints.records.record import key
from cli.artifact_recovery import Recovery, check_versioning
from cli.deletions import Deleted, find_in_log
from cli.errors import CommandError
from cli.stacks import CONFIG, output_of
from cli.steps import format_steps
from cli.terminal import run_concurrently

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

BATCH_SIZE = 25  # even the largest records, of 400 KB each, fit into one response of 16 MB
CONCURRENT_BATCHES = 8
MAX_BACKOFF_SECONDS = 5.0
RECOVERY_PERIOD = timedelta(days=35)  # DynamoDB's maximum

COPIED = "Copied back"
WITHOUT_EXPIRY = "Without their {}, which has passed, so that time to live does not delete them"
ALREADY_THERE = "Already there"
SAVED_AGAIN = "Saved again after the deletion, so left"
MISSING = "Not in the restored table (restore it to an earlier time, if they existed)"
FOREIGN = "Owned by another entity in the restored table, so not copied"
# The command stopped before the outcome of these steps was known.
UNCONFIRMED = "Not confirmed to be there"


def restore(  # noqa: PLR0913 these are the options of the command
    stack: str,
    *,
    source: str,
    requests: Collection[UUID],
    model_id: str | None,
    steps: Sequence[int] | None,
    artifacts: bool,
    records_only: bool,
    dry_run: bool,
) -> int:
    """Copy back what the requests deleted, or the steps of the model; return the exit code.

    With `records_only`, do not remind of their artifacts.
    """
    try:
        client = boto3.client("dynamodb", config=CONFIG)
        table = output_of(stack, "CheckpointsTableName")
        restored_to = _check_tables(client, source, table)
        expiry = _expiry_attribute(client, table)
        bucket = None
        if artifacts:
            bucket = output_of(stack, "ArtifactsBucketName", parameter="ArtifactsBucket")
            check_versioning(bucket)
        everything: dict[UUID | None, Deleted]
        if requests:
            log_group = output_of(stack, "ApiFunctionLogGroupName")
            # All of them first, so that nothing is copied if the id of one is wrong.
            everything = {
                request: find_in_log(log_group, request, since=restored_to)
                for request in dict.fromkeys(requests)
            }
        else:
            everything = {None: Deleted(model_id or "", list(steps or []))}
        succeeded = True
        for request, deleted in everything.items():
            if len(everything) > 1:
                print(f"Request: {request}")
            copy = Copy(client, source, table, deleted, expiry=expiry, dry_run=dry_run)
            recovery = None
            if bucket and deleted.steps:
                recovery = Recovery(bucket, since=restored_to, dry_run=dry_run)
            succeeded &= _restore(copy, recovery, remind=not records_only)
            if not deleted.complete:
                print(
                    f"The log does not show the whole request {request} yet. Run the command again "
                    "later.",
                    file=sys.stderr,
                )
                succeeded = False
    except KeyboardInterrupt:
        print("It is safe to run the command again.", file=sys.stderr)
        raise
    return int(not succeeded)


def _restore(copy: "Copy", recovery: Recovery | None, *, remind: bool) -> bool:
    """Copy records back, and recover artifacts; return whether all of them are there."""
    try:
        copy.run()
    finally:
        copy.report()
    # After the records, because artifacts are not deleted again if their record is in the table.
    if recovery:
        try:
            recovery.run(copy.artifact_uris)
        finally:
            recovery.report()
    elif remind and copy.has_copied_artifact_uris:
        print("Their artifacts may have been deleted. To recover them too, add --artifacts.")
    return copy.succeeded and (recovery is None or recovery.succeeded)


def _check_tables(client: "DynamoDBClient", source: str, target: str) -> datetime:
    """Return the time to which the source was restored, or the earliest possible time.

    Raises:
        CommandError: the source is not a restored copy of the table.

    """
    try:
        restored = client.describe_table(TableName=source)["Table"]
    except client.exceptions.ResourceNotFoundException:
        raise CommandError(
            f"There is no table {source!r} in the region {client.meta.region_name}."
        ) from None
    own = client.describe_table(TableName=target)["Table"]
    if restored["TableArn"] == own["TableArn"]:
        raise CommandError(f"{source!r} is the stack's own table. Name the restored table.")
    if restored["TableStatus"] != "ACTIVE":
        raise CommandError(
            f"The table {source!r} is {restored['TableStatus']}. Wait until it is ACTIVE."
        )
    if restored["KeySchema"] != own["KeySchema"]:
        raise CommandError(
            f"The table {source!r} does not have the same keys as the stack's table."
        )
    if "RestoreSummary" in restored:
        return restored["RestoreSummary"]["RestoreDateTime"]
    return restored["CreationDateTime"] - RECOVERY_PERIOD


def _expiry_attribute(client: "DynamoDBClient", table: str) -> str | None:
    """Return the attribute with the time when DynamoDB deletes a record, if that is on.

    It can take an hour to turn time to live off. Until then, DynamoDB can still delete records.
    """
    found = client.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
    return None if found["TimeToLiveStatus"] == "DISABLED" else found.get("AttributeName")


class Copy:
    """Copies missing records, and collects the outcome of each step.

    `expiry` is the attribute that time to live reads, if it is on. A record is copied without it
    if its time has passed, because DynamoDB would delete the record again.
    """

    def __init__(  # noqa: PLR0913 the two tables, what is copied, and how
        self,
        client: "DynamoDBClient",
        source: str,
        target: str,
        deleted: Deleted,
        *,
        expiry: str | None,
        dry_run: bool,
    ) -> None:
        self._client = client
        self._source = source
        self._target = target
        self._deleted = deleted
        self._expiry = expiry
        self._dry_run = dry_run
        self._without_expiry: set[int] = set()
        self._outcomes = dict.fromkeys(deleted.steps, UNCONFIRMED)
        # By step, for records that are the same in both tables.
        self.artifact_uris: dict[int, str | None] = {}

    @property
    def succeeded(self) -> bool:
        """Whether every checkpoint is there; in a dry run, whether it would be."""
        return set(self._outcomes.values()) <= {COPIED, ALREADY_THERE, SAVED_AGAIN}

    @property
    def has_copied_artifact_uris(self) -> bool:
        """Whether any copied record has an `artifact_uri`."""
        return any(self._outcomes[step] == COPIED for step in self.artifact_uris)

    def run(self) -> None:
        """Copy batches of records concurrently. After a failure, start no more batches."""
        batches = batched(self._deleted.steps, BATCH_SIZE, strict=False)
        run_concurrently(self._copy, batches, concurrency=CONCURRENT_BATCHES, label="Copying back")

    def report(self) -> None:
        """Print the outcomes of the steps."""
        if not self._outcomes:
            print("The request deleted nothing, so there is nothing to copy back.")
            return
        print(f"Model: {self._deleted.model_id!r}")
        print(f"From: {self._source}")
        print(f"To: {self._target}")
        for name in (COPIED, ALREADY_THERE, SAVED_AGAIN, FOREIGN, MISSING, UNCONFIRMED):
            steps = [step for step, outcome in self._outcomes.items() if outcome == name]
            headline = "Would be copied back" if self._dry_run and name == COPIED else name
            if steps:
                print(f"  {headline}: {len(steps):,} ({format_steps(steps)})")
            if name == COPIED and self._without_expiry:
                dropped = sorted(self._without_expiry.intersection(steps))
                headline = WITHOUT_EXPIRY.format(self._expiry)
                print(f"    {headline}: {len(dropped):,} ({format_steps(dropped)})")

    def _copy(self, steps: Sequence[int]) -> None:
        existing = self._read(self._target, steps)
        records = self._read(self._source, steps)
        for step in steps:
            record = records.get(step)
            lasting = self._without_passed_expiry(record or {})
            if step in existing and not _is_one_of(existing[step], record, lasting):
                outcome = SAVED_AGAIN
            elif record is None:
                outcome = MISSING
            elif self._deleted.entity not in (None, record.get("entity", {}).get("S")):
                outcome = FOREIGN
            elif step in existing:
                outcome = ALREADY_THERE
            else:
                outcome = COPIED if self._dry_run or self._put(lasting) else SAVED_AGAIN
                if lasting != record and outcome == COPIED:
                    self._without_expiry.add(step)
            self._outcomes[step] = outcome
            if record and "artifact_uri" in record and outcome in (COPIED, ALREADY_THERE):
                self.artifact_uris[step] = record["artifact_uri"].get("S")

    def _without_passed_expiry(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return the record, without its expiry if that has passed and time to live is on."""
        expires_at = record.get(self._expiry or "", {}).get("N")
        if expires_at is None or Decimal(expires_at) > time.time():
            return record
        return {name: value for name, value in record.items() if name != self._expiry}

    def _read(self, table: str, steps: Iterable[int]) -> dict[int, dict[str, Any]]:
        """Return the records at these steps."""
        keys = [key(self._deleted.model_id, step) for step in steps]
        request: Any = {table: {"Keys": keys, "ConsistentRead": True}} if keys else {}
        records: dict[int, dict[str, Any]] = {}
        backoff = 0.1
        while request:
            response: Any = self._client.batch_get_item(RequestItems=request)
            for items in response["Responses"].values():
                records |= {int(Decimal(item["step"]["N"])): item for item in items}
            request = response["UnprocessedKeys"]
            if request:  # DynamoDB is throttled
                time.sleep(backoff)
                backoff = min(2 * backoff, MAX_BACKOFF_SECONDS)
        return records

    def _put(self, record: dict[str, Any]) -> bool:
        """Save a record if there is none with its key; return whether it was saved."""
        try:
            self._client.put_item(
                TableName=self._target,
                Item=record,
                ConditionExpression="attribute_not_exists(model_id)",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except self._client.exceptions.ConditionalCheckFailedException as error:
            # If the response to the first attempt was lost, the record is already there.
            found: Any = error.response.get("Item")
            return _is_one_of(found, record)
        return True


def _is_one_of(record: dict[str, Any] | None, *others: dict[str, Any] | None) -> bool:
    """Compare records, which may be None. DynamoDB can return sets in any order."""
    deserialize = TypeDeserializer().deserialize
    values = [each and deserialize({"M": each}) for each in (record, *others)]
    return values[0] in values[1:]
