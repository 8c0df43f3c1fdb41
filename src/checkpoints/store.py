"""The checkpoints table. It knows nothing of HTTP.

`plan` decides which steps to send deletes for, `send` sends them, `Deletion` sums up what they did.
"""

import os
from bisect import bisect_right
from collections.abc import Sequence
from decimal import Decimal
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from checkpoints.dynamodb import CallError, Calls, RejectedError
from checkpoints.steps import among, distinct, side_by_side, storable

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

# DynamoDB's limits: actions in a transaction, keys in a batch, bytes in a hash key.
MAX_TRANSACTION_ACTIONS = 100
MAX_BATCH_KEYS = 100
MAX_MODEL_ID_BYTES = 2048

# A page of a query is sparse if it passes fewer of the steps than a batch has keys, or fewer than
# one for every 20 records that it reads: DynamoDB charges about as much for those as for one key.
# After three sparse pages, batches read the rest.
MAX_SPARSE_PAGES = 3
RECORDS_FOR_A_KEY = 20


class Deletion:
    """What is known about the distinct steps of one request, at any moment of it.

    `deleted` are gone by this request. `unconfirmed` were sent to DynamoDB and not answered, so
    they may be gone. All others were not touched.
    """

    def __init__(self, asked: list[int]) -> None:
        self.asked = asked
        self.deleted: set[int] = set()
        self.unconfirmed: set[int] = set()

    @property
    def not_found(self) -> list[int]:
        """The other steps, in the order of the request."""
        return [step for step in self.asked if step not in self.deleted]


class IncompleteDeletionError(Exception):
    """A deletion stopped before its end; `deletion` tells how far it got, `__cause__` why."""

    def __init__(self, deletion: Deletion) -> None:
        counts = f"{len(deletion.deleted)} deleted, {len(deletion.unconfirmed)} unconfirmed"
        super().__init__(counts)
        self.deletion = deletion


class CheckpointStore:
    """The checkpoints of all models, each owned by an entity."""

    def __init__(self, client: "DynamoDBClient", table: str) -> None:
        self._client = client
        self._table = table

    def delete(self, model_id: str, steps: Sequence[int], *, entity: str, calls: Calls) -> Deletion:
        """Delete the entity's checkpoints of a model at these steps.

        A step without a checkpoint, or with the checkpoint of another entity, is *not found*: the
        caller cannot tell them apart.

        Args:
            model_id: of any length; one that no key can hold has no checkpoints.
            steps: integers of any size, which may repeat.
            entity: the owner.
            calls: the calls of the request.

        Raises:
            IncompleteDeletionError: DynamoDB failed, or an internal error occurred.

        """
        deletion = Deletion(distinct(steps))
        request = _Request(self._client, self._table, model_id, entity, calls)
        try:
            existing = request.plan(deletion.asked)
            side_by_side(
                lambda batch: request.send(batch, deletion), existing, MAX_TRANSACTION_ACTIONS
            )
        except Exception as error:
            raise IncompleteDeletionError(deletion) from error
        return deletion


