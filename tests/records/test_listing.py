"""Exactly the caller's checkpoints of a model are listed, page by page."""

import json
import os
import time
from itertools import count, product
from typing import Any

import boto3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints.api import responses
from checkpoints.api.auth import READ_SCOPE
from checkpoints.records.checkpoints import MAX_READ_RECORDS
from emulators.dynamodb import put_checkpoints, put_token
from events import ENTITY, JSON, LIST_UNAVAILABLE, MODEL, Call, Response, query
from faulty_dynamodb import Endpoint, Reply

READER = "a-token-that-reads"
OTHERS = "speech-team"


@pytest.fixture(autouse=True)
def _reader(_fresh_tables: None) -> None:
    put_token(READER, entity=ENTITY, scopes=[READ_SCOPE])


def request(*, token: str = READER, **parameters: object) -> dict[str, Any]:
    """Return the parts of an event that ask for a page."""
    return {"method": "GET", "token": token} | query(**parameters)


def page(steps: list[int], *, has_more: bool = False, **shown: object) -> Response:
    """Return the response that lists checkpoints without metrics at these steps."""
    ids = [str(step) for step in steps] or [""]
    return Response(
        200,
        JSON,
        {
            "object": "list",
            "data": [{"id": str(step), "step": step, "metrics": {}} | shown for step in steps],
            "first_id": ids[0],
            "last_id": ids[-1],
            "has_more": has_more,
        },
    )


def test_a_model_id_that_is_too_long_for_dynamodb_has_an_empty_list(
    call: Call, endpoint: Endpoint
) -> None:
    assert page([]) == call(model_id="é" * 1_025, **request())
    assert ["GetItem"] == endpoint.calls


# The smallest and the largest that a number can hold. moto reads 38 digits and no zeros.
LARGE = {-(10**126) + 10**88: f"-{'9' * 38}E+88", 10**125: "1E+125"}
steps = st.integers(-20, 20) | st.sampled_from([1 - 10**38, 10**37 + 1, *LARGE])
own_or_others = st.sampled_from([ENTITY, OTHERS, f"{ENTITY}-2", ""])
numbers = count()


def fill_table(model_id: str, owners: dict[int, str]) -> None:
    """Save a checkpoint at each step, and records that are not to be listed."""
    for step, owner in owners.items():
        number = LARGE.get(step, str(step))
        put_checkpoints(model_id, [0], entity=owner, step={"N": number}, owner={"S": ENTITY})
    for number in ("-0.5", "4.5", "1E-130"):
        put_checkpoints(model_id, [0], entity=ENTITY, step={"N": number})
    put_checkpoints(f"{model_id} ", range(3), entity=ENTITY)
    ownerless = {"model_id": {"S": model_id}, "step": {"N": "30"}, "owner": {"S": ENTITY}}
    boto3.client("dynamodb").put_item(TableName=os.environ["CHECKPOINTS_TABLE"], Item=ownerless)


@settings(max_examples=40, deadline=None)
@given(
    owners=st.dictionaries(steps, own_or_others, max_size=30),
    after=st.none() | st.integers(-22, 22) | st.sampled_from([10**125, -(10**125)]),
    limit=st.integers(1, 25),
    order=st.sampled_from(["asc", "desc"]),
)
def test_the_pages_are_exactly_the_callers_checkpoints(
    call: Call, owners: dict[int, str], after: int | None, limit: int, order: str
) -> None:
    """The first page starts after any cursor, and each next page after the one before.

    The checkpoint of a cursor need not exist, so it can also have been deleted.
    """
    model_id = f"a b/é {next(numbers)}"  # a new one for each example
    fill_table(model_id, owners)
    sign = 1 if order == "asc" else -1
    own = sorted((step for step in owners if owners[step] == ENTITY), reverse=order == "desc")
    left = [step for step in own if after is None or sign * step > sign * after]
    parameters: dict[str, Any] = {} if after is None else {"after": after}

    for _ in range(4):
        listed, left = left[:limit], left[limit:]
        response = call(model_id=model_id, **request(limit=limit, order=order, **parameters))
        assert page(listed, has_more=bool(left)) == response
        if not left:
            break
        parameters["after"] = response.body["last_id"]


