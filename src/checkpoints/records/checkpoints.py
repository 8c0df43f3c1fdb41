"""The checkpoints of a model that one entity owns: read them, and delete them exactly."""

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import count, islice
from operator import gt, lt
from typing import TYPE_CHECKING, Any, NamedTuple

from checkpoints.dynamodb import CallError, Calls, RejectedError
from checkpoints.records.batches import run_in_batches
from checkpoints.records.numbers import intersect, storable
from checkpoints.records.record import MAX_MODEL_ID_BYTES, Checkpoint, key

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


class Deletion:
    """The progress of one request to delete the distinct steps `requested`.

    The request has deleted the steps in `deleted`. The steps in `unconfirmed` were sent to
    DynamoDB, but their outcome is unknown, so they may have been deleted. The request has not
    changed any other step.
    """

    def __init__(self, requested: list[int]) -> None:
        self.requested = requested
        self.deleted: set[int] = set()
        self.unconfirmed: set[int] = set()

    @property
    def not_found(self) -> list[int]:
        """The steps that a complete deletion did not find, in the order of the request."""
        return [step for step in self.requested if step not in self.deleted]


class DryRun(NamedTuple):
    """What a deletion of the distinct steps of one request would delete."""

    requested: list[int]
    would_delete: set[int]

    @property
    def not_found(self) -> list[int]:
        """The other steps, in the order of the request."""
        return [step for step in self.requested if step not in self.would_delete]


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
        caller cannot tell them apart.

        Raises:
            IncompleteDeletionError: DynamoDB failed, or an internal error occurred.

        """
        deletion = Deletion(_distinct(steps))
        try:
            run_in_batches(
                lambda batch: self._send(batch, deletion),
                self._plan(deletion.requested),
                MAX_TRANSACTION_ACTIONS,
            )
        except Exception as error:
            raise IncompleteDeletionError(deletion) from error
        return deletion

    def dry_run(self, steps: Sequence[int]) -> DryRun:
        """Return what `delete` would delete now. Only reads.

        Raises:
            CallError: DynamoDB failed.

        """
        requested = _distinct(steps)
        return DryRun(requested, set(self._existing(self._possible(requested))))

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

    def _plan(self, requested: list[int]) -> list[int]:
        """Return the steps to send deletes for: all if they are few, otherwise those that exist.

        A read costs less than a delete that finds nothing. A checkpoint that is saved after the
        read was saved after the request arrived, so the request need not delete it. A checkpoint
        that is deleted after the read fails the condition of the transaction, and counts as not
        found.
        """
        possible = self._possible(requested)
        return possible if len(possible) <= MAX_TRANSACTION_ACTIONS else self._existing(possible)

    def _send(self, steps: Sequence[int], deletion: Deletion) -> None:
        """Delete the checkpoints that exist at these steps, usually in one transaction.

        There are at most `MAX_TRANSACTION_ACTIONS` steps. If some checkpoints do not exist,
        DynamoDB cancels the transaction and says which, and it is sent again without them. DynamoDB
        also rejects a transaction whose records exceed 4 MB, so one rejected as invalid is sent
        again in two halves.

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
        try:
            self._calls.make(
                self._client.transact_write_items,
                TransactItems=[
                    {
                        "Delete": {
                            "TableName": self._table,
                            "Key": key(self._model_id, step),
                            "ConditionExpression": "entity = :entity",
                            "ExpressionAttributeValues": {":entity": {"S": self._entity}},
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

    def _existing(self, steps: list[int]) -> list[int]:
        """Return those of the steps at which the entity has a checkpoint now, in any order.

        A query reads all records between two steps, which is cheap if most of them were requested.
        Otherwise, and for a few steps, batches read single keys. So n steps take at most about
        n / 100 calls.

        Raises:
            CallError: DynamoDB failed.

        """
        steps = sorted(steps)
        if len(steps) <= MAX_BATCH_KEYS:
            return self._read(steps) if steps else []
        existing: list[int] = []
        position = 0
        sparse_responses = 0
        while position < len(steps) and sparse_responses < MAX_SPARSE_RESPONSES:
            response = self._calls.make(
                self._client.query,
                TableName=self._table,
                KeyConditionExpression="model_id = :model_id AND #step BETWEEN :first AND :last",
                FilterExpression="entity = :entity",
                ProjectionExpression="#step",
                ExpressionAttributeNames={"#step": "step"},
                ExpressionAttributeValues={
                    ":model_id": {"S": self._model_id},
                    ":first": {"N": str(steps[position])},
                    ":last": {"N": str(steps[-1])},
                    ":entity": {"S": self._entity},
                },
                ConsistentRead=True,
            )
            existing += intersect(steps, (item["step"]["N"] for item in response["Items"]))
            if "LastEvaluatedKey" not in response:
                return existing
            before = position
            position = bisect_right(steps, Decimal(response["LastEvaluatedKey"]["step"]["N"]))
            enough = max(MAX_BATCH_KEYS, response["ScannedCount"] // RECORDS_PER_KEY)
            sparse_responses += position - before < enough
        run_in_batches(
            lambda batch: existing.extend(self._read(batch)), steps[position:], MAX_BATCH_KEYS
        )
        return existing

    def _read(self, steps: Sequence[int]) -> list[int]:
        """Return those of at most `MAX_BATCH_KEYS` ascending steps that exist."""
        keys: Any = [key(self._model_id, step) for step in steps]
        existing: list[int] = []
        for rounds in count():
            response: Any = self._calls.make(
                self._client.batch_get_item,
                retries=rounds,
                RequestItems={
                    self._table: {
                        "Keys": keys,
                        "ProjectionExpression": "#step, entity",
                        "ExpressionAttributeNames": {"#step": "step"},
                        "ConsistentRead": True,
                    }
                },
            )
            items = response["Responses"].get(self._table, [])
            owned = (item for item in items if item.get("entity") == {"S": self._entity})
            existing += intersect(steps, (item["step"]["N"] for item in owned))
            # DynamoDB leaves keys unprocessed when it is throttled or the records are large.
            keys = response["UnprocessedKeys"].get(self._table, {}).get("Keys")
            if not keys:
                break
        return existing

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
            ProjectionExpression="#step, #metrics",
            ExpressionAttributeNames={"#step": "step", "#metrics": "metrics"},
            ExpressionAttributeValues=values,
            ScanIndexForward=not descending,
            Limit=records,
            ConsistentRead=True,
        )


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
