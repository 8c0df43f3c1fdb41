"""Read the log lines and the metrics of a function."""

import sys
from collections.abc import Callable
from typing import Any

type Lines = Callable[[], list[dict[str, Any]]]


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


def names_of_metrics(line: dict[str, Any]) -> set[str]:
    """Return the metrics that CloudWatch reads from a line."""
    directives = line.get("_aws", {}).get("CloudWatchMetrics", [])
    assert all("Checkpoints" == directive["Namespace"] for directive in directives)
    assert all(
        name in line
        for directive in directives
        for names in directive["Dimensions"]
        for name in names
    )
    metrics = [metric for directive in directives for metric in directive["Metrics"]]
    for metric in metrics:
        assert ("Bytes" if metric["Name"] == "BytesFreed" else "Count") == metric["Unit"]
    names = [metric["Name"] for metric in metrics]
    assert len(set(names)) == len(names)
    return set(names)


def metrics(lines: list[dict[str, Any]]) -> dict[str, float]:
    """Return the metrics of all lines, with their reason if they have one."""
    found = [
        (" ".join([name, *line.get("reason", "").split()]), sum(line[name]))
        for line in lines
        for name in names_of_metrics(line) - {"ColdStart"}
    ]
    assert len(dict(found)) == len(found)  # none is counted twice
    return dict(found)
