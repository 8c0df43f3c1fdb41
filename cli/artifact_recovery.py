"""Recover the artifacts of checkpoints whose records were copied back, from old versions."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import boto3

from checkpoints.reclaim.artifacts import Artifacts, InvalidUriError
from cli.errors import CommandError
from cli.stacks import CONFIG
from cli.steps import format_steps
from cli.terminal import run_concurrently

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import DeleteMarkerEntryTypeDef, ObjectVersionTypeDef

CONCURRENT_CHECKPOINTS = 8

HAS_ARTIFACTS = "Checkpoints with artifacts"
NO_ARTIFACTS = "Checkpoints without any artifact"
NO_VALID_URI = "Checkpoints without a valid artifact_uri in this bucket"
UNCONFIRMED = "Checkpoints not confirmed to have artifacts"


def check_versioning(bucket: str) -> None:
    """Check that a bucket can have old versions. It can if versioning is suspended.

    Raises:
        CommandError: the bucket has never kept versions.

    """
    if "Status" not in boto3.client("s3", config=CONFIG).get_bucket_versioning(Bucket=bucket):
        raise CommandError(
            f"The bucket {bucket!r} keeps no versions, so deleted artifacts cannot be recovered. "
            "To copy the records back without them, use --records-only instead of --artifacts."
        )


class Recovery:
    """Removes delete markers that were created after a given time, and counts the results.

    A delete marker hides the versions of an object. Without it, the latest version is visible.
    """

    def __init__(self, bucket: str, *, since: datetime, dry_run: bool) -> None:
        self._client = boto3.client("s3", config=CONFIG)
        self._bucket = bucket
        self._since = since
        self._dry_run = dry_run
        self._outcomes: dict[int, str] = {}
        self._objects: dict[int, Counter[str]] = {}  # counts of each checkpoint

    @property
    def succeeded(self) -> bool:
        """Whether every checkpoint with a valid URI has at least one object, or would have one."""
        return set(self._outcomes.values()) <= {HAS_ARTIFACTS, NO_VALID_URI}

    def run(self, uris: Mapping[int, str | None]) -> None:
        """Recover the artifacts that these values of `artifact_uri` name; the keys are steps."""
        self._outcomes = dict.fromkeys(uris, UNCONFIRMED)
        run_concurrently(
            self._recover,
            uris.items(),
            concurrency=CONCURRENT_CHECKPOINTS,
            label="Recovering artifacts",
        )

    def report(self) -> None:
        """Print how many objects were recovered, and which checkpoints have artifacts."""
        print(f"Artifacts in s3://{self._bucket}:")
        totals = Counter[str]()
        for counts in self._objects.values():
            totals.update(counts)  # unlike a sum, it always has the same order
        for name, count in totals.items():
            if count:
                print(f"  {name}: {count:,}")
        for headline in (HAS_ARTIFACTS, NO_ARTIFACTS, NO_VALID_URI, UNCONFIRMED):
            steps = [step for step, outcome in self._outcomes.items() if outcome == headline]
            if steps:
                print(f"  {headline}: {len(steps):,} ({format_steps(sorted(steps))})")

    def _recover(self, checkpoint: tuple[int, str | None]) -> None:
        step, uri = checkpoint
        try:
            artifacts = Artifacts.parse(uri, bucket=self._bucket)
        except InvalidUriError:
            self._outcomes[step] = NO_VALID_URI
            return
        removed: set[str] = set()
        while True:  # an object can have several markers
            versions, markers = self._list(artifacts)
            recoverable = {version["Key"] for version in versions}
            current = {version["Key"] for version in versions if version["IsLatest"]}
            recent = [marker for marker in markers if marker["LastModified"] >= self._since]
            to_remove = [marker for marker in recent if marker["Key"] in recoverable]
            if self._dry_run or not to_remove:
                break
            for marker in to_remove:
                key, version_id = marker["Key"], marker["VersionId"]
                self._client.delete_object(Bucket=self._bucket, Key=key, VersionId=version_id)
                removed.add(key)
        if self._dry_run:
            headline, recovered = "Objects that would be recovered", {m["Key"] for m in to_remove}
        else:
            headline, recovered = "Objects recovered", removed & current
        since = f"{self._since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        self._outcomes[step] = HAS_ARTIFACTS if current | recovered else NO_ARTIFACTS
        self._objects[step] = Counter(
            {
                headline: len(recovered),
                f"Deleted before {since}, so not recovered": len(markers) - len(recent),
                "Deleted, with no version left to recover": len(recent) - len(to_remove),
            }
        )

    def _list(
        self, artifacts: Artifacts
    ) -> tuple[list["ObjectVersionTypeDef"], list["DeleteMarkerEntryTypeDef"]]:
        """Return all versions, and the delete markers that are the latest of their key."""
        versions: list[ObjectVersionTypeDef] = []
        markers: list[DeleteMarkerEntryTypeDef] = []
        for page in self._client.get_paginator("list_object_versions").paginate(
            Bucket=self._bucket, Prefix=artifacts.key
        ):
            found, hidden = page.get("Versions", []), page.get("DeleteMarkers", [])
            versions += [version for version in found if artifacts.include(version["Key"])]
            markers += [marker for marker in hidden if artifacts.include(marker["Key"])]
            # Keys are sorted, so all keys that belong to the artifacts come first.
            if not all(artifacts.include(item["Key"]) for item in (*found, *hidden)):
                break
        return versions, [marker for marker in markers if marker["IsLatest"]]
