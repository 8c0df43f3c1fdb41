"""What the docs say is true: links, files, commands, parameters, statuses, limits, log lines."""

import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from typer.core import TyperGroup
from typer.main import get_command

from checkpoints.api import auth, requests, responses
from checkpoints.api.audit import Line
from checkpoints.reclaim import audit as reclaim_audit
from checkpoints.reclaim import reasons
from checkpoints.records import checkpoints, record
from cli.layouts import _FOLDERS, WEIGHTS
from cli.main import app as checkpoints_app
from cli.options import Scope
from cli.summary import MEANINGS
from cli.template import read_template
from docs import API, OPERATIONS, README, RECORDS, first_cells, rows, section
from emulators.aws import ROOT
from events import AUTH_ERRORS
from template_resolver import of_type

PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CHANGELOG = ROOT / "CHANGELOG.md"
RESOURCES = read_template()["Resources"]
DOCUMENT = json.loads((ROOT / "docs" / "openapi.json").read_bytes())
OPENAPI_PATHS, SCHEMAS = DOCUMENT["paths"], DOCUMENT["components"]["schemas"]


def tokens_of(page: Path) -> Iterator[Token]:
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text()):
        yield token
        yield from token.children or []


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    tokens = list(tokens_of(page))
    headings = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize(
    "page", [*PAGES, CHANGELOG, ROOT / "SECURITY.md"], ids=lambda page: page.name
)
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
def test_each_command_of_make_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = [token.content for token in tokens_of(page) if token.type in ("code_inline", "fence")]

    for line in re.findall(r"^make ([a-z][a-z0-9 -]*)", "\n".join(code), re.MULTILINE):
        assert set(line.split()) <= targets, line


def test_the_docs_show_each_command_of_checkpoints_with_options_that_exist() -> None:
    code = [
        token.content
        for page in PAGES
        for token in tokens_of(page)
        if token.type in ("code_inline", "fence")
    ]
    pattern = r"^(?:\$ )?(?:uv run )?(?:\.venv/bin/checkpoints|cli/prune\.py|checkpoints) (.*)"
    lines = "\n".join(code).replace("\\\n", " ")
    lines = re.sub(r"^(.*)cli/prune\.py", "checkpoints prune", lines, flags=re.MULTILINE)
    shown = set()
    for arguments in re.findall(pattern, lines, re.MULTILINE):
        command: Any = get_command(checkpoints_app)
        path: list[str] = []
        for word in shlex.split(arguments, comments=True):
            if isinstance(command, TyperGroup) and not word.startswith("-"):
                assert word in command.commands, arguments
                command, path = command.commands[word], [*path, word]
            elif word.startswith("--") and word != "--help":
                options = {name for parameter in command.params for name in parameter.opts}
                assert word.partition("=")[0] in options, arguments
        shown.add(" ".join(path))

    assert {*leaves(get_command(checkpoints_app))} <= shown, "docs/operations.md"


def leaves(command: Any, *path: str) -> Iterator[str]:
    """Yield the names of all commands that have no sub-commands."""
    if not isinstance(command, TyperGroup):
        yield " ".join(path)
        return
    for name, sub_command in command.commands.items():
        yield from leaves(sub_command, *path, name)


def test_the_docs_name_parameters_and_outputs_of_the_template() -> None:
    template = read_template()
    defaults = {name: str(each["Default"]) for name, each in template["Parameters"].items()}
    outputs = {
        *re.findall(r"\$\(output (\w+)\)", OPERATIONS.read_text()),
        *re.findall(r"\boutput(?: that)? `(\w+)`", README.read_text() + OPERATIONS.read_text()),
    }

    assert defaults == {name: default for name, default, _ in rows(OPERATIONS, "## Parameters")}
    assert first_cells(README, "## Deploy") <= defaults.keys()
    assert len(outputs) > 5
    assert outputs <= template["Outputs"].keys()


def test_api_md_lists_the_fields_of_each_request() -> None:
    delete, listing = requests.DeleteCheckpointsRequest, requests.ListCheckpointsRequest

    for model, heading in ((delete, "## Delete checkpoints"), (listing, "## List checkpoints")):
        assert model.model_fields.keys() == first_cells(API, heading), f"docs/api.md, {heading}"


def test_api_md_names_the_fields_of_each_response() -> None:
    code = [token.content for token in tokens_of(API) if token.type in ("code_inline", "fence")]
    schemas = {*SCHEMAS} - {"DeleteCheckpointsRequest"}
    fields = {field for name in schemas for field in SCHEMAS[name]["properties"]}

    assert set() == fields - set(re.findall(r"\w+", " ".join(code))), "docs/api.md"


