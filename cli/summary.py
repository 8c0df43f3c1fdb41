"""Summarise all records of the checkpoints table, and find those that are wrong."""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import boto3
from rich.table import Table

from checkpoints.reclaim.artifacts import Artifacts, InvalidUriError
from checkpoints.records.numbers import to_integer
from checkpoints.records.record import NOT_PROTECTED, Checkpoint, is_protected
from cli.records import Record, format_size, owner_of
from cli.stacks import CONFIG, output_of
from cli.terminal import console, count_items, printable

MAX_EXAMPLES = 3
MAX_URI_CHARACTERS = 200  # of an example in the text

SHARED_BY_MODELS = "artifacts_shared_by_models"
SHARED = "artifacts_shared"
NO_OWNER = "no_owner"
STEP = "step_not_an_integer"
EXPIRES = "protected_but_expires"

# What to say of records with each problem, in this order. The last ones are named like attributes.
MEANINGS = {
    SHARED_BY_MODELS: "have artifacts that a record of another model also has. When one of the two "
    "records is deleted, the other loses its artifacts, too",
    SHARED: "have artifacts that another record of the model also has. Their storage is freed only "
    "with the last of these records, or you must delete the artifacts yourself",
    NO_OWNER: "have no owner, because `entity` is missing or is not a string. The API cannot list "
    "or delete them",
    STEP: "have a step that is not an integer. The API cannot list or delete them",
    EXPIRES: "are protected and have an `expires_at`. With ExpireCheckpoints, DynamoDB deletes "
    "them although they are protected. To remove `expires_at`, run `checkpoints records protect`",
    "metrics": "have `metrics` that are not a map of numbers. The list leaves out what is not a "
    "number",
    "artifact_uri": "have an `artifact_uri` that is not a valid URI. Their storage is never freed",
    "size_bytes": "have a `size_bytes` that is not an integer from 0 to 2^53 - 1. It is ignored",
    "created_at": "have a `created_at` that is not an integer from 0 to 2^53 - 1. It is ignored",
    "expires_at": "have an `expires_at` that is not an integer from 0 to 2^53 - 1. The list leaves "
    "it out, and the records may never expire",
    "protected": "have a `protected` that is neither true nor false. It protects them",
}


@dataclass
class Total:
    """Numbers of checkpoints. The size is the sum of those of which it is known."""

    checkpoints: int = 0
    size_bytes: int = 0
    size_known: int = 0
    protected: int = 0

    def count(self, record: Record, checkpoint: Checkpoint | None) -> None:
        """Add a record. Without a checkpoint, which the API cannot see, nothing else is known."""
        self.checkpoints += 1
        self.protected += is_protected(record)
        if checkpoint and checkpoint.size_bytes is not None:
            self.size_bytes += checkpoint.size_bytes
            self.size_known += 1


@dataclass
class Model(Total):
    """The checkpoints that one entity, or nobody, has of one model."""

    first_step: int | None = None
    last_step: int | None = None
    newest_created_at: int | None = None

    def count(self, record: Record, checkpoint: Checkpoint | None) -> None:
        """Add a record."""
        super().count(record, checkpoint)
        if checkpoint:
            step, created = checkpoint.step, checkpoint.created_at
            self.first_step = step if self.first_step is None else min(self.first_step, step)
            self.last_step = step if self.last_step is None else max(self.last_step, step)
            if created is not None:
                self.newest_created_at = max(created, self.newest_created_at or 0)


@dataclass
class Warned:
    """How many records have a problem, and some of them."""

    count: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)

    def add(self, **example: object) -> None:
        """Count a record, and keep it if it is one of the first."""
        self.count += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(example)


class Place(NamedTuple):
    """The artifacts of a record."""

    artifacts: Artifacts
    model_id: str
    step: str

    def describe(self, prefix: str = "") -> dict[str, Any]:
        """Return the fields of an example."""
        uri = self.artifacts.uri
        fields = {"model_id": self.model_id, "step": _number(self.step), "artifact_uri": uri}
        return {prefix + name: value for name, value in fields.items()}


class Summary:
    """The summary of all records: `models` by entity and model, `total`, `warnings` by problem."""

    def __init__(self) -> None:
        self.models: dict[tuple[str | None, str], Model] = {}
        self.total = Total()
        self.warnings = {problem: Warned() for problem in MEANINGS}
        self._places: list[Place] = []

    def count(self, record: Record) -> None:
        """Add a record."""
        model_id, step, uri = (
            record["model_id"]["S"],
            record["step"]["N"],
            record.get("artifact_uri"),
        )
        checkpoint = Checkpoint.from_item(record)
        model = self.models.setdefault((owner_of(record), model_id), Model())
        for total in (model, self.total):
            total.count(record, checkpoint)
        for problem in _problems(record, checkpoint):
            self.warnings[problem].add(model_id=model_id, step=_number(step))
        if uri and (artifacts := Artifacts.split(uri.get("S"))):
            self._places.append(Place(artifacts, model_id, step))

    def find_shared_artifacts(self) -> None:
        """Warn of records whose artifacts lie in those of another. Call it after the last record.

        In the order of segments, whatever an URI covers comes directly after it.
        """
        self._places.sort(key=lambda place: (place.artifacts.bucket, place.artifacts.segments()))
        above: Place | None = None
        for place in self._places:
            if above and above.artifacts.cover(place.artifacts):
                problem = SHARED if above.model_id == place.model_id else SHARED_BY_MODELS
                self.warnings[problem].add(**place.describe(), **above.describe("other_"))
            else:
                above = place

    def sorted_models(self) -> list[tuple[str | None, str, Model]]:
        """Return the entity, the id and the numbers of each model, the largest first."""
        rows = [(entity, model_id, model) for (entity, model_id), model in self.models.items()]
        return sorted(
            rows,
            key=lambda row: (-row[2].size_bytes, -row[2].checkpoints, row[0] or "", row[1]),
        )


