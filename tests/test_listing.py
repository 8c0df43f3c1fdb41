"""Exactly the caller's checkpoints of a model are listed, page by page."""

import json
import os
import time
from itertools import count
from typing import Any

import boto3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints.auth import READ_SCOPE
from checkpoints.reads import MAX_READ_RECORDS
from emulators.dynamodb import put_checkpoints, put_token, stored_checkpoints
from events import ENTITY, INTERNAL_SERVER_ERROR, JSON, MODEL, TOKEN, Answer, Call
from faulty_dynamodb import Endpoint, Reply, pass_on, reject

READER = "a-token-that-reads"
OTHERS = "speech-team"


@pytest.fixture(autouse=True)
def _reader(_fresh_tables: None) -> None:
    put_token(READER, entity=ENTITY, scopes=[READ_SCOPE])


def request(*, token: str | None = READER, **query: Any) -> dict[str, Any]:
    """Return the parts of an event that ask for a page."""
    values = {
        name: [str(value) for value in (given if isinstance(given, list) else [given])]
        for name, given in query.items()
    }
    return {
        "method": "GET",
        "token": token,
        "queryStringParameters": {name: given[-1] for name, given in values.items()} or None,
        "multiValueQueryStringParameters": values or None,
    }


def page(steps: list[int], *, has_more: bool = False) -> Answer:
    """Return the whole answer that lists checkpoints without metrics at these steps."""
    ids = [str(step) for step in steps] or [""]
    return Answer(
        200,
        JSON,
        {
            "object": "list",
            "data": [{"id": str(step), "step": step, "metrics": {}} for step in steps],
            "first_id": ids[0],
            "last_id": ids[-1],
            "has_more": has_more,
        },
    )


def steps_of(answer: Answer) -> list[int]:
    """Return the steps of a response, after checking that it is a valid page."""
    steps = [checkpoint["step"] for checkpoint in answer.body["data"]]
    assert page(steps, has_more=answer.body["has_more"]) == answer
    return steps


def walk(call: Call, **query: Any) -> list[list[int]]:
    """Return the steps of all pages, as a client that follows `last_id` gets them."""
    pages: list[list[int]] = []
    has_more = True
    while has_more:
        answer = call(**request(**query))
        pages.append(steps_of(answer))
        has_more = answer.body["has_more"]
        query["after"] = answer.body["last_id"]
    return pages


def test_lists_checkpoints_with_their_metrics(call: Call) -> None:
    put_checkpoints(MODEL, [7, 100], entity=ENTITY, uri={"S": "s3://x"})
    metrics = {"loss": {"N": "0.25"}, "epoch": {"N": "3"}}
    put_checkpoints(MODEL, [-8], entity=ENTITY, metrics={"M": metrics})

    answer = call(**request())

    assert (
        Answer(
            200,
            JSON,
            {
                "object": "list",
                "data": [
                    {"id": "-8", "step": -8, "metrics": {"loss": 0.25, "epoch": 3}},
                    {"id": "7", "step": 7, "metrics": {}},
                    {"id": "100", "step": 100, "metrics": {}},
                ],
                "first_id": "-8",
                "last_id": "100",
                "has_more": False,
            },
        )
        == answer
    )


@pytest.mark.parametrize(
    ("model_id", "calls"), [("unknown", ["GetItem", "Query"]), ("é" * 1_025, ["GetItem"])]
)
def test_an_unknown_or_too_long_model_id_has_an_empty_list(
    call: Call, endpoint: Endpoint, model_id: str, calls: list[str]
) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)
    endpoint.heal()

    assert page([]) == call(model_id=model_id, **request())
    assert calls == endpoint.calls


# From the smallest that a number can hold to the largest. moto reads 38 digits and no zeros.
LARGE = {-(10**126) + 10**88: f"-{'9' * 38}E+88", 10**125: "1E+125"}
FEW = [1 - 10**38, *range(-120, 0), 0, *range(1, 500, 4), 10**37 + 1]
OWN = sorted([*LARGE, *FEW])


