"""Delete checkpoints from the table. This module is independent of HTTP.

`_plan` decides which steps to send deletes for, `_send` sends them, and `Deletion` collects the
results. `reads.py` reads the table.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from checkpoints.dynamodb import CallError, Calls, RejectedError
from checkpoints.records.batches import run_in_batches
from checkpoints.records.numbers import distinct
from checkpoints.records.reads import OwnedCheckpoints

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

MAX_TRANSACTION_ACTIONS = 100  # DynamoDB's limit


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


class CheckpointStore:
    """The checkpoints of all models, each owned by an entity."""

    def __init__(self, client: "DynamoDBClient", table: str) -> None:
        self._client = client
        self._table = table

    def owned(self, model_id: str, *, entity: str, calls: Calls) -> OwnedCheckpoints:
        """Return an object that reads the entity's checkpoints of a model, with these calls.

        The model's id can have any length. If it does not fit into a key, it has no checkpoints.
        """
        return OwnedCheckpoints(self._client, self._table, model_id, entity, calls)

    def delete(self, model_id: str, steps: Sequence[int], *, entity: str, calls: Calls) -> Deletion:
        """Delete the entity's checkpoints of a model at these steps.

        A step without a checkpoint, or with the checkpoint of another entity, is *not found*: the
        caller cannot tell them apart.

        Args:
            model_id: of any length; if it does not fit into a key, it has no checkpoints.
            steps: integers of any size; duplicates count once.
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
                _plan(checkpoints, deletion.requested),
                MAX_TRANSACTION_ACTIONS,
            )
        except Exception as error:
            raise IncompleteDeletionError(deletion) from error
        return deletion

    def dry_run(self, model_id: str, steps: Sequence[int], *, entity: str, calls: Calls) -> DryRun:
        """Return what `delete` would delete now, with the same arguments. Only reads.

        Raises:
            CallError: DynamoDB failed.

        """
        requested = distinct(steps)
        checkpoints = self.owned(model_id, entity=entity, calls=calls)
        existing = checkpoints.existing(sorted(checkpoints.possible(requested)))
        return DryRun(requested, set(existing))


def _plan(checkpoints: OwnedCheckpoints, requested: list[int]) -> list[int]:
    """Return the steps to send deletes for: all steps if they are few, otherwise those that exist.

    A read costs less than a delete that finds nothing. A checkpoint that is saved after the read
    was saved after the request arrived, so the request need not delete it. A checkpoint that is
    deleted after the read fails the condition of the transaction, and counts as not found.
    """
    possible = checkpoints.possible(requested)
    if len(possible) <= MAX_TRANSACTION_ACTIONS:
        return possible
    return checkpoints.existing(sorted(possible))


def _send(checkpoints: OwnedCheckpoints, steps: Sequence[int], deletion: Deletion) -> None:
    """Delete the checkpoints that exist at these steps, usually in one transaction.

    There are at most `MAX_TRANSACTION_ACTIONS` steps. If some checkpoints do not exist, DynamoDB
    cancels the transaction and says which, and it is sent again without them. DynamoDB also rejects
    a transaction whose records exceed 4 MB, so one rejected as invalid is sent again in two halves.

    Raises:
        CallError: the transaction failed, or it is invalid although it has only one step.

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

    This is a transaction, not single deletes, because it can be sent again if its response is lost:
    DynamoDB recognises it by its ClientRequestToken. A single delete that is sent again would find
    nothing, and would not be counted.
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
        # All attempts have the same ClientRequestToken, so after a cancellation, none succeeded.
        if not error.outcome_unknown or error.cancellation_codes:
            deletion.unconfirmed.difference_update(steps)
        raise
    deletion.deleted.update(steps)
    deletion.unconfirmed.difference_update(steps)


def _is_invalid(error: RejectedError) -> bool:
    """Return whether DynamoDB rejected the transaction as invalid and certainly deleted nothing."""
    if error.code == "ValidationException":
        return not error.outcome_unknown
    return "ValidationError" in error.cancellation_codes
