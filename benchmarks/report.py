"""The results for readers: the targets, docs/benchmarks.md and its two pictures."""

import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from math import ceil
from pathlib import Path
from statistics import median
from typing import NamedTuple

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.ticker import NullLocator
from measure import (
    CASES,
    FAR,
    HALF_MISSING,
    LIMITED_STEPS,
    PRESENT,
    SHORT_SECONDS,
    SPARSE,
    STARTS,
    Bench,
    Case,
    Figures,
)
from packages import FASTAPI, FLOOR, NAMES, OURS, ROOT, SAMPLES
from runtime import LIMIT_SECONDS, MEMORY_MB

DOCS = ROOT / "docs"
LABELS = {
    FLOOR: "Bare handler",
    FASTAPI: "FastAPI + Mangum",
    SAMPLES: "Powertools samples",
    OURS: "This API",
}
COLOURS = {FLOOR: "#8c8c8c", FASTAPI: "#d1495b", SAMPLES: "#edae49", OURS: "#00798c"}
MEGABYTE = 1024 * 1024

# US dollars in US East (N. Virginia), May 2026: on demand, arm64, without the free tier.
REQUEST_PRICE = 3.50e-6 + 0.20e-6  # API Gateway and Lambda
GB_SECOND_PRICE = 13.3334e-6
READ_UNIT_PRICE = 0.125e-6
WRITE_UNIT_PRICE = 0.625e-6
LOG_GB_PRICE = 0.50
CPU_SHARE = MEMORY_MB / 1769  # of one core; Lambda gives a whole one at 1,769 MB


class Target(NamedTuple):
    """A figure that should be at most its limit; a check allows times to be a quarter worse."""

    name: str
    value: float
    limit: float
    tolerance: float = 1.0

    def is_met(self, tolerance: float = 1.0) -> bool:
        """Tell whether the figure is within the limit."""
        return self.value <= self.limit * tolerance


def targets(bench: Bench) -> list[Target]:
    """Return the targets with what was measured."""
    starts = {name: median(seconds) for name, seconds in bench.starts.items()}
    one = {name: bench.figures[name, PRESENT[1]].cpu_seconds for name in NAMES}
    many = {name: bench.figures[name, PRESENT[1_000]] for name in NAMES}
    single = min(many[FASTAPI].cpu_seconds, many[SAMPLES].cpu_seconds)
    far = bench.figures[OURS, FAR].seconds / bench.one_at_a_time.seconds
    peak = max(peaks[OURS] for peaks in bench.peaks.values()) / MEGABYTE
    ratios = [
        ("Cold start, against the Powertools samples", starts[OURS] / starts[SAMPLES], 0.35),
        ("Cold start, against FastAPI + Mangum", starts[OURS] / starts[FASTAPI], 0.70),
        ("Cold start, against the bare handler", starts[OURS] / starts[FLOOR], 1.15),
        ("CPU time for 1 step, against FastAPI + Mangum", one[OURS] / one[FASTAPI], 0.80),
        (
            "CPU time for 1,000 steps, against the better of the two with single deletes",
            many[OURS].cpu_seconds / single,
            0.08,
        ),
        ("Time for 10,000 steps at 20 ms a call, against one call at a time", far, 0.45),
    ]
    sparse = bench.figures[OURS, SPARSE].calls
    return [
        *(Target(*ratio, tolerance=1.25) for ratio in ratios),
        Target("DynamoDB calls to delete 1,000 checkpoints", many[OURS].calls, 12),
        Target("DynamoDB calls for 100,000 steps, 300 present", sparse, 5),
        Target("Part of the write limit that is not used", 1 - bench.limited[OURS].used, 0.10),
        Target(f"Peak memory in MB, of {MEMORY_MB}", peak, MEMORY_MB / 2),
        Target("Package in MB, for both architectures", bench.package_bytes / MEGABYTE, 32),
    ]


def write_report(bench: Bench) -> None:
    """Write docs/benchmarks.md, docs/cold-start.svg and docs/growth.svg."""
    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "checkpoints"})
    _draw_cold_start(bench)
    _draw_growth(bench)
    (DOCS / "benchmarks.md").write_text("\n\n".join(_sections(bench)) + "\n")


