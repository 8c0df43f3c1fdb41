"""The results as people read them: tables in docs/benchmarks.md, and its pictures."""

import os
import platform
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from math import ceil, log
from pathlib import Path
from statistics import linear_regression
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from measure import (
    ENDPOINT,
    LATENCIES,
    MEGABYTE,
    MEMORY,
    ONCE_SECONDS,
    OURS_ONE_BY_ONE,
    RECORDS,
    REFUSALS,
    SIZES,
    Cell,
    Results,
    deletions,
    describe,
    half_missing,
    missing,
    present,
)
from packages import DEFAULT, FASTAPI, FLOOR, IMPLEMENTATIONS, MAKEFILE, OURS, ROOT, SAMPLES
from targets import TARGETS
from worker import LIMIT_SECONDS, MEMORY_MB, Figures, Request

DOCS = ROOT / "docs"

NAMES = {
    FLOOR: "floor",
    FASTAPI: "FastAPI + Mangum",
    SAMPLES: "Powertools, as its samples",
    OURS: "ours",
}
COLOURS = {FLOOR: "#8c8c8c", FASTAPI: "#d1495b", SAMPLES: "#edae49", OURS: "#00798c"}

PEERS = {
    FLOOR: "a bare handler: pydantic, one boto3 client, and transactions as ours; no routing, no "
    "authentication, no log, no retries of its own; botocore checks the parameters, which ours "
    "leaves to DynamoDB",
    FASTAPI: "the same authentication, one `DeleteItem` a step in a pool of ten threads",
    SAMPLES: "`enable_validation=True`, Logger and Tracer, the same authentication, one "
    "`DeleteItem` a step, one after the other",
}

# US East (N. Virginia), on demand, arm64, without the free tier; US dollars.
PRICES_DATE = "May 2026"
PRICE_LISTS = ", ".join(
    f"[{name}](https://aws.amazon.com/{page}/pricing/)"
    for name, page in {
        "API Gateway": "api-gateway",
        "Lambda": "lambda",
        "DynamoDB": "dynamodb",
        "CloudWatch": "cloudwatch",
    }.items()
)
PRICE_OF_GATEWAY_REQUEST = 3.50e-6
PRICE_OF_LAMBDA_REQUEST = 0.20e-6
PRICE_OF_GB_SECOND = 13.3334e-6
PRICE_OF_READ_UNIT = 0.125e-6
PRICE_OF_WRITE_UNIT = 0.625e-6
PRICE_OF_LOG_GB = 0.50
# What bills the time: the memory, whose share of a CPU is in proportion to one at 1,769 MB.
MEMORY_GB = MEMORY_MB / 1024
CPU_SHARE = MEMORY_MB / 1769
PRICED_LATENCY = 0.005

ABSENT = "-"

type Row = Sequence[str]


@dataclass(frozen=True)
class Series:
    """What a request takes, by the number of steps."""

    label: str
    client: str
    ask: Callable[[int], Request]
    sizes: Sequence[int]
    value: Callable[[Figures], float]
    unit: str = "s"

    def points(self, results: Results, name: str) -> tuple[list[int], list[float]]:
        """Return the numbers of steps, and what an implementation took for each."""
        cells = [
            (size, results.cells[Cell(name, self.client, self.ask(size))]) for size in self.sizes
        ]
        finished = [(size, self.value(figures)) for size, figures in cells if figures]
        return [size for size, _ in finished], [value for _, value in finished]

    def slope(self, results: Results, name: str) -> str:
        """Return the exponent from 1,000 steps on; below, the request itself outweighs them."""
        points = [
            (log(size), log(value))
            for size, value in zip(*self.points(results, name), strict=True)
            if size >= 1_000  # noqa: PLR2004
        ]
        if len(points) < 2:  # noqa: PLR2004
            return ABSENT
        return f"{linear_regression(*zip(*points, strict=True)).slope:.2f}"


def _near(count: int) -> Request:
    return present(count, PRICED_LATENCY)


