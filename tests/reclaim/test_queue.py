"""Each deleted record with artifacts becomes a message, whatever the record contains."""

import json
from datetime import timedelta
from typing import Any

import pytest

from checkpoints.reclaim import queue
from emulators.invocation import lambda_context
from emulators.storage import queue_events
from events import DELETED_AT, ENTITY, MODEL, expired, make_stream_record
from faulty_client import Apply, ClientFault, Fail, Request, faults_of, lose_reply

URI = "s3://artifacts/m/1/"


@pytest.fixture(autouse=True)
def _empty(bucket: None) -> None:  # noqa: ARG001 it serves the queue
    queue_events()


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    monkeypatch.setattr(queue, "RESEND_BACKOFF_SECONDS", 0)
    return faults_of(monkeypatch, queue.connect())


def run(*records: dict[str, Any]) -> list[dict[str, Any]]:
    """Call the function with a batch of records, and return what is in the queue."""
    queue.lambda_handler({"Records": list(records)}, lambda_context())
    return [json.loads(event["Records"][0]["body"]) for event in queue_events()]


def message(**fields: object) -> dict[str, object]:
    """Return the message for `make_stream_record(URI)`."""
    return {
        "model_id": MODEL,
        "step": "1",
        "entity": ENTITY,
        "artifact_uri": URI,
        "deleted_at": DELETED_AT.isoformat(),
        "deleted_by": "request",
        "protected": False,
    } | fields


WITHOUT_IMAGE = make_stream_record(URI)
del WITHOUT_IMAGE["dynamodb"]["OldImage"]
PROTECTING: list[dict[str, Any]] = [{"BOOL": True}, {"S": ""}, {"NULL": True}, {"L": []}]
NO_STRING: list[dict[str, Any]] = [{"SS": [URI]}, {"NULL": True}, {"L": [URI] * 999}]
LONG = "\U0001f3cb" * 100_000  # 400 KB


@pytest.mark.parametrize(
    ("record", "sent"),
    [
        (make_stream_record(URI), message()),
        (make_stream_record(URI, step=-7), message(step="-7")),
        (make_stream_record(URI, step=10**125), message(step=str(10**125))),
        (make_stream_record(URI, at=DELETED_AT + timedelta(seconds=0.9)), message()),
        (make_stream_record("\x00\ud800\uffff"), message(artifact_uri="\x00\ud800\uffff")),
        (expired(make_stream_record(URI)), message(deleted_by="expiry")),
        (expired(make_stream_record(URI), type="User"), message()),
        (make_stream_record(URI, protected={"BOOL": False}), message()),
        *(
            (make_stream_record(URI, protected=value), message(protected=True))
            for value in PROTECTING
        ),
        (make_stream_record(URI, entity={"N": "1"}), message(entity="")),
        (make_stream_record(URI, entity={"S": LONG}), message(entity=LONG[:2_000])),
        (make_stream_record(LONG), message(artifact_uri=LONG[:2_000], problem="uri_too_long")),
        *(
            (
                make_stream_record(value),
                message(artifact_uri=json.dumps(value)[:2_000], problem="not_a_string"),
            )
            for value in NO_STRING
        ),
        (WITHOUT_IMAGE, message(entity="", artifact_uri="", problem="no_old_image")),
        # Other changes, and records without artifacts
        (make_stream_record(URI, event_name="MODIFY"), None),
        (make_stream_record(URI, event_name="INSERT"), None),
        (make_stream_record(None), None),
    ],
)
def test_sends_a_message_for_each_deleted_record_with_artifacts(
    record: dict[str, Any], sent: dict[str, object] | None
) -> None:
    assert ([sent] if sent else []) == run(record)


def test_sends_every_record_of_a_batch_whatever_its_neighbours_contain(fail: Fail) -> None:
    """The longest messages do not fit into one call, whose limit was 256 KB for years."""
    sizes: list[tuple[int, int]] = []

    def measure(request: Request, apply: Apply) -> Any:
        bodies = [entry["MessageBody"] for entry in request["Entries"]]
        sizes.append((len(bodies), sum(map(len, bodies))))
        return apply(**request)

    fail("send_message_batch", *[measure] * 50)
    longest = make_stream_record(LONG, entity={"S": LONG})
    longest["dynamodb"]["Keys"]["model_id"]["S"] = "\x01" * 2_048
    records = [make_stream_record(URI, step=step) for step in range(25)]

    assert 40 == len(run(*records, *[longest] * 15))

    assert (10, 10) == (sizes[0][0], sizes[1][0])
    assert max(count for count, _ in sizes) <= 10
    assert max(size for _, size in sizes) <= 256 * 1024


def some_fail(codes: dict[str, str]) -> ClientFault:
    """Send a batch, except the entries with an error code."""

    def fault(request: Request, apply: Apply) -> Any:
        others = [entry for entry in request["Entries"] if entry["Id"] not in codes]
        failed = [{"Id": number, "Code": code} for number, code in codes.items()]
        sent = apply(**request | {"Entries": others}) if others else {}
        return sent | {"Failed": failed}

    return fault


def test_sends_again_what_sqs_did_not_accept(fail: Fail) -> None:
    records = [make_stream_record(URI, step=step) for step in range(12)]
    fail("send_message_batch", some_fail({"0": "InternalError", "9": "ServiceUnavailable"}))

    assert sorted(map(str, range(12))) == sorted(each["step"] for each in run(*records))


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        ([some_fail({"1": "InternalError"})] * 3, r"messages not sent: 1 \(InternalError\)"),
        ([lose_reply], "closed"),
    ],
)
def test_raises_an_error_so_that_lambda_sends_the_records_again(
    faults: list[ClientFault], error: str, fail: Fail
) -> None:
    """Then some messages can exist twice, which does no harm."""
    records = [make_stream_record(URI, step=step) for step in range(2)]
    fail("send_message_batch", *faults)

    with pytest.raises(Exception, match=error):
        run(*records)

    assert {"0", "1"} == {each["step"] for each in run(*records)}
