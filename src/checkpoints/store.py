"""The checkpoints table. It knows nothing of HTTP.

`_plan` decides which steps to send deletes for, `_send` sends them, `Deletion` sums up what they
did. `reads.py` has the reading.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from checkpoints.dynamodb import CallError, Calls, RejectedError
from checkpoints.reads import OwnedCheckpoints
from checkpoints.steps import distinct, run_in_batches

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

MAX_TRANSACTION_ACTIONS = 100  # DynamoDB's limit


class Deletion:
    """What is known about the distinct steps of one request, at any moment of it.

    `deleted` were deleted by this request. `unconfirmed` were sent to DynamoDB, which did not
    answer, so they may have been deleted. All others were not touched.
    """

    def __init__(self, asked: list[int]) -> None:
        self.asked = asked
        self.deleted: set[int] = set()
        self.unconfirmed: set[int] = set()

    @property
    def not_found(self) -> list[int]:
        """The other steps, in the order of the request."""
        return [step for step in self.asked if step not in self.deleted]


class DryRun(NamedTuple):
    """What a deletion of the distinct steps of one request would have done at one moment."""

    asked: list[int]
    would_delete: set[int]

    @property
    def not_found(self) -> list[int]:
        """The other steps, in the order of the request."""
        return [step for step in self.asked if step not in self.would_delete]


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

    def owned(self, model_id: str, *, entity: str, calls: Calls) -> OwnedCheckpoints:
        """Return the entity's checkpoints of a model, to read them by the calls of a request.

        The model's id can be of any length; one that no key can hold has no checkpoints.
        """
        return OwnedCheckpoints(self._client, self._table, model_id, entity, calls)

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
        checkpoints = self.owned(model_id, entity=entity, calls=calls)
        try:
            run_in_batches(
                lambda batch: _send(checkpoints, batch, deletion),
                _plan(checkpoints, deletion.asked),
                MAX_TRANSACTION_ACTIONS,
            )
        except Exception as error:
            raise IncompleteDeletionError(deletion) from error
        return deletion

    def dry_run(self, model_id: str, steps: Sequence[int], *, entity: str, calls: Calls) -> DryRun:
        """Tell what `delete` would do with the same arguments now. Only reads.

        Raises:
            CallError: DynamoDB failed.

        """
        asked = distinct(steps)
        checkpoints = self.owned(model_id, entity=entity, calls=calls)
        existing = checkpoints.existing(sorted(checkpoints.possible(asked)))
        return DryRun(asked, set(existing))


def _plan(checkpoints: OwnedCheckpoints, asked: list[int]) -> list[int]:
    """Return the steps to send deletes for: all if they are few, else those that exist.

    A read costs less than a delete that finds nothing. A checkpoint that is saved after the read
    was saved after the request. If one is deleted after the read, the condition of the transaction
    fails, and it counts as not found.
    """
    possible = checkpoints.possible(asked)
    if len(possible) <= MAX_TRANSACTION_ACTIONS:
        return possible
    return checkpoints.existing(sorted(possible))


def _send(checkpoints: OwnedCheckpoints, steps: Sequence[int], deletion: Deletion) -> None:
    """Delete those of at most `MAX_TRANSACTION_ACTIONS` steps that exist.

    Usually in one transaction. If it is cancelled, it changed nothing, and the answer names the
    steps that do not exist: it is sent again without them. If it is invalid, its records may exceed
    4 MB together: it is sent again in halves.

    Raises:
        CallError: the transaction failed, or one of a single step is invalid.

    """
    pending = [steps]
    while pending:
        steps = pending.pop()
        try:
            _transact(checkpoints, steps, deletion)
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


def _transact(checkpoints: OwnedCheckpoints, steps: Sequence[int], deletion: Deletion) -> None:
    """Delete all of the steps, or none of them.

    A transaction, not single deletes, for two reasons. If its answer is lost, it can be sent again:
    DynamoDB recognises it by its token. And it checks that a checkpoint exists and has this owner
    in the same atomic step that deletes it.
    """
    # Threads share these sets. In CPython, updating a set from a sequence of integers is atomic.
    deletion.unconfirmed.update(steps)
    try:
        checkpoints.calls.make(
            checkpoints.client.transact_write_items,
            TransactItems=[
                {
                    "Delete": {
                        "TableName": checkpoints.table,
                        "Key": checkpoints.key(step),
                        "ConditionExpression": "entity = :entity",
                        "ExpressionAttributeValues": {":entity": {"S": checkpoints.entity}},
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


def _is_invalid(error: RejectedError) -> bool:
    """Tell whether DynamoDB found the transaction invalid, and certainly deleted nothing."""
    if error.code == "ValidationException":
        return not error.outcome_unknown
    return "ValidationError" in error.cancellation_codes
