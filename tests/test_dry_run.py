"""A dry run says what the deletion would return, and deletes nothing."""

import base64
import json
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints.api import app
from emulators.dynamodb import put_checkpoints, put_token, stored_checkpoints
from emulators.invocation import lambda_context
from events import (
    ENTITY,
    INTERNAL_SERVER_ERROR,
    MODEL,
    NOTHING_DELETED,
    Call,
    deleted,
    error,
    invalid,
    make_event,
    query,
    would_delete,
)
from faulty_dynamodb import Endpoint, pass_on, reject

READS = {"GetItem", "Query", "BatchGetItem"}


def in_query(*values: object) -> dict[str, Any]:
    """Return the parts of an event that have the values of `dry_run` in the query."""
    return query(dry_run=[*values])


def body(steps: list[int], **others: object) -> str:
    return json.dumps({"steps": steps} | others)


BASE64 = base64.b64encode(body([1, 2], dry_run=True).encode()).decode()


@pytest.mark.parametrize(
    "wish",
    [
        {"body": body([1, 2], dry_run=True)},
        {"body": BASE64, "isBase64Encoded": True},
        {"body": body([1, 2]), **in_query("true")},
        {"body": body([1, 2], dry_run=True), **in_query("true")},
        {"body": body([1, 2], dry_run=True), **in_query("false")},
        {"body": body([1, 2], dry_run=False), **in_query("true")},
        {"body": body([1, 2]), **in_query("true", "false")},
        {"body": body([1, 2]), "queryStringParameters": {"dry_run": "true"}},
        {"body": body([1, 2]), "multiValueQueryStringParameters": {"dry_run": ["true"]}},
    ],
)
def test_says_what_would_be_deleted_and_deletes_nothing(
    call: Call, endpoint: Endpoint, wish: dict[str, Any]
) -> None:
    """It is enough if the body or one value of the query says so."""
    put_checkpoints(MODEL, [1, 3], entity=ENTITY)

    assert would_delete(1, [2]) == call(**wish)
    assert ["GetItem", "BatchGetItem"] == endpoint.calls
    assert {MODEL: {1, 3}} == stored_checkpoints()


# Other letters, more letters or digits, or fewer.
OTHER_NAMES = ["dry_runs", "dry_run2", "is_dry_run", "dry", "dr\u0443_run", "dry_r\xfan", "", "_"]


@pytest.mark.parametrize(
    "no_wish",
    [
        {"body": body([1], dry_run=False)},
        {"body": body([1]), **in_query("false", "false")},
        {"body": body([1], dry_run=False, options={"dry_run": True, "dryRun": True})},
        {"body": body([1], note="dry_run", list=["dryRun", {"dryRun": True}])},
        *({"body": body([1], **{name: True})} for name in OTHER_NAMES),
        *({"body": body([1]), **query(**{name: "true"})} for name in OTHER_NAMES),
    ],
)
def test_deletes_if_dry_run_is_not_true(call: Call, no_wish: dict[str, Any]) -> None:
    put_checkpoints(MODEL, [1, 2], entity=ENTITY)

    assert deleted(1) == call(**no_wish)
    assert {MODEL: {2}} == stored_checkpoints()


NO_BOOLEANS: list[object] = ["true", "false", "", 1, 0, 1.0, None, [], [True], {}]
NO_BOOLEANS_IN_A_QUERY = ["", "1", "0", "True", "FALSE", "yes", "true ", "true,false", "null"]
IN_QUERY = error(["query", "dry_run"], "bool_parsing", "Input should be true or false")
IN_BODY = error(["body", "dry_run"], "bool_type", "Input should be a valid boolean")
NO_STEPS = error(["body", "steps"], "missing", "Field required")
REPEATED = error(["body"], "json_invalid", "Invalid JSON: the key dry_run is repeated")


