"""Read the log lines and the metrics of a function."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

type Lines = Callable[[], list[dict[str, Any]]]
type Metric = tuple[str, str, frozenset[tuple[str, str]]]  # namespace, name, dimensions


class CurrentStdout:
    """Standard output as it is when a line is written; the log's handler keeps an older one."""

    def write(self, text: str) -> None:
        sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()


def log_lines(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines without metrics and without fields that vary between runs."""
    varying = {"timestamp", "location", "cold_start", "duration_ms", "exception", "exception_name"}
    return [
        {
            key: value
            for key, value in line.items()
            if key not in varying | {"service"} and not key.startswith(("function_", "dynamodb_"))
        }
        for line in lines
        if "_aws" not in line
    ]


def metrics_of(line: dict[str, Any]) -> Iterator[Metric]:
    """Yield the metrics that CloudWatch reads from a line. The dimension `reason` is `*`."""
    for directive in line.get("_aws", {}).get("CloudWatchMetrics", []):
        for metric in directive["Metrics"]:
            assert ("Bytes" if metric["Name"] == "BytesFreed" else "Count") == metric["Unit"]
            assert metric["Name"] in line
            for keys in directive["Dimensions"]:
                dimensions = frozenset((key, "*" if key == "reason" else line[key]) for key in keys)
                yield directive["Namespace"], metric["Name"], dimensions


def metrics(lines: list[dict[str, Any]]) -> dict[str, float]:
    """Return the metrics of all lines, with their reason if they have one."""
    found = []
    for line in lines:
        for namespace, name in {(namespace, name) for namespace, name, _ in metrics_of(line)}:
            assert "Checkpoints" == namespace
            found.append((" ".join([name, *line.get("reason", "").split()]), sum(line[name])))
    assert len(dict(found)) == len(found)  # none is counted twice
    return dict(found)
