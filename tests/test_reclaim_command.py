"""The reclaim command frees storage after a refusal, a failure or a batch given up."""

import io
import json
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import boto3
import pytest

from checkpoints import audit
from checkpoints import reclaim as function
from commands import RECLAIM_OUTPUTS, STACK, Result, Run, create_log, log, run_command
from emulators.dynamodb import put_checkpoints
from emulators.invocation import lambda_context
from emulators.template import read_template
from events import ENTITY, MODEL
from faulty_dynamodb import Endpoint
from scripts import reclaim

ARTIFACTS, BATCHES = "artifacts", "failed-batches"
LOG_GROUP = RECLAIM_OUTPUTS["ReclaimFunctionLogGroupName"]
FOLDER = "aws/lambda/3cd9b2a1-mapping/shardId-0001/2026/01/31/2026-01-31T12.00.00-"
SEARCHING = f"Searching {LOG_GROUP}\n"
NOTHING = "There is nothing to do.\n"

type Event = dict[str, Any]
type Response = tuple[int, Event]  # the status, and what boto3 returns
type Fault = Callable[[Event], Response]


def handle(event: Event, milliseconds: int = 300_000) -> tuple[Event, list[str]]:
    """Invoke the function with an event; return its response and its log lines."""
    log = io.StringIO()
    with (
        redirect_stdout(io.StringIO()),  # the metrics
        mock.patch.object(audit.logger.registered_handler, "stream", log),
    ):
        response = function.lambda_handler(event, lambda_context(milliseconds))
    return response, log.getvalue().splitlines()


class Function:
    """Responds to invocations with the function itself, or as the next fault says."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.faults: deque[Fault] = deque()
        self._lock = threading.Lock()  # a process of Lambda has one invocation at a time

    def heal(self) -> None:
        """Remove all faults, and forget the recorded events."""
        self.events.clear()
        self.faults.clear()

    def respond(self, params: Event, **_: object) -> tuple[object, Event]:
        """Take the place of the call to Lambda."""
        assert params["url_path"].endswith("/functions/ReclaimFunction/invocations")
        assert params["query_string"] == {}
        with self._lock:
            event = json.loads(params["body"])
            self.events.append(event)
            fault = self.faults.popleft() if self.faults else with_time(300_000)
            status, response = fault(event)
        return SimpleNamespace(status_code=status), response

    @property
    def sizes(self) -> list[int]:
        """How many records each invocation had."""
        return [len(event["Records"]) for event in self.events]


def with_time(milliseconds: int) -> Fault:
    """Run the function with this much time left."""

    def work(event: Event) -> Response:
        response, lines = handle(event, milliseconds)
        log(LOG_GROUP, lines)
        return 200, {"StatusCode": 200, "Payload": io.BytesIO(json.dumps(response).encode())}

    return work


def crash(_event: Event) -> Response:
    payload = b'{"errorType": "Sandbox.Timedout", "errorMessage": "Task timed out after 300 s"}'
    return 200, {"FunctionError": "Unhandled", "Payload": io.BytesIO(payload)}


def reject(status: int, code: str) -> Fault:
    return lambda _event: (status, {"Error": {"Code": code, "Message": "on command"}})


def interrupt(event: Event) -> Response:
    """Press Ctrl-C while the function works."""
    os.kill(os.getpid(), signal.SIGINT)
    return with_time(300_000)(event)


def work_slowly(event: Event) -> Response:
    """Give the command time to notice an interruption before all records are done."""
    time.sleep(0.1)
    return with_time(300_000)(event)


@pytest.fixture(scope="module")
def _deployed(endpoint: Endpoint) -> Iterator[Function]:
    """Connect the function to the table and the buckets, and have boto3 invoke it."""
    deployed = Function()
    session = boto3.Session()
    session.events.register("before-call.lambda.Invoke", cast("Any", deployed.respond))
    environment = {"AWS_ENDPOINT_URL_DYNAMODB": endpoint.url, "ARTIFACTS_BUCKET": ARTIFACTS}
    with (
        mock.patch.dict(os.environ, environment),
        mock.patch.object(boto3, "DEFAULT_SESSION", session),
    ):
        function.connect.cache_clear()
        function.connect()
        for bucket in (ARTIFACTS, BATCHES):
            s3().create_bucket(Bucket=bucket)
        yield deployed


@pytest.fixture(autouse=True)
def deployed(_deployed: Function, monkeypatch: pytest.MonkeyPatch) -> Iterator[Function]:
    """Start with empty buckets and an empty log."""
    monkeypatch.setattr(reclaim, "PAUSE_SECONDS", 0)
    create_log(LOG_GROUP)
    yield _deployed
    _deployed.heal()
    boto3.client("logs").delete_log_group(logGroupName=LOG_GROUP)
    for bucket in (ARTIFACTS, BATCHES):
        for key in stored(bucket):
            s3().delete_object(Bucket=bucket, Key=key)


@pytest.fixture
def run(endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command for a stack that frees storage."""

    def run(*arguments: str, outputs: Mapping[str, str] = RECLAIM_OUTPUTS) -> Result:
        return run_command(
            reclaim.main, *arguments, endpoint=endpoint, capsys=capsys, outputs=outputs
        )

    return run


