"""Behaviour that is the same for every request."""

import base64
import gc
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest

from checkpoints.api import app
from emulators.dynamodb import put_checkpoints, stored_checkpoints
from events import (
    ENTITY,
    INTERNAL_SERVER_ERROR,
    JSON,
    MODEL,
    TOKEN,
    Call,
    Invoke,
    Response,
    deleted,
    error,
    invalid,
    make_event,
    query,
)
from published import read_response

AUTHORIZATION = {"Authorization": f"Bearer {TOKEN}"}
NOT_FOUND = Response(404, JSON, {"detail": "Not Found"})


@pytest.fixture(autouse=True)
def _one_checkpoint(_fresh_tables: None) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)


@pytest.mark.parametrize("token", [TOKEN, None], ids=["with a token", "without a token"])
@pytest.mark.parametrize(
    "event",
    [
        *({"method": method} for method in ("HEAD", "POST", "PUT", "PATCH", "OPTIONS", "")),
        {"path": "/"},
        {"path": ""},
        {"path": "/v1/preview/models"},
        {"path": f"/v1/preview/models/{MODEL}"},
        {"path": "/v1/preview/models//checkpoints"},
        {"path": f"/v1/preview/models/{MODEL}/x/checkpoints"},
        {"path": f"/v1/preview/models/{MODEL}/checkpoints/1"},
        {"path": f"/V1/preview/models/{MODEL}/checkpoints"},
        {"path": f"/v1/preview/models/other/checkpoints/v1/preview/models/{MODEL}/checkpoints"},
        {"path": f"//v1/preview/models/{MODEL}/checkpoints"},
        {"path": "/" + "x" * 10_000},
        {"path": f"/ml/v1/preview/models/{MODEL}/checkpoints", "resource": "/{proxy+}"},
        {"path": f"/v1/preview/models/{MODEL}/checkpoints/", "resource": "/{proxy+}"},
    ],
    ids=lambda event: str(event)[:80],
)
def test_rejects_other_methods_and_paths(
    call: Call, event: dict[str, str], token: str | None
) -> None:
    assert NOT_FOUND == call(**event, steps=[1], token=token)
    assert {MODEL: {1}} == stored_checkpoints()


@pytest.mark.parametrize(
    ("encoded", "model_id"),
    [
        pytest.param("a%20b", "a b", id="space"),
        pytest.param("a+b", "a+b", id="plus is a plus"),
        pytest.param("a%2Bb", "a+b", id="encoded plus"),
        pytest.param("a%2Fb", "a/b", id="slash"),
        pytest.param("%C3%A9t%C3%A9", "été", id="not ASCII"),
        pytest.param("été", "été", id="not ASCII and not encoded"),
        pytest.param("a%2520b", "a%20b", id="decoded once"),
        pytest.param("100%", "100%", id="a percent sign that encodes nothing"),
        pytest.param("%00", "\0", id="null character"),
        pytest.param("%F0%9F%9A%80", "🚀", id="beyond the basic plane"),
        pytest.param("a%0Ab", "a\nb", id="newline"),
        pytest.param("%3Cmodel_id%3E", "<model_id>", id="angle brackets"),
        pytest.param("..", "..", id="dots"),
    ],
)
def test_decodes_the_model_id_once(call: Call, encoded: str, model_id: str) -> None:
    put_checkpoints(model_id, [1, 2], entity=ENTITY)

    assert deleted(1, [3]) == call(path=f"/v1/preview/models/{encoded}/checkpoints", steps=[1, 3])
    assert {MODEL: {1}, model_id: {2}} == stored_checkpoints()


@pytest.mark.parametrize("encoded", ["%FF", "a%C3", "%ED%A0%80"])
def test_rejects_a_model_id_that_is_not_utf_8(call: Call, encoded: str) -> None:
    put_checkpoints("\ufffd", [1], entity=ENTITY)

    response = call(path=f"/v1/preview/models/{encoded}/checkpoints", steps=[1])

    message = "Input should be percent-encoded UTF-8"
    assert invalid(error(["path", "model_id"], "string_unicode", message)) == response
    assert {MODEL: {1}, "\ufffd": {1}} == stored_checkpoints()


