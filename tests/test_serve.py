"""`make serve` prints one line for each request, and commands to use the stack."""

import io
import itertools
import json
import re
import time
from functools import partial
from operator import itemgetter
from typing import Any
from unittest import mock

import pytest

from checkpoints import telemetry
from cli.logs import read_events
from emulators.aws import AwsEmulator
from emulators.dynamodb import put_checkpoints
from events import ENTITY, MODEL, Call
from faulty_dynamodb import Endpoint, reject
from scripts import serve


def test_shows_one_line_for_each_request(
    call: Call,
    endpoint: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = io.StringIO()
    monkeypatch.setattr(telemetry.logger.registered_handler, "stream", log)
    put_checkpoints(MODEL, [100_000], entity=ENTITY)

    call(steps=[100_000, 1])
    call(body='{"steps": [100000, 1], "dry_run": true}')
    call(steps=["x"])
    call(steps=[1], token=None)
    endpoint.keep_failing("GetItem", reject(400, "AccessDeniedException"))
    call(steps=[1])

    cause = (
        "checkpoints.dynamodb.RejectedError: An error occurred (AccessDeniedException) "
        "when calling the GetItem operation (reached max retries: 0): on command"
    )
    metrics = capsys.readouterr().out  # which are lines of the log, too
    lines = filter(None, map(serve.format_outcome, (log.getvalue() + metrics).splitlines()))
    assert [
        "TIME  200  N ms  deleted 1, not found 1  vision-team/resnet-50",
        "TIME  200  N ms  Dry run completed: would delete 0, not found 2  vision-team/resnet-50",
        "TIME  422  N ms  Request refused: invalid request  vision-team/resnet-50",
        "TIME  401  N ms  Request refused: no credentials",
        f"TIME  500  N ms  Request failed: {cause}",
    ] == [re.sub(r"^\d\d:\d\d:\d\d  (\d+)  [ \d,]{5} ms", r"TIME  \1  N ms", x) for x in lines]


def line(**fields: object) -> str | None:
    """Return how a line of the log is shown."""
    others = {"timestamp": "2026-01-31T07:24:59.123Z", "entity": "a", "model_id": "b/c"}
    return serve.format_outcome(json.dumps(others | fields))


def test_shows_what_has_a_fixed_width_first_and_rounds_the_duration() -> None:
    listed = {"status": 200, "message": "Checkpoints listed"}

    assert [
        "07:24:59  200      0 ms  listed 100  a/b/c",
        "07:24:59  200     71 ms  listed 100  a/b/c",
        "07:24:59  200  1,235 ms  listed 1,000  a/b/c",
    ] == [
        line(**listed, duration_ms=0.3, listed_count=100),
        line(**listed, duration_ms=70.6, listed_count=100),
        line(**listed, duration_ms=1234.5678, listed_count=1_000),
    ]


def test_shows_the_outcome_for_each_deleted_checkpoint() -> None:
    freed = {"outcome": "freed", "message": "Storage freed", "objects_deleted": 1_200, "step": 7}
    refused = {"outcome": "refused", "message": "Reclaim refused", "reason": "not_an_s3_uri"}

    assert [
        "07:24:59  Storage freed: deleted 1,200 objects  a/b/c/7",
        "07:24:59  Reclaim refused: not an s3 uri  b/c/7",
    ] == [line(**freed), line(**refused, step=7, entity="")]


@pytest.mark.parametrize(
    "message",
    [
        "START RequestId: 1 Version: 1",
        "END RequestId: 1",
        "REPORT RequestId: 1\tDuration: 4141 ms",
        '{"message": "Deletion continued", "deleted_steps": [[1, 2]]}',
        '{"message": "Dry run continued", "would_delete_steps": [[1, 2]]}',
    ],
)
def test_skips_lines_without_an_outcome(message: str) -> None:
    assert serve.format_outcome(message) is None


@pytest.mark.parametrize(
    "message", ["Traceback (most recent call last):", "[1]", '{"message": "Task timed out"}']
)
def test_shows_unknown_lines_unchanged(message: str) -> None:
    assert message == serve.format_outcome(message)


class EmulatorLogs:
    """A log as the emulator serves it: one page of up to three events, and no token."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.read_from: list[int] = []

    def write(self, timestamp: int, *messages: str) -> None:
        self.events += [
            {"logStreamName": "stream", "timestamp": timestamp, "message": f"{message}\n"}
            for message in messages
        ]
        self.events.sort(key=itemgetter("timestamp"))

    def describe_log_groups(self) -> dict[str, Any]:
        return {"logGroups": [{"logGroupName": "group"}]}

    def filter_log_events(self, **request: Any) -> dict[str, Any]:
        since = request["startTime"]
        self.read_from.append(since)
        return {"events": [each for each in self.events if each["timestamp"] >= since][:3]}


def show(monkeypatch: pytest.MonkeyPatch, *batches: list[tuple[int, list[str]]]) -> EmulatorLogs:
    """Return a log in which the next batch is found each second, with times in milliseconds."""
    logs, left, clock = EmulatorLogs(), iter(batches), itertools.count(1_000)

    def write(_seconds: float) -> None:
        for timestamp, messages in next(left, []):
            logs.write(timestamp, *messages)

    write(0)
    monkeypatch.setattr("cli.logs.MAX_EVENTS", 3)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    monkeypatch.setattr(time, "sleep", write)
    return logs


def test_shows_each_line_once_also_if_it_is_late_or_there_are_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logs = show(
        monkeypatch,
        [(999_000, ["same", "same"])],  # in one millisecond
        [(999_000, ["same"]), (998_000, ["late"])],
        [(1_001_000 + number // 2, [f"many {number}"]) for number in range(8)],
        [],
        [(1_001_001, ["later"]), (1_004_000, ["last"])],
    )

    shown = list(iter(partial(next, serve.log_messages(logs)), "last"))

    many = [f"many {number}" for number in range(8)]
    assert ["same", "same", "late", "same", *many, "later"] == shown


def test_does_not_read_what_is_old_again(monkeypatch: pytest.MonkeyPatch) -> None:
    logs = show(monkeypatch, [(900_000, ["old"])], [], [(1_002_000, ["new"])])
    messages = serve.log_messages(logs)

    assert ["old", "new"] == [next(messages), next(messages)]
    assert [0, 995_000, 996_000] == logs.read_from


def test_reads_all_pages_of_a_log_also_empty_ones() -> None:
    client = mock.Mock()
    client.filter_log_events.side_effect = [
        {"events": [{"message": "first"}], "nextToken": "a"},
        {"events": [], "nextToken": "b"},
        {"events": [{"message": "second"}]},
    ]

    assert ["first", "second"] == [each["message"] for each in read_events(client, "group")]
    tokens = [call.kwargs.get("nextToken") for call in client.filter_log_events.call_args_list]
    assert [None, "a", "b"] == tokens


def test_prints_commands_to_paste_for_what_is_deployed() -> None:
    outputs = {
        "ApiUrl": "http://127.0.0.1:65535/api",
        "CheckpointsTableName": "checkpoints-1",
        "TokensTableName": "tokens-1",
    }

    text = serve.instructions(AwsEmulator(65_535), outputs, "secret")

    for command in (
        "export API_URL=http://127.0.0.1:65535/api",
        "export TOKEN=secret",
        "export AWS_ENDPOINT_URL=http://127.0.0.1:65535 AWS_DEFAULT_REGION=us-east-1",
        "export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test",
        ".venv/bin/checkpoints tokens list --stack checkpoints",
        "aws dynamodb scan --table-name checkpoints-1",
        "aws dynamodb scan --table-name tokens-1",
        "aws s3 ls --recursive s3://training-artifacts",
        'make smoke STACK=checkpoints URL="$API_URL"',
    ):
        assert f"\n  {command}\n" in text