def _cpu(figures: Figures) -> float:
    return figures.cpu_seconds


def _wall(figures: Figures) -> float:
    return figures.wall_seconds


def _calls(figures: Figures) -> float:
    return figures.calls


def _units(figures: Figures) -> float:
    return figures.write_units


SERIES = (
    Series("CPU, client in memory, all present", MEMORY, present, SIZES, _cpu),
    Series("CPU, client in memory, all missing", MEMORY, missing, SIZES, _cpu),
    Series("CPU, botocore, all present", ENDPOINT, present, (*RECORDS, 100_000), _cpu),
    Series("wall, botocore, all present, 5 ms a call", ENDPOINT, _near, RECORDS, _wall),
    Series("DynamoDB calls, all present", ENDPOINT, present, RECORDS, _calls, "calls"),
    Series("write units, half missing", ENDPOINT, half_missing, RECORDS[1:], _units, "units"),
)


def format_targets(results: Results) -> str:
    """Return the targets and what was measured, for a terminal."""
    lines = []
    for target in TARGETS:
        value = target.measure(results)
        verdict = "met" if target.is_met(value) else "missed"
        if target.is_far_from(value):
            verdict = "FAR OFF"
        lines.append(f"{verdict:8}{value:8.3g} of {target.limit:<5g} {target.name}")
    return "\n".join(lines) + "\n"


def write_report(results: Results) -> list[Path]:
    """Write docs/benchmarks.md and its pictures, and return where they are."""
    pages = [DOCS / "benchmarks.md", DOCS / "cold-start.svg", DOCS / "growth.svg"]
    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "checkpoints", "font.size": 10})
    _draw_cold_start(results, pages[1])
    _draw_growth(results, pages[2])
    pages[0].write_text("\n\n".join(_sections(results)) + "\n")
    return pages


def _sections(results: Results) -> Iterable[str]:
    yield "# Benchmarks"
    yield (
        "<!-- Written by `make bench`. Change benchmarks/report.py instead. -->\n"
        f"Measured on {datetime.now(UTC):%Y-%m-%d} by `make bench`, in one run on one machine: "
        f"{_machine()}. Times differ between machines. Their ratio to ours, in brackets, differs "
        "much less. All are packaged like ours unless a heading says otherwise. Beside *ours*:"
    )
    yield _table(["", "what it is"], [[NAMES[name], text] for name, text in PEERS.items()])
    yield (
        "They are in [benchmarks/peers](../benchmarks/peers). Each first proves, on both clients, "
        "that it deletes what was asked and nothing else, and every answer that is timed is "
        "checked. CPU time is that of the process, which is kept on one core: a function of "
        f"{MEMORY_MB} MB has less than one, and on two FastAPI's threads make it vary by half. A "
        "time is the median of five means, or a single one of a request that takes more than "
        f"{ONCE_SECONDS} s. The client in memory takes some of it itself, and the stub speaks "
        "plain HTTP, so TLS is in no figure."
    )
    yield "When the answer to a delete that DynamoDB carried out is lost on the way:"
    yield _table(
        ["", *(NAMES[name] for name in IMPLEMENTATIONS)],
        [
            [
                "the caller is told",
                *(
                    "the truth" if results.outlasts_loss[name] else "something wrong"
                    for name in IMPLEMENTATIONS
                ),
            ]
        ],
    )
    yield "## Targets"
    measured = [(target, target.measure(results)) for target in TARGETS]
    yield _table(
        ["ours", "measured", "target", ""],
        [
            [
                target.name,
                f"{value:.3g}",
                f"≤ {target.limit:g}",
                "✓" if target.is_met(value) else "✗",
            ]
            for target, value in measured
        ],
    )
    yield from _cold_start_sections(results)
    yield from _warm_sections(results)
    yield from _deleting_sections(results)
    yield from _memory_sections(results)
    yield from _growth_sections(results)
    yield from _price_sections(results)


