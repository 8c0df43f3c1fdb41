"""The restore command copies records back, by the log or by a list of steps."""

import json
import os
import re
import signal
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest import mock

import boto3
import pytest

from checkpoints.api import audit
from cli import artifact_recovery
from commands import LOG_GROUP, STACK, Delete, Result, Run, gateway, log, run_on_stack
from emulators.dynamodb import put_checkpoints, put_token, stored_checkpoints
from emulators.records import Attribute
from events import ENTITY, MODEL, TOKEN
from faulty_dynamodb import Apply, Endpoint, Fault, Reply, lose_response, pass_on, reject

RESTORED = "restored-checkpoints"
HEADLINE = f"Model: '{MODEL}'\nFrom: {RESTORED}\nTo: CheckpointsTable\n"
SEARCHING = f"Searching {LOG_GROUP}\n"
SAVED_AGAIN = "Saved again after the deletion, so left"
REMINDER = "Their artifacts may have been deleted. To recover them too, add --artifacts.\n"
NOTHING = "The request deleted nothing, so there is nothing to copy back.\n"

type Records = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="session")
def _restored_table(endpoint: Endpoint) -> None:  # noqa: ARG001 within which the tables are
    client = boto3.client("dynamodb")
    own = client.describe_table(TableName=os.environ["CHECKPOINTS_TABLE"])["Table"]
    client.create_table(
        TableName=RESTORED,
        KeySchema=own["KeySchema"],
        AttributeDefinitions=own["AttributeDefinitions"],
        BillingMode="PAY_PER_REQUEST",
    )


