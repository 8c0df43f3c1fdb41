"""Measure everything. The implementations take turns, so that other load affects all of them."""

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from http import HTTPStatus
from statistics import median

from packages import BUILD, NAMES, OURS, SEQUENTIAL, BenchError
from runtime import TIMEOUT_SECONDS, Function, Invocation, running
from server import serving
from stub import Stub

from events import make_event

COLD_STARTS = 11  # of each package
MAX_RUNS, MAX_SECONDS = 60, 1.0  # of each request: at most 60, and none starts after one second
BODY_BYTES = 5_900_000  # Lambda accepts events of up to 6 MB
WRITE_LIMIT = 1_000  # units per second, of one partition
LIMITED_STEPS = 30_000

# A shorter timeout, to save time. It is for requests that cannot finish in TIMEOUT_SECONDS either.
SHORT_TIMEOUT_SECONDS = 20


@dataclass(frozen=True)
class Case:
    """A request for the steps from 0 to `requested` - 1, and the checkpoints in the table."""

    requested: int
    present: range
    foreign: tuple[int, ...] = ()  # also present, but owned by another entity
    repeats: int = 1  # how often the request contains each step
    latency: float = 0.005  # seconds per call of DynamoDB

    @property
    def label(self) -> str:
        """The request in words."""
        label = f"{self.requested:,} step{'s' if self.requested > 1 else ''}"
        missing = self.requested - len(self.present)
        return f"{label}, {missing:,} missing" if missing else label