def _cold_start_sections(results: Results) -> Iterable[str]:
    yield "## Cold start"
    yield (
        "From the start of the process to the first answer, a deletion of one step: Lambda's own "
        "runtime client runs the package against a local runtime API and a stub of DynamoDB. "
        f"Median of {len(next(iter(results.starts.values())))}, in ms. No bytecode is kept, as "
        "/var/task is read-only: what was packaged as source is compiled at every start."
    )
    yield _table(
        ["", "packaged like ours", "packaged by `sam build` by default"],
        [
            [
                NAMES[name],
                *(
                    _ratio(results.start(name, packaging), results.start(OURS), _milliseconds)
                    for packaging in (MAKEFILE, DEFAULT)
                ),
            ]
            for name in IMPLEMENTATIONS
        ],
    )
    yield "![Cold start of each implementation](cold-start.svg)"
    yield (
        "Where it goes, in ms, by `python -X importtime`, which itself takes some; the modules of "
        "each part without those that they import. The rest of a start is the process, Lambda's "
        "runtime client, and the request:"
    )
    parts = _parts(results)
    yield _table(
        ["", *(NAMES[name] for name in IMPLEMENTATIONS)],
        [
            [part, *(_milliseconds(results.imports[name].get(part, 0)) for name in IMPLEMENTATIONS)]
            for part in parts
        ],
    )


def _warm_sections(results: Results) -> Iterable[str]:
    yield "## A warm request"
    yield (
        "CPU time with a DynamoDB client that answers from memory: what the code around the "
        "database costs."
    )
    requests = [ask(size) for ask in (present, missing) for size in SIZES]
    yield _by_implementation(results, MEMORY, requests, _cpu)
    yield "Wall time:"
    yield _by_implementation(results, MEMORY, requests, _wall)
    yield (
        "With botocore, and a stub of DynamoDB in another process: CPU time, then wall time. More "
        "of these are under [Deleting](#deleting)."
    )
    requests = [*map(present, SIZES), missing(100_000)]
    yield _by_implementation(results, ENDPOINT, requests, _cpu)
    yield _by_implementation(results, ENDPOINT, requests, _wall)
    yield (
        "Refused requests: CPU time with the client in memory, then CPU time and wall time with "
        "botocore. The bad body is an array of 5 MB whose last element is a string. The floor has "
        "no authentication; Powertools' validation looks at the body first."
    )
    refused = [Request(kind) for kind in REFUSALS]
    yield _by_implementation(results, MEMORY, refused, _cpu)
    yield _by_implementation(results, ENDPOINT, refused, _cpu)
    yield _by_implementation(results, ENDPOINT, refused, _wall)


def _deleting_sections(results: Results) -> Iterable[str]:
    yield "## Deleting"
    yield (
        "botocore against the stub. Calls of DynamoDB include the look-up of the token. Units are "
        "by AWS's rules for records of 200 bytes; a cancelled transaction is counted as if it had "
        f"succeeded. API Gateway waits {LIMIT_SECONDS} s; what would take half as long again, at "
        "the pace of fewer steps, was not tried."
    )
    requests = deletions(0.0)
    yield "**Calls**"
    yield _by_implementation(results, ENDPOINT, requests, _calls, _count)
    yield "**Write units**"
    yield _by_implementation(results, ENDPOINT, requests, _units, _count)
    yield (
        "A transaction costs two units a record, and is sent again without the steps that it found "
        "missing: up to four units a step for up to 100 steps, if AWS charges for a cancelled one. "
        "Above 100, a query finds out first. "
        "That is the price of exact answers."
    )
    yield "**CPU time**"
    yield _by_implementation(results, ENDPOINT, requests, _cpu)
    yield "**Wall time**, by how long each call takes"
    far = [request for latency in LATENCIES for request in deletions(latency)]
    yield _by_implementation(results, ENDPOINT, far, _wall)
    one_by_one = results.figures(OURS_ONE_BY_ONE, ENDPOINT, present(10_000, 0.02))
    yield (
        f"Ours with one transaction at a time takes {_time(one_by_one.wall_seconds)} for 10,000 "
        "records at 20 ms. All calls are given the same latency; in the cloud a transaction takes "
        "longer than a single delete, and the write rate of a partition, 1,000 units a second, "
        "sets the pace of thousands of deletes."
    )