@pytest.mark.parametrize(
    ("parameters", "response"),
    [
        ({}, page(list(range(20)), has_more=True)),
        ({"before": 3, "Limit": 3, "dryRun": "true", "limit": 100}, page(list(range(100)))),
        ({"limit": ["0", "x", 1]}, page([0], has_more=True)),
        ({"after": ["x", 97], "order": ["desc", "asc"]}, page([98, 99])),
    ],
)
def test_follows_the_parameters(call: Call, parameters: dict[str, Any], response: Response) -> None:
    """Unknown parameters are ignored. If one is repeated, the last counts."""
    put_checkpoints(MODEL, range(100), entity=ENTITY)

    assert response == call(**request(**parameters))


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
NO_NUMBERS: dict[str, Any] = {
    "text": {"S": "2"},
    "truth": {"BOOL": True},
    "null": {"NULL": True},
    "set": {"NS": ["1", "2"]},
    "list": {"L": [{"N": "1"}]},
    "map": {"M": {"N": {"N": "1"}}},
    "bytes": {"B": "MQ=="},
}


@pytest.mark.parametrize(
    ("metrics", "shown"),
    [
        ({"M": {number: {"N": number} for number in NUMBERS}}, NUMBERS),
        ({"M": {"number": {"N": "1"}} | NO_NUMBERS}, {"number": 1}),
        ({"S": "loss"}, {}),
        ({"L": [{"N": "1"}]}, {}),
    ],
)
def test_shows_the_numbers_of_the_metrics_as_64_bit_floats_or_integers_and_nothing_else(
    call: Call, metrics: Any, shown: dict[str, float]
) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY, metrics=metrics, notes={"S": "ours"})

    response = call(**request())

    data = [{"id": "1", "step": 1, "metrics": shown}]
    assert json.dumps(data) == json.dumps(response.body["data"])  # 3 is not shown as 3.0


NO_INTEGERS: list[dict[str, Any]] = [
    *NO_NUMBERS.values(),
    *({"N": number} for number in ("-1", "0.5", "1E-130", "9007199254740992", "1E+125")),
]


@pytest.mark.parametrize(
    ("attributes", "shown"),
    [
        (
            {
                "protected": {"BOOL": True},
                "expires_at": {"N": "1.8E+9"},
                "created_at": {"N": "0"},
                "size_bytes": {"N": "9007199254740991"},
            },
            {
                "size_bytes": 2**53 - 1,
                "created_at": 0,
                "expires_at": 1_800_000_000,
                "protected": True,
            },
        ),
        ({"protected": {"BOOL": False}}, {}),
        *(({"protected": value}, {}) for value in NO_NUMBERS.values() if "BOOL" not in value),
        *(
            ({name: value, "size_bytes": {"N": "5"}} | {name: value}, {"size_bytes": 5})
            for name in ("created_at", "expires_at")
            for value in NO_INTEGERS
        ),
        *(
            ({"size_bytes": value, "created_at": {"N": "5"}}, {"created_at": 5})
            for value in NO_INTEGERS
        ),
    ],
)
def test_shows_the_valid_ones_of_the_optional_attributes_in_this_order(
    call: Call, attributes: dict[str, Any], shown: dict[str, Any]
) -> None:
    """Without one, the response is as before there were any."""
    put_checkpoints(MODEL, [1], entity=ENTITY, **attributes)

    response = call(**request())

    assert page([1], **shown) == response
    (checkpoint,) = response.body["data"]
    assert ["id", "step", "metrics", *shown] == list(checkpoint)


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_needs_one_query_of_about_as_many_records_as_are_asked_for(
    call: Call, endpoint: Endpoint, order: str
) -> None:
    put_checkpoints(MODEL, range(200), entity=ENTITY)

    call(**request(limit=20, order=order, after=90))

    assert ["GetItem", "Query"] == endpoint.calls
    sent = endpoint.requests[1]
    assert (21, True) == (sent["Limit"], sent["ConsistentRead"])


