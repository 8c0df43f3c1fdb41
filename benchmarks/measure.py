"""All measurements. The implementations take turns, so that a busy moment affects all of them."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import median

from function import make_event
from packages import BUILD, FLOOR, NAMES, OURS
from runtime import LIMIT_SECONDS, Function, Invocation, running
from server import serving
from stub import Stub

STARTS = 11  # of each package
TURNS = 60  # the most of each request
TURNS_SECONDS = 1.0  # no more turns are begun after so much time
BODY_BYTES = 5_900_000  # near the largest event that Lambda takes
WRITE_LIMIT = 1_000  # units a second, of one partition
LIMITED_STEPS = 30_000
SHORT_SECONDS = 20  # the time of requests that cannot be finished anyway


@dataclass(frozen=True)
class Case:
    """A request for the steps from 0 on, and the checkpoints that exist."""

    asked: int
    present: range
    foreign: tuple[int, ...] = ()  # present too, but another entity's
    repeats: int = 1  # of each step in the request
    latency: float = 0.005  # seconds that each call of DynamoDB takes


SIZES = (1, 10, 100, 1_000, 10_000)
PRESENT = {size: Case(size, range(size)) for size in SIZES}
HALF_MISSING = Case(100, range(0, 100, 2))
SPARSE = Case(100_000, range(0, 100_000, 334))
CASES = sorted((*PRESENT.values(), HALF_MISSING, SPARSE), key=lambda case: case.asked)
FAR = replace(PRESENT[10_000], latency=0.02)
EXACT = (
    Case(10, range(0, 20, 2), foreign=(4, 7), repeats=2),
    Case(250, range(0, 500, 2), foreign=(4, 7), repeats=2),
)


@dataclass(frozen=True)
class Figures:
    """What one request took; infinite seconds if there was not enough time."""

    seconds: float = math.inf
    cpu_seconds: float = math.inf
    calls: int = 0
    read_units: int = 0
    write_units: int = 0
    log_bytes: int = 0


@dataclass(frozen=True)
class Limited:
    """What became of a request under a partition's write limit."""

    status: int
    deleted: int
    used: float  # the part of the write units that the limit allowed until the answer


class WrongAnswerError(Exception):
    """An implementation did not answer, or answered wrongly; the message says how."""