def _memory_sections(results: Results) -> Iterable[str]:
    yield "## Memory"
    yield (
        "The most that the process ever had, in MB, for a body near the 6 MB that Lambda takes. "
        f"The function has {MEMORY_MB} MB. Where all steps are present, at 20 ms a call, its time "
        "ends before they are all deleted; it answers 503 and says how many are."
    )
    yield _table(
        ["", *(NAMES[name] for name in IMPLEMENTATIONS)],
        [
            [
                label,
                *(
                    f"{results.peak_bytes[name, label] / MEGABYTE:.0f}"
                    if (name, label) in results.peak_bytes
                    else ABSENT
                    for name in IMPLEMENTATIONS
                ),
            ]
            for label in dict.fromkeys(label for _, label in results.peak_bytes)
        ],
    )


def _growth_sections(results: Results) -> Iterable[str]:
    yield "## Growth"
    yield (
        "How they grow with the number of steps, as the exponent of a power law that is fitted to "
        "the two or three sizes from 1,000 on: 1 is in proportion, 2 would be a square."
    )
    yield _table(
        ["", *(NAMES[name] for name in IMPLEMENTATIONS)],
        [
            [series.label, *(series.slope(results, name) for name in IMPLEMENTATIONS)]
            for series in SERIES
        ],
    )
    yield "![Time, calls and units by number of steps](growth.svg)"


def _price_sections(results: Results) -> Iterable[str]:
    yield "## Price"
    yield (
        "US dollars for a million requests at 5 ms a call: measured calls, units, log and time, at "
        f"AWS's prices for US East (N. Virginia), on demand, arm64, as of {PRICES_DATE} "
        f"({PRICE_LISTS}), without the free tier. The time is measured on this machine, and its "
        f"CPU part is stretched, as a function of {MEMORY_MB} MB has {CPU_SHARE:.0%} of a CPU. "
        "Left out are traces, the lines that Lambda and API Gateway log of each request, which "
        "cost all the same, and what ours alone has: a price a month for each of its metrics, "
        "however many requests there are. In brackets, how many times ours."
    )
    rows = []
    for request in (
        ask(count, PRICED_LATENCY) for count in (10, 1_000) for ask in (present, half_missing)
    ):
        ours = sum(_prices(results.figures(OURS, ENDPOINT, request)))
        for name in IMPLEMENTATIONS:
            figures = results.figures(name, ENDPOINT, request)
            prices = [f"{price * 1e6:,.2f}" for price in _prices(figures)]
            billed = f"{_billed_seconds(figures) * 1000:,.0f} ms"
            total = _ratio(sum(_prices(figures)), ours, lambda price: f"{price * 1e6:,.2f}")
            rows.append([describe(request), NAMES[name], billed, *prices, total])
    yield _table(
        ["", "", "billed", "requests", "Lambda", "reads", "writes", "log", "**total**"], rows
    )
    starts = ", ".join(
        f"{NAMES[name]} {results.start(name) * MEMORY_GB * PRICE_OF_GB_SECOND * 1e6:.2f}"
        for name in IMPLEMENTATIONS
    )
    yield f"A million cold starts, packaged like ours, add the time that they take: {starts}."
    yield (
        "The writes decide: a transaction has two units for a record where a single delete has "
        "one, and is sent again without the steps that it found missing. Deleting one by one is "
        "cheaper unless many of many steps are missing, takes longer the more steps there are, and "
        "is wrong when an answer is lost."
    )


def _prices(figures: Figures) -> list[float]:
    """Return what a request costs: itself, its time, its reads, its writes, and its log."""
    return [
        PRICE_OF_GATEWAY_REQUEST + PRICE_OF_LAMBDA_REQUEST,
        _billed_seconds(figures) * MEMORY_GB * PRICE_OF_GB_SECOND,
        figures.read_units * PRICE_OF_READ_UNIT,
        figures.write_units * PRICE_OF_WRITE_UNIT,
        figures.log_bytes / 1e9 * PRICE_OF_LOG_GB,
    ]


