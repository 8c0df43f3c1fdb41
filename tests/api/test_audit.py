"""What is logged for a request, and what is never logged."""

import io
import json
import sys
import time
from datetime import datetime
from typing import Any
from unittest import mock

import pytest

from checkpoints.api import app
from checkpoints.api.auth import READ_SCOPE, hash_token
from emulators.dynamodb import put_checkpoints, put_token, stored_checkpoints
from events import (
    ENTITY,
    INTERNAL_SERVER_ERROR,
    LIST_UNAVAILABLE,
    MODEL,
    NOTHING_DELETED,
    TOKEN,
    Call,
    Response,
    deleted,
    make_event,
    query,
    would_delete,
)
from faulty_dynamodb import Endpoint, Reply, cancel, lose_response, pass_on, reject, stall
from function_process import run_in_a_process
from logs import Lines, log_lines, metrics

DENIED = reject(400, "AccessDeniedException")
OUTAGE = reject(500, "InternalServerError")
DRY_RUN = query(dry_run="true")
NOT_UTF_8 = "/v1/preview/models/%FF/checkpoints"
LIST: dict[str, Any] = {"method": "GET", "token": "reader"}

REQUEST = {"correlation_id": "gateway-request-1"}
CALLER = {"entity": ENTITY, "token_name": TOKEN, "token_id": hash_token(TOKEN)[:8]}
DELETION = REQUEST | CALLER | {"model_id": MODEL}
READER = {"token_name": "laptop", "token_id": hash_token("reader")[:8]}
LISTING = DELETION | READER


@pytest.fixture(autouse=True)
def _reader(_fresh_tables: None) -> None:
    put_token("reader", entity=ENTITY, scopes=[READ_SCOPE], name="laptop")


RANGES = [[-5, -5], [1, 3], [7, 7], [10, 10]]
STEPS = {"steps": [10, 1, 3, 2, 99, -5, 98, 7, 50]}


@pytest.mark.parametrize(
    ("event", "line", "counts"),
    [
        (
            STEPS,
            {"message": "Deletion completed", "deleted_count": 6, "not_found_count": 2}
            | {"protected_count": 1}
            | {"deleted_steps": RANGES}
            | DELETION,
            {"CheckpointsDeleted": 6, "CheckpointsProtected": 1, "StepsNotFound": 2},
        ),
        (
            STEPS | DRY_RUN,
            {"message": "Dry run completed", "would_delete_count": 6, "not_found_count": 2}
            | {"protected_count": 1}
            | {"would_delete_steps": RANGES, "dry_run": True}
            | DELETION,
            {},
        ),
        (
            LIST | query(after=2, limit=3),
            {"message": "Checkpoints listed", "listed_count": 3} | LISTING,
            {"CheckpointsListed": 3},
        ),
        (
            LIST | query(after=50),
            {"message": "Checkpoints listed", "listed_count": 0} | LISTING,
            {"CheckpointsListed": 0},
        ),
    ],
    ids=["deletion", "dry run", "list", "empty list"],
)
def test_one_line_says_who_did_what(
    call: Call, lines: Lines, event: dict[str, Any], line: dict[str, Any], counts: dict[str, int]
) -> None:
    """A dry run has no metrics, because nothing was deleted."""
    put_checkpoints(MODEL, [1, 2, 3, 7, -5, 10], entity=ENTITY)
    put_checkpoints(MODEL, [50], entity=ENTITY, protected={"BOOL": True})

    call(**event)

    assert [{"level": "INFO", "status": 200} | line] == log_lines(written := lines())
    assert counts == metrics(written)
    assert 0 < written[0]["duration_ms"] < 29_000