@pytest.mark.parametrize(
    "event",
    [
        {"headers": AUTHORIZATION | {"Content-Type": "application/x-www-form-urlencoded"}},
        {"headers": AUTHORIZATION | {"Content-Type": "text/plain; charset=utf-16"}},
        {"headers": AUTHORIZATION},
        {"body": base64.b64encode(b'{"steps": [1, 2]}').decode(), "isBase64Encoded": True},
        {"pathParameters": {"model_id": "x"}},
        query(model_id="x", steps="2"),
    ],
    ids=["form", "text", "no content type", "base64", "another parameter", "query string"],
)
def test_uses_only_the_method_path_token_and_body(call: Call, event: dict[str, Any]) -> None:
    assert deleted(1, [2]) == call(**{"steps": [1, 2]} | event)


@pytest.mark.parametrize("base_path", ["/ml", "/ml/platform-2.0", "/v1", "/v1/preview", "/%C3%A9"])
def test_works_behind_a_custom_domain_with_a_base_path(call: Call, base_path: str) -> None:
    path = f"{base_path}/v1/preview/models/{MODEL}/checkpoints"
    context = {
        "resourcePath": "/v1/preview/models/{model_id}/checkpoints",
        "path": path,
        "stage": "prod",
        "domainName": "api.example.com",
        "domainPrefix": "api",
        "requestId": "gateway-request-1",
    }

    assert deleted(1, [2]) == call(path=path, requestContext=context, steps=[1, 2])
    assert {} == stored_checkpoints()
    assert NOT_FOUND == call(path=f"{base_path}/v1/preview/models/{MODEL}", requestContext=context)


def test_a_base_path_does_not_change_the_model_id(call: Call) -> None:
    model_id = "x/v1/preview/models/y"
    put_checkpoints(model_id, [1], entity=ENTITY)
    put_checkpoints("y", [1], entity=ENTITY)
    encoded = quote(model_id, safe="")

    assert deleted(1) == call(path=f"/ml/v1/preview/models/{encoded}/checkpoints", steps=[1])
    assert NOT_FOUND == call(path=f"/ml/v1/preview/models/{model_id}/checkpoints", steps=[1])
    assert {MODEL: {1}, "y": {1}} == stored_checkpoints()


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(None, id="null"),
        pytest.param([], id="a list"),
        pytest.param("event", id="a string"),
        pytest.param({}, id="empty"),
        pytest.param({"path": None, "httpMethod": None}, id="null path and method"),
        pytest.param({"version": "2.0", "rawPath": "/"}, id="of an HTTP API"),
        pytest.param(make_event() | {"headers": [], "multiValueHeaders": 7}, id="headers"),
    ],
)
def test_returns_500_for_an_event_of_another_kind(invoke: Invoke, event: object) -> None:
    assert INTERNAL_SERVER_ERROR == invoke(event)


@pytest.mark.parametrize(
    ("event", "status"),
    [
        pytest.param(make_event(path="/v1/\ud800"), 404, id="path that is not Unicode"),
        pytest.param(make_event(requestContext=None, steps=[1]), 200, id="null request context"),
        pytest.param(make_event() | {"body": 7}, 422, id="a number as body"),
        pytest.param(make_event() | {"body": {"steps": [1]}}, 422, id="an object as body"),
    ],
)
def test_handles_values_that_no_gateway_sends(invoke: Invoke, event: object, status: int) -> None:
    assert status == invoke(event).status


@pytest.mark.parametrize(
    "context",
    [None, SimpleNamespace(get_remaining_time_in_millis=lambda: 29_000)],
    ids=["none", "incomplete"],
)
def test_returns_500_without_a_complete_context(context: Any) -> None:
    event = make_event(steps=[1])

    assert INTERNAL_SERVER_ERROR == read_response(event, app.lambda_handler(event, context))
    assert {MODEL: {1}} == stored_checkpoints()


def test_garbage_is_collected_again_after_the_imports() -> None:
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