@pytest.mark.parametrize(
    ("event", "errors"),
    [
        *(({"body": body([1], dry_run=value)}, [IN_BODY]) for value in NO_BOOLEANS),
        *(({"body": body([1]), **in_query(value)}, [IN_QUERY]) for value in NO_BOOLEANS_IN_A_QUERY),
        ({"body": body([1]), **in_query("true", "maybe")}, [IN_QUERY]),
        ({"body": body([1]), **in_query("maybe", "true")}, [IN_QUERY]),
        ({"body": body([1]), "queryStringParameters": {"dry_run": None}}, [IN_QUERY]),
        ({"body": body([1]), "multiValueQueryStringParameters": {"dry_run": None}}, [IN_QUERY]),
        ({"body": body([1]), "multiValueQueryStringParameters": {"dry_run": [None]}}, [IN_QUERY]),
        ({"body": body([1], dry_run=True), **in_query("no", "no")}, [IN_QUERY]),
        ({"body": body([1], dry_run=1), **in_query("1")}, [IN_QUERY, IN_BODY]),
        ({"body": "{}", **in_query("true")}, [NO_STEPS]),
        ({"body": '{"dry_run": 1}', **in_query("1")}, [IN_QUERY, NO_STEPS, IN_BODY]),
        ({"body": '{"steps": [1], "dry_run": true, "dry_run": false}'}, [REPEATED]),
        ({"body": '{"dry_run": "yes", "steps": [1], "dry_run": false}'}, [REPEATED]),
        ({"body": r'{"steps": [1], "dry\u005frun": true, "dry_run": false}'}, [REPEATED]),
    ],
)
def test_rejects_anything_but_a_boolean(
    call: Call, endpoint: Endpoint, event: dict[str, Any], errors: list[dict[str, object]]
) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)

    assert invalid(*errors) == call(**event)
    assert ["GetItem"] == endpoint.calls
    assert {MODEL: {1}} == stored_checkpoints()


# `dry_run` but for case, for characters that are neither letters nor digits, and for full width.
MISSPELLED = [
    *(
        "dryRun",
        "DryRun",
        "dryrun",
        "DRY_RUN",
        "Dry_Run",
        "dry-run",
        "dry.run",
        "dry run",
        " dry_run",
    ),
    *(
        "dry_run[]",
        "dry__run",
        "_dry_run",
        "dry_run:",
        "d_r_y_r_u_n",
        "dry\u200b_run",
        "dry_run\ufe0f",
    ),
    *(
        "\uff44\uff52\uff59\uff3f\uff52\uff55\uff4e",
        "\uff24ry\u2014RUN",
        'dry"run',
        "dry\\run",
        "dry\0run",
    ),
]


def misspelled(place: str, name: str) -> dict[str, object]:
    return error([place, name], "misspelled_name", "The name should be spelled dry_run")


def test_rejects_a_spelling_that_is_not_unicode(call: Call) -> None:
    assert invalid(misspelled("query", "dry?run")) == call(
        steps=[1], **query(**{"dry\ud800run": 1})
    )


@pytest.mark.parametrize("name", MISSPELLED)
@pytest.mark.parametrize("value", [True, False])
def test_rejects_another_spelling(call: Call, endpoint: Endpoint, name: str, value: object) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)

    for ascii_only in (True, False):
        in_body = json.dumps({"steps": [1], name: value}, ensure_ascii=ascii_only)
        assert invalid(misspelled("body", name)) == call(body=in_body)
    for parameters in query(**{name: value}).items():
        assert invalid(misspelled("query", name)) == call(steps=[1], **dict([parameters]))
    assert {"GetItem"} == set(endpoint.calls)
    assert {MODEL: {1}} == stored_checkpoints()


@pytest.mark.parametrize(
    ("event", "errors"),
    [
        ({"body": r'{"steps": [1], "\u0064ryRun": true}'}, [misspelled("body", "dryRun")]),
        ({"body": '{"dryRun": true, "steps": [1], "dryRun": 1}'}, [misspelled("body", "dryRun")]),
        ({"body": body([1], dry_run=True, DRYRUN=1, dryRun=1)}, [misspelled("body", "DRYRUN")]),
        ({"body": body([1]), **query(dry_run="true", dryrun="1")}, [misspelled("query", "dryrun")]),
        (
            {"body": body([1], dryRun=True), **query(dry_run="1", Dry_run="")},
            [IN_QUERY, misspelled("query", "Dry_run"), misspelled("body", "dryRun")],
        ),
        (
            {"body": body([1], **{"dry" + 200 * "_" + "run": True})},
            [misspelled("body", "dry" + 97 * "_")],
        ),
    ],
    ids=["escaped", "repeated", "two", "beside the right one", "in both places", "long"],
)
def test_names_the_first_misspelling_in_each_place(
    call: Call, event: dict[str, Any], errors: list[dict[str, object]]
) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)

    assert invalid(*errors) == call(**event)
    assert {MODEL: {1}} == stored_checkpoints()


