"""Behaviour that is the same for every request."""

import gc
from typing import Any
from urllib.parse import quote

import pytest

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
    query,
)

AUTHORIZATION = {"Authorization": f"Bearer {TOKEN}"}
NOT_FOUND = Response(404, JSON, {"detail": "Not Found"})


@pytest.fixture(autouse=True)
def _one_checkpoint(_fresh_tables: None) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)


@pytest.mark.parametrize(
    "event",
    [
        *({"method": method} for method in ("HEAD", "POST", "")),
        {"path": "/"},
        {"path": f"/v1/preview/models/{MODEL}"},
        {"path": "/v1/preview/models//checkpoints"},
        {"path": f"/v1/preview/models/{MODEL}/x/checkpoints"},
        {"path": f"/v1/preview/models/{MODEL}/checkpoints/1"},
        {"path": f"/V1/preview/models/{MODEL}/checkpoints"},
        {"path": f"/v1/preview/models/other/checkpoints/v1/preview/models/{MODEL}/checkpoints"},
        {"path": f"//v1/preview/models/{MODEL}/checkpoints"},
        {"path": f"/ml/v1/preview/models/{MODEL}/checkpoints", "resource": "/{proxy+}"},
        {"path": f"/v1/preview/models/{MODEL}/checkpoints/", "resource": "/{proxy+}"},
    ],
    ids=str,
)
def test_rejects_other_methods_and_paths(call: Call, event: dict[str, str]) -> None:
    for token in (TOKEN, None):
        assert NOT_FOUND == call(**event, steps=[1], token=token)
    assert {MODEL: {1}} == stored_checkpoints()


@pytest.mark.parametrize(
    ("encoded", "model_id"),
    [
        ("a%20b", "a b"),
        ("a+b", "a+b"),
        ("a%2Fb", "a/b"),
        ("%C3%A9t%C3%A9", "été"),
        ("été", "été"),
        ("a%2520b", "a%20b"),
        ("100%", "100%"),
        ("a%0Ab%00", "a\nb\0"),
        ("%3Cmodel_id%3E", "<model_id>"),
        ("..", ".."),
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
        {"headers": AUTHORIZATION},
        {"pathParameters": {"model_id": "x"}},
        query(model_id="x", steps="2"),
    ],
    ids=["form", "no content type", "another parameter", "query string"],
)
def test_uses_only_the_method_path_token_and_body(call: Call, event: dict[str, Any]) -> None:
    assert deleted(1, [2]) == call(steps=[1, 2], **event)


@pytest.mark.parametrize("base_path", ["/ml", "/ml/platform-2.0", "/v1", "/v1/preview", "/%C3%A9"])
def test_works_behind_a_custom_domain_with_a_base_path(call: Call, base_path: str) -> None:
    """The base path is no part of the model id, although the two can look alike."""
    model_id = "x/v1/preview/models/y"
    for each in (model_id, "y"):
        put_checkpoints(each, [1], entity=ENTITY)
    models = f"{base_path}/v1/preview/models"

    assert deleted(1, [2]) == call(path=f"{models}/{MODEL}/checkpoints", steps=[1, 2])
    assert deleted(1) == call(path=f"{models}/{quote(model_id, safe='')}/checkpoints", steps=[1])
    assert NOT_FOUND == call(path=f"{models}/{model_id}/checkpoints", steps=[1])
    assert NOT_FOUND == call(path=f"{models}/{MODEL}", steps=[1])
    assert {"y": {1}} == stored_checkpoints()


@pytest.mark.parametrize("event", [None, {}, {"version": "2.0", "rawPath": "/"}])
def test_returns_500_for_an_event_of_another_source(invoke: Invoke, event: object) -> None:
    assert INTERNAL_SERVER_ERROR == invoke(event)


def test_garbage_is_collected_again_after_the_imports() -> None:
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