def fill_table() -> None:
    """Save 250 checkpoints of the caller's, and others before, between and after them."""
    put_checkpoints(MODEL, FEW, entity=ENTITY)
    for number in LARGE.values():
        put_checkpoints(MODEL, [0], entity=ENTITY, step={"N": number})
    put_checkpoints(MODEL, [*range(-150, -120), *range(2, 500, 40)], entity=OTHERS)
    put_checkpoints(MODEL, [3], entity=f"{ENTITY}-2")
    put_checkpoints(MODEL, [7], entity="", owner={"S": ENTITY})
    table = os.environ["CHECKPOINTS_TABLE"]
    record = {"model_id": {"S": MODEL}, "step": {"N": "4"}, "owner": {"S": ENTITY}}
    boto3.client("dynamodb").put_item(TableName=table, Item=record)
    for step in ("-0.5", "4.5", "1E-130"):
        put_checkpoints(MODEL, [0], entity=ENTITY, step={"N": step})
    for model_id in (MODEL + "0", MODEL.upper(), MODEL[:-1]):
        put_checkpoints(model_id, range(-3, 3), entity=ENTITY)


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [20, 100])  # pages of one take seconds: tests/e2e has them
def test_the_pages_are_exactly_the_callers_checkpoints(call: Call, limit: int, order: str) -> None:
    fill_table()

    pages = walk(call, limit=limit, order=order)

    assert 250 == len(OWN)
    assert (OWN if order == "asc" else OWN[::-1]) == [step for steps in pages for step in steps]
    full, rest = divmod(250, limit)
    assert [limit] * full + [rest] * (rest > 0) == [len(steps) for steps in pages]


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_listing_continues_if_checkpoints_are_deleted_meanwhile(call: Call, order: str) -> None:
    """Also the checkpoint of the cursor, and others before and after it."""
    put_checkpoints(MODEL, range(100), entity=ENTITY)
    left = set(range(100))
    listed: list[int] = []
    query: dict[str, Any] = {"limit": 7, "order": order}

    while True:
        answer = call(**request(**query))
        steps = steps_of(answer)
        expected = sorted(left, reverse=order == "desc")
        assert [step for step in expected if step not in listed][:7] == steps
        listed += steps
        if not answer.body["has_more"]:
            break
        ahead = sorted(left - set(listed), reverse=order == "desc")[:9:4]
        gone = [steps[-1], steps[0], *ahead]
        assert {"deleted_count": len(set(gone)), "not_found_steps": []} == call(steps=gone).body
        left -= set(gone)
        query["after"] = answer.body["last_id"]

    assert {MODEL: left} == stored_checkpoints()
    assert left <= set(listed)


numbers = count()
owners = st.dictionaries(st.integers(-20, 20), st.sampled_from([ENTITY, OTHERS, ""]), max_size=30)


@settings(max_examples=40, deadline=None)
@given(
    owners=owners,
    after=st.none() | st.integers(-22, 22) | st.sampled_from([10**125, -(10**125)]),
    limit=st.integers(1, 25),
    order=st.sampled_from(["asc", "desc"]),
)
def test_a_page_starts_after_its_cursor_and_has_more_is_exact(
    call: Call, owners: dict[int, str], after: int | None, limit: int, order: str
) -> None:
    model_id = str(next(numbers))  # a new one for each example
    for step, owner in owners.items():
        put_checkpoints(model_id, [step], entity=owner)
    sign = 1 if order == "asc" else -1
    following = sorted(
        (
            step
            for step, owner in owners.items()
            if owner == ENTITY and (after is None or sign * step > sign * after)
        ),
        reverse=order == "desc",
    )
    query: dict[str, Any] = {} if after is None else {"after": after}

    answer = call(model_id=model_id, **request(limit=limit, order=order, **query))

    assert page(following[:limit], has_more=len(following) > limit) == answer


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ({}, page(list(range(20)), has_more=True)),
        ({"limit": 99}, page(list(range(99)), has_more=True)),
        ({"limit": 100}, page(list(range(100)))),
        ({"order": "desc", "limit": 2}, page([99, 98], has_more=True)),
        ({"after": 97}, page([98, 99])),
        ({"after": 1, "order": "desc"}, page([0])),
        ({"after": 99}, page([])),
        ({"after": -5, "order": "desc"}, page([])),
        ({"after": 1_000, "order": "desc", "limit": 1}, page([99], has_more=True)),
        ({"before": 3, "Limit": 3, "AFTER": "x", "limit": 100}, page(list(range(100)))),
        ({"limit": ["0", "x", 1]}, page([0], has_more=True)),
        ({"after": ["x", 97], "order": ["desc", "asc"]}, page([98, 99])),
    ],
)
def test_follows_the_parameters(call: Call, query: dict[str, Any], answer: Answer) -> None:
    """Unknown parameters are ignored. If one is repeated, the last counts."""
    put_checkpoints(MODEL, range(100), entity=ENTITY)

    assert answer == call(**request(**query))


