"""Fixtures: the log of the function, which some commands read."""

import io
import json
from typing import Any

import boto3
import pytest

from checkpoints import telemetry
from commands import LOG_GROUP, Delete, log
from events import Call
from faulty_dynamodb import Endpoint


@pytest.fixture(scope="session")
def _log_group(endpoint: Endpoint) -> None:  # noqa: ARG001 within which AWS is in memory
    client = boto3.client("logs")
    client.create_log_group(logGroupName=LOG_GROUP)
    client.create_log_stream(logGroupName=LOG_GROUP, logStreamName="stream")


@pytest.fixture
def delete(call: Call, _log_group: None, monkeypatch: pytest.MonkeyPatch) -> Delete:
    """Have the function delete checkpoints, put its lines into the log, and return their id."""

    def delete(steps: list[int] | None = None, **others: Any) -> str:
        written = io.StringIO()
        monkeypatch.setattr(telemetry.logger.registered_handler, "stream", written)
        call(steps=steps, **others)
        lines = written.getvalue().splitlines()
        log(lines)
        request: str = json.loads(lines[-1])["function_request_id"]
        return request

    return delete
