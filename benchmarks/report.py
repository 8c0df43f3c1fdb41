"""Report the results: the targets, docs/benchmarks.md and its two charts."""

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from math import ceil
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib import pyplot as plt
from measure import (
    CASES,
    COLD_STARTS,
    DISTINCT_STEPS,
    HALF_MISSING,
    HIGH_LATENCY,
    LIMITED_STEPS,
    MAX_RUNS,
    PRESENT,
    SHORT_TIMEOUT_SECONDS,
    SPARSE,
    WRITE_LIMIT,
    Bench,
    Case,
)
from packages import BARE_HANDLER, FASTAPI, NAMES, OURS, ROOT, SAMPLES, SEQUENTIAL
from runtime import MEMORY_MB, TIMEOUT_SECONDS, Invocation

DOCS = ROOT / "docs"
LABELS = {BARE_HANDLER: "Bare handler", FASTAPI: "FastAPI + Mangum"}
LABELS |= {SAMPLES: "Powertools samples", OURS: "This API"}
COLUMNS = [LABELS[name] for name in NAMES]
MEGABYTE = 1024 * 1024
CPU_SHARE = MEMORY_MB / 1769  # of one core; Lambda provides a whole core at 1,769 MB
TOLERANCE = 1.25  # of times and CPU times in a check

# The charts are transparent. All colours have enough contrast on white and on GitHub's dark mode.
GREY = "#747c86"
STYLE: dict[Any, Any] = {
    "savefig.transparent": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "checkpoints",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.3,
}
STYLE |= dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "grid.color"), GREY)
STYLE |= dict.fromkeys(("xtick.color", "ytick.color"), GREY)
COLOURS = {BARE_HANDLER: "#d1495b", FASTAPI: "#b87a14", SAMPLES: "#8c6bd1", OURS: "#0a8f9c"}
# Some lines are equal. The dashed ones are drawn over the wide ones, so that both are visible.
WIDE = {"linewidth": 5.0, "markersize": 9.0}
DASHED = {"linewidth": 2.0, "markersize": 5.0, "linestyle": "--"}
LINES: dict[str, dict[str, Any]] = {
    BARE_HANDLER: WIDE | {"marker": "s"},
    FASTAPI: WIDE | {"marker": "o"},
    SAMPLES: DASHED | {"marker": "^"},
    OURS: DASHED | {"marker": "D"},
}

INTRODUCTION_TEXT = """\
All figures are measured on one machine, against a local stub of DynamoDB in which each call takes
5 ms. Nothing runs in AWS. Times depend on the machine, so compare them only within a table.
Lambda's own runtime client runs each package, on one core. Each 200 and 503 response is compared
with the checkpoints that are left in the table.

This API is compared with [three other implementations](../benchmarks/peers):

- **Bare handler**: pydantic, boto3 and transactions. No routing, authentication, logs or retries.
- **FastAPI + Mangum**: one `DeleteItem` call per step, ten calls at a time.
- **Powertools samples**: validation, Logger and Tracer, as in the samples of Powertools, and one
  `DeleteItem` call per step, one after the other. It is built by `sam build` without a makefile, so
  it is not compiled to bytecode. The others are built with src/Makefile, like this API."""

TARGETS_TEXT = "A value with *vs.* is a ratio: this API divided by the other implementation."

COLD_START_TEXT = f"""\
Time from the start of the process to the first response, median of {COLD_STARTS}. In AWS, a cold
start also includes the download of the package and the start of its environment."""

REQUESTS_TEXT = f"""\
Times are medians of up to {MAX_RUNS} runs. All steps are present, except the *missing* ones."""

NOT_MEASURED_TEXT = f"""\
In these tables, `-` means not measured. The implementation took more than
{TIMEOUT_SECONDS / 10:g} s for a tenth of the steps or fewer, so this request would probably exceed
the timeout of {TIMEOUT_SECONDS} s."""

PRICE_TEXT = f"""\
US dollars for a million requests: API Gateway, Lambda, DynamoDB and CloudWatch Logs in US East
(N. Virginia), on demand, arm64, May 2026. Free tier, traces and custom metrics are not included.
Lambda gives a function with {MEMORY_MB} MB only {100 * CPU_SHARE:.0f} % of a core, so the measured
CPU time is divided by this share.

For 100 steps or more, most of the price is write units. To delete a checkpoint costs two write
units in a transaction, and one as a single delete. If some steps of a transaction are missing,
DynamoDB rejects it, and it is sent again without them. The prices include both."""

