"""Protect records of a model, or remove records without freeing the storage of their artifacts."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import boto3
from rich import filesize

from checkpoints.records.numbers import to_integer
from checkpoints.records.record import (
    IS_NOT_PROTECTED,
    NOT_PROTECTED,
    Checkpoint,
    is_protected,
    key,
)
from cli.stacks import CONFIG, output_of
from cli.steps import format_steps
from cli.terminal import confirm, run_concurrently

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

CONCURRENT_RECORDS = 8

PROTECTED = "Protected"
NO_LONGER_EXPIRES = "Protected, and expires_at removed, so that they do not expire"
ALREADY_PROTECTED = "Already protected"
UNPROTECTED = "No longer protected"
ALREADY_UNPROTECTED = "Already not protected"
FORGOTTEN = "Forgotten"
GONE = "Deleted by another program in the meantime"
SAVED_AGAIN = "Saved again in the meantime, so left"
LEFT_PROTECTED = "Protected, so left"
NO_RECORD = "No record"
UNCONFIRMED = "Not confirmed"  # the command stopped before the outcome was known
OUTCOMES = (
    *(PROTECTED, NO_LONGER_EXPIRES, ALREADY_PROTECTED),
    *(UNPROTECTED, ALREADY_UNPROTECTED),
    *(FORGOTTEN, GONE, SAVED_AGAIN, LEFT_PROTECTED),
    *(NO_RECORD, UNCONFIRMED),
)

type Step = int | Decimal  # a Decimal if a record has a step that is not an integer
type Record = Mapping[str, Any]  # in DynamoDB's notation


def protect(stack: str, model_id: str, steps: Sequence[int]) -> int:
    """Set `protected` and remove `expires_at` at these ascending steps; return the exit code."""
    records = Records(stack, model_id, steps)

    def change(record: Record) -> str:
        if record.get("protected") == {"BOOL": True} and "expires_at" not in record:
            return ALREADY_PROTECTED
        # DynamoDB's time to live ignores `protected`.
        update = "SET protected = :true REMOVE expires_at"
        before = records.update(record, update, values={":true": {"BOOL": True}})
        if before is None:
            return NO_RECORD
        # If the response to a first attempt was lost, `before` is what that attempt wrote.
        expired = "expires_at" in record or "expires_at" in before
        return NO_LONGER_EXPIRES if expired else PROTECTED

    records.change(records.found, change, label="Protecting")
    return records.exit_code


def unprotect(stack: str, model_id: str, steps: Sequence[int]) -> int:
    """Remove `protected` at these ascending steps, and return the exit code."""
    records = Records(stack, model_id, steps)

    def change(record: Record) -> str:
        if not is_protected(record):
            return ALREADY_UNPROTECTED
        before = records.update(record, "REMOVE protected")
        return NO_RECORD if before is None else UNPROTECTED

    records.change(records.found, change, label="Unprotecting")
    return records.exit_code


def forget(
    stack: str, model_id: str, steps: Sequence[int] | None, *, dry_run: bool, yes: bool
) -> int:
    """Remove the records at these ascending steps, or all; free nothing; return the exit code."""
    records = Records(stack, model_id, steps)
    to_forget = [step for step, record in records.found.items() if not is_protected(record)]
    for step in records.found.keys() - set(to_forget):
        records.outcomes[step] = LEFT_PROTECTED
    _show_plan(records, to_forget)
    if to_forget and not dry_run:
        confirm("Remove these records? Their artifacts stay.", yes=yes)
        records.change(to_forget, lambda record: _forget(records, record), label="Forgetting")
    # A step without a record needs no work, so that a second run can finish the first.
    return int(bool({LEFT_PROTECTED, SAVED_AGAIN} & set(records.outcomes.values())))


class Records:
    """The records of one model, and what happened to each.

    `found` has the records, by step, when the command began. `outcomes` has each step that was
    asked for or found.
    """

    def __init__(self, stack: str, model_id: str, steps: Sequence[int] | None) -> None:
        """Read the records at these ascending steps, or all records."""
        self._table = output_of(stack, "CheckpointsTableName")
        self._client: DynamoDBClient = boto3.client("dynamodb", config=CONFIG)
        self.model_id = model_id
        self.found = self._read(steps)
        self.outcomes: dict[Step, str] = dict.fromkeys(steps or (), NO_RECORD)
        self.outcomes |= dict.fromkeys(self.found, UNCONFIRMED)

    @property
    def exit_code(self) -> int:
        """1 if a step has no record, otherwise 0."""
        return int(NO_RECORD in self.outcomes.values())

    def change(self, steps: Iterable[Step], change: Callable[[Record], str], *, label: str) -> None:
        """Change the records at these steps concurrently, and print all outcomes.

        `change` returns the outcome of a record. After a failure, start no more changes.
        """

        def work(step: Step) -> None:
            self.outcomes[step] = change(self.found[step])

        try:
            run_concurrently(work, steps, concurrency=CONCURRENT_RECORDS, label=label)
        except KeyboardInterrupt:
            print("It is safe to run the command again.", file=sys.stderr)
            raise
        finally:
            print(f"Model: {self.model_id!r}")
            self.report(*OUTCOMES)

    def report(self, *outcomes: str) -> None:
        """Print the steps with each of these outcomes, if there are any."""
        steps: dict[str, list[Step]] = {outcome: [] for outcome in OUTCOMES}
        for step, outcome in list(self.outcomes.items()):  # after Ctrl-C, a thread may still work
            steps[outcome].append(step)
        for outcome in outcomes:
            if found := steps[outcome]:
                print(f"  {outcome}: {len(found):,} ({_format(found)})")

    def update(
        self, record: Record, expression: str, *, condition: str = "", values: Record | None = None
    ) -> Record | None:
        """Update a record if it exists and the condition is true.

        Return the record before the update, or `None` if there is none.

        Raises:
            UnmetConditionError: the condition is not true.

        """
        parameters: Any = {"ExpressionAttributeValues": values} if values else {}
        exists = "attribute_exists(model_id)"
        try:
            response = self._client.update_item(
                TableName=self._table,
                Key=self._key(record),
                UpdateExpression=expression,
                ConditionExpression=f"{exists} AND {condition}" if condition else exists,
                ReturnValues="ALL_OLD",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
                **parameters,
            )
        except self._client.exceptions.ConditionalCheckFailedException as error:
            found: Any = error.response.get("Item")
            if found:
                raise UnmetConditionError(found) from None
            return None
        return response["Attributes"]

    def delete(self, record: Record, *, condition: str) -> None:
        """Delete a record on a condition, which must also be true if there is no record.

        Raises:
            UnmetConditionError: the condition is not true.

        """
        try:
            self._client.delete_item(
                TableName=self._table,
                Key=self._key(record),
                ConditionExpression=condition,
                ExpressionAttributeValues={":not_protected": NOT_PROTECTED},
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except self._client.exceptions.ConditionalCheckFailedException as error:
            found: Any = error.response.get("Item", {})
            raise UnmetConditionError(found) from None

    def _key(self, record: Record) -> Record:
        return key(self.model_id, record["step"]["N"])

    def _read(self, steps: Sequence[int] | None) -> dict[Step, Record]:
        """Return the records at these ascending steps, or all; also read those in between."""
        condition, values = "model_id = :model_id", {":model_id": {"S": self.model_id}}
        if steps is not None:
            condition += " AND #step BETWEEN :first AND :last"
            values |= {":first": {"N": str(steps[0])}, ":last": {"N": str(steps[-1])}}
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression=condition,
            ProjectionExpression="#step, entity, artifact_uri, size_bytes, expires_at, protected",
            ExpressionAttributeNames={"#step": "step"},
            ExpressionAttributeValues=values,
            ConsistentRead=True,
        )
        wanted = None if steps is None else set(steps)
        records = ((_step(record), record) for page in pages for record in page["Items"])
        return {step: record for step, record in records if wanted is None or step in wanted}


class UnmetConditionError(Exception):
    """A record is not as the command expects; `found` is what the table has."""

    def __init__(self, found: Record) -> None:
        super().__init__()
        self.found = found


def _forget(records: Records, record: Record) -> str:
    """Remove a record so that its artifacts stay, and return the outcome.

    QueueFunction takes `artifact_uri` from the stream's image of the deleted record. So remove the
    attribute first, and then the record only if it still has none.
    """
    uri = record.get("artifact_uri")

    def why_left(found: Record) -> str | None:
        if not is_protected(found):
            return SAVED_AGAIN if "artifact_uri" in found else None
        if uri and "artifact_uri" not in found:  # it was protected after the first step: undo that
            with suppress(UnmetConditionError):
                records.update(
                    record,
                    "SET artifact_uri = :uri",
                    condition="attribute_not_exists(artifact_uri)",
                    values={":uri": uri},
                )
        return LEFT_PROTECTED

    if uri:
        try:
            before = records.update(
                record,
                "REMOVE artifact_uri",
                condition=f"artifact_uri = :uri AND {IS_NOT_PROTECTED}",
                values={":uri": uri, ":not_protected": NOT_PROTECTED},
            )
        except UnmetConditionError as unmet:
            if left := why_left(unmet.found):
                return left
            # A first attempt removed the attribute, but its response was lost.
        else:
            if before is None:
                return GONE
    try:
        records.delete(
            record, condition=f"attribute_not_exists(artifact_uri) AND {IS_NOT_PROTECTED}"
        )
    except UnmetConditionError as unmet:
        return why_left(unmet.found) or SAVED_AGAIN
    return FORGOTTEN


def _show_plan(records: Records, to_forget: list[Step]) -> None:
    """Print which records would be removed, and which not."""
    print(f"Model: {records.model_id!r}")
    steps = f" ({_format(to_forget)})" if to_forget else ""
    print(f"  To forget: {len(to_forget):,}{steps}")
    if to_forget:
        found = [records.found[step] for step in to_forget]
        sizes = [size for record in found if (size := size_of(record)) is not None]
        owners = Counter(owner_of(record) for record in found).most_common()
        names = [f"{owner!r} ({n:,})" if owner else f"nobody ({n:,})" for owner, n in owners]
        print(f"  First and last step: {to_forget[0]}, {to_forget[-1]}")
        print(f"  Recorded size: {format_size(sum(sizes), known=len(sizes), of=len(found))}")
        print(f"  Owners: {', '.join(names)}")
    records.report(LEFT_PROTECTED, NO_RECORD)


def owner_of(record: Record) -> str | None:
    """Return the owner of a record, or `None` if it has none: then the API does not find it."""
    entity: str | None = record.get("entity", {}).get("S")
    return entity or None


def size_of(record: Record) -> int | None:
    """Return the recorded size in bytes, or `None` if it is missing or not valid."""
    checkpoint = Checkpoint.from_item(record)
    return checkpoint.size_bytes if checkpoint else None


def format_size(size: int, *, known: int, of: int) -> str:
    """Return a sum of sizes for people, and for how many checkpoints it is known if not all."""
    if not known:
        return "not known"
    return filesize.decimal(size) + (f" (known for {known:,} of {of:,})" if known < of else "")


def _step(record: Record) -> Step:
    number = record["step"]["N"]
    step = to_integer(number)
    return Decimal(number) if step is None else step


def _format(steps: Iterable[Step]) -> str:
    """Format ascending steps; those that are not integers come last."""
    steps = list(steps)
    integers = [step for step in steps if isinstance(step, int)]
    others = [str(step) for step in steps if not isinstance(step, int)]
    return ",".join(filter(None, [format_steps(integers), *others]))