PRESENT = {size: Case(size, range(size)) for size in (1, 10, 100, 1_000, 10_000)}
HALF_MISSING = Case(100, range(0, 100, 2))
SPARSE = Case(100_000, range(0, 100_000, 334))
CASES = sorted((*PRESENT.values(), HALF_MISSING, SPARSE), key=lambda case: case.requested)
HIGH_LATENCY = replace(PRESENT[10_000], latency=0.02)
CORRECTNESS_CASES = [
    Case(size, range(0, 2 * size, 2), foreign=(4, 7), repeats=2) for size in (10, 250)
]
# The largest bodies, with the shortest steps and with six digits each.
REPEATED_STEP = Case(1, range(1), repeats=BODY_BYTES // 2)
DISTINCT_STEPS = range(100_000, 100_000 + BODY_BYTES // 7)


class Bench:
    """The measurements and their results."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        self.cold_starts: dict[str, float] = {}  # in seconds
        self.requests: dict[tuple[str, Case], Invocation] = {}  # without those that take too long
        self.peaks: dict[str, dict[str, int]] = {}  # in bytes
        # The status, the number of deleted checkpoints, and the used share of the write limit.
        self.limited: dict[str, tuple[int, int, float]] = {}
        files = [file for file in (BUILD / OURS).rglob("*") if file.is_file()]
        self.package_bytes = sum(file.stat().st_size for file in files)
        self._progress = progress
        self._stub = Stub()

    def measure(self) -> None:
        """Measure everything. The packages must be built."""
        with serving(self._stub.respond) as self._endpoint:
            self._cold_starts()
            self._requests()
            self._concurrency()
            self._memory()
            self._write_limit()

    def _cold_starts(self) -> None:
        seconds: dict[str, list[float]] = {name: [] for name in NAMES}
        for turn in range(COLD_STARTS + 1):
            self._progress(f"cold starts, {turn} of {COLD_STARTS}")
            for name in NAMES:
                with running(name, self._endpoint) as function:
                    invocation = self._send(name, function, PRESENT[1])
                if turn:  # the first turn only fills the file cache
                    seconds[name].append(invocation.seconds_since_start)
        self.cold_starts = {name: median(turns) for name, turns in seconds.items()}

    def _requests(self) -> None:
        with ExitStack() as stack:
            functions = {name: stack.enter_context(running(name, self._endpoint)) for name in NAMES}
            for name, function in functions.items():
                self._progress(f"correctness of {name}")
                for case in CORRECTNESS_CASES:
                    self._send(name, function, case)
            for case in CASES:
                self._progress(case.label)
                medians = self._send_in_turns(functions, case)
                for name, request in medians.items():
                    self.requests[name, case] = request
                    if 10 * request.seconds > TIMEOUT_SECONDS:  # ten times as many would time out
                        del functions[name]

    def _concurrency(self) -> None:
        self._progress("10,000 steps at 20 ms per call")
        with (
            running(OURS, self._endpoint) as ours,
            running(SEQUENTIAL, self._endpoint) as sequential,
        ):
            functions = {OURS: ours, SEQUENTIAL: sequential}
            medians = self._send_in_turns(functions, HIGH_LATENCY)
        self.requests |= {(name, HIGH_LATENCY): request for name, request in medians.items()}

    def _memory(self) -> None:
        label = f"{REPEATED_STEP.repeats:,} steps, 1 distinct"
        self.peaks[label] = {}
        for name in NAMES:
            self._progress(f"memory of {name}, {label}")
            with running(name, self._endpoint) as function:
                self._send(name, function, REPEATED_STEP)
                self.peaks[label][name] = function.peak_bytes()
        label = f"{len(DISTINCT_STEPS):,} steps, all distinct"
        self._progress(f"memory of {OURS}, {label}")
        with running(OURS, self._endpoint) as function:
            invocation, _ = self._send_too_large(OURS, function, DISTINCT_STEPS)
            if invocation.status != HTTPStatus.SERVICE_UNAVAILABLE:
                raise BenchError(f"{OURS}, {label}: {invocation}")
            self.peaks[label] = {OURS: function.peak_bytes()}

    def _write_limit(self) -> None:
        for name in NAMES:
            self._progress(f"write limit, {name}")
            with running(name, self._endpoint) as function:
                self._send(name, function, PRESENT[1])
                steps = range(LIMITED_STEPS)
                invocation, deleted = self._send_too_large(name, function, steps, WRITE_LIMIT)
            # At the start, one second's worth of units is saved.
            available = WRITE_LIMIT * (1 + invocation.seconds)
            used = self._stub.usage["write_units"] / available
            self.limited[name] = (invocation.status, deleted, used)

    def _send_in_turns(
        self, functions: Mapping[str, Function], case: Case
    ) -> dict[str, Invocation]:
        """Return the median times of a request. The counts are the same each time."""
        runs: dict[str, list[Invocation]] = {name: [] for name in functions}
        for _ in range(MAX_RUNS):
            for name, done in runs.items():
                if sum(run.seconds for run in done) < MAX_SECONDS:
                    done.append(self._send(name, functions[name], case))
        medians = {}
        for name, done in runs.items():
            cpu = median(run.cpu_seconds for run in done)
            seconds = median(run.seconds for run in done)
            medians[name] = replace(done[-1], seconds=seconds, cpu_seconds=cpu)
        return medians

    def _send(self, name: str, function: Function, case: Case) -> Invocation:
        """Send a request, and check the response and the checkpoints that are left."""
        stub = self._stub
        stub.reset(case.present, case.foreign, case.latency)
        requested = list(range(case.requested))
        invocation = function.invoke(_make_event(requested * case.repeats))
        mine = set(case.present) - set(case.foreign)
        not_found = [step for step in requested if step not in mine]
        expected = {"deleted_count": len(requested) - len(not_found), "not_found_steps": not_found}
        if invocation.status != HTTPStatus.OK or json.loads(invocation.body) != expected:
            raise BenchError(f"{name}, {case}: {invocation.status} {invocation.body[:2000]}")
        if stub.entities.keys() != mine.difference(requested).union(case.foreign):
            raise BenchError(f"{name} left wrong checkpoints in the table: {case}")
        return replace(invocation, usage=stub.usage)

    def _send_too_large(
        self, name: str, function: Function, steps: range, write_limit: float = 0
    ) -> tuple[Invocation, int]:
        """Send a request that cannot finish in time. Also return how many checkpoints it deleted.

        If the status is 503, check the counts in the response.
        """
        self._stub.reset(steps, latency=0.005, write_limit=write_limit)
        invocation = function.invoke(_make_event(steps), SHORT_TIMEOUT_SECONDS)
        deleted = len(steps) - len(self._stub.entities)
        if invocation.status == HTTPStatus.OK:
            raise BenchError(f"{name} finished a request that is too large to finish")
        if invocation.status == HTTPStatus.SERVICE_UNAVAILABLE:
            body = json.loads(invocation.body)
            more = deleted - body["deleted_count"]
            if not 0 <= more <= body["unconfirmed_count"]:
                raise BenchError(f"{name} deleted {deleted} checkpoints, but returned {body}")
        return invocation, deleted


def _make_event(steps: Iterable[int]) -> dict[str, object]:
    return make_event(body=json.dumps({"steps": list(steps)}, separators=(",", ":")))
