"""A request deletes exactly the given steps, and the response is exact."""

import json
import re
import time
from typing import Any
from unittest import mock

import pytest

from checkpoints.records.batches import CONCURRENT_BATCHES
from emulators.dynamodb import put_checkpoints, put_token, stored_checkpoints
from events import ENTITY, MODEL, NOTHING_DELETED, Call, deleted, failed_deletion
from faulty_dynamodb import Apply, Endpoint, Fault, Reply, cancel, pass_on


def test_deletes_what_exists_and_reports_what_does_not(call: Call) -> None:
    put_checkpoints(MODEL, [12, 13, 14], entity=ENTITY)

    assert deleted(2, [99]) == call(steps=[12, 13, 99])
    assert {MODEL: {14}} == stored_checkpoints()


@pytest.mark.parametrize(
    ("steps", "count", "not_found"),
    [
        pytest.param([], 0, [], id="none"),
        pytest.param([7], 0, [7], id="one missing"),
        pytest.param([9, 8, 7, 8, 9], 0, [9, 8, 7], id="missing in the order of the request"),
        pytest.param([1, 1, 2, 1], 2, [], id="repeats count once"),
        pytest.param([0, -0], 1, [], id="minus zero is zero"),
        pytest.param([-5], 1, [], id="negative"),
        pytest.param([-6], 0, [-6], id="negative and missing"),
        pytest.param([10**40], 1, [], id="many digits but few significant ones"),
        pytest.param([10**37 + 1], 1, [], id="as many digits as DynamoDB holds"),
        pytest.param([10**38 + 1], 0, [10**38 + 1], id="a digit more"),
        pytest.param([10**125], 0, [10**125], id="as large as DynamoDB holds"),
        pytest.param([10**126], 0, [10**126], id="larger"),
        pytest.param([-(10**126), 1], 1, [-(10**126)], id="smaller"),
        pytest.param([10**4299, 2], 1, [10**4299], id="4,300 digits"),
    ],
)
def test_the_response_names_each_distinct_step_without_a_checkpoint(
    call: Call, steps: list[int], count: int, not_found: list[int]
) -> None:
    present = {0, 1, 2, 3, -5, 10**40, 10**37 + 1}
    put_checkpoints(MODEL, present, entity=ENTITY)

    assert deleted(count, not_found) == call(steps=steps)
    assert {MODEL: present - set(steps)} == stored_checkpoints()


@pytest.mark.parametrize("step", [10**38 + 1, 10**126, -(10**38) - 1, -(10**126)])
def test_sends_no_step_that_is_too_large_for_dynamodb(
    call: Call, endpoint: Endpoint, step: int
) -> None:
    """DynamoDB would reject the whole transaction; moto accepts it."""
    extreme = [10**38 - 1, 1 - 10**38]

    assert deleted(0, [*extreme, step]) == call(steps=[*extreme, step])
    assert deleted(0, [step, 10**125]) == call(steps=[step, 10**125])

    asked = [
        [int(action["Delete"]["Key"]["step"]["N"]) for action in request["TransactItems"]]
        for request in endpoint.requests
        if "TransactItems" in request
    ]
    assert [extreme, [10**125]] == asked


@pytest.mark.parametrize("count", [99, 100, 101, 250])
@pytest.mark.parametrize("missing", ["none", "every third", "all"])
def test_deletes_any_number(call: Call, count: int, missing: str) -> None:
    steps = list(range(10 * count, 0, -10))
    not_found = {"none": [], "every third": steps[::3], "all": steps}[missing]
    put_checkpoints(MODEL, set(steps) - set(not_found) | {5}, entity=ENTITY)

    assert deleted(count - len(not_found), not_found) == call(steps=steps)
    assert {MODEL: {5}} == stored_checkpoints()


def test_deletes_only_what_the_model_has_if_there_are_many_steps(
    call: Call, endpoint: Endpoint
) -> None:
    put_checkpoints(MODEL, range(0, 30_000, 100), entity=ENTITY)

    response = call(steps=list(range(100_000)))

    assert (
        deleted(300, [step for step in range(100_000) if step % 100 or step >= 30_000]) == response
    )
    assert ["GetItem", "Query"] + ["TransactWriteItems"] * 3 == endpoint.calls
    assert {} == stored_checkpoints()