WRITE_LIMIT_TEXT = f"""\
One request for {LIMITED_STEPS:,} steps, all present. The stub allows {WRITE_LIMIT:,} write units
per second, like one partition of DynamoDB. Unused units are saved, up to one second's worth. The
request gets only {SHORT_TIMEOUT_SECONDS} seconds instead of {TIMEOUT_SECONDS}, to keep the
benchmark short.

*Used* is the share of the available write units that the request used. A 503 response contains the
number of deleted checkpoints, and the client can send the request again. After a 502 (crash) or a
504 (timeout), the client does not know what was deleted."""

MEMORY_TEXT = f"""\
Peak memory in MB, for a request body of 5.9 MB. The function has {MEMORY_MB} MB. It cannot delete
{len(DISTINCT_STEPS):,} checkpoints in {SHORT_TIMEOUT_SECONDS} seconds, so this request is measured
only for this API, which returns 503."""


class Target(NamedTuple):
    """A measured value and its maximum."""

    name: str
    value: float
    limit: float
    tolerance: float = 1.0  # in a check, the limit is multiplied by this

    def is_met(self, tolerance: float = 1.0) -> bool:
        """Return whether the value is at most the limit, multiplied by the tolerance."""
        return self.value <= self.limit * tolerance


def targets(bench: Bench) -> list[Target]:
    """Return the targets and the measured values."""
    starts = bench.cold_starts
    ours = {case: bench.requests[OURS, case] for case in (*CASES, HIGH_LATENCY)}
    cpu = {name: bench.requests[name, PRESENT[1]].cpu_seconds for name in NAMES}
    cpu_1000 = {name: bench.requests[name, PRESENT[1_000]].cpu_seconds for name in NAMES}
    single_deletes = min(cpu_1000[FASTAPI], cpu_1000[SAMPLES])
    sequential = bench.requests[SEQUENTIAL, HIGH_LATENCY].seconds
    unused = 1 - bench.limited[OURS][2]
    peak = max(peaks[OURS] for peaks in bench.peaks.values()) / MEGABYTE
    return [
        Target(
            "Cold start vs. Powertools samples", starts[OURS] / starts[SAMPLES], 0.35, TOLERANCE
        ),
        Target("Cold start vs. FastAPI + Mangum", starts[OURS] / starts[FASTAPI], 0.70, TOLERANCE),
        Target("Cold start vs. bare handler", starts[OURS] / starts[BARE_HANDLER], 1.15, TOLERANCE),
        Target("CPU time, 1 step vs. FastAPI + Mangum", cpu[OURS] / cpu[FASTAPI], 0.80, TOLERANCE),
        Target(
            "CPU time, 1,000 steps vs. the faster implementation with single deletes",
            cpu_1000[OURS] / single_deletes,
            0.08,
            TOLERANCE,
        ),
        Target(
            "Time, 10,000 steps at 20 ms per call vs. this API without concurrency",
            ours[HIGH_LATENCY].seconds / sequential,
            0.45,
            TOLERANCE,
        ),
        Target("DynamoDB calls, 1,000 steps", ours[PRESENT[1_000]].usage["calls"], 12),
        Target("DynamoDB calls, 100,000 steps, 300 present", ours[SPARSE].usage["calls"], 5),
        Target("Unused share of the write limit", unused, 0.10),
        Target(f"Peak memory in MB, of {MEMORY_MB}", peak, MEMORY_MB / 2),
        Target("Package in MB, for both architectures", bench.package_bytes / MEGABYTE, 32),
    ]


def write_report(bench: Bench) -> None:
    """Write docs/benchmarks.md, docs/cold-start.svg and docs/growth.svg."""
    mpl.use("svg")
    with mpl.rc_context(STYLE):
        _draw_cold_start(bench)
        _draw_growth(bench)
    (DOCS / "benchmarks.md").write_text("\n\n".join(_sections(bench)) + "\n")


