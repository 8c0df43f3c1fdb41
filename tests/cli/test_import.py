"""The import registers the checkpoints of a bucket, each once, and none that was deleted."""

import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from unittest import mock

import boto3
import pytest
import typer
from botocore.exceptions import ClientError

from cli import terminal
from commands import BUCKET_DENIED, STACK, Result, http_server, run_on_stack
from emulators.dynamodb import put_checkpoints
from emulators.records import ARTIFACTS_BUCKET as BUCKET
from emulators.storage import clear_bucket, put_objects
from events import ENTITY
from faulty_dynamodb import CUT, Apply, Endpoint, Reply, lose_response, pass_on

SAVED = datetime(2026, 5, 1, 12, 30, tzinfo=UTC)
LATER = datetime(2026, 5, 2, tzinfo=UTC)
MAPPING = "a0000000-0000-0000-0000-000000000000"  # the id of the mapping of QueueFunction
STOPPED = "b0000000-0000-0000-0000-000000000000"  # that of ReclaimFunction, which is disabled
WAITING = (
    "Error: Messages of deleted checkpoints wait: {}. Until their storage is freed, deleted "
    "checkpoints could be registered again. {} Nothing was changed.\n"
)

type Import = Callable[..., Result]
type Records = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture
def queues(bucket: None) -> Iterator[dict[str, str]]:  # noqa: ARG001 within which SQS is emulated
    """Return the URLs of the two queues."""
    client = boto3.client("sqs")
    attributes: Any = {"DelaySeconds": "900", "VisibilityTimeout": "1800"}
    urls = {
        f"{name}Url": client.create_queue(QueueName=f"{name}-import", Attributes=attributes)[
            "QueueUrl"
        ]
        for name in ("ReclaimQueue", "DeadLetterQueue")
    }
    yield urls
    for url in urls.values():
        client.delete_queue(QueueUrl=url)


@pytest.fixture
def mapping() -> dict[str, str]:
    """Return what Lambda says about the mapping of QueueFunction. A test can change it."""
    return {"State": "Enabled", "LastProcessingResult": "OK"}


@pytest.fixture
def run(
    endpoint: Endpoint,
    queues: dict[str, str],
    mapping: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Import]:
    """Run the command on the whole bucket, without a question or a pause unless told."""

    def describe_mapping(path: str, *_: object) -> tuple[int, str]:
        stopped = {"State": "Disabled"}
        described = {MAPPING: mapping, STOPPED: stopped}[path.rpartition("/")[2]]
        return (404 if "__type" in described else 200), json.dumps(described)

    def run(
        *arguments: str,
        location: str = f"s3://{BUCKET}/",
        ask: bool = False,
        settle: str = "0s",
        has_freeing: bool = True,
        stdin: bytes = b"",
        **environment: str,
    ) -> Result:
        options = ["--entity", ENTITY, "--settle", settle, *([] if ask else ["--yes"])]
        freeing = {"ArtifactsBucketName": BUCKET, "QueueMappingId": MAPPING} | queues
        return run_on_stack(
            *("records", "import", location, *options, *arguments),
            endpoint=endpoint,
            capsys=capsys,
            outputs=freeing if has_freeing else {},
            stdin=stdin,
            AWS_ENDPOINT_URL_LAMBDA=url,
            **environment,
        )

    with http_server(describe_mapping) as url:
        yield run
    clear_bucket()


def records() -> Records:
    """Return all records."""
    items = boto3.client("dynamodb").scan(TableName=os.environ["CHECKPOINTS_TABLE"])["Items"]
    return {(item["model_id"]["S"], item["step"]["N"]): dict(item) for item in items}


def put(*keys: str, content: bytes = b"weights", saved_at: datetime = SAVED) -> None:
    put_objects(*keys, content=content, saved_at=saved_at)


def put_transformers(step: int, state: bytes | None = None, model_id: str = "run") -> None:
    """Save what Transformers writes."""
    folder = f"{model_id}/checkpoint-{step}"
    put(f"{folder}/model.safetensors", f"{folder}/optimizer.pt")
    if state is not None:
        put(f"{folder}/trainer_state.json", content=state, saved_at=LATER)