@pytest.mark.parametrize(
    ("parameters", "message", "field"),
    [({}, "Deletion", "deleted_steps"), (DRY_RUN, "Dry run", "would_delete_steps")],
    ids=["deletion", "dry run"],
)
def test_a_long_list_of_steps_is_split_and_complete(
    call: Call, lines: Lines, parameters: dict[str, Any], message: str, field: str
) -> None:
    steps = [10**35 + 2 * number for number in range(2_200)]
    put_checkpoints(MODEL, steps, entity=ENTITY)

    expected = would_delete(2_200) if parameters is DRY_RUN else deleted(2_200)
    assert expected == call(steps=steps, **parameters)

    logged = log_lines(written := lines())
    others = [f"{message} continued"] * (len(logged) - 1)
    assert others
    assert [f"{message} completed", *others] == [each["message"] for each in logged]
    assert [[step, step] for step in steps] == [pair for each in logged for pair in each[field]]
    for each in logged:
        assert DELETION.items() <= each.items()
        assert ("dry_run" in each) == ("deleted_steps" not in each) == (parameters is DRY_RUN)
    assert all(len(json.dumps(each)) < 256 * 1024 for each in written)


@pytest.mark.parametrize(
    ("event", "status", "reason"),
    [
        ({"token": None}, 401, "no_credentials"),
        ({"token": "un known"}, 401, "malformed_credentials"),
        ({"multiValueHeaders": {"Authorization": ["a", "b"]}}, 401, "repeated_credentials"),
        ({"token": "unknown"}, 401, "unknown_token"),
        ({"token": "expired"}, 401, "expired_token"),
        ({"path": "/elsewhere"}, 404, "unknown_route"),
        ({"token": "reader"}, 403, "insufficient_scope"),
        ({"body": '{"steps": ["secret"]}'}, 422, "invalid_request"),
        ({"path": NOT_UTF_8}, 422, "invalid_request"),
        ({"path": NOT_UTF_8, "token": "reader"}, 403, "insufficient_scope"),
    ],
)
def test_a_refusal_is_logged_with_its_reason_and_whom_the_token_belongs_to(
    call: Call, lines: Lines, event: dict[str, Any], status: int, reason: str
) -> None:
    """If the token is valid, the line has the model. It never has other input.

    It has no fields of the request before it.
    """
    call(steps=[1], **DRY_RUN)
    lines()
    model = {} if "path" in event else {"model_id": "someone's"}
    put_token("expired", entity=ENTITY, name="old", expires_at={"N": "1"})
    fields = {
        "expired_token": CALLER | {"token_name": "old", "token_id": hash_token("expired")[:8]},
        "insufficient_scope": CALLER | READER | model,
        "invalid_request": CALLER | model,
    }

    call(**{"body": '{"steps": [4711], "secret": "word"}', "model_id": "someone's"} | event)

    assert [
        {"level": "WARNING", "message": "Request refused", "status": status, "reason": reason}
        | REQUEST
        | fields.get(reason, {})
    ] == log_lines(written := lines())
    assert {f"RequestsRefused {reason}": 1} == metrics(written)


STOPPED = {  # by the cause, which is in the line
    "ConnectionClosedError": (503, lose_response, "RequestsUnavailable"),
    "AccessDeniedException": (500, DENIED, "RequestsFailed"),
}


@pytest.mark.parametrize("cause", STOPPED)
def test_an_incomplete_deletion_is_logged_with_confirmed_and_unconfirmed_steps(
    call: Call, endpoint: Endpoint, lines: Lines, cause: str
) -> None:
    """What DynamoDB rejected is not unconfirmed. Here, what is unconfirmed was deleted."""
    status, fault, metric = STOPPED[cause]
    put_checkpoints(MODEL, range(500), entity=ENTITY)
    put_checkpoints(MODEL, [500], entity=ENTITY, protected={"BOOL": True})
    endpoint.fail("TransactWriteItems", pass_on)
    endpoint.keep_failing("TransactWriteItems", fault)

    assert status == call(steps=list(range(501))).status

    first, *others = log_lines(written := lines())
    ranges = first.pop("deleted_steps") + [
        pair for line in others for pair in line["unconfirmed_steps"]
    ]
    gone = [step for first, last in ranges for step in range(first, last + 1)]
    assert {
        "level": "ERROR",
        "message": "Deletion incomplete",
        "status": status,
        "deleted_count": 100,
        "unconfirmed_count": len(gone) - 100,
        "protected_count": 1,
    } | DELETION == first
    assert {*range(501)} - {*gone} == stored_checkpoints().get(MODEL, set())
    assert bool(others) == (fault is lose_response)
    assert cause in written[0]["exception"]
    counts = {"CheckpointsDeleted": 100, "CheckpointsProtected": 1, "DeletionsIncomplete": 1}
    assert counts | {metric: 1} == metrics(written)