def summarise(stack: str, *, as_json: bool) -> None:
    """Print the summary to standard output, and the warnings to standard error."""
    summary = Summary()
    for record in _scan(output_of(stack, "CheckpointsTableName")):
        summary.count(record)
    summary.find_shared_artifacts()
    if as_json:
        _print_json(summary)
    else:
        _print_table(summary)
    sys.stdout.flush()
    _print_warnings(summary)


def _scan(table: str) -> Iterator[Record]:
    """Yield all records, and show how many were read."""
    client = boto3.client("dynamodb", config=CONFIG)
    print(
        "Reading the whole table, which costs a read unit for each 8 KB of records.",
        file=sys.stderr,
    )
    names = ["model_id", "step", "entity", "metrics", "artifact_uri", "size_bytes"]
    names += ["created_at", "expires_at", "protected"]
    pages = client.get_paginator("scan").paginate(
        TableName=table,
        ProjectionExpression=", ".join(f"#{name}" for name in names),
        ExpressionAttributeNames={f"#{name}": name for name in names},
    )
    yield from count_items((page["Items"] for page in pages), "Records read")


def _problems(record: Record, checkpoint: Checkpoint | None) -> Iterator[str]:
    """Yield the problems that the record has by itself."""
    if owner_of(record) is None:
        yield NO_OWNER
    if not checkpoint:
        yield STEP
        return
    if is_protected(record) and "expires_at" in record:
        yield EXPIRES
    metrics = record.get("metrics", {"M": {}}).get("M")
    if metrics is None or len(checkpoint.metrics) < len(metrics):
        yield "metrics"
    if "artifact_uri" in record and not _is_valid(record["artifact_uri"]):
        yield "artifact_uri"
    for name in ("size_bytes", "created_at", "expires_at"):
        if name in record and getattr(checkpoint, name) is None:
            yield name
    if record.get("protected", NOT_PROTECTED) not in (NOT_PROTECTED, {"BOOL": True}):
        yield "protected"


def _is_valid(uri: Mapping[str, Any]) -> bool:
    try:
        Artifacts.parse(uri.get("S"))
    except InvalidUriError:
        return False
    return True


def _print_json(summary: Summary) -> None:
    document = {
        "models": [
            {"entity": entity, "model_id": model_id, **asdict(model)}
            for entity, model_id, model in summary.sorted_models()
        ],
        "total": asdict(summary.total),
        "warnings": [
            {"problem": problem, **asdict(warned)}
            for problem, warned in summary.warnings.items()
            if warned.count
        ],
    }
    print(json.dumps(document, indent=2))


def _print_table(summary: Summary) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("ENTITY", "MODEL"):
        table.add_column(heading, overflow="fold")
    for heading in ("CHECKPOINTS", "SIZE", "PROTECTED", "FIRST STEP", "LAST STEP", "NEWEST"):
        table.add_column(heading, overflow="fold", justify="right")
    for entity, model_id, model in summary.sorted_models():
        table.add_row(
            printable(entity or "(none)"),
            printable(model_id),
            *_cells(model),
            *("" if step is None else str(step) for step in (model.first_step, model.last_step)),
            _format_time(model.newest_created_at),
        )
    table.add_row("Total", f"{len(summary.models):,}", *_cells(summary.total))
    console().print(table)


def _cells(total: Total) -> tuple[str, str, str]:
    size = format_size(total.size_bytes, known=total.size_known, of=total.checkpoints)
    return f"{total.checkpoints:,}", size, f"{total.protected:,}"


def _print_warnings(summary: Summary) -> None:
    for problem, warned in summary.warnings.items():
        if warned.count:
            print(f"Warning: {warned.count:,} records {MEANINGS[problem]}.", file=sys.stderr)
            for example in warned.examples:
                print(f"  {_describe(example)}", file=sys.stderr)
            if more := warned.count - len(warned.examples):
                print(f"  and {more:,} more", file=sys.stderr)


def _describe(example: Mapping[str, Any], prefix: str = "") -> str:
    """Return a line about an example, and about the record with which it shares artifacts."""
    text = f"{example[f'{prefix}model_id']!r} step {example[f'{prefix}step']}"
    if uri := example.get(f"{prefix}artifact_uri"):
        text += f" ({uri[:MAX_URI_CHARACTERS]!r})"
    if not prefix and "other_step" in example:
        text += f" and {_describe(example, 'other_')}"
    return text


def _number(text: str) -> int | str:
    """Return a step as an integer, or its text if it is not one."""
    step = to_integer(text)
    return text if step is None else step


def _format_time(seconds: int | None) -> str:
    if seconds is None:
        return ""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
    except (ValueError, OverflowError, OSError):
        return str(seconds)
