"""What is logged for a request, and what is never logged."""

import io
import json
import sys
import time
from datetime import datetime
from typing import Any
from unittest import mock

import pytest

from checkpoints import app
from checkpoints.auth import READ_SCOPE, hash_token
from emulators.dynamodb import put_checkpoints, put_token
from events import ENTITY, MODEL, TOKEN, Call, make_event
from faulty_dynamodb import Endpoint, Fault, Reply, cancel, lose_answer, pass_on, reject, stall
from function_process import run_in_a_process
from logs import Lines, log_lines, metrics


def test_one_line_says_who_deleted_what(call: Call, lines: Lines) -> None:
    put_checkpoints(MODEL, [1, 2, 3, 7, -5, 10], entity=ENTITY)
    lines()

    call(steps=[10, 1, 3, 2, 99, -5, 98])

    written = lines()
    assert [
        {
            "level": "INFO",
            "message": "Deletion completed",
            "correlation_id": "gateway-request-1",
            "entity": ENTITY,
            "token_name": TOKEN,
            "model_id": MODEL,
            "status": 200,
            "deleted_count": 5,
            "not_found_count": 2,
            "deleted_steps": [[-5, -5], [1, 3], [10, 10]],
        }
    ] == log_lines(written)
    assert {"CheckpointsDeleted": 5, "StepsNotFound": 2} == metrics(written)
    assert 0 < written[0]["duration_ms"] < 29_000


def test_a_long_list_of_steps_is_split_and_complete(call: Call, lines: Lines) -> None:
    steps = [10**35 + 2 * number for number in range(2_200)]
    put_checkpoints(MODEL, steps, entity=ENTITY)
    lines()

    assert call(steps=steps).body == {"deleted_count": 2_200, "not_found_steps": []}

    written = lines()
    parts = [line["deleted_steps"] for line in log_lines(written)]
    assert len(parts) > 1
    assert [[step, step] for step in steps] == [pair for part in parts for pair in part]
    assert {"gateway-request-1"} == {line["correlation_id"] for line in log_lines(written)}
    assert {MODEL} == {line["model_id"] for line in log_lines(written)}
    assert all(len(json.dumps(line)) < 256 * 1024 for line in written)


@pytest.mark.parametrize(
    ("event", "status", "reason"),
    [
        ({"token": None}, 401, "no_credentials"),
        ({"token": "un known"}, 401, "malformed_credentials"),
        ({"multiValueHeaders": {"Authorization": ["a", "b"]}}, 401, "repeated_credentials"),
        ({"token": "unknown"}, 401, "unknown_token"),
        ({"token": "expired"}, 401, "expired_token"),
        ({"path": "/elsewhere"}, 404, "unknown_route"),
    ],
)
def test_a_refusal_is_logged_with_its_reason_and_without_the_input(
    call: Call, lines: Lines, event: dict[str, Any], status: int, reason: str
) -> None:
    put_token("expired", entity=ENTITY, expires_at={"N": "1"})
    lines()

    call(body='{"steps": [4711], "secret": "word"}', model_id="someone's", **event)

    written = lines()
    assert [
        {
            "level": "WARNING",
            "message": "Request refused",
            "correlation_id": "gateway-request-1",
            "status": status,
            "reason": reason,
        }
    ] == log_lines(written)
    assert {f"RequestsRefused {reason}": 1} == metrics(written)


@pytest.mark.parametrize(
    ("event", "status", "reason"),
    [
        ({"token": "under-scoped"}, 403, "insufficient_scope"),
        ({"body": '{"steps": ["secret"]}', "token": TOKEN}, 422, "invalid_request"),
    ],
)
def test_a_refusal_of_a_known_caller_names_the_caller(
    call: Call, lines: Lines, event: dict[str, Any], status: int, reason: str
) -> None:
    put_token("under-scoped", entity=ENTITY, scopes=["checkpoints:read"])
    lines()

    call(**event)

    written = lines()
    assert [
        {
            "level": "WARNING",
            "message": "Request refused",
            "correlation_id": "gateway-request-1",
            "entity": ENTITY,
            "token_name": event["token"],
            "status": status,
            "reason": reason,
        }
    ] == log_lines(written)
    assert {f"RequestsRefused {reason}": 1} == metrics(written)