def test_needs_no_query_if_one_transaction_is_enough(call: Call, endpoint: Endpoint) -> None:
    put_checkpoints(MODEL, range(100), entity=ENTITY)

    assert deleted(100) == call(steps=list(range(100)))
    assert ["GetItem", "TransactWriteItems"] == endpoint.calls


# Sparse steps: their number limits the reads, not the size of the model.

SPARSE = list(range(0, 1_200, 10))  # a page of a query covers 10 of them
FOREIGN = range(500, 900, 20)
MISSING = range(1_000, 1_200, 10)
SPARSE_DELETED = deleted(120 - len(FOREIGN) - len(MISSING), [*FOREIGN, *MISSING])
LEFT = {MODEL: set(range(1_000)) - set(SPARSE) | set(FOREIGN)}


@pytest.fixture
def _large_model(_fresh_tables: None) -> None:
    large = {"S": "x" * 10_000}
    put_checkpoints(MODEL, range(1_000), entity=ENTITY, padding=large)
    put_checkpoints(MODEL, FOREIGN, entity="speech-team", padding=large)


@pytest.mark.usefixtures("_large_model")
def test_sparse_steps_take_a_few_consistent_reads(call: Call, endpoint: Endpoint) -> None:
    assert SPARSE_DELETED == call(steps=SPARSE)
    calls = ["GetItem", "Query", "Query", "Query", "BatchGetItem", "TransactWriteItems"]
    assert calls == endpoint.calls
    assert LEFT == stored_checkpoints()
    *reads, batch, _ = endpoint.requests
    reads += batch["RequestItems"].values()
    assert [True] * 5 == [read["ConsistentRead"] for read in reads]


@pytest.mark.usefixtures("_large_model")
def test_reads_keys_again_if_dynamodb_leaves_them_unprocessed(
    call: Call, endpoint: Endpoint
) -> None:
    endpoint.fail("BatchGetItem", leave_unprocessed(80), leave_unprocessed(7), pass_on)
    pauses: list[float] = []

    with mock.patch.object(time, "sleep", pauses.append):
        assert SPARSE_DELETED == call(steps=SPARSE)
    assert 2 == len(pauses)
    assert 3 == endpoint.calls.count("BatchGetItem")
    assert LEFT == stored_checkpoints()


@pytest.mark.usefixtures("_large_model")
def test_returns_503_if_keys_stay_unprocessed(call: Call, endpoint: Endpoint) -> None:
    endpoint.keep_failing("BatchGetItem", leave_unprocessed(100))

    assert NOTHING_DELETED == call(steps=SPARSE, milliseconds=13_500)
    assert {MODEL: set(range(1_000))} == stored_checkpoints()


@pytest.mark.usefixtures("_large_model")
def test_finds_steps_however_the_table_writes_numbers(call: Call, endpoint: Endpoint) -> None:
    def with_fraction(_request: object, apply: Apply) -> Reply:
        return Reply(200, re.sub(rb'("N": ?"-?[0-9]+)"', rb'\1.0"', apply().body))

    endpoint.keep_failing("BatchGetItem", with_fraction)
    endpoint.keep_failing("Query", with_fraction)

    assert SPARSE_DELETED == call(steps=SPARSE)


def test_steps_among_many_small_records_take_a_few_reads(call: Call, endpoint: Endpoint) -> None:
    """A page covers more steps than a batch has, but also far more other records."""

    def read_150_steps_among_10_000_records(_request: object, apply: Apply) -> Reply:
        body = json.loads(apply().body)
        page = body["Items"][:150]
        body |= {"Items": page, "ScannedCount": 10_000}
        body["LastEvaluatedKey"] = {"model_id": {"S": MODEL}} | page[-1]
        return Reply(200, json.dumps(body).encode())

    put_checkpoints(MODEL, range(1_000), entity=ENTITY)
    endpoint.keep_failing("Query", read_150_steps_among_10_000_records)

    assert deleted(1_000) == call(steps=list(range(1_000)))
    assert (3, 6) == tuple(map(endpoint.calls.count, ("Query", "BatchGetItem")))
    assert {} == stored_checkpoints()


def leave_unprocessed(count: int) -> Fault:
    """Read all but the last keys of a batch."""

    def fault(request: dict[str, Any], apply: Apply) -> Reply:
        body = json.loads(apply().body)
        ((table, asked),) = request["RequestItems"].items()
        skipped = asked["Keys"][-count:]
        body["Responses"][table] = [
            item
            for item in body["Responses"][table]
            if item["step"] not in [key["step"] for key in skipped]
        ]
        body["UnprocessedKeys"] = {table: asked | {"Keys": skipped}}
        return Reply(200, json.dumps(body).encode())

    return fault


