"""DynamoDB fails, briefly or for longer; the response stays correct."""

import time
from itertools import count
from typing import Any

import pytest
from botocore.exceptions import (
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints.api import app
from checkpoints.dynamodb import MAX_ATTEMPTS, MAX_CREDENTIAL_ATTEMPTS
from emulators.dynamodb import put_checkpoints, stored_checkpoints
from events import (
    ENTITY,
    INTERNAL_SERVER_ERROR,
    MODEL,
    NOTHING_DELETED,
    Call,
    Response,
    deleted,
    failed_deletion,
)
from faulty_dynamodb import (
    Apply,
    Endpoint,
    Fault,
    Reply,
    after_effect,
    blank_response,
    cancel,
    drop_request,
    fail_after_effect,
    garble_response,
    lose_response,
    pass_on,
    reject,
    stall,
    tear_response,
)

# Milliseconds: enough for one attempt and its response, and half a second of retries.
SHORT = 13_000
LATE = 0.3  # seconds, of which the function waits 0.2

not_allowed = reject(400, "AccessDeniedException")
throttling = {
    "throttled": reject(400, "ProvisionedThroughputExceededException"),
    "written elsewhere": reject(400, "ReplicatedWriteConflictException"),
    "throttled as well": reject(400, "ThrottlingException"),
    "over the account's limit": reject(400, "RequestLimitExceeded"),
}
# While the role's credentials change, and after a clock was corrected.
bad_credentials = {
    "expired": reject(400, "ExpiredTokenException"),
    "not known yet": reject(400, "UnrecognizedClientException"),
    "signed with a wrong time": reject(400, "InvalidSignatureException"),
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
    "received too slowly": reject(408, "RequestTimeoutException"),
    "timeout": stall(LATE),
}
# To a read, the other faults after the effect are the same as those without.
damaged: dict[str, Fault] = {
    "response cut off": tear_response,
    "response garbled": garble_response,
    "response blank": blank_response,
}
with_effect = damaged | {
    "response lost": lose_response,
    "response a server error": fail_after_effect,
    "response an abort": after_effect(reject(400, "RequestAbortedException")),
    "response too late": after_effect(stall(LATE)),
}

# The function waits so briefly for these that it may repeat a call once more than it has to.
late = (without_effect["timeout"], with_effect["response too late"])

UNCONFIRMED = failed_deletion(
    503,
    "The database is not available, so the deletion stopped. Deleted: 0. Possibly deleted: 2. "
    "Send the request again to delete the rest. Checkpoints that are already deleted are then "
    "reported as not found.",
    unconfirmed=2,
)


def internal_error(*, unconfirmed: int = 0) -> Response:
    """Return the response to a deletion that stopped with an internal error."""
    return failed_deletion(500, INTERNAL_SERVER_ERROR.body["detail"], unconfirmed=unconfirmed)


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Fault:
    """Return the fault of the case, and shorten the timeouts of the function."""
    rejections = (
        {"not allowed": not_allowed} | throttling | bad_credentials | throttling_of_transactions
    )
    fault = (rejections | without_effect | with_effect)[request.param]
    if fault in late:
        request.getfixturevalue("_impatient")
    return fault


def cases(*faults: dict[str, Fault]) -> pytest.MarkDecorator:
    names = [name for group in faults for name in group]
    return pytest.mark.parametrize("fault", names, indirect=True)


def put_untouchable(protected: int, foreign: int) -> None:
    """Save two checkpoints that the caller cannot delete, which have expired besides."""
    expired = {"N": "1"}
    put_checkpoints(MODEL, [protected], entity=ENTITY, protected={"BOOL": True}, expires_at=expired)
    put_checkpoints(MODEL, [foreign], entity="speech-team", expires_at=expired)


# Short faults: the caller does not notice them.


@cases(throttling, bad_credentials, without_effect, damaged)
@pytest.mark.parametrize("operation", ["GetItem", "Query"])
def test_a_short_fault_of_a_read_does_not_change_the_response(
    call: Call, endpoint: Endpoint, operation: str, fault: Fault
) -> None:
    put_checkpoints(MODEL, range(120), entity=ENTITY)
    put_untouchable(5, 6)
    endpoint.fail(operation, fault)

    assert deleted(117, [6, 120], [5]) == call(steps=list(range(1, 121)))
    assert {MODEL: {0, 5, 6}} == stored_checkpoints()
    calls = endpoint.calls.count(operation)
    assert calls == 2 or (fault in late and calls > 2)


@cases(throttling, bad_credentials, throttling_of_transactions, without_effect, with_effect)
@pytest.mark.parametrize(
    ("steps", "response"),
    [([1, 3], deleted(2)), ([1, 2, 3, 5, 6], deleted(2, [2, 6], [5]))],
    ids=["at first", "after some steps were not found or protected"],
)
def test_a_short_fault_of_a_transaction_does_not_change_the_response(
    call: Call, endpoint: Endpoint, steps: list[int], response: Response, fault: Fault
) -> None:
    put_checkpoints(MODEL, [0, 1, 3], entity=ENTITY)
    put_untouchable(5, 6)
    first = [pass_on] if len(steps) > 2 else []
    endpoint.fail("TransactWriteItems", *first, fault, fault)

    assert response == call(steps=steps)
    assert {MODEL: {0, 5, 6}} == stored_checkpoints()
    calls = endpoint.calls.count("TransactWriteItems") - len(first)
    assert calls == 3 or (fault in late and calls > 3)


def test_several_different_short_faults_do_not_change_the_response(
    call: Call, endpoint: Endpoint
) -> None:
    put_checkpoints(MODEL, [2, 3], entity=ENTITY)
    endpoint.fail("GetItem", drop_request, reject(500, "InternalServerError"))
    endpoint.fail(
        "TransactWriteItems",
        lose_response,
        cancel("ConditionalCheckFailed", "TransactionConflict"),
        cancel("TransactionConflict", "None"),
    )

    assert deleted(2, [1]) == call(steps=[1, 2, 3])


def test_retries_throttling_and_conflicts_as_long_as_there_is_time(
    call: Call, endpoint: Endpoint
) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)
    throttled, conflict = cancel("ThrottlingError"), cancel("TransactionConflict")
    endpoint.fail("TransactWriteItems", *[throttled, conflict] * 15)

    assert deleted(1) == call(steps=[1])
    assert 31 == endpoint.calls.count("TransactWriteItems")