def test_an_incomplete_deletion_is_logged_with_confirmed_and_unconfirmed_steps(
    call: Call, endpoint: Endpoint, lines: Lines
) -> None:
    put_checkpoints(MODEL, range(250), entity=ENTITY)
    endpoint.fail("TransactWriteItems", pass_on)
    endpoint.keep_failing("TransactWriteItems", lose_answer)
    lines()

    assert 503 == call(steps=list(range(250))).status

    written = lines()
    first, unconfirmed = log_lines(written)
    deleted_steps = first.pop("deleted_steps")
    who_and_what = {
        "correlation_id": "gateway-request-1",
        "entity": ENTITY,
        "token_name": TOKEN,
        "model_id": MODEL,
    }
    count = sum(last - first + 1 for first, last in deleted_steps)
    assert {
        "level": "ERROR",
        "message": "Deletion incomplete",
        "status": 503,
        "deleted_count": count,
        "unconfirmed_count": 250 - count,
    } | who_and_what == first
    told = [pair for part in (deleted_steps, unconfirmed["unconfirmed_steps"]) for pair in part]
    assert set(range(250)) == {step for first, last in told for step in range(first, last + 1)}
    assert "ConnectionClosedError" in written[0]["exception"]
    counts = {"CheckpointsDeleted": count, "DeletionsIncomplete": 1, "RequestsUnavailable": 1}
    assert counts == metrics(written)


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (reject(400, "AccessDeniedException"), "AccessDeniedException"),
        # One reason more than there are actions, as DynamoDB never would.
        (cancel(*["ConditionalCheckFailed"] * 101), "TransactionCanceledException"),
    ],
    ids=["not allowed", "garbled"],
)
def test_a_failure_after_some_deletions_logs_them(
    call: Call, endpoint: Endpoint, lines: Lines, fault: Fault, name: str
) -> None:
    put_checkpoints(MODEL, range(500), entity=ENTITY)
    endpoint.fail("TransactWriteItems", pass_on)
    endpoint.keep_failing("TransactWriteItems", fault)
    lines()

    assert 500 == call(steps=list(range(500))).status

    written = lines()
    assert "Deletion incomplete" == log_lines(written)[0]["message"]
    assert 100 == log_lines(written)[0]["deleted_count"]
    assert name in written[0]["exception"]
    assert 0 == log_lines(written)[0]["unconfirmed_count"]  # a refusal is an answer
    assert {"CheckpointsDeleted": 100, "DeletionsIncomplete": 1, "RequestsFailed": 1} == metrics(
        written
    )


def test_an_internal_error_is_logged_with_its_cause(
    call: Call, endpoint: Endpoint, lines: Lines
) -> None:
    endpoint.keep_failing("GetItem", reject(400, "AccessDeniedException"))
    lines()

    assert 500 == call(steps=[1]).status

    written = lines()
    assert [
        {
            "level": "ERROR",
            "message": "Request failed",
            "correlation_id": "gateway-request-1",
            "status": 500,
        }
    ] == log_lines(written)
    assert "AccessDeniedException" in written[0]["exception"]
    assert 0 < written[0]["duration_ms"] < 29_000
    assert {"RequestsFailed": 1} == metrics(written)


def test_a_failed_token_lookup_is_not_an_incomplete_deletion(
    call: Call, endpoint: Endpoint, lines: Lines
) -> None:
    endpoint.keep_failing("GetItem", reject(503, "ServiceUnavailable"))
    lines()

    assert 503 == call(steps=[1]).status

    written = lines()
    assert ("Request failed", 503) == (written[0]["message"], written[0]["status"])
    assert {"RequestsUnavailable": 1} == metrics(written)


def test_a_line_never_names_an_earlier_caller(call: Call, lines: Lines) -> None:
    call(steps=[1])
    lines()

    call(token=None)

    assert {"entity", "token_name", "model_id"}.isdisjoint(lines()[0])


