"""A dry run returns the same response as the deletion, and deletes nothing."""

import base64
import json
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulators.dynamodb import put_checkpoints, put_token, stored_checkpoints
from events import ENTITY, INTERNAL_SERVER_ERROR, JSON, MODEL, Answer, Call
from faulty_dynamodb import Endpoint, pass_on, reject

READS = {"GetItem", "Query", "BatchGetItem"}


def query(*values: str) -> dict[str, Any]:
    """Return the parts of an event that have the values of `dry_run` in the query."""
    return {
        "queryStringParameters": {"dry_run": values[-1]},
        "multiValueQueryStringParameters": {"dry_run": list(values)},
    }


def body(steps: list[int], **others: object) -> str:
    return json.dumps({"steps": steps} | others)


def answer(deleted_count: int, not_found: list[int]) -> Answer:
    return Answer(200, JSON, {"deleted_count": deleted_count, "not_found_steps": not_found})


@pytest.mark.parametrize(
    "wish",
    [
        {"body": body([1, 2], dry_run=True)},
        {"body": body([1, 2]), **query("true")},
        {"body": body([1, 2], dry_run=True), **query("true")},
        {"body": body([1, 2], dry_run=True), **query("false")},
        {"body": body([1, 2], dry_run=False), **query("true")},
        {"body": body([1, 2]), **query("true", "false")},
        {"body": body([1, 2]), "queryStringParameters": {"dry_run": "true"}},
        {"body": body([1, 2]), "multiValueQueryStringParameters": {"dry_run": ["true"]}},
        {
            "body": base64.b64encode(body([1, 2], dry_run=True).encode()).decode(),
            "isBase64Encoded": True,
        },
    ],
    ids=[
        "in the body",
        "in the query",
        "in both",
        "in the body alone",
        "in the query alone",
        "in the query once of twice",
        "in the query, single values",
        "in the query, multiple values",
        "in a base64 body",
    ],
)
def test_tells_what_would_be_deleted_and_deletes_nothing(
    call: Call, endpoint: Endpoint, wish: dict[str, Any]
) -> None:
    put_checkpoints(MODEL, [1, 3], entity=ENTITY)
    endpoint.heal()

    assert answer(1, [2]) == call(**wish)
    assert ["GetItem", "BatchGetItem"] == endpoint.calls
    assert {MODEL: {1, 3}} == stored_checkpoints()


@pytest.mark.parametrize(
    "no_wish",
    [
        {"body": body([1], dry_run=False)},
        {"body": body([1]), **query("false")},
        {"body": body([1]), **query("false", "false")},
        {"body": body([1], dryRun=True, options={"dry_run": True})},
        {"body": body([1]), "queryStringParameters": {"DRY_RUN": "true"}},
        {"body": '{"steps": [1], "dry_run": false, "options": {"dry_run": true}}'},
    ],
    ids=["body", "query", "query twice", "other keys", "another parameter", "a key further down"],
)
def test_deletes_if_dry_run_is_not_true(call: Call, no_wish: dict[str, Any]) -> None:
    put_checkpoints(MODEL, [1, 2], entity=ENTITY)

    assert answer(1, []) == call(**no_wish)
    assert {MODEL: {2}} == stored_checkpoints()


NO_BOOLEANS: list[object] = ["true", "false", "", 1, 0, 1.0, None, [], [True], {}]
NO_BOOLEANS_IN_A_QUERY = ["", "1", "0", "True", "FALSE", "yes", "true ", "true,false", "null"]
IN_QUERY = {
    "loc": ["query", "dry_run"],
    "msg": "Input should be true or false",
    "type": "bool_parsing",
}
IN_BODY = {
    "loc": ["body", "dry_run"],
    "msg": "Input should be a valid boolean",
    "type": "bool_type",
}
NO_STEPS = {"loc": ["body", "steps"], "msg": "Field required", "type": "missing"}
REPEATED = {
    "loc": ["body"],
    "msg": "Invalid JSON: the key dry_run is repeated",
    "type": "json_invalid",
}


@pytest.mark.parametrize(
    ("event", "errors"),
    [
        *(({"body": body([1], dry_run=value)}, [IN_BODY]) for value in NO_BOOLEANS),
        *(({"body": body([1]), **query(value)}, [IN_QUERY]) for value in NO_BOOLEANS_IN_A_QUERY),
        ({"body": body([1]), **query("true", "maybe")}, [IN_QUERY]),
        ({"body": body([1]), "queryStringParameters": {"dry_run": None}}, [IN_QUERY]),
        ({"body": body([1]), "multiValueQueryStringParameters": {"dry_run": None}}, [IN_QUERY]),
        ({"body": body([1]), "multiValueQueryStringParameters": {"dry_run": [None]}}, [IN_QUERY]),
        ({"body": body([1]), **query("maybe", "true")}, [IN_QUERY]),
        ({"body": body([1], dry_run=True), **query("no", "no")}, [IN_QUERY]),
        ({"body": body([1], dry_run=1), **query("1")}, [IN_QUERY, IN_BODY]),
        ({"body": "{}", **query("true")}, [NO_STEPS]),
        ({"body": '{"dry_run": 1}', **query("1")}, [IN_QUERY, NO_STEPS, IN_BODY]),
        ({"body": '{"steps": [1], "dry_run": true, "dry_run": false}'}, [REPEATED]),
        ({"body": '{"dry_run": "yes", "steps": [1], "dry_run": false}'}, [REPEATED]),
        ({"body": r'{"steps": [1], "dry\u005frun": true, "dry_run": false}'}, [REPEATED]),
    ],
)
def test_rejects_anything_but_a_boolean(
    call: Call, endpoint: Endpoint, event: dict[str, Any], errors: list[object]
) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)
    endpoint.heal()

    assert Answer(422, JSON, {"detail": errors}) == call(**event)
    assert ["GetItem"] == endpoint.calls
    assert {MODEL: {1}} == stored_checkpoints()


