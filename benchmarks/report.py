"""Report the results: the targets, docs/benchmarks.md and its picture."""

import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from statistics import median
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import measure
from matplotlib import pyplot as plt
from measure import CASES, ONE, SPARSE, TEN_THOUSAND, THOUSAND, Bench
from packages import BARE_HANDLER, FASTAPI, NAMES, OURS, ROOT, SAMPLES
from runtime import MEMORY_MB, TIMEOUT_SECONDS, Invocation

DOCS = ROOT / "docs"
LABELS = {BARE_HANDLER: "Bare handler", FASTAPI: "FastAPI + Mangum"}
LABELS |= {SAMPLES: "Powertools samples", OURS: "This API"}
LIBRARIES = ("boto3", "pydantic", "aws-lambda-powertools", "fastapi", "mangum")
MEGABYTE = 1024 * 1024

# The picture is transparent. Its colours have enough contrast on white and on GitHub's dark mode.
STYLE: dict[Any, Any] = dict.fromkeys(("text.color", "ytick.color"), "#747c86")
STYLE |= {"savefig.transparent": True, "svg.fonttype": "none", "svg.hashsalt": "checkpoints"}
COLOURS = {BARE_HANDLER: "#d1495b", FASTAPI: "#b87a14", SAMPLES: "#8c6bd1", OURS: "#0a8f9c"}


class Target(NamedTuple):
    """A measured value and its limit."""

    name: str
    value: float
    bound: Literal["≥", "≤"]
    limit: float
    unit: str = "times"

    @property
    def is_met(self) -> bool:
        """Return whether the value is within the limit."""
        return self.value >= self.limit if self.bound == "≥" else self.value <= self.limit

    def cells(self) -> tuple[str, str, str]:
        """Return the name, the value and the limit in words."""
        value, limit = (f"{number:.3g} {self.unit}" for number in (self.value, self.limit))
        return self.name, value, f"{self.bound} {limit}{'' if self.is_met else ' (missed)'}"


def targets(bench: Bench) -> list[Target]:
    """Return the targets and the measured values."""

    def cold_start(peer: str) -> float:
        """Compare the starts of each turn, because the other load changes between turns."""
        turns = zip(bench.cold_starts[peer], bench.cold_starts[OURS], strict=True)
        return median(theirs / ours for theirs, ours in turns)

    one, many, sparse = (bench.requests[OURS, case] for case in (ONE, THOUSAND, SPARSE))
    fastapi, samples = (bench.requests[peer, THOUSAND] for peer in (FASTAPI, SAMPLES))
    cpu = bench.requests[FASTAPI, ONE].cpu_seconds / one.cpu_seconds
    cpu_of_many = min(fastapi.cpu_seconds, samples.cpu_seconds) / many.cpu_seconds
    concurrent = bench.requests[OURS, TEN_THOUSAND].usage["concurrent_calls"]
    return [
        Target("Cold start: faster than Powertools samples", cold_start(SAMPLES), "≥", 2.7),
        Target("Cold start: faster than FastAPI + Mangum", cold_start(FASTAPI), "≥", 1.3),
        Target("Cold start: slower than bare handler", 1 / cold_start(BARE_HANDLER), "≤", 1.25),
        Target("1 step: less CPU time than FastAPI + Mangum", cpu, "≥", 1.15),
        Target("1,000 steps: less CPU time than with single deletes", cpu_of_many, "≥", 12),
        Target("1,000 steps: faster than FastAPI + Mangum", fastapi.seconds / many.seconds, "≥", 5),
        Target("10,000 steps: DynamoDB calls at the same time", concurrent, "≥", 3, "calls"),
        Target("1,000 steps: DynamoDB calls", many.usage["calls"], "≤", 12, "calls"),
        Target(
            "100,000 steps, 99,700 missing: DynamoDB calls", sparse.usage["calls"], "≤", 5, "calls"
        ),
        Target("Write limit: used", 100 * bench.limits[OURS].used, "≥", 90, "%"),
        Target("Peak memory", bench.peak_bytes / MEGABYTE, "≤", MEMORY_MB / 2, "MB"),
        Target("Package for both processors", bench.package_bytes / MEGABYTE, "≤", 32, "MB"),
    ]