def test_a_list_ignores_parameters_for_a_dry_run(call: Call) -> None:
    put_token("reader", entity=ENTITY, scopes=["checkpoints:read"])

    assert 200 == call(method="GET", token="reader", **query(dryRun="true")).status


@pytest.mark.parametrize(
    ("wish", "more"), [("true", ',"dry_run":true'), ("false", "")], ids=["dry run", "deletion"]
)
def test_marks_only_the_response_to_a_dry_run(wish: str, more: str) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)

    response = app.lambda_handler(make_event(steps=[1, 2], **in_query(wish)), lambda_context())

    assert f'{{"deleted_count":1,"not_found_steps":[2]{more}}}' == response["body"]


@pytest.mark.parametrize(
    ("token", "status"), [(None, 401), ("unknown", 401), ("under-scoped", 403)]
)
@pytest.mark.parametrize("value", ["true", "maybe"])
def test_needs_the_same_scope_as_the_deletion(
    call: Call, token: str | None, status: int, value: str
) -> None:
    put_token("under-scoped", entity=ENTITY, scopes=["checkpoints:read"])

    dry = call(steps=[1], token=token, **in_query(value))

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
def test_the_dry_run_and_the_deletion_return_the_exact_counts(
    call: Call, endpoint: Endpoint, owners: dict[int, str], asked: list[int], *, many: bool
) -> None:
    model_id = str(next(numbers))  # a new one for each example
    for step, owner in owners.items():
        put_checkpoints(model_id, [step], entity=owner)
    steps = [*asked, *range(18, 140)] if many else asked
    own = {step for step, owner in owners.items() if owner == ENTITY}
    expected = len(own & set(steps)), [s for s in dict.fromkeys(steps) if s not in own]
    endpoint.heal()

    assert would_delete(*expected) == call(model_id=model_id, body=body(steps, dry_run=True))
    assert set(endpoint.calls) <= READS
    assert set(owners) == stored_checkpoints().get(model_id, set())

    assert deleted(*expected) == call(model_id=model_id, steps=steps)
    assert set(owners) - (own & set(steps)) == stored_checkpoints().get(model_id, set())


@pytest.mark.parametrize("number", [100, 101, 2_000])
def test_works_with_any_number_of_steps(call: Call, endpoint: Endpoint, number: int) -> None:
    put_checkpoints(MODEL, range(0, number, 2), entity=ENTITY)

    dry = call(steps=list(range(number)), **in_query("true"))

    assert would_delete((number + 1) // 2, range(1, number, 2)) == dry
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
    assert would_delete(0, steps) == call(steps=steps, model_id=model_id, **in_query("true"))
    assert ["GetItem"] == endpoint.calls


def test_recovers_from_a_short_fault(call: Call, endpoint: Endpoint) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)
    endpoint.fail("BatchGetItem", reject(400, "ThrottlingException"), pass_on)

    assert would_delete(1) == call(steps=[1], **in_query("true"))


@pytest.mark.parametrize(("number", "read"), [(1, "BatchGetItem"), (101, "Query")])
def test_returns_503_if_the_database_is_not_available_and_500_without_permission(
    call: Call, endpoint: Endpoint, number: int, read: str
) -> None:
    put_checkpoints(MODEL, range(number), entity=ENTITY)

    endpoint.keep_failing(read, reject(500, "InternalServerError"))
    assert NOTHING_DELETED == call(steps=list(range(number)), **in_query("true"))

    endpoint.keep_failing(read, reject(400, "AccessDeniedException"))
    assert INTERNAL_SERVER_ERROR == call(steps=list(range(number)), **in_query("true"))
