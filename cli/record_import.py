"""Register the checkpoints that a bucket already has: read, list, plan, ask, and write records."""

import json
import math
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from rich.filesize import decimal
from rich.table import Table

from checkpoints.reclaim.artifacts import Artifacts
from checkpoints.records.numbers import to_integer
from checkpoints.records.record import key
from cli import metrics, stacks
from cli.errors import CommandError
from cli.import_plan import Key, Model, Records, sort_out, to_uri
from cli.layouts import TRAINER_STATE, Finder, Found, KnownNames, Pattern, Reason
from cli.options import Location
from cli.steps import format_steps
from cli.terminal import confirm, console, count_items, printable, run_concurrently

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef, ObjectTypeDef

CONCURRENCY = 16
# DynamoDB throttles more than 1,000 writes a second to one model.
CONFIG = Config(
    retries={"mode": "standard", "total_max_attempts": 10}, max_pool_connections=CONCURRENCY
)
MAX_STATE_BYTES = 16_000_000  # of a trainer_state.json
UNREADABLE = ("NoSuchKey", "InvalidObjectState")  # deleted meanwhile, or archived
MAX_LISTED_MODELS = 20  # for each reason; --json has all

COUNTS = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesDelayed",
    "ApproximateNumberOfMessagesNotVisible",
)


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
    outputs = stacks.read_outputs(stack)
    if "CheckpointsTableName" not in outputs:
        raise CommandError(f"The stack {stack!r} has no output CheckpointsTableName.")
    _ensure_freeing(outputs, location.bucket, without_freeing=without_freeing)
    client = boto3.client("dynamodb", config=CONFIG)
    s3 = boto3.client("s3", config=CONFIG)
    problem = find_problem(outputs)
    if problem and not dry_run:
        raise CommandError(f"{problem} Nothing was changed.")

    records = _read_records(client, outputs["CheckpointsTableName"], location.bucket)
    read_at = time.monotonic()
    newest = datetime.now(UTC) - timedelta(seconds=min_age) if min_age else None
    names = pattern or KnownNames()
    registered = [each for each in records.by_object if each.startswith(location.prefix)]
    finder = Finder(names, prefix=location.prefix, registered=registered)
    _list(s3, location, finder)
    models = sort_out(finder.finish(), records, location.bucket, newest=newest)
    missing = [each for lost in finder.missing for each in records.by_object[lost]]
    plan = Plan(stack, location, entity, dict(sorted(models.items())), finder.similar, missing)
    outcome = Outcome()
    try:
        if not as_json:
            plan.show()
        if problem:
            raise CommandError(f"{problem} A run that is not a dry run would write nothing.")
        if dry_run or not plan.new:
            return 0
        confirm("Register them?", yes=yes, stderr=as_json)
        _wait(read_at + settle, outputs)
        if problem := find_problem(outputs):
            raise CommandError(f"{problem} Nothing was changed.")
        writer = Writer(client, s3, outputs["CheckpointsTableName"], plan, outcome)
        try:
            outcome.planned = len(plan.new)
            run_concurrently(writer.write, plan.new, concurrency=CONCURRENCY, label="Registering")
        except KeyboardInterrupt:
            print("It is safe to run the command again.", file=sys.stderr)
            raise
        finally:
            outcome.show(to_stderr=as_json)
    finally:
        if as_json:
            document = plan.to_json() | outcome.to_json() | {"dry_run": dry_run}
            print(json.dumps(document, indent=2))
    return 0


def _ensure_freeing(outputs: Mapping[str, str], bucket: str, *, without_freeing: bool) -> None:
    """Raise an error if nothing frees the storage in this bucket, unless that is wanted."""
    own = outputs.get("ArtifactsBucketName")
    if bucket != own and not without_freeing:
        which = f"frees storage only in {own!r}" if own else "frees no storage"
        raise CommandError(
            f"The stack {which}, not in {bucket!r}. The objects of a deleted checkpoint would stay "
            "there, and each later import would register the checkpoint again. Deploy the stack "
            f"with ArtifactsBucket={bucket}. Or add --without-freeing, and do not import again "
            "after you delete checkpoints."
        )


def find_problem(outputs: Mapping[str, str]) -> str | None:
    """Say why a checkpoint that was deleted could be registered again now, or return None.

    Its objects are there until ReclaimFunction has handled its message.
    """
    if "ArtifactsBucketName" not in outputs:
        return None
    for output in ("QueueMappingId", "ReclaimQueueUrl", "DeadLetterQueueUrl"):
        if output not in outputs:
            raise CommandError(f"The stack has no output {output}. Deploy a newer version first.")
    return _find_mapping_problem(outputs["QueueMappingId"]) or _find_messages(outputs)


