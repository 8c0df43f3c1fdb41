"""The results for readers: the targets, docs/benchmarks.md and its two pictures."""

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from math import ceil
from typing import NamedTuple

import matplotlib as mpl
from matplotlib import pyplot as plt
from measure import CASES, FAR, HALF_MISSING, LIMITED_STEPS, PRESENT, SPARSE, STARTS, Bench, Case
from packages import FASTAPI, FLOOR, NAMES, ONE_AT_A_TIME, OURS, ROOT, SAMPLES
from runtime import MEMORY_MB, Invocation

DOCS = ROOT / "docs"
LABELS = {FLOOR: "Bare handler", FASTAPI: "FastAPI + Mangum"}
LABELS |= {SAMPLES: "Powertools samples", OURS: "This API"}
COLOURS = {FLOOR: "#8c8c8c", FASTAPI: "#d1495b", SAMPLES: "#edae49", OURS: "#00798c"}
COLUMNS = ["", *(LABELS[name] for name in NAMES)]
MEGABYTE = 1024 * 1024
CPU_SHARE = MEMORY_MB / 1769  # of one core; Lambda gives a whole one at 1,769 MB

INTRODUCTION = """\
Lambda's own runtime client runs each package, on one core, against a local stand-in for DynamoDB
in which each call takes 5 ms. Every answer and the state of the table after it are checked. Compare
times within a table only, as machines differ. [The others](../benchmarks/peers) are:

- **Bare handler**: pydantic, boto3 and transactions. No routing, authentication, logs or retries.
- **FastAPI + Mangum**: a `DeleteItem` for each step, ten at a time.
- **Powertools samples**: validation, Logger and Tracer, as Powertools' samples use them, and a
  `DeleteItem` for each step, one after the other. Built by `sam build` without a makefile; the
  others are built like this API, by src/Makefile."""

PRICE = f"""\
US dollars for a million requests: API Gateway, Lambda, DynamoDB and CloudWatch logs in US East
(N. Virginia), on demand, arm64, May 2026, without the free tier, traces and custom metrics. CPU
time is scaled to the {CPU_SHARE:.0%} of a core that {MEMORY_MB} MB have. The write units decide.
A transaction costs two for each step, a single delete one. If some of up to 100 steps are missing,
the transaction is sent again without them, and both are charged for here."""

LIMITED = f"""\
One request for {LIMITED_STEPS:,} steps, all present, while the partition takes 1,000 write units a
second and saves up to 1,000 unused ones. *Used* is the part of the available units that were used
until the answer. A 503 says how many checkpoints were deleted, and to send the request again. After
a 502 (a crash) or a 504 (no time left) the caller does not know what was deleted."""

COLD_START = "![Milliseconds from process start to first answer](cold-start.svg)"
GROWTH = "![Time, DynamoDB calls and write units by number of steps](growth.svg)"


class Target(NamedTuple):
    """A measured value and its maximum."""

    name: str
    value: float
    limit: float
    tolerance: float = 1.0  # of a check

    def is_met(self, tolerance: float = 1.0) -> bool:
        """Return whether the value is within its limit and tolerance."""
        return self.value <= self.limit * tolerance


def targets(bench: Bench) -> list[Target]:
    """Return the targets with what was measured."""
    starts, ours = bench.starts, {case: bench.requests[OURS, case] for case in (*CASES, FAR)}
    cpu = {n: bench.requests[n, PRESENT[1]].cpu_seconds for n in NAMES}
    cpu_1000 = {n: bench.requests[n, PRESENT[1_000]].cpu_seconds for n in NAMES}
    single_deletes = min(cpu_1000[FASTAPI], cpu_1000[SAMPLES])
    unused = 1 - bench.limited[OURS][2]
    peak = max(peaks[OURS] for peaks in bench.peaks.values()) / MEGABYTE
    far = ours[FAR].seconds / bench.requests[ONE_AT_A_TIME, FAR].seconds
    return [
        Target("Cold start vs. Powertools samples", starts[OURS] / starts[SAMPLES], 0.35, 1.25),
        Target("Cold start vs. FastAPI + Mangum", starts[OURS] / starts[FASTAPI], 0.70, 1.25),
        Target("Cold start vs. bare handler", starts[OURS] / starts[FLOOR], 1.15, 1.25),
        Target("CPU, 1 step vs. FastAPI + Mangum", cpu[OURS] / cpu[FASTAPI], 0.80, 1.25),
        Target(
            "CPU, 1,000 steps vs. the better one with single deletes",
            cpu_1000[OURS] / single_deletes,
            0.08,
            1.25,
        ),
        Target("Time, 10,000 steps at 20 ms a call vs. one call at a time", far, 0.45, 1.25),
        Target("DynamoDB calls, 1,000 steps", ours[PRESENT[1_000]].usage["calls"], 12),
        Target("DynamoDB calls, 100,000 steps, 300 present", ours[SPARSE].usage["calls"], 5),
        Target("Unused part of the write limit", unused, 0.10),
        Target(f"Peak memory in MB, of {MEMORY_MB}", peak, MEMORY_MB / 2),
        Target("Package in MB, for both architectures", bench.package_bytes / MEGABYTE, 32),
    ]


