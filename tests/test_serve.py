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
    put_checkpoints(MODEL, [5], entity=ENTITY, protected={"BOOL": True})

    call(steps=[100_000, 1])
    call(steps=[5])
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
        "TIME  200  N ms  deleted 0, not found 0, protected 1  vision-team/resnet-50",
        "TIME  200  N ms  Dry run completed: would delete 0, not found 2  vision-team/resnet-50",
        "TIME  422  N ms  Request refused: invalid request  vision-team/resnet-50",
        "TIME  401  N ms  Request refused: no credentials",
        f"TIME  500  N ms  Request failed: {cause}",
    ] == [re.sub(r"^\d\d:\d\d:\d\d  (\d+)  [ \d,]{5} ms", r"TIME  \1  N ms", x) for x in lines]


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        (
            {"status": 200, "message": "Checkpoints listed", "duration_ms": 0.3, "listed_count": 9},
            "07:24:59  200      0 ms  listed 9  a/b/c",
        ),
        (
            {"status": 200, "message": "Checkpoints listed", "duration_ms": 1234.5678},
            "07:24:59  200  1,235 ms  a/b/c",
        ),
        (
            {"outcome": "freed", "message": "Storage freed", "objects_deleted": 1_200, "step": 7},
            "07:24:59  Storage freed: deleted 1,200 objects  a/b/c/7",
        ),
        (
            {
                "outcome": "refused",
                "message": "Refused",
                "reason": "no_uri",
                "step": 7,
                "entity": "",
            },
            "07:24:59  Refused: no uri  b/c/7",
        ),
        ({"message": "Deletion continued", "deleted_steps": [[1, 2]]}, None),
    ],
    ids=["list", "long duration", "freed", "refused", "without an outcome"],
)
def test_shows_each_outcome_on_one_line(fields: dict[str, object], shown: str | None) -> None:
    others = {"timestamp": "2026-01-31T07:24:59.123Z", "entity": "a", "model_id": "b/c"}

    assert shown == serve.format_outcome(json.dumps(others | fields))


def test_leaves_out_the_lines_of_lambda_and_shows_unknown_lines_unchanged() -> None:
    for line in ("START RequestId: 1 Version: 1", "END RequestId: 1", "REPORT RequestId: 1\tX"):
        assert serve.format_outcome(line) is None
    for line in ("Traceback (most recent call last):", "[1]", '{"message": "Task timed out"}'):
        assert line == serve.format_outcome(line)


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


def test_shows_each_line_once_also_if_it_is_late_or_there_are_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And does not read what is old again."""
    logs, clock = EmulatorLogs(), itertools.count(1_000)
    seconds = iter(
        [
            [(999_000, ["same"]), (998_000, ["late"])],
            [(1_001_000 + number // 2, [f"many {number}"]) for number in range(8)],
            [],
            [(1_001_001, ["later"]), (1_004_000, ["last"])],
        ]
    )

    def write_more(_seconds: float) -> None:
        for timestamp, messages in next(seconds, []):
            logs.write(timestamp, *messages)

    logs.write(900_000, "old")
    logs.write(999_000, "same", "same")  # in one millisecond
    monkeypatch.setattr("cli.logs.MAX_EVENTS", 3)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    monkeypatch.setattr(time, "sleep", write_more)

    shown = list(iter(partial(next, serve.log_messages(logs)), "last"))

    many = [f"many {number}" for number in range(8)]
    assert ["old", "same", "same", "late", "same", *many, "later"] == shown
    assert 995_000 == min(logs.read_from[1:])


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


def test_prints_commands_for_other_tools_to_use_the_emulator() -> None:
    """The end-to-end test runs those of this project."""
    outputs = {"ApiUrl": "x", "CheckpointsTableName": "table-1", "TokensTableName": "table-2"}

    text = serve.instructions(AwsEmulator(65_535), outputs, "secret")

    for command in (
        "export AWS_ENDPOINT_URL=http://127.0.0.1:65535 AWS_DEFAULT_REGION=us-east-1",
        "export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test",
        "aws dynamodb scan --table-name table-1",
        "aws dynamodb scan --table-name table-2",
        'make smoke STACK=checkpoints URL="$API_URL"',
    ):
        assert f"\n  {command}\n" in text