KINDS: dict[str, Any] = {
    "own": {},
    "expired": {"expires_at": {"N": "1"}},
    "protected": {"protected": {"BOOL": True}, "expires_at": {"N": "1"}},
    "foreign": {"entity": "speech-team", "protected": {"BOOL": False}},
}
numbers = count()
any_fault = st.sampled_from([pass_on, *without_effect.values(), *with_effect.values()])
of_transactions = any_fault | st.sampled_from([*throttling_of_transactions.values(), not_allowed])


@pytest.mark.usefixtures("_impatient")
@settings(max_examples=25, deadline=None)
@given(
    table=st.dictionaries(st.integers(0, 12), st.sampled_from([*KINDS]), min_size=1),
    faults=st.fixed_dictionaries(
        {
            "Query": st.lists(any_fault, max_size=3),
            "TransactWriteItems": st.lists(of_transactions, max_size=4),
        }
    ),
    number=st.sampled_from([13, 200]),
)
def test_whatever_fails_the_counts_are_true_and_nothing_else_is_deleted(
    call: Call, endpoint: Endpoint, table: dict[int, str], faults: dict[str, Any], number: int
) -> None:
    model_id = str(next(numbers))  # a new one for each example
    for step, kind in table.items():
        put_checkpoints(model_id, [step], **{"entity": ENTITY} | KINDS[kind])
    endpoint.heal()
    for operation, of_operation in faults.items():
        endpoint.fail(operation, *of_operation)

    response = call(steps=list(range(number)), model_id=model_id)

    gone = table.keys() - stored_checkpoints().get(model_id, set())
    deletable = {step for step, kind in table.items() if kind in ("own", "expired")}
    assert gone <= deletable
    if response.status == 200:
        protected = [step for step in range(number) if table.get(step) == "protected"]
        missing = [step for step in range(number) if step not in {*deletable, *protected}]
        assert deleted(len(gone), missing, protected) == response
        assert gone == deletable
    else:
        counts = response.body
        assert not_allowed in faults["TransactWriteItems"]  # the other faults are short
        assert 0 <= len(gone) - counts["deleted_count"] <= counts["unconfirmed_count"]


