"""The table of checkpoints. It knows nothing of HTTP."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from itertools import batched, islice
from operator import gt, lt
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple

from checkpoints.dynamodb import CallError, RefusedError, call

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

# DynamoDB's limits: actions in a transaction, bytes in a hash key, and the digits and the
# magnitude of a number.
TRANSACTION_ACTIONS = 100
MODEL_ID_BYTES = 2048
STEP_DIGITS = 38
STEP_MAGNITUDE = 126
_TOO_LONG = 10**STEP_DIGITS  # the first integer of more digits

# Transactions in flight at a time, to hide the round trip. A partition writes 1,000 units a second
# for long, and a transaction of 100 uses 200; beyond its bursts, throttling sets the pace.
CONCURRENT_TRANSACTIONS = 4


class Deletion(NamedTuple):
    """The outcome for each distinct step asked for, in the order of the request."""

    deleted: list[int]
    not_found: list[int]


class IncompleteDeletionError(Exception):
    """A deletion stopped half-way; `__cause__` tells why.

    Of the distinct steps asked for, `deleted` are gone by this request and `unconfirmed` may be:
    their transaction was sent and not answered. All others are untouched, whether they exist or
    not is not known.
    """

    def __init__(self, deleted: list[int], unconfirmed: list[int]) -> None:
        super().__init__(f"{len(deleted)} deleted, {len(unconfirmed)} unconfirmed")
        self.deleted = deleted
        self.unconfirmed = unconfirmed


class CheckpointStore:
    """The checkpoints of all models, each owned by an entity."""

    def __init__(self, client: "DynamoDBClient", table: str) -> None:
        self._client = client
        self._table = table

    def delete(
        self, model_id: str, steps: Sequence[int], *, entity: str, deadline: float
    ) -> Deletion:
        """Delete the entity's checkpoints of a model at these training steps.

        A step without a checkpoint, and one whose checkpoint belongs to another entity, is *not
        found*: the caller cannot tell them apart. Up to `TRANSACTION_ACTIONS` steps are one
        atomic act; more are several, each atomic.

        Args:
            model_id: of any length; one that no key can hold has no checkpoints.
            steps: of any size, repeats and all.
            entity: who asks.
            deadline: the `time.monotonic` moment to give up.

        Raises:
            IncompleteDeletionError: DynamoDB failed, in part or altogether.

        """
        asked = _distinct(steps)
        try:
            candidates = self._candidates(model_id, asked, entity=entity, deadline=deadline)
        except Exception as error:
            raise IncompleteDeletionError([], []) from error
        deleted = self._delete_all(model_id, candidates, entity=entity, deadline=deadline)
        return Deletion(
            deleted=[step for step in candidates if step in deleted],
            not_found=[step for step in asked if step not in deleted],
        )

    def _candidates(
        self, model_id: str, asked: list[int], *, entity: str, deadline: float
    ) -> list[int]:
        """Return the steps worth a delete: all that can exist, or when many, all that do."""
        if len(model_id.encode()) > MODEL_ID_BYTES:
            return []
        possible = _possible(asked)
        if len(possible) <= TRANSACTION_ACTIONS:
            return possible
        # A read costs a fraction of a delete that finds nothing. What comes into being after it
        # came after the request, and what goes is caught by the condition of the delete.
        present: set[int | Decimal] = set()
        start: dict[str, Any] = {}
        while True:
            page = call(
                self._client.query,
                deadline=deadline,
                TableName=self._table,
                KeyConditionExpression="model_id = :model_id AND #step BETWEEN :first AND :last",
                FilterExpression="entity = :entity",
                ProjectionExpression="#step",
                ExpressionAttributeNames={"#step": "step"},
                ExpressionAttributeValues={
                    ":model_id": {"S": model_id},
                    ":first": {"N": str(min(possible))},
                    ":last": {"N": str(max(possible))},
                    ":entity": {"S": entity},
                },
                ConsistentRead=True,
                **start,
            )
            present.update(_number(item["step"]["N"]) for item in page["Items"])
            if "LastEvaluatedKey" not in page:
                return [step for step in possible if step in present]
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}

    def _delete_all(
        self, model_id: str, steps: list[int], *, entity: str, deadline: float
    ) -> set[int]:
        """Delete in as many transactions as it takes; return the steps that they deleted."""
        if len(steps) <= TRANSACTION_ACTIONS:
            outcomes = [self._delete_together(model_id, steps, entity, deadline)]
        else:
            outcomes = self._delete_side_by_side(model_id, steps, entity, deadline)
        deleted: set[int] = set()
        unconfirmed: list[int] = []
        failure: Exception | None = None
        for outcome in outcomes:
            deleted.update(outcome.deleted)
            unconfirmed.extend(outcome.unconfirmed)
            failure = failure or outcome.failure
        if failure:
            raise IncompleteDeletionError(sorted(deleted), sorted(unconfirmed)) from failure
        return deleted

    def _delete_side_by_side(
        self, model_id: str, steps: list[int], entity: str, deadline: float
    ) -> list["_Outcome"]:
        """Delete in several transactions, a few at a time. After a failure no other is begun."""
        failed = Event()

        def delete_together(chunk: Sequence[int]) -> _Outcome:
            if failed.is_set():
                return _Outcome()
            outcome = self._delete_together(model_id, chunk, entity, deadline)
            if outcome.failure:
                failed.set()
            return outcome

        with ThreadPoolExecutor(CONCURRENT_TRANSACTIONS) as pool:
            return list(
                pool.map(delete_together, batched(steps, TRANSACTION_ACTIONS, strict=False))
            )

    def _delete_together(
        self, model_id: str, steps: Sequence[int], entity: str, deadline: float
    ) -> "_Outcome":
        """Delete those of at most `TRANSACTION_ACTIONS` steps that exist, all in one act.

        A transaction rather than single deletes, because DynamoDB recognises a transaction that
        is sent again after a lost answer, by its token, and because its condition decides
        existence, ownership and deletion in one moment.
        """
        while steps:
            try:
                call(
                    self._client.transact_write_items,
                    deadline=deadline,
                    TransactItems=[
                        {
                            "Delete": {
                                "TableName": self._table,
                                "Key": {"model_id": {"S": model_id}, "step": {"N": str(step)}},
                                "ConditionExpression": "entity = :entity",
                                "ExpressionAttributeValues": {":entity": {"S": entity}},
                            }
                        }
                        for step in steps
                    ],
                    ClientRequestToken=os.urandom(16).hex(),
                )
            except CallError as error:
                codes = error.cancellation_codes if isinstance(error, RefusedError) else []
                if "ConditionalCheckFailed" not in codes or len(codes) != len(steps):
                    return _Outcome(unconfirmed=steps if error.unanswered else (), failure=error)
                # Nothing was deleted yet; ask again without those that are not to be found.
                steps = [
                    step
                    for step, code in zip(steps, codes, strict=True)
                    if code != "ConditionalCheckFailed"
                ]
            except Exception as error:  # noqa: BLE001 whatever it is, the others' work is told
                return _Outcome(unconfirmed=steps, failure=error)
            else:
                return _Outcome(deleted=steps)
        return _Outcome()


class _Outcome(NamedTuple):
    deleted: Sequence[int] = ()
    unconfirmed: Sequence[int] = ()
    failure: Exception | None = None


def _distinct(steps: Sequence[int]) -> list[int]:
    """Return the steps without repeats, in their order."""
    for ascends_or_descends in (lt, gt):
        if all(map(ascends_or_descends, steps, islice(steps, 1, None))):
            return list(steps)
    # An integer's hash is no secret, so a caller can choose any number of them that collide, and
    # have Python compare each with each. Strings hash to no one knows what.
    return list({str(step): step for step in steps}.values())


def _possible(steps: list[int]) -> list[int]:
    """Return the steps that a DynamoDB number can hold: 38 significant digits, below 10**126."""
    if not steps or (min(steps) > -_TOO_LONG and max(steps) < _TOO_LONG):
        return steps
    return [
        step
        for step in steps
        if len(digits := str(abs(step))) <= STEP_MAGNITUDE
        and len(digits.rstrip("0")) <= STEP_DIGITS
    ]


def _number(text: str) -> int | Decimal:
    """Return a DynamoDB number as an `int` if it is written as one, which takes less memory."""
    try:
        return int(text)
    except ValueError:
        return Decimal(text)
