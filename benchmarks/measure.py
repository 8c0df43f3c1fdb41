"""All measurements. The implementations take turns, so that a busy moment affects all of them."""

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import median

from packages import BUILD, NAMES, ONE_AT_A_TIME, OURS, BenchError
from runtime import LIMIT_SECONDS, Function, Invocation, running
from server import serving
from stub import Stub

from events import make_event

STARTS = 11  # of each package
TURNS, TURNS_SECONDS = 60, 1.0  # of each request at most; none is begun after so much time
BODY_BYTES = 5_900_000  # near the largest event that Lambda takes
WRITE_LIMIT = 1_000  # units a second, of one partition
LIMITED_STEPS = 30_000
SHORT_SECONDS = 20  # for requests that cannot be finished in 29 s either


@dataclass(frozen=True)
class Case:
    """A request for the steps from 0, and the checkpoints that exist."""

    asked: int
    present: range
    foreign: tuple[int, ...] = ()  # present too, but another entity's
    repeats: int = 1  # of each step in the request
    latency: float = 0.005  # seconds that each call of DynamoDB takes


PRESENT = {size: Case(size, range(size)) for size in (1, 10, 100, 1_000, 10_000)}
HALF_MISSING = Case(100, range(0, 100, 2))
SPARSE = Case(100_000, range(0, 100_000, 334))
CASES = sorted((*PRESENT.values(), HALF_MISSING, SPARSE), key=lambda case: case.asked)
FAR = replace(PRESENT[10_000], latency=0.02)
EXACT = [Case(size, range(0, 2 * size, 2), foreign=(4, 7), repeats=2) for size in (10, 250)]


class Bench:
    """The measurements and their results."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        self.starts: dict[str, float] = {}
        self.requests: dict[tuple[str, Case], Invocation] = {}  # without those that take too long
        self.peaks: dict[str, dict[str, int]] = {}
        # The status, the number of deleted checkpoints, and the part of the limit that was used.
        self.limited: dict[str, tuple[int, int, float]] = {}
        files = [file for file in (BUILD / OURS).rglob("*") if file.is_file()]
        self.package_bytes = sum(file.stat().st_size for file in files)
        self._progress = progress
        self._stub = Stub()

    def measure(self) -> None:
        """Measure everything, once the packages are built."""
        with serving(self._stub.respond) as self._endpoint:
            self._cold_starts()
            self._requests()
            self._side_by_side()
            self._memory()
            self._limit_writes()

    def _cold_starts(self) -> None:
        seconds: dict[str, list[float]] = {name: [] for name in NAMES}
        for turn in range(STARTS + 1):
            self._progress(f"cold starts, {turn} of {STARTS}")
            for name in NAMES:
                with running(name, self._endpoint) as function:
                    invocation = self._ask(name, function, PRESENT[1])
                if turn:  # the first start only warms the disk's cache
                    seconds[name].append(invocation.seconds_since_start)
        self.starts = {name: median(turns) for name, turns in seconds.items()}

    def _requests(self) -> None:
        with ExitStack() as stack:
            functions = {name: stack.enter_context(running(name, self._endpoint)) for name in NAMES}
            for name, function in functions.items():
                self._progress(f"correctness of {name}")
                for case in EXACT:
                    self._ask(name, function, case)
            for case in CASES:
                self._progress(f"{case.asked:,} steps, {len(case.present):,} present")
                done = self._by_turns(functions, case)
                for name, request in done.items():
                    self.requests[name, case] = request
                    if 10 * request.seconds > LIMIT_SECONDS:  # then it cannot do ten times as many
                        del functions[name]

    def _side_by_side(self) -> None:
        self._progress("10,000 steps at 20 ms a call")
        with (
            running(OURS, self._endpoint) as ours,
            running(ONE_AT_A_TIME, self._endpoint) as one_at_a_time,
        ):
            done = self._by_turns({OURS: ours, ONE_AT_A_TIME: one_at_a_time}, FAR)
        self.requests |= {(name, FAR): request for name, request in done.items()}

    def _memory(self) -> None:
        repeated = [7] * (BODY_BYTES // 2)
        distinct = range(100_000, 100_000 + BODY_BYTES // 7)
        # There is no time to delete so many, neither one by one nor together.
        for steps, names, status in ((repeated, NAMES, 200), (distinct, (OURS,), 503)):
            label = f"{len(steps):,} steps, {len(set(steps)):,} distinct"
            self.peaks[label] = {}
            body = json.dumps({"steps": list(steps)}, separators=(",", ":"))
            for name in names:
                self._progress(f"memory of {name}, {label}")
                self._stub.reset(steps, latency=0.005)
                with running(name, self._endpoint) as function:
                    invocation = function.invoke(make_event(body=body), SHORT_SECONDS)
                    if invocation.status != status:
                        raise BenchError(f"{name}, {label}: {invocation}")
                    self.peaks[label][name] = function.peak_bytes()

    def _limit_writes(self) -> None:
        for name in NAMES:
            self._progress(f"write limit, {name}")
            with running(name, self._endpoint) as function:
                self._ask(name, function, PRESENT[1])
                steps = range(LIMITED_STEPS)
                self._stub.reset(steps, latency=0.005, write_limit=WRITE_LIMIT)
                invocation = function.invoke(make_event(steps=list(steps)), SHORT_SECONDS)
                deleted = LIMITED_STEPS - len(self._stub.entities)
                used = self._stub.usage["write_units"] / (WRITE_LIMIT * (1 + invocation.seconds))
                self.limited[name] = (invocation.status, deleted, used)

    def _by_turns(self, functions: Mapping[str, Function], case: Case) -> dict[str, Invocation]:
        """Return the median times of a request; the counts are the same each time."""
        turns: dict[str, list[Invocation]] = {name: [] for name in functions}
        for _ in range(TURNS):
            for name, done in turns.items():
                if sum(turn.seconds for turn in done) < TURNS_SECONDS:
                    done.append(self._ask(name, functions[name], case))
        medians = {}
        for name, done in turns.items():
            cpu = median(turn.cpu_seconds for turn in done)
            seconds = median(turn.seconds for turn in done)
            medians[name] = replace(done[-1], seconds=seconds, cpu_seconds=cpu)
        return medians

    def _ask(self, name: str, function: Function, case: Case) -> Invocation:
        """Send a request, and check the answer and what is left in the table."""
        stub = self._stub
        stub.reset(case.present, case.foreign, case.latency)
        asked = list(range(case.asked))
        invocation = function.invoke(make_event(steps=asked * case.repeats))
        mine = set(case.present) - set(case.foreign)
        not_found = [step for step in asked if step not in mine]
        right = {"deleted_count": case.asked - len(not_found), "not_found_steps": not_found}
        if invocation.status != 200 or json.loads(invocation.body) != right:  # noqa: PLR2004
            raise BenchError(f"{name}, {case}: {invocation.status} {invocation.body[:2000]}")
        if stub.entities.keys() != mine.difference(asked).union(case.foreign):
            raise BenchError(f"{name} did not delete exactly: {case}")
        return replace(invocation, usage=stub.usage)