@pytest.mark.parametrize(
    ("token", "status"), [(None, 401), ("unknown", 401), ("under-scoped", 403)]
)
@pytest.mark.parametrize("value", ["true", "maybe"])
def test_needs_the_same_scope_as_the_deletion(
    call: Call, token: str | None, status: int, value: str
) -> None:
    put_token("under-scoped", entity=ENTITY, scopes=["checkpoints:read"])
    put_checkpoints(MODEL, [1], entity=ENTITY)

    dry = call(steps=[1], token=token, **query(value))

    assert status == dry.status
    assert call(steps=[1], token=token) == dry


numbers = count()
owners = st.dictionaries(
    st.integers(-20, 20), st.sampled_from([ENTITY, "speech-team"]), max_size=20
)
unstorable = st.sampled_from([10**38 + 1, 10**126, -(10**126)])
asked_steps = st.lists(st.integers(-22, 22) | unstorable, max_size=30)


@settings(max_examples=40, deadline=None)
@given(owners=owners, asked=asked_steps, many=st.booleans())
def test_returns_the_same_response_as_the_deletion(
    call: Call,
    endpoint: Endpoint,
    owners: dict[int, str],
    asked: list[int],
    *,
    many: bool,
) -> None:
    model_id = str(next(numbers))  # a new one for each example
    for step, owner in owners.items():
        put_checkpoints(model_id, [step], entity=owner)
    steps = [*asked, *range(18, 140)] if many else asked
    stored = stored_checkpoints()
    endpoint.heal()

    dry = call(model_id=model_id, body=body(steps, dry_run=True))

    assert set(endpoint.calls) <= READS
    assert stored == stored_checkpoints()
    assert call(model_id=model_id, steps=steps) == dry


@pytest.mark.parametrize("number", [100, 101, 2_000])
def test_works_with_any_number_of_steps(call: Call, endpoint: Endpoint, number: int) -> None:
    put_checkpoints(MODEL, range(0, number, 2), entity=ENTITY)
    endpoint.heal()

    dry = call(steps=list(range(number)), **query("true"))

    assert answer((number + 1) // 2, list(range(1, number, 2))) == dry
    assert ["GetItem", "BatchGetItem" if number <= 100 else "Query"] == endpoint.calls
    assert {MODEL: set(range(0, number, 2))} == stored_checkpoints()


@pytest.mark.parametrize(
    ("steps", "model_id"),
    [([], MODEL), ([10**126, 10**38 + 1], MODEL), ([1], "é" * 1_025)],
    ids=["no steps", "steps that no number can hold", "a model id that no key can hold"],
)
def test_reads_nothing_for_impossible_keys(
    call: Call, endpoint: Endpoint, steps: list[int], model_id: str
) -> None:
    assert answer(0, steps) == call(steps=steps, model_id=model_id, **query("true"))
    assert ["GetItem"] == endpoint.calls


@pytest.mark.parametrize("number", [100, 101])
def test_reports_the_current_state(call: Call, endpoint: Endpoint, number: int) -> None:
    call(steps=list(range(number)), **query("true"))

    _, read = endpoint.requests
    (table,) = read["RequestItems"].values() if "RequestItems" in read else [read]
    assert table["ConsistentRead"] is True


def test_recovers_from_a_short_fault(call: Call, endpoint: Endpoint) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)
    endpoint.fail("BatchGetItem", reject(400, "ThrottlingException"), pass_on)

    assert answer(1, []) == call(steps=[1], **query("true"))


@pytest.mark.parametrize(("number", "read"), [(1, "BatchGetItem"), (101, "Query")])
def test_answers_503_with_nothing_deleted_if_the_database_is_not_available(
    call: Call, endpoint: Endpoint, number: int, read: str
) -> None:
    put_checkpoints(MODEL, range(number), entity=ENTITY)
    endpoint.keep_failing(read, reject(500, "InternalServerError"))

    dry = call(steps=list(range(number)), **query("true"))

    assert (503, 0, 0) == (dry.status, dry.body["deleted_count"], dry.body["unconfirmed_count"])
    assert "2" == dry.headers["Retry-After"]
    assert {MODEL: set(range(number))} == stored_checkpoints()


def test_answers_500_without_permission_to_read(call: Call, endpoint: Endpoint) -> None:
    endpoint.keep_failing("BatchGetItem", reject(400, "AccessDeniedException"))

    assert INTERNAL_SERVER_ERROR == call(steps=[1], **query("true"))