@pytest.fixture
def run(_restored_table: None, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command, with the restored table unless another is named."""

    def run(*arguments: str, source: str = RESTORED, bucket: str | None = None) -> Result:
        outputs = {"ArtifactsBucketName": bucket} if bucket else {}
        arguments = ("--from", source, *arguments)
        return run_on_stack(
            "restore", *arguments, endpoint=endpoint, capsys=capsys, outputs=outputs
        )

    return run


def logged(request: str) -> list[str]:
    """Return the lines of a request."""
    events = boto3.client("logs").filter_log_events(logGroupName=LOG_GROUP)["events"]
    return [event["message"] for event in events if request in event["message"]]


def put_restored(steps: Iterable[int], *, entity: str = ENTITY, **attributes: Attribute) -> None:
    """Save checkpoints in the restored table alone."""
    with mock.patch.dict(os.environ, CHECKPOINTS_TABLE=RESTORED):
        put_checkpoints(MODEL, steps, entity=entity, **attributes)


def put_both(steps: Iterable[int], **attributes: Attribute) -> None:
    """Save the same checkpoints in both tables."""
    put_checkpoints(MODEL, steps, entity=ENTITY, **attributes)
    put_restored(steps, entity=ENTITY, **attributes)


def report(*lines: str, headline: str = HEADLINE) -> str:
    """Return the output of the command: a headline, and these lines below it."""
    return headline + "".join(f"  {line}\n" for line in lines)


def all_records(table: str = "CheckpointsTable") -> Records:
    """Return all records of a table."""
    pages = boto3.client("dynamodb").get_paginator("scan").paginate(TableName=table)
    items = [item for page in pages for item in page["Items"]]
    return {(item["model_id"]["S"], item["step"]["N"]): item for item in items}


def process_half(request: dict[str, Any], apply: Apply) -> Reply:
    """Leave every second key unprocessed, as DynamoDB does when it is throttled."""
    ((table, asked),) = request["RequestItems"].items()
    left = asked["Keys"][::2]
    response = json.loads(apply().body)
    response["Responses"][table] = [
        item
        for item in response["Responses"][table]
        if {"model_id": item["model_id"], "step": item["step"]} not in left
    ]
    response["UnprocessedKeys"] = {table: asked | {"Keys": left}}
    return Reply(200, json.dumps(response).encode())


def creating(_request: dict[str, Any], apply: Apply) -> Reply:
    """Describe a table as not yet complete."""
    return Reply(200, apply().body.replace(b'"ACTIVE"', b'"CREATING"'))


def restored_to(seconds: int) -> Fault:
    """Describe a table as restored to this time."""

    def fault(_request: dict[str, Any], apply: Apply) -> Reply:
        description = json.loads(apply().body)
        summary = {"RestoreDateTime": seconds, "RestoreInProgress": False}
        description["Table"]["RestoreSummary"] = summary
        return Reply(200, json.dumps(description).encode())

    return fault


def interrupt(_request: dict[str, Any], apply: Apply) -> Reply:
    """Press Ctrl-C during a request."""
    os.kill(os.getpid(), signal.SIGINT)
    return apply()


def test_copies_whole_records_that_a_request_deleted(run: Run, delete: Delete) -> None:
    everything: Any = {
        "artifact_uri": {"S": "s3://models/été/模型"},
        "loss": {"N": "0.12345678901234567890123456789012345678"},
        "weights": {"B": b"\x00\xff"},
        "tags": {"SS": ["a", "b"]},
        "ranks": {"NS": ["1", "2"]},
        "blobs": {"BS": [b"1", b"2"]},
        "metrics": {"M": {"nested": {"L": [{"BOOL": True}, {"NULL": True}, {"S": ""}]}}},
    }
    put_both(range(1, 60), **everything)
    before = all_records()
    request = delete([*range(1, 50), 999])
    assert {MODEL: set(range(50, 60))} == stored_checkpoints()

    told = report("Copied back: 49 (1-49)") + REMINDER
    assert Result(0, told, SEARCHING) == run("--request", request)
    assert before == all_records()

    # DynamoDB can return sets in any order.
    put_checkpoints(MODEL, [1], entity=ENTITY, **everything | {"tags": {"SS": ["b", "a"]}})
    assert Result(0, report("Already there: 49 (1-49)"), SEARCHING) == run("--request", request)


def test_copies_the_steps_of_a_list(run: Run) -> None:
    most, big = 10**38 - 1, 10**40
    put_restored([-7, -6, 0, 1, most, big])
    put_checkpoints(MODEL, [3], entity=ENTITY)

    result = run("--model", MODEL, f"--steps=-7--5, 0,2-3,{most},{big}")

    told = report(
        f"Copied back: 5 (-7--6,0,{most},{big})",
        f"{SAVED_AGAIN}: 1 (3)",
        "Not in the restored table (restore it to an earlier time, if they existed): 2 (-5,2)",
    )
    assert Result(1, told, "") == result
    assert {MODEL: {-7, -6, 0, 3, most, big}} == stored_checkpoints()


def test_leaves_what_is_saved_again_or_of_another_entity_also_in_a_second_run(
    run: Run, delete: Delete
) -> None:
    put_both(range(4))
    put_restored([3], entity="speech-team")
    request = delete([0, 1, 2, 3])
    put_checkpoints(MODEL, [1], entity=ENTITY, notes={"S": "saved anew"})
    others = (
        f"{SAVED_AGAIN}: 1 (1)",
        "Owned by another entity in the restored table, so not copied: 1 (3)",
    )

    told = report("Copied back: 2 (0,2)", *others)
    assert Result(1, told, SEARCHING) == run("--request", request)
    after = all_records()
    assert {MODEL: {0, 1, 2}} == stored_checkpoints()
    assert {"S": "saved anew"} == after[(MODEL, "1")]["notes"]

    told = report("Already there: 2 (0,2)", *others)
    assert Result(1, told, SEARCHING) == run("--request", request)
    assert after == all_records()


def test_leaves_what_is_saved_while_it_runs(run: Run, endpoint: Endpoint) -> None:
    put_restored([1])

    def save_first(_request: dict[str, Any], apply: Apply) -> Reply:
        put_checkpoints(MODEL, [1], entity=ENTITY, notes={"S": "saved anew"})
        return apply()

    endpoint.fail("PutItem", save_first)

    assert Result(0, report(f"{SAVED_AGAIN}: 1 (1)"), "") == run("--model", MODEL, "--steps", "1")
    assert {"S": "saved anew"} == all_records()[(MODEL, "1")]["notes"]


def test_copies_what_may_have_been_deleted(run: Run, delete: Delete, endpoint: Endpoint) -> None:
    put_both(range(110))
    before = all_records()
    endpoint.fail("TransactWriteItems", pass_on)
    endpoint.keep_failing("TransactWriteItems", lose_response)
    request = delete(list(range(110)))
    endpoint.heal()
    assert {} == stored_checkpoints()

    assert Result(0, report("Copied back: 110 (0-109)"), SEARCHING) == run("--request", request)
    assert before == all_records()


def test_reads_all_lines_of_this_request_once_on_all_pages_of_the_log(
    run: Run, delete: Delete
) -> None:
    """CloudWatch can return a line twice. A caller can choose its correlation id."""
    put_both(range(0, 60, 2))
    before = all_records()
    with mock.patch.object(audit, "MAX_RANGES_BYTES", 30):
        request = delete(list(range(0, 60, 2)))
    put_both([1])
    delete([1], **gateway(request))
    log(logged(request))
    session = boto3.Session()
    pages: list[object] = []

    def turn(params: dict[str, Any], **_: object) -> None:
        params["limit"] = 2
        pages.append(params)

    session.events.register("provide-client-params.cloudwatch-logs.FilterLogEvents", turn)
    with mock.patch.object(boto3, "DEFAULT_SESSION", session):
        code, _, stderr = run("--request", request)

    assert 0 == code
    assert f"Other requests have {request} as their correlation_id" in stderr
    assert len(pages) > 2
    assert before == all_records()


def test_a_dry_run_only_reports(run: Run, endpoint: Endpoint) -> None:
    put_restored([2])
    put_both([3])
    before = all_records()
    endpoint.heal()

    told = report(
        "Would be copied back: 1 (2)",
        "Already there: 1 (3)",
        "Not in the restored table (restore it to an earlier time, if they existed): 1 (4)",
    )
    assert Result(1, told, "") == run("--model", MODEL, "--steps", "2-4", "--dry-run")
    assert before == all_records()
    assert {"DescribeTable", "DescribeTimeToLive", "BatchGetItem"} == set(endpoint.calls)


def test_copies_what_several_requests_deleted_each_with_its_own_report(
    run: Run, delete: Delete
) -> None:
    """And fails if it cannot restore what one of them deleted."""
    put_both([1, 2, 3])
    put_checkpoints(MODEL, [4], entity=ENTITY)
    first, second, third = delete([2, 4]), delete([3]), delete([99])

    result = run("--request", first, "--request", second, "--request", first, "--request", third)

    missing = "Not in the restored table (restore it to an earlier time, if they existed): 1 (4)"
    told = (
        f"Request: {first}\n{report('Copied back: 1 (2)', missing)}"
        f"Request: {second}\n{report('Copied back: 1 (3)')}"
        f"Request: {third}\n{NOTHING}"
    )
    assert Result(1, told, SEARCHING * 3) == result
    assert {MODEL: {1, 2, 3}} == stored_checkpoints()


def test_copies_what_a_request_deleted_by_the_id_in_the_header_of_its_response(
    run: Run, delete: Delete
) -> None:
    """Requests that deleted nothing can have the same id, also without a token."""
    put_both([1, 2])
    before = all_records()
    request = str(uuid.uuid4())
    for others in ({"token": None}, {"body": "{}"}, {"body": '{"steps":[1],"dry_run":true}'}):
        delete(**others, **gateway(request))
    delete([1, 2], **gateway(request))
    delete([99], **gateway(request))
    put_checkpoints(request, [7], entity=ENTITY)
    delete([7], model_id=request)  # another text of the line has the id

    assert Result(0, report("Copied back: 2 (1-2)"), SEARCHING) == run("--request", request)
    assert before == all_records()


def test_copies_nothing_if_callers_chose_the_same_id(run: Run, delete: Delete) -> None:
    put_both([1])
    put_restored([2])
    put_checkpoints(MODEL, [2], entity="speech-team")
    put_token("other", entity="speech-team")
    shared, other = str(uuid.uuid4()), str(uuid.uuid4())
    one = delete([1], **gateway(shared))
    two = delete([2], token="other", **gateway(shared))
    put_both([3])
    delete([3], **gateway(other))

    code, stdout, stderr = run("--request", other, "--request", shared)

    assert (1, "", {}) == (code, stdout, stored_checkpoints())
    time_of = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    assert re.fullmatch(
        rf"{2 * SEARCHING}Error: Several requests have the correlation_id {shared}, because a "
        r"caller can choose it\. Name the request by its function_request_id:\n"
        rf"  {one}  {time_of}  {ENTITY}  {TOKEN} \([0-9a-f]{{8}}\)\n"
        rf"  {two}  {time_of}  speech-team  other \([0-9a-f]{{8}}\)\n",
        stderr,
    )


@pytest.mark.parametrize("chosen", ["gateway-request-1", "1" * 31, "\x1b[31m"])
def test_refuses_an_id_that_is_not_a_uuid(run: Run, chosen: str) -> None:
    code, stdout, stderr = run("--request", chosen)

    assert (2, "") == (code, stdout)
    told = " ".join(stderr.split())
    assert f"{chosen!r} is not a UUID." in told
    assert "use the function_request_id" in told


def test_copies_nothing_if_one_of_several_requests_is_unknown(run: Run, delete: Delete) -> None:
    put_both([1])

    result = run("--request", delete([1]), "--request", str(uuid.UUID(int=1)))

    assert (1, "", {}) == (result.returncode, result.stdout, stored_checkpoints())


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ({"token": None}, ""),
        ({"body": "{}"}, ""),
        ({}, ""),
        ({"body": '{"steps": [2], "dry_run": true}'}, "The request {} was a dry run.\n"),
    ],
    ids=["refused", "invalid", "not found", "dry run"],
)
def test_copies_nothing_if_nothing_was_deleted(
    run: Run, delete: Delete, bucket: str, event: Any, told: str
) -> None:
    put_both([2])
    request = delete([1], **event)

    result = run("--request", request, "--artifacts", bucket=bucket)

    assert Result(0, told.format(request) + NOTHING, SEARCHING) == result


def test_searches_the_log_from_the_time_that_the_table_was_restored_to(
    run: Run, delete: Delete, endpoint: Endpoint
) -> None:
    put_both([1])
    request = delete([1])
    log([f"REPORT RequestId: {request} Duration: 1 ms", f'["{request}"]'])
    now = int(time.time())

    endpoint.fail("DescribeTable", restored_to(now + 60))
    later = run("--request", request)
    endpoint.fail("DescribeTable", restored_to(now - 60))
    earlier = run("--request", request)

    assert (1, "") == (later.returncode, later.stdout)
    assert (
        f"Error: {LOG_GROUP} shows no line with the function_request_id or the correlation_id "
        f"{request} since "
        f"{datetime.fromtimestamp(now + 60, UTC):%Y-%m-%d %H:%M} UTC. "
    ) in later.stderr
    assert Result(0, report("Copied back: 1 (1)"), SEARCHING) == earlier


@pytest.mark.parametrize(("lost", "left"), [(0, 4), (1, 2)], ids=["outcome", "rest of the steps"])
def test_copies_what_the_log_has_and_says_if_it_is_incomplete(
    run: Run, delete: Delete, lost: int, left: int
) -> None:
    put_both([2, 4])
    with mock.patch.object(audit, "MAX_RANGES_BYTES", 10):
        lines = logged(delete([2, 4]))
    del lines[lost]
    request = str(uuid.uuid4())
    id_of_request = '(?<="function_request_id":")[^"]*'
    log([re.sub(id_of_request, request, line) for line in lines])

    result = run("--request", request)

    assert (1, report(f"Copied back: 1 ({left})")) == (result.returncode, result.stdout)
    assert f"The log does not show the whole request {request} yet." in result.stderr
    assert {MODEL: {left}} == stored_checkpoints()


@pytest.fixture
def expire(_restored_table: None) -> Iterator[None]:
    """Let time to live delete records of the stack's table by an attribute of its own name."""
    table, attribute = "CheckpointsTable", "delete_after"
    client = boto3.client("dynamodb")
    on: Any = {"AttributeName": attribute, "Enabled": True}
    client.update_time_to_live(TableName=table, TimeToLiveSpecification=on)
    yield
    off: Any = {"AttributeName": attribute, "Enabled": False}
    client.update_time_to_live(TableName=table, TimeToLiveSpecification=off)


NOW = int(time.time())
EXPIRIES: dict[int, Any] = {
    1: {"N": str(NOW - 60)},
    2: {"N": str(NOW + 3_600)},
    3: {"S": str(NOW - 60)},  # DynamoDB ignores other types
    4: {"N": f"{NOW - 60}.5"},
}
DROPPED = (
    "  Without their delete_after, which has passed, so that time to live does not delete them: "
    "2 (1,4)"
)


@pytest.mark.usefixtures("expire")
def test_drops_an_expiry_that_would_delete_the_record_again(run: Run, bucket: str) -> None:
    others: Any = {"artifact_uri": {"S": f"s3://{bucket}/a"}, "expires_at": {"N": "1"}}
    for step, expiry in EXPIRIES.items():
        put_restored([step], delete_after=expiry, **others)
    put_artifacts(bucket, "a")
    delete_artifacts(bucket, "a")
    arguments = ("--model", MODEL, "--steps", "1-4")

    told = report("Would be copied back: 4 (1-4)", DROPPED) + REMINDER
    assert Result(0, told, "") == run(*arguments, "--dry-run")
    told = report("Copied back: 4 (1-4)", DROPPED) + REMINDER
    assert Result(0, told, "") == run(*arguments)
    expected = all_records(RESTORED)
    for step in (1, 4):
        del expected[(MODEL, str(step))]["delete_after"]
    assert expected == all_records()

    code, stdout, _ = run(*arguments, "--artifacts", bucket=bucket)

    assert (0, report("Already there: 4 (1-4)")) == (code, stdout.partition("Artifacts")[0])
    assert {"a": "weights"} == artifacts(bucket)
    assert expected == all_records()


@pytest.mark.usefixtures("expire")
def test_a_record_with_an_expiry_that_is_still_there_is_not_saved_again(
    run: Run, endpoint: Endpoint
) -> None:
    """Also if the response to the first attempt to save it was lost."""
    put_both([1], delete_after=EXPIRIES[1])
    put_restored([4], delete_after=EXPIRIES[4])
    endpoint.fail("PutItem", lose_response)

    _, stdout, _ = run("--model", MODEL, "--steps", "1,4")

    dropped = DROPPED.replace("2 (1,4)", "1 (4)")
    assert report("Copied back: 1 (4)", dropped, "Already there: 1 (1)") == stdout


@pytest.mark.parametrize("status", ["DISABLED", "DISABLING", "ENABLING"])
def test_without_time_to_live_all_attributes_stay(
    run: Run, endpoint: Endpoint, status: str
) -> None:
    """But DynamoDB can still delete records while it is being switched off."""
    put_restored([1], expires_at=EXPIRIES[1])
    description = {"TimeToLiveStatus": status, "AttributeName": "expires_at"}
    body = json.dumps({"TimeToLiveDescription": description}).encode()
    endpoint.fail("DescribeTimeToLive", lambda _request, _apply: Reply(200, body))

    assert 0 == run("--model", MODEL, "--steps", "1").returncode

    assert (status == "DISABLED") == (all_records() == all_records(RESTORED))


def test_copies_nothing_if_it_cannot_know_what_expires(run: Run, endpoint: Endpoint) -> None:
    put_restored([1])
    endpoint.fail("DescribeTimeToLive", reject(400, "AccessDeniedException"))

    message = "Error: The AWS credentials lack a permission. on command\n"
    assert Result(1, "", message) == run("--model", MODEL, "--steps", "1")
    assert {} == stored_checkpoints()


def test_tries_again_what_fails_for_a_moment(run: Run, endpoint: Endpoint) -> None:
    put_restored(range(2, 30))
    put_both([0, 1])
    endpoint.fail("PutItem", lose_response, lose_response)
    endpoint.fail("BatchGetItem", process_half, process_half, pass_on, process_half, process_half)

    told = report("Copied back: 28 (2-29)", "Already there: 2 (0-1)")
    assert Result(0, told, "") == run("--model", MODEL, "--steps", "0-29")
    assert all_records(RESTORED) == all_records()


def test_says_how_far_it_got_when_it_fails(run: Run, endpoint: Endpoint) -> None:
    put_restored(range(3))
    endpoint.fail("PutItem", pass_on, reject(400, "AccessDeniedException"))

    told = report("Copied back: 1 (0)", "Not confirmed to be there: 2 (1-2)")
    message = "Error: The AWS credentials lack a permission. on command\n"
    assert Result(1, told, message) == run("--model", MODEL, "--steps", "0-2")
    assert {MODEL: {0}} == stored_checkpoints()


def test_says_how_far_it_got_when_it_is_interrupted(run: Run, endpoint: Endpoint) -> None:
    put_restored(range(800))
    endpoint.fail("PutItem", pass_on, interrupt)

    code, stdout, stderr = run("--model", MODEL, "--steps", "0-799")

    assert (130, "It is safe to run the command again.\n\nStopped.\n") == (code, stderr)
    (copied,) = map(int, re.findall(r"^  Copied back: (\d+) \(", stdout, re.MULTILINE))
    assert 0 < copied < 800
    assert f"\n  Not confirmed to be there: {800 - copied} (" in stdout
    # The pool does not wait for a thread that was just being started.
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join()
    assert 0 <= len(all_records()) - copied <= 25  # at most the batch of that thread


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            "CheckpointsTable",
            "'CheckpointsTable' is the stack's own table. Name the restored table.",
        ),
        ("absent", "There is no table 'absent' in the region us-east-1."),
        (
            "TokensTable",
            "The table 'TokensTable' does not have the same keys as the stack's table.",
        ),
        (RESTORED, f"The table '{RESTORED}' is CREATING. Wait until it is ACTIVE."),
    ],
)
def test_refuses_a_table_that_it_cannot_restore_from(
    run: Run, endpoint: Endpoint, table: str, message: str
) -> None:
    if table == RESTORED:
        endpoint.fail("DescribeTable", creating)

    result = run("--model", MODEL, "--steps", "1", source=table)

    assert Result(1, "", f"Error: {message}\n") == result