# For each operation: a request that reads with it, the fields of its line, and its 503.
READS: dict[str, tuple[dict[str, Any], dict[str, Any], Response]] = {
    "GetItem": ({"steps": [1]}, REQUEST, NOTHING_DELETED),
    "BatchGetItem": ({"steps": [1]} | DRY_RUN, DELETION | {"dry_run": True}, NOTHING_DELETED),
    "Query": (LIST, LISTING, LIST_UNAVAILABLE),
}
FAILURES = {
    503: (OUTAGE, "InternalServerError", "RequestsUnavailable"),
    500: (DENIED, "AccessDeniedException", "RequestsFailed"),
}


@pytest.mark.parametrize("operation", READS)
@pytest.mark.parametrize("status", FAILURES)
def test_a_failed_read_is_logged_with_its_cause_and_is_not_an_incomplete_deletion(
    call: Call, endpoint: Endpoint, lines: Lines, operation: str, status: int
) -> None:
    (event, fields, unavailable), (fault, cause, metric) = READS[operation], FAILURES[status]
    endpoint.keep_failing(operation, fault)

    assert (unavailable if status == 503 else INTERNAL_SERVER_ERROR) == call(**event)

    expected = {"level": "ERROR", "message": "Request failed", "status": status} | fields
    assert [expected] == log_lines(written := lines())
    assert cause in written[0]["exception"]
    assert {metric: 1} == metrics(written)


@pytest.mark.parametrize(
    ("initialization", "cold_starts"), [("on-demand", 1), ("provisioned-concurrency", 0)]
)
def test_the_first_request_of_a_process_counts_as_one_cold_start(
    endpoint: Endpoint, initialization: str, cold_starts: int
) -> None:
    """Also if it has several lines, as after a failure. The libraries log nothing."""
    endpoint.fail("TransactWriteItems", OUTAGE, DENIED)

    outcome = run_in_a_process(
        endpoint, [make_event(steps=[1])] * 3, AWS_LAMBDA_INITIALIZATION_TYPE=initialization
    )

    assert [500, 200, 200] == [response.status for response in outcome.responses]
    assert 4 == outcome.log.count('"correlation_id"')
    assert cold_starts == outcome.log.count('"Name":"ColdStart"')
    assert all("{" == line[0] for line in outcome.log.splitlines() if line)


def test_a_line_has_the_time_the_invocation_the_trace_and_the_calls(
    call: Call, endpoint: Endpoint, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = "1-5759e988-bd862e3fe1be46a994272793"
    monkeypatch.setenv("_X_AMZN_TRACE_ID", f"Root={root};Parent=53995c3f42cd8ad8;Sampled=1")
    request_id = "\N{SNOWMAN}\u2028\ud800\n"
    put_checkpoints(MODEL, range(250), entity=ENTITY)
    endpoint.fail("GetItem", OUTAGE)
    endpoint.fail("TransactWriteItems", cancel("TransactionConflict"))
    before = time.time()

    call(steps=list(range(250)), requestContext={"requestId": request_id})

    line, emf = lines()
    logged_at = datetime.fromisoformat(line["timestamp"]).timestamp()
    assert before - 0.001 <= logged_at <= time.time()
    assert isinstance(emf["_aws"]["Timestamp"], int)  # in milliseconds
    assert abs(logged_at * 1000 - emf["_aws"]["Timestamp"]) <= 1_000
    assert (root, 36) == (line["xray_trace_id"], len(line["function_request_id"]))
    assert request_id == line["correlation_id"]
    assert (len(endpoint.calls), 2) == (line["dynamodb_calls"], line["dynamodb_retries"])
    assert 0 < line["dynamodb_ms"] <= line["duration_ms"]


def test_a_long_exception_fits_on_its_line_with_its_metrics(
    call: Call, endpoint: Endpoint, lines: Lines
) -> None:
    body = b"{" + "\N{SNOWMAN}".encode() * 300_000
    endpoint.keep_failing("GetItem", lambda *_: Reply(400, body))

    assert 500 == call(steps=[1]).status

    line, _ = written = lines()
    assert len(json.dumps(line)) < 256 * 1024
    assert "RejectedError" == line["exception_name"]
    assert "ClientError" in line["exception"]  # its beginning, and its end
    assert "authenticate" in line["exception"]
    assert {"RequestsFailed": 1} == metrics(written)


def test_a_log_that_cannot_be_written_does_not_change_the_response(
    call: Call, lines: Lines
) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)
    closed = io.StringIO()
    closed.close()

    with mock.patch.object(sys, "stdout", closed):
        assert deleted(1) == call(steps=[1])

    lines()
    call(token=None)
    assert {"RequestsRefused no_credentials": 1} == metrics(lines())


