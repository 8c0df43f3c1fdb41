"""The summary of all records, and its warnings."""

import json
import os
from typing import Any

import boto3
import pytest

from commands import Run, run_on_stack
from emulators.dynamodb import put_checkpoints
from events import ENTITY, MODEL
from faulty_dynamodb import Endpoint, Reply

READING = "Reading the whole table, which costs a read unit for each 8 KB of records.\n"
HEADINGS = ["ENTITY", "MODEL", "CHECKPOINTS", "SIZE", "PROTECTED"]
HEADINGS += ["FIRST STEP", "LAST STEP", "NEWEST"]
HUGE = 10**37


@pytest.fixture
def run(endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> Any:
        arguments = ("records", "summary", *arguments)
        return run_on_stack(*arguments, endpoint=endpoint, capsys=capsys)

    return run


def put(model_id: str, *steps: Any, entity: str = ENTITY, **attributes: Any) -> None:
    put_checkpoints(model_id, steps, entity=entity, **attributes)


def rows(text: str) -> list[list[str]]:
    """Return the cells of the table, which two spaces or more separate."""
    return [
        [cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.split("\n")
    ]


def test_shows_each_entity_and_model_the_largest_first(run: Run) -> None:
    put("small", 5, 7, size_bytes={"N": "500"}, created_at={"N": "1767225600"})
    put("small", 6, entity="speech-team")
    put(MODEL, 100, size_bytes={"N": "2000000000"}, created_at={"N": "1769904000"})
    put(MODEL, -300, 200, size_bytes={"N": "1"}, protected={"BOOL": True})
    put(MODEL, 400, protected={"BOOL": False}, created_at={"N": "0"})

    table = run()
    document = run("--json")

    assert (0, READING) == (table.returncode, table.stderr)
    assert [
        HEADINGS,
        [ENTITY, MODEL, "4", "2.0 GB (known for 3 of 4)", "2", "-300", "400", "2026-02-01"],
        [ENTITY, "small", "2", "1.0 kB", "0", "5", "7", "2026-01-01"],
        ["speech-team", "small", "1", "not known", "0", "6", "6"],
        ["Total", "3", "7", "2.0 GB (known for 5 of 7)", "2"],
        [],
    ] == rows(table.stdout)

    def model(*values: object) -> dict[str, object]:
        names = ["entity", "model_id", "checkpoints", "size_bytes", "size_known", "protected"]
        names += ["first_step", "last_step", "newest_created_at"]
        return dict(zip(names, values, strict=True))

    total = {"checkpoints": 7, "size_bytes": 2_000_001_002, "size_known": 5, "protected": 2}
    assert {
        "models": [
            model(ENTITY, MODEL, 4, 2_000_000_002, 3, 2, -300, 400, 1_769_904_000),
            model(ENTITY, "small", 2, 1_000, 2, 0, 5, 7, 1_767_225_600),
            model("speech-team", "small", 1, 0, 0, 0, 6, 6, None),
        ],
        "total": total,
        "warnings": [],
    } == json.loads(document.stdout)
    assert (0, READING) == (document.returncode, document.stderr)


def test_reads_all_pages(run: Run, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    put(MODEL, *range(5))
    reply = endpoint.reply

    def reply_in_pages(headers: dict[str, str], body: bytes) -> Reply:
        return reply(headers, json.dumps(json.loads(body) | {"Limit": 2}).encode())

    monkeypatch.setattr(endpoint, "reply", reply_in_pages)

    assert 5 == json.loads(run("--json").stdout)["total"]["checkpoints"]
    assert ["Scan"] * 3 == endpoint.calls


def test_an_empty_table_has_an_empty_summary(run: Run) -> None:
    assert [HEADINGS, ["Total", "0", "0", "not known", "0"], []] == rows(run().stdout)


def uri(path: str) -> dict[str, Any]:
    return {"artifact_uri": {"S": f"s3://{path}"}}


def warnings(result: Any) -> dict[str, tuple[int, list[Any]]]:
    """Return the count and the steps of the examples, by problem."""
    return {
        warning["problem"]: (warning["count"], [each["step"] for each in warning["examples"]])
        for warning in json.loads(result.stdout)["warnings"]
    }


def test_warns_of_records_that_have_artifacts_in_common(run: Run) -> None:
    put("a", 1, **uri("b/run/1/"))
    put("a", 10, **uri("b/run/10/"))  # not in the one of step 1
    put("a", 11, **uri("b/run-2/1/"))
    put("a", 12, **uri("another/run/1/"))
    put("a", 2, **uri("b/run/1/optimizer.pt"))
    put("b", 3, entity="speech-team", **uri("b/run/1"))  # the same, without its slash
    put("c", 4, **uri("d/x"))
    put("d", 5, **uri("d/"))  # the whole bucket
    put("d", 6, **uri("d/y/z"))

    found = run("--json")
    document = json.loads(found.stdout)

    assert {"artifacts_shared_by_models": 2, "artifacts_shared": 3 - 1} == {
        problem: count for problem, (count, _) in warnings(found).items() if "shared" in problem
    }
    (example, *_) = document["warnings"][0]["examples"]
    assert {
        "model_id": "b",
        "step": 3,
        "artifact_uri": "s3://b/run/1",
        "other_model_id": "a",
        "other_step": 1,
        "other_artifact_uri": "s3://b/run/1/",
    } == example
    assert "  'b' step 3 ('s3://b/run/1') and 'a' step 1 ('s3://b/run/1/')\n" in found.stderr


def test_warns_of_records_that_are_not_valid(run: Run) -> None:
    huge = {"N": "1E+125"}
    key = {"model_id": {"S": "m"}, "step": {"N": "1"}}
    boto3.client("dynamodb").put_item(
        TableName=os.environ["CHECKPOINTS_TABLE"], Item=key | {"entity": {"N": "1"}}
    )
    put("m", 2, entity="")
    put("m", "2.5", size_bytes={"N": "1"})
    put("m", HUGE, metrics={"M": {"loss": huge, "tiny": {"N": "1E-130"}}})
    put("m", 3, metrics={"L": []})
    put("m", 4, metrics={"M": {"loss": {"N": "1"}, "text": {"S": "1"}}})
    put("m", 5, artifact_uri={"L": []})
    put("m", 6, **uri("b/x "))
    put("m", 7, size_bytes={"N": "-1"}, created_at={"S": "2026"}, expires_at={"N": "1.5"})
    put("m", 8, size_bytes=huge, created_at=huge, expires_at=huge)
    put("m", 9, protected={"S": "no"}, expires_at={"N": "1"})
    put("m", *range(20, 30), protected={"N": "1"})

    found = run("--json")

    assert {
        "no_owner": (2, [1, 2]),
        "step_not_an_integer": (1, ["2.5"]),
        "protected_but_expires": (1, [9]),
        "metrics": (2, [3, 4]),
        "artifact_uri": (2, [5, 6]),
        "size_bytes": (2, [7, 8]),
        "created_at": (2, [7, 8]),
        "expires_at": (2, [7, 8]),
        "protected": (11, [9, 20, 21]),
    } == warnings(found)
    assert (
        "Warning: 11 records have a `protected` that is neither true nor false. It protects them.\n"
        "  'm' step 9\n  'm' step 20\n  'm' step 21\n  and 8 more\n"
    ) in found.stderr
    owned = next(row for row in rows(run().stdout) if row[0] == ENTITY)
    assert [ENTITY, "m", "19", "not known", "11", "3", str(HUGE)] == owned


def test_escapes_control_characters(run: Run) -> None:
    put("\x1b[2J\u202e", 1, entity="a\nb", **uri("b/\x1b[2J/"))

    result = run()

    assert ["'a\\nb'", "'\\x1b[2J\\u202e'"] == rows(result.stdout)[1][:2]
    assert "'\\x1b[2J\\u202e' step 1\n" in result.stderr
    assert "\x1b" not in result.stdout + result.stderr


def test_a_shared_folder_with_very_many_checkpoints_takes_no_time(run: Run) -> None:
    """Neighbours are compared, not all pairs."""
    for step in range(3_000):
        put("m", step, **uri(f"b/{step}/" if step else "b/"))

    found = warnings(run("--json"))

    assert {"artifacts_shared": 2_999, "artifact_uri": 1} == {
        problem: count for problem, (count, _) in found.items()
    }
