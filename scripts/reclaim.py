"""Retry deleting the artifacts of deleted checkpoints, after errors.

Fix the cause first. Then this command sends the deleted records to the deployed function again:
either the records that were refused or failed, or those that Lambda stopped retrying.
"""

import argparse
import json
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import batched, groupby

import boto3
from botocore.config import Config

from scripts.deleted_records import DeletedRecord, Fields, find_in_log, read_batches
from scripts.stacks import UsageError, output_of, report_errors
from scripts.terminal import (
    Parser,
    format_size,
    parse_duration,
    run,
    run_concurrently,
    stop_on_signals,
)

# For each attempt. A record that runs out of time gets a separate invocation in the last attempt.
RECORDS_PER_INVOCATION = (25, 5, 1)
CONCURRENT_INVOCATIONS = 5
PAUSE_SECONDS = 10.0

S3_CONFIG = Config(retries={"mode": "standard", "total_max_attempts": 10})
# The function can take 300 seconds. A retry would invoke it again while it is still running.
LAMBDA_CONFIG = Config(read_timeout=330, tcp_keepalive=True, retries={"total_max_attempts": 1})

HEADLINES = {
    "freed": "Freed",
    "kept": "Saved again, so the artifacts stay",
    "refused": "Refused",
    "failed": "Failed",
    "retry": "Not finished",
}
DONE = ("freed", "kept")


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 0 everything is done, 1 not everything, 2 wrong usage."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.since and not options.log:
        parser.error("Use --since only with --log.")
    stop_on_signals()
    retry = _retry_log if options.log else _retry_batches
    return report_errors("reclaim.py", lambda: retry(options), is_repeatable=True)


def _retry_log(options: argparse.Namespace) -> int:
    log_group = _output(options, "ReclaimFunctionLogGroupName")
    since = datetime.now(UTC) - timedelta(seconds=options.since or parse_duration("7d"))
    retry = Retry(options, find_in_log(log_group, since=since))
    retry.run()
    return int(bool(retry.unfinished))


def _retry_batches(options: argparse.Namespace) -> int:
    bucket = _output(options, "FailedBatchesBucketName")
    client = boto3.client("s3", config=S3_CONFIG)
    batches = read_batches(client, bucket)
    readable = {key: records for key, records in batches.items() if records is not None}
    retry = Retry(options, (record for records in readable.values() for record in records))
    try:
        retry.run()
    finally:
        if not options.dry_run:
            for key in readable:
                if key in retry.unfinished:
                    print(f"This batch stays: s3://{bucket}/{key}")
                else:
                    client.delete_object(Bucket=bucket, Key=key)
    return int(bool(retry.unfinished) or len(readable) < len(batches))


def _output(options: argparse.Namespace, key: str) -> str:
    return output_of(options.stack, key, parameter="ArtifactsBucket")