def _find_mapping_problem(mapping_id: str) -> str | None:
    mapping = boto3.client("lambda").get_event_source_mapping(UUID=mapping_id)
    state, result = mapping["State"], mapping.get("LastProcessingResult", "no result")
    if state != "Enabled":
        problem = f"is {state}"
    elif not result.startswith(("OK", "No records")):
        problem = f"reports {result!r}"
    else:
        return None
    return (
        f"The event source mapping of QueueFunction {problem}, so there may be deletions without a "
        "message. Solve this, wait until QueueFunction has read its stream, and try again."
    )


def _find_messages(outputs: Mapping[str, str]) -> str | None:
    sqs = boto3.client("sqs", config=CONFIG)
    counts = {}
    seconds = 0
    for name in ("ReclaimQueue", "DeadLetterQueue"):
        attributes: Any = sqs.get_queue_attributes(
            QueueUrl=outputs[f"{name}Url"], AttributeNames=["All"]
        )["Attributes"]
        ready, delayed, in_flight = (int(attributes[count]) for count in COUNTS)
        if ready or delayed or in_flight:
            counts[name] = ready + delayed + in_flight
            # A message in flight can be one whose attempt failed.
            limit = "VisibilityTimeout" if in_flight else "DelaySeconds"
            seconds = int(attributes[limit])
    if not counts:
        return None
    found = " and ".join(f"{count:,} in {name}" for name, count in counts.items())
    when = f"Try again in {math.ceil(seconds / 60) + 1} minutes."
    if "DeadLetterQueue" in counts:
        when = "Try again when DeadLetterQueue is empty: see ReclaimFailedAlarm in the docs."
    return (
        f"Messages of deleted checkpoints wait: {found}. Until their storage is freed, deleted "
        f"checkpoints could be registered again. {when}"
    )


def _read_records(client: "DynamoDBClient", table: str, bucket: str) -> Records:
    records = Records(bucket)
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
    for each in count_items(map(_read_page, pages), "Objects listed"):
        finder.add(each["Key"], each["Size"], each["LastModified"])


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


@dataclass
class Plan:
    """What an import would do."""

    stack: str
    location: Location
    entity: str
    models: dict[str, Model]
    similar: dict[Reason, tuple[int, str]]
    missing: list[Key]  # the records without any object

    @property
    def new(self) -> list[Found]:
        """The checkpoints to register."""
        return [found for model in self.models.values() for found in model.new]

    def show(self) -> None:
        """Print it for people."""
        output = console()
        if self.models:
            output.print(self._table())
        for reason in Reason:
            lines = [
                f"{len(left_out):,} of {printable(model_id)}, such as {printable(left_out[0].key)}"
                for model_id, model in self.models.items()
                if (left_out := model.left_out.get(reason, []))
            ]
            if more := lines[MAX_LISTED_MODELS:]:
                lines[MAX_LISTED_MODELS:] = [f"and of {len(more):,} more models (see --json)"]
            if reason in self.similar:
                count, example = self.similar[reason]
                lines.append(f"{count:,}, such as {printable(example)}")
            if lines:
                print(f"Left out: {reason}", *lines, sep="\n  ")
        if self.missing:
            print("Registered, but without any object here. To remove these records:")
            print(*(f"  {command}" for command in self._forget_commands().values()), sep="\n")
        if new := self.new:
            size = decimal(sum(each.size for each in new))
            print(f"To register for the entity {self.entity!r}: {len(new):,} ({size}).")
        else:
            print(f"There is nothing new to register in {printable(self.location.uri)}.")

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for heading in ("MODEL", "NEW", "SIZE", "STEPS", "NAME", "REGISTERED", "LEFT OUT"):
            is_text = heading in ("MODEL", "NAME")
            table.add_column(heading, overflow="fold", justify="left" if is_text else "right")
        for model_id, model in self.models.items():
            steps = sorted(each.step for each in model.new)
            table.add_row(
                printable(model_id),
                f"{len(steps):,}",
                decimal(sum(each.size for each in model.new)) if steps else "",
                f"{steps[0]} to {steps[-1]}" if steps else "",
                ", ".join(sorted({each.name for each in model.new})),
                f"{model.registered:,}",
                f"{sum(map(len, model.left_out.values())):,}",
            )
        return table

    def _missing_steps(self) -> dict[str, list[int]]:
        steps: dict[str, list[int]] = {}
        for model_id, step in sorted(self.missing):
            steps.setdefault(model_id, []).append(step)
        return steps

    def _forget_commands(self) -> dict[str, str]:
        return {
            model_id: " ".join(
                [
                    *("checkpoints", "records", "forget", "--stack", quote(self.stack)),
                    *(["--"] if model_id.startswith("-") or steps[0] < 0 else []),
                    *(quote(model_id), format_steps(steps)),
                ]
            )
            for model_id, steps in self._missing_steps().items()
        }

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        commands = self._forget_commands()
        return {
            "bucket": self.location.bucket,
            "prefix": self.location.prefix,
            "entity": self.entity,
            "models": [
                {
                    "model_id": model_id,
                    "new_steps": sorted(each.step for each in model.new),
                    "size_bytes": sum(each.size for each in model.new),
                    "names": sorted({each.name for each in model.new}),
                    "registered_count": model.registered,
                    "left_out": [
                        _describe(reason, len(left_out), left_out[0].key)
                        for reason, left_out in model.left_out.items()
                    ],
                }
                for model_id, model in self.models.items()
            ],
            "not_recognised": [
                _describe(reason, count, example)
                for reason, (count, example) in self.similar.items()
            ],
            "without_objects": [
                {"model_id": model_id, "steps": steps, "command": commands[model_id]}
                for model_id, steps in self._missing_steps().items()
            ],
        }


