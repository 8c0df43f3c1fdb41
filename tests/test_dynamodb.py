"""DynamoDB fails, briefly or for longer; the response stays correct."""

import json
import time
from typing import Any
from unittest import mock

import pytest
from botocore.exceptions import CredentialRetrievalError

from checkpoints import app, dynamodb
from checkpoints.dynamodb import MAX_ATTEMPTS
from emulators.dynamodb import put_checkpoints, stored_checkpoints
from events import ENTITY, INTERNAL_SERVER_ERROR, JSON, MODEL, Answer, Call
from faulty_dynamodb import (
    Apply,
    Endpoint,
    Fault,
    Reply,
    blank_answer,
    cancel,
    drop_request,
    fail_after_effect,
    garble_answer,
    lose_answer,
    pass_on,
    reject,
    stall,
    stall_answer,
    tear_answer,
)

UNAVAILABLE = JSON | {"Retry-After": "2"}

# Milliseconds: enough for one attempt and its answer, and half a second of retries.
SHORT = 13_000
LATE = 0.3  # seconds, of which the function waits 0.2

throttling = {
    "throttled": reject(400, "ProvisionedThroughputExceededException"),
    "written elsewhere": reject(400, "ReplicatedWriteConflictException"),
    "throttled as well": reject(400, "ThrottlingException"),
    "over the account's limit": reject(400, "RequestLimitExceeded"),
}
throttling_of_transactions = {
    "conflict": cancel("TransactionConflict"),
    "throttled inside": cancel("ThrottlingError"),
    "over throughput inside": cancel("ProvisionedThroughputExceeded"),
    "in progress": reject(400, "TransactionInProgressException"),
}
without_effect = {
    "dropped": drop_request,
    "server error": reject(500, "InternalServerError"),
    "unavailable": reject(503, "ServiceUnavailable"),
    "time-out": stall(LATE),
}
# To a read, the other faults after the effect are the same as those without.
damaged: dict[str, Fault] = {
    "answer torn": tear_answer,
    "answer garbled": garble_answer,
    "answer blank": blank_answer,
}
with_effect = damaged | {
    "answer lost": lose_answer,
    "answer a server error": fail_after_effect,
    "answer too late": stall_answer(LATE),
}


# The function waits so briefly for these that it may repeat a call once more than it has to.
late = (without_effect["time-out"], with_effect["answer too late"])


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Fault:
    """Return the fault of the case, and shorten the time-outs of the function."""
    faults = throttling | throttling_of_transactions | without_effect | with_effect
    fault = faults[request.param]
    if fault in late:
        request.getfixturevalue("_impatient")
    return fault


def cases(*faults: dict[str, Fault]) -> pytest.MarkDecorator:
    names = [name for group in faults for name in group]
    return pytest.mark.parametrize("fault", names, indirect=True)


def unavailable(*, unconfirmed: int = 0) -> Answer:
    detail = (
        "The database is not available. Nothing was deleted. Send the request again. If this "
        "happens repeatedly, send fewer steps."
    )
    if unconfirmed:
        detail = (
            "The database is not available, so the deletion stopped. Deleted: 0. Possibly deleted: "
            f"{unconfirmed}. Send the request again to delete the rest. Checkpoints that are "
            "already deleted are then reported as not found."
        )
    body = {"detail": detail, "deleted_count": 0, "unconfirmed_count": unconfirmed}
    return Answer(503, UNAVAILABLE, body)


# What a deletion that had begun is answered after an internal error.
NOTHING_DELETED = Answer(
    500, JSON, INTERNAL_SERVER_ERROR.body | {"deleted_count": 0, "unconfirmed_count": 0}
)


