"""What was deleted: as the function's log tells it, or as a person lists the steps."""

import argparse
import re
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import NamedTuple
from uuid import UUID

from checkpoints.steps import storable
from scripts import logs
from scripts.stacks import UsageError

MAX_STEPS = 1_000_000


class Deleted(NamedTuple):
    """The checkpoints to put back."""

    model_id: str
    steps: list[int]
    entity: str | None = None  # the owner, if that is known
    complete: bool = True  # false: the log does not have all steps yet


def find_in_log(log_group: str, request: UUID, *, since: datetime) -> Deleted:
    """Return what a request deleted, or may have deleted, by all its lines in the function's log.

    The search begins at `since`.

    Raises:
        UsageError: the log does not know the request.

    """
    # CloudWatch can have a line twice.
    messages = dict.fromkeys(logs.search(log_group, f'"{request}"', since=since))
    fields = map(logs.read_fields, messages)
    # Not all that were found: a caller can have the id of another request logged as its own.
    lines = [line for line in fields if line.get("function_request_id") == str(request)]
    if not lines:
        raise UsageError(
            f"{log_group} has no line with the function_request_id {request} since "
            f"{since.astimezone(UTC):%Y-%m-%d %H:%M} UTC. Lines appear some seconds after the "
            "request. If it is older, the table was restored to a moment after it."
        )
    if any(line.get("dry_run") for line in lines):
        print(f"The request {request} was a dry run.")
        return Deleted("", [])
    steps = expand(
        pair
        for line in lines
        for key in ("deleted_steps", "unconfirmed_steps")
        for pair in line.get(key, [])
    )
    counts = ("deleted_count", "unconfirmed_count")
    expected = sum(line.get(key, 0) for line in lines for key in counts)
    return Deleted(
        lines[0].get("model_id", ""),  # a request that was refused may have none
        steps,
        lines[0].get("entity"),
        complete=len(steps) == expected,
    )


def parse_steps(text: str) -> list[int]:
    """Return the steps of a list such as `100,200-203`.

    Raises:
        ArgumentTypeError: it is none, or has a step that DynamoDB cannot hold.

    """
    ranges = []
    for part in text.split(","):
        match = re.fullmatch(r"(-?[0-9]{1,126})(?:-(-?[0-9]{1,126}))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if first > last or storable([first, last]) != [first, last]:
            raise argparse.ArgumentTypeError(
                f"{part[:40]!r} is neither a step nor a range such as 200-203"
            )
        ranges.append((first, last))
    try:
        return expand(ranges)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def expand(ranges: Iterable[Sequence[int]]) -> list[int]:
    """Return the steps of ranges `[first, last]`, ascending and each once.

    Raises:
        UsageError: they are too many.

    """
    ranges = list(ranges)
    if sum(last - first + 1 for first, last in ranges) > MAX_STEPS:
        raise UsageError(f"more than {MAX_STEPS:,} steps; put back fewer at a time")
    return sorted({step for first, last in ranges for step in range(first, last + 1)})


def format_steps(steps: Collection[int]) -> str:
    """Return ascending steps as `parse_steps` takes them."""
    runs = [
        [step for _, step in run]
        for _, run in groupby(enumerate(steps), lambda pair: pair[1] - pair[0])
    ]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
