"""Logs and metrics of the function that frees storage: one line for each attempt at a message."""

from checkpoints.reclaim.artifacts import ArtifactDeletion
from checkpoints.reclaim.queue import Message
from checkpoints.reclaim.reasons import POSSIBLE_CONFLICT
from checkpoints.records.numbers import to_integer
from checkpoints.telemetry import describe_error, emit_metrics, logger

OUTCOMES = {
    "freed": (logger.info, "Storage freed"),
    "continued": (logger.info, "More storage to free"),
    "kept": (logger.info, "Storage kept"),
    "nothing_found": (logger.warning, "No objects found"),
    "conflict": (logger.error, "Checkpoint saved again while its artifacts were deleted"),
    "refused": (logger.error, "Reclaim refused"),
    "retry": (logger.warning, "Reclaim interrupted"),
}
INVALID_MESSAGE = "Invalid message"

# The metrics that count an outcome. The queues and AWS Lambda have metrics for the others.
METRICS = {
    "nothing_found": "ReclaimsNothingFound",
    "refused": "ReclaimsRefused",
}


def describe(message: Message) -> dict[str, object]:
    """Return the fields that each log line has."""
    fields = message._asdict() | {"step": to_logged(message.step)}
    del fields["problem"], fields["protected"], fields["started"]
    return fields


def to_logged(step: str) -> int | str:
    """Return a step as a number, as in the other logs, unless it is not an integer."""
    number = to_integer(step)
    return step if number is None else number


def report(
    outcome: str,
    deletion: ArtifactDeletion | None,
    error: Exception | None = None,
    **fields: object,
) -> None:
    """Write the line and the metrics of an attempt, with the objects that it deleted and kept."""
    counts = {}
    is_conflict = outcome == "conflict" or fields.get("reason") == POSSIBLE_CONFLICT
    if deletion and outcome != "refused":  # what is refused has no objects
        fields |= {
            "objects_deleted": deletion.deleted,
            "bytes_freed": deletion.freed_bytes,
            "objects_kept": dict(+deletion.kept),
        }
        counts = {
            "ObjectsDeleted": deletion.deleted,
            "ObjectsKept": deletion.kept.total(),
            "BytesFreed": deletion.freed_bytes,
        }
        if is_conflict or outcome == "continued":
            fields["object_keys"] = deletion.keys
    log, message = OUTCOMES[outcome]
    log(message, extra=fields | {"outcome": outcome} | (describe_error(error) if error else {}))
    if is_conflict:
        counts["ReclaimConflicts"] = 1
    elif outcome in METRICS:
        counts[METRICS[outcome]] = 1
    if counts:
        emit_metrics(**counts)