@pytest.fixture
def bucket(_restored_table: None) -> str:
    """Return a bucket that keeps versions."""
    name = f"artifacts-{uuid.uuid4()}"
    s3().create_bucket(Bucket=name)
    versioning: Any = {"Status": "Enabled"}
    s3().put_bucket_versioning(Bucket=name, VersioningConfiguration=versioning)
    return name


@cache
def s3() -> Any:
    return boto3.client("s3")


def put_artifacts(bucket: str, *keys: str, body: str = "weights") -> None:
    for key in keys:
        s3().put_object(Bucket=bucket, Key=key, Body=body.encode())


def delete_artifacts(bucket: str, *keys: str) -> None:
    for key in keys:
        s3().delete_object(Bucket=bucket, Key=key)


def artifacts(bucket: str) -> dict[str, str]:
    """Return the content of each object by its key."""
    pages = s3().get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {
        each["Key"]: s3().get_object(Bucket=bucket, Key=each["Key"])["Body"].read().decode()
        for page in pages
        for each in page.get("Contents", [])
    }


def put_restored_with_artifacts(bucket: str, uris: dict[int, str]) -> None:
    for step, uri in uris.items():
        put_restored([step], artifact_uri={"S": uri.format(bucket)})


def artifact_report(bucket: str, *lines: str) -> str:
    return report(*lines, headline=f"Artifacts in s3://{bucket}:\n")