@pytest.mark.parametrize(
    ("place", "three"), [("queryStringParameters", "3"), ("multiValueQueryStringParameters", ["3"])]
)
def test_reads_the_query_from_either_place(call: Call, place: str, three: object) -> None:
    """A REST API fills both, and events from elsewhere perhaps only one."""
    put_checkpoints(MODEL, range(10), entity=ENTITY)
    event = request() | {place: {"limit": three}}

    assert page([0, 1, 2], has_more=True) == call(**event)


def error(parameter: str, kind: str, message: str) -> dict[str, object]:
    return {"loc": ["query", parameter], "msg": message, "type": kind}


NO_INTEGER = (
    "int_parsing",
    "Input should be a valid integer, unable to parse string as an integer",
)
NOT_WRITTEN_AS_INTEGERS = [
    *("", " ", "abc", "1.5", "7.0", "1e2", "+7", " 7", "7 ", "07", "-0", "--7", "1_000", "0x7"),
    *("\u0663", "\uff17", "7,8", "null", "true", "7\0", "\ud800", "9" * 4_301),
]
NO_ID = (
    "impossible_checkpoint_id",
    "No checkpoint can have this id: DynamoDB cannot store the number",
)
TOO_SMALL = ("greater_than_equal", "Input should be greater than or equal to 1")
TOO_LARGE = ("less_than_equal", "Input should be less than or equal to 100")
NO_ORDER = ("literal_error", "Input should be 'asc' or 'desc'")


@pytest.mark.parametrize(
    ("query", "errors"),
    [
        *(({"after": text}, [error("after", *NO_INTEGER)]) for text in NOT_WRITTEN_AS_INTEGERS),
        *(
            ({"after": step}, [error("after", *NO_ID)])
            for step in (10**38 + 1, -(10**38) - 1, 10**126, -(10**126), 10**4_299)
        ),
        *(({"limit": text}, [error("limit", *NO_INTEGER)]) for text in NOT_WRITTEN_AS_INTEGERS),
        *(({"limit": limit}, [error("limit", *TOO_SMALL)]) for limit in (0, -1, -(10**40))),
        *(({"limit": limit}, [error("limit", *TOO_LARGE)]) for limit in (101, 10**40)),
        *(
            ({"order": order}, [error("order", *NO_ORDER)])
            for order in ("", "ASC", "asc ", "ascending", "1", "asc,desc")
        ),
        (
            {"after": "x", "limit": 0, "order": "up"},
            [error("after", *NO_INTEGER), error("limit", *TOO_SMALL), error("order", *NO_ORDER)],
        ),
        ({"limit": [5, ""]}, [error("limit", *NO_INTEGER)]),
    ],
)
def test_rejects_parameters_outside_the_contract(
    call: Call, endpoint: Endpoint, query: dict[str, Any], errors: list[object]
) -> None:
    assert Answer(422, JSON, {"detail": errors}) == call(**request(**query))
    assert ["GetItem"] == endpoint.calls


@pytest.mark.parametrize(
    "query",
    [
        {"queryStringParameters": {"limit": "5,10"}},
        {"queryStringParameters": {"limit": None}},
        {"multiValueQueryStringParameters": {"limit": None}},
        {"multiValueQueryStringParameters": {"limit": [None]}},
        {"multiValueQueryStringParameters": {"limit": [5]}},
    ],
)
def test_rejects_values_that_no_gateway_sends(call: Call, query: dict[str, Any]) -> None:
    event = request() | query

    assert Answer(422, JSON, {"detail": [error("limit", *NO_INTEGER)]}) == call(**event)


def challenge(scope: str) -> dict[str, str]:
    value = f'Bearer realm="checkpoints", error="insufficient_scope", scope="{scope}"'
    return JSON | {"WWW-Authenticate": value}


def test_a_token_that_may_only_delete_may_not_list(call: Call, endpoint: Endpoint) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)
    endpoint.heal()
    detail = {"detail": "The token lacks the scope checkpoints:read"}

    answer = call(**request(token=TOKEN, limit="x"))

    assert Answer(403, challenge("checkpoints:read"), detail) == answer
    assert ["GetItem"] == endpoint.calls


