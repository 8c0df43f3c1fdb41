"""All measurements, the implementations by turns, so that a busy moment meets each of them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from tempfile import TemporaryFile
from typing import IO, Self

from function import make_event
from packages import (
    DEFAULT,
    FASTAPI,
    FLOOR,
    IMPLEMENTATIONS,
    MAKEFILE,
    OURS,
    ROOT,
    SAMPLES,
    Package,
)
from runtime import PYTHON, function_environment, import_seconds, running_stub, start
from worker import LIMIT_SECONDS, Figures, RemoteTables, Request

MEMORY = "memory"  # the DynamoDB client answers from memory
ENDPOINT = "endpoint"  # it is botocore's, and talks to the stub

# Ours with one transaction at a time, to see what those side by side are worth.
OURS_ONE_BY_ONE = "ours_one_by_one"

# What takes longer is measured once; all else several times, by turns.
ONCE_SECONDS = 0.5

STARTS = 15

MEGABYTE = 1024 * 1024
BODY_BYTES = 5_900_000  # near what Lambda accepts as an event

SIZES = (1, 100, 1_000, 10_000, 100_000)
RECORDS = (1, 10, 100, 1_000, 10_000)
LATENCIES = (0.0, 0.005, 0.02)
REFUSALS = ("no_token", "bad_token", "bad_body")


def present(count: int, latency_seconds: float = 0.0) -> Request:
    """Ask for so many steps, all of which have checkpoints."""
    return Request(asked=count, present=(0, count, 1), latency_seconds=latency_seconds)


def half_missing(count: int, latency_seconds: float = 0.0) -> Request:
    """Ask for so many steps, every second of which has a checkpoint."""
    return Request(asked=count, present=(0, count, 2), latency_seconds=latency_seconds)


def missing(count: int) -> Request:
    """Ask for so many steps of a model without checkpoints."""
    return Request(asked=count, present=(0, 0, 1))


def sparse(latency_seconds: float = 0.0) -> Request:
    """Ask for 100,000 steps of a model that has checkpoints at 300 of them."""
    return Request(asked=100_000, present=(0, 100_000, 334), latency_seconds=latency_seconds)


# Repeated steps, missing ones, another entity's, and present ones that nobody asked for.
EXACT = (
    Request(asked=10, present=(0, 20, 2), foreign=(4,), repeats=2),
    Request(asked=250, present=(0, 500, 2), foreign=(4,), repeats=2),
)

# Like ours all are packaged, as they are measured so when they are warm.
QUICK_PACKAGES = (*map(Package, IMPLEMENTATIONS), Package(SAMPLES, DEFAULT))
PACKAGES = tuple(Package(name, kind) for name in IMPLEMENTATIONS for kind in (MAKEFILE, DEFAULT))

LOST_ANSWER = Request(asked=10, present=(0, 10, 1), lost_answers=1)


@dataclass(frozen=True)
class Cell:
    """One figure's place: who, on what client, asked for what."""

    implementation: str
    client: str
    request: Request


@dataclass(frozen=True)
class Load:
    """A request near the largest that Lambda takes, to tables that hold what."""

    label: str
    steps: Sequence[int]
    tables: Request
    names: Sequence[str]  # of those that answer it
    is_answered: bool = True  # else the time ends before all are deleted