def test_the_first_request_of_a_process_counts_as_one_cold_start(endpoint: Endpoint) -> None:
    """Also if it has several lines, as after a failure."""
    denied = reject(400, "AccessDeniedException")
    endpoint.fail("TransactWriteItems", reject(500, "InternalServerError"), denied)

    outcome = run_in_a_process(endpoint, [make_event(steps=[1])] * 3)

    assert [500, 200, 200] == [answer.status for answer in outcome.answers]
    assert 4 == outcome.log.count('"correlation_id"')
    assert 1 == outcome.log.count('"Name":"ColdStart"')


def test_a_start_before_any_request_is_not_a_cold_start(endpoint: Endpoint) -> None:
    outcome = run_in_a_process(
        endpoint,
        [make_event(steps=[1])],
        AWS_LAMBDA_INITIALIZATION_TYPE="provisioned-concurrency",
    )

    assert "ColdStart" not in outcome.log


def test_a_line_has_the_time_and_the_invocation(
    call: Call, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = "1-5759e988-bd862e3fe1be46a994272793"
    monkeypatch.setenv("_X_AMZN_TRACE_ID", f"Root={root};Parent=53995c3f42cd8ad8;Sampled=1")
    lines()
    before = time.time()

    call(steps=[1])

    line, emf = lines()
    told = datetime.fromisoformat(line["timestamp"]).timestamp()
    assert before - 0.001 <= told <= time.time()
    assert isinstance(emf["_aws"]["Timestamp"], int)  # of milliseconds
    assert abs(told * 1000 - emf["_aws"]["Timestamp"]) <= 1_000
    assert (root, 36) == (line["xray_trace_id"], len(line["function_request_id"]))


@pytest.mark.parametrize("length", [20_000, 300_000])
def test_a_long_exception_fits_on_its_line_with_its_metrics(
    call: Call, endpoint: Endpoint, lines: Lines, length: int
) -> None:
    answer = b"{" + "\N{SNOWMAN}".encode() * length
    endpoint.keep_failing("GetItem", lambda *_: Reply(400, answer))
    lines()

    assert 500 == call(steps=[1]).status

    line, _ = written = lines()
    assert len(json.dumps(line)) < 256 * 1024
    assert "RejectedError" == line["exception_name"]
    assert "ClientError" in line["exception"]  # its beginning, and its end
    assert "authenticate" in line["exception"]
    assert {"RequestsFailed": 1} == metrics(written)


@pytest.mark.parametrize("name", ["", "\N{SNOWMAN}\u2028\ud800\n"])
def test_a_line_is_plain_json_whatever_the_request_id_is(
    call: Call, lines: Lines, name: str
) -> None:
    lines()

    assert 200 == call(steps=[1], requestContext={"requestId": name}).status

    line, _ = lines()
    assert name == line["correlation_id"]


def test_a_log_that_cannot_be_written_changes_no_answer(call: Call, lines: Lines) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)
    closed = io.StringIO()
    closed.close()

    with mock.patch.object(sys, "stdout", closed):
        assert {"deleted_count": 1, "not_found_steps": []} == call(steps=[1]).body

    lines()
    call(token=None)
    assert {"RequestsRefused no_credentials": 1} == metrics(lines())


