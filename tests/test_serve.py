"""`make serve` prints one line for each request, and commands to use the stack."""

import io
import json
import re

import pytest

from checkpoints import audit
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
    monkeypatch.setattr(audit.logger.registered_handler, "stream", log)
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
    ] == [re.sub(r"^\d\d:\d\d:\d\d  (\d+)  [ \d]{5} ms", r"TIME  \1  N ms", x) for x in lines]


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
        "07:24:59  Storage freed: would delete 1,200 objects  a/b/c/7",
        "07:24:59  Reclaim refused: not an s3 uri  b/c/7",
    ] == [line(**freed), line(**freed, dry_run=True), line(**refused, step=7, entity="")]


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
        ".venv/bin/python scripts/tokens.py list --stack checkpoints",
        "aws dynamodb scan --table-name checkpoints-1",
        "aws dynamodb scan --table-name tokens-1",
        "aws s3 ls --recursive s3://training-artifacts",
        'make smoke STACK=checkpoints URL="$API_URL"',
    ):
        assert f"\n  {command}\n" in text
    assert 80 >= max(map(len, text.splitlines()))
