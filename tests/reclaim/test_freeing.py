"""The artifacts of deleted checkpoints are deleted: all of them, and nothing else."""

import json
import logging
import os
import re
import unicodedata
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import product, repeat
from typing import Any
from urllib.parse import quote, unquote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from checkpoints.reclaim import MAX_CALL_SECONDS, queue
from checkpoints.reclaim import app as reclaim
from emulators.dynamodb import clear_tables, put_checkpoints, stored_checkpoints
from emulators.invocation import lambda_context
from emulators.records import ARTIFACTS_BUCKET as BUCKET
from emulators.storage import (
    clear_bucket,
    put_objects,
    queue_event,
    queue_events,
    stored_objects,
    stream_event,
)
from events import DELETED_AT, ENTITY, MODEL, Call, expired, make_stream_record
from faulty_client import (
    Apply,
    ClientFault,
    Fail,
    Request,
    after,
    blank_reply,
    drop_call,
    error_of,
    faults_of,
    lose_reply,
    object_errors,
    pass_on,
)
from faulty_dynamodb import Endpoint, reject
from faulty_dynamodb import pass_on as pass_request
from logs import Lines, log_lines, metrics

BEFORE = DELETED_AT - timedelta(seconds=1)
MILLISECONDS = 300_000

type Event = dict[str, Any]


@pytest.fixture(autouse=True)
def _empty(bucket: None) -> None:  # noqa: ARG001 it is what is emptied
    clear_bucket()
    stream_event()
    queue_events()


@pytest.fixture
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let S3 list three objects a page, not a thousand."""
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Inject faults into calls of DynamoDB, S3 or SQS."""
    return faults_of(monkeypatch, *reclaim.connect(), queue.connect())


def uri(key: str) -> str:
    return f"s3://{BUCKET}/{key}"


def removed(step: int = 1) -> Event:
    """Return the stream record of a deleted checkpoint with artifacts under `m/` and the step."""
    return make_stream_record(uri(f"m/{step}/"), step=step)


def save(*keys: str) -> None:
    """Save an object at each key before the checkpoints were deleted."""
    put_objects(*keys, saved_at=BEFORE)


def put(step: int, key: str, model_id: str = MODEL) -> None:
    """Save the record of a checkpoint whose URI has this key."""
    put_checkpoints(model_id, [step], entity="anyone", artifact_uri={"S": uri(key)})


def run(*records: Event, context: Any = None) -> list[Event]:
    """Send records through both functions, and return the messages that failed."""
    queue.lambda_handler({"Records": list(records)}, lambda_context())
    return deliver(*queue_events(), context=context)


def make_clock(milliseconds: int = MILLISECONDS) -> Any:
    """Return the context of an invocation whose time passes only if a test changes `left`."""
    clock: Any = lambda_context()
    clock.left = milliseconds
    clock.get_remaining_time_in_millis = lambda: clock.left
    return clock


def run_out(clock: Any) -> Callable[[], None]:
    """Return a function that leaves too little time to delete more."""
    return lambda: vars(clock).update(left=reclaim.MIN_REMAINING_MS - 1)


def send_now(request: Request, apply: Apply) -> Any:
    """Send a message without its delay."""
    return apply(**request | {"DelaySeconds": 0})


def deliver(*messages: Event, context: Any = None) -> list[Event]:
    """Deliver messages, and return those that the queue would deliver again."""
    failed = []
    for message in messages:
        try:
            reclaim.lambda_handler(message, context or lambda_context(MILLISECONDS))
        except reclaim.NotFreedError:
            failed.append(message)
    return failed


def body_of(message: Event) -> dict[str, Any]:
    return json.loads(message["Records"][0]["body"])  # type: ignore[no-any-return]


LOGGED = {
    "freed": ("INFO", "Storage freed"),
    "continued": ("INFO", "More storage to free"),
    "kept": ("INFO", "Storage kept"),
    "nothing_found": ("WARNING", "No objects found"),
    "conflict": ("ERROR", "Checkpoint saved again while its artifacts were deleted"),
    "refused": ("ERROR", "Reclaim refused"),
    "retry": ("WARNING", "Reclaim interrupted"),
}