def loads() -> Iterator[Load]:
    """Yield as many steps as a body has room for, and as many distinct ones, of six digits."""
    distinct = range(100_000, 100_000 + BODY_BYTES // 7)
    yield Load("one step, 2.9 million times", [7] * (BODY_BYTES // 2), missing(1), IMPLEMENTATIONS)
    # FastAPI and the samples would be deleting one by one for a quarter of an hour.
    yield Load("840,000 steps, none present", distinct, missing(1), (FLOOR, OURS))
    tables = Request(present=(distinct.start, distinct.stop, 1), latency_seconds=0.02)
    yield Load("840,000 steps, all present", distinct, tables, (OURS,), is_answered=False)


@dataclass
class Results:
    """What was measured. A cell that is `None` took longer than API Gateway waits."""

    starts: dict[Package, list[float]] = field(default_factory=dict)
    imports: dict[str, dict[str, float]] = field(default_factory=dict)
    cells: dict[Cell, Figures | None] = field(default_factory=dict)
    peak_bytes: dict[tuple[str, str], int] = field(default_factory=dict)
    outlasts_loss: dict[str, bool] = field(default_factory=dict)

    def start(self, implementation: str, packaging: str = MAKEFILE) -> float:
        """Return the median seconds of a cold start."""
        return median(self.starts[Package(implementation, packaging)])

    def figures(self, implementation: str, client: str, request: Request) -> Figures:
        """Return the figures of a cell that was finished."""
        figures = self.cells[Cell(implementation, client, request)]
        if figures is None:
            raise WrongResultError(f"{implementation} does not answer: {describe(request)}")
        return figures


class WrongResultError(Exception):
    """An implementation answered wrongly, or failed, or left something; the message says what."""


class Implementation:
    """An implementation in a worker process, which is started anew when a request took too long."""

    def __init__(self, name: str, endpoint: str | None, errors: IO[str]) -> None:
        self._name = name
        self._endpoint = endpoint
        self._errors = errors
        self._process: subprocess.Popen[str] | None = None
        self._pace: dict[tuple[str, float], float] = {}

    def measure(self, request: Request) -> Figures | None:
        """Measure a request; `None` if it takes too long.

        It is not even tried if, at the pace of the last request like it, it would by far.
        """
        line = (request.kind, request.latency_seconds)
        if self._pace.get(line, 0.0) * request.asked > 1.5 * LIMIT_SECONDS:
            return None
        process = self._process = self._process or self._start()
        assert process.stdin is not None  # noqa: S101 both are pipes
        assert process.stdout is not None  # noqa: S101
        process.stdin.write(json.dumps(asdict(request)) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            process.communicate()
            self._process = None
            if process.returncode == -signal.SIGALRM:
                return None
            self._errors.seek(0)
            raise WrongResultError(f"{self._name}:\n{self._errors.read()}")
        figures = Figures(**json.loads(answer))
        if request.asked >= 1_000:  # noqa: PLR2004 below, the request itself outweighs the steps
            self._pace[line] = figures.wall_seconds / request.asked
        return figures

    def __enter__(self) -> Self:
        """Start the process with the first request."""
        return self

    def __exit__(self, error: object, *_: object) -> None:
        """End the process."""
        if self._process:
            if error:  # lest it is waited for
                self._process.kill()
            self._process.communicate()

    def _start(self) -> subprocess.Popen[str]:
        package = Package(OURS if self._name == OURS_ONE_BY_ONE else self._name)
        environment = function_environment(package, self._endpoint)
        environment["PYTHONPATH"] = os.pathsep.join([str(package.path), str(ROOT / "tests")])
        if self._name == OURS_ONE_BY_ONE:
            environment["CONCURRENT_TRANSACTIONS"] = "1"
        return subprocess.Popen(  # noqa: S603 it is ours
            [str(PYTHON), "-S", str(ROOT / "benchmarks" / "worker.py")],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            process_group=0,
        )


class Bench:
    """The measurements, each adding to `results`, and telling before what it does."""

    def __init__(self, progress: Callable[[str], None], *, quick: bool) -> None:
        self.results = Results()
        self._progress = progress
        self._quick = quick
        self._rounds = 3 if quick else 5
        self._seconds = 0.15 if quick else 0.2

    def check(self) -> None:
        """Have every implementation prove that it does the job, on both clients."""
        for client in (MEMORY, ENDPOINT):
            with self._implementations(IMPLEMENTATIONS, client) as implementations:
                for name, implementation in implementations.items():
                    self._progress(f"correctness of {name}, {client}")
                    for request in (*EXACT, *map(Request, refusals(name))):
                        if implementation.measure(request) is None:
                            raise WrongResultError(f"{name} does not answer: {request}")

    def loss(self) -> None:
        """Find out who still answers rightly when DynamoDB's answer to a delete is lost."""
        for name in IMPLEMENTATIONS:
            self._progress(f"a lost answer: {name}")
            with self._implementations([name], ENDPOINT) as implementations:
                try:
                    figures = implementations[name].measure(LOST_ANSWER)
                except WrongResultError:
                    figures = None
                self.results.outlasts_loss[name] = figures is not None

    def cold_starts(self, packages: Sequence[Package]) -> None:
        """Measure from the start of the process to the first answer; the first is for the disk."""
        event = make_event(steps=[0])
        right = {"deleted_count": 1, "not_found_steps": []}
        with running_stub() as url:
            tables = RemoteTables(url)
            for turn in range(STARTS + 1):
                self._progress(f"cold start, {turn} of {STARTS}")
                for package in _from(turn, packages):
                    tables.prepare(present(1))
                    started = start(package, url, event)
                    if json.loads(started.answer["body"]) != right:
                        raise WrongResultError(f"{package}: {started.answer}")
                    if turn:
                        self.results.starts.setdefault(package, []).append(started.seconds)
        for package in packages:
            if package.packaging == DEFAULT and any(package.path.rglob("*.pyc")):
                raise WrongResultError(f"{package} has bytecode that it was not packaged with")

    def imports(self) -> None:
        """Measure what each part of a cold start takes to import."""
        for name in IMPLEMENTATIONS:
            self._progress(f"imports of {name}")
            turns = [import_seconds(Package(name)) for _ in range(self._rounds)]
            parts = {part for turn in turns for part in turn}
            self.results.imports[name] = {
                part: median(turn.get(part, 0.0) for turn in turns) for part in sorted(parts)
            }

    def requests(
        self, client: str, requests: Iterable[Request], names: Sequence[str] = IMPLEMENTATIONS
    ) -> None:
        """Measure requests, each several times if that takes no more than a moment."""
        with self._implementations(names, client) as implementations:
            for request in requests:
                turns: dict[str, list[Figures | None]] = {name: [] for name in names}
                for turn in range(self._rounds):
                    for name, implementation in _from(turn, list(implementations.items())):
                        if request.kind not in ("accepted", *refusals(name)):
                            continue
                        done = turns[name]
                        if turn and (done[0] is None or done[0].wall_seconds > ONCE_SECONDS):
                            continue
                        self._progress(f"{describe(request)}, {client}: {name}")
                        done.append(implementation.measure(replace(request, seconds=self._seconds)))
                for name, done in turns.items():
                    if done:
                        self.results.cells[Cell(name, client, request)] = middle(done)

    def memory(self) -> None:
        """Measure the most memory that the largest requests take; quickly, ours in less time."""
        seconds = 12 if self._quick else LIMIT_SECONDS
        with running_stub() as url:
            tables = RemoteTables(url)
            for load in loads():
                body = json.dumps({"steps": list(load.steps)}, separators=(",", ":"))
                none_of = {"deleted_count": 0, "not_found_steps": list(dict.fromkeys(load.steps))}
                for name in (OURS,) if self._quick else load.names:
                    self._progress(f"memory, {load.label}: {name}")
                    tables.prepare(load.tables)
                    started = start(Package(name), url, make_event(body=body), seconds)
                    if load.is_answered:
                        is_right = json.loads(started.answer["body"]) == none_of
                    else:
                        is_right = started.answer["statusCode"] == 503  # noqa: PLR2004
                    if not is_right:
                        raise WrongResultError(f"{name}: {str(started.answer)[:1000]}")
                    self.results.peak_bytes[name, load.label] = started.peak_bytes

    @contextmanager
    def _implementations(
        self, names: Sequence[str], client: str
    ) -> Iterator[dict[str, Implementation]]:
        with ExitStack() as stack:
            url = stack.enter_context(running_stub()) if client == ENDPOINT else None
            implementations = {}
            for name in names:
                errors = stack.enter_context(TemporaryFile("w+"))
                implementations[name] = stack.enter_context(Implementation(name, url, errors))
                implementations[name].measure(present(1))  # the first request is a cold one
            yield implementations


def measure_targets(bench: Bench) -> None:
    """Measure what the targets are about."""
    bench.check()
    bench.cold_starts(QUICK_PACKAGES)
    bench.requests(MEMORY, [present(1)], [FASTAPI, OURS])
    bench.requests(MEMORY, [missing(100_000)], [FLOOR, OURS])
    bench.requests(ENDPOINT, [present(1), present(1_000)], [FASTAPI, SAMPLES, OURS])
    bench.requests(ENDPOINT, [sparse(), Request("no_token")], [OURS])
    bench.requests(ENDPOINT, [present(10_000, 0.02)], [OURS_ONE_BY_ONE, OURS])
    bench.memory()


def measure_everything(bench: Bench) -> None:
    """Measure all there is to measure."""
    bench.check()
    bench.loss()
    bench.cold_starts(PACKAGES)
    bench.imports()
    refused = [Request(kind) for kind in REFUSALS]
    warm = [ask(size) for size in SIZES for ask in (present, missing)]
    bench.requests(MEMORY, [*warm, *refused])
    deleting = [ask for latency in LATENCIES for ask in deletions(latency)]
    bench.requests(ENDPOINT, [*deleting, present(100_000), missing(100_000), *refused])
    bench.requests(ENDPOINT, [present(10_000, 0.02)], [OURS_ONE_BY_ONE])
    bench.memory()


def deletions(latency_seconds: float) -> list[Request]:
    """Return the deletions that are measured at each distance."""
    return [
        *(present(count, latency_seconds) for count in RECORDS),
        *(half_missing(count, latency_seconds) for count in RECORDS[1:]),
        sparse(latency_seconds),
    ]


def refusals(name: str) -> Sequence[str]:
    """Return the kinds of requests that an implementation refuses; the floor lets anyone in."""
    return ("bad_body",) if name == FLOOR else REFUSALS


def _from[T](turn: int, items: Sequence[T]) -> list[T]:
    """Return the items in another order each turn, lest one always follows the same other."""
    first = turn % len(items)
    return [*items[first:], *items[:first]]


def describe(request: Request) -> str:
    """Return a request in words."""
    if request.kind != "accepted":
        return request.kind.replace("_", " ")
    found = len(range(*request.present))
    away = f" at {request.latency_seconds * 1000:.0f} ms" if request.latency_seconds else ""
    return f"{request.asked:,} step{'s' if request.asked > 1 else ''}, {found:,} present{away}"


def middle(turns: Sequence[Figures | None]) -> Figures | None:
    """Return the median of each time; the counts are the same each turn."""
    finished = [turn for turn in turns if turn]
    if len(finished) < len(turns):
        return None
    return replace(
        finished[-1],
        cpu_seconds=median(turn.cpu_seconds for turn in finished),
        wall_seconds=median(turn.wall_seconds for turn in finished),
    )


class Progress:
    """One line that says what is going on, or a line each where there is no terminal."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._last = ""

    def __call__(self, doing: str) -> None:
        """Say what begins now."""
        minutes, seconds = divmod(int(time.monotonic() - self._begin), 60)
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K[{minutes}:{seconds:02}] {doing}")
        elif doing.partition(":")[0] != self._last:
            self._last = doing.partition(":")[0]
            sys.stderr.write(f"[{minutes}:{seconds:02}] {self._last}\n")
        sys.stderr.flush()

    def done(self) -> None:
        """Take the line away, and say how long it was."""
        seconds = time.monotonic() - self._begin
        sys.stderr.write(f"{'\r\x1b[K' if sys.stderr.isatty() else ''}Done in {seconds:.0f} s.\n")
