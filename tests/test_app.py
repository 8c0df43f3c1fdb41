"""Behaviour that is the same for every request."""

import base64
import gc
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest

from checkpoints import app
from emulators.dynamodb import put_checkpoints, stored_checkpoints
from events import (
    ENTITY,
    INTERNAL_SERVER_ERROR,
    JSON,
    MODEL,
    TOKEN,
    Answer,
    Call,
    Invoke,
    make_event,
    read_answer,
)

NOT_FOUND = Answer(404, JSON, {"detail": "Not Found"})


@pytest.fixture(autouse=True)
def _one_checkpoint(_fresh_tables: None) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "PATCH", "OPTIONS", ""])
def test_rejects_other_methods(call: Call, method: str) -> None:
    assert NOT_FOUND == call(method=method, steps=[1])
    assert {MODEL: {1}} == stored_checkpoints()


@pytest.mark.parametrize("token", [TOKEN, None], ids=["with a token", "without a token"])
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/v1/preview/models",
        f"/v1/preview/models/{MODEL}",
        "/v1/preview/models//checkpoints",
        f"/v1/preview/models/{MODEL}/x/checkpoints",
        f"/v1/preview/models/{MODEL}/checkpoints/1",
        f"/V1/preview/models/{MODEL}/checkpoints",
        f"/v1/preview/models/other/checkpoints/v1/preview/models/{MODEL}/checkpoints",
        f"//v1/preview/models/{MODEL}/checkpoints",
        "/" + "x" * 10_000,
    ],
)
def test_rejects_other_paths(call: Call, path: str, token: str | None) -> None:
    assert NOT_FOUND == call(path=path, steps=[1], token=token)
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

    answer = call(path=f"/v1/preview/models/{encoded}/checkpoints", steps=[1, 3])

    assert Answer(200, JSON, {"deleted_count": 1, "not_found_steps": [3]}) == answer
    assert {MODEL: {1}, model_id: {2}} == stored_checkpoints()


@pytest.mark.parametrize("encoded", ["%FF", "a%C3", "%ED%A0%80"])
def test_rejects_a_model_id_that_is_not_utf_8(call: Call, encoded: str) -> None:
    put_checkpoints("\ufffd", [1], entity=ENTITY)

    answer = call(path=f"/v1/preview/models/{encoded}/checkpoints", steps=[1])

    error = {
        "loc": ["path", "model_id"],
        "msg": "Input should be percent-encoded UTF-8",
        "type": "string_unicode",
    }
    assert Answer(422, JSON, {"detail": [error]}) == answer
    assert {MODEL: {1}, "\ufffd": {1}} == stored_checkpoints()


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "text/plain; charset=utf-16"},
        {"Content-Type": ""},
        {},
    ],
    ids=["form", "text", "empty", "absent"],
)
def test_reads_the_body_as_json_whatever_the_content_type_is(
    call: Call, headers: dict[str, str]
) -> None:
    answer = call(headers={"Authorization": f"Bearer {TOKEN}", **headers}, steps=[1])

    assert Answer(200, JSON, {"deleted_count": 1, "not_found_steps": []}) == answer


def test_reads_a_base64_body(call: Call) -> None:
    body = base64.b64encode(b'{"steps": [1, 2]}').decode()

    answer = call(body=body, isBase64Encoded=True)

    assert Answer(200, JSON, {"deleted_count": 1, "not_found_steps": [2]}) == answer


def test_routes_on_the_path_whatever_the_resource_is(call: Call) -> None:
    answer = call(steps=[1], resource="/{proxy+}", pathParameters={"proxy": "something/else"})

    assert Answer(200, JSON, {"deleted_count": 1, "not_found_steps": []}) == answer


@pytest.mark.parametrize("base_path", ["/ml", "/ml/platform-2.0", "/v1", "/v1/preview", "/%C3%A9"])
def test_answers_behind_a_custom_domain_with_a_base_path(call: Call, base_path: str) -> None:
    path = f"{base_path}/v1/preview/models/{MODEL}/checkpoints"
    context = {
        "resourcePath": "/v1/preview/models/{model_id}/checkpoints",
        "path": path,
        "stage": "prod",
        "domainName": "api.example.com",
        "domainPrefix": "api",
        "requestId": "gateway-request-1",
    }

    answer = call(path=path, requestContext=context, steps=[1, 2])

    assert Answer(200, JSON, {"deleted_count": 1, "not_found_steps": [2]}) == answer
    assert {} == stored_checkpoints()
    assert NOT_FOUND == call(path=f"{base_path}/v1/preview/models/{MODEL}", requestContext=context)


def test_a_base_path_leaves_the_model_id_as_it_is(call: Call) -> None:
    model_id = "x/v1/preview/models/y"
    put_checkpoints(model_id, [1], entity=ENTITY)
    put_checkpoints("y", [1], entity=ENTITY)
    encoded = quote(model_id, safe="")

    answer = call(path=f"/ml/v1/preview/models/{encoded}/checkpoints", steps=[1])

    assert Answer(200, JSON, {"deleted_count": 1, "not_found_steps": []}) == answer
    assert NOT_FOUND == call(path=f"/ml/v1/preview/models/{model_id}/checkpoints", steps=[1])
    assert {MODEL: {1}, "y": {1}} == stored_checkpoints()


def test_ignores_a_query_string(call: Call) -> None:
    answer = call(steps=[1], queryStringParameters={"model_id": "x", "steps": "2"})

    assert Answer(200, JSON, {"deleted_count": 1, "not_found_steps": []}) == answer


@pytest.mark.parametrize(
    ("event", "status"),
    [
        pytest.param(None, 500, id="null"),
        pytest.param([], 500, id="a list"),
        pytest.param("event", 500, id="a string"),
        pytest.param({}, 500, id="empty"),
        pytest.param({"path": None, "httpMethod": None}, 500, id="null path and method"),
        pytest.param({"version": "2.0", "rawPath": "/"}, 500, id="of an HTTP API"),
        pytest.param(make_event() | {"headers": [], "multiValueHeaders": 7}, 500, id="headers"),
        pytest.param(make_event(path="/v1/\ud800"), 404, id="path that is not Unicode"),
        pytest.param(make_event(requestContext=None, steps=[1]), 200, id="null request context"),
        pytest.param(make_event() | {"body": 7}, 422, id="a number for a body"),
        pytest.param(make_event() | {"body": {"steps": [1]}}, 422, id="an object for a body"),
    ],
)
def test_answers_events_that_no_gateway_sends(invoke: Invoke, event: object, status: int) -> None:
    answer = invoke(event)

    assert status == answer.status
    if status == 500:
        assert INTERNAL_SERVER_ERROR == answer


@pytest.mark.parametrize(
    ("context", "status"),
    [
        pytest.param(None, 500, id="none"),
        pytest.param(SimpleNamespace(get_remaining_time_in_millis=lambda: 29_000), 500, id="bare"),
    ],
)
def test_answers_whatever_the_context_is(context: Any, status: int) -> None:
    answer = read_answer(app.lambda_handler(make_event(steps=[1]), context))

    assert status == answer.status
    assert ({MODEL: {1}} if status == 500 else {}) == stored_checkpoints()


def test_handles_the_next_request_after_a_failure(invoke: Invoke, call: Call) -> None:
    invoke(None)

    assert Answer(200, JSON, {"deleted_count": 1, "not_found_steps": []}) == call(steps=[1])


def test_garbage_is_collected_again_after_the_imports() -> None:
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