# Lasting faults: the response is 503 before the timeout, and the repeated request finishes.


@cases({"throttled": throttling["throttled"]}, without_effect, damaged)
def test_a_lasting_fault_of_a_read_deletes_nothing(
    call: Call, endpoint: Endpoint, fault: Fault
) -> None:
    put_checkpoints(MODEL, range(120), entity=ENTITY)
    endpoint.keep_failing("Query", fault)
    is_throttled = fault is throttling["throttled"]

    response = call(steps=list(range(120)), milliseconds=SHORT if is_throttled else 29_000)

    assert NOTHING_DELETED == response
    assert {MODEL: set(range(120))} == stored_checkpoints()
    assert is_throttled or endpoint.calls.count("Query") == MAX_ATTEMPTS

    endpoint.heal()

    assert deleted(120) == call(steps=list(range(120)))


@pytest.mark.parametrize(
    ("fault", "response", "left"),
    [
        *((name, NOTHING_DELETED, {1, 2}) for name in ("throttled", *throttling_of_transactions)),
        *((name, UNCONFIRMED, {1, 2}) for name in without_effect),
        *((name, UNCONFIRMED, set()) for name in with_effect),
    ],
    indirect=["fault"],
)
def test_a_lasting_fault_of_a_transaction_leaves_it_unconfirmed_unless_dynamodb_rejected_it(
    call: Call, endpoint: Endpoint, fault: Fault, response: Response, left: set[int]
) -> None:
    put_checkpoints(MODEL, [1, 2], entity=ENTITY)
    endpoint.keep_failing("TransactWriteItems", fault)
    milliseconds = SHORT if response is NOTHING_DELETED else 29_000

    assert response == call(steps=[1, 2], milliseconds=milliseconds)
    assert left == stored_checkpoints().get(MODEL, set())

    endpoint.heal()

    assert deleted(len(left), sorted({1, 2} - left)) == call(steps=[1, 2])


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(
    ("milliseconds", "is_tried"), [(3_000, True), (2_600, False), (1_000, False)]
)
def test_starts_no_attempt_whose_timeouts_end_after_the_deadline(
    call: Call, endpoint: Endpoint, milliseconds: int, *, is_tried: bool
) -> None:
    """An attempt may take 1.2 s here, and 1.5 s are reserved for the response."""
    endpoint.keep_failing("GetItem", stall(LATE))

    assert NOTHING_DELETED == call(steps=[1], milliseconds=milliseconds)
    assert is_tried == bool(endpoint.calls)


