"""Parse and format lists of steps, such as `100,200-203`."""

import re
from collections.abc import Collection, Iterable, Sequence
from itertools import groupby

import typer

from checkpoints.records.numbers import storable
from cli.errors import CommandError

MAX_STEPS = 1_000_000


def parse_steps(text: str) -> list[int]:
    """Return the steps of a list such as `100,200-203`.

    Raises:
        BadParameter: it is not such a list, or a step is too large for DynamoDB.

    """
    ranges = []
    for part in text.split(","):
        match = re.fullmatch(r"(-?[0-9]{1,126})(?:-(-?[0-9]{1,126}))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if first > last or storable([first, last]) != [first, last]:
            raise typer.BadParameter(f"{part[:40]!r} is not a step or a range like 200-203.")
        ranges.append((first, last))
    try:
        return expand(ranges)
    except CommandError as error:
        raise typer.BadParameter(str(error)) from None


def expand(ranges: Iterable[Sequence[int]]) -> list[int]:
    """Return the steps of ranges `[first, last]`, ascending and without duplicates.

    Raises:
        CommandError: there are more than `MAX_STEPS`.

    """
    ranges = list(ranges)
    if sum(last - first + 1 for first, last in ranges) > MAX_STEPS:
        raise CommandError(f"There are more than {MAX_STEPS:,} steps. Use a smaller range.")
    return sorted({step for first, last in ranges for step in range(first, last + 1)})


def format_steps(steps: Collection[int]) -> str:
    """Format ascending steps for `parse_steps`."""
    runs = [
        [step for _, step in run]
        for _, run in groupby(enumerate(steps), lambda pair: pair[1] - pair[0])
    ]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