def s3() -> Any:
    return function.connect()[1]


def stored(bucket: str) -> list[str]:
    """Return the keys of all objects."""
    return [each["Key"] for each in s3().list_objects_v2(Bucket=bucket).get("Contents", [])]


def put_artifacts(*keys: str, size: int = 1_500) -> None:
    for key in keys:
        s3().put_object(Bucket=ARTIFACTS, Key=key, Body=b"w" * size)


def put_batch(name: str, *records: Event, as_text: bool = True) -> str:
    """Save a failed batch as Lambda does, and return its key."""
    payload = {"Records": records}
    batch = {
        "requestContext": {"condition": "RetryAttemptsExhausted"},
        "DDBStreamBatchInfo": {"batchSize": len(records)},
        "payload": json.dumps(payload) if as_text else payload,
    }
    s3().put_object(Bucket=BATCHES, Key=FOLDER + name, Body=json.dumps(batch))
    return FOLDER + name


def deleted(step: int, uri: str | None = None, *, model_id: str = MODEL) -> Event:
    """Return the stream record of a checkpoint."""
    uri = uri or f"s3://{ARTIFACTS}/{step}/"
    keys = {"model_id": {"S": model_id}, "step": {"N": str(step)}}
    return {
        "eventName": "REMOVE",
        "dynamodb": {
            "ApproximateCreationDateTime": time.time() + 5,
            "Keys": keys,
            "OldImage": keys | {"entity": {"S": ENTITY}, "artifact_uri": {"S": uri}},
            "SequenceNumber": "700000000000000000001",
        },
    }


def work(*records: Event, **environment: str) -> None:
    """Have the function handle records of the stream, with another environment."""
    with mock.patch.dict(os.environ, environment):
        log(LOG_GROUP, handle({"Records": list(records)})[1])


def test_frees_what_lambda_stopped_retrying(run: Run, deployed: Function) -> None:
    put_artifacts("1/a", "1/b", "2/a", "10/a", "other")
    put_batch("b1.json", deleted(1), deleted(3))
    put_batch("b2.json", deleted(2), as_text=False)
    s3().put_object(Bucket=BATCHES, Key="notes.txt", Body=b"")

    assert Result(0, "Freed: 3 (3 objects, 4.5 KB)\n", "") == run("--batches")
    assert ["10/a", "other"] == stored(ARTIFACTS)
    assert ["notes.txt"] == stored(BATCHES)
    assert [1, 2] == sorted(deployed.sizes)
    assert Result(0, NOTHING, "") == run("--batches")