def test_skips_thousands_of_other_entities_records_in_a_few_queries(
    call: Call, endpoint: Endpoint
) -> None:
    put_checkpoints(MODEL, [*range(2_000), *range(3_000, 5_000)], entity=OTHERS)
    put_checkpoints(MODEL, [2_000, 6_000], entity=ENTITY)

    assert page([2_000], has_more=True) == call(**request(limit=1))
    assert page([6_000]) == call(**request(limit=1, after=2_000))
    assert endpoint.calls.count("Query") <= 14
    assert {"GetItem", "Query"} == set(endpoint.calls)


# What 400 KB of metrics can become: DynamoDB counts a control character as one byte and 16 digits
# as two, and Lambda's response has the body as a string, so it escapes each backslash again.
SHORT_NAMES = ["".join(name) for name in product(map(chr, range(32)), repeat=3)]
LONGER_NAMES = ["".join(name) for name in product(map(chr, range(32)), repeat=4)]
LARGEST = dict.fromkeys(SHORT_NAMES + LONGER_NAMES[:29_000], "9E+15")


@pytest.mark.parametrize(
    ("records", "lengths"),
    [
        ([{f"{number:050}": "0.25" for number in range(5_000)}] * 15, [15]),
        ([{'"' * 333_000: "1"}] * 3 + [{"\1" * 399_000: "1"}], [3, 1]),
        ([{"é" * 199_000: "1"}] * 9, [5, 4]),
        ([LARGEST] * 3, [2, 1]),
    ],
    ids=["many names", "escapes", "letters", "numbers"],
)
def test_a_page_of_very_many_metrics_fits_into_a_response_of_lambda(
    call: Call, endpoint: Endpoint, records: list[dict[str, str]], lengths: list[int]
) -> None:
    """The list is complete anyway."""

    def read_a_record(query: dict[str, Any], _apply: object) -> Reply:
        step = int(query["ExpressionAttributeValues"][":after"]["N"]) + 1
        metrics = {name: {"N": number} for name, number in records[step].items()}
        key = {"model_id": {"S": MODEL}, "step": {"N": str(step)}}
        last = {"LastEvaluatedKey": key} if step < len(records) - 1 else {}
        item = {"step": key["step"], "metrics": {"M": metrics}, "protected": {"BOOL": True}}
        item |= {name: {"N": str(2**53 - 1)} for name in ("size_bytes", "created_at", "expires_at")}
        return Reply(200, json.dumps({"Items": [item]} | last).encode())

    endpoint.keep_failing("Query", read_a_record)
    step = -1
    for length in lengths:
        response = call(**request(limit=100, after=step))
        assert response.size <= 6 * 1024 * 1024
        body = response.body
        assert [*range(step + 1, step + 1 + length)] == [each["step"] for each in body["data"]]
        step += length
        assert [*records[step]] == [*body["data"][-1]["metrics"]]
        assert body["has_more"] == (step < len(records) - 1)
    assert step == len(records) - 1


def test_the_size_of_a_page_counts_the_optional_attributes(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "MAX_PAGE_BYTES", 300)
    numbers = {name: {"N": str(10**15)} for name in ("size_bytes", "created_at", "expires_at")}
    put_checkpoints(MODEL, range(10), entity=ENTITY, protected={"BOOL": True}, **numbers)

    response = call(**request())

    assert 1 == len(response.body["data"])
    assert response.body["has_more"]


def test_returns_503_before_the_deadline_if_there_are_too_many_records_to_skip(
    call: Call, endpoint: Endpoint
) -> None:
    def return_no_item(query: dict[str, Any], _apply: object) -> Reply:
        after = query["ExpressionAttributeValues"][":after"]["N"]
        key = {"model_id": {"S": MODEL}, "step": {"N": str(int(after) + 1)}}
        time.sleep(0.05)
        return Reply(200, json.dumps({"Items": [], "LastEvaluatedKey": key}).encode())

    endpoint.keep_failing("Query", return_no_item)

    assert LIST_UNAVAILABLE == call(**request(after=0), milliseconds=13_500)
    assert endpoint.calls.count("Query") > 1
    assert all(sent.get("Limit", 0) <= MAX_READ_RECORDS for sent in endpoint.requests)
