"""Bring back the artifacts of restored checkpoints, from a bucket that keeps old versions."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from checkpoints.artifacts import Artifacts, InvalidUriError
from scripts.deletions import format_steps
from scripts.terminal import work_through

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import DeleteMarkerEntryTypeDef, ObjectVersionTypeDef

CONCURRENT_CHECKPOINTS = 8
CONFIG = Config(retries={"mode": "standard", "total_max_attempts": 10})

THERE = "Checkpoints with artifacts"
ABSENT = "Checkpoints without any artifact"
ELSEWHERE = "Checkpoints without a valid artifact_uri in this bucket"
UNCONFIRMED = "Checkpoints not confirmed to have artifacts"


class Recovery:
    """Removes delete markers that were created after a given time, and counts the results.

    A delete marker hides the versions of an object. Without it, the latest version is visible.
    """

    def __init__(self, bucket: str, *, since: datetime, dry_run: bool) -> None:
        self._client = boto3.client("s3", config=CONFIG)
        self._bucket = bucket
        self._since = since
        self._dry_run = dry_run
        self._is_versioned = "Status" in self._client.get_bucket_versioning(Bucket=bucket)
        self._outcomes: dict[int, str] = {}
        self._objects: dict[int, Counter[str]] = {}  # counts of each checkpoint

    @property
    def succeeded(self) -> bool:
        """Whether every checkpoint has its artifacts; in a dry run, whether it would."""
        return set(self._outcomes.values()) <= {THERE, ELSEWHERE}

    def run(self, uris: Mapping[int, str | None]) -> None:
        """Bring back the artifacts that these values of `artifact_uri` name; the keys are steps."""
        self._outcomes = dict.fromkeys(uris, UNCONFIRMED)
        work_through(self._recover, uris.items(), concurrency=CONCURRENT_CHECKPOINTS)

    def report(self) -> None:
        """Print which artifacts came back, and which did not."""
        print(f"Artifacts in s3://{self._bucket}:")
        if not self._is_versioned:
            print("  The bucket is not versioned, so deleted objects cannot be brought back.")
        for name, count in sum(self._objects.values(), Counter[str]()).items():
            print(f"  {name}: {count:,}")
        for outcome in (THERE, ABSENT, ELSEWHERE, UNCONFIRMED):
            steps = [step for step, its in self._outcomes.items() if its == outcome]
            if steps:
                print(f"  {outcome}: {len(steps):,} ({format_steps(steps)})")

    def _recover(self, checkpoint: tuple[int, str | None]) -> None:
        step, uri = checkpoint
        try:
            artifacts = Artifacts.parse(uri, bucket=self._bucket)
        except InvalidUriError:
            self._outcomes[step] = ELSEWHERE
            return
        removed: set[str] = set()
        while True:  # an object can have several markers
            versions, markers = self._list(artifacts)
            recoverable = {each["Key"] for each in versions}
            current = {each["Key"] for each in versions if each["IsLatest"]}
            recent = [each for each in markers if each["LastModified"] >= self._since]
            to_remove = [each for each in recent if each["Key"] in recoverable]
            if self._dry_run or not to_remove:
                break
            for each in to_remove:
                key, version_id = each["Key"], each["VersionId"]
                self._client.delete_object(Bucket=self._bucket, Key=key, VersionId=version_id)
                removed.add(key)
        back = {each["Key"] for each in to_remove} if self._dry_run else removed & current
        moment = f"{self._since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        self._outcomes[step] = THERE if current | back else ABSENT
        self._objects[step] = Counter(
            {
                "Objects that would come back" if self._dry_run else "Objects brought back": len(
                    back
                ),
                f"Deleted before {moment}, and not brought back": len(markers) - len(recent),
                "Deleted, with no version left to bring back": len(recent) - len(to_remove),
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
            versions += [each for each in found if artifacts.include(each["Key"])]
            markers += [each for each in hidden if artifacts.include(each["Key"])]
            # Keys are sorted, so all keys that belong to the artifacts come first.
            if not all(artifacts.include(each["Key"]) for each in (*found, *hidden)):
                break
        return versions, [each for each in markers if each["IsLatest"]]