class Bench:
    """Measures everything; the results are its attributes."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        self.starts: dict[str, list[float]] = {name: [] for name in NAMES}
        self.figures: dict[tuple[str, Case], Figures] = {}
        self.one_at_a_time = Figures()
        self.peaks: dict[str, dict[str, int]] = {}
        self.limited: dict[str, Limited] = {}
        files = [file for file in (BUILD / OURS).rglob("*") if file.is_file()]
        self.package_bytes = sum(file.stat().st_size for file in files)
        self._progress = progress
        self._stub = Stub()

    def measure(self) -> None:
        """Measure, once the packages are built.

        Raises:
            WrongAnswerError: no figure would be worth anything.

        """
        with serving(self._stub.respond) as self._endpoint:
            self._cold_starts()
            self._requests()
            self._side_by_side()
            self._memory()
            self._write_limit()

    def _cold_starts(self) -> None:
        for turn in range(STARTS + 1):
            self._progress(f"cold starts, {turn} of {STARTS}")
            for name in NAMES:
                with running(name, self._endpoint) as function:
                    invocation, _ = self._ask(name, function, PRESENT[1])
                if turn:  # the first start only warms the disk's cache
                    self.starts[name].append(invocation.seconds_since_start)

    def _requests(self) -> None:
        with ExitStack() as stack:
            functions = {name: stack.enter_context(running(name, self._endpoint)) for name in NAMES}
            for name, function in functions.items():
                self._progress(f"correctness of {name}")
                for case in EXACT:
                    self._ask(name, function, case)
            pace = dict.fromkeys(NAMES, 0.0)  # seconds for each step
            for case in CASES:
                self._progress(f"{case.asked:,} steps, {len(case.present):,} present")
                # What would not be answered in time at the pace of fewer steps is not asked.
                able = {n: f for n, f in functions.items() if pace[n] * case.asked < LIMIT_SECONDS}
                for name, figures in self._by_turns(able, case).items():
                    self.figures[name, case] = figures
                    pace[name] = figures.seconds / case.asked

    def _side_by_side(self) -> None:
        self._progress("10,000 steps at 20 ms a call")
        with (
            running(OURS, self._endpoint) as ours,
            running(OURS, self._endpoint, "one_at_a_time.lambda_handler") as one_at_a_time,
        ):
            figures = self._by_turns({OURS: ours, "one at a time": one_at_a_time}, FAR)
        self.figures[OURS, FAR] = figures[OURS]
        self.one_at_a_time = figures["one at a time"]

    def _memory(self) -> None:
        repeated = [7] * (BODY_BYTES // 2)
        distinct = range(100_000, 100_000 + BODY_BYTES // 7)
        self._peak("1 step, 2.9 million times", repeated, (), NAMES)
        # For so many single deletes there is no time.
        self._peak("840,000 steps, none present", distinct, (), (FLOOR, OURS))
        self._peak("840,000 steps, all present", distinct, distinct, (OURS,))

    def _peak(
        self, label: str, steps: Sequence[int], present: Iterable[int], names: Iterable[str]
    ) -> None:
        self.peaks[label] = {}
        body = json.dumps({"steps": list(steps)}, separators=(",", ":"))
        for name in names:
            self._progress(f"memory of {name}, {label}")
            self._stub.reset(present, latency=0.005)
            with running(name, self._endpoint) as function:
                invocation = function.invoke(make_event(body=body), SHORT_SECONDS)
                if not present:
                    _check(name, invocation, 0, list(dict.fromkeys(steps)))
                elif invocation.status != 503:  # noqa: PLR2004 not all can be deleted in time
                    raise WrongAnswerError(f"{name}, {label}: {invocation}")
                self.peaks[label][name] = function.peak_bytes()

    def _write_limit(self) -> None:
        for name in NAMES:
            self._progress(f"write limit, {name}")
            with running(name, self._endpoint) as function:
                self._ask(name, function, PRESENT[1])
                steps = range(LIMITED_STEPS)
                self._stub.reset(steps, latency=0.005, write_limit=WRITE_LIMIT)
                invocation = function.invoke(make_event(steps=list(steps)), SHORT_SECONDS)
                self.limited[name] = Limited(
                    status=invocation.status,
                    deleted=LIMITED_STEPS - len(self._stub.entities),
                    used=self._stub.write_units / (WRITE_LIMIT * (1 + invocation.seconds)),
                )

    def _by_turns(self, functions: Mapping[str, Function], case: Case) -> dict[str, Figures]:
        """Return the median times of a request, and its counts."""
        turns: dict[str, list[Figures]] = {name: [] for name in functions}
        for _ in range(TURNS):
            for name, done in turns.items():
                if sum(figures.seconds for figures in done) < TURNS_SECONDS:
                    done.append(self._ask(name, functions[name], case)[1])
        return {
            name: replace(
                done[-1],
                seconds=median(figures.seconds for figures in done),
                cpu_seconds=median(figures.cpu_seconds for figures in done),
            )
            for name, done in turns.items()
        }

    def _ask(self, name: str, function: Function, case: Case) -> tuple[Invocation, Figures]:
        """Send a request, and check the answer and what is left in the table."""
        stub = self._stub
        stub.reset(case.present, foreign=case.foreign, latency=case.latency)
        asked = list(range(case.asked))
        done = function.invoke(make_event(steps=asked * case.repeats))
        mine = set(case.present) - set(case.foreign)
        not_found = [step for step in asked if step not in mine]
        _check(name, done, case.asked - len(not_found), not_found)
        if stub.entities.keys() != mine.difference(asked).union(case.foreign):
            raise WrongAnswerError(f"{name} did not delete what it says: {case}")
        units = (stub.calls, stub.read_units, stub.write_units)
        return done, Figures(done.seconds, done.cpu_seconds, *units, done.log_bytes)


def _check(name: str, invocation: Invocation, deleted_count: int, not_found: list[int]) -> None:
    right = {"deleted_count": deleted_count, "not_found_steps": not_found}
    if invocation.status != 200 or json.loads(invocation.body) != right:  # noqa: PLR2004
        got = f"{invocation.status} {invocation.body[:2000]}"
        raise WrongAnswerError(f"{name} should have deleted {deleted_count}, but answered {got}")