def test_each_attribute_of_a_record_is_read_shown_and_explained() -> None:
    """The list shows all but the URI, and `checkpoints records summary` warns of wrong values."""
    listed = set(record.Checkpoint._fields) - {"step"}
    optional = {name for name, kind, *_ in rows(RECORDS, "## Attributes") if "optional" in kind}

    assert {"id", "step", *listed} == responses.CheckpointResponse.model_fields.keys(), (
        "CheckpointResponse in api/responses.py"
    )
    assert {"artifact_uri", *listed} == optional, "docs/records.md, Attributes"
    assert optional <= MEANINGS.keys(), "MEANINGS in cli/summary.py"


def test_records_md_lists_the_names_that_the_import_knows() -> None:
    """A test of the import compares the other names, which are not those of folders."""
    names = "### Names that are recognised"
    (weights,) = re.findall(r"^Weights are .*", section(RECORDS, names), re.MULTILINE)

    assert {each.label for each in _FOLDERS} <= first_cells(RECORDS, names), "docs/records.md"
    assert {*WEIGHTS} == set(re.findall("`(.*?)`", weights)), "docs/records.md"


def test_api_md_lists_each_status_with_its_message() -> None:
    listed = [(status, body) for status, _, body, *_ in rows(API, "## Responses")]
    gateway = RESOURCES["Api"]["Properties"]["GatewayResponses"]
    expected = {
        (str(gateway[name]["StatusCode"]), gateway[name]["ResponseTemplates"]["application/json"])
        for name in gateway
        if not name.startswith("DEFAULT_") and name != "INTEGRATION_TIMEOUT"
    } | {
        *(
            (str(kind.status), json.dumps({"detail": kind.detail}))
            for kind in AUTH_ERRORS
            if hasattr(kind, "detail")
        ),
        ("502", json.dumps({"detail": responses.INTERNAL_SERVER_ERROR})),
    }

    assert expected <= set(listed), "docs/api.md, Responses"
    for operations in OPENAPI_PATHS.values():
        for operation in operations.values():
            assert operation["responses"].keys() <= dict(listed).keys(), "docs/api.md, Responses"


def test_operations_md_explains_each_log_line_and_each_reason() -> None:
    """The fixture `lines` checks the fields of each line."""
    outcomes = {
        *((outcome, message) for outcome, (_, message) in reclaim_audit.OUTCOMES.items()),
        ("none", reclaim_audit.INVALID_MESSAGE),
    }
    listed = rows(OPERATIONS, "## Read the log")
    alarm = section(OPERATIONS, "### ReclaimFailedAlarm")
    refusals = re.findall(r"^- ((?:`\w+`(?:, )?)+):", alarm, re.MULTILINE)
    others = {code for name, code in vars(reasons).items() if name.isupper()}
    named = re.findall(r"`(\w+)`", section(OPERATIONS, "## Read the log"))

    assert {*Line} == {first for first, *_ in listed if first[0].isupper()}
    assert outcomes == {(first, second) for first, second, *_ in listed if first[0].islower()}
    assert {*reasons.Refusal} == set(re.findall(r"\w+", " ".join(refusals))), (
        "docs/operations.md, ReclaimFailedAlarm"
    )
    assert others <= set(named), "docs/operations.md, Read the log"


def test_each_field_that_queries_use_is_documented() -> None:
    queries = [
        query["QueryString"] for query in of_type(RESOURCES, "AWS::Logs::QueryDefinition").values()
    ]
    fields = {
        *re.findall(r"\$\.(\w+)", OPERATIONS.read_text()),
        *re.findall(r"\b[a-z]+_[a-z_]+\b", "".join(queries)),
    } - {"record", "errorType", "slowest_ms"}  # Lambda's own, and a name in a query

    assert len(fields) > 5
    assert fields <= set(re.findall(r"`(\w+)`", section(OPERATIONS, "## Read the log")))


QUEUE, GIVEN_UP, DELAYED, OUTAGE = (
    RESOURCES[name]["Properties"]
    for name in ("ReclaimQueue", "DeadLetterQueue", "ReclaimDelayedAlarm", "MostRequestsFailAlarm")
)
OUTAGE_SECONDS = OUTAGE["Period"] * OUTAGE["EvaluationPeriods"]
DAY = 24 * 3_600
IN_WORDS = {4: "four", 5: "five"}


