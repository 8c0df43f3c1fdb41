"""Protect records, and remove records without freeing anything."""

import io
import os
import re
import signal
from collections.abc import Callable, Iterable
from typing import Any

import boto3
import pytest

from checkpoints.reclaim import queue
from commands import Result, Run, run_on_stack
from emulators.dynamodb import put_checkpoints, stored_checkpoints
from emulators.records import Attribute
from emulators.storage import queue_events, stream_event
from events import ENTITY, MODEL
from faulty_dynamodb import Apply, Endpoint, Fault, Reply, lose_response, pass_on, reject

TRUE, FALSE, WRONG_TYPE = {"BOOL": True}, {"BOOL": False}, {"S": "false"}
SIZE = {"N": "1500000"}
YES, DRY_RUN = "--yes", "--dry-run"
SAFE = "It is safe to run the command again.\n\nStopped.\n"

type Records = dict[str, dict[str, Any]]


@pytest.fixture
def run(endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(command: str, *arguments: str, **others: Any) -> Result:
        arguments = ("records", command, MODEL, *arguments)
        return run_on_stack(*arguments, endpoint=endpoint, capsys=capsys, **others)

    return run


class Terminal(io.TextIOWrapper):
    """Someone at the keyboard."""

    def isatty(self) -> bool:
        return True


def put(steps: Iterable[int], *, entity: str = ENTITY, **attributes: Attribute | Any) -> None:
    put_checkpoints(MODEL, steps, entity=entity, **attributes)


def put_with_artifacts(steps: Iterable[int], **attributes: Any) -> None:
    for step in steps:
        put([step], artifact_uri=uri(step), **attributes)


def uri(step: int, run: str = "run") -> dict[str, str]:
    return {"S": f"s3://training-artifacts/{run}/{step}/"}


def stored() -> Records:
    """Return the attributes of each record, besides its key."""
    items = boto3.client("dynamodb").scan(TableName=os.environ["CHECKPOINTS_TABLE"])["Items"]
    return {item.pop("step")["N"]: item for item in items if item.pop("model_id") == {"S": MODEL}}


def report(*lines: str) -> str:
    return f"Model: '{MODEL}'\n" + "".join(f"  {line}\n" for line in lines)


def before(change: Callable[[], None]) -> Fault:
    """Let another program change the table just before a call."""

    def fault(_request: dict[str, Any], apply: Apply) -> Reply:
        change()
        return apply()

    return fault


def interrupt(_request: dict[str, Any], apply: Apply) -> Reply:
    """Press Ctrl-C during a request."""
    os.kill(os.getpid(), signal.SIGINT)
    return apply()


def test_protects_records_that_exist_and_keeps_them_from_expiring(run: Run) -> None:
    put([1, 2, 3, 10], size_bytes=SIZE)
    put([4], expires_at={"N": "1"})
    put([5], protected=TRUE)
    put([6], protected=TRUE, expires_at={"S": "x"})
    put([7], protected=WRONG_TYPE)

    result = run("protect", "0,2-8")

    told = report(
        "Protected: 3 (2-3,7)",
        "Protected, and expires_at removed, so that they do not expire: 2 (4,6)",
        "Already protected: 1 (5)",
        "No record: 2 (0,8)",
    )
    assert Result(1, told, "") == result
    owner = {"entity": {"S": ENTITY}}
    protected = owner | {"protected": TRUE}
    assert {
        **dict.fromkeys(("1", "10"), owner | {"size_bytes": SIZE}),
        **dict.fromkeys(("2", "3"), protected | {"size_bytes": SIZE}),
        **dict.fromkeys("4567", protected),
    } == stored()
    assert Result(0, report("Already protected: 6 (2-7)"), "") == run("protect", "2-7")


def test_unprotects_whatever_protects(run: Run) -> None:
    for step, value in enumerate((TRUE, WRONG_TYPE, FALSE)):
        put([step], protected=value)
    put([3])

    told = report("No longer protected: 2 (0-1)", "Already not protected: 2 (2-3)")
    assert Result(0, told, "") == run("unprotect", "0-3")
    owner = {"entity": {"S": ENTITY}}
    assert {"0": owner, "1": owner, "2": owner | {"protected": FALSE}, "3": owner} == stored()
    assert Result(1, report("No record: 1 (4)"), "") == run("unprotect", "4")


def test_a_range_of_a_million_steps_costs_one_update_for_each_record(
    run: Run, endpoint: Endpoint
) -> None:
    put([7, 500_000])

    told = report("Protected: 2 (7,500000)", "No record: 999,998 (1-6,8-499999,500001-1000000)")
    assert Result(1, told, "") == run("protect", "1-1000000")
    assert ["Query", "UpdateItem", "UpdateItem"] == endpoint.calls


@pytest.mark.parametrize("command", ["protect", "unprotect"])
def test_does_not_create_a_record_that_is_deleted_meanwhile(
    run: Run, endpoint: Endpoint, command: str
) -> None:
    put([1], protected=WRONG_TYPE)

    def delete() -> None:
        boto3.client("dynamodb").delete_item(
            TableName=os.environ["CHECKPOINTS_TABLE"],
            Key={"model_id": {"S": MODEL}, "step": {"N": "1"}},
        )

    endpoint.fail("UpdateItem", before(delete))

    assert Result(1, report("No record: 1 (1)"), "") == run(command, "1")
    assert {} == stored()


def test_says_what_it_changed_also_if_a_response_is_lost(run: Run, endpoint: Endpoint) -> None:
    put([1], expires_at={"N": "1"})
    endpoint.fail("UpdateItem", lose_response)

    told = report("Protected, and expires_at removed, so that they do not expire: 1 (1)")
    assert Result(0, told, "") == run("protect", "1")


@pytest.mark.parametrize(
    ("command", "done"), [(("protect",), "Protected"), (("forget", YES), "Forgotten")]
)
def test_says_how_far_it_got_when_it_fails_or_is_interrupted(
    run: Run, endpoint: Endpoint, command: tuple[str, ...], done: str
) -> None:
    name, *options = command
    call = "UpdateItem" if name == "protect" else "DeleteItem"
    put(range(800))
    endpoint.fail(call, pass_on, reject(400, "AccessDeniedException"))
    failed = run(name, "0-799", *options)
    endpoint.heal()
    put(range(800))
    endpoint.fail(call, *[pass_on] * 50, interrupt)  # all threads have started then
    interrupted = run(name, "0-799", *options)

    denied = "Error: The AWS credentials lack a permission. on command\n"
    assert [(1, denied), (130, SAFE)] == [(each[0], each[2]) for each in (failed, interrupted)]
    for _, told, _ in (failed, interrupted):
        outcomes = told.rpartition("Model: ")[2]
        counts = dict(re.findall(r"^  (\w[\w ]+): (\d+) \(", outcomes, re.MULTILINE))
        assert {done, "Not confirmed"} == counts.keys()
        assert 800 == sum(map(int, counts.values()))


@pytest.mark.usefixtures("bucket")
def test_forgets_records_and_frees_nothing(run: Run) -> None:
    put_with_artifacts([1, 2, 3], size_bytes=SIZE, created_at={"N": "1"})
    put_with_artifacts([4], entity="speech-team")
    put([5], artifact_uri={"N": "5"}, size_bytes={"N": "-1"})
    put([6], entity="", protected=FALSE)
    put_with_artifacts([7], protected=WRONG_TYPE)
    put_with_artifacts([9])
    stream_event()
    left = {step: record for step, record in stored().items() if step in "79"}

    result = run("forget", "1-8", YES)

    plan = report(
        "To forget: 6 (1-6)",
        "First and last step: 1, 6",
        "Recorded size: 4.5 MB (known for 3 of 6)",
        "Owners: 'vision-team' (4), 'speech-team' (1), nobody (1)",
        "Protected, so left: 1 (7)",
        "No record: 1 (8)",
    )
    outcome = report("Forgotten: 6 (1-6)", "Protected, so left: 1 (7)", "No record: 1 (8)")
    assert Result(1, plan + outcome, "") == result
    assert left == stored()
    event = stream_event()
    assert 6 == [record["eventName"] for record in event["Records"]].count("REMOVE")
    queue.lambda_handler(event, None)  # type: ignore[arg-type]
    assert [] == queue_events()


def test_forgets_all_steps_also_those_that_are_not_integers(run: Run) -> None:
    put([1, 2])
    for number in ("-1.5", "2.25"):
        put_checkpoints(MODEL, [number], entity=ENTITY)  # type: ignore[list-item]
    put_checkpoints("another", [1], entity=ENTITY)

    assert report("Forgotten: 4 (1-2,-1.5,2.25)") in run("forget", "--all", YES).stdout
    assert {} == stored()
    assert Result(0, report("To forget: 0"), "") == run("forget", "--all")
    told = report("To forget: 0", "No record: 2 (1-2)")
    assert Result(0, told, "") == run("forget", "1,2")


@pytest.mark.parametrize("call", ["UpdateItem", "DeleteItem"])
def test_forgets_once_also_if_a_response_is_lost_or_a_run_stops_between_the_steps(
    run: Run, endpoint: Endpoint, call: str
) -> None:
    put_with_artifacts([1, 2])
    endpoint.fail(call, lose_response, reject(400, "AccessDeniedException"))

    assert 1 == run("forget", "1-2", YES).returncode
    assert 0 == run("forget", "1-2", YES).returncode
    assert {} == stored()


@pytest.mark.parametrize(
    ("call", "saved", "outcome"),
    [
        ("UpdateItem", {"artifact_uri": uri(1, "new")}, "Saved again in the meantime, so left"),
        ("DeleteItem", {"artifact_uri": uri(1, "new")}, "Saved again in the meantime, so left"),
        ("DeleteItem", {"artifact_uri": uri(1)}, "Saved again in the meantime, so left"),
        ("UpdateItem", {"artifact_uri": uri(1), "protected": TRUE}, "Protected, so left"),
        ("DeleteItem", {"artifact_uri": uri(1), "protected": WRONG_TYPE}, "Protected, so left"),
    ],
)
def test_leaves_what_is_saved_or_protected_meanwhile(
    run: Run, endpoint: Endpoint, call: str, saved: Any, outcome: str
) -> None:
    put_with_artifacts([1])
    endpoint.heal()
    endpoint.fail(call, before(lambda: put([1], **saved)))

    result = run("forget", "1", YES)

    assert (1, "") == (result.returncode, result.stderr)
    assert result.stdout.endswith(report(f"{outcome}: 1 (1)"))
    assert {"1": saved | {"entity": {"S": ENTITY}}} == stored()
    assert (call == "DeleteItem") == ("DeleteItem" in endpoint.calls)


@pytest.mark.parametrize("lost", [False, True])
def test_gives_a_record_its_artifacts_back_if_it_is_protected_between_the_steps(
    run: Run, endpoint: Endpoint, lost: bool
) -> None:
    put_with_artifacts([1], size_bytes=SIZE)
    protect = before(lambda: put([1], size_bytes=SIZE, protected=TRUE))
    if lost:
        endpoint.fail("UpdateItem", lose_response, protect)
    else:
        endpoint.fail("DeleteItem", protect)

    result = run("forget", "1", YES)

    assert result.stdout.endswith(report("Protected, so left: 1 (1)"))
    owner = {"entity": {"S": ENTITY}}
    assert {
        "1": owner | {"size_bytes": SIZE, "protected": TRUE, "artifact_uri": uri(1)}
    } == stored()


def test_says_if_another_program_deletes_the_record_first(run: Run, endpoint: Endpoint) -> None:
    put_with_artifacts([1])

    def delete() -> None:
        key = {"model_id": {"S": MODEL}, "step": {"N": "1"}}
        boto3.client("dynamodb").delete_item(TableName=os.environ["CHECKPOINTS_TABLE"], Key=key)

    endpoint.fail("UpdateItem", before(delete))

    result = run("forget", "1", YES)

    told = report("Deleted by another program in the meantime: 1 (1)")
    assert (0, True) == (result.returncode, result.stdout.endswith(told))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["1-3", DRY_RUN], 0, ""),
        (["1-4", DRY_RUN, YES], 1, ""),
        (["--all"], 1, "Error: Without a terminal, add --yes to confirm. Nothing was changed.\n"),
    ],
)
def test_changes_nothing_without_a_yes(
    run: Run, endpoint: Endpoint, arguments: list[str], code: int, message: str
) -> None:
    put_with_artifacts([1, 2])
    put([4], protected=TRUE)
    endpoint.heal()

    result = run("forget", *arguments)

    assert (code, message) == (result.returncode, result.stderr)
    assert "  To forget: 2 (1-2)\n" in result.stdout
    assert {"Query"} == set(endpoint.calls)


@pytest.mark.parametrize(
    ("answer", "left"), [("y\n", {}), ("n\n", {MODEL: {1}}), ("", {MODEL: {1}})]
)
def test_asks_on_a_terminal(
    run: Run, monkeypatch: pytest.MonkeyPatch, answer: str, left: dict[str, set[int]]
) -> None:
    put_with_artifacts([1])
    monkeypatch.setattr(io, "TextIOWrapper", Terminal)

    result = run("forget", "1", stdin=answer.encode())

    assert "Remove these records? Their artifacts stay. [y/N]: " in result.stdout
    assert left == stored_checkpoints()
    assert (0 if not left else 1 if answer else 130) == result.returncode


@pytest.mark.parametrize("arguments", [[], ["1", "--all"]])
def test_forget_does_not_guess(run: Run, endpoint: Endpoint, arguments: list[str]) -> None:
    result = run("forget", *arguments, YES)

    assert (2, "", []) == (result.returncode, result.stdout, endpoint.calls)
    assert "Use either STEPS or --all." in result.stderr
