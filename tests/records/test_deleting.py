"""A request deletes exactly the given steps, and a dry run before it says so exactly."""

import json
from collections.abc import Callable, Collection, Iterable
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints.records.batches import CONCURRENT_BATCHES
from emulators.dynamodb import put_checkpoints, put_token, stored_checkpoints
from emulators.records import Attribute
from events import (
    ENTITY,
    MODEL,
    NOTHING_DELETED,
    Call,
    Response,
    deleted,
    failed_deletion,
    query,
    would_delete,
)
from faulty_dynamodb import Apply, Endpoint, Fault, Reply, cancel, lose_response, pass_on

DRY_RUN = query(dry_run="true")


def assert_deletes(
    number: int,
    call: Call,
    steps: list[int],
    not_found: Iterable[int] = (),
    protected: Collection[int] = (),
    **event: Any,
) -> None:
    """Send a dry run, which changes nothing, and then the deletion: they have the same counts."""
    before, not_found = stored_checkpoints(), list(not_found)
    assert would_delete(number, not_found, protected) == call(steps=steps, **DRY_RUN, **event)
    assert before == stored_checkpoints()
    assert deleted(number, not_found, protected) == call(steps=steps, **event)


# What can protect a record, and what does not. (In moto, unlike DynamoDB, the number 0 is false.)
PROTECTIONS: list[Attribute] = [
    {"BOOL": True},
    {"S": "false"},
    {"S": ""},
    {"N": "2"},
    {"NULL": True},
    {"M": {"BOOL": {"BOOL": False}}},
]
UNPROTECTED: list[dict[str, Attribute]] = [
    {},
    {"protected": {"BOOL": False}},
    {"expires_at": {"N": "1"}},
    {"Protected": {"BOOL": True}, "expires_at": {"S": "soon"}},
]
expired = {"expires_at": {"N": "1"}}
protected = st.sampled_from(
    [{"protected": each} | more for each in PROTECTIONS for more in ({}, expired)]
)

numbers = count()
own_or_others = st.sampled_from([ENTITY, "speech-team"])
records = st.tuples(own_or_others, st.sampled_from(UNPROTECTED) | protected)
large = st.sampled_from([10**37 + 1, 1 - 10**38])
too_large = st.sampled_from([10**38 + 1, 10**126, -(10**126), 10**4_299])


@settings(max_examples=40, deadline=None)
@given(
    table=st.dictionaries(st.integers(-20, 20) | large, records, max_size=20),
    asked=st.lists(st.integers(-22, 22) | large | too_large, max_size=30),
    many=st.booleans(),
)
def test_the_counts_are_exact(
    call: Call, table: dict[int, tuple[str, dict[str, Attribute]]], asked: list[int], *, many: bool
) -> None:
    """A repeated step counts once, and the lists are in the order of the request.

    Some records belong to others, and some are protected or have expired.
    """
    model_id = str(next(numbers))  # a new one for each example
    for step, (owner, attributes) in table.items():
        put_checkpoints(model_id, [step], entity=owner, **attributes)
    steps = [*asked, *range(18, 140)] if many else asked
    distinct = list(dict.fromkeys(steps))
    own = {step: attributes for step, (owner, attributes) in table.items() if owner == ENTITY}
    gone = {step for step in distinct if own.get(step) in UNPROTECTED}
    not_found = [step for step in distinct if step not in own]
    kept = [step for step in distinct if step in own and step not in gone]

    assert_deletes(len(gone), call, steps, not_found, kept, model_id=model_id)
    assert set(table) - gone == stored_checkpoints().get(model_id, set())


def test_finds_numbers_with_as_many_digits_as_dynamodb_holds(call: Call) -> None:
    """The property above and the dry run have none of them, because moto cannot read them."""
    put_checkpoints(MODEL, [10**40, -(10**125), 2], entity=ENTITY)

    assert deleted(2, [10**125]) == call(steps=[10**40, 10**125, -(10**125)])
    assert {MODEL: {2}} == stored_checkpoints()


