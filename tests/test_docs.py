"""The files, commands and parameters that the docs mention exist."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from emulators.cloud import ROOT
from emulators.dynamodb import read_template

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def tokens_of(page: Path) -> Iterator[Token]:
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text()):
        yield token
        yield from token.children or []


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    tokens = list(tokens_of(page))
    headings = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_link_points_to_an_existing_file_and_heading(page: Path) -> None:
    targets = [
        str(token.attrs[name])
        for token in tokens_of(page)
        for name in ("href", "src")
        if name in token.attrs
    ]

    for target in targets:
        if "://" not in target:
            path, _, anchor = target.partition("#")
            linked = page.parent / path if path else page
            assert linked.exists(), target
            assert not anchor or anchor in anchors_of(linked), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_of_make_and_each_script_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = [token.content for token in tokens_of(page) if token.type in ("code_inline", "fence")]

    for line in re.findall(r"^make ([a-z][a-z0-9 -]*)", "\n".join(code), re.MULTILINE):
        assert set(line.split()) <= targets, line
    for script in re.findall(r"scripts/\w+\.py", page.read_text()):
        assert (ROOT / script).exists(), script
    for script, arguments in re.findall(r"(scripts/\w+\.py)((?:\\\n|[^\n#])*)", "\n".join(code)):
        for option in re.findall(r" (--[a-z-]+)", arguments):
            assert f'"{option}"' in (ROOT / script).read_text(), (script, option)


def test_operations_md_lists_each_parameter_with_its_default() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ?(.*?) ?\|", text, re.MULTILINE)

    assert {
        name: f"`{parameter['Default']}`" if parameter["Default"] != "" else ""
        for name, parameter in read_template()["Parameters"].items()
    }.items() <= dict(rows).items()


def test_the_figures_of_the_readme_are_those_of_the_benchmarks() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    rows = {
        cells[0]: cells[1:]
        for line in page.splitlines()
        if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) > 1
    }
    in_milliseconds = {"ms": 1, "s": 1_000}

    def milliseconds(cell: str) -> float:
        number, unit = cell.partition(",")[0].split()
        return float(number) * in_milliseconds[unit]

    def row_of_times(name: str) -> list[str]:
        (line,) = re.findall(rf"^\| {name} \|(.* m?s, CPU .*)\|$", page, re.MULTILINE)
        return [str(cell).strip() for cell in line.split("|")]

    _, fastapi, _, ours = row_of_times("1,000 steps")
    _, _, section = (ROOT / "README.md").read_text().partition("## Benchmarks")
    for figure in (
        f"{float(rows['Cold start vs. FastAPI + Mangum'][0]):.2f} times",
        f"{milliseconds(ours) / milliseconds(fastapi):.2f} times",
        rows["This API"][-1].replace("%", " %"),
    ):
        assert figure in section


def test_the_readme_is_short_and_no_source_file_is_long() -> None:
    lengths = {
        path.relative_to(ROOT): len(path.read_text().splitlines())
        for path in [ROOT / "README.md", *(ROOT / "src").rglob("*.py")]
    }

    assert lengths.pop(Path("README.md")) <= 150
    assert {} == {path: length for path, length in lengths.items() if length > 250}