class _Request(NamedTuple):
    """What all calls for one deletion have in common."""

    client: "DynamoDBClient"
    table: str
    model_id: str
    entity: str
    calls: Calls

    def plan(self, asked: list[int]) -> list[int]:
        """Return the steps to send deletes for: all if they are few, else those that exist.

        A read costs less than a delete that finds nothing. A checkpoint that is saved after the
        read was saved after the request; one that is gone is noticed by the delete's condition.
        """
        if len(self.model_id.encode()) > MAX_MODEL_ID_BYTES:
            return []
        candidates = storable(asked)
        if len(candidates) <= MAX_TRANSACTION_ACTIONS:
            return candidates
        return self._existing(sorted(candidates))

    def _existing(self, steps: list[int]) -> list[int]:
        """Return those of the ascending steps that the entity has.

        A query reads everything between two steps, which is cheap where much of it was asked for.
        Elsewhere, batches read the keys one by one. So n steps take about n / 100 calls at most.
        """
        existing: list[int] = []
        passed = 0
        sparse_pages = 0
        while passed < len(steps) and sparse_pages < MAX_SPARSE_PAGES:
            page = self.calls.make(
                self.client.query,
                TableName=self.table,
                KeyConditionExpression="model_id = :model_id AND #step BETWEEN :first AND :last",
                FilterExpression="entity = :entity",
                ProjectionExpression="#step",
                ExpressionAttributeNames={"#step": "step"},
                ExpressionAttributeValues={
                    ":model_id": {"S": self.model_id},
                    ":first": {"N": str(steps[passed])},
                    ":last": {"N": str(steps[-1])},
                    ":entity": {"S": self.entity},
                },
                ConsistentRead=True,
            )
            existing += among(steps, (item["step"]["N"] for item in page["Items"]))
            if "LastEvaluatedKey" not in page:
                return existing
            before = passed
            passed = bisect_right(steps, Decimal(page["LastEvaluatedKey"]["step"]["N"]))
            enough = max(MAX_BATCH_KEYS, page["ScannedCount"] // RECORDS_FOR_A_KEY)
            sparse_pages += passed - before < enough
        side_by_side(
            lambda batch: existing.extend(self._read(batch)), steps[passed:], MAX_BATCH_KEYS
        )
        return existing

    def _read(self, steps: Sequence[int]) -> list[int]:
        """Return those of at most `MAX_BATCH_KEYS` ascending steps that the entity has."""
        keys: Any = [self._key(step) for step in steps]
        existing: list[int] = []
        for rounds in count():
            answer: Any = self.calls.make(
                self.client.batch_get_item,
                retries=rounds,
                RequestItems={
                    self.table: {
                        "Keys": keys,
                        "ProjectionExpression": "#step, entity",
                        "ExpressionAttributeNames": {"#step": "step"},
                        "ConsistentRead": True,
                    }
                },
            )
            items = answer["Responses"].get(self.table, [])
            owned = (item for item in items if item.get("entity") == {"S": self.entity})
            existing += among(steps, (item["step"]["N"] for item in owned))
            # DynamoDB leaves keys unprocessed when it is throttled or the records are large.
            keys = answer["UnprocessedKeys"].get(self.table, {}).get("Keys")
            if not keys:
                break
        return existing

    def send(self, steps: Sequence[int], deletion: Deletion) -> None:
        """Delete those of at most `MAX_TRANSACTION_ACTIONS` steps that exist.

        Usually in one transaction. A cancelled one changed nothing and names the steps that do not
        exist, so it is sent again without them. An invalid one is sent again in halves: its records
        may exceed 4 MB in sum.

        Raises:
            CallError: the transaction failed, or one of a single step is invalid.

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

        A transaction, not single deletes: DynamoDB recognises by its token a transaction that is
        sent again after a lost answer, and its condition decides existence, ownership and deletion
        in one moment.
        """
        # Threads share these sets: in CPython, to update one by a sequence is atomic.
        deletion.unconfirmed.update(steps)
        try:
            self.calls.make(
                self.client.transact_write_items,
                TransactItems=[
                    {
                        "Delete": {
                            "TableName": self.table,
                            "Key": self._key(step),
                            "ConditionExpression": "entity = :entity",
                            "ExpressionAttributeValues": {":entity": {"S": self.entity}},
                        }
                    }
                    for step in steps
                ],
                ClientRequestToken=os.urandom(16).hex(),
            )
        except CallError as error:
            # A cancellation is an answer to all attempts: they have the same token.
            if not error.outcome_unknown or error.cancellation_codes:
                deletion.unconfirmed.difference_update(steps)
            raise
        deletion.deleted.update(steps)
        deletion.unconfirmed.difference_update(steps)

    def _key(self, step: int) -> dict[str, Any]:
        return {"model_id": {"S": self.model_id}, "step": {"N": str(step)}}


def _is_invalid(error: RejectedError) -> bool:
    """Tell whether DynamoDB found the transaction invalid, and certainly deleted nothing."""
    if error.code == "ValidationException":
        return not error.outcome_unknown
    return "ValidationError" in error.cancellation_codes
