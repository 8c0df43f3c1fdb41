"""Sort out which checkpoints of a bucket can have a new record, and why the others cannot."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from checkpoints.reclaim.artifacts import Artifacts, InvalidUriError
from checkpoints.records.numbers import storable
from checkpoints.records.record import MAX_MODEL_ID_BYTES
from cli.layouts import NO_CHECKPOINT, Found, Reason

type Key = tuple[str, int]  # model id and step


class KnownRecords:
    """The records of the checkpoints table, as far as an import needs them."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket
        self._artifacts: dict[Key, Artifacts | None] = {}
        self._places = Places()
        self.by_object: dict[str, list[Key]] = {}  # the records for each key or prefix

    def add(self, model_id: str, step: int | None, uri: object) -> None:
        """Add a record. `step` is None if it is not an integer."""
        artifacts = Artifacts.split(uri)
        if step is not None:
            self._artifacts[model_id, step] = artifacts
        if artifacts and artifacts.bucket == self._bucket:
            self._places.add(artifacts)
            if step is not None:
                self.by_object.setdefault(artifacts.key, []).append((model_id, step))

    def __contains__(self, found: Found) -> bool:
        """Return whether there is a record of the model at this step."""
        return (found.model_id, found.step) in self._artifacts

    def have(self, found: Found) -> bool:
        """Return whether the record of the model at this step names these objects."""
        artifacts = self._artifacts.get((found.model_id, found.step))
        return artifacts == Artifacts(self._bucket, found.key)

    def overlap(self, artifacts: Artifacts) -> bool:
        """Return whether a URI of a record covers these artifacts, or lies in them."""
        return self._places.overlap(artifacts)


class Places:
    """Artifacts in one bucket, and which others overlap them, as ReclaimFunction sees it."""

    def __init__(self) -> None:
        self._paths: Counter[tuple[str, ...]] = Counter()
        self._above: set[tuple[str, ...]] = set()

    def add(self, artifacts: Artifacts) -> None:
        """Add artifacts."""
        path = tuple(artifacts.segments())
        self._paths[path] += 1
        self._above |= {path[:length] for length in range(len(path))}

    def overlap(self, artifacts: Artifacts, *, own: int = 0) -> bool:
        """Return whether others overlap; `own` is how often these artifacts were added."""
        path = tuple(artifacts.segments())
        return (
            self._paths[path] > own
            or path in self._above
            or any(path[:length] in self._paths for length in range(len(path)))
        )


@dataclass(slots=True)
class ModelPlan:
    """What was found of one model."""

    new: list[Found] = field(default_factory=list)
    registered: int = 0
    left_out: dict[Reason, list[Found]] = field(default_factory=dict)


def sort_out(
    found: Iterable[Found], records: KnownRecords, bucket: str, *, newest: datetime | None
) -> dict[str, ModelPlan]:
    """Return which checkpoints of each model are new, registered or left out.

    An object that is newer than `newest` is too young; None means that none is.
    """
    found = list(found)
    models: dict[str, ModelPlan] = {}
    candidates = [each for each in found if each.reason not in NO_CHECKPOINT]
    count = Counter((each.model_id, each.step) for each in candidates)
    places = Places()
    for each in candidates:
        places.add(Artifacts(bucket, each.key))

    def judge(each: Found) -> Reason | None:
        artifacts = Artifacts(bucket, each.key)
        checks = {
            Reason.INVALID_MODEL: not 0 < len(each.model_id.encode()) <= MAX_MODEL_ID_BYTES,
            Reason.INVALID_STEP: not storable([each.step]),
            Reason.INVALID_URI: not _is_accepted(artifacts),
            Reason.HAS_RECORD: each in records,
            Reason.SAME_STEP: count[each.model_id, each.step] > 1,
            Reason.OVERLAP: places.overlap(artifacts, own=1),
            Reason.OVERLAPS_RECORD: records.overlap(artifacts),
            Reason.UNFINISHED: each.unfinished,
            Reason.TOO_YOUNG: newest is not None and each.newest > newest,
        }
        return next((reason for reason, applies in checks.items() if applies), None)

    for each in found:
        model = models.setdefault(each.model_id, ModelPlan())
        if each.reason is None and records.have(each):
            model.registered += 1
        elif reason := each.reason or judge(each):
            model.left_out.setdefault(reason, []).append(each)
        else:
            model.new.append(each)
    return models


def _is_accepted(artifacts: Artifacts) -> bool:
    """Return whether ReclaimFunction would accept the URI."""
    try:
        return Artifacts.parse(artifacts.uri, bucket=artifacts.bucket) == artifacts
    except InvalidUriError:
        return False