def run_with_artifacts(run: Run, bucket: str, *arguments: str) -> Result:
    return run("--model", MODEL, "--steps", "1-3", "--artifacts", *arguments, bucket=bucket)


def test_recovers_artifacts(run: Run, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Artifacts are recovered only for records that are the same in both tables."""
    kept = "2/a+b %20/été.bin"
    uris = {1: "s3://{}/1/", 2: "s3://{}/" + kept, 3: "s3://{}/3/"}
    put_restored_with_artifacts(bucket, uris)
    deleted = ["1/a", "1/b/c", "10/a", kept, f"{kept}2", "3/a", "4/a"]
    put_artifacts(bucket, *deleted, "1/there")
    put_artifacts(bucket, "1/a", body="trained longer")
    delete_artifacts(bucket, *deleted, "1/there")
    put_artifacts(bucket, "1/there", body="saved again")
    delete_artifacts(bucket, "1/a")  # a second delete marker
    put_checkpoints(MODEL, [3], entity=ENTITY, artifact_uri={"S": f"s3://{bucket}/3/"}, n={"S": ""})
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")
    has_artifacts = "Checkpoints with artifacts: 2 (1-2)"

    told = report("Copied back: 2 (1-2)", f"{SAVED_AGAIN}: 1 (3)")
    told += artifact_report(bucket, "Objects recovered: 3", has_artifacts)
    assert Result(0, told, "") == run_with_artifacts(run, bucket)
    assert {
        "1/a": "trained longer",
        "1/b/c": "weights",
        "1/there": "saved again",
        kept: "weights",
    } == artifacts(bucket)

    told = report("Already there: 2 (1-2)", f"{SAVED_AGAIN}: 1 (3)")
    told += artifact_report(bucket, has_artifacts)
    assert Result(0, told, "") == run_with_artifacts(run, bucket)


def test_a_dry_run_tells_which_artifacts_would_be_recovered(run: Run, bucket: str) -> None:
    put_restored_with_artifacts(bucket, {1: "s3://{}/1/", 2: "s3://{}/2", 3: "s3://{}/3"})
    put_artifacts(bucket, "1/a", "1/b", "20/a", "3")
    version = s3().put_object(Bucket=bucket, Key="2", Body=b"")["VersionId"]
    delete_artifacts(bucket, "1/a", "1/b", "2")
    s3().delete_object(Bucket=bucket, Key="2", VersionId=version)

    told = report("Would be copied back: 3 (1-3)") + artifact_report(
        bucket,
        "Objects that would be recovered: 2",
        "Deleted, with no version left to recover: 1",
        "Checkpoints with artifacts: 2 (1,3)",
        "Checkpoints without any artifact: 1 (2)",
    )
    assert Result(1, told, "") == run_with_artifacts(run, bucket, "--dry-run")
    assert {"20/a": "weights", "3": "weights"} == artifacts(bucket)
    assert {} == all_records()


def test_leaves_what_was_deleted_before_the_time_of_the_table(
    run: Run, bucket: str, endpoint: Endpoint
) -> None:
    put_restored_with_artifacts(bucket, {1: "s3://{}/1/", 2: "s3://{}/2/"})
    put_restored([3])
    put_artifacts(bucket, "1/a", "1/b", "2/a")
    delete_artifacts(bucket, "1/a", "2/a")
    later = int(time.time()) + 60
    endpoint.fail("DescribeTable", restored_to(later))

    time_of_table = f"{datetime.fromtimestamp(later, UTC):%Y-%m-%d %H:%M:%S} UTC"
    told = report("Copied back: 3 (1-3)") + artifact_report(
        bucket,
        f"Deleted before {time_of_table}, so not recovered: 2",
        "Checkpoints with artifacts: 1 (1)",
        "Checkpoints without any artifact: 1 (2)",
    )
    assert Result(1, told, "") == run_with_artifacts(run, bucket)
    assert {"1/b": "weights"} == artifacts(bucket)


def test_leaves_what_is_in_another_bucket_to_its_owner(run: Run, bucket: str) -> None:
    put_restored_with_artifacts(bucket, {1: "s3://elsewhere/1/", 2: "models/2"})
    put_restored([3], artifact_uri={"N": "3"})

    told = report("Copied back: 3 (1-3)") + artifact_report(
        bucket, "Checkpoints without a valid artifact_uri in this bucket: 3 (1-3)"
    )
    assert Result(0, told, "") == run_with_artifacts(run, bucket)


def test_copies_no_records_if_their_artifacts_are_gone_unless_told(run: Run) -> None:
    """In a bucket that has never kept versions, the records would have no artifacts."""
    s3().create_bucket(Bucket="unversioned")
    put_restored_with_artifacts("unversioned", {1: "s3://{}/1/", 2: "s3://{}/2/"})
    put_restored([3])

    message = (
        "Error: The bucket 'unversioned' keeps no versions, so deleted artifacts cannot be "
        "recovered. To copy the records back without them, use --records-only instead of "
        "--artifacts.\n"
    )
    assert Result(1, "", message) == run_with_artifacts(run, "unversioned")
    assert {} == stored_checkpoints()

    arguments = ("--model", MODEL, "--steps", "1-3", "--records-only")
    assert Result(0, report("Copied back: 3 (1-3)"), "") == run(*arguments)
    assert 2 == run(*arguments, "--artifacts").returncode


def test_a_bucket_whose_versioning_is_suspended_can_still_have_versions(
    run: Run, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The emulator cannot delete a version in such a bucket, so only its status is changed."""
    put_restored_with_artifacts(bucket, {1: "s3://{}/1/"})
    put_artifacts(bucket, "1/a")
    delete_artifacts(bucket, "1/a")
    session = boto3.Session()
    session.events.register(
        "after-call.s3.GetBucketVersioning", lambda parsed, **_: parsed.update(Status="Suspended")
    )
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", session)

    assert 0 == run("--model", MODEL, "--steps", "1", "--artifacts", bucket=bucket).returncode
    assert {"1/a": "weights"} == artifacts(bucket)


def test_copies_nothing_if_the_stack_has_no_artifacts(run: Run) -> None:
    put_restored([1])

    message = f"The stack '{STACK}' has no output ArtifactsBucketName. "
    message += "It was deployed without ArtifactsBucket."
    assert Result(1, "", f"Error: {message}\n") == run_with_artifacts(run, "")
    assert {} == stored_checkpoints()


def test_says_which_artifacts_were_recovered_when_it_fails(
    run: Run, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_restored_with_artifacts(bucket, {1: "s3://{}/1/", 2: "s3://{}/2/"})
    put_artifacts(bucket, "1/a", "2/a")
    delete_artifacts(bucket, "1/a", "2/a")
    session = boto3.Session()

    def deny(params: dict[str, Any], **_: object) -> Any:
        if params["url_path"].endswith("/2/a"):
            error = {"Error": {"Code": "AccessDenied", "Message": "on command"}}
            return SimpleNamespace(status_code=403), error
        return None

    session.events.register("before-call.s3.DeleteObject", deny)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", session)
    monkeypatch.setattr(artifact_recovery, "CONCURRENT_CHECKPOINTS", 1)

    told = report(
        "Copied back: 2 (1-2)",
        "Not in the restored table (restore it to an earlier time, if they existed): 1 (3)",
    ) + artifact_report(
        bucket,
        "Objects recovered: 1",
        "Checkpoints with artifacts: 1 (1)",
        "Checkpoints not confirmed to have artifacts: 1 (2)",
    )
    message = "Error: The AWS credentials lack a permission. on command\n"
    assert Result(1, told, message) == run_with_artifacts(run, bucket)
    assert {"1/a": "weights"} == artifacts(bucket)