def _billed_seconds(figures: Figures) -> float:
    """Return what Lambda bills: whole milliseconds, the CPU's part at the CPU's share."""
    seconds = figures.wall_seconds + figures.cpu_seconds * (1 / CPU_SHARE - 1)
    return ceil(seconds * 1000) / 1000


def _by_implementation(
    results: Results,
    client: str,
    requests: Sequence[Request],
    of: Callable[[Figures], float],
    show: Callable[[float], str] | None = None,
) -> str:
    """Return a table with a row for each request; times with their ratios to ours."""
    rows = []
    for request in requests:
        ours = of(results.figures(OURS, client, request))
        row = [describe(request)]
        for name in IMPLEMENTATIONS:
            cell = Cell(name, client, request)
            figures = results.cells.get(cell)
            if figures:
                row.append(show(of(figures)) if show else _ratio(of(figures), ours, _time))
            else:
                row.append(f"> {LIMIT_SECONDS} s" if cell in results.cells and not show else ABSENT)
        rows.append(row)
    return _table(["", *(NAMES[name] for name in IMPLEMENTATIONS)], rows)


def _table(head: Row, rows: Iterable[Row]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _ratio(value: float, ours: float, show: Callable[[float], str]) -> str:
    ratio = value / ours
    return f"{show(value)} ({ratio:.0f})" if ratio >= 100 else f"{show(value)} ({ratio:.2g})"  # noqa: PLR2004


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f}"


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def _machine() -> str:
    models = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    processor = models[0] if models else platform.machine()
    libraries = ", ".join(
        f"{name} {version(name)}"
        for name in ("botocore", "pydantic", "aws-lambda-powertools", "fastapi", "mangum")
    )
    return (
        f"{os.cpu_count()} cores of {processor}, {platform.system()}, "
        f"Python {platform.python_version()}, {libraries}"
    )


def _parts(results: Results) -> list[str]:
    """Return the parts of a cold start, the heaviest of ours first."""
    parts = {part for imports in results.imports.values() for part in imports}
    return sorted(parts, key=lambda part: -results.imports[OURS].get(part, 0))


def _draw_cold_start(results: Results, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    bars = [(name, packaging) for name in IMPLEMENTATIONS for packaging in (DEFAULT, MAKEFILE)]
    labels = [
        f"{NAMES[name]}{'' if packaging == MAKEFILE else ', default build'}"
        for name, packaging in bars
    ]
    for row, (name, packaging) in enumerate(bars):
        total = results.start(name, packaging) * 1000
        axes.barh(row, total, color=COLOURS[name], alpha=1 if packaging == MAKEFILE else 0.45)
        axes.text(total, row, f" {total:.0f}", va="center")
    axes.set_yticks(range(len(bars)), labels)
    axes.set_xlabel("ms from the start of the process to the first answer")
    axes.set_title("Cold start", loc="left")
    _tidy(axes)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _draw_growth(results: Results, path: Path) -> None:
    figure, panels = plt.subplots(3, 2, figsize=(8, 9.6), layout="constrained")
    for axes, series in zip(panels.flat, SERIES, strict=True):
        for name in IMPLEMENTATIONS:
            style: Any = {"marker": "o", "color": COLOURS[name], "label": NAMES[name]}
            axes.loglog(*series.points(results, name), **style)
        axes.set_title(series.label, loc="left", fontsize=10)
        axes.set_xlabel("steps")
        axes.set_ylabel(series.unit)
        _tidy(axes)
    panels[0, 0].legend(frameon=False)
    wall = panels[1, 1]
    wall.axhline(LIMIT_SECONDS, color="black", linewidth=0.8, linestyle=":")
    wall.text(1, LIMIT_SECONDS, "API Gateway waits no longer", va="bottom", fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