def record(model_id: str, step: int, path: str, **attributes: Any) -> dict[str, Any]:
    """Return the record of a checkpoint with one object."""
    return {
        "model_id": {"S": model_id},
        "step": {"N": str(step)},
        "entity": {"S": ENTITY},
        "artifact_uri": {"S": f"s3://{BUCKET}/{path}"},
        "size_bytes": {"N": "7"},
        "created_at": {"N": str(int(SAVED.timestamp()))},
    } | attributes


def test_shows_the_plan_and_registers_what_is_new(run: Import) -> None:
    state = {
        "best_metric": 0.2,
        "log_history": [
            {"step": 100, "loss": 0.9, "epoch": 0.5},
            {"step": 200, "loss": 0.4, "epoch": 1.0, "grad_norm": float("nan")},
            {"step": 200, "eval_loss": 0.30000000000000004, "eval_ok": True, "note": "x"},
        ],
    }
    put_transformers(200, json.dumps(state).encode())
    put("run/checkpoint-100/model.pt", "run/tmp-checkpoint-300/model.pt")
    put("run/checkpoint-400/model.pt", saved_at=datetime.now(UTC))
    put("été +%41/checkpoints/epoch=1-val_loss=-0.5-step=7.ckpt")
    lost = {"artifact_uri": {"S": f"s3://{BUCKET}/it's/1/"}}
    put_checkpoints("it's", [1, 2, 5], entity="other", **lost)
    own = {"artifact_uri": {"S": f"s3://{BUCKET}/run/checkpoint-100/"}}
    put_checkpoints("run", [100], entity="other", **own)
    before = records()

    result = run("--dry-run")

    size = 14 + len(json.dumps(state))
    shown = f"""\
MODEL NEW SIZE STEPS NAME REGISTERED LEFT OUT
run 1 {size} bytes 200 to 200 checkpoint-N/ 1 1
été +%41 1 7 bytes 7 to 7 step=N.ckpt 0 0
Left out: its newest object is younger than --min-age; it waits for the next run
1 of run, such as run/checkpoint-400/
Left out: the name is none of the known ones, or has a prefix or a suffix; name it with --pattern
1, such as run/tmp-checkpoint-300/
Registered, but without any object here. To remove these records:
checkpoints records forget --stack {STACK} 'it'"'"'s' 1-2,5
To register for the entity '{ENTITY}': 2 ({size + 7} bytes).
"""
    assert (0, "") == (result.returncode, result.stderr)
    assert words(shown) == words(result.stdout)
    assert before == records()

    result = run()

    assert words(f"{shown}Registered: 2.\n") == words(result.stdout)
    named = {"epoch": {"N": "1.0"}, "val_loss": {"N": "-0.5"}}
    logged = {
        "epoch": {"N": "1.0"},
        "eval_loss": {"N": "0.30000000000000004"},
        "loss": {"N": "0.4"},
    }
    path = "été +%41/checkpoints/epoch=1-val_loss=-0.5-step=7.ckpt"
    assert (
        before
        | {
            ("été +%41", "7"): record("été +%41", 7, path, metrics={"M": named}),
            ("run", "200"): record("run", 200, "run/checkpoint-200/", metrics={"M": logged})
            | {"size_bytes": {"N": str(size)}, "created_at": {"N": str(int(LATER.timestamp()))}},
        }
        == records()
    )

    assert f"There is nothing new to register in s3://{BUCKET}/.\n" in run().stdout


@pytest.mark.parametrize("model_id", ["it's $HOME", "-x", "a/b", "a\x1b[2J'\\\u0085b"])
def test_the_commands_that_it_shows_forget_the_records(
    run: Import,
    endpoint: Endpoint,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    model_id: str,
) -> None:
    program = "/a b/.venv/bin/checkpoints"
    gone = {"artifact_uri": {"S": f"s3://{BUCKET}/gone/"}}
    put_checkpoints(model_id, [-3, 1, 2], entity=ENTITY, **gone)
    put_checkpoints(model_id, [4], entity=ENTITY)
    monkeypatch.setattr(sys, "argv", [program])
    (shown,) = re.findall("^  (.*checkpoints'? records .*)$", run("--dry-run").stdout, re.MULTILINE)

    command, *arguments = read_as_bash(shown)
    forgotten = run_on_stack(
        arguments[0], arguments[1], "--yes", *arguments[2:], endpoint=endpoint, capsys=capsys
    )

    assert shown.isprintable()
    assert (program, 0) == (command, forgotten.returncode)
    assert [(model_id, "4")] == [*records()]


