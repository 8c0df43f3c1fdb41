"""The checkpoints of a model that one entity owns: read them, and delete them exactly."""

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import count, islice
from operator import gt, lt
from typing import TYPE_CHECKING, Any

from checkpoints.dynamodb import CallError, Calls, RejectedError
from checkpoints.records.batches import run_in_batches
from checkpoints.records.numbers import intersect, storable
from checkpoints.records.record import (
    IS_NOT_PROTECTED,
    MAX_MODEL_ID_BYTES,
    NOT_PROTECTED,
    Checkpoint,
    is_protected,
    key,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import QueryOutputTypeDef

# DynamoDB's limits.
MAX_BATCH_KEYS = 100
MAX_TRANSACTION_ACTIONS = 100

# A query also reads the records between the requested steps. Its response is *sparse* if it covers
# fewer than MAX_BATCH_KEYS steps, or less than one step per 20 records read. (20 records of 200
# bytes cost as much as one key of a batch.) After three of these, read the other steps in batches.
MAX_SPARSE_RESPONSES = 3
RECORDS_PER_KEY = 20

# If a query does not fill a page of the list, because it reads records of other entities, the next
# query reads READ_GROWTH times as many records, so that even a large number takes only a few calls.
# One call reads up to 1 MB: about 20,000 small records.
READ_GROWTH = 4
MAX_READ_RECORDS = 20_000


class Outcome:
    """What a request does with its distinct steps `requested`; a dry run says what it would do.

    The steps in `deleted` have no checkpoint any more. Those in `protected` still have one, because
    it is protected.
    """

    def __init__(self, requested: list[int]) -> None:
        self.requested = requested
        self.deleted: set[int] = set()
        self.protected: set[int] = set()

    @property
    def protected_steps(self) -> list[int]:
        """The steps that were left because they are protected, in the order of the request."""
        return [step for step in self.requested if step in self.protected]

    @property
    def not_found_steps(self) -> list[int]:
        """The steps that a complete request did not find, in the order of the request."""
        found = self.deleted | self.protected
        return [step for step in self.requested if step not in found]


class Deletion(Outcome):
    """The progress of one request to delete checkpoints.

    The steps in `unconfirmed` were sent to DynamoDB, but their outcome is unknown, so they may have
    been deleted. The request has changed no step besides these and those in `deleted`.
    """

    def __init__(self, requested: list[int]) -> None:
        super().__init__(requested)
        self.unconfirmed: set[int] = set()


class IncompleteDeletionError(Exception):
    """A deletion stopped before it was complete: `deletion` has the counts, `__cause__` why."""

    def __init__(self, deletion: Deletion) -> None:
        counts = f"{len(deletion.deleted)} deleted, {len(deletion.unconfirmed)} unconfirmed"
        super().__init__(counts)
        self.deletion = deletion


class OwnedCheckpoints:
    """The checkpoints of one model that one entity owns, for the length of one request.

    The model's id can have any length. If it does not fit into a key, it has no checkpoints.
    """

    def __init__(
        self, client: "DynamoDBClient", table: str, *, model_id: str, entity: str, calls: Calls
    ) -> None:
        self._client = client
        self._table = table
        self._model_id = model_id
        self._entity = entity
        self._calls = calls

    def delete(self, steps: Sequence[int]) -> Deletion:
        """Delete the checkpoints at these steps: integers of any size; duplicates count once.

        A step without a checkpoint, or with the checkpoint of another entity, is *not found*: the
        caller cannot tell them apart. The entity's protected checkpoints are left.

        Raises:
            IncompleteDeletionError: DynamoDB failed, or an internal error occurred.

        """
        deletion = Deletion(_distinct(steps))
        try:
            run_in_batches(
                lambda batch: self._send(batch, deletion),
                self._plan(deletion),
                MAX_TRANSACTION_ACTIONS,
            )
        except Exception as error:
            raise IncompleteDeletionError(deletion) from error
        return deletion

    def dry_run(self, steps: Sequence[int]) -> Outcome:
        """Return what `delete` would delete now. Only reads.

        Raises:
            CallError: DynamoDB failed.

        """
        outcome = Outcome(_distinct(steps))
        outcome.deleted.update(self._deletable(self._possible(outcome.requested), outcome))
        return outcome

    def after(self, step: int | None, records: int, *, descending: bool) -> Iterator[Checkpoint]:
        """Yield the checkpoints after a step, or all of them, sorted by step.

        The step need not exist. The first query reads `records` records: as many as the caller
        needs if all of them are the entity's.

        Raises:
            CallError: DynamoDB failed.

        """
        if not self._has_possible_model:
            return
        last_read = None if step is None else str(step)
        while True:
            response = self._query(last_read, records, descending=descending)
            for item in response["Items"]:
                if checkpoint := Checkpoint.from_item(item):
                    yield checkpoint
            if "LastEvaluatedKey" not in response:
                return
            last_read = response["LastEvaluatedKey"]["step"]["N"]
            records = min(records * READ_GROWTH, MAX_READ_RECORDS)

    def _plan(self, deletion: Deletion) -> list[int]:
        """Return the steps to send deletes for: all if they are few, else those that a read finds.

        A read costs less than a delete that finds nothing. A checkpoint that is saved after the
        read was saved after the request arrived, so the request need not delete it. A checkpoint
        that is deleted or protected after the read fails the condition of the transaction.
        """
        possible = self._possible(deletion.requested)
        if len(possible) <= MAX_TRANSACTION_ACTIONS:
            return possible
        return self._deletable(possible, deletion)

    def _send(self, steps: Sequence[int], deletion: Deletion) -> None:
        """Delete the checkpoints that exist at these steps, usually in one transaction.

        There are at most `MAX_TRANSACTION_ACTIONS` steps. If some checkpoints do not exist or are
        protected, DynamoDB cancels the transaction and says which, and it is sent again without
        them. DynamoDB also rejects a transaction whose records exceed 4 MB, so one rejected as
        invalid is sent again in two halves.

        Raises:
            CallError: the transaction failed, or it is invalid although it has only one step.

        """
        pending = [steps]
        while pending:
            steps = pending.pop()
            try:
                self._transact(steps, deletion)
            except RejectedError as error:
                codes = error.cancellation_codes
                if "ConditionalCheckFailed" in codes and len(codes) == len(steps):
                    deletion.protected.update(
                        step
                        for step, item in zip(steps, error.failed_items, strict=True)
                        if self._owns(item) and is_protected(item)
                    )
                    remaining = [
                        step
                        for step, code in zip(steps, codes, strict=True)
                        if code != "ConditionalCheckFailed"
                    ]
                    pending += [remaining] if remaining else []
                elif _is_invalid(error) and len(steps) > 1:
                    middle = len(steps) // 2
                    pending += [steps[:middle], steps[middle:]]
                else:
                    raise

    def _transact(self, steps: Sequence[int], deletion: Deletion) -> None:
        """Delete all of the steps, or none of them.

        This is a transaction, not single deletes, because it can be sent again if its response is
        lost: DynamoDB recognises it by its ClientRequestToken. A single delete that is sent again
        would find nothing, and would not be counted.
        """
        # Threads share these sets. In CPython, updating a set from integers is atomic.
        deletion.unconfirmed.update(steps)
        condition = f"entity = :entity AND {IS_NOT_PROTECTED}"
        values = {":entity": {"S": self._entity}, ":not_protected": NOT_PROTECTED}
        try:
            self._calls.make(
                self._client.transact_write_items,
                TransactItems=[
                    {
                        "Delete": {
                            "TableName": self._table,
                            "Key": key(self._model_id, step),
                            "ConditionExpression": condition,
                            "ExpressionAttributeValues": values,
                            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                        }
                    }
                    for step in steps
                ],
                ClientRequestToken=os.urandom(16).hex(),
            )
        except CallError as error:
            # All attempts have the same ClientRequestToken, so after a cancellation, none
            # succeeded.
            if not error.outcome_unknown or error.cancellation_codes:
                deletion.unconfirmed.difference_update(steps)
            raise
        deletion.deleted.update(steps)
        deletion.unconfirmed.difference_update(steps)

    @property
    def _has_possible_model(self) -> bool:
        """Whether the model's id fits into a DynamoDB key."""
        return len(self._model_id.encode()) <= MAX_MODEL_ID_BYTES

    def _possible(self, steps: list[int]) -> list[int]:
        """Return the steps at which the table can have a checkpoint, in the same order."""
        return storable(steps) if self._has_possible_model else []

    def _deletable(self, steps: list[int], outcome: Outcome) -> list[int]:
        """Return those of the steps at which a checkpoint can be deleted now, in any order.

        These are the entity's checkpoints without the protected ones, which the outcome gets.

        A query reads all records between two steps, which is cheap if most of them were requested.
        Otherwise, and for a few steps, batches read single keys. So n steps take at most about
        n / 100 calls.

        Raises:
            CallError: DynamoDB failed.

        """
        steps = sorted(steps)
        if len(steps) <= MAX_BATCH_KEYS:
            return self._read(steps, outcome) if steps else []
        deletable: list[int] = []
        position = 0
        sparse_responses = 0
        while position < len(steps) and sparse_responses < MAX_SPARSE_RESPONSES:
            response = self._calls.make(
                self._client.query,
                TableName=self._table,
                KeyConditionExpression="model_id = :model_id AND #step BETWEEN :first AND :last",
                FilterExpression="entity = :entity",
                ProjectionExpression="#step, protected",
                ExpressionAttributeNames={"#step": "step"},
                ExpressionAttributeValues={
                    ":model_id": {"S": self._model_id},
                    ":first": {"N": str(steps[position])},
                    ":last": {"N": str(steps[-1])},
                    ":entity": {"S": self._entity},
                },
                ConsistentRead=True,
            )
            deletable += _sort_out_protected(steps, response["Items"], outcome)
            if "LastEvaluatedKey" not in response:
                return deletable
            before = position
            position = bisect_right(steps, Decimal(response["LastEvaluatedKey"]["step"]["N"]))
            enough = max(MAX_BATCH_KEYS, response["ScannedCount"] // RECORDS_PER_KEY)
            sparse_responses += position - before < enough
        run_in_batches(
            lambda batch: deletable.extend(self._read(batch, outcome)),
            steps[position:],
            MAX_BATCH_KEYS,
        )
        return deletable

    def _read(self, steps: Sequence[int], outcome: Outcome) -> list[int]:
        """Return those of at most `MAX_BATCH_KEYS` ascending steps that can be deleted.

        The outcome gets the protected ones.
        """
        keys: Any = [key(self._model_id, step) for step in steps]
        deletable: list[int] = []
        for rounds in count():
            response: Any = self._calls.make(
                self._client.batch_get_item,
                retries=rounds,
                RequestItems={
                    self._table: {
                        "Keys": keys,
                        "ProjectionExpression": "#step, entity, protected",
                        "ExpressionAttributeNames": {"#step": "step"},
                        "ConsistentRead": True,
                    }
                },
            )
            items = response["Responses"].get(self._table, [])
            deletable += _sort_out_protected(steps, filter(self._owns, items), outcome)
            # DynamoDB leaves keys unprocessed when it is throttled or the records are large.
            keys = response["UnprocessedKeys"].get(self._table, {}).get("Keys")
            if not keys:
                break
        return deletable

    def _owns(self, item: Mapping[str, Any]) -> bool:
        """Return whether a record is the entity's; an empty one is not."""
        return item.get("entity") == {"S": self._entity}

    def _query(self, after: str | None, records: int, *, descending: bool) -> "QueryOutputTypeDef":
        """Read the records after a step, or the first ones, and return those of the entity."""
        condition = "model_id = :model_id"
        values = {":model_id": {"S": self._model_id}, ":entity": {"S": self._entity}}
        if after is not None:
            condition += f" AND #step {'<' if descending else '>'} :after"
            values[":after"] = {"N": after}
        return self._calls.make(
            self._client.query,
            TableName=self._table,
            KeyConditionExpression=condition,
            FilterExpression="entity = :entity",
            ProjectionExpression="#step, #metrics, size_bytes, created_at, expires_at, protected",
            ExpressionAttributeNames={"#step": "step", "#metrics": "metrics"},
            ExpressionAttributeValues=values,
            ScanIndexForward=not descending,
            Limit=records,
            ConsistentRead=True,
        )


def _sort_out_protected(
    steps: Sequence[int], items: Iterable[Mapping[str, Any]], outcome: Outcome
) -> list[int]:
    """Return those of the ascending steps that are in `items`, the entity's records.

    Of the protected records among them, the outcome gets the steps.
    """
    numbers: dict[bool, list[str]] = {True: [], False: []}
    for item in items:
        numbers[is_protected(item)].append(item["step"]["N"])
    outcome.protected.update(intersect(steps, numbers[True]))
    return intersect(steps, numbers[False])


def _is_invalid(error: RejectedError) -> bool:
    """Return whether DynamoDB rejected the transaction as invalid and certainly deleted nothing."""
    if error.code == "ValidationException":
        return not error.outcome_unknown
    return "ValidationError" in error.cancellation_codes


def _distinct(steps: Sequence[int]) -> list[int]:
    """Return the steps without duplicates, in the same order."""
    for is_in_order in (lt, gt):
        if all(map(is_in_order, steps, islice(steps, 1, None))):
            return list(steps)
    # Use strings, not integers, as keys: an API client can choose integers whose hashes collide. A
    # set of many of them takes minutes to build. String hashes are randomised in each process.
    return list({str(step): step for step in steps}.values())
