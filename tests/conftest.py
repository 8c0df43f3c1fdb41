"""Fixtures: the function, connected to an embedded DynamoDB with fault injection."""

from emulators.environment import isolate

isolate()  # before the imports below, because some libraries read the environment at their import

import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from cli.runner import SIGNALS
from docs import check_log_line
from emulators import STACK
from emulators.dynamodb import clear_tables, embedded_dynamodb, put_token
from emulators.invocation import lambda_context
from emulators.storage import embedded_bucket
from events import ENTITY, TOKEN, Call, Invoke, Response, make_event
from faulty_dynamodb import Endpoint
from logs import CurrentStdout, Lines
from published import read_response

os.environ["POWERTOOLS_SERVICE_NAME"] = STACK  # Powertools reads it at the import

from checkpoints import dynamodb, telemetry
from checkpoints.api import app
from checkpoints.reclaim import app as reclaim
from checkpoints.reclaim import queue


@pytest.fixture(scope="session")
def endpoint() -> Iterator[Endpoint]:
    """Serve both tables, and shorten the function's backoff.

    Its read timeout is longer, so that a slow machine does not look like a fault.
    """
    with (
        embedded_dynamodb(),
        mock.patch.object(dynamodb, "READ_TIMEOUT_SECONDS", 10.0),
        mock.patch.object(dynamodb, "INITIAL_BACKOFF_SECONDS", 0.001),
        mock.patch.object(dynamodb, "MAX_BACKOFF_SECONDS", 0.05),
        Endpoint().running() as endpoint,
    ):
        connect_to(endpoint.url)
        yield endpoint


def connect_to(url: str) -> None:
    """Make the function use this endpoint from now on."""
    app.connect.cache_clear()
    with mock.patch.dict(os.environ, AWS_ENDPOINT_URL_DYNAMODB=url):
        app.connect()


@pytest.fixture
def _impatient(endpoint: Endpoint) -> Iterator[None]:
    """Shorten the function's timeouts, because tests of timeouts would take minutes."""
    with mock.patch.object(dynamodb, "READ_TIMEOUT_SECONDS", 0.2):
        connect_to(endpoint.url)
        yield
    connect_to(endpoint.url)


@pytest.fixture(scope="session")
def invoke(endpoint: Endpoint) -> Invoke:  # noqa: ARG001 what the function is connected to
    """Invoke the function with an event; by default it has 29 seconds left."""

    def invoke(event: Any, milliseconds: int = 29_000) -> Response:
        context = lambda_context(milliseconds)
        response = read_response(event, app.lambda_handler(event, context))
        assert context.get_remaining_time_in_millis() > 0  # or Lambda would have killed it
        return response

    return invoke


@pytest.fixture(scope="session")
def call(invoke: Invoke) -> Call:
    """Call the function with an event from `make_event`."""

    def call(*, milliseconds: int = 29_000, **event: Any) -> Response:
        return invoke(make_event(**event), milliseconds)

    return call


@pytest.fixture(scope="module")
def bucket(endpoint: Endpoint) -> Iterator[None]:
    """Serve the bucket, the table's stream and the queue, with their functions connected."""
    with embedded_bucket(), mock.patch.dict(os.environ, AWS_ENDPOINT_URL_DYNAMODB=endpoint.url):
        for function in (reclaim, queue):
            function.connect.cache_clear()
            function.connect()
        yield


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the function's pauses before its retries, in full length, but do not wait."""
    pauses: list[float] = []
    monkeypatch.setattr(dynamodb, "INITIAL_BACKOFF_SECONDS", 0.1)
    monkeypatch.setattr(dynamodb, "MAX_BACKOFF_SECONDS", 2.0)
    monkeypatch.setattr(time, "sleep", pauses.append)
    return pauses


@pytest.fixture(autouse=True)
def _fresh_tables(endpoint: Endpoint) -> None:
    """Start with no checkpoints, one valid token, and an endpoint without faults."""
    clear_tables()
    put_token(TOKEN, entity=ENTITY)
    endpoint.heal()


@pytest.fixture(autouse=True)
def _same_signal_handlers() -> Iterator[None]:
    """Undo what a command changes that a test runs in this process."""
    before = {name: signal.getsignal(name) for name in SIGNALS}
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Lines:
    """Return what the function wrote since the last call, each line as JSON.

    Check that docs/operations.md explains each log line. The line that counts a cold start is left
    out: only the first request of a process has it.
    """
    monkeypatch.setattr(telemetry.logger.registered_handler, "stream", CurrentStdout())

    def lines() -> list[dict[str, Any]]:
        written = map(json.loads, capsys.readouterr().out.splitlines())
        found = [line for line in written if "ColdStart" not in line]
        for line in found:
            if "_aws" not in line:  # else it has metrics
                check_log_line(line)
        return found

    return lines