def test_reads_dense_steps_page_by_page(call: Call, endpoint: Endpoint) -> None:
    put_checkpoints(MODEL, range(200), entity=ENTITY, padding={"S": "x" * 10_000})

    assert deleted(200) == call(steps=list(range(200)))
    assert endpoint.calls.count("Query") > 1
    assert {} == stored_checkpoints()


# The checkpoints of others

either_way = pytest.mark.parametrize("count", [1, 101], ids=["in one transaction", "after a query"])


@either_way
def test_deletes_only_the_callers_checkpoints_of_the_model(call: Call, count: int) -> None:
    """Others' checkpoints are not changed, and cannot be told apart from missing ones."""
    others = range(count, count + 4)
    other_models = [MODEL + "0", MODEL.upper(), MODEL[:-1]]
    put_checkpoints(MODEL, range(count), entity=ENTITY, uri={"S": "x"}, step_name={"S": "entity"})
    for step, entity in zip(others, ["speech-team", f"{ENTITY}-2", ENTITY[:-1], ""], strict=True):
        put_checkpoints(MODEL, [step], entity=entity, owner={"S": ENTITY})
    for model_id in other_models:
        put_checkpoints(model_id, range(count + 4), entity=ENTITY)

    assert deleted(count, others) == call(steps=list(range(count + 4)))
    left = {model_id: set(range(count + 4)) for model_id in other_models}
    assert left | {MODEL: {*others}} == stored_checkpoints()


@either_way
def test_ignores_a_checkpoint_whose_step_is_not_an_integer(call: Call, count: int) -> None:
    put_checkpoints(MODEL, range(count), entity=ENTITY)
    put_checkpoints(MODEL, [0], entity=ENTITY, step={"N": "0.5"})

    assert deleted(count) == call(steps=list(range(count)))


@either_way
def test_a_model_id_that_is_too_long_has_no_checkpoints(
    call: Call, endpoint: Endpoint, count: int
) -> None:
    steps = list(range(count))

    assert deleted(0, steps) == call(steps=steps, model_id="é" * 1_025)
    assert ["GetItem"] == endpoint.calls


def test_deletes_for_a_model_with_the_longest_id(call: Call) -> None:
    model_id = "é" * 1_024
    put_checkpoints(model_id, [1], entity=ENTITY)

    assert deleted(1) == call(steps=[1], model_id=model_id)


def test_each_token_deletes_the_checkpoints_of_its_entity(call: Call) -> None:
    put_token("other-token", entity="speech-team")
    put_checkpoints(MODEL, [1, 2], entity=ENTITY)
    put_checkpoints(MODEL, [3, 4], entity="speech-team")

    assert deleted(2, [1, 2]) == call(steps=[1, 2, 3, 4], token="other-token")
    assert deleted(2, [3, 4]) == call(steps=[1, 2, 3, 4])
    assert {} == stored_checkpoints()


def test_a_deletion_that_stops_says_how_much_it_deleted(call: Call, endpoint: Endpoint) -> None:
    count = (3 + 2 * CONCURRENT_BATCHES) * 100
    put_checkpoints(MODEL, range(count), entity=ENTITY)
    endpoint.fail("TransactWriteItems", *[pass_on] * 3)
    endpoint.keep_failing("TransactWriteItems", cancel("ThrottlingError"))

    response = call(steps=list(range(count)), milliseconds=13_500)

    detail = (
        "The database is not available, so the deletion stopped. Deleted: 300. Possibly deleted: "
        "0. Send the request again to delete the rest. Checkpoints that are already deleted are "
        "then reported as not found."
    )
    assert failed_deletion(503, detail, deleted=300) == response
    (left,) = stored_checkpoints().values()
    assert count - 300 == len(left)
    sent = {
        request["TransactItems"][0]["Delete"]["Key"]["step"]["N"]
        for request in endpoint.requests
        if "TransactItems" in request
    }
    assert len(sent) <= 3 + CONCURRENT_BATCHES  # after a failure, no other was started

    endpoint.heal()

    gone = sorted(set(range(count)) - left)
    assert deleted(len(left), gone) == call(steps=list(range(count)))