@pytest.mark.parametrize(
    ("page", "pattern", "expected"),
    [
        (README, r"within (\d+) seconds", RESOURCES["ApiFunction"]["Properties"]["Timeout"]),
        (README, r"Up to (\d+) steps", checkpoints.MAX_TRANSACTION_ACTIONS),
        (API, r"`limit` \| 1 to (\d+)", requests.MAX_PAGE_SIZE),
        (API, r"default (\d+)", requests.DEFAULT_PAGE_SIZE),
        (API, r"([\d,]+) arrays and objects", f"{requests.MAX_NESTED_VALUES:,}"),
        (API, r"`DELETE`, scope `(.*?)`", auth.DELETE_SCOPE),
        (API, r"`GET`, scope `(.*?)`", auth.READ_SCOPE),
        (RECORDS, r"up to ([\d,]+) bytes", f"{record.MAX_MODEL_ID_BYTES:,}"),
        (OPERATIONS, r"more than (\w+) hours", IN_WORDS[DELAYED["Threshold"] // 3_600]),
        (OPERATIONS, r"in (\w+) attempts", IN_WORDS[QUEUE["RedrivePolicy"]["maxReceiveCount"]]),
        (OPERATIONS, r"attempts are (\d+) minutes apart", QUEUE["VisibilityTimeout"] // 60),
        (OPERATIONS, r"wait up to (\d+) days", QUEUE["MessageRetentionPeriod"] // DAY),
        (OPERATIONS, r"(\d+) days after the deletion", GIVEN_UP["MessageRetentionPeriod"] // DAY),
        (OPERATIONS, r"For (\d+) minutes, more than half", OUTAGE_SECONDS // 60),
    ],
)
def test_the_docs_name_the_limits_of_the_code(page: Path, pattern: str, expected: object) -> None:
    text = " ".join(page.read_text().split())

    assert {str(expected)} == set(re.findall(pattern, text)), page.name


@pytest.mark.parametrize("page", [README, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_each_file_that_a_page_names_exists(page: Path) -> None:
    names = re.findall(r"\b[\w/]+\.(?:py|yaml)\b", page.read_text())

    assert len(names) > 3
    for name in names:
        places = (ROOT, ROOT / "src" / "checkpoints")
        assert any((place / name).exists() for place in places), f"{page.name}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_shell_block_has_valid_syntax(page: Path) -> None:
    fences = [token for token in tokens_of(page) if token.type == "fence"]
    scripts = [fence.content for fence in fences if fence.info == "sh"]
    for fence in fences:
        if fence.info == "console":
            scripts += re.findall(r"^\$ ((?:.*\\\n)*.*\n)", fence.content, re.MULTILINE)

    for script in scripts:
        bash = ["bash", "-n"]
        checked = subprocess.run(bash, input=script, text=True, check=False)  # noqa: S603
        assert 0 == checked.returncode, script


def test_each_route_is_published_and_deployed() -> None:
    """The document is generated from the routes."""
    published = [(method, path) for path, methods in OPENAPI_PATHS.items() for method in methods]
    deployed = [
        (event["Properties"]["Method"].lower(), event["Properties"]["Path"])
        for event in RESOURCES["ApiFunction"]["Properties"]["Events"].values()
        if event["Properties"]["Method"] != "ANY"  # for 404
    ]

    assert sorted(published) == sorted(deployed), "Events of ApiFunction in template.yaml"
    scopes = {value for name, value in vars(auth).items() if name.endswith("_SCOPE")}
    assert scopes == set(Scope), "Scope in cli/options.py"
    assert scopes <= set(re.findall(r"`(.*?)`", API.read_text())), "docs/api.md"


def test_the_figures_of_the_readme_are_those_of_the_benchmarks() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    measured = dict(re.findall(r"^\| (.*?) \| (.*?) \|", page, re.MULTILINE))

    for target, sentence in {
        "Cold start: faster than FastAPI + Mangum": "a cold start is {} faster than",
        "1,000 steps: faster than FastAPI + Mangum": "1,000 deletes are {} faster than",
        "Write limit: used": "use {} of the simulated write limit",
    }.items():
        assert sentence.format(measured[target]) in " ".join(README.read_text().split())


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 150, "Move something from README.md to docs/"


def test_the_newest_entry_of_the_changelog_has_the_version_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    newest, *_ = re.findall(r"^## (.*)", CHANGELOG.read_text(), re.MULTILINE)

    assert re.fullmatch(
        re.escape(project["version"]) + r" \((unreleased|\d{4}-\d\d-\d\d)\)", newest
    ), "Change version in pyproject.toml, or CHANGELOG.md"