def write_report(bench: Bench) -> None:
    """Write docs/benchmarks.md, docs/cold-start.svg and docs/growth.svg."""
    mpl.use("svg")
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "checkpoints"}
    mpl.rcParams |= {"axes.spines.top": False, "axes.spines.right": False}
    _draw(bench)
    (DOCS / "benchmarks.md").write_text("\n\n".join(_sections(bench)) + "\n")


def _sections(bench: Bench) -> Iterator[str]:
    names = ("boto3", "pydantic", "aws-lambda-powertools", "fastapi", "mangum")
    yield (
        "# Benchmarks\n<!-- Written by `make bench`. Edit benchmarks/report.py instead. -->\n"
        f"Measured on {datetime.now(UTC):%Y-%m-%d} in one run of `make bench`: {os.cpu_count()} "
        f"{platform.machine()} cores, Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in names)
    )
    yield f"{INTRODUCTION}\n\n## Targets"
    rows = [(t.name, f"{t.value:.3g}", f"≤ {t.limit:g}", "✗✓"[t.is_met()]) for t in targets(bench)]
    yield _table(["this API", "measured", "target", ""], rows)
    yield f"## Cold start\n\nFrom process start to first answer, median of {STARTS}.\n{COLD_START}"
    yield "## Requests\n\nTime until the answer, and CPU time. Steps are present unless *missing*."
    yield _by_case(bench, lambda r: f"{_time(r.seconds)}, CPU {_time(r.cpu_seconds)}")
    yield f"{GROWTH}\n\nCalls of DynamoDB, and write units:"
    yield _by_case(bench, lambda r: f"{r.usage['calls']:,}, {r.usage['write_units']:,} units")
    yield f"## Price\n\n{PRICE}"
    priced = (PRESENT[1], PRESENT[100], HALF_MISSING, PRESENT[1_000])
    yield _by_case(bench, lambda r: f"{_dollars(r) * 1e6:,.2f}", priced)
    yield f"## Write limit\n\n{LIMITED}"
    rows = [
        (LABELS[name], str(status), f"{deleted:,}", f"{used:.0%}")
        for name, (status, deleted, used) in bench.limited.items()
    ]
    yield _table(["", "answer", "deleted", "used"], rows)
    yield f"## Memory\n\nPeak in MB, of {MEMORY_MB}, for a body of 5.9 MB."
    peak_rows = [
        [label, *(f"{peaks[name] / MEGABYTE:.0f}" if name in peaks else "-" for name in NAMES)]
        for label, peaks in bench.peaks.items()
    ]
    yield _table(COLUMNS, peak_rows)


def _dollars(request: Invocation) -> float:
    seconds = request.seconds + request.cpu_seconds * (1 / CPU_SHARE - 1)
    return (
        3.50e-6  # API Gateway
        + 0.20e-6  # Lambda, for a request
        + 13.3334e-6 * MEMORY_MB / 1024 * ceil(seconds * 1000) / 1000  # for a GB-second
        + 0.125e-6 * request.usage["read_units"]
        + 0.625e-6 * request.usage["write_units"]
        + 0.50e-9 * request.log_bytes
    )


def _by_case(bench: Bench, show: Callable[[Invocation], str], cases: Iterable[Case] = CASES) -> str:
    rows = []
    for case in cases:
        label = f"{case.asked:,} step{'s' if case.asked > 1 else ''}"
        if missing := case.asked - len(case.present):
            label += f", {missing:,} missing"
        found = [bench.requests.get((name, case)) for name in NAMES]
        rows.append([label, *(show(request) if request else "> 29 s" for request in found)])
    return _table(COLUMNS, rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def _draw(bench: Bench) -> None:
    plot, axes = plt.subplots(figsize=(8, 2), layout="constrained")
    for row, name in enumerate(reversed(NAMES)):
        milliseconds = bench.starts[name] * 1000
        axes.barh(LABELS[name], milliseconds, color=COLOURS[name])
        axes.text(milliseconds, row, f" {milliseconds:.0f} ms", va="center")
    axes.set_title("Cold start", loc="left")
    plot.savefig(DOCS / "cold-start.svg", metadata={"Date": None})

    plot, panels = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
    for axes, figure in zip(panels, ("seconds", "calls", "write_units"), strict=True):
        for name in NAMES:
            found = [bench.requests.get((name, case)) for case in PRESENT.values()]
            values = [r.seconds if figure == "seconds" else r.usage[figure] for r in found if r]
            style = {"marker": "o", "color": COLOURS[name], "label": LABELS[name]}
            axes.loglog(list(PRESENT)[: len(values)], values, subs=[], **style)
        axes.set(title=figure.replace("_", " "), xlabel="steps")
    panels[0].legend(frameon=False)
    plot.savefig(DOCS / "growth.svg", metadata={"Date": None})
