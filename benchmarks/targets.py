"""What the service is to reach, and whether a run says that it does."""

from collections.abc import Callable
from dataclasses import dataclass

from measure import (
    ENDPOINT,
    MEGABYTE,
    MEMORY,
    OURS_ONE_BY_ONE,
    Results,
    missing,
    present,
    sparse,
)
from packages import DEFAULT, FASTAPI, FLOOR, OURS, SAMPLES
from worker import MEMORY_MB, Request

# Times vary from run to run and from machine to machine; a check lets them be so much worse.
# Counts and the memory do not.
TOLERANCE = 1.25


@dataclass(frozen=True)
class Target:
    """A figure that is to be no larger than its limit."""

    name: str
    limit: float
    measure: Callable[[Results], float]
    is_time: bool = True

    def is_met(self, value: float) -> bool:
        """Tell whether a figure is within the limit."""
        return value <= self.limit

    def is_far_from(self, value: float) -> bool:
        """Tell whether a figure is worse than its limit by more than chance would have it."""
        return value > self.limit * (TOLERANCE if self.is_time else 1)


def _cpu(results: Results, name: str, client: str, request: Request) -> float:
    return results.figures(name, client, request).cpu_seconds


def _wall(results: Results, name: str, request: Request) -> float:
    return results.figures(name, ENDPOINT, request).wall_seconds


TARGETS = (
    Target(
        "Cold start, against Powertools as in its samples and `sam build` by default",
        0.35,
        lambda r: r.start(OURS) / r.start(SAMPLES, DEFAULT),
    ),
    Target(
        "Cold start, against the floor packaged like ours",
        1.15,
        lambda r: r.start(OURS) / r.start(FLOOR),
    ),
    Target(
        "Cold start, against FastAPI and Mangum packaged like ours",
        0.65,
        lambda r: r.start(OURS) / r.start(FASTAPI),
    ),
    Target(
        "CPU of a warm request of 1 step, client in memory, against FastAPI and Mangum",
        0.1,
        lambda r: _cpu(r, OURS, MEMORY, present(1)) / _cpu(r, FASTAPI, MEMORY, present(1)),
    ),
    Target(
        "CPU of 100,000 steps, all missing, client in memory, against the floor",
        2,
        lambda r: (
            _cpu(r, OURS, MEMORY, missing(100_000)) / _cpu(r, FLOOR, MEMORY, missing(100_000))
        ),
    ),
    Target(
        "CPU to delete 1,000 records, against the better of the two that delete one by one",
        0.08,
        lambda r: (
            _cpu(r, OURS, ENDPOINT, present(1_000))
            / min(_cpu(r, name, ENDPOINT, present(1_000)) for name in (FASTAPI, SAMPLES))
        ),
    ),
    Target(
        "Calls of DynamoDB to delete 1,000 records",
        13,
        lambda r: r.figures(OURS, ENDPOINT, present(1_000)).calls,
        is_time=False,
    ),
    Target(
        "Calls of DynamoDB for 100,000 steps asked of 300 checkpoints",
        6,
        lambda r: r.figures(OURS, ENDPOINT, sparse()).calls,
        is_time=False,
    ),
    Target(
        "Time to delete 10,000 records at 20 ms a call, against one call at a time",
        0.45,
        lambda r: (
            _wall(r, OURS, present(10_000, 0.02)) / _wall(r, OURS_ONE_BY_ONE, present(10_000, 0.02))
        ),
    ),
    Target(
        f"Peak memory at a body near 6 MB, of the {MEMORY_MB} MB there are",
        0.5,
        lambda r: (
            max(peak for (name, _), peak in r.peak_bytes.items() if name == OURS)
            / (MEMORY_MB * MEGABYTE)
        ),
        is_time=False,
    ),
    Target(
        "CPU of a request without a token, against an accepted one of 1 step",
        0.15,
        lambda r: (
            _cpu(r, OURS, ENDPOINT, Request("no_token")) / _cpu(r, OURS, ENDPOINT, present(1))
        ),
    ),
)
