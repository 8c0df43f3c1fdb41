"""Measure everything. The implementations take turns, so that other load affects all of them."""

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from http import HTTPStatus
from statistics import median
from typing import NamedTuple

from packages import BUILD, NAMES, OURS, BenchError
from runtime import TIMEOUT_SECONDS, Function, Invocation, running
from server import serving
from stub import Stub

from events import make_event

COLD_STARTS = 21  # of each package
MAX_RUNS, MAX_SECONDS = 60, 1.0  # of each request: at most 60, and none starts after one second
WRITE_LIMIT = 1_000  # units per second, of one partition
LIMITED_STEPS = 30_000

# A shorter timeout, to save time. It is for requests that cannot finish in TIMEOUT_SECONDS either.
SHORT_TIMEOUT_SECONDS = 20


@dataclass(frozen=True)
class Case:
    """A request for the steps from 0 to `requested` - 1, and the checkpoints in the table."""

    requested: int
    present: range
    foreign: tuple[int, ...] = ()  # owned by another entity, so missing for the caller
    repeats: int = 1  # how often the request contains each step

    @property
    def label(self) -> str:
        """The request in words."""
        label = f"{self.requested:,} step{'s' if self.requested > 1 else ''}"
        missing = self.requested - len(self.present)
        return f"{label}, {missing:,} missing" if missing else label


ONE, HUNDRED, THOUSAND, TEN_THOUSAND = (Case(n, range(n)) for n in (1, 100, 1_000, 10_000))
HALF_MISSING = Case(100, range(0, 100, 2), foreign=(7, 9))
SPARSE = Case(100_000, range(0, 100_000, 334))
CASES = (ONE, HUNDRED, HALF_MISSING, THOUSAND, TEN_THOUSAND, SPARSE)
# The largest bodies, with the shortest steps and with six digits each. Lambda accepts 6 MB.
BODY_BYTES = 5_900_000
REPEATED_STEP = Case(1, range(1), repeats=BODY_BYTES // 2)
DISTINCT_STEPS = range(100_000, 100_000 + BODY_BYTES // 7)


class Limits(NamedTuple):
    """What an implementation does with a throttled request, and with a large body."""

    status: int
    deleted: int
    used: float  # share of the write units that were available
    peak_bytes: int


class Bench:
    """The measurements and their results."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        self.cold_starts: dict[str, list[float]] = {name: [] for name in NAMES}  # in seconds
        self.requests: dict[tuple[str, Case], Invocation] = {}  # without those that take too long
        self.limits: dict[str, Limits] = {}
        self.peak_bytes = 0  # of this API, for both of the largest bodies
        files = [file for file in (BUILD / OURS).rglob("*") if file.is_file()]
        self.package_bytes = sum(file.stat().st_size for file in files)
        self._progress = progress
        self._stub = Stub()

    def measure(self) -> None:
        """Measure everything. The packages must be built."""
        with serving(self._stub.respond) as self._endpoint:
            self._cold_starts()
            self._requests()
            self._large_requests()

    def _cold_starts(self) -> None:
        for turn in range(COLD_STARTS + 1):
            self._progress(f"cold starts, {turn} of {COLD_STARTS}")
            for name in NAMES:
                with running(name, self._endpoint) as function:
                    invocation = self._send(name, function, ONE)
                if turn:  # the first turn only fills the file cache
                    self.cold_starts[name].append(invocation.seconds_since_start)

    def _requests(self) -> None:
        with ExitStack() as stack:
            functions = {name: stack.enter_context(running(name, self._endpoint)) for name in NAMES}
            for case in CASES:
                self._send_in_turns(functions, case)
                for name in list(functions):  # ten times as many steps would time out
                    if 10 * self.requests[name, case].seconds > TIMEOUT_SECONDS:
                        del functions[name]

    def _large_requests(self) -> None:
        steps = range(LIMITED_STEPS)
        for name in NAMES:
            self._progress(f"memory and write limit, {name}")
            with running(name, self._endpoint) as function:
                self._send(name, function, REPEATED_STEP)
                peak_bytes = function.peak_bytes()
                if name == OURS:
                    self._send_too_large(name, function, DISTINCT_STEPS)
                    self.peak_bytes = function.peak_bytes()
                invocation, deleted = self._send_too_large(name, function, steps, WRITE_LIMIT)
            # At the start, one second's worth of units is saved.
            available = WRITE_LIMIT * (1 + invocation.seconds)
            used = self._stub.usage["write_units"] / available
            self.limits[name] = Limits(invocation.status, deleted, used, peak_bytes)

    def _send_in_turns(self, functions: Mapping[str, Function], case: Case) -> None:
        """Add the median times of a request to the results. The counts are the same each time."""
        self._progress(case.label)
        runs: dict[str, list[Invocation]] = {name: [] for name in functions}
        for _ in range(MAX_RUNS):
            for name, done in runs.items():
                if sum(run.seconds for run in done) < MAX_SECONDS:
                    done.append(self._send(name, functions[name], case))
        for name, done in runs.items():
            cpu = median(run.cpu_seconds for run in done)
            seconds = median(run.seconds for run in done)
            self.requests[name, case] = replace(done[-1], seconds=seconds, cpu_seconds=cpu)

    def _send(self, name: str, function: Function, case: Case) -> Invocation:
        """Send a request, and check the response and the checkpoints that are left."""
        stub = self._stub
        stub.reset(case.present, case.foreign)
        requested = list(range(case.requested))
        invocation = function.invoke(_make_event(requested * case.repeats))
        not_found = [step for step in requested if step not in case.present]
        expected = {"deleted_count": len(requested) - len(not_found), "not_found_steps": not_found}
        if invocation.status != HTTPStatus.OK or json.loads(invocation.body) != expected:
            raise BenchError(f"{name}, {case}: {invocation.status} {invocation.body[:2000]}")
        if stub.entities.keys() != set(case.foreign):
            raise BenchError(f"{name} left wrong checkpoints in the table: {case}")
        return replace(invocation, usage=stub.usage)

    def _send_too_large(
        self, name: str, function: Function, steps: range, write_limit: float = 0
    ) -> tuple[Invocation, int]:
        """Send a request that cannot finish in time. Also return how many checkpoints it deleted.

        This API must respond with 503, and the counts in the response must be correct.
        """
        self._stub.reset(steps, write_limit=write_limit)
        invocation = function.invoke(_make_event(steps), SHORT_TIMEOUT_SECONDS)
        deleted = len(steps) - len(self._stub.entities)
        if name == OURS:
            if invocation.status != HTTPStatus.SERVICE_UNAVAILABLE:
                raise BenchError(f"{name}, {len(steps):,} steps: {invocation}")
            body = json.loads(invocation.body)
            if not 0 <= deleted - body["deleted_count"] <= body["unconfirmed_count"]:
                raise BenchError(f"{name} deleted {deleted} checkpoints, but returned {body}")
        elif invocation.status == HTTPStatus.OK:
            raise BenchError(f"{name} finished a request that is too large to finish")
        return invocation, deleted


def _make_event(steps: Iterable[int]) -> dict[str, object]:
    return make_event(body=json.dumps({"steps": list(steps)}, separators=(",", ":")))