def test_a_deletion_is_logged_even_if_its_response_cannot_be_made(
    call: Call, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)
    monkeypatch.setattr(app, "DeleteCheckpointsResponse", mock.Mock(side_effect=MemoryError))

    assert 500 == call(steps=[1]).status

    assert [[1, 1]] in [line.get("deleted_steps") for line in lines()]


def test_no_secret_and_no_other_data_of_a_record_is_logged_at_any_level(
    endpoint: Endpoint,
) -> None:
    """All settings of AWS, Powertools and Python that log more are on."""
    good, unknown = "a-secret-and-good-token", "a-secret-and-unknown-token"
    put_token(good, entity=ENTITY, name="laptop")
    values = {"M": {"secret-name": {"N": "4711.25"}, "secret-text": {"S": "secret-word"}}}
    put_checkpoints(MODEL, range(30), entity=ENTITY, metrics=values, note={"S": "secret-note"})
    body = '{"steps": [4711, 1], "secret": "in-the-body"}'
    events = [
        make_event(token=good, body=body),
        make_event(token=good, body=body[:-1]),
        make_event(token=unknown, body=body, model_id="secret-model"),
        make_event(headers={"Authorization": f"Basic {unknown}"}, path="/secret-path"),
        make_event(headers={"Authorization": f"Basic {unknown}", "X-Secret": "in-a-header"}),
        make_event(token=good, body=body) | {"path": None},
        make_event(**LIST),
        make_event(**LIST, **query(limit="no")),
    ]
    endpoint.fail("GetItem", OUTAGE, stall(0.1))
    endpoint.fail("TransactWriteItems", cancel("TransactionConflict"))

    outcome = run_in_a_process(
        endpoint,
        events,
        PYTHONWARNINGS="default",  # Powertools warns about its settings
        POWERTOOLS_LOG_LEVEL="DEBUG",
        POWERTOOLS_LOGGER_LOG_EVENT="true",
        POWERTOOLS_DEBUG="true",
        POWERTOOLS_DEV="true",
        AWS_LAMBDA_LOG_LEVEL="DEBUG",
    )

    statuses = [response.status for response in outcome.responses]
    assert [200, 422, 401, 404, 401, 500, 200, 422] == statuses
    assert 4711.25 == outcome.responses[6].body["data"][0]["metrics"]["secret-name"]
    assert '"token_name":"laptop"' in outcome.log
    assert '"listed_count":20' in outcome.log
    for secret in (good, unknown):
        assert secret not in outcome.log
        assert hash_token(secret)[:9] not in outcome.log
    assert hash_token(unknown)[:8] not in outcome.log
    for sent in ("in-the-body", "in-a-header", "secret-model", "Authorization"):
        assert sent not in outcome.log
    for stored in ("secret-name", "secret-text", "secret-word", "secret-note", "4711.25"):
        assert stored not in outcome.log