def test_keeps_a_batch_until_each_of_its_records_is_done(run: Run) -> None:
    put_artifacts("1/a", "2/a", "3/a")
    put_checkpoints(MODEL, [3], entity=ENTITY, artifact_uri={"S": f"s3://{ARTIFACTS}/3/"})
    put_batch("done.json", deleted(1), deleted(3))
    number = deleted(5, model_id="été\n")
    number["dynamodb"]["OldImage"]["artifact_uri"] = {"N": "5"}
    left = put_batch("left.json", deleted(2), deleted(4, "s3://elsewhere/4/"), number)

    told = (
        "Freed: 2 (2 objects, 3.0 KB)\nSaved again, so the artifacts stay: 1\nRefused: 2\n"
        "  'resnet-50' 4, 's3://elsewhere/4/': another bucket\n"
        "  'été\\n' 5, \"{'NULL': True}\": not an s3 uri\n"
        f"This batch stays: s3://failed-batches/{left}\n"
    )
    assert Result(1, told, "") == run("--batches")
    assert (["3/a"], [left]) == (stored(ARTIFACTS), stored(BATCHES))


def test_a_dry_run_only_reports(run: Run, deployed: Function) -> None:
    put_artifacts("1/a", "1/b", "3/a", "4/a", size=10)
    put_checkpoints(MODEL, [3], entity=ENTITY, artifact_uri={"S": f"s3://{ARTIFACTS}/3/"})
    records = [deleted(step) for step in (1, 2, 3, 4)]
    records[0]["dynamodb"]["ApproximateCreationDateTime"] += 60
    records[3]["dynamodb"]["ApproximateCreationDateTime"] -= 60
    key = put_batch("b.json", *records)
    before = stored(ARTIFACTS)

    told = (
        "Would be freed: 3 (2 objects, 20 B)\n"
        "  'resnet-50' 1, 's3://artifacts/1/': 2 objects, 20 B\n"
        "  'resnet-50' 2, 's3://artifacts/2/': no objects\n"
        "  'resnet-50' 4, 's3://artifacts/4/': 1 kept (saved later)\n"
        "Saved again, so the artifacts stay: 1\n"
        "  'resnet-50' 3, 's3://artifacts/3/': no objects\n"
    )
    assert Result(0, told, "") == run("--batches", "--dry-run")
    assert (before, [key]) == (stored(ARTIFACTS), stored(BATCHES))
    assert [True] == [event["dry_run"] for event in deployed.events]


def test_frees_what_is_refused_or_failed_in_the_log_and_is_not_done_since(
    run: Run, deployed: Function
) -> None:
    put_artifacts("1/a", "2/a", "3/a")
    refused, failed, freed = deleted(1), deleted(2, "s3://absent/2/"), deleted(3)
    work(freed, refused, ARTIFACTS_BUCKET="another")
    work(failed, ARTIFACTS_BUCKET="absent")
    work(freed)
    log(LOG_GROUP, handle({"Records": [refused], "dry_run": True})[1])
    s3().create_bucket(Bucket="absent")

    left = "Refused: 1\n  'resnet-50' 2, 's3://absent/2/': another bucket\n"
    told = f"Freed: 1 (1 object, 1.5 KB)\n{left}"
    assert Result(1, told, SEARCHING) == run("--log", "--since", "1h")
    assert ["2/a"] == stored(ARTIFACTS)
    s3().delete_bucket(Bucket="absent")
    assert Result(1, left, SEARCHING) == run("--log")
    assert [2, 1] == deployed.sizes


def test_reads_log_lines_of_earlier_versions(run: Run) -> None:
    put_artifacts("1/a")
    lines = handle({"Records": [deleted(1, "s3://absent/1/")]})[1]
    log(LOG_GROUP, [line.replace('"deleted_at"', '"removed_at"') for line in lines])

    result = run("--log")

    assert (1, "Refused: 1\n", SEARCHING) == (result.returncode, result.stdout[:11], result.stderr)