def test_sends_no_step_that_is_too_large_for_dynamodb(call: Call, endpoint: Endpoint) -> None:
    """DynamoDB would reject the whole transaction; moto accepts it."""
    for step in (10**38 + 1, 10**126, -(10**38) - 1, -(10**126)):
        for possible in ([10**38 - 1, 1 - 10**38], [10**125]):
            assert deleted(0, [*possible, step]) == call(steps=[*possible, step])
            assert [str(each) for each in possible] == sent_transactions(endpoint)[-1]


def sent_transactions(endpoint: Endpoint) -> list[list[str]]:
    """Return the steps of each transaction."""
    return [
        [action["Delete"]["Key"]["step"]["N"] for action in request["TransactItems"]]
        for request in endpoint.requests
        if "TransactItems" in request
    ]


@pytest.mark.parametrize(
    ("steps", "model_id"),
    [
        ([], MODEL),
        ([10**126, 10**38 + 1], MODEL),
        ([1], "é" * 1_025),
        (list(range(101)), "é" * 1_025),
    ],
    ids=["no steps", "too large steps", "too long model id", "too long model id, many steps"],
)
def test_reads_and_sends_nothing_for_impossible_keys(
    call: Call, endpoint: Endpoint, steps: list[int], model_id: str
) -> None:
    longest = "é" * 1_024  # DynamoDB counts two bytes each
    put_checkpoints(longest, [1], entity=ENTITY)

    assert_deletes(0, call, steps, steps, model_id=model_id)
    assert ["GetItem"] * 2 == endpoint.calls
    assert_deletes(1, call, [1], model_id=longest)


@pytest.mark.parametrize("number", [100, 101, 250])
@pytest.mark.parametrize("missing", ["none", "every third", "all"])
def test_deletes_any_number(call: Call, endpoint: Endpoint, number: int, missing: str) -> None:
    """Up to 100 steps need no query, and the deletion does not read them at all."""
    steps = list(range(10 * number, 0, -10))
    not_found = {"none": [], "every third": steps[::3], "all": steps}[missing]
    put_checkpoints(MODEL, set(steps) - set(not_found) | {5}, entity=ENTITY)

    assert_deletes(number - len(not_found), call, steps, not_found)
    assert {MODEL: {5}} == stored_checkpoints()
    _, read, _, *calls = endpoint.calls  # both requests read the token first
    assert ("BatchGetItem" if number <= 100 else "Query") == read
    assert number <= 100 or "Query" == calls.pop(0)
    assert {"TransactWriteItems"} >= set(calls)


def test_deletes_only_what_the_model_has_if_there_are_many_steps(
    call: Call, endpoint: Endpoint
) -> None:
    put_checkpoints(MODEL, range(0, 30_000, 100), entity=ENTITY)
    steps = list(range(100_000))

    assert_deletes(300, call, steps, [step for step in steps if step % 100 or step >= 30_000])
    dry_run = ["GetItem", "Query"]
    assert dry_run + ["GetItem", "Query"] + ["TransactWriteItems"] * 3 == endpoint.calls
    assert {} == stored_checkpoints()


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
def test_sparse_steps_take_a_few_consistent_reads_and_unprocessed_keys_are_read_again(
    call: Call, endpoint: Endpoint, pauses: list[float]
) -> None:
    endpoint.fail("BatchGetItem", leave_unprocessed(80), leave_unprocessed(7))

    assert SPARSE_DELETED == call(steps=SPARSE)
    calls = ["GetItem"] + ["Query"] * 3 + ["BatchGetItem"] * 3 + ["TransactWriteItems"]
    assert calls == endpoint.calls
    assert LEFT == stored_checkpoints()
    *reads, first, second, third, _ = endpoint.requests
    for batch in (first, second, third):
        reads += batch["RequestItems"].values()
    assert [True] * 7 == [read["ConsistentRead"] for read in reads]
    assert 2 == len(pauses)