class Retry:
    """Sends deleted records to the function, up to three times each."""

    def __init__(self, options: argparse.Namespace, records: Iterable[DeletedRecord]) -> None:
        self._client = boto3.client("lambda", config=LAMBDA_CONFIG)
        self._function = _output(options, "ReclaimFunctionName")
        self._dry_run: bool = options.dry_run
        # By sequence number. The log does not have the stream's sequence numbers, so use new ones.
        self._pending = {str(number): record for number, record in enumerate(records, 1)}
        self._left: set[str | None] = set()
        self._outcomes: list[Fields] = []

    @property
    def unfinished(self) -> set[str | None]:
        """The keys of the batches with a record that is not done; None for records of the log."""
        return self._left | {record.batch for record in self._pending.values()}

    def run(self) -> None:
        """Send the pending records, several times if necessary, and print the outcomes."""
        if not self._pending:
            print("There is nothing to do.")
        try:
            for attempt, size in enumerate(RECORDS_PER_INVOCATION):
                if attempt and self._pending:
                    time.sleep(PAUSE_SECONDS)
                parts = self._split(size)
                run_concurrently(
                    self._send, parts, concurrency=CONCURRENT_INVOCATIONS, label="Reclaiming"
                )
        finally:
            self._report()

    def _split(self, size: int) -> list[Sequence[str]]:
        """Split the pending records into parts that each belong to one batch."""
        groups = groupby(self._pending, key=lambda number: self._pending[number].batch)
        return [part for _, group in groups for part in batched(group, size, strict=False)]

    def _send(self, numbers: Sequence[str]) -> None:
        records = [self._pending[number].to_stream_record(number) for number in numbers]
        try:
            response = self._client.invoke(
                FunctionName=self._function,
                Payload=json.dumps({"Records": records, "dry_run": self._dry_run}),
            )
        except self._client.exceptions.TooManyRequestsException:
            return  # all records stay pending
        result = json.load(response["Payload"])
        if "FunctionError" in response:
            error = result.get("errorMessage", "")
            raise UsageError(f"{self._function} failed. Read its log. {error}".rstrip())
        self._outcomes += result["outcomes"]
        if any(record["outcome"] in ("refused", "failed") for record in result["outcomes"]):
            self._left.add(self._pending[numbers[0]].batch)
        again = {failure["itemIdentifier"] for failure in result["batchItemFailures"]}
        for number in set(numbers) - again:
            del self._pending[number]

    def _report(self) -> None:
        records = self._merge_outcomes()
        for outcome, headline in HEADLINES.items():
            matching = [record for record in records if record["outcome"] == outcome]
            if matching:
                name = "Would be freed" if self._dry_run and outcome == "freed" else headline
                objects = _format_objects(matching)
                print(f"{name}: {len(matching):,}" + (f" ({objects})" if objects else ""))
            for record in matching if self._dry_run or outcome not in DONE else ():
                identity = f"{record['model_id']!r} {record['step']}, {record['artifact_uri']!r}"
                print(f"  {identity}: {_explain(record)}")

    def _merge_outcomes(self) -> list[Fields]:
        """Return the last outcome of each record, with the total counts of all attempts."""
        none: Fields = {"outcome": "retry", "objects_deleted": 0, "bytes_freed": 0}
        unknown = {"exception": "The function has not processed it."} | none
        outcomes = [record._asdict() | unknown for record in self._pending.values()]
        merged: dict[tuple[str, str, str], Fields] = {}
        for fields in outcomes + self._outcomes:
            identity = (fields["model_id"], str(fields["step"]), fields["deleted_at"])
            before = none if self._dry_run else merged.get(identity, none)
            counts = ("objects_deleted", "bytes_freed")
            totals = {name: before[name] + fields.get(name, 0) for name in counts}
            merged[identity] = fields | totals
        return sorted(
            merged.values(), key=lambda record: (record["model_id"], float(record["step"]))
        )


def _explain(record: Fields) -> str:
    """Return what was deleted, what was kept, and why."""
    kept = record.get("objects_kept", {}).items()
    parts = [
        _format_objects([record]),
        *(f"{count:,} kept ({reason.replace('_', ' ')})" for reason, count in kept),
        record.get("reason", "").replace("_", " "),
        record.get("exception", "").rpartition("\n")[2],
    ]
    return "; ".join(filter(None, parts)) or "no objects"


def _format_objects(records: Collection[Fields]) -> str:
    """Return the number of deleted objects and their size, or an empty string if there are none."""
    objects = sum(record["objects_deleted"] for record in records)
    size = sum(record["bytes_freed"] for record in records)
    plural = "" if objects == 1 else "s"
    return f"{objects:,} object{plural}, {format_size(size)}" if objects else ""


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        description=__doc__,
        epilog="It is safe to run this command again. Exit codes: 0 everything is done, 1 not "
        "everything is done, 2 wrong usage, 130 interrupted.",
    )
    parser.add_argument("--stack", required=True, help="name of the deployed stack")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--batches",
        action="store_true",
        help="retry the batches that Lambda stopped retrying; a batch is deleted when all its "
        "records are done",
    )
    source.add_argument(
        "--log",
        action="store_true",
        help="retry the records that are refused or failed in the function's log",
    )
    parser.add_argument(
        "--since",
        type=parse_duration,
        metavar="DURATION",
        help="how far to look back in the log, such as 12h (default: 7d)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="delete nothing; show what would be deleted"
    )
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
