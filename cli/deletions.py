"""Read from the function's log which steps a request deleted, or parse a list of steps."""

import argparse
import re
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import NamedTuple
from uuid import UUID

from checkpoints.records.numbers import storable
from cli import logs
from cli.stacks import UsageError

MAX_STEPS = 1_000_000


class Deleted(NamedTuple):
    """The checkpoints to restore."""

    model_id: str
    steps: list[int]
    entity: str | None = None  # the owner, if that is known
    complete: bool = True  # False: the log does not have all steps yet


def find_in_log(log_group: str, request: UUID, *, since: datetime) -> Deleted:
    """Return the checkpoints that a request deleted or may have deleted, from the function's log.

    The search starts at `since`.

    Raises:
        UsageError: the log has no line of the request.

    """
    # CloudWatch can return a line twice.
    messages = dict.fromkeys(logs.search(log_group, f'"{request}"', since=since))
    fields = map(logs.read_fields, messages)
    # Filter the lines, because a caller can put the id of another request into its own log lines.
    lines = [line for line in fields if line.get("function_request_id") == str(request)]
    if not lines:
        raise UsageError(
            f"{log_group} has no line with the function_request_id {request} since "
            f"{since.astimezone(UTC):%Y-%m-%d %H:%M} UTC. Lines appear some seconds after the "
            "request. If the request is older, restore the table to an earlier time."
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
        lines[0].get("model_id", ""),  # a refused request may have none
        steps,
        lines[0].get("entity"),
        complete=len(steps) == expected,
    )


def parse_steps(text: str) -> list[int]:
    """Return the steps of a list such as `100,200-203`.

    Raises:
        ArgumentTypeError: it is not such a list, or a step is too large for DynamoDB.

    """
    ranges = []
    for part in text.split(","):
        match = re.fullmatch(r"(-?[0-9]{1,126})(?:-(-?[0-9]{1,126}))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if first > last or storable([first, last]) != [first, last]:
            raise argparse.ArgumentTypeError(f"{part[:40]!r} is not a step or a range like 200-203")
        ranges.append((first, last))
    try:
        return expand(ranges)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def expand(ranges: Iterable[Sequence[int]]) -> list[int]:
    """Return the steps of ranges `[first, last]`, ascending and without duplicates.

    Raises:
        UsageError: there are more than `MAX_STEPS`.

    """
    ranges = list(ranges)
    if sum(last - first + 1 for first, last in ranges) > MAX_STEPS:
        raise UsageError(f"more than {MAX_STEPS:,} steps; use a smaller range in --steps")
    return sorted({step for first, last in ranges for step in range(first, last + 1)})


def format_steps(steps: Collection[int]) -> str:
    """Format ascending steps for `parse_steps`."""
    runs = [
        [step for _, step in run]
        for _, run in groupby(enumerate(steps), lambda pair: pair[1] - pair[0])
    ]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