class TestShortFault:
    """The caller does not notice a short fault."""

    @cases(throttling, without_effect, damaged)
    @pytest.mark.parametrize("operation", ["GetItem", "Query"])
    def test_of_a_read(self, call: Call, endpoint: Endpoint, operation: str, fault: Fault) -> None:
        put_checkpoints(MODEL, range(120), entity=ENTITY)
        endpoint.fail(operation, fault)

        answer = call(steps=list(range(1, 121)))

        assert Answer(200, JSON, {"deleted_count": 119, "not_found_steps": [120]}) == answer
        assert {MODEL: {0}} == stored_checkpoints()
        calls = endpoint.calls.count(operation)
        assert calls == 2 or (fault in late and calls > 2)

    @cases(throttling, throttling_of_transactions, without_effect, with_effect)
    def test_of_a_transaction(self, call: Call, endpoint: Endpoint, fault: Fault) -> None:
        put_checkpoints(MODEL, range(5), entity=ENTITY)
        endpoint.fail("TransactWriteItems", fault, fault)

        answer = call(steps=[1, 2, 3])

        assert Answer(200, JSON, {"deleted_count": 3, "not_found_steps": []}) == answer
        assert {MODEL: {0, 4}} == stored_checkpoints()
        calls = endpoint.calls.count("TransactWriteItems")
        assert calls == 3 or (fault in late and calls > 3)

    @cases(throttling, throttling_of_transactions, without_effect, with_effect)
    def test_after_some_steps_were_not_found(
        self, call: Call, endpoint: Endpoint, fault: Fault
    ) -> None:
        put_checkpoints(MODEL, [1, 3], entity=ENTITY)
        endpoint.fail("TransactWriteItems", pass_on, fault)

        answer = call(steps=[1, 2, 3, 4])

        assert Answer(200, JSON, {"deleted_count": 2, "not_found_steps": [2, 4]}) == answer
        assert {} == stored_checkpoints()

    @cases(with_effect)
    def test_of_one_transaction_among_several(
        self, call: Call, endpoint: Endpoint, fault: Fault
    ) -> None:
        put_checkpoints(MODEL, range(350), entity=ENTITY)
        endpoint.fail("TransactWriteItems", fault, fault)

        answer = call(steps=list(range(360)))

        expected = {"deleted_count": 350, "not_found_steps": list(range(350, 360))}
        assert Answer(200, JSON, expected) == answer
        assert {} == stored_checkpoints()

    def test_that_is_a_different_one_each_time(self, call: Call, endpoint: Endpoint) -> None:
        put_checkpoints(MODEL, [1], entity=ENTITY)
        endpoint.fail("GetItem", drop_request, reject(500, "InternalServerError"))
        endpoint.fail("TransactWriteItems", lose_answer, cancel("TransactionConflict"))

        answer = call(steps=[1, 2])

        assert Answer(200, JSON, {"deleted_count": 1, "not_found_steps": [2]}) == answer

    def test_together_with_steps_that_are_not_found(self, call: Call, endpoint: Endpoint) -> None:
        put_checkpoints(MODEL, [2, 3], entity=ENTITY)
        endpoint.fail(
            "TransactWriteItems",
            cancel("ConditionalCheckFailed", "TransactionConflict"),
            cancel("TransactionConflict", "None"),
        )

        answer = call(steps=[1, 2, 3])

        assert Answer(200, JSON, {"deleted_count": 2, "not_found_steps": [1]}) == answer