def test_a_token_that_may_only_list_may_not_delete(call: Call) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)
    detail = {"detail": "The token lacks the scope checkpoints:delete"}

    assert Answer(403, challenge("checkpoints:delete"), detail) == call(steps=[1], token=READER)
    assert {MODEL: {1}} == stored_checkpoints()


@pytest.mark.parametrize("token", [None, "unknown"])
def test_a_caller_that_is_not_known_gets_no_list(call: Call, token: str | None) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)

    assert 401 == call(**request(token=token)).status


NUMBERS = {
    "0": 0,
    "-3": -3,
    "1E+2": 100,
    "0.1": 0.1,
    "-2.50": -2.5,
    "9007199254740991": 2**53 - 1,
    "12345678901234567890123456789012345678": 1.2345678901234568e37,
    "0.12345678901234567890123456789012345678": 0.12345678901234568,
    "9.9999999999999999999999999999999999999E+125": 1e126,
    "1E-130": 1e-130,
}


@pytest.mark.parametrize(("number", "shown"), NUMBERS.items())
def test_a_metric_is_as_precise_as_json_clients_can_hold(
    call: Call, number: str, shown: float
) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY, metrics={"M": {"loss": {"N": number}}})

    (checkpoint,) = call(**request()).body["data"]

    assert {"loss": shown} == checkpoint["metrics"]
    assert type(shown) is type(checkpoint["metrics"]["loss"])


NAMES = ["a b", "é", "🚀", 'quote"', "back\\slash", "\0", "\u2028", "__class__", "x" * 300]


@pytest.mark.parametrize(
    ("metrics", "shown"),
    [
        ({"M": {name: {"N": "1"} for name in NAMES}}, dict.fromkeys(NAMES, 1)),
        (
            {
                "M": {
                    "number": {"N": "1"},
                    "text": {"S": "2"},
                    "truth": {"BOOL": True},
                    "null": {"NULL": True},
                    "set": {"NS": ["1", "2"]},
                    "list": {"L": [{"N": "1"}]},
                    "map": {"M": {"N": {"N": "1"}}},
                    "bytes": {"B": "MQ=="},
                }
            },
            {"number": 1},
        ),
        ({"M": {}}, {}),
        ({"S": "loss"}, {}),
        ({"N": "1"}, {}),
        ({"L": [{"N": "1"}]}, {}),
    ],
)
def test_shows_the_numbers_of_the_metrics_and_nothing_else(
    call: Call, metrics: Any, shown: dict[str, float]
) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY, metrics=metrics, notes={"S": "ours"})

    answer = call(**request())

    assert [{"id": "1", "step": 1, "metrics": shown}] == answer.body["data"]


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 20, 100])
def test_needs_one_query_of_about_as_many_records_as_are_asked_for(
    call: Call, endpoint: Endpoint, limit: int, order: str
) -> None:
    put_checkpoints(MODEL, range(200), entity=ENTITY)
    endpoint.heal()

    call(**request(limit=limit, order=order, after=90))

    assert ["GetItem", "Query"] == endpoint.calls
    query = endpoint.requests[1]
    assert limit + 1 == query["Limit"]
    assert query["ConsistentRead"] is True
    assert "IndexName" not in query


@pytest.mark.parametrize("limit", [1, 20])
def test_skips_thousands_of_other_entities_records_in_a_few_queries(
    call: Call, endpoint: Endpoint, limit: int
) -> None:
    put_checkpoints(MODEL, range(2_000), entity=OTHERS)
    put_checkpoints(MODEL, range(2_000, 2_000 + limit), entity=ENTITY)
    put_checkpoints(MODEL, range(3_000, 5_000), entity=OTHERS)
    put_checkpoints(MODEL, [6_000], entity=ENTITY)
    endpoint.heal()

    answers = [call(**request(limit=limit)), call(**request(limit=limit, after=1_999 + limit))]

    assert [page(list(range(2_000, 2_000 + limit)), has_more=True), page([6_000])] == answers
    assert endpoint.calls.count("Query") <= 14
    assert {"GetItem", "Query"} == set(endpoint.calls)
    assert all(query.get("Limit", 0) <= MAX_READ_RECORDS for query in endpoint.requests)