def read_as_bash(command: str) -> list[str]:
    """Return the words of a command."""
    printed = subprocess.run(  # noqa: S603 it only prints
        ["bash", "-c", f"printf '%s\\0' {command}"],  # noqa: S607
        env=os.environ | {"LC_ALL": "C.UTF-8"},
        capture_output=True,
        check=True,
    )
    return printed.stdout.decode().split("\0")[:-1]


def test_a_command_that_it_shows_is_never_too_long_for_a_terminal(run: Import) -> None:
    steps = range(10**9, 10**9 + 2_000, 2)
    uri = {"S": f"s3://{BUCKET}/gone/"}
    put_checkpoints("run", steps, entity=ENTITY, artifact_uri=uri)

    (lost,) = json.loads(run("--json", "--dry-run").stdout)["without_objects"]

    assert 3 == len(lost["commands"])
    assert max(map(len, lost["commands"])) <= 4_096
    named = [shlex.split(command)[-1] for command in lost["commands"]]
    assert ",".join(map(str, steps)) == ",".join(named)


def test_escapes_control_characters(run: Import) -> None:
    put("a\x1b[2J/checkpoint-1/m.pt", "b\x1b[2J/last.ckpt", "c\x9b2J/checkpoint-1/m.pt")

    shown = run("--dry-run").stdout

    assert all(line.isprintable() for line in shown.splitlines()), shown
    assert 2 == shown.count(r"\x1b[2J/checkpoint-1/") + shown.count(r"\x9b2J/checkpoint-1/")


def words(text: str) -> list[list[str]]:
    """Return the words of each line, because the widths of the columns do not matter."""
    return [line.split() for line in text.splitlines()]


def test_prints_only_json_if_told(run: Import) -> None:
    put("run/checkpoint-1/m.pt", "run/checkpoint-2/m.pt", "run/step-2/m.pt", "run/last.ckpt")
    put_transformers(3, b"no JSON")
    for model_id in ("run", "above"):
        uri = {"S": f"s3://{BUCKET}/{model_id}/9/"}
        put_checkpoints(model_id, [9], entity=ENTITY, artifact_uri=uri)

    result = run("--json", location=f"s3://{BUCKET}/run/")

    same = "there are several checkpoints of this model and step"
    assert 0 == result.returncode
    assert {
        "bucket": BUCKET,
        "prefix": "run/",
        "entity": ENTITY,
        "models": [
            {
                "model_id": "run",
                "new_steps": [1, 3],
                "size_bytes": 28,
                "names": ["checkpoint-N/"],
                "registered_count": 0,
                "left_out": [
                    {
                        "reason": "same_step",
                        "message": same,
                        "count": 2,
                        "example": "run/checkpoint-2/",
                    }
                ],
            }
        ],
        "not_recognised": [
            {
                "reason": "copy",
                "message": "the name is that of a copy: last, best or final",
                "count": 1,
                "example": "run/last.ckpt",
            }
        ],
        "without_objects": [
            {
                "model_id": "run",
                "steps": [9],
                "commands": ["checkpoints records forget --stack deployed run 9"],
            }
        ],
        "registered_count": 2,
        "registered_meanwhile": [],
        "deleted_meanwhile": [],
        "changed_meanwhile": [],
        "denied": [],
        "unconfirmed_count": 0,
        "warnings": [
            {
                "message": "Not a file of Transformers, so without metrics:",
                "count": 1,
                "example": "run/checkpoint-3/trainer_state.json",
            }
        ],
        "dry_run": False,
        "error": None,
    } == json.loads(result.stdout)