def test_backoff_grows_and_is_random(call: Call, endpoint: Endpoint, pauses: list[float]) -> None:
    endpoint.keep_failing("GetItem", drop_request)

    assert NOTHING_DELETED == call(steps=[1])

    longest = [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    assert all(pause <= most for pause, most in zip(pauses, longest, strict=True))
    assert len(set(pauses)) == len(pauses)
    assert sum(pauses) > 1


# Permanent faults: the response is 500 at once, with correct counts.


@cases({"not allowed": not_allowed}, bad_credentials)
@pytest.mark.parametrize("operation", ["GetItem", "Query", "TransactWriteItems"])
def test_a_permanent_fault_is_not_retried_and_bad_credentials_only_a_few_times(
    call: Call, endpoint: Endpoint, pauses: list[float], operation: str, fault: Fault
) -> None:
    steps = list(range(101)) if operation == "Query" else [0]
    put_checkpoints(MODEL, steps, entity=ENTITY)
    endpoint.keep_failing(operation, fault)

    expected = INTERNAL_SERVER_ERROR if operation == "GetItem" else internal_error()
    assert expected == call(steps=steps)
    attempts = 1 if fault is not_allowed else MAX_CREDENTIAL_ATTEMPTS
    assert attempts == endpoint.calls.count(operation)
    assert sum(pauses) < 2
    assert {MODEL: set(steps)} == stored_checkpoints()


@pytest.mark.parametrize(
    "invalid",
    [reject(400, "ValidationException"), cancel("ValidationError")],
    ids=["rejected", "cancelled"],
)
def test_an_invalid_transaction_is_sent_again_in_halves_until_it_has_a_single_delete(
    call: Call, endpoint: Endpoint, invalid: Fault
) -> None:
    put_checkpoints(MODEL, range(50), entity=ENTITY)
    endpoint.fail("TransactWriteItems", invalid, invalid)

    assert deleted(42) == call(steps=list(range(8, 50)))
    assert 5 == endpoint.calls.count("TransactWriteItems")

    endpoint.keep_failing("TransactWriteItems", invalid)

    assert internal_error() == call(steps=list(range(8)))
    assert 5 + 4 == endpoint.calls.count("TransactWriteItems")
    assert {MODEL: set(range(8))} == stored_checkpoints()


# What happened to a transaction, after several different faults


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(
    ("faults", "response"),
    [
        ([stall(LATE), *[cancel("ThrottlingError")] * 200], UNCONFIRMED),
        ([lose_response, *[bad_credentials["expired"]] * 5], internal_error(unconfirmed=2)),
        # A half would have another token, so what was already deleted would not be found.
        ([lose_response, reject(400, "ValidationException")], internal_error(unconfirmed=2)),
        # All attempts have the same token, so after a cancellation, none of them succeeded.
        (
            [
                without_effect["server error"],
                cancel("ConditionalCheckFailed"),
                not_allowed,
            ],
            internal_error(unconfirmed=0),
        ),
    ],
    ids=["throttled", "bad credentials", "invalid", "cancelled"],
)
def test_what_follows_a_fault_with_an_unknown_outcome(
    call: Call, endpoint: Endpoint, faults: list[Fault], response: Response
) -> None:
    put_checkpoints(MODEL, [1, 2], entity=ENTITY)
    endpoint.fail("TransactWriteItems", *faults)

    assert response == call(steps=[1, 2], milliseconds=3_700)


def test_concurrent_transactions_are_counted_exactly_if_responses_are_lost(
    call: Call, endpoint: Endpoint
) -> None:
    put_checkpoints(MODEL, range(350), entity=ENTITY)
    endpoint.fail("TransactWriteItems", lose_response, lose_response)

    assert deleted(350, range(350, 360)) == call(steps=list(range(360)))
    assert {} == stored_checkpoints()


def test_an_internal_error_decides_the_response_even_if_an_outage_came_first(
    call: Call, endpoint: Endpoint
) -> None:
    put_checkpoints(MODEL, range(200), entity=ENTITY)

    def fail(request: dict[str, Any], apply: Apply) -> Reply:
        if request["TransactItems"][0]["Delete"]["Key"]["step"]["N"] == "0":
            return reject(500, "InternalServerError")(request, apply)
        time.sleep(0.05)
        return not_allowed(request, apply)

    endpoint.keep_failing("TransactWriteItems", fail)

    assert internal_error(unconfirmed=100) == call(steps=list(range(200)))


@pytest.mark.parametrize(
    "error",
    [
        # With SnapStart, credentials come from an endpoint, which can fail briefly.
        CredentialRetrievalError(provider="container-role", error_msg="on command"),
        EndpointConnectionError(endpoint_url="on command"),
        ConnectTimeoutError(endpoint_url="on command"),
    ],
    ids=type,
)
@pytest.mark.parametrize(
    ("failures", "response"), [(1, deleted(1)), (20, NOTHING_DELETED)], ids=["short", "lasting"]
)
def test_a_request_that_was_not_sent_deleted_nothing(
    call: Call, endpoint: Endpoint, failures: int, response: Response, error: Exception
) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)
    errors = [error] * failures

    def fail(**_: object) -> None:
        if errors:
            raise errors.pop()

    events = app.connect().client.meta.events
    events.register("before-sign.dynamodb.TransactWriteItems", fail)
    try:
        assert response == call(steps=[1])
    finally:
        events.unregister("before-sign.dynamodb.TransactWriteItems", fail)
    assert endpoint.calls.count("TransactWriteItems") == (failures == 1)