def write_report(bench: Bench) -> None:
    """Write docs/benchmarks.md and docs/cold-start.svg."""
    _draw_cold_starts(bench)
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    requests = [
        (case.label, *(_time_and_calls(bench.requests.get((name, case))) for name in NAMES))
        for case in CASES
    ]
    limits = [
        (LABELS[name], status, f"{deleted:,}", f"{used:.0%}", f"{peak_bytes / MEGABYTE:.0f} MB")
        for name, (status, deleted, used, peak_bytes) in bench.limits.items()
    ]
    page = f"""\
# Benchmarks
<!-- Written by `make bench`. Edit benchmarks/report.py instead. -->

Measured on {datetime.now(UTC):%Y-%m-%d} in one run of `make bench`: {os.cpu_count()} \
{platform.machine()} cores, Python {platform.python_version()}, {libraries}.

All figures are measured on one machine, against a local stub of DynamoDB in which each call takes
5 ms. Nothing runs in AWS. Times depend on the machine, so compare them only within a table.
Lambda's own runtime client runs each package, on one core. After each 200, the table is checked.

This API is compared with [three other implementations](../benchmarks/peers):

- **Bare handler**: transactions, but no routing, authentication, logs or retries. It shows how much
  these features cost.
- **FastAPI + Mangum**: a popular web framework, and one `DeleteItem` call per step, ten at a time.
  It shows how much time fewer libraries and transactions save.
- **Powertools samples**: the libraries of this API and Tracer, and one `DeleteItem` call per step,
  one after the other. Its build compiles no bytecode, like `sam build` without a makefile. It shows
  how much this API's own build saves.

## Targets

`make bench-check` fails if a target is missed.

{_table(("This API", "Measured", "Target"), [target.cells() for target in targets(bench)])}

## Cold start

Time from the start of the process to the first response. In AWS, a cold start also includes the
download of the package and the start of its environment. The implementations start in turns. The
picture shows the medians of {measure.COLD_STARTS} turns, the targets the median of their ratios.

![Milliseconds from the start of the process to the first response](cold-start.svg)

## Requests

Median time of up to {measure.MAX_RUNS} runs, and the number of DynamoDB calls. All steps are
present, except the *missing* ones. This API first reads which steps exist, so missing steps take
little time. `-` means not measured: the request would probably take more than {TIMEOUT_SECONDS} s.

{_table(("Request", *LABELS.values()), requests)}

## Limits

*Status*, *deleted* and *used*: one request for {measure.LIMITED_STEPS:,} steps. The stub allows
{measure.WRITE_LIMIT:,} write units per second, like one partition of DynamoDB, and the request has
only {measure.SHORT_TIMEOUT_SECONDS} s. *Used* is the share of the write units that it used. A 503
says how many checkpoints were deleted. A 502 (crash) or a 504 (timeout) does not.

*Peak memory*, of {MEMORY_MB} MB: for a body of 5.9 MB that repeats one step. The target is for this
body and for one with {len(measure.DISTINCT_STEPS):,} different steps.

{_table(("Implementation", "Status", "Deleted", "Used", "Peak memory"), limits)}
"""
    (DOCS / "benchmarks.md").write_text(page)


def _time_and_calls(request: Invocation | None) -> str:
    if request is None:
        return "-"
    calls, seconds = request.usage["calls"], request.seconds
    return f"{seconds:.2f} s, {calls:,}" if seconds >= 1 else f"{seconds * 1000:.3g} ms, {calls:,}"


def _table(head: tuple[str, ...], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table. All columns but the first are aligned to the right."""
    lines = (head, ("---", *["---:"] * (len(head) - 1)), *rows)
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _draw_cold_starts(bench: Bench) -> None:
    names = NAMES[::-1]  # matplotlib draws the first bar at the bottom
    milliseconds = [median(bench.cold_starts[name]) * 1000 for name in names]
    mpl.use("svg")
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8, 2), layout="constrained")
        bars = axes.barh(
            [LABELS[name] for name in names], milliseconds, color=[COLOURS[name] for name in names]
        )
        axes.bar_label(bars, fmt="{:,.0f} ms", padding=4)
        axes.margins(x=0.1)
        axes.xaxis.set_visible(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_title("Cold start", loc="left")
        figure.savefig(DOCS / "cold-start.svg", metadata={"Date": None})