def test_writes_nothing_without_a_terminal_and_yes(run: Import) -> None:
    put("run/checkpoint-1/m.pt")

    result = run(ask=True)

    assert 1 == result.returncode
    assert (
        "Error: Without a terminal, add --yes to confirm. Nothing was changed.\n" == result.stderr
    )
    assert {} == records()


@pytest.mark.parametrize(
    ("answer", "code", "registered"), [(b"y\n", 0, {("run", "1")}), (b"n\n", 1, set())]
)
def test_asks_on_a_terminal(
    run: Import, answer: bytes, code: int, registered: set[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    put("run/checkpoint-1/m.pt")
    keyboard = SimpleNamespace(isatty=lambda: True)
    streams = SimpleNamespace(stdin=keyboard, stdout=sys.stdout, stderr=sys.stderr)
    monkeypatch.setattr(terminal, "sys", streams)
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    # The answer takes an hour. A checkpoint that is deleted meanwhile needs the whole pause, too.
    now = [0.0]
    confirm = typer.confirm

    def confirm_late(*arguments: Any, **others: Any) -> bool:
        now.append(3_600.0)
        return confirm(*arguments, **others)

    monkeypatch.setattr(time, "monotonic", lambda: now[-1])
    monkeypatch.setattr(typer, "confirm", confirm_late)

    result = run("--json", ask=True, stdin=answer, settle="60s")

    assert [60.0] * len(registered) == pauses
    assert code == result.returncode
    assert result.stderr.startswith("Register them? [y/N]:")
    assert len(registered) == json.loads(result.stdout)["registered_count"]
    assert registered == records().keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((f"s3://{BUCKET}/",), "Messages of deleted checkpoints wait: 1 in ReclaimQueue."),
        ((f"s3://{BUCKET}/", "--dry-run"), "Messages of deleted checkpoints wait: 1 in"),
        (("s3://other-bucket/",), "The stack frees storage only in"),
    ],
)
def test_json_tells_why_nothing_was_done(
    run: Import, queues: dict[str, str], arguments: tuple[str, ...], message: str
) -> None:
    boto3.client("sqs").send_message(QueueUrl=queues["ReclaimQueueUrl"], MessageBody="{}")
    location, *others = arguments

    result = run("--json", *others, location=location)

    told = json.loads(result.stdout)
    assert (1, f"Error: {told['error']}\n") == (result.returncode, result.stderr)
    assert told["error"].startswith(message)
    assert ([], 0) == (told["models"], told["registered_count"])


# Nothing comes back.


@pytest.mark.parametrize(
    ("queue", "state", "when"),
    [
        ("ReclaimQueue", "waiting", "Try again in 16 minutes."),
        ("ReclaimQueue", "delayed", "Try again in 16 minutes."),
        ("ReclaimQueue", "in flight", "Try again in 31 minutes."),
        (
            "DeadLetterQueue",
            "waiting",
            "Try again when DeadLetterQueue is empty: see ReclaimFailedAlarm in the docs.",
        ),
    ],
)
def test_writes_nothing_while_a_message_waits(
    run: Import, queues: dict[str, str], queue: str, state: str, when: str
) -> None:
    """Its checkpoint is deleted, but the objects are still there."""
    put("run/checkpoint-1/m.pt")
    client, url = boto3.client("sqs"), queues[f"{queue}Url"]
    delay = 900 if state == "delayed" else 0
    client.send_message(QueueUrl=url, MessageBody="{}", DelaySeconds=delay)
    if state == "in flight":
        client.receive_message(QueueUrl=url)

    result = run()

    assert Result(1, "", WAITING.format(f"1 in {queue}", when)) == result
    assert {} == records()

    # A dry run shows the plan, and says that it is not the last word.
    result = run("--dry-run")
    assert 1 == result.returncode
    assert "To register for the entity 'vision-team': 1 (7 bytes).\n" in result.stdout
    assert f"{when} A run that is not a dry run would write nothing.\n" in result.stderr


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"State": "Disabled"}, "is Disabled"),
        ({"State": "Updating"}, "is Updating"),
        (
            {"LastProcessingResult": "PROBLEM: Function call failed"},
            "reports 'PROBLEM: Function call failed'",
        ),
        ({"LastProcessingResult": "No records processed"}, None),
        ({"LastProcessingResult": "OK - 3 records"}, None),
    ],
)
def test_writes_nothing_unless_queuefunction_works(
    run: Import, mapping: dict[str, str], changes: dict[str, str], problem: str | None
) -> None:
    """Otherwise, there may be deletions whose message is not sent yet."""
    put("run/checkpoint-1/m.pt")
    mapping |= changes

    result = run()

    assert int(bool(problem)) == result.returncode
    assert (0 if problem else 1) == len(records())
    if problem:
        assert (
            f"Error: The event source mapping of QueueFunction {problem}, so there may be "
            "deletions without a message. Solve this, wait until QueueFunction has read its "
            "stream, and try again. Nothing was changed.\n"
        ) == result.stderr