def test_searches_the_log_since_the_given_time(run: Run) -> None:
    put_artifacts("1/a")
    lines = handle({"Records": [deleted(1, "s3://elsewhere/1/")]})[1]
    log(LOG_GROUP, lines, age_hours=2 * 24)

    assert Result(0, NOTHING, SEARCHING) == run("--log", "--since", "1d")
    assert 1 == run("--log").returncode


def test_sends_a_few_records_at_a_time_and_shows_its_progress(
    run: Run, deployed: Function, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_artifacts(*(f"{step}/a" for step in range(60)))
    put_batch("b.json", *map(deleted, range(60)))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")

    progress = "\rReading 100%\r\033[K\rReclaiming 33%\rReclaiming 67%\rReclaiming 100%\r\033[K"
    assert Result(0, "Freed: 60 (60 objects, 90.0 KB)\n", progress) == run("--batches")
    assert [10, 25, 25] == sorted(deployed.sizes)
    assert ([], []) == (stored(ARTIFACTS), stored(BATCHES))


@pytest.mark.parametrize("fault", [with_time(0), reject(429, "TooManyRequestsException")])
def test_sends_again_what_was_not_finished(run: Run, deployed: Function, fault: Fault) -> None:
    put_artifacts("1/a", "2/a")
    put_batch("b.json", deleted(1), deleted(2))
    deployed.faults.append(fault)

    assert Result(0, "Freed: 2 (2 objects, 3.0 KB)\n", "") == run("--batches")
    assert [2, 2] == deployed.sizes
    assert [] == stored(BATCHES)


def test_gives_up_after_a_few_attempts_and_says_so(run: Run, deployed: Function) -> None:
    put_artifacts("1/a", "2/a")
    key = put_batch("b.json", deleted(1), deleted(2))
    deployed.faults.extend([with_time(0)] * 4)

    told = "Not finished: 2\n" + "".join(
        f"  'resnet-50' {step}, 's3://artifacts/{step}/': The function has not processed it.\n"
        for step in (1, 2)
    )
    told += f"This batch stays: s3://failed-batches/{key}\n"
    assert Result(1, told, "") == run("--batches")
    assert [2, 2, 1, 1] == deployed.sizes
    assert (["1/a", "2/a"], [key]) == (stored(ARTIFACTS), stored(BATCHES))


def test_adds_up_the_counts_of_all_attempts(run: Run, deployed: Function) -> None:
    put_artifacts("1/a", "1/b", "2/a")
    key = put_batch("b.json", deleted(1), deleted(2))

    def delete_a_part(event: Event) -> Response:
        """Finish, but respond as if S3 had throttled."""
        response = handle(event)[0]
        for each in response["outcomes"]:
            each |= {"outcome": "retry", "exception": "Traceback:\n...\nSlowDown: 1"}
        failures = [{"itemIdentifier": n["dynamodb"]["SequenceNumber"]} for n in event["Records"]]
        response["batchItemFailures"] = failures
        return 200, {"Payload": io.BytesIO(json.dumps(response).encode())}

    deployed.faults.extend([delete_a_part, delete_a_part, with_time(0)])

    told = (
        "Freed: 1 (1 object, 1.5 KB)\nNot finished: 1 (2 objects, 3.0 KB)\n"
        "  'resnet-50' 1, 's3://artifacts/1/': 2 objects, 3.0 KB; SlowDown: 1\n"
        f"This batch stays: s3://failed-batches/{key}\n"
    )
    with mock.patch.object(reclaim, "CONCURRENT_INVOCATIONS", 1):
        assert Result(1, told, "") == run("--batches")
    assert [key] == stored(BATCHES)


def test_tells_why_artifacts_cannot_be_deleted(run: Run) -> None:
    key = put_batch("b.json", deleted(1, "s3://absent-too/1/"))

    with mock.patch.dict(os.environ, ARTIFACTS_BUCKET="absent-too"):
        result = run("--batches")

    line = result.stdout.splitlines()[1]
    assert (1, "Failed: 1", "") == (result.returncode, result.stdout[:9], result.stderr)
    assert line.startswith("  'resnet-50' 1, 's3://absent-too/1/': botocore.errorfactory.NoSuch")
    assert [key] == stored(BATCHES)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (crash, "ReclaimFunction failed. Read its log. Task timed out after 300 s"),
        (reject(403, "AccessDenied"), "The AWS credentials lack a permission. on command"),
    ],
)
def test_stops_if_the_function_cannot_be_invoked(
    run: Run, deployed: Function, fault: Fault, message: str
) -> None:
    put_artifacts("1/a")
    put_batch("1.json", deleted(1))
    key = put_batch("2.json", deleted(2))
    deployed.faults.extend([with_time(300_000), fault])

    with mock.patch.object(reclaim, "CONCURRENT_INVOCATIONS", 1):
        result = run("--batches")

    told = (
        "Freed: 1 (1 object, 1.5 KB)\nNot finished: 1\n"
        "  'resnet-50' 2, 's3://artifacts/2/': The function has not processed it.\n"
        f"This batch stays: s3://failed-batches/{key}\n"
    )
    assert Result(1, told, f"reclaim.py: {message}\n") == result
    assert [key] == stored(BATCHES)