@pytest.mark.parametrize(
    ("names", "count", "steps_per_megabyte"),
    [([f"{number:050}" for number in range(5_000)], 15, 3), (["\0" * 10_000], 250, 100)],
    ids=["many names", "names that JSON escapes"],
)
def test_a_page_of_very_many_metrics_is_short_enough_to_be_answered(
    call: Call, endpoint: Endpoint, names: list[str], count: int, steps_per_megabyte: int
) -> None:
    """Lambda returns at most 6 MB, in which the body is a string. The list is complete anyway."""
    metrics = {"M": {name: {"N": "0.25"} for name in names}}

    def read_a_megabyte(query: dict[str, Any], _apply: object) -> Reply:
        passed = int(query["ExpressionAttributeValues"].get(":after", {"N": "-1"})["N"])
        steps = range(passed + 1, count)[: min(query["Limit"], steps_per_megabyte)]
        items = [{"step": {"N": str(step)}, "metrics": metrics} for step in steps]
        answer: dict[str, Any] = {"Items": items}
        if steps[-1] < count - 1:
            answer["LastEvaluatedKey"] = {"model_id": {"S": MODEL}, "step": items[-1]["step"]}
        return Reply(200, json.dumps(answer).encode())

    endpoint.keep_failing("Query", read_a_megabyte)
    listed: list[int] = []
    has_more = True
    while has_more:
        query: dict[str, Any] = {"after": listed[-1]} if listed else {}
        answer = call(**request(limit=100, **query))
        assert {len(names)} == {len(each["metrics"]) for each in answer.body["data"]}
        assert len(json.dumps(json.dumps(answer.body))) < 6_000_000
        listed += [each["step"] for each in answer.body["data"]]
        has_more = answer.body["has_more"]

    assert list(range(count)) == listed


def test_recovers_from_a_short_fault(call: Call, endpoint: Endpoint) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)
    endpoint.fail("Query", reject(400, "ThrottlingException"), reject(500, "InternalServerError"))

    assert page([1]) == call(**request())


UNAVAILABLE = Answer(
    503,
    JSON | {"Retry-After": "2"},
    {"detail": "The database is not available. Send the request again."},
)


@pytest.mark.parametrize("operation", ["GetItem", "Query"])
@pytest.mark.parametrize(
    ("status", "code"), [(400, "ThrottlingException"), (503, "ServiceUnavailable")]
)
def test_answers_503_if_the_database_is_not_available(
    call: Call, endpoint: Endpoint, operation: str, status: int, code: str
) -> None:
    endpoint.keep_failing(operation, reject(status, code))

    assert UNAVAILABLE == call(**request(), milliseconds=13_000)


def test_answers_503_at_once_if_no_time_is_left(call: Call, endpoint: Endpoint) -> None:
    assert UNAVAILABLE == call(**request(), milliseconds=1_000)
    assert [] == endpoint.calls


def test_answers_503_if_it_takes_too_long_to_skip_other_entities_records(
    call: Call, endpoint: Endpoint
) -> None:
    """It stops before the deadline, however many records there are."""

    def go_on_for_ever(query: dict[str, Any], _apply: object) -> Any:
        step = query["ExpressionAttributeValues"].get(":after", {"N": "0"})["N"]
        key = {"model_id": {"S": MODEL}, "step": {"N": str(int(step) + 1)}}
        answer = {"Items": [], "Count": 0, "ScannedCount": 1, "LastEvaluatedKey": key}
        time.sleep(0.05)
        return Reply(200, json.dumps(answer).encode())

    endpoint.keep_failing("Query", go_on_for_ever)

    assert UNAVAILABLE == call(**request(), milliseconds=13_500)
    assert endpoint.calls.count("Query") > 1
    assert all(query.get("Limit", 0) <= MAX_READ_RECORDS for query in endpoint.requests)


def test_answers_500_without_permission_to_read(call: Call, endpoint: Endpoint) -> None:
    endpoint.keep_failing("Query", reject(400, "AccessDeniedException"))

    assert INTERNAL_SERVER_ERROR == call(**request())


def test_a_failure_between_two_queries_costs_nothing(call: Call, endpoint: Endpoint) -> None:
    put_checkpoints(MODEL, range(100), entity=OTHERS)
    put_checkpoints(MODEL, range(100, 103), entity=ENTITY)
    endpoint.fail(
        "Query", pass_on, reject(400, "ThrottlingException"), reject(500, "InternalServerError")
    )

    assert page([100, 101], has_more=True) == call(**request(limit=2))