class TestLastingFault:
    """A lasting fault returns 503 before the time-out, and a repeated request finishes."""

    @pytest.mark.parametrize("operation", ["GetItem", "Query"])
    def test_of_capacity_for_reads(self, call: Call, endpoint: Endpoint, operation: str) -> None:
        put_checkpoints(MODEL, range(120), entity=ENTITY)
        endpoint.keep_failing(operation, throttling["throttled"])

        assert unavailable() == call(steps=list(range(120)), milliseconds=SHORT)
        assert {MODEL: set(range(120))} == stored_checkpoints()

        endpoint.heal()

        answer = call(steps=list(range(120)))
        assert Answer(200, JSON, {"deleted_count": 120, "not_found_steps": []}) == answer

    @cases(without_effect, damaged)
    def test_of_a_read(self, call: Call, endpoint: Endpoint, fault: Fault) -> None:
        put_checkpoints(MODEL, range(120), entity=ENTITY)
        endpoint.keep_failing("Query", fault)

        assert unavailable() == call(steps=list(range(120)))
        assert {MODEL: set(range(120))} == stored_checkpoints()
        assert endpoint.calls.count("Query") == MAX_ATTEMPTS

        endpoint.heal()

        answer = call(steps=list(range(120)))
        assert Answer(200, JSON, {"deleted_count": 120, "not_found_steps": []}) == answer

    @pytest.mark.parametrize(
        "fault", ["throttled", "conflict", "throttled inside", "in progress"], indirect=True
    )
    def test_of_capacity_for_transactions(
        self, call: Call, endpoint: Endpoint, fault: Fault
    ) -> None:
        put_checkpoints(MODEL, [1, 2], entity=ENTITY)
        endpoint.keep_failing("TransactWriteItems", fault)

        assert unavailable() == call(steps=[1, 2], milliseconds=SHORT)
        assert {MODEL: {1, 2}} == stored_checkpoints()

        endpoint.heal()

        answer = call(steps=[1, 2])
        assert Answer(200, JSON, {"deleted_count": 2, "not_found_steps": []}) == answer

    @cases(without_effect)
    def test_of_a_transaction_that_has_no_effect(
        self, call: Call, endpoint: Endpoint, fault: Fault
    ) -> None:
        put_checkpoints(MODEL, [1, 2], entity=ENTITY)
        endpoint.keep_failing("TransactWriteItems", fault)

        assert unavailable(unconfirmed=2) == call(steps=[1, 2])
        assert {MODEL: {1, 2}} == stored_checkpoints()

        endpoint.heal()

        answer = call(steps=[1, 2])
        assert Answer(200, JSON, {"deleted_count": 2, "not_found_steps": []}) == answer

    @cases(with_effect)
    def test_of_a_transaction_that_has_its_effect(
        self, call: Call, endpoint: Endpoint, fault: Fault
    ) -> None:
        put_checkpoints(MODEL, [1, 2], entity=ENTITY)
        endpoint.keep_failing("TransactWriteItems", fault)

        assert unavailable(unconfirmed=2) == call(steps=[1, 2])
        assert {} == stored_checkpoints()

        endpoint.heal()

        answer = call(steps=[1, 2])
        assert Answer(200, JSON, {"deleted_count": 0, "not_found_steps": [1, 2]}) == answer

    @pytest.mark.usefixtures("_unreachable")
    def test_of_the_connection(self, call: Call) -> None:
        assert unavailable() == call(steps=[1])

    @pytest.mark.usefixtures("_impatient")
    @pytest.mark.parametrize("milliseconds", [3_000, 1_000])
    def test_leaves_no_time(self, call: Call, endpoint: Endpoint, milliseconds: int) -> None:
        endpoint.keep_failing("GetItem", stall(LATE))

        assert unavailable() == call(steps=[1], milliseconds=milliseconds)

    @pytest.mark.usefixtures("_impatient")
    def test_starts_no_attempt_whose_time_outs_end_after_the_deadline(
        self, call: Call, endpoint: Endpoint
    ) -> None:
        """An attempt may take 1.2 s here, and 1.5 s are kept for the answer."""
        assert unavailable() == call(steps=[1], milliseconds=2_600)
        assert [] == endpoint.calls

    @pytest.mark.usefixtures("_impatient")
    def test_leaves_no_time_for_the_rest(self, call: Call, endpoint: Endpoint) -> None:
        put_checkpoints(MODEL, [1], entity=ENTITY)
        endpoint.fail("TransactWriteItems", stall(LATE))
        endpoint.keep_failing("TransactWriteItems", cancel("ThrottlingError"))

        answer = call(steps=[1], milliseconds=3_700)

        assert unavailable(unconfirmed=1) == answer

    def test_is_met_with_pauses_that_grow_and_differ(self, call: Call, endpoint: Endpoint) -> None:
        endpoint.keep_failing("GetItem", drop_request)
        pauses: list[float] = []

        with (
            mock.patch.object(dynamodb, "INITIAL_BACKOFF_SECONDS", 0.1),
            mock.patch.object(dynamodb, "MAX_BACKOFF_SECONDS", 2.0),
            mock.patch.object(time, "sleep", pauses.append),
        ):
            assert unavailable() == call(steps=[1])

        ceilings = [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
        assert all(pause <= most for pause, most in zip(pauses, ceilings, strict=True))
        assert len(set(pauses)) == len(pauses)
        assert sum(pauses) > 1

    def test_of_capacity_is_waited_out_for_as_long_as_there_is_time(
        self, call: Call, endpoint: Endpoint
    ) -> None:
        put_checkpoints(MODEL, [1], entity=ENTITY)
        throttled, conflict = cancel("ThrottlingError"), cancel("TransactionConflict")
        endpoint.fail("TransactWriteItems", *[throttled, conflict] * 15)

        answer = call(steps=[1])

        assert Answer(200, JSON, {"deleted_count": 1, "not_found_steps": []}) == answer
        assert 31 == endpoint.calls.count("TransactWriteItems")


class TestInternalError:
    """A permanent fault returns 500 immediately, with correct counts."""

    @pytest.mark.parametrize("operation", ["GetItem", "Query", "TransactWriteItems"])
    @pytest.mark.parametrize(
        "code",
        [
            "AccessDeniedException",
            "ResourceNotFoundException",
            "UnrecognizedClientException",
            "ExpiredTokenException",
        ],
    )
    def test_is_not_repeated(
        self, call: Call, endpoint: Endpoint, operation: str, code: str
    ) -> None:
        put_checkpoints(MODEL, range(101), entity=ENTITY)
        endpoint.keep_failing(operation, reject(400, code))

        expected = INTERNAL_SERVER_ERROR if operation == "GetItem" else NOTHING_DELETED
        assert expected == call(steps=list(range(101)))
        assert endpoint.calls.count(operation) <= 2  # two transactions are under way together
        assert {MODEL: set(range(101))} == stored_checkpoints()

    def test_inside_a_transaction_is_not_repeated(self, call: Call, endpoint: Endpoint) -> None:
        put_checkpoints(MODEL, [1], entity=ENTITY)
        endpoint.keep_failing("TransactWriteItems", cancel("ValidationError"))

        assert NOTHING_DELETED == call(steps=[1])
        assert ["GetItem", "TransactWriteItems"] == endpoint.calls

    @pytest.mark.parametrize(
        "fault",
        [reject(400, "ValidationException"), cancel("ValidationError")],
        ids=["rejected", "cancelled"],
    )
    def test_a_transaction_that_is_invalid_is_sent_again_in_halves(
        self, call: Call, endpoint: Endpoint, fault: Fault
    ) -> None:
        put_checkpoints(MODEL, range(50), entity=ENTITY)
        endpoint.fail("TransactWriteItems", fault, fault)

        answer = call(steps=list(range(50)))

        assert Answer(200, JSON, {"deleted_count": 50, "not_found_steps": []}) == answer
        assert {} == stored_checkpoints()

    def test_a_single_invalid_delete_is_an_internal_error(
        self, call: Call, endpoint: Endpoint
    ) -> None:
        put_checkpoints(MODEL, range(8), entity=ENTITY)
        endpoint.keep_failing("TransactWriteItems", reject(400, "ValidationException"))

        assert NOTHING_DELETED == call(steps=list(range(8)))
        assert endpoint.calls.count("TransactWriteItems") == 4
        assert {MODEL: set(range(8))} == stored_checkpoints()

    def test_of_any_kind_leaves_what_was_sent_unconfirmed(
        self, call: Call, endpoint: Endpoint
    ) -> None:
        """After any exception, the transaction that was sent may have had its effect."""

        def answer_nonsense(_request: object, apply: Apply) -> Reply:
            apply()
            body = {
                "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
                "CancellationReasons": [{}],
            }
            return Reply(400, json.dumps(body).encode())

        put_checkpoints(MODEL, range(150), entity=ENTITY)
        endpoint.fail("TransactWriteItems", answer_nonsense, answer_nonsense)

        answer = call(steps=list(range(150)))

        assert INTERNAL_SERVER_ERROR.body["detail"] == answer.body["detail"]
        assert (500, 0, 150) == (
            answer.status,
            answer.body["deleted_count"],
            answer.body["unconfirmed_count"],
        )
        assert {} == stored_checkpoints()

    def test_is_not_halved_while_an_earlier_attempt_is_open(
        self, call: Call, endpoint: Endpoint
    ) -> None:
        """A half has another token, so what was already deleted would be reported as not found."""
        put_checkpoints(MODEL, range(4), entity=ENTITY)
        endpoint.fail("TransactWriteItems", lose_answer, reject(400, "ValidationException"))

        answer = call(steps=list(range(4)))

        assert (500, 0, 4) == (
            answer.status,
            answer.body["deleted_count"],
            answer.body["unconfirmed_count"],
        )

    def test_starts_no_more_transactions(self, call: Call, endpoint: Endpoint) -> None:
        put_checkpoints(MODEL, range(1_000), entity=ENTITY)
        endpoint.keep_failing("TransactWriteItems", reject(400, "AccessDeniedException"))

        assert NOTHING_DELETED == call(steps=list(range(1_000)))
        assert endpoint.calls.count("TransactWriteItems") <= 4  # those that were under way together

    def test_decides_the_response_before_an_outage(self, call: Call, endpoint: Endpoint) -> None:
        """If there are two failures, the permanent one decides the response."""
        put_checkpoints(MODEL, range(200), entity=ENTITY)
        denied = reject(400, "AccessDeniedException")

        def fail(request: dict[str, Any], apply: Apply) -> Reply:
            first = request["TransactItems"][0]["Delete"]["Key"]["step"]["N"] == "0"
            return (reject(500, "InternalServerError") if first else slow)(request, apply)

        def slow(request: dict[str, Any], apply: Apply) -> Reply:
            time.sleep(0.05)
            return denied(request, apply)

        endpoint.keep_failing("TransactWriteItems", fail)

        answer = call(steps=list(range(200)))

        assert (500, 0, 100) == (
            answer.status,
            answer.body["deleted_count"],
            answer.body["unconfirmed_count"],
        )

    @pytest.mark.parametrize("failures", [1, 20])
    def test_of_credentials_sends_nothing(
        self, call: Call, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, failures: int
    ) -> None:
        """With SnapStart, credentials come from an endpoint, which can fail briefly."""
        put_checkpoints(MODEL, [1], entity=ENTITY)
        store = app.connect()[1]
        signer = store._client._request_signer  # type: ignore[attr-defined]  # noqa: SLF001
        sign = signer.sign
        left = [failures]

        def fail(operation: str, *args: object, **kwargs: object) -> None:
            if operation == "TransactWriteItems" and left[0]:
                left[0] -= 1
                raise CredentialRetrievalError(provider="container-role", error_msg="on command")
            sign(operation, *args, **kwargs)

        monkeypatch.setattr(signer, "sign", fail)

        answer = call(steps=[1])

        expected = Answer(200, JSON, {"deleted_count": 1, "not_found_steps": []})
        assert answer == (expected if failures == 1 else unavailable())
        assert endpoint.calls.count("TransactWriteItems") == (failures == 1)