def line_of(outcome: str, **fields: object) -> dict[str, object]:
    """Return the log line for step 1, by default without deleted objects."""
    level, message = LOGGED[outcome]
    counts = {"objects_deleted": 0, "bytes_freed": 0, "objects_kept": {}}
    return (
        {
            "level": level,
            "message": message,
            "entity": ENTITY,
            "model_id": MODEL,
            "step": 1,
            "artifact_uri": uri("m/1/"),
            "deleted_at": DELETED_AT.isoformat(),
            "deleted_by": "request",
            "outcome": outcome,
        }
        | ({} if outcome == "refused" else counts)
        | fields
    )


def assert_refused(written: list[dict[str, Any]], reason: str, **fields: object) -> None:
    assert [line_of("refused", reason=reason, **fields)] == log_lines(written)
    assert {"ReclaimsRefused": 1} == metrics(written)


def outcomes(written: list[dict[str, Any]]) -> list[str]:
    return [line["outcome"] for line in log_lines(written)]


def progress(written: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Return the outcome of each attempt, and how many objects it deleted."""
    return [(line["outcome"], line["objects_deleted"]) for line in log_lines(written)]


# What is deleted


def test_a_deletion_frees_the_storage_of_exactly_the_deleted_checkpoints(call: Call) -> None:
    for step in (1, 10):
        artifact_uri = {"S": uri(f"m/{step}/")}
        put_checkpoints(MODEL, [step], entity=ENTITY, artifact_uri=artifact_uri)
        save(f"m/{step}/model.bin", f"m/{step}/optimizer.bin")
    put_checkpoints(MODEL, [2], entity=ENTITY)
    put_checkpoints(MODEL, [3], entity="others", artifact_uri={"S": uri("m/3/")})

    call(steps=[1, 2, 3, 99])
    event = stream_event()

    assert ["INSERT"] * 4 + ["REMOVE"] * 2 == [each["eventName"] for each in event["Records"]]
    assert [] == run(*event["Records"])
    assert {"m/10/model.bin", "m/10/optimizer.bin"} == stored_objects()
    assert {MODEL: {3, 10}} == stored_checkpoints()
    assert {"Records": []} == stream_event()


@pytest.mark.parametrize("protected", [False, True])
def test_the_expiry_of_a_record_frees_its_storage_unless_it_was_protected(
    lines: Lines, *, protected: bool
) -> None:
    """Time to live deletes protected records, too."""
    record = make_stream_record(uri("m/1/"), protected={"BOOL": protected}, expires_at={"N": "1"})
    save("m/1/a")

    failed = run(expired(record))

    assert protected == bool(failed)
    assert ({"m/1/a"} if protected else set()) == stored_objects()
    fields = {"reason": "protected"} if protected else {"objects_deleted": 1, "bytes_freed": 7}
    outcome = "refused" if protected else "freed"
    assert [line_of(outcome, deleted_by="expiry", **fields)] == log_lines(lines())


EVERYTHING = {"m/1/", "m/1/a", "m/1/b/c", "m/10", "m/10-a", "m/11", "m/11/", "M/1/a", "x/m/1/a"}


@pytest.mark.parametrize(
    ("key", "deleted"),
    [
        *((key, {key}) for key in ("m/1/a", "m/10")),
        ("m/1/", {"m/1/", "m/1/a", "m/1/b/c"}),
        ("m/11/", {"m/11/"}),
        ("m/", EVERYTHING - {"M/1/a", "x/m/1/a"}),
        *((key, set()) for key in ("m/2/", "m/1/c", "/m/1/", "m//1/", "m/10/", "m/1/a*")),
    ],
)
def test_deletes_the_object_or_all_objects_with_the_prefix(
    key: str, deleted: set[str], lines: Lines
) -> None:
    save(*EVERYTHING)

    assert [] == run(make_stream_record(uri(key)))

    assert EVERYTHING - deleted == stored_objects()
    counts = {"objects_deleted": len(deleted), "bytes_freed": 7 * len(deleted)}
    line = line_of("freed", **counts) if deleted else line_of("nothing_found")
    line["artifact_uri"] = uri(key)
    assert [line] == log_lines(written := lines())
    expected = {"ObjectsDeleted": len(deleted), "BytesFreed": 7 * len(deleted), "ObjectsKept": 0}
    assert expected | ({} if deleted else {"ReclaimsNothingFound": 1}) == metrics(written)


KEYS = [
    "a b", " a", "a+b", "a%2Fb", "a%20b", "100%", "a?versionId=null", "a#b", "a/../b", "../a",
    "./a", "//a//b", "a&amp;<b>'\"", "a]]>", "été", "e\u0301te\u0301", "重み/🏋", "\u200ba",
    "a\u2028b", "a\ufffeb", "a\uffff", "s3://b/c", "x" * 1024,
]  # fmt: skip
CONTROL_CHARACTERS = ["a\nb", "a\rb", "a\r\nb", "a\tb", "a\x00b", "a\x01b", "a\x1fb", "a\x7f\x85b"]


@pytest.mark.parametrize("key", KEYS + CONTROL_CHARACTERS, ids=ascii)
def test_uses_a_key_without_decoding_it(key: str, lines: Lines) -> None:
    """All objects have the same ETag, so the condition on it cannot hide a wrong key."""
    similar = {
        *(unquote_plus(key), quote(key), os.path.normpath(key), key.strip(), key[:-1]),
        *(unicodedata.normalize(form, key) for form in ("NFC", "NFD")),
        *(re.split("[?#]", key)[0], key.replace("\r", ""), key.replace("\r", "\n")),
    }  # fmt: skip
    others = {other for other in similar if other != key and 0 < len(other.encode()) <= 1024}
    save(key, *others)

    if key in KEYS:
        assert [] == run(make_stream_record(uri(key)))

        assert others == stored_objects()
        assert 1 == lines()[0]["objects_deleted"]
    if len(key) < 1000:
        prefix = f"{key}/" if key in KEYS else "m/1/"
        save(*(f"{prefix}{each}" for each in (key, *others)), *(f"{each}/x" for each in others))
        everything = stored_objects()

        assert [] == run(make_stream_record(uri(prefix)))

        assert {each for each in everything if not each.startswith(prefix)} == stored_objects()


REFUSED: dict[str, list[object]] = {
    "not_an_s3_uri": [
        *("", "/m/1/", "https://artifacts/m/1/", "S3://artifacts/m/1/", "s3:/artifacts/m/1/"),
        *("s3:///m/1/", "s3://artifacts", " s3://artifacts/m/1/"),
    ],
    "not_a_string": [{"NULL": True}, {"M": {"S": {"S": uri("m/1/")}}}],
    "another_bucket": [
        *("s3://other/m/1/", "s3://ARTIFACTS/m/1/", "s3://artifacts.s3/m/1/", "s3://*/m/1/"),
        *("s3://me@artifacts/m/1/", "s3://artifacts:443/m/1/"),
    ],
    "blank_key": [uri(""), uri("/"), uri("//"), uri(" "), uri(" /"), uri("\t/"), uri("\u00a0/")],
    "invalid_characters": [
        *(uri(f"m/1/{end}") for end in (" ", "\n", "\t", "\u00a0", "a ", "a\r\n", "\u2028")),
        *(uri(f"m/1/{key}/") for key in CONTROL_CHARACTERS),
    ],
    "uri_too_long": [uri("x" * 1025), uri("é" * 512 + "/"), uri("\U0001f3cb" * 100_000)],
    "no_trailing_slash": [uri("m/1"), uri("m/10")],  # it probably means the folder
    "not_unicode": [uri("\ud800/")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "reason"), [(each, reason) for reason in REFUSED for each in REFUSED[reason]], ids=str
)
def test_refuses_what_is_not_a_key_in_the_bucket(value: object, reason: str, lines: Lines) -> None:
    """A key without a slash is refused also if it is an object: tools write them for folders."""
    everything = {"m/1/a", "m/1-old", "m/10", "m/10/a", "/m/1/a", " /a", "\u00a0/a", "other/m/1/a"}
    save(*everything)

    assert 1 == len(run(make_stream_record(value)))

    assert everything == stored_objects()
    text = value if isinstance(value, str) else json.dumps(value)
    assert_refused(lines(), reason, artifact_uri=text[:2_000])


PROTECTED = make_stream_record(uri("m/1/"), protected={"BOOL": True})


@pytest.mark.parametrize(
    "wrong", ["", "null", "{}", {"more": 1}, {"step": "x"}, {"step": []}, {"deleted_at": ""}]
)
def test_an_invalid_message_is_logged_and_fails(
    wrong: str | dict[str, object], lines: Lines
) -> None:
    save("m/1/a")
    message = queue.Message.from_stream(removed())
    assert message
    body = wrong if isinstance(wrong, str) else json.dumps(message._asdict() | wrong)

    with pytest.raises((TypeError, ValueError, ArithmeticError)):
        reclaim.lambda_handler(queue_event(body), lambda_context(MILLISECONDS))

    (line,) = lines()
    assert ("ERROR", "Invalid message") == (line["level"], line["message"])
    assert line["exception"]
    assert {"m/1/a"} == stored_objects()


# What stays


OVERLAPPING = [
    *({"S": uri(key)} for key in ("m/1/", "m/", "m/1/a")),
    *({"S": unreadable} for unreadable in ("", uri(""), uri("a "))),
    {"N": "1"},
]
OTHER = [{"S": uri("m/10/")}, {"S": "s3://b/m/1/"}]
WRONG = {"not_a_string": {"SS": [uri("m/1/")]}, "another_bucket": {"S": "s3://other/m/1/"}}


@pytest.mark.parametrize(
    ("record", "step", "saved", "outcome"),
    [
        *((removed(), 1, each, "kept saved_again") for each in OVERLAPPING),
        *((removed(), 1, each, "freed") for each in OTHER),
        (PROTECTED, 1, {"S": uri("m/1/")}, "kept saved_again"),
        # Nobody has to decide about a wrong URI if the checkpoint was saved again with it.
        *((make_stream_record(each), 1, each, "kept saved_again") for each in WRONG.values()),
        *(
            (make_stream_record(WRONG[reason]), 1, {"S": uri("m/new/")}, f"refused {reason}")
            for reason in WRONG
        ),
        *(
            (removed(), 2, {"S": uri(key)}, "kept shared")
            for key in ("m/1/", "m/1", "m/", "m", "", "m/1 /", "m/1\n")
        ),
        # Such as the folder of a run: if its record is deleted, the others keep their objects.
        *(
            (removed(), 2, {"S": uri(key)}, "refused covers_other_checkpoints")
            for key in ("m/1/2/", "m/1/2", "m/1/2/w.bin", "m/1/2 ")
        ),
        # Another checkpoint that has them makes no difference: somebody must decide.
        *(
            (PROTECTED, 2, {"S": uri(key)}, "refused protected")
            for key in ("m/1/", "m/1/2/", "m/2/")
        ),
    ],
)
def test_keeps_what_another_record_has_until_that_is_deleted_too(
    record: Event, step: int, saved: Any, outcome: str, lines: Lines
) -> None:
    """Also if the record of the same step exists again."""
    put_checkpoints(MODEL, [step], entity="anyone", artifact_uri=saved)
    save("m/1/a", "m/1/2/w.bin")

    failed = run(record)

    assert outcome.startswith("refused") == bool(failed)
    assert (set() if outcome == "freed" else {"m/1/a", "m/1/2/w.bin"}) == stored_objects()
    (line,) = log_lines(lines())
    assert outcome.split() == [line[name] for name in ("outcome", "reason") if name in line]
    assert (2 if outcome == "kept shared" else None) == line.get("other_step")
    clear_tables()
    assert [] == run(removed())
    assert set() == stored_objects()


def test_other_records_do_not_matter(endpoint: Endpoint) -> None:
    """Other models are not asked, because that would take a scan of the table."""
    save("m/1/a")
    put(2, "m/10/")
    put(3, "m/2/")
    put(1, "m/1/", model_id="another")
    put_checkpoints(MODEL, [1, 4], entity="anyone")
    put_checkpoints(MODEL, [5], entity="anyone", artifact_uri={"SS": [uri("m/1/")]})
    put_checkpoints(MODEL, [6], entity="anyone", artifact_uri={"S": "/m/1/"})

    assert [] == run(removed())

    assert set() == stored_objects()
    assert all(request["ConsistentRead"] for request in endpoint.requests)


def test_reads_every_page_of_the_records(lines: Lines) -> None:
    save("m/1/a")
    notes = {"S": "x" * 390_000}
    put_checkpoints(MODEL, range(10, 17), entity="anyone", notes=notes)
    put(17, "m/")

    assert [] == run(removed())

    assert {"m/1/a"} == stored_objects()
    assert [line_of("kept", reason="shared", other_step=17)] == log_lines(lines())


def test_keeps_objects_that_were_saved_in_the_second_of_the_deletion_or_later(
    lines: Lines,
) -> None:
    """Also those whose keys are deleted with calls of their own."""
    for seconds, name in product((-1, 0, 0.9), ("a", "\x01")):
        put_objects(f"m/1/{seconds}{name}", saved_at=DELETED_AT + timedelta(seconds=seconds))
    record = make_stream_record(uri("m/1/"), at=DELETED_AT + timedelta(seconds=0.95))

    assert [] == run(record, record)  # the queue can deliver a message twice

    assert {"m/1/0a", "m/1/0\x01", "m/1/0.9a", "m/1/0.9\x01"} == stored_objects()
    later = {"saved_later": 4}
    assert [
        line_of("freed", objects_deleted=2, bytes_freed=14, objects_kept=later),
        line_of("kept", objects_kept=later),
    ] == log_lines(lines())


@pytest.mark.parametrize(
    ("key", "operation"), [("m/1/a", "delete_objects"), ("m/1/\x01", "delete_object")], ids=ascii
)
@pytest.mark.parametrize("is_overwritten", [False, True])
def test_does_not_free_an_object_that_changes_after_it_was_listed(
    key: str, operation: str, is_overwritten: bool, fail: Fail, lines: Lines
) -> None:
    save(key)

    def change() -> None:
        clear_bucket()
        if is_overwritten:
            put_objects(key, content=b"new", saved_at=BEFORE)

    fail(operation, after(change))

    assert [] == run(removed())

    assert ({key} if is_overwritten else set()) == stored_objects()
    kept = line_of("kept", objects_kept={"changed": 1})
    assert [kept if is_overwritten else line_of("freed")] == log_lines(written := lines())
    expected = {"ObjectsDeleted": 0, "ObjectsKept": int(is_overwritten), "BytesFreed": 0}
    assert expected == metrics(written)


# A checkpoint that is saved again while its artifacts are deleted


def save_again() -> None:
    put(1, "m/1/")


@pytest.mark.usefixtures("_small_pages")
@pytest.mark.parametrize("then", [pass_on, error_of(503, "SlowDown"), lose_reply])
def test_stops_and_reports_a_conflict_that_no_later_attempt_could_see(
    then: ClientFault, fail: Fail, lines: Lines
) -> None:
    keys = {f"m/1/{name}" for name in "abcd"}
    save(*keys)
    fail("delete_objects", after(save_again, then))

    assert [] == run(removed())

    assert "m/1/d" in stored_objects()
    (line,) = log_lines(written := lines())
    assert ("ERROR", "conflict") == (line["level"], line["outcome"])
    assert not any("exception" in each for each in written)  # there is nothing to repair
    assert keys - stored_objects() <= set(line["object_keys"])
    assert 1 == metrics(written)["ReclaimConflicts"]


def test_names_the_objects_of_a_conflict_as_far_as_they_fit_on_a_line(
    fail: Fail, lines: Lines
) -> None:
    save(*(f"m/1/{number:04}{'é' * 400}" for number in range(200)))
    fail("delete_objects", after(save_again))

    assert [] == run(removed())

    (line,) = log_lines(lines())
    assert 200 == line["objects_deleted"]
    assert 10 < len(line["object_keys"]) < 200
    assert len(json.dumps(line)) < 200_000


def test_reports_a_possible_conflict_if_it_cannot_ask_again_for_the_record(
    fail: Fail, endpoint: Endpoint, lines: Lines
) -> None:
    """The next attempt finds the record, keeps its objects, and cannot know what is missing."""
    save("m/1/a")
    fail("delete_objects", after(save_again, lose_reply))
    endpoint.fail("GetItem", pass_request, reject(400, "AccessDeniedException"))

    failed = run(removed())

    (line,) = log_lines(written := lines())
    assert ("retry", "conflict_possible") == (line["outcome"], line["reason"])
    assert ["m/1/a"] == line["object_keys"]
    assert 1 == metrics(written)["ReclaimConflicts"]
    assert [] == deliver(*failed)
    assert [line_of("kept", reason="saved_again")] == log_lines(lines())


@pytest.mark.usefixtures("_small_pages")
@pytest.mark.parametrize(("left", "is_saved_again"), [(0, False), (0, True), (3, True)])
def test_reports_a_conflict_if_the_checkpoint_is_saved_again_between_two_messages(
    left: int, is_saved_again: bool, fail: Fail, endpoint: Endpoint, lines: Lines
) -> None:
    """Without one, a message that went on and finds nothing left has freed the storage."""
    save(*(f"m/1/{number}" for number in range(3 + left)))
    fail("send_message", send_now)
    if left:
        fail("delete_objects", pass_on, error_of(503, "SlowDown"))
    else:
        endpoint.fail("GetItem", pass_request, reject(400, "AccessDeniedException"))

    assert [] == run(removed())
    if is_saved_again:
        save_again()
    assert [] == deliver(*queue_events())

    assert left == len(stored_objects())
    first, second = log_lines(written := lines())
    # It also names objects that may have been deleted.
    assert ("continued", 3 + left) == (first["outcome"], len(first["object_keys"]))
    conflict = line_of("conflict", reason="saved_again", object_keys=[])
    assert (conflict if is_saved_again else line_of("freed")) == second
    counted = [line["ReclaimConflicts"] for line in written if "ReclaimConflicts" in line]
    assert [[1]] * is_saved_again == counted


def test_what_surely_was_not_deleted_is_no_conflict(fail: Fail, lines: Lines) -> None:
    save("m/1/a")
    fail("delete_objects", after(save_again, object_errors({"m/1/a": "AccessDenied"})))

    assert [] == deliver(*run(removed()))

    assert ["retry", "kept"] == outcomes(lines())


# Faults

FAULTS = [error_of(503, "SlowDown"), error_of(403, "AccessDenied"), drop_call, lose_reply]
OPERATIONS = {"list_objects_v2": "m/1/a", "delete_objects": "m/1/a", "delete_object": "m/1/\x01"}


@pytest.mark.parametrize(
    ("operation", "fault"),
    [
        *product(OPERATIONS, FAULTS),
        *product(("list_objects_v2", "delete_objects"), [blank_reply]),
        *product(("query", "get_item"), [error_of(400, "AccessDeniedException")]),
    ],
)
def test_after_any_fault_exactly_that_message_is_delivered_again(
    operation: str, fault: ClientFault, fail: Fail, lines: Lines
) -> None:
    key = OPERATIONS.get(operation, "m/1/a")
    save(key, "m/2/a")
    fail(operation, fault)

    failed = run(removed(1), removed(2))

    assert stored_objects() == (set() if fault is lose_reply and "delete" in operation else {key})
    (line, _) = [line for line in lines() if "outcome" in line]
    assert [line_of("retry")] == log_lines([line])
    assert line["exception"]
    assert ["1"] == [body_of(each)["step"] for each in failed]
    assert [] == deliver(*failed)
    assert set() == stored_objects()


@pytest.mark.usefixtures("_small_pages")
@pytest.mark.parametrize(
    ("codes", "then", "outcome"),
    [
        (["InternalError"], pass_on, ("continued", 5)),
        (["AccessDenied", "SlowDown"], pass_on, ("continued", 4)),
        (["NoSuchKey"], pass_on, ("freed", 5)),
        (["PreconditionFailed"], pass_on, ("freed", 5)),
        # The client repeats a call whose response was lost. Then S3 finds no object, but the
        # attempt has made progress.
        (["NoSuchKey"] * 3, error_of(503, "SlowDown"), ("continued", 0)),
    ],
)
def test_errors_of_single_objects_do_not_stop_the_deletion_of_others(
    codes: list[str], then: ClientFault, outcome: tuple[str, int], fail: Fail, lines: Lines
) -> None:
    keys = [f"m/1/{name}" for name in "abcdef"]
    save(*keys)
    fail("delete_objects", object_errors(dict(zip(keys, codes, strict=False))), then)

    assert [] == run(removed())

    assert [outcome] == progress(lines())
    assert 6 - outcome[1] == len(stored_objects())
    assert [] == run(removed())
    assert set() == stored_objects()


# Time


@pytest.mark.usefixtures("_small_pages")
@pytest.mark.parametrize(("key", "lists"), [("m/", 3), ("m/1", 2), ("m/0", 2)])
def test_does_not_list_all_keys_that_start_like_a_single_object(
    key: str, lists: int, fail: Fail
) -> None:
    save("m/1", *(f"m/1{name}" for name in "abcdef"))
    fail("list_objects_v2", *[pass_on] * lists, error_of(403, "AccessDenied"))

    assert [] == run(make_stream_record(uri(key)))

    assert {"m/": 0, "m/1": 6, "m/0": 7}[key] == len(stored_objects())


@pytest.mark.usefixtures("_small_pages")
@pytest.mark.parametrize(("is_error", "delay"), [(False, 0), (True, 300)])
def test_what_is_left_goes_on_in_a_new_message(
    is_error: bool, delay: int, fail: Fail, lines: Lines
) -> None:
    """If time is short, or after an error: a new message has five attempts of its own."""
    save(*(f"m/1/{number}" for number in range(8)))
    delays: list[int] = []
    bodies: list[dict[str, Any]] = []

    def note_delay(request: Request, apply: Apply) -> Any:
        delays.append(request["DelaySeconds"])
        return send_now(request, apply)

    def deliver_until_one_page_is_deleted(message: Event) -> None:
        bodies.append(body_of(message))
        clock = make_clock()
        error = [pass_on, error_of(503, "SlowDown")]
        fail("delete_objects", *(error if is_error else [after(run_out(clock))]))
        assert [] == deliver(message, context=clock)

    fail("send_message", note_delay, note_delay)
    queue.lambda_handler({"Records": [removed()]}, lambda_context())
    for _ in range(3):
        (message,) = queue_events()
        deliver_until_one_page_is_deleted(message)

    assert set() == stored_objects()
    assert [] == queue_events()
    assert [delay, delay] == delays
    assert [bodies[0], *[bodies[0] | {"started": True}] * 2] == bodies
    written = [line for line in lines() if "outcome" in line]
    assert [("continued", 3), ("continued", 3), ("freed", 2)] == progress(written)
    assert [is_error, is_error, False] == ["exception" in line for line in written]


@pytest.mark.usefixtures("_small_pages")
def test_says_that_objects_were_not_deleted_also_if_it_then_has_no_time(
    fail: Fail, lines: Lines
) -> None:
    keys = [f"m/1/{number}" for number in range(6)]
    save(*keys)
    clock = make_clock()
    denied = object_errors(dict.fromkeys(keys, "AccessDenied"))
    fail("delete_objects", after(run_out(clock), denied))

    assert 1 == len(run(removed(), context=clock))

    (line,) = [line for line in lines() if "outcome" in line]
    assert ("retry", "NotDeletedError") == (line["outcome"], line["exception_name"])
    assert "AccessDenied: 3" in line["exception"]


@pytest.mark.usefixtures("_small_pages")
def test_the_message_is_delivered_again_if_the_new_one_cannot_be_sent(
    fail: Fail, lines: Lines
) -> None:
    save(*(f"m/1/{number}" for number in range(4)))
    clock = make_clock()
    fail("delete_objects", after(run_out(clock)))
    fail("send_message", drop_call)

    failed = run(removed(), context=clock)

    assert ["retry"] == outcomes(lines())
    assert [] == deliver(*failed)
    assert set() == stored_objects()


@pytest.mark.usefixtures("_small_pages")
@pytest.mark.parametrize(
    ("seconds", "slow_read"),
    [*((seconds, 0) for seconds in range(60, 400, 30)), *((300, read) for read in range(1, 6))],
)
def test_ends_in_time_even_if_every_call_is_slow(seconds: int, slow_read: int, fail: Fail) -> None:
    """It starts nothing without enough time; then the message is delivered again.

    One of the reads from DynamoDB ends just before its deadline.
    """
    save(*(f"m/1/{name}" for name in "abcde\x01\x02"))
    clock = make_clock(seconds * 1_000)
    reads: list[int] = []

    def spend() -> None:
        clock.left -= MAX_CALL_SECONDS * 1_000

    def read() -> None:
        reads.append(1)
        if len(reads) == slow_read:
            is_last = len(stored_objects()) < 7 and clock.left < reclaim.MIN_REMAINING_MS
            clock.left = reclaim.SEND_MS if is_last else reclaim.END_MS

    for operation in (*OPERATIONS, "send_message"):
        fail(operation, *repeat(after(spend), 10))
    for operation in ("query", "get_item"):
        fail(operation, *repeat(after(read), 10))

    failed = run(removed(), context=clock)

    assert clock.left > 0
    assert clock.left == seconds * 1_000 or seconds * 1_000 >= reclaim.MIN_REMAINING_MS
    assert (len(stored_objects()) == 7) == bool(failed)


# What is logged


@pytest.mark.parametrize("fault", [pass_on, drop_call])
def test_no_other_field_of_a_record_is_logged(
    fault: ClientFault, fail: Fail, lines: Lines, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    save("m/1/a", "m/1/secret-object")
    fail("delete_objects", fault)
    others = {"M": {"secret": {"N": "1"}}}

    run(make_stream_record(uri("m/1/"), note={"S": "secret-note"}, metrics=others))

    written = lines()
    assert (ENTITY, MODEL, 1) == tuple(written[0][key] for key in ("entity", "model_id", "step"))
    assert "secret" not in f"{written}{caplog.text}"


@pytest.mark.parametrize(("number", "logged"), [("1E+2", 100), ("-7", -7), ("1.5", "1.5")])
def test_frees_the_storage_of_any_step(number: str, logged: object, lines: Lines) -> None:
    save("m/1/a")
    record = removed()
    record["dynamodb"]["Keys"]["step"]["N"] = number

    assert [] == run(record)

    assert logged == lines()[0]["step"]
    assert set() == stored_objects()


# Everything at once

PARTS = st.sampled_from(["a", "b", "1", "1 ", "10", " ", "\x01", "é"])
KEY = st.lists(PARTS, min_size=1, max_size=3).map("/".join)
NAME = st.tuples(KEY, st.sampled_from(["", "/"])).map("".join)
TIME = st.integers(-2, 2).map(lambda seconds: DELETED_AT + timedelta(seconds=seconds))
RECORD = st.tuples(NAME, TIME)


def is_named(key: str, name: str) -> bool:
    return key.startswith(name) if name.endswith("/") else key == name


def is_within(name: str, other: str) -> bool:
    parts, others = ([part.rstrip() for part in each.split("/")] for each in (name, other))
    while others and not others[-1]:
        others.pop()
    return others == parts[: len(others)]


def is_valid(name: str) -> bool:
    return bool(name.strip(" /")) and "\x01" not in name and not name.endswith(" ")


@settings(max_examples=60, deadline=None)
@given(
    objects=st.dictionaries(NAME, TIME, max_size=12),
    records=st.lists(RECORD, min_size=1, max_size=4),
    saved=st.dictionaries(st.integers(0, 5), NAME, max_size=3),
)
@example(objects={"m/1": BEFORE}, records=[("m/1", DELETED_AT)], saved={0: "m/10"})
@example(objects={"m/10": BEFORE}, records=[("m/10", DELETED_AT)], saved={1: "m/1"})
@example(objects={"m/1": BEFORE, "m/1/a": BEFORE}, records=[("m/1", DELETED_AT)], saved={})
@example(objects={"m/1 /a": BEFORE}, records=[("m/1 /", DELETED_AT)], saved={0: "m/1 /a"})
@example(objects={"m/1 /a": BEFORE}, records=[("m/1 /", DELETED_AT)], saved={1: "m/1 /a"})
@example(objects={"m/1 /a": BEFORE}, records=[("m/1 /a", DELETED_AT)], saved={0: "m/1 /"})
@example(objects={"m/1 /a": BEFORE}, records=[("m/1 /a", DELETED_AT)], saved={1: "m/1 /"})
def test_deletes_the_objects_of_deleted_records_unless_another_has_them_or_they_are_newer(
    objects: dict[str, datetime], records: list[tuple[str, datetime]], saved: dict[int, str]
) -> None:
    clear_tables()
    clear_bucket()
    for key, saved_at in objects.items():
        put_objects(key, saved_at=saved_at)
    for step, name in saved.items():
        put(step, name)
    left = set(objects)
    batch = []
    for step, (name, deleted_at) in enumerate(records):
        batch.append(make_stream_record(uri(name), step=step, at=deleted_at))
        lacks_slash = any(key.startswith(f"{name}/") for key in left) and not name.endswith("/")
        overlapping = any(is_within(name, each) or is_within(each, name) for each in saved.values())
        may_be_anything = step in saved and not is_valid(saved[step])
        if is_valid(name) and not (lacks_slash or overlapping or may_be_anything):
            left -= {key for key in left if is_named(key, name) and objects[key] < deleted_at}

    failed = run(*batch)

    assert left == stored_objects()
    deliver(*failed)
    assert left == stored_objects()
