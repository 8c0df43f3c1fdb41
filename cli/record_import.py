"""Register the checkpoints that a bucket already has: read, list, plan, ask, and write records."""

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import TYPE_CHECKING, Any

import boto3
import typer
from botocore.config import Config
from botocore.exceptions import ClientError
from rich.filesize import decimal

from checkpoints.reclaim.artifacts import Artifacts
from checkpoints.records.numbers import to_integer
from checkpoints.records.record import key
from cli import metrics, pending, stacks
from cli.errors import CommandError, describe, explain
from cli.import_plan import KnownRecords, sort_out
from cli.import_report import Outcome, Plan
from cli.layouts import TRAINER_STATE, Finder, Found, KnownNames, Pattern
from cli.options import Location
from cli.terminal import confirm, count_items, run_concurrently

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef, ObjectTypeDef

CONCURRENCY = 16
CONFIG = stacks.CONFIG.merge(Config(max_pool_connections=CONCURRENCY))
MAX_STATE_BYTES = 16_000_000  # of a trainer_state.json
UNREADABLE = ("NoSuchKey", "InvalidObjectState")  # deleted meanwhile, or archived
DENIED = ("AccessDenied", "403")  # the second if the response has no body


def import_records(  # noqa: PLR0913 these are the options of the command
    stack: str,
    location: Location,
    *,
    entity: str,
    pattern: Pattern | None,
    min_age: int,
    settle: int,
    without_freeing: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Register the checkpoints below a prefix; return the exit code."""
    plan = Plan(stack, location, entity)
    outcome = Outcome()
    with _printed(plan, outcome, dry_run=dry_run) if as_json else nullcontext():
        outputs = stacks.read_outputs(stack)
        if "CheckpointsTableName" not in outputs:
            raise CommandError(f"The stack {stack!r} has no output CheckpointsTableName.")
        table = outputs["CheckpointsTableName"]
        pending.ensure_freeing(outputs, location.bucket, without_freeing=without_freeing)
        client = boto3.client("dynamodb", config=CONFIG)
        s3 = boto3.client("s3", config=CONFIG)
        problem = pending.find_problem(outputs)
        if problem and not dry_run:
            raise CommandError(f"{problem} Nothing was changed.")

        records = _read_records(client, table, location.bucket)
        settled = time.monotonic() + settle
        newest = datetime.now(UTC) - timedelta(seconds=min_age) if min_age else None
        registered = [each for each in records.by_object if each.startswith(location.prefix)]
        finder = Finder(pattern or KnownNames(), prefix=location.prefix, registered=registered)
        _list(s3, location, finder)
        models = sort_out(finder.finish(), records, location.bucket, newest=newest)
        plan.models, plan.similar = dict(sorted(models.items())), finder.similar
        plan.missing = [each for lost in finder.missing for each in records.by_object[lost]]
        if not as_json:
            plan.show()
        if problem:
            raise CommandError(f"{problem} A run that is not a dry run would write nothing.")
        if dry_run or not plan.new:
            return 0
        confirm("Register them?", yes=yes, stderr=as_json)
        if not yes:  # what was deleted while it asked counts, too
            settled = time.monotonic() + settle
        _wait(settled, outputs)
        if problem := pending.find_problem(outputs):
            raise CommandError(f"{problem} Nothing was changed.")
        writer = Writer(client, s3, table, plan, outcome)
        outcome.planned = len(plan.new)
        try:
            run_concurrently(writer.write, plan.new, concurrency=CONCURRENCY, label="Registering")
        except KeyboardInterrupt:
            print("It is safe to run the command again.", file=sys.stderr)
            raise
        finally:
            outcome.show(to_stderr=as_json)
        if outcome.denied:
            raise CommandError(
                f"S3 denies s3:GetObject on these files: {len(outcome.denied):,}. Allow it, and "
                "kms:Decrypt if a key of KMS encrypts them. Then run the command again."
            )
    return 0


@contextmanager
def _printed(plan: Plan, outcome: Outcome, *, dry_run: bool) -> Iterator[None]:
    """Print the plan and the outcome as JSON after the block, with the error if it fails."""
    error = None
    try:
        yield
    except (KeyboardInterrupt, typer.Abort):
        error = "It was interrupted."
        raise
    except Exception as failure:
        error = explain(failure) or repr(failure)
        raise
    finally:
        document = plan.to_json() | outcome.to_json() | {"dry_run": dry_run, "error": error}
        print(json.dumps(document, indent=2))


def _read_records(client: "DynamoDBClient", table: str, bucket: str) -> KnownRecords:
    records = KnownRecords(bucket)
    pages = client.get_paginator("scan").paginate(
        TableName=table,
        ProjectionExpression="model_id, #step, artifact_uri",
        ExpressionAttributeNames={"#step": "step"},
        ConsistentRead=True,
    )
    for item in count_items((page["Items"] for page in pages), "Records read"):
        uri = item.get("artifact_uri", {}).get("S")
        records.add(item["model_id"]["S"], to_integer(item["step"]["N"]), uri)
    return records


def _list(client: "S3Client", location: Location, finder: Finder) -> None:
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=location.bucket, Prefix=location.prefix
    )
    try:
        for each in count_items(map(_read_page, pages), "Objects listed"):
            finder.add(each["Key"], each["Size"], each["LastModified"])
    except ClientError as error:
        stacks.check_bucket(client, location.bucket)
        raise CommandError(f"S3 does not list {location.uri}. {describe(error)}") from None


def _read_page(page: "ListObjectsV2OutputTypeDef") -> list["ObjectTypeDef"]:
    if "IsTruncated" not in page:  # botocore parses a response without a body as an empty list
        raise CommandError("S3 returned a list of objects without a body. Run the command again.")
    return page.get("Contents", [])


def _wait(end: float, outputs: Mapping[str, str]) -> None:
    """Wait until SQS counts the messages of all deletions that the table did not show."""
    seconds = end - time.monotonic()
    if seconds > 0 and "ArtifactsBucketName" in outputs:
        print(f"Waiting {math.ceil(seconds)} s for the counts of the queues.", file=sys.stderr)
        time.sleep(seconds)


class Writer:
    """Writes the records that do not exist yet."""

    def __init__(
        self, client: "DynamoDBClient", s3: "S3Client", table: str, plan: Plan, outcome: Outcome
    ) -> None:
        self._client = client
        self._s3 = s3
        self._table = table
        self._bucket = plan.location.bucket
        self._entity = plan.entity
        self._outcome = outcome
        self._parsing = Lock()  # one file at a time: parsed, it takes many times its size

    def write(self, found: Found) -> None:
        """Register a checkpoint, if its objects are still there."""
        own = (found.model_id, found.step)
        # A message that was sent after the first look at the queue may be done already.
        page = self._s3.list_objects_v2(Bucket=self._bucket, Prefix=found.newest_key, MaxKeys=1)
        listed = {each["Key"]: each for each in _read_page(page)}.get(found.newest_key)
        if not listed:
            self._outcome.gone.append(own)
            return
        if (listed["LastModified"], listed["Size"]) != (found.newest, found.newest_size):
            self._outcome.changed.append(own)
            return
        item: dict[str, Any] = key(*own) | {
            "entity": {"S": self._entity},
            "artifact_uri": {"S": Artifacts(self._bucket, found.key).uri},
            "size_bytes": {"N": str(found.size)},
            "created_at": {"N": str(int(found.newest.timestamp()))},
        }
        try:
            attribute = self._read_metrics(found)
        except PermissionError:  # a record is never changed, so a later run could not add them
            self._outcome.denied.append(f"{found.key}{TRAINER_STATE}")
            return
        if attribute:
            item["metrics"] = {"M": attribute}
        is_new = self._put(item)
        (self._outcome.registered if is_new else self._outcome.meanwhile).append(own)

    def _put(self, item: dict[str, Any]) -> bool:
        """Save a record if there is none with its key; return whether it was saved."""
        try:
            self._client.put_item(
                TableName=self._table,
                Item=item,
                ConditionExpression="attribute_not_exists(model_id)",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except self._client.exceptions.ConditionalCheckFailedException as error:
            # If the response to the first attempt was lost, the record is already there.
            was_sent_again = error.response["ResponseMetadata"]["RetryAttempts"] > 0
            return was_sent_again and error.response.get("Item") == item
        return True

    def _read_metrics(self, found: Found) -> dict[str, Any]:
        name = found.key.removesuffix("/").rpartition("/")[2]
        numbers = metrics.from_name(name)
        if found.trainer_state_size is not None:
            numbers |= self._read_trainer_state(found, found.trainer_state_size)
        try:
            return metrics.to_attribute(numbers.items())
        except metrics.TooManyError as error:
            self._warn(f"{error} Checkpoints:", found.key)
            return error.metrics

    def _read_trainer_state(self, found: Found, size: int) -> dict[str, object]:
        """Return the metrics at the step. A file that is broken or too large has none."""
        path = f"{found.key}{TRAINER_STATE}"
        text = b""
        try:
            if size <= MAX_STATE_BYTES:
                with self._s3.get_object(Bucket=self._bucket, Key=path)["Body"] as body:
                    text = body.read(MAX_STATE_BYTES + 1)
                size = len(text)  # it can have changed
            if size > MAX_STATE_BYTES:
                warning = f"Over {decimal(MAX_STATE_BYTES)}"
            else:
                with self._parsing:
                    return metrics.from_trainer_state(text, found.step)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in DENIED:
                raise PermissionError from None
            if code not in UNREADABLE:
                raise
            warning = "Archived or deleted"
        except (ValueError, RecursionError):
            warning = "Not a file of Transformers"
        self._warn(f"{warning}, so without metrics:", path)
        return {}

    def _warn(self, warning: str, path: str) -> None:
        self._outcome.warnings.setdefault(warning, []).append(path)