def _sections(bench: Bench) -> Iterator[str]:
    yield (
        "# Benchmarks\n\n<!-- `make bench` writes this file. Edit benchmarks/report.py instead. "
        f"-->\nMeasured on {datetime.now(UTC):%Y-%m-%d} by one run of `make bench` on {_machine()}."
    )
    yield (
        "Lambda's own runtime client runs each package, on one core, against a local stand-in for "
        "DynamoDB where each call takes 5 ms. Every answer is checked, and what is left in the "
        "table too. Times differ between machines, so compare them within a table. This API is "
        "measured beside three others that answer the same requests "
        "([benchmarks/peers](../benchmarks/peers)):"
    )
    yield (
        "- **Bare handler**: pydantic, boto3 and transactions. No routing, authentication, logs "
        "or retries.\n"
        "- **FastAPI + Mangum**: a `DeleteItem` for each step, ten at a time.\n"
        "- **Powertools samples**: what the samples of Powertools use, which is its validation, "
        "Logger and Tracer, built by `sam build` without a makefile. A `DeleteItem` for each step, "
        "one after the other.\n\n"
        "The first two are built like this API, by src/Makefile."
    )
    yield "## Targets"
    rows = [(t.name, f"{t.value:.3g}", f"≤ {t.limit:g}", "✗✓"[t.is_met()]) for t in targets(bench)]
    yield _table(["", "measured", "target", ""], rows)
    yield (
        f"## Cold start\n\nFrom the start of the process to the first answer, which deletes one "
        f"step. Median of {STARTS} starts.\n\n![Cold start in milliseconds](cold-start.svg)"
    )
    yield (
        f"## Requests\n\nTime until the answer, and CPU time. API Gateway waits {LIMIT_SECONDS} s. "
        "All steps are present unless a row says how many are missing."
    )
    yield _by_case(bench, lambda f: f"{_time(f.seconds)}, CPU {_time(f.cpu_seconds)}")
    yield "![Time, DynamoDB calls and write units by number of steps](growth.svg)"
    yield "Calls of DynamoDB, and write units:"
    yield _by_case(bench, lambda f: f"{f.calls:,}, {f.write_units:,} units")
    yield (
        "A transaction costs two write units for each step, and a single delete costs one. If some "
        "of up to 100 steps are missing, the transaction is cancelled and sent again without them. "
        "The cancelled one is counted here as if AWS charged for it in full."
    )
    yield (
        "## Price\n\nUS dollars for a million requests: API Gateway, Lambda, DynamoDB and "
        "CloudWatch logs in US East (N. Virginia), on demand, arm64, May 2026, without the free "
        f"tier, traces and custom metrics. {MEMORY_MB} MB have {CPU_SHARE:.0%} of a core, so CPU "
        "time is counted as that much longer. The writes decide the price of many steps."
    )
    cases = (PRESENT[1], PRESENT[100], HALF_MISSING, PRESENT[1_000])
    yield _by_case(bench, lambda f: f"{_price(f) * 1e6:,.2f}", cases)
    yield (
        f"## Write limit\n\nOne request for {LIMITED_STEPS:,} steps, all present, when the "
        "partition takes 1,000 write units a second, and up to 1,000 unused ones later. The "
        f"function has {SHORT_SECONDS} s. A 502 is a crash, and a 504 means that the time ran out: "
        "the caller does not learn what was deleted. A 503 says how many were, and to repeat the "
        "request. *Used* is the part of the write units that the limit allowed until then."
    )
    rows_limited = [
        (LABELS[name], str(limited.status), f"{limited.deleted:,}", f"{limited.used:.0%}")
        for name, limited in bench.limited.items()
    ]
    yield _table(["", "answer", "deleted", "used"], rows_limited)
    yield (
        f"## Memory\n\nPeak memory in MB, of {MEMORY_MB}, for a body of 5.9 MB. The last request "
        "ends with a 503."
    )
    yield _by_name(
        [label, *(f"{peaks[name] / MEGABYTE:.0f}" if name in peaks else "-" for name in NAMES)]
        for label, peaks in bench.peaks.items()
    )


def _price(figures: Figures) -> float:
    seconds = figures.seconds + figures.cpu_seconds * (1 / CPU_SHARE - 1)
    return (
        REQUEST_PRICE
        + ceil(seconds * 1000) / 1000 * MEMORY_MB / 1024 * GB_SECOND_PRICE
        + figures.read_units * READ_UNIT_PRICE
        + figures.write_units * WRITE_UNIT_PRICE
        + figures.log_bytes / 1e9 * LOG_GB_PRICE
    )


def _by_case(bench: Bench, show: Callable[[Figures], str], cases: Iterable[Case] = CASES) -> str:
    """Return a table with a row for each request."""
    rows = []
    for case in cases:
        missing = case.asked - len(case.present)
        label = (
            f"{case.asked:,} step{'s' * (case.asked > 1)}{f', {missing:,} missing' * (missing > 0)}"
        )
        found = [bench.figures.get((name, case)) for name in NAMES]
        late = f"> {LIMIT_SECONDS} s"
        rows.append([label, *(show(f) if f and f.seconds < LIMIT_SECONDS else late for f in found)])
    return _by_name(rows)


def _by_name(rows: Iterable[Sequence[str]]) -> str:
    return _table(["", *(LABELS[name] for name in NAMES)], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def _machine() -> str:
    models = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    names = ("boto3", "pydantic", "aws-lambda-powertools", "fastapi", "mangum")
    libraries = ", ".join(f"{name} {version(name)}" for name in names)
    processor = models[0] if models else platform.machine()
    return f"{os.cpu_count()} cores of {processor}, Python {platform.python_version()}, {libraries}"


def _draw_cold_start(bench: Bench) -> None:
    plot, axes = plt.subplots(figsize=(8, 2), layout="constrained")
    for row, name in enumerate(reversed(NAMES)):
        milliseconds = median(bench.starts[name]) * 1000
        axes.barh(LABELS[name], milliseconds, color=COLOURS[name])
        axes.text(milliseconds, row, f" {milliseconds:.0f} ms", va="center")
    axes.set_title("Cold start, until the first answer", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    plot.savefig(DOCS / "cold-start.svg", metadata={"Date": None})


def _draw_growth(bench: Bench) -> None:
    plot, panels = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
    for axes, title in zip(panels, ("seconds", "calls", "write_units"), strict=True):
        for name in NAMES:
            points = {
                case.asked: getattr(bench.figures[name, case], title)
                for case in PRESENT.values()
                if (name, case) in bench.figures
            }
            axes.loglog(
                *zip(*points.items(), strict=True),
                marker="o",
                color=COLOURS[name],
                label=LABELS[name],
            )
        axes.set_title(title.replace("_", " "), loc="left")
        axes.set_xlabel("steps")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_locator(NullLocator())
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    plot.savefig(DOCS / "growth.svg", metadata={"Date": None})