@pytest.mark.usefixtures("_listable")
def test_nothing_secret_and_nothing_of_a_record_is_ever_logged_at_any_level(
    endpoint: Endpoint,
) -> None:
    """The switches that AWS, Powertools and Python offer to log more are all on."""
    good, unknown = "a-secret-and-good-token", "a-secret-and-unknown-token"
    put_token(good, entity=ENTITY, name="laptop")
    put_checkpoints(MODEL, [1], entity=ENTITY)
    body = '{"steps": [1, 4711], "secret": "in-the-body"}'
    events = [
        make_event(token=good, body=body),
        make_event(token=good, body=body[:-1]),
        make_event(token=unknown, body=body, model_id="secret-model"),
        make_event(headers={"Authorization": f"Basic {unknown}"}, path="/secret-path"),
        make_event(headers={"Authorization": f"Basic {unknown}", "X-Secret": "in-a-header"}),
        make_event(token=good, body=body) | {"path": None},
        make_event(**LISTING),
        make_event(**LISTING, queryStringParameters={"limit": "no"}),
    ]
    endpoint.fail("GetItem", reject(500, "InternalServerError"), stall(0.1))
    endpoint.fail("TransactWriteItems", cancel("TransactionConflict"))

    outcome = run_in_a_process(
        endpoint,
        events,
        PYTHONWARNINGS="default",  # Powertools warns of its switches
        POWERTOOLS_LOG_LEVEL="DEBUG",
        POWERTOOLS_LOGGER_LOG_EVENT="true",
        POWERTOOLS_DEBUG="true",
        POWERTOOLS_DEV="true",
        AWS_LAMBDA_LOG_LEVEL="DEBUG",
    )

    statuses = [answer.status for answer in outcome.answers]
    assert [200, 422, 401, 404, 401, 500, 200, 422] == statuses
    assert 4711.25 == outcome.answers[6].body["data"][0]["metrics"]["secret-name"]
    assert '"token_name":"laptop"' in outcome.log
    assert '"listed_count":20' in outcome.log
    for secret in (good, unknown):
        assert secret not in outcome.log
        assert hash_token(secret) not in outcome.log
    for sent in ("in-the-body", "in-a-header", "secret-model", "Authorization"):
        assert sent not in outcome.log
    for stored in ("secret-name", "secret-text", "secret-word", "secret-note", "4711.25"):
        assert stored not in outcome.log


@pytest.mark.parametrize("name", ["POWERTOOLS_LOG_LEVEL", "AWS_LAMBDA_LOG_LEVEL"])
def test_who_deleted_what_is_logged_at_any_level(endpoint: Endpoint, name: str) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)

    outcome = run_in_a_process(
        endpoint,
        [make_event(steps=[1])] * 2,
        PYTHONWARNINGS="default",
        POWERTOOLS_LOGGER_SAMPLE_RATE="0",
        **{name: "CRITICAL"},
    )

    assert 2 == outcome.log.count('"message":"Deletion completed"')
    assert '"deleted_steps":[[1,1]]' in outcome.log


def test_the_libraries_do_not_log_what_is_normal(endpoint: Endpoint) -> None:
    outcome = run_in_a_process(endpoint, [make_event(steps=[1])])

    assert "Found credentials" not in outcome.log
    assert all("{" == line[0] for line in outcome.log.splitlines() if line)


def test_a_line_has_the_number_and_the_time_of_dynamodb_calls(
    call: Call, endpoint: Endpoint, lines: Lines
) -> None:
    put_checkpoints(MODEL, range(250), entity=ENTITY)
    endpoint.fail("GetItem", reject(500, "InternalServerError"))
    endpoint.fail("TransactWriteItems", cancel("TransactionConflict"))
    lines()

    call(steps=list(range(250)))

    line = lines()[0]
    assert (len(endpoint.calls), 2) == (line["dynamodb_calls"], line["dynamodb_retries"])
    assert 0 < line["dynamodb_ms"] <= line["duration_ms"]


def test_what_was_deleted_is_logged_even_if_the_answer_cannot_be_made(
    call: Call, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)
    monkeypatch.setattr(app, "DeleteCheckpointsResponse", mock.Mock(side_effect=MemoryError))
    lines()

    assert 500 == call(steps=[1]).status

    assert [[1, 1]] in [line.get("deleted_steps") for line in lines()]


DRY_RUN = {"queryStringParameters": {"dry_run": "true"}}


def test_a_dry_run_logs_what_would_be_deleted_and_emits_no_metrics(
    call: Call, lines: Lines
) -> None:
    put_checkpoints(MODEL, [1, 2, 3, 7], entity=ENTITY)
    lines()

    call(steps=[7, 1, 3, 2, 99], **DRY_RUN)

    assert [
        {
            "level": "INFO",
            "message": "Dry run completed",
            "correlation_id": "gateway-request-1",
            "entity": ENTITY,
            "token_name": TOKEN,
            "model_id": MODEL,
            "dry_run": True,
            "status": 200,
            "would_delete_count": 4,
            "not_found_count": 1,
            "would_delete_steps": [[1, 3], [7, 7]],
        }
    ] == log_lines(written := lines())
    assert {} == metrics(written)

    call(steps=[1])

    assert "dry_run" not in lines()[0]


