"""The function, connected to an embedded DynamoDB that fails on command."""

import os
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from embedded import clear_tables, embedded_dynamodb, lambda_context, put_token
from endpoint import Endpoint
from function import ENTITY, TOKEN, Answer, Call, Invoke, make_event, read_answer

from checkpoints import dynamodb


@pytest.fixture(scope="session")
def endpoint() -> Iterator[Endpoint]:
    """Serve both tables, and let the function try again sooner than it would."""
    with (
        embedded_dynamodb(),
        mock.patch.object(dynamodb, "FIRST_PAUSE_SECONDS", 0.001),
        mock.patch.object(dynamodb, "LONGEST_PAUSE_SECONDS", 0.01),
        Endpoint().running() as endpoint,
    ):
        yield endpoint


@pytest.fixture(scope="session")
def invoke(endpoint: Endpoint) -> Invoke:
    """Hand an event to the function, which has 29 seconds unless told otherwise."""
    with mock.patch.dict(os.environ, AWS_ENDPOINT_URL_DYNAMODB=endpoint.url):
        from checkpoints.app import lambda_handler  # noqa: PLC0415 connects when imported

    def invoke(event: Any, milliseconds: int = 29_000) -> Answer:  # noqa: ANN401 any event
        context = lambda_context(milliseconds)
        answer = read_answer(lambda_handler(event, context))
        assert context.get_remaining_time_in_millis() > 0  # or Lambda would have killed it
        return answer

    return invoke


@pytest.fixture(scope="session")
def call(invoke: Invoke) -> Call:
    """Call the function with an event that `make_event` makes."""

    def call(*, milliseconds: int = 29_000, **event: Any) -> Answer:  # noqa: ANN401
        return invoke(make_event(**event), milliseconds)

    return call


@pytest.fixture
def _impatient(endpoint: Endpoint) -> Iterator[None]:
    """Let the function wait half a second for an answer, or tests of time-outs take minutes."""
    from checkpoints.app import connect  # noqa: PLC0415 once more, connects when imported

    with (
        mock.patch.dict(os.environ, AWS_ENDPOINT_URL_DYNAMODB=endpoint.url),
        mock.patch.object(dynamodb, "CONNECT_SECONDS", 0.5),
        mock.patch.object(dynamodb, "READ_SECONDS", 0.5),
    ):
        connect.cache_clear()
        connect()
        yield
    with mock.patch.dict(os.environ, AWS_ENDPOINT_URL_DYNAMODB=endpoint.url):
        connect.cache_clear()
        connect()


@pytest.fixture(autouse=True)
def _fresh_tables(endpoint: Endpoint) -> None:
    """Begin with no checkpoint, one good token, and an endpoint in order."""
    clear_tables()
    put_token(TOKEN, entity=ENTITY)
    endpoint.heal()