def test_says_if_reclaimfunction_is_stopped(
    run: Import, queues: dict[str, str], mapping: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it does not help to wait. The runbook for a mistaken deletion stops it."""
    monkeypatch.setitem(queues, "ReclaimMappingId", STOPPED)
    boto3.client("sqs").send_message(QueueUrl=queues["ReclaimQueueUrl"], MessageBody="{}")

    assert mapping["State"] == "Enabled"
    when = (
        "The event source mapping of ReclaimFunction is Disabled, so nothing is freed. Enable it, "
        "and try again when ReclaimQueue is empty."
    )
    assert Result(1, "", WAITING.format("1 in ReclaimQueue", when)) == run()


def test_names_the_queue_that_it_cannot_read(
    run: Import, queues: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{queues['DeadLetterQueueUrl']}-absent"
    monkeypatch.setitem(queues, "DeadLetterQueueUrl", url)

    result = run()

    assert 1 == result.returncode
    assert f"Error: SQS does not describe DeadLetterQueue ({url}). " in result.stderr


def test_names_the_mapping_that_it_cannot_read(run: Import, mapping: dict[str, str]) -> None:
    mapping["__type"] = "ResourceNotFoundException"

    result = run()

    assert 1 == result.returncode
    told = f"Error: Lambda does not describe the event source mapping {MAPPING} of QueueFunction. "
    assert told in result.stderr


def test_looks_again_after_the_pause(
    run: Import, queues: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message of a deletion right before the table was read is counted up to a minute later."""
    put("run/checkpoint-1/m.pt")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        boto3.client("sqs").send_message(QueueUrl=queues["ReclaimQueueUrl"], MessageBody="{}")

    monkeypatch.setattr(time, "sleep", pause)

    result = run(settle="60s")

    assert 1 == result.returncode
    assert "Waiting 60 s for the counts of the queues.\nError: Messages of deleted" in result.stderr
    assert [pytest.approx(60, abs=5)] == pauses
    assert {} == records()


def test_does_not_wait_if_there_is_nothing_to_write(
    run: Import, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("run/checkpoint-1/m.pt")
    put_checkpoints("run", [1], entity=ENTITY)
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits"))

    assert Result(0, mock.ANY, "") == run(settle="60s")


def test_does_not_register_what_is_freed_while_it_asks(
    run: Import, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message came after the first look at the queue, and is done before the second."""
    put("run/checkpoint-1/m.pt", "run/checkpoint-2/m.pt")

    def free(_: float) -> None:
        clear_bucket()
        put("run/checkpoint-2/m.pt")

    monkeypatch.setattr(time, "sleep", free)

    result = run(settle="60s")

    assert 0 == result.returncode
    assert "Registered: 1.\nDeleted meanwhile, so not registered: 1.\n" in result.stdout
    assert {("run", "2")} == records().keys()


def test_does_not_register_what_changes_while_it_asks(
    run: Import, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(*(f"run/checkpoint-{step}/m.pt" for step in (1, 2, 3)))

    def save(_: float) -> None:
        put("run/checkpoint-1/m.pt", saved_at=LATER)
        put("run/checkpoint-2/m.pt", content=b"more weights")

    monkeypatch.setattr(time, "sleep", save)

    result = run(settle="60s")

    assert 0 == result.returncode
    told = "Registered: 1.\nChanged meanwhile, so they wait for the next run: 2.\n"
    assert result.stdout.endswith(told)
    assert {("run", "3")} == records().keys()


def test_needs_a_stack_whose_queues_it_can_find(run: Import, queues: dict[str, str]) -> None:
    """An older version of the template freed storage without queues."""
    del queues["DeadLetterQueueUrl"]

    told = "Error: The stack has no output DeadLetterQueueUrl. Deploy a newer version first.\n"
    assert Result(1, "", told) == run()


@pytest.mark.parametrize("bucket", [BUCKET, None])
def test_refuses_a_bucket_in_which_nothing_is_freed(
    run: Import, bucket: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    boto3.client("s3").create_bucket(Bucket="other-bucket")
    boto3.client("s3").put_object(Bucket="other-bucket", Key="run/checkpoint-1/m.pt", Body=b"x")
    where: Any = {"location": "s3://other-bucket/", "has_freeing": bool(bucket)}

    result = run("--min-age", "0s", **where)

    which = f"frees storage only in {bucket!r}" if bucket else "frees no storage"
    assert 1 == result.returncode
    assert f"Error: The stack {which}, not in 'other-bucket'. The objects of a" in result.stderr
    assert {} == records()

    # Without queues, there is nothing to wait for.
    result = run("--min-age", "0s", "--without-freeing", settle="60s", **where)
    assert Result(0, mock.ANY, "Waiting" if bucket else "") == result._replace(
        stderr=result.stderr[:7]
    )
    ((_, saved),) = records().items()
    assert {"S": "s3://other-bucket/run/checkpoint-1/"} == saved["artifact_uri"]


# Never changes a record, and can be interrupted.


def test_does_not_take_an_empty_response_for_an_empty_bucket(run: Import) -> None:
    put_checkpoints("run", [1], entity=ENTITY, artifact_uri={"S": f"s3://{BUCKET}/run/1/"})

    with http_server(lambda *_: (200, "")) as url:
        result = run(AWS_ENDPOINT_URL_S3=url)

    told = "Error: S3 returned a list of objects without a body. Run the command again.\n"
    assert Result(1, "", told) == result


@pytest.mark.parametrize(
    ("head", "status", "message"),
    [
        (403, 403, BUCKET_DENIED.format(BUCKET)),
        (404, 404, f"There is no bucket '{BUCKET}' in S3."),
        (200, 403, f"S3 does not list s3://{BUCKET}/. An error occurred (403)"),
    ],
)
def test_names_the_bucket_that_it_cannot_list(
    run: Import, head: int, status: int, message: str
) -> None:
    def respond(path: str, *_: object) -> tuple[int, str]:
        return (status if "list-type" in path else head), ""

    with http_server(respond) as url:
        result = run(AWS_ENDPOINT_URL_S3=url)

    assert 1 == result.returncode
    assert result.stderr.startswith(f"Error: {message}")


def test_reads_all_records_as_they_are_now(run: Import, endpoint: Endpoint) -> None:
    """A record in another bucket has other objects."""
    put("run/checkpoint-1/m.pt")
    uri = {"S": "s3://other-bucket/run/checkpoint-1/"}
    put_checkpoints("other", [1], entity=ENTITY, artifact_uri=uri)

    assert 0 == run().returncode

    assert {("run", "1"), ("other", "1")} == records().keys()
    (scan,) = (each for each in endpoint.requests if "ProjectionExpression" in each)
    assert scan["ConsistentRead"]


def test_the_marker_of_a_folder_counts_if_it_has_content(run: Import) -> None:
    put("run/checkpoint-1/", "run/checkpoint-1/m.pt", "run/9/")
    put("run/8/", content=b"")
    for step in (8, 9):
        uri = {"S": f"s3://{BUCKET}/run/{step}/"}
        put_checkpoints("run", [step], entity=ENTITY, artifact_uri=uri)

    (lost,) = json.loads(run("--json").stdout)["without_objects"]

    assert [8] == lost["steps"]
    assert {"N": "14"} == records()["run", "1"]["size_bytes"]


@pytest.mark.parametrize("is_lost", [False, True])
def test_leaves_a_record_that_appears_meanwhile(
    run: Import, endpoint: Endpoint, is_lost: bool
) -> None:
    """Also if a second attempt finds it, because the first had no response."""
    put("run/checkpoint-1/m.pt")
    own = {"note": {"S": "of the training job"}}

    def save(_request: dict[str, Any], apply: Apply) -> Reply:
        put_checkpoints("run", [1], entity="other", **own)
        return CUT if is_lost else apply()

    endpoint.fail("PutItem", save)

    result = run()

    assert 0 == result.returncode
    assert "Registered: 0.\nRegistered meanwhile, not by this run: 1.\n" in result.stdout
    assert [own["note"]] == [each["note"] for each in records().values()]


def test_counts_a_record_whose_response_was_lost(run: Import, endpoint: Endpoint) -> None:
    put("run/checkpoint-1/m.pt")
    endpoint.fail("PutItem", lose_response)

    assert "Registered: 1.\n" in run().stdout
    assert [record("run", 1, "run/checkpoint-1/")] == [*records().values()]


def test_a_second_run_finishes_what_the_first_could_not(run: Import, endpoint: Endpoint) -> None:
    put(*(f"run/checkpoint-{step}/m.pt" for step in range(100)))

    def interrupt(_request: dict[str, Any], apply: Apply) -> Reply:
        os.kill(os.getpid(), signal.SIGINT)
        return apply()

    endpoint.fail("PutItem", pass_on, pass_on, interrupt)
    result = run()

    # The pool does not wait for a thread that was just being started.
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join()
    stored = records()
    assert 130 == result.returncode
    assert "It is safe to run the command again.\n" in result.stderr
    (told,) = map(int, re.findall(r"^Registered: (\d+)\.$", result.stdout, re.MULTILINE))
    assert 0 < told < 100
    assert 0 <= len(stored) - told <= 1
    assert f"Not confirmed to be registered: {100 - told}.\n" in result.stdout

    result = run()
    assert (0, 100) == (result.returncode, len(records()))
    assert f"Registered: {100 - len(stored)}.\n" in result.stdout


def test_runs_at_the_same_time_register_each_checkpoint_once(
    run: Import, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("run/checkpoint-1/m.pt", "run/checkpoint-2/m.pt")
    others: list[Result] = []
    # The other one reads, lists and writes while this one waits.
    monkeypatch.setattr(time, "sleep", lambda _: others.append(run("--json")))

    result = run("--json", settle="60s")

    assert [2] == [json.loads(other.stdout)["registered_count"] for other in others]
    told = json.loads(result.stdout)
    meanwhile = [{"model_id": "run", "step": step} for step in (1, 2)]
    assert (0, meanwhile) == (told["registered_count"], told["registered_meanwhile"])
    assert 2 == len(records())


# Metrics.

HUGE = 10**39 + 1


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (
            {"a": 1, "b": -2.5, "c": 1e-130, "d": 9.5e125, "é": 0, "e": -0.0, "f": 10**37},
            {"a": "1", "b": "-2.5", "c": "1E-130", "d": "9.5E+125", "é": "0", "e": "-0.0"}
            | {"f": str(10**37)},
        ),
        ({"a": 1e-131, "b": 1e126, "c": 10**38 + 1, "d": HUGE, "e": 1e308, "f": 5e-324}, {}),
        ({"a": True, "b": None, "c": "1", "d": [1], "e": {"x": 1}, "": 1, "\ud800": 1}, {}),
        ({"a": math.nan, "b": math.inf, "c": -math.inf}, {}),
    ],
)
def test_records_finite_numbers_that_dynamodb_can_hold(
    run: Import, entry: dict[str, Any], expected: dict[str, str]
) -> None:
    put_transformers(5, json.dumps({"log_history": [{"step": 5} | entry]}).encode())

    assert 0 == run().returncode

    (saved,) = records().values()
    numbers = saved.get("metrics", {"M": {}})["M"]
    assert expected == {name: number["N"] for name, number in numbers.items()}


@pytest.mark.parametrize(
    ("content", "warning"),
    [
        (b"", "Not a file of Transformers"),
        (b"{", "Not a file of Transformers"),
        (b"\xff\xfe\x00", "Not a file of Transformers"),
        (b"[]", "Not a file of Transformers"),
        (b'{"log_history": 5}', "Not a file of Transformers"),
        (b"[" * 100_000, "Not a file of Transformers"),
        (
            b'{"log_history": [{"step": 5, "x": ' + b"1" * 5_000 + b"}]}",
            "Not a file of Transformers",
        ),
        (b'{"log_history": [1, {"step": "5"}, {"loss": 1}]}', None),
        (b" " * 20_000_000, "Over 16.0 MB"),
    ],
)
def test_a_broken_or_huge_file_is_a_warning(
    run: Import, content: bytes, warning: str | None
) -> None:
    put_transformers(5, content)

    result = run()

    key = "run/checkpoint-5/trainer_state.json"
    told = f"Warning: {warning}, so without metrics: 1, such as {key}\n"
    assert (0, told if warning else "") == (result.returncode, result.stderr)
    assert [{"N": str(14 + len(content))}] == [each["size_bytes"] for each in records().values()]
    assert all("metrics" not in each for each in records().values())


def test_a_record_has_only_as_many_metrics_as_it_can_hold(run: Import) -> None:
    names = {f"{'m' * 100}-{number}": number for number in range(10_000)}
    put_transformers(5, json.dumps({"log_history": [{"step": 5} | names]}).encode())

    result = run()

    assert 0 == result.returncode
    assert "Warning: It has too many metrics for one record, so some are left" in result.stderr
    (saved,) = records().values()
    assert 500 < len(saved["metrics"]["M"]) < 1_000


def test_reads_no_more_than_the_limit_of_a_file_that_grew(
    run: Import, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = "run/checkpoint-5/trainer_state.json"
    put("run/checkpoint-5/model.safetensors", saved_at=LATER)
    put(state, content=b"{}")
    monkeypatch.setattr(time, "sleep", lambda _: put(state, content=b" " * 20_000_000))

    result = run(settle="60s")

    assert 0 == result.returncode
    told = f"Warning: Over 16.0 MB, so without metrics: 1, such as {state}\n"
    assert result.stderr.endswith(told)


@pytest.mark.parametrize("code", ["AccessDenied", "403", "InvalidObjectState", "InvalidTag"])
def test_does_not_register_what_it_may_not_read(
    run: Import, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """A record is never changed, so a later run could not add them. But an archive stays one."""
    put_transformers(5, b"{}")
    put_transformers(6, b"{}")
    put("run/checkpoint-7/m.pt")

    def refuse(params: dict[str, Any], **_: object) -> None:
        if "checkpoint-5" in params["url_path"]:
            raise ClientError({"Error": {"Code": code, "Message": "No."}}, "GetObject")

    connect = boto3.client

    def connect_and_refuse(service: Any, **others: Any) -> Any:
        client = connect(service, **others)
        client.meta.events.register("before-call.s3.GetObject", refuse)
        return client

    monkeypatch.setattr(boto3, "client", connect_and_refuse)
    result = run("--json")

    key = "run/checkpoint-5/trainer_state.json"
    steps = {step for _, step in records()}
    told = json.loads(result.stdout)
    match code:
        case "InvalidObjectState":
            assert (0, {"5", "6", "7"}) == (result.returncode, steps)
            assert "Archived or deleted" in result.stderr
        case "InvalidTag":
            assert (1, True) == (result.returncode, "5" not in steps)
            assert result.stderr.endswith("Error: " + told["error"] + "\n")
        case _:
            assert (1, {"6", "7"}) == (result.returncode, steps)
            assert ([key], 0) == (told["denied"], told["unconfirmed_count"])
            assert f"Not registered, because a file is denied: 1.\n  {key}\n" in result.stderr
            assert result.stderr.endswith(f"Error: {told['error']}\n")
            assert told["error"].startswith("S3 denies s3:GetObject on these files: 1. Allow it, ")