def _sections(bench: Bench) -> Iterator[str]:
    names = ("boto3", "pydantic", "aws-lambda-powertools", "fastapi", "mangum")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    yield "# Benchmarks\n<!-- Written by `make bench`. Edit benchmarks/report.py instead. -->"
    yield (
        f"Measured on {datetime.now(UTC):%Y-%m-%d} in one run of `make bench`: {os.cpu_count()} "
        f"{platform.machine()} cores, Python {platform.python_version()}, {versions}."
    )
    yield INTRODUCTION_TEXT
    yield f"## Targets\n\n{TARGETS_TEXT}"
    rows = [(t.name, f"{t.value:.3g}", f"≤ {t.limit:g}", "✗✓"[t.is_met()]) for t in targets(bench)]
    yield _table(["This API", "Measured", "Target", "Met"], rows)
    yield f"## Cold start\n\n{COLD_START_TEXT}"
    yield "![Milliseconds from the start of the process to the first response](cold-start.svg)"
    yield f"## Requests\n\n{REQUESTS_TEXT}"
    yield "![Time, DynamoDB calls and write units by number of steps](growth.svg)"
    yield f"### Time\n\n{_table_by_case(bench, lambda r: _time(r.seconds))}"
    yield NOT_MEASURED_TEXT
    yield f"### CPU time\n\n{_table_by_case(bench, lambda r: _time(r.cpu_seconds))}"
    yield f"### DynamoDB calls\n\n{_table_by_case(bench, lambda r: f'{r.usage["calls"]:,}')}"
    yield f"### Write units\n\n{_table_by_case(bench, lambda r: f'{r.usage["write_units"]:,}')}"
    yield f"## Price\n\n{PRICE_TEXT}"
    priced = (PRESENT[1], PRESENT[100], HALF_MISSING, PRESENT[1_000])
    yield _table_by_case(bench, lambda r: f"{_dollars(r) * 1e6:,.2f}", priced)
    yield f"## Write limit\n\n{WRITE_LIMIT_TEXT}"
    rows = [
        (LABELS[name], str(status), f"{deleted:,}", f"{100 * used:.0f} %")
        for name, (status, deleted, used) in bench.limited.items()
    ]
    yield _table(["Implementation", "Status", "Deleted", "Used"], rows)
    yield f"## Memory\n\n{MEMORY_TEXT}"
    peak_rows = [
        [label, *(f"{peaks[name] / MEGABYTE:.0f}" if name in peaks else "-" for name in NAMES)]
        for label, peaks in bench.peaks.items()
    ]
    yield _table(["Request", *COLUMNS], peak_rows)


def _dollars(request: Invocation) -> float:
    seconds = request.seconds + request.cpu_seconds * (1 / CPU_SHARE - 1)
    return (
        3.50e-6  # API Gateway, per request
        + 0.20e-6  # Lambda, per request
        + 13.3334e-6 * MEMORY_MB / 1024 * ceil(seconds * 1000) / 1000  # Lambda, per GB-second
        + 0.125e-6 * request.usage["read_units"]
        + 0.625e-6 * request.usage["write_units"]
        + 0.50e-9 * request.log_bytes
    )


def _table_by_case(
    bench: Bench, show: Callable[[Invocation], str], cases: Iterable[Case] = CASES
) -> str:
    rows = []
    for case in cases:
        found = [bench.requests.get((name, case)) for name in NAMES]
        rows.append([case.label, *(show(request) if request else "-" for request in found)])
    return _table(["Request", *COLUMNS], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table. All columns but the first are numbers, and aligned to the right."""
    alignment = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, alignment, *rows))


def _time(seconds: float) -> str:
    """Return the time with three digits."""
    number, unit = (seconds, "s") if seconds >= 1 else (seconds * 1000, "ms")
    return f"{number:#.3g}".rstrip(".") + f" {unit}"


def _draw_cold_start(bench: Bench) -> None:
    figure, axes = plt.subplots(figsize=(8, 2), layout="constrained")
    names = NAMES[::-1]  # matplotlib draws the first bar at the bottom
    milliseconds = [bench.cold_starts[name] * 1000 for name in names]
    bars = axes.barh(
        [LABELS[name] for name in names], milliseconds, color=[COLOURS[name] for name in names]
    )
    axes.bar_label(bars, fmt="{:,.0f} ms", padding=4)
    axes.margins(x=0.1)
    axes.xaxis.set_visible(False)
    axes.spines.bottom.set_visible(False)
    axes.tick_params(length=0)
    axes.set_title("Cold start", loc="left")
    figure.savefig(DOCS / "cold-start.svg", metadata={"Date": None})


def _draw_growth(bench: Bench) -> None:
    values: dict[str, Callable[[Invocation], float]] = {
        "Seconds": lambda request: request.seconds,
        "DynamoDB calls": lambda request: request.usage["calls"],
        "Write units": lambda request: request.usage["write_units"],
    }
    figure, panels = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
    for axes, (title, value) in zip(panels, values.items(), strict=True):
        for name in NAMES:
            found = [bench.requests.get((name, case)) for case in PRESENT.values()]
            measured = [value(request) for request in found if request]
            style = {"color": COLOURS[name], "label": LABELS[name]} | LINES[name]
            axes.loglog(list(PRESENT)[: len(measured)], measured, **style)
        axes.set_title(title)
        axes.set_xlabel("Steps")
        axes.set_xticks(list(PRESENT))
        axes.minorticks_off()
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.margins(0.08)
        axes.grid(visible=True)
    handles, labels = panels[0].get_legend_handles_labels()
    style = {"ncols": len(NAMES), "handlelength": 3, "frameon": False}
    figure.legend(handles, labels, loc="outside lower center", **style)
    figure.savefig(DOCS / "growth.svg", metadata={"Date": None})
