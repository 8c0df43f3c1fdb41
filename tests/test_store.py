"""A request deletes exactly the given steps, and the response is exact."""

import json
import re
import time
from typing import Any
from unittest import mock

import pytest

from checkpoints.batches import CONCURRENT_BATCHES
from emulators.dynamodb import put_checkpoints, put_token, stored_checkpoints
from events import ENTITY, JSON, MODEL, Answer, Call
from faulty_dynamodb import Apply, Endpoint, Fault, Reply, cancel, pass_on, reject


def deleted(count: int, not_found: list[int]) -> Answer:
    """Return the whole response for these counts."""
    return Answer(200, JSON, {"deleted_count": count, "not_found_steps": not_found})


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
        pytest.param([10**4299, 2], 1, [10**4299], id="beyond all measure"),
    ],
)
def test_answers_for_each_distinct_step(
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
    """DynamoDB would reject the others with it; moto takes it."""
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


def test_deletes_thousands(call: Call) -> None:
    put_checkpoints(MODEL, range(1_050), entity=ENTITY)

    assert deleted(1_000, [-1]) == call(steps=[*range(1_000), -1])
    assert {MODEL: set(range(1_000, 1_050))} == stored_checkpoints()


def test_asks_only_for_what_the_model_has_when_asked_for_many(
    call: Call, endpoint: Endpoint
) -> None:
    put_checkpoints(MODEL, range(0, 30_000, 100), entity=ENTITY)
    endpoint.heal()

    answer = call(steps=list(range(100_000)))

    assert deleted(300, [step for step in range(100_000) if step % 100 or step >= 30_000]) == answer
    assert ["GetItem", "Query"] + ["TransactWriteItems"] * 3 == endpoint.calls
    assert {} == stored_checkpoints()


def test_needs_no_query_for_as_many_steps_as_one_transaction_takes(
    call: Call, endpoint: Endpoint
) -> None:
    put_checkpoints(MODEL, range(100), entity=ENTITY)

    assert deleted(100, []) == call(steps=list(range(100)))
    assert ["GetItem", "TransactWriteItems"] == endpoint.calls


LARGE_RECORD = {"padding": {"S": "x" * 10_000}}


class TestSparseSteps:
    """The steps of a request limit its reads, not the size of the model."""

    wanted = range(0, 1_200, 10)  # a page of a query passes 10 of them

    @pytest.fixture(autouse=True)
    def _large_model(self, _fresh_tables: None, endpoint: Endpoint) -> None:
        put_checkpoints(MODEL, range(1_000), entity=ENTITY, **LARGE_RECORD)
        put_checkpoints(MODEL, range(500, 900, 20), entity="speech-team", **LARGE_RECORD)
        endpoint.heal()

    foreign_or_missing = (*range(500, 900, 20), *range(1_000, 1_200, 10))

    def answer(self) -> Answer:
        return deleted(120 - len(self.foreign_or_missing), list(self.foreign_or_missing))

    def left(self) -> dict[str, set[int]]:
        gone = set(self.wanted) - set(self.foreign_or_missing)
        return {MODEL: set(range(1_000)) - gone}

    def test_take_a_few_reads(self, call: Call, endpoint: Endpoint) -> None:
        assert self.answer() == call(steps=list(self.wanted))
        assert ["GetItem"] + ["Query"] * 3 + ["BatchGetItem", "TransactWriteItems"] == (
            endpoint.calls
        )
        assert self.left() == stored_checkpoints()

    def test_are_read_again_where_dynamodb_leaves_keys_unprocessed(
        self, call: Call, endpoint: Endpoint
    ) -> None:
        endpoint.fail("BatchGetItem", leave_unprocessed(80), leave_unprocessed(7), pass_on)
        pauses: list[float] = []

        with mock.patch.object(time, "sleep", pauses.append):
            assert self.answer() == call(steps=list(self.wanted))
        assert 2 == len(pauses)
        assert 3 == endpoint.calls.count("BatchGetItem")
        assert self.left() == stored_checkpoints()

    def test_end_in_a_503_if_keys_stay_unprocessed(self, call: Call, endpoint: Endpoint) -> None:
        endpoint.keep_failing("BatchGetItem", leave_unprocessed(100))

        answer = call(steps=list(self.wanted), milliseconds=13_500)

        assert (503, 0, 0) == (
            answer.status,
            answer.body["deleted_count"],
            answer.body["unconfirmed_count"],
        )
        assert {MODEL: set(range(1_000))} == stored_checkpoints()

    def test_take_a_few_reads_of_small_records_too(self, call: Call, endpoint: Endpoint) -> None:
        """A page of them passes more steps than a batch has, but far more records besides."""

        def read_150_steps_among_10_000_records(_request: object, apply: Apply) -> Reply:
            body = json.loads(apply().body)
            page = body["Items"][:150]
            body |= {"Items": page, "ScannedCount": 10_000}
            body["LastEvaluatedKey"] = {"model_id": {"S": "small"}} | page[-1]
            return Reply(200, json.dumps(body).encode())

        put_checkpoints("small", range(1_000), entity=ENTITY)
        endpoint.heal()
        endpoint.keep_failing("Query", read_150_steps_among_10_000_records)

        assert deleted(1_000, []) == call(steps=list(range(1_000)), model_id="small")
        assert (3, 6) == tuple(map(endpoint.calls.count, ("Query", "BatchGetItem")))
        assert "small" not in stored_checkpoints()

    def test_are_found_however_the_table_writes_numbers(
        self, call: Call, endpoint: Endpoint
    ) -> None:
        def with_fraction(_request: object, apply: Apply) -> Reply:
            body = apply().body
            return Reply(200, re.sub(rb'("N": ?"-?[0-9]+)"', rb'\1.0"', body))

        endpoint.keep_failing("BatchGetItem", with_fraction)
        endpoint.keep_failing("Query", with_fraction)

        assert self.answer() == call(steps=list(self.wanted))

    @pytest.mark.parametrize(
        "fault",
        [reject(400, "ThrottlingException"), reject(500, "InternalServerError")],
        ids=["throttled", "server error"],
    )
    def test_recover_from_a_short_fault(self, call: Call, endpoint: Endpoint, fault: Fault) -> None:
        endpoint.fail("BatchGetItem", fault)

        assert self.answer() == call(steps=list(self.wanted))

    def test_are_read_as_they_are_now(self, call: Call, endpoint: Endpoint) -> None:
        call(steps=list(self.wanted))

        (batch,) = (request for request in endpoint.requests if "RequestItems" in request)
        assert [True] == [table["ConsistentRead"] for table in batch["RequestItems"].values()]


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


def test_reads_the_keys_page_by_page(call: Call, endpoint: Endpoint) -> None:
    put_checkpoints(MODEL, range(200), entity=ENTITY, padding={"S": "x" * 10_000})
    endpoint.heal()

    assert deleted(200, []) == call(steps=list(range(200)))
    assert endpoint.calls.count("Query") > 1
    assert {} == stored_checkpoints()


@pytest.mark.parametrize("count", [1, 101], ids=["in one transaction", "after a query"])
class TestLeavesAlone:
    """Other entities' checkpoints and other steps are not changed and not revealed."""

    def test_the_checkpoints_of_another_entity(self, call: Call, count: int) -> None:
        put_checkpoints(MODEL, range(count), entity="speech-team")

        assert deleted(0, list(range(count))) == call(steps=list(range(count)))
        assert {MODEL: set(range(count))} == stored_checkpoints()

    def test_the_checkpoints_of_an_entity_with_a_longer_name(self, call: Call, count: int) -> None:
        put_token("prefix-token", entity="vision")
        put_checkpoints(MODEL, range(count), entity="vision-team")

        assert deleted(0, list(range(count))) == call(
            steps=list(range(count)), token="prefix-token"
        )
        assert {MODEL: set(range(count))} == stored_checkpoints()

    def test_another_entitys_between_the_callers_own(self, call: Call, count: int) -> None:
        put_checkpoints(MODEL, range(count), entity=ENTITY)
        put_checkpoints(MODEL, [count], entity="speech-team")

        assert deleted(count, [count]) == call(steps=list(range(count + 1)))
        assert {MODEL: {count}} == stored_checkpoints()

    def test_a_checkpoint_without_an_owner(self, call: Call, count: int) -> None:
        put_checkpoints(MODEL, range(count), entity=ENTITY)
        put_checkpoints(MODEL, [0], entity="", owner={"S": ENTITY})

        assert deleted(count - 1, [0]) == call(steps=list(range(count)))

    def test_the_same_steps_of_other_models(self, call: Call, count: int) -> None:
        for model_id in (MODEL, MODEL + "0", MODEL.upper(), MODEL[:-1]):
            put_checkpoints(model_id, range(count), entity=ENTITY)

        assert deleted(count, []) == call(steps=list(range(count)))
        assert {MODEL + "0", MODEL.upper(), MODEL[:-1]} == set(stored_checkpoints())

    def test_a_checkpoint_between_two_steps(self, call: Call, count: int) -> None:
        """A table may hold one, put there by others; no request can name it."""
        put_checkpoints(MODEL, range(count), entity=ENTITY)
        put_checkpoints(MODEL, [0], entity=ENTITY, step={"N": "0.5"})

        assert deleted(count, []) == call(steps=list(range(count)))
        assert not call(steps=list(range(count))).body["deleted_count"]

    def test_a_model_whose_id_no_key_can_hold(
        self, call: Call, endpoint: Endpoint, count: int
    ) -> None:
        steps = list(range(count))

        assert deleted(0, steps) == call(steps=steps, model_id="é" * 1_025)
        assert ["GetItem"] == endpoint.calls

    def test_nothing_else_a_record_holds_matters(self, call: Call, count: int) -> None:
        put_checkpoints(
            MODEL, range(count), entity=ENTITY, uri={"S": "s3://x"}, step_name={"S": "entity"}
        )

        assert deleted(count, []) == call(steps=list(range(count)))
        assert {} == stored_checkpoints()


def test_deletes_for_a_model_with_the_longest_id(call: Call) -> None:
    model_id = "é" * 1_024
    put_checkpoints(model_id, [1], entity=ENTITY)

    assert deleted(1, []) == call(steps=[1], model_id=model_id)


def test_an_entity_deletes_its_own_beside_another(call: Call) -> None:
    put_token("other-token", entity="speech-team")
    put_checkpoints(MODEL, [1, 2], entity=ENTITY)
    put_checkpoints(MODEL, [3, 4], entity="speech-team")

    assert deleted(2, [1, 2]) == call(steps=[1, 2, 3, 4], token="other-token")
    assert deleted(2, [3, 4]) == call(steps=[1, 2, 3, 4])
    assert {} == stored_checkpoints()


def test_tells_how_far_it_got_when_it_has_to_stop(call: Call, endpoint: Endpoint) -> None:
    count = (3 + 2 * CONCURRENT_BATCHES) * 100
    put_checkpoints(MODEL, range(count), entity=ENTITY)
    endpoint.fail("TransactWriteItems", *[pass_on] * 3)
    endpoint.keep_failing("TransactWriteItems", cancel("ThrottlingError"))

    answer = call(steps=list(range(count)), milliseconds=13_500)

    assert 503 == answer.status
    assert "Deleted: 300. Possibly deleted: 0. Send the request again" in answer.body["detail"]
    (left,) = stored_checkpoints().values()
    assert count - 300 == len(left)
    sent = {
        request["TransactItems"][0]["Delete"]["Key"]["step"]["N"]
        for request in endpoint.requests
        if "TransactItems" in request
    }
    assert len(sent) <= 3 + CONCURRENT_BATCHES  # after a failure no other was begun

    endpoint.heal()

    answer = call(steps=list(range(count)))
    gone = sorted(set(range(count)) - left)
    assert Answer(200, JSON, {"deleted_count": len(left), "not_found_steps": gone}) == answer


def test_decides_on_what_is_true_now(call: Call, endpoint: Endpoint) -> None:
    """Reads are consistent: tokens and checkpoints are as they are at the request."""
    call(steps=list(range(101)))

    reads = [request for request in endpoint.requests if "TransactItems" not in request]
    assert [True, True] == [request["ConsistentRead"] for request in reads]
