"""Logs and metrics of the function that frees storage: one line for each deleted record."""

from checkpoints.artifacts import ArtifactDeletion
from checkpoints.audit import Fields, describe_error, emit_metrics, logger

OUTCOMES = {
    "freed": (logger.info, "Storage freed"),
    "kept": (logger.info, "Storage kept"),
    "retry": (logger.warning, "Reclaim interrupted"),
    "refused": (logger.error, "Reclaim refused"),
    "failed": (logger.error, "Reclaim failed"),
}
DRY_RUN = "Reclaim dry run"
INVALID_RECORD = "Invalid stream record"


class ReclaimAudit:
    """The log line and metrics of one record that was deleted from the checkpoints table.

    Each method returns the fields of the line that it logs.
    """

    def __init__(self, *, dry_run: bool, **record: object) -> None:
        self._fields = record
        self._dry_run = dry_run

    def finished(
        self, outcome: str, deletion: ArtifactDeletion, error: Exception | None = None
    ) -> Fields:
        """Report the outcome for the objects: `freed`, `kept`, `failed` or `retry`."""
        counts = {
            "objects_deleted": deletion.deleted,
            "bytes_freed": deletion.freed_bytes,
            "objects_kept": dict(+deletion.kept),
        }
        fields = self._log(outcome, **counts, **describe_error(error) if error else {})
        failures = {"ReclaimsFailed": 1} if outcome == "failed" else {}
        objects = {"ObjectsDeleted": deletion.deleted, "ObjectsKept": deletion.kept.total()}
        self._count(BytesFreed=deletion.freed_bytes, **objects, **failures)
        return fields

    def refused(self, reason: str) -> Fields:
        """Report a URI that is not valid, or is outside the bucket."""
        fields = self._log("refused", reason=reason)
        self._count(ReclaimsRefused=1)
        return fields

    def _log(self, outcome: str, **fields: object) -> Fields:
        log, message = OUTCOMES[outcome]
        fields |= self._fields | {"outcome": outcome}
        if self._dry_run:
            message, fields["dry_run"] = DRY_RUN, True
        log(message, extra=fields)
        return fields

    def _count(self, **counts: int) -> None:
        if not self._dry_run:
            emit_metrics(**counts)