def test_says_how_far_it_got_when_it_is_interrupted(run: Run, deployed: Function) -> None:
    put_artifacts(*(f"{step}/a" for step in range(40)))
    for step in range(40):
        put_batch(f"{step}.json", deleted(step))
    deployed.faults.extend([with_time(300_000), interrupt, *[work_slowly] * 38])

    result = run("--batches")

    assert 130 == result.returncode
    assert "It is safe to run the command again.\n\nStopped.\n" == result.stderr
    left = len(stored(BATCHES))
    assert len(stored(ARTIFACTS)) == left > 0
    assert result.stdout.startswith(f"Freed: {40 - left} (")
    assert f"\nNot finished: {left}\n" in result.stdout


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "null", '{"payload": "x"}', '{"payload": {"Records": [{}]}}'),
        '{"requestContext": {}}',
        '{"payload": {"Records": [{"dynamodb": []}]}}',
    ],
)
def test_leaves_what_is_not_a_batch(run: Run, content: str) -> None:
    put_artifacts("1/a")
    put_batch("a.json", deleted(1))
    key = FOLDER + "b.json"
    s3().put_object(Bucket=BATCHES, Key=key, Body=content.encode())

    message = (
        f"s3://{BATCHES}/{key} is not a batch of deleted records. It is skipped. "
        "Delete it if you do not need it.\n"
    )
    assert Result(1, "Freed: 1 (1 object, 1.5 KB)\n", message) == run("--batches")
    assert ([], [key]) == (stored(ARTIFACTS), stored(BATCHES))


@pytest.mark.parametrize(
    ("source", "output"),
    [("--batches", "FailedBatchesBucketName"), ("--log", "ReclaimFunctionLogGroupName")],
)
def test_says_that_the_stack_frees_no_storage(run: Run, source: str, output: str) -> None:
    told = f"The stack '{STACK}' has no output {output}. It was deployed without ArtifactsBucket."
    assert Result(1, "", f"reclaim.py: {told}\n") == run(source, outputs={})


@pytest.mark.parametrize(
    "arguments",
    [[], ["--batches", "--log"], ["--batches", "--since", "1d"], ["--log", "--since", "1"]],
    ids=" ".join,
)
def test_refuses_invalid_arguments(run: Run, arguments: list[str]) -> None:
    refused = run(*arguments)

    assert (2, "") == (refused.returncode, refused.stdout)
    assert "usage:" in refused.stderr


def test_waits_longer_than_the_function_can_take() -> None:
    """Otherwise it would invoke the function again while it still works."""
    properties = read_template()["Resources"]["ReclaimFunction"]["Properties"]

    assert properties["Timeout"] < vars(reclaim.LAMBDA_CONFIG)["read_timeout"]


def test_explains_itself(run: Run) -> None:
    assert 0 == run("--help").returncode
