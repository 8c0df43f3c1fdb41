"""`make serve` prints one line for each request, and commands to use the stack."""

import io
import json
import re

import pytest

from checkpoints import audit
from emulators.cloud import LocalCloud
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
        "TIME  200 Deletion completed  vision-team resnet-50  deleted 1, not found 1  N ms",
        "TIME  200 Dry run completed  vision-team resnet-50  would delete 0, not found 2  N ms",
        "TIME  422 Request refused  vision-team -  invalid_request  N ms",
        "TIME  401 Request refused  - -  no_credentials  N ms",
        f"TIME  500 Request failed  - -  {cause}  N ms",
    ] == [re.sub(r"[\d.]+ ms$", "N ms", re.sub(r"^\d\d:\d\d:\d\d ", "TIME ", x)) for x in lines]


@pytest.mark.parametrize(
    "message",
    [
        "START RequestId: 1 Version: 1",
        "END RequestId: 1",
        "REPORT RequestId: 1\tDuration: 4141 ms",
        json.dumps({"message": "Deletion continued", "deleted_steps": [[1, 2]]}),
        json.dumps({"message": "Dry run continued", "would_delete_steps": [[1, 2]]}),
    ],
)
def test_skips_lines_without_an_outcome(message: str) -> None:
    assert serve.format_outcome(message) is None


@pytest.mark.parametrize(
    "message",
    ["Traceback (most recent call last):", "[1]", json.dumps({"message": "Task timed out"})],
)
def test_shows_unknown_lines_unchanged(message: str) -> None:
    assert message == serve.format_outcome(message)


def test_prints_a_command_to_paste_for_each_resource() -> None:
    outputs = {
        "ApiUrl": "http://127.0.0.1:9000/api",
        "CheckpointsTableName": "checkpoints-1",
        "TokensTableName": "tokens-1",
    }

    settings = (
        "AWS_ENDPOINT_URL=http://127.0.0.1:9000 AWS_ACCESS_KEY_ID=test "
        "AWS_SECRET_ACCESS_KEY=test AWS_DEFAULT_REGION=us-east-1"
    )
    text = serve.instructions(LocalCloud(9000), outputs, "secret")

    assert [
        "curl -X DELETE http://127.0.0.1:9000/api/v1/preview/models/resnet-50/checkpoints \\",
        """-H 'Authorization: Bearer secret' -d '{"steps": [100, 200, 999]}'""",
        "export CHECKPOINTS_API_URL=http://127.0.0.1:9000/api CHECKPOINTS_TOKEN=secret",
        ".venv/bin/python scripts/prune.py resnet-50 --keep-last 2 --keep-best loss:min=3",
        f"export {settings}",
        ".venv/bin/python scripts/tokens.py list --stack checkpoints",
        "aws dynamodb scan --table-name checkpoints-1",
        "aws dynamodb scan --table-name tokens-1",
        "aws s3 ls --recursive s3://training-artifacts",
        "make smoke STACK=checkpoints URL=http://127.0.0.1:9000/api",
        "make deploy ARGS=--no-confirm-changeset",
    ] == [line.strip() for line in text.splitlines() if line[:2] == "  "]
