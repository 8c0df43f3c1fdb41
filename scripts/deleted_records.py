"""Find deleted checkpoints whose artifacts were not deleted, in failed batches or in the log."""

import json
import math
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from scripts import logs
from scripts.terminal import run_concurrently

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BATCHES_PREFIX = "aws/lambda/"  # Lambda puts the batches that it stopped retrying here
CONCURRENT_CALLS = 8

type Fields = dict[str, Any]


class DeletedRecord(NamedTuple):
    """A record that was deleted from the checkpoints table."""

    model_id: str
    step: str
    artifact_uri: str | None  # None: the attribute is not a string
    entity: str | None
    deleted_at: str  # in ISO 8601, whole seconds
    batch: str | None = None  # the key of the failed batch that it comes from

    def to_stream_record(self, sequence_number: str) -> Fields:
        """Return a stream record with the fields that the function reads."""
        uri = {"NULL": True} if self.artifact_uri is None else {"S": self.artifact_uri}
        owner = {} if self.entity is None else {"entity": {"S": self.entity}}
        change = {
            "ApproximateCreationDateTime": datetime.fromisoformat(self.deleted_at).timestamp(),
            "Keys": {"model_id": {"S": self.model_id}, "step": {"N": self.step}},
            "OldImage": owner | {"artifact_uri": uri},
            "SequenceNumber": sequence_number,
        }
        return {"eventName": "REMOVE", "dynamodb": change}


def read_batches(client: "S3Client", bucket: str) -> dict[str, list[DeletedRecord] | None]:
    """Return the deleted records of each failed batch by its key; None for other objects."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=BATCHES_PREFIX)
    keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
    batches: dict[str, list[DeletedRecord] | None] = dict.fromkeys(keys)

    def read(key: str) -> None:
        content = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        try:
            batches[key] = list(_read_batch(key, json.loads(content)))
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
            print(
                f"s3://{bucket}/{key} is not a batch of deleted records. It is skipped. "
                "Delete it if you do not need it.",
                file=sys.stderr,
            )

    run_concurrently(read, keys, concurrency=CONCURRENT_CALLS, label="Reading")
    return batches


def _read_batch(key: str, batch: Fields) -> Iterator[DeletedRecord]:
    event = batch["payload"]
    for record in (json.loads(event) if isinstance(event, str) else event)["Records"]:
        change = record["dynamodb"]
        image, seconds = change.get("OldImage", {}), change["ApproximateCreationDateTime"]
        if record["eventName"] == "REMOVE" and "artifact_uri" in image:
            yield DeletedRecord(
                change["Keys"]["model_id"]["S"],
                change["Keys"]["step"]["N"],
                image["artifact_uri"].get("S"),
                image.get("entity", {}).get("S"),
                datetime.fromtimestamp(math.floor(seconds), UTC).isoformat(),
                key,
            )


def find_in_log(log_group: str, *, since: datetime) -> list[DeletedRecord]:
    """Return the records that were refused or failed, except those that are done by now."""
    left: dict[DeletedRecord, None] = {}  # a dictionary keeps the order
    done = set()
    for line in logs.search(log_group, '{ $.outcome = "*" }', since=since):
        match fields := logs.read_fields(line):
            case {"dry_run": True}:
                pass
            case {"outcome": "refused" | "failed"}:
                left[_read_line(fields)] = None
            case {"outcome": "freed" | "kept"}:
                done.add(_read_line(fields))
    return [record for record in left if record not in done]


def _read_line(fields: Fields) -> DeletedRecord:
    return DeletedRecord(
        fields["model_id"],
        str(fields["step"]),
        fields["artifact_uri"],
        fields["entity"],
        fields.get("deleted_at") or fields["removed_at"],  # its name in earlier versions
    )