def test_a_dry_run_of_many_steps_never_reads_like_a_deletion(call: Call, lines: Lines) -> None:
    steps = [10**35 + 2 * number for number in range(2_200)]
    put_checkpoints(MODEL, steps, entity=ENTITY)
    lines()

    call(steps=steps, **DRY_RUN)

    first, *others = log_lines(lines())
    assert ["Dry run completed", *["Dry run continued"] * len(others)] == [
        line["message"] for line in (first, *others)
    ]
    assert others
    assert all(line["dry_run"] and "deleted_steps" not in line for line in (first, *others))
    told = [pair for line in (first, *others) for pair in line["would_delete_steps"]]
    assert [[step, step] for step in steps] == told


@pytest.mark.parametrize(
    ("fault", "status"),
    [(reject(500, "InternalServerError"), 503), (reject(400, "AccessDeniedException"), 500)],
)
def test_a_failed_dry_run_is_not_an_incomplete_deletion(
    call: Call, endpoint: Endpoint, lines: Lines, fault: Fault, status: int
) -> None:
    endpoint.keep_failing("BatchGetItem", fault)
    lines()

    assert status == call(steps=[1], **DRY_RUN).status

    written = lines()
    assert [
        {
            "level": "ERROR",
            "message": "Request failed",
            "correlation_id": "gateway-request-1",
            "entity": ENTITY,
            "token_name": TOKEN,
            "model_id": MODEL,
            "dry_run": True,
            "status": status,
        }
    ] == log_lines(written)
    assert {"CheckpointsDeleted", "DeletionsIncomplete"}.isdisjoint(metrics(written))


@pytest.fixture
def _listable(endpoint: Endpoint) -> None:
    put_token("reader", entity=ENTITY, scopes=[READ_SCOPE], name="laptop")
    metrics = {"M": {"secret-name": {"N": "4711.25"}, "secret-text": {"S": "secret-word"}}}
    put_checkpoints(MODEL, range(30), entity=ENTITY, metrics=metrics, note={"S": "secret-note"})
    endpoint.heal()


LISTING: dict[str, Any] = {"method": "GET", "token": "reader"}


@pytest.mark.usefixtures("_listable")
@pytest.mark.parametrize(
    ("query", "count"), [({}, 20), ({"after": "19"}, 10), ({"after": "29"}, 0), ({"limit": "1"}, 1)]
)
def test_one_line_says_who_listed_how_many(
    call: Call, lines: Lines, query: dict[str, str], count: int
) -> None:
    call(**LISTING, queryStringParameters=query)

    assert [
        {
            "level": "INFO",
            "message": "Checkpoints listed",
            "correlation_id": "gateway-request-1",
            "entity": ENTITY,
            "token_name": "laptop",
            "model_id": MODEL,
            "status": 200,
            "listed_count": count,
        }
    ] == log_lines(written := lines())
    assert {"CheckpointsListed": count} == metrics(written)
    assert 2 == written[0]["dynamodb_calls"]


@pytest.mark.usefixtures("_listable")
@pytest.mark.parametrize(
    ("fault", "status"),
    [(reject(500, "InternalServerError"), 503), (reject(400, "AccessDeniedException"), 500)],
)
def test_a_list_that_fails_is_a_failed_request(
    call: Call, endpoint: Endpoint, lines: Lines, fault: Fault, status: int
) -> None:
    endpoint.keep_failing("Query", fault)

    assert status == call(**LISTING).status

    assert [
        {
            "level": "ERROR",
            "message": "Request failed",
            "correlation_id": "gateway-request-1",
            "entity": ENTITY,
            "token_name": "laptop",
            "model_id": MODEL,
            "status": status,
        }
    ] == log_lines(written := lines())
    assert {"RequestsUnavailable" if status == 503 else "RequestsFailed": 1} == metrics(written)