@pytest.mark.usefixtures("_large_model")
def test_returns_503_if_keys_stay_unprocessed(call: Call, endpoint: Endpoint) -> None:
    endpoint.keep_failing("BatchGetItem", leave_unprocessed(100))

    assert NOTHING_DELETED == call(steps=SPARSE, milliseconds=13_500)
    assert {MODEL: set(range(1_000))} == stored_checkpoints()


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


# The checkpoints of others

either_way = pytest.mark.parametrize(
    "number", [1, 101], ids=["in one transaction", "after a query"]
)


@either_way
def test_deletes_only_the_callers_checkpoints_of_the_model(call: Call, number: int) -> None:
    """Others' checkpoints are not changed, and cannot be told apart from missing ones."""
    others = range(number, number + 4)
    other_models = [MODEL + "0", MODEL.upper(), MODEL[:-1]]
    put_checkpoints(MODEL, range(number), entity=ENTITY, uri={"S": "x"}, step_name={"S": "entity"})
    for step, entity in zip(others, ["speech-team", f"{ENTITY}-2", ENTITY[:-1], ""], strict=True):
        put_checkpoints(MODEL, [step], entity=entity, owner={"S": ENTITY})
    for model_id in other_models:
        put_checkpoints(model_id, range(number + 4), entity=ENTITY)
    put_token("other-token", entity="speech-team")

    assert_deletes(number, call, list(range(number + 4)), others)
    left = {model_id: set(range(number + 4)) for model_id in other_models}
    assert left | {MODEL: {*others}} == stored_checkpoints()
    assert_deletes(1, call, [number, number + 1], [number + 1], token="other-token")
    assert left | {MODEL: {*others[1:]}} == stored_checkpoints()


# Protected checkpoints


@pytest.mark.parametrize(
    ("number", "calls"),
    [
        (3, ["GetItem", "TransactWriteItems", "TransactWriteItems"]),
        (100, ["GetItem", "TransactWriteItems", "TransactWriteItems"]),
        (300, ["GetItem", "Query"] + ["TransactWriteItems"] * 3),
    ],
)
def test_a_request_with_protected_steps_takes_at_most_one_more_transaction(
    call: Call, endpoint: Endpoint, number: int, calls: list[str]
) -> None:
    put_checkpoints(MODEL, range(number), entity=ENTITY)
    put_checkpoints(MODEL, [0, number - 1], entity=ENTITY, protected={"BOOL": True})

    assert deleted(number - 2, [], [0, number - 1]) == call(steps=list(range(number)))
    assert calls == endpoint.calls
    assert {MODEL: {0, number - 1}} == stored_checkpoints()


def test_if_all_steps_are_protected_nothing_is_sent_again(call: Call, endpoint: Endpoint) -> None:
    put_checkpoints(MODEL, range(120), entity=ENTITY, protected={"BOOL": True})

    assert deleted(0, [], [2, 1]) == call(steps=[2, 1])
    assert deleted(0, [], range(120)) == call(steps=list(range(120)))
    assert ["GetItem", "TransactWriteItems", "GetItem", "Query"] == endpoint.calls


def test_finds_the_protected_ones_among_sparse_steps(call: Call, endpoint: Endpoint) -> None:
    """They are read in batches of keys, and not only by queries."""
    large = {"S": "x" * 10_000}
    put_checkpoints(MODEL, range(1_000), entity=ENTITY, padding=large)
    put_checkpoints(MODEL, range(0, 1_000, 300), entity=ENTITY, protected={"BOOL": True})

    assert deleted(96, range(1_000, 1_200, 10), range(0, 1_000, 300)) == call(steps=SPARSE)
    assert "BatchGetItem" in endpoint.calls


def meanwhile(change: Callable[[], None], then: Fault = pass_on) -> Fault:
    """Let somebody change the table before the call arrives, and then pass it on or fail it."""

    def fault(request: dict[str, Any], apply: Apply) -> Reply:
        change()
        return then(request, apply)

    return fault


def protect(*steps: int) -> None:
    put_checkpoints(MODEL, steps, entity=ENTITY, protected={"BOOL": True})


