"""Read the sections, the tables and the code words of the docs."""

import re
from pathlib import Path
from typing import Any

from emulators.aws import ROOT

README, API, OPERATIONS, RECORDS = (
    ROOT / name for name in ("README.md", "docs/api.md", "docs/operations.md", "docs/records.md")
)

# Fields that Powertools adds to each line. docs/operations.md explains some of them.
POWERTOOLS_FIELDS = {"level", "location", "message", "timestamp", "service", "cold_start"} | {
    f"function_{name}" for name in ("name", "memory_size", "arn", "request_id")
}


def section(page: Path, heading: str) -> str:
    """Return the text from a heading to the next one of the same or a higher level."""
    level = heading.partition(" ")[0]
    pattern = rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)"
    (text,) = re.findall(pattern, page.read_text(), re.MULTILINE | re.DOTALL)
    return str(text)


def rows(page: Path, heading: str) -> list[list[str]]:
    """Return the cells of all tables below a heading, without their heads and without backticks."""
    bodies = re.findall(r"^\|[-|]+\|\n((?:\|.*\|\n)+)", section(page, heading), re.MULTILINE)
    return [
        [cell.strip() for cell in line.replace("`", "").strip("|").split("|")]
        for body in bodies
        for line in body.splitlines()
    ]


def first_cells(page: Path, heading: str) -> set[str]:
    """Return the first cell of each row of all tables below a heading."""
    return {cells[0] for cells in rows(page, heading)}


def check_log_line(line: dict[str, Any]) -> None:
    """Check that docs/operations.md explains a log line, with all its fields."""
    text = section(OPERATIONS, "## Read the log")
    common = set(re.findall(r"`(\w+)`", re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)))
    of_message = {}
    for cells in rows(OPERATIONS, "## Read the log"):
        message = cells[0] if cells[0][0].isupper() else cells[1]
        of_message[message] = set(re.findall(r"\w+", " ".join(cells[2:])))
    storage_freed = of_message["Storage freed"]  # other rows say "as for `freed`"
    documented = common | POWERTOOLS_FIELDS | of_message.get(line["message"], set())
    documented |= storage_freed if "objects_deleted" in line else set()

    if line["message"] == "Request refused":
        assert line["reason"] in common, "docs/operations.md, Read the log: the reason"
    assert line["message"] in of_message, "docs/operations.md, Read the log: a row for the message"
    assert set() == line.keys() - documented, "docs/operations.md, Read the log: the fields"