def _describe(reason: Reason, count: int, example: str) -> dict[str, Any]:
    return {
        "reason": reason.name.lower(),
        "message": str(reason),
        "count": count,
        "example": example,
    }


@dataclass
class Outcome:
    """What an import did."""

    planned: int = 0
    registered: list[Key] = field(default_factory=list)
    meanwhile: list[Key] = field(default_factory=list)  # another program registered them
    gone: list[Key] = field(default_factory=list)  # their objects are deleted
    warnings: dict[str, list[str]] = field(default_factory=dict)  # with the keys of objects

    @property
    def unconfirmed(self) -> int:
        """How many may have been registered or not, because the command stopped."""
        return self.planned - len(self.registered) - len(self.meanwhile) - len(self.gone)

    def show(self, *, to_stderr: bool) -> None:
        """Print it for people."""
        output = sys.stderr if to_stderr else sys.stdout
        print(f"Registered: {len(self.registered):,}.", file=output)
        if self.meanwhile:
            print(f"Registered meanwhile, not by this run: {len(self.meanwhile):,}.", file=output)
        if self.gone:
            print(f"Deleted meanwhile, so not registered: {len(self.gone):,}.", file=output)
        if self.unconfirmed:
            print(f"Not confirmed to be registered: {self.unconfirmed:,}.", file=output)
        for warning, keys in self.warnings.items():
            example = printable(keys[0])
            print(f"Warning: {warning} {len(keys):,}, such as {example}", file=sys.stderr)

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""

        def to_list(keys: list[Key]) -> list[dict[str, Any]]:
            return [{"model_id": model_id, "step": step} for model_id, step in sorted(keys)]

        return {
            "registered_count": len(self.registered),
            "registered_meanwhile": to_list(self.meanwhile),
            "deleted_meanwhile": to_list(self.gone),
            "unconfirmed_count": self.unconfirmed,
            "warnings": [
                {"message": message, "count": len(keys), "example": keys[0]}
                for message, keys in self.warnings.items()
            ],
        }


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
        listed = self._s3.list_objects_v2(
            Bucket=self._bucket, Prefix=found.newest_key, MaxKeys=1
        ).get("Contents", [])
        if [each["Key"] for each in listed] != [found.newest_key]:
            self._outcome.gone.append(own)
            return
        item: dict[str, Any] = key(*own) | {
            "entity": {"S": self._entity},
            "artifact_uri": {"S": to_uri(Artifacts(self._bucket, found.key))},
            "size_bytes": {"N": str(found.size)},
            "created_at": {"N": str(int(found.newest.timestamp()))},
        }
        if attribute := self._read_metrics(found):
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
            if error.response["Error"]["Code"] not in UNREADABLE:
                raise  # a record is never changed, so a later run could not add the metrics
            warning = "Archived or deleted"
        except (ValueError, RecursionError):
            warning = "Not a file of Transformers"
        self._warn(f"{warning}, so without metrics:", path)
        return {}

    def _warn(self, warning: str, path: str) -> None:
        self._outcome.warnings.setdefault(warning, []).append(path)


def quote(text: str) -> str:
    """Quote text for a shell. bash and zsh read the escapes of control characters."""
    if text.isprintable():
        return shlex.quote(text)
    parts = (
        each if each.isprintable() and each not in "\\'" else f"\\U{ord(each):08x}" for each in text
    )
    return f"$'{''.join(parts)}'"