def unprotect(*steps: int) -> None:
    put_checkpoints(MODEL, steps, entity=ENTITY)


@pytest.mark.parametrize("number", [100, 101], ids=["without a read", "after the read"])
def test_a_checkpoint_that_is_protected_before_its_transaction_stays(
    call: Call, endpoint: Endpoint, number: int
) -> None:
    put_checkpoints(MODEL, range(number), entity=ENTITY)
    endpoint.fail("TransactWriteItems", meanwhile(lambda: protect(7)))

    assert deleted(number - 1, [], [7]) == call(steps=list(range(number)))
    assert {MODEL: {7}} == stored_checkpoints()


@pytest.mark.parametrize(
    ("faults", "response", "left"),
    [
        # Its first attempt failed because of step 1, which is then reported, whatever follows.
        ([pass_on, meanwhile(lambda: unprotect(1))], deleted(2, [4], [1]), {1}),
        ([lose_response, meanwhile(lambda: unprotect(1))], deleted(3, [4]), set()),
        ([lose_response], deleted(2, [4], [1]), {1}),
        ([lose_response, pass_on, lose_response], deleted(2, [4], [1]), {1}),
        ([pass_on, lose_response, meanwhile(lambda: protect(2))], deleted(2, [4], [1]), {1, 2}),
        ([pass_on, meanwhile(lambda: protect(2), lose_response)], deleted(1, [4], [1, 2]), {1, 2}),
        ([cancel("TransactionConflict"), pass_on], deleted(2, [4], [1]), {1}),
    ],
    ids=[
        "unprotected before the second transaction",
        "unprotected while the first is retried",
        "the response to the first is lost",
        "two responses are lost",
        "saved and protected again after the deletion",
        "protected before the second, whose response is lost",
        "conflict",
    ],
)
def test_protection_that_changes_while_calls_fail_is_reported_as_dynamodb_saw_it(
    call: Call, endpoint: Endpoint, faults: list[Fault], response: Response, left: set[int]
) -> None:
    put_checkpoints(MODEL, [2, 3], entity=ENTITY)
    protect(1)
    put_checkpoints(MODEL, [4], entity="speech-team", protected={"BOOL": True})
    endpoint.fail("TransactWriteItems", *faults)

    assert response == call(steps=[1, 2, 3, 4])
    assert {MODEL: left | {4}} == stored_checkpoints()


@either_way
def test_ignores_a_checkpoint_whose_step_is_not_an_integer(call: Call, number: int) -> None:
    put_checkpoints(MODEL, range(number), entity=ENTITY)
    put_checkpoints(MODEL, [0], entity=ENTITY, step={"N": "0.5"})

    assert would_delete(number) == call(steps=list(range(number)), **DRY_RUN)
    assert deleted(number) == call(steps=list(range(number)))


def test_a_deletion_that_stops_says_how_much_it_deleted(call: Call, endpoint: Endpoint) -> None:
    steps = list(range((3 + 2 * CONCURRENT_BATCHES) * 100))
    put_checkpoints(MODEL, steps, entity=ENTITY)
    endpoint.fail("TransactWriteItems", *[pass_on] * 3)
    endpoint.keep_failing("TransactWriteItems", cancel("ThrottlingError"))

    response = call(steps=steps, milliseconds=14_500)

    detail = (
        "The database is not available, so the deletion stopped. Deleted: 300. Possibly deleted: "
        "0. Send the request again to delete the rest. Checkpoints that are already deleted are "
        "then reported as not found."
    )
    assert failed_deletion(503, detail, deleted=300) == response
    (left,) = stored_checkpoints().values()
    assert len(steps) - 300 == len(left)
    sent = {first for first, *_ in sent_transactions(endpoint)}
    assert len(sent) <= 3 + CONCURRENT_BATCHES  # after a failure, no other was started

    endpoint.heal()

    gone = sorted(set(steps) - left)
    assert deleted(len(left), gone) == call(steps=steps)
