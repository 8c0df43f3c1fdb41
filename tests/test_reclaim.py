"""The artifacts of deleted checkpoints are deleted: all of them, and nothing else."""

import json
import logging
import os
import re
import unicodedata
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import product, repeat
from typing import Any
from unittest import mock
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
from events import DELETED_AT, ENTITY, MODEL, Call, make_stream_record
from faulty_client import (
    Apply,
    ClientFault,
    FaultyClient,
    Request,
    after,
    blank_reply,
    drop_call,
    lose_reply,
    object_errors,
    pass_on,
    s3_error,
)
from faulty_dynamodb import Endpoint, drop_request, reject
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
def s3() -> Iterator[FaultyClient]:
    s3 = FaultyClient(reclaim.connect()[1])
    yield s3
    s3.heal()


@pytest.fixture
def sqs() -> Iterator[FaultyClient]:
    sqs = FaultyClient(queue.connect())
    yield sqs
    sqs.heal()


@pytest.fixture
def dynamodb() -> Iterator[FaultyClient]:
    dynamodb = FaultyClient(reclaim.connect()[0])
    yield dynamodb
    dynamodb.heal()


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


def line_of(level: str, message: str, outcome: str, **fields: object) -> dict[str, object]:
    """Return the log line for step 1, by default without deleted objects."""
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


def freed(**counts: object) -> dict[str, object]:
    return line_of("INFO", "Storage freed", "freed", **counts)


def kept(**fields: object) -> dict[str, object]:
    return line_of("INFO", "Storage kept", "kept", **fields)


NOTHING = line_of("WARNING", "No objects found", "nothing_found")


def assert_refused(written: list[dict[str, Any]], reason: str, **fields: object) -> None:
    line = line_of("ERROR", "Reclaim refused", "refused", reason=reason, **fields)
    assert [line] == log_lines(written)
    assert {"ReclaimsRefused": 1} == metrics(written)


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


EVERYTHING = {"m/1/", "m/1/a", "m/1/b/c", "m/10", "m/10-a", "m/11", "m/11/", "M/1/a", "x/m/1/a"}


@pytest.mark.parametrize(
    ("key", "deleted"),
    [
        *((key, {key}) for key in ("m/1/a", "m/10")),
        ("m/1/", {"m/1/", "m/1/a", "m/1/b/c"}),
        ("m/11/", {"m/11/"}),
        ("m/", EVERYTHING - {"M/1/a", "x/m/1/a"}),
        *((key, set()) for key in ("m/2/", "m/1/c", "/m/1/", "m//1/", "m/10/")),
        *((f"m/1/a{suffix}", set()) for suffix in ("?versionId=null", "#x", "*", "%20", "/..")),
    ],
)
def test_deletes_the_object_or_all_objects_with_the_prefix(
    key: str, deleted: set[str], lines: Lines
) -> None:
    save(*EVERYTHING)

    assert [] == run(make_stream_record(uri(key)))

    assert EVERYTHING - deleted == stored_objects()
    counts = {"objects_deleted": len(deleted), "bytes_freed": 7 * len(deleted)}
    line = (freed(**counts) if deleted else NOTHING) | {"artifact_uri": uri(key)}
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
        "", "m/1/", "/m/1/", "https://artifacts/m/1/", "S3://artifacts/m/1/", "s3:/artifacts/m/1/",
        "s3:///m/1/", "s3://", "s3://artifacts", " s3://artifacts/m/1/", "s3:\\\\artifacts\\m\\1\\",
    ],
    "not_a_string": [
        {"N": "1"}, {"NULL": True}, {"BOOL": True}, {"SS": [uri("m/1/")]}, {"B": "czM6Ly9h"},
        {"L": [{"S": uri("m/1/")}]}, {"M": {"S": {"S": uri("m/1/")}}},
    ],
    "another_bucket": [
        "s3://other/m/1/", "s3://ARTIFACTS/m/1/", "s3://artifacts /m/1/", "s3://artifacts.s3/m/1/",
        "s3://me@artifacts/m/1/", "s3://artifacts:443/m/1/", "s3://artifacts?/m/1/", "s3://*/m/1/",
    ],
    "blank_key": [uri(""), uri("/"), uri("//"), uri(" "), uri(" /"), uri("\t/"), uri("\u00a0/")],
    "invalid_characters": [
        *(uri(f"m/1/{end}") for end in (" ", "\n", "\t", "\u00a0", "a ", "a\r\n", "\u2028")),
        *(uri(f"m/1/{key}/") for key in CONTROL_CHARACTERS),
    ],
    "uri_too_long": [uri("x" * 1025), uri("é" * 512 + "/"), uri("\U0001f3cb" * 100_000)],
    "no_trailing_slash": [uri("m/1"), uri("m/10")],  # it probably means the folder
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


def test_refuses_a_stream_without_old_images(lines: Lines) -> None:
    save("m/1/a")
    record = removed()
    del record["dynamodb"]["OldImage"]

    assert 1 == len(run(record))

    assert {"m/1/a"} == stored_objects()
    assert_refused(lines(), "no_old_image", artifact_uri="", entity="")


@pytest.mark.parametrize("value", [{"BOOL": True}, {"S": "false"}, {"NULL": True}, {"N": "0"}])
def test_never_frees_the_artifacts_of_a_protected_checkpoint(value: Any, lines: Lines) -> None:
    save("m/1/a", "m/2/a")
    unprotected = make_stream_record(uri("m/2/"), step=2, protected={"BOOL": False})

    assert 1 == len(run(make_stream_record(uri("m/1/"), protected=value), unprotected))

    assert {"m/1/a"} == stored_objects()
    written = lines()
    assert_refused([line for line in written if line.get("step") != 2][:2], "protected")


def test_a_protected_checkpoint_is_refused_also_if_another_one_has_the_same_artifacts(
    lines: Lines,
) -> None:
    save("m/1/a")
    put(2, "m/1/")

    assert 1 == len(run(make_stream_record(uri("m/1/"), protected={"BOOL": True})))

    assert {"m/1/a"} == stored_objects()
    assert_refused(lines(), "protected")


@pytest.mark.parametrize(
    "wrong",
    [
        *("", "null", "[]", "{}", "{"),
        *({"more": 1}, {"step": "x"}, {"step": []}, {"deleted_at": ""}),
    ],
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
    *({"S": uri(key)} for key in ("m/1/", "m/", "m/1/a", "m/1/b/", "m/1/new", "m/1", "m", "m/1//")),
    *({"S": uri(unreadable)} for unreadable in ("", "/", "x" * 1025, "a ")),
    *({"S": unreadable} for unreadable in ("", "m/2/", "S3://artifacts/m/2/")),
    *({"N": "1"}, {"NULL": True}),
]
OTHER = [
    None,
    *({"S": uri(key)} for key in ("m/10/", "m/10", "M/1/", "/m/1/")),
    {"S": "s3://b/m/1/"},
]


@pytest.mark.parametrize("protected", [False, True])
@pytest.mark.parametrize(
    ("saved", "stays"),
    [*((each, True) for each in OVERLAPPING), *((each, False) for each in OTHER)],
)
def test_keeps_everything_if_the_record_exists_again_with_an_overlapping_uri(
    saved: Any, stays: bool, protected: bool, endpoint: Endpoint, lines: Lines
) -> None:
    attributes = {"artifact_uri": saved} if saved else {}
    put_checkpoints(MODEL, [1], entity="anyone", **attributes)
    save("m/1/a", "m/1/b/c")

    failed = run(make_stream_record(uri("m/1/"), protected={"BOOL": protected}))

    assert (protected and not stays) == bool(failed)
    assert ({"m/1/a", "m/1/b/c"} if stays or protected else set()) == stored_objects()
    line = kept(reason="saved_again") if stays else freed(objects_deleted=2, bytes_freed=14)
    if protected and not stays:
        line = line_of("ERROR", "Reclaim refused", "refused", reason="protected")
    assert [line] == log_lines(lines())
    assert all(request["ConsistentRead"] for request in endpoint.requests)


@pytest.mark.parametrize("value", [{"SS": [uri("m/1/")]}, uri("m/1/ "), "s3://other/m/1/", ""])
def test_nobody_has_to_decide_about_a_wrong_uri_if_the_record_exists_again(
    value: Any, lines: Lines
) -> None:
    save("m/1/a")
    attribute = {"S": value} if isinstance(value, str) else value
    put_checkpoints(MODEL, [1], entity="anyone", artifact_uri=attribute)

    assert [] == run(make_stream_record(value))

    assert {"m/1/a"} == stored_objects()
    text = value if isinstance(value, str) else json.dumps(value)
    (line,) = log_lines(lines())
    assert ("kept", "saved_again", text) == tuple(
        line[key] for key in ("outcome", "reason", "artifact_uri")
    )


@pytest.mark.parametrize(
    ("value", "reason"), [({"SS": ["a"]}, "not_a_string"), ("s3://other/m/1/", "another_bucket")]
)
def test_refuses_a_wrong_uri_also_if_the_record_exists_again_with_other_artifacts(
    value: object, reason: str, lines: Lines
) -> None:
    put(1, "m/new/")

    assert 1 == len(run(make_stream_record(value)))

    assert [("refused", reason)] == [
        (line["outcome"], line["reason"]) for line in log_lines(lines())
    ]


@pytest.mark.parametrize(("key", "other"), [("m/1 /", "m/1 /a"), ("m/1 /a", "m/1 /")])
@pytest.mark.parametrize("step", [1, 2])
def test_white_space_inside_of_a_key_hides_no_other_record(key: str, other: str, step: int) -> None:
    save("m/1 /a")
    put(step, other)

    run(make_stream_record(uri(key)))

    assert {"m/1 /a"} == stored_objects()


@pytest.mark.parametrize("other", ["m/1/", "m/1", "m/", "m", "", "m/1/ ", "m/1 /", "m/1\n"])
def test_keeps_what_another_checkpoint_of_the_model_has_until_that_is_deleted_too(
    other: str, lines: Lines
) -> None:
    save("m/1/a")
    put(2, other)

    assert [] == run(removed())

    assert {"m/1/a"} == stored_objects()
    assert [kept(reason="shared", other_step=2)] == log_lines(lines())
    clear_tables()
    assert [] == run(removed())
    assert set() == stored_objects()


@pytest.mark.parametrize("other", ["m/1/2/", "m/1/2", "m/1/2/w.bin", "m/1/2 "])
def test_refuses_a_uri_that_covers_other_checkpoints_of_the_model(other: str, lines: Lines) -> None:
    """Such as the folder of a run: its record was deleted, and the objects of all others went."""
    save("m/1/a", "m/1/2/w.bin")
    put(2, other)

    failed = run(removed())

    assert {"m/1/a", "m/1/2/w.bin"} == stored_objects()
    assert_refused(lines(), "covers_other_checkpoints")
    clear_tables()
    assert [] == deliver(*failed)
    assert set() == stored_objects()


def test_other_records_do_not_matter() -> None:
    """Other models are not asked, because that would take a scan of the table."""
    save("m/1/a")
    put(2, "m/10/")
    put(3, "m/2/")
    put(1, "m/1/", model_id="another")
    put_checkpoints(MODEL, [4], entity="anyone")
    put_checkpoints(MODEL, [5], entity="anyone", artifact_uri={"SS": [uri("m/1/")]})
    put_checkpoints(MODEL, [6], entity="anyone", artifact_uri={"S": "/m/1/"})

    assert [] == run(removed())

    assert set() == stored_objects()


def test_reads_every_page_of_the_records(lines: Lines) -> None:
    save("m/1/a")
    notes = {"S": "x" * 390_000}
    put_checkpoints(MODEL, range(10, 17), entity="anyone", notes=notes)
    put(17, "m/")

    assert [] == run(removed())

    assert {"m/1/a"} == stored_objects()
    assert [kept(reason="shared", other_step=17)] == log_lines(lines())


@pytest.mark.parametrize("key", ["m/1/a", "m/1/\x01"], ids=ascii)
@pytest.mark.parametrize(
    ("seconds", "stays"), [(-3600, False), (-1, False), (0, True), (0.9, True), (1, True)]
)
def test_keeps_an_object_that_was_saved_in_the_second_of_the_deletion_or_later(
    key: str, seconds: float, stays: bool, lines: Lines
) -> None:
    put_objects(key, saved_at=DELETED_AT + timedelta(seconds=seconds))

    assert [] == run(make_stream_record(uri("m/1/"), at=DELETED_AT + timedelta(seconds=0.95)))

    assert ({key} if stays else set()) == stored_objects()
    expected = kept(objects_kept={"saved_later": 1})
    assert [expected if stays else freed(objects_deleted=1, bytes_freed=7)] == log_lines(lines())


either_call = pytest.mark.parametrize(
    ("key", "operation"), [("m/1/a", "delete_objects"), ("m/1/\x01", "delete_object")], ids=ascii
)


@either_call
def test_keeps_an_object_that_is_overwritten_after_it_was_listed(
    key: str, operation: str, s3: FaultyClient, lines: Lines
) -> None:
    save(key, "m/1/b")
    s3.fail(operation, after(lambda: put_objects(key, content=b"new", saved_at=BEFORE)))

    assert [] == run(removed())

    assert {key} == stored_objects()
    line = freed(objects_deleted=1, bytes_freed=7, objects_kept={"changed": 1})
    assert [line] == log_lines(written := lines())
    assert {"ObjectsDeleted": 1, "ObjectsKept": 1, "BytesFreed": 7} == metrics(written)


@either_call
def test_an_object_that_is_deleted_after_it_was_listed_is_neither_freed_nor_kept(
    key: str, operation: str, s3: FaultyClient, lines: Lines
) -> None:
    save(key)
    s3.fail(operation, after(clear_bucket))

    assert [] == run(removed())

    assert [freed()] == log_lines(lines())


# A checkpoint that is saved again while its artifacts are deleted


@pytest.mark.usefixtures("_small_pages")
@pytest.mark.parametrize(
    ("then", "left"),
    [
        (pass_on, {"m/1/d"}),
        (s3_error(503, "SlowDown"), {"m/1/d"}),
        (lose_reply, {"m/1/d"}),
    ],
)
def test_stops_and_reports_a_conflict_that_no_later_attempt_could_see(
    then: ClientFault, left: set[str], s3: FaultyClient, lines: Lines
) -> None:
    save("m/1/a", "m/1/b", "m/1/c", "m/1/d")

    def save_again(request: Request, apply: Apply) -> Any:
        put(1, "m/1/")
        return then(request, apply)

    s3.fail("delete_objects", save_again)

    assert [] == run(removed())

    deleted = {"m/1/a", "m/1/b", "m/1/c", "m/1/d"} - stored_objects()
    assert left <= stored_objects()
    written = lines()
    (line,) = log_lines(written)
    assert ("ERROR", "conflict") == (line["level"], line["outcome"])
    assert deleted <= set(line["object_keys"])
    assert 1 == metrics(written)["ReclaimConflicts"]


def test_names_the_objects_of_a_conflict_as_far_as_they_fit_on_a_line(
    s3: FaultyClient, lines: Lines
) -> None:
    save(*(f"m/1/{number:04}{'é' * 400}" for number in range(200)))
    s3.fail("delete_objects", after(lambda: put(1, "m/1/")))

    assert [] == run(removed())

    (line,) = [line for line in lines() if "outcome" in line]
    assert 200 == line["objects_deleted"]
    assert 10 < len(line["object_keys"]) < 200
    assert len(json.dumps(line)) < 200_000


def test_reports_a_possible_conflict_if_it_cannot_ask_again_for_the_record(
    s3: FaultyClient, endpoint: Endpoint, lines: Lines
) -> None:
    """The next attempt finds the record, keeps its objects, and cannot know what is missing."""
    save("m/1/a")

    def save_again(request: Request, apply: Apply) -> Any:
        put(1, "m/1/")
        return lose_reply(request, apply)

    s3.fail("delete_objects", save_again)
    endpoint.fail("GetItem", pass_request, reject(400, "AccessDeniedException"))

    failed = run(removed())

    written = lines()
    (line,) = log_lines(written)
    assert ("retry", "conflict_possible") == (line["outcome"], line["reason"])
    assert ["m/1/a"] == line["object_keys"]
    assert 1 == metrics(written)["ReclaimConflicts"]
    assert [] == deliver(*failed)
    assert [kept(reason="saved_again")] == log_lines(lines())


@pytest.mark.usefixtures("_small_pages")
@pytest.mark.parametrize("left", [0, 3])
def test_reports_a_conflict_also_if_the_checkpoint_is_saved_again_between_two_messages(
    left: int, s3: FaultyClient, sqs: FaultyClient, endpoint: Endpoint, lines: Lines
) -> None:
    save(*(f"m/1/{number}" for number in range(3 + left)))
    sqs.fail("send_message", send_now)
    if left:
        s3.fail("delete_objects", pass_on, s3_error(503, "SlowDown"))
    else:
        endpoint.fail("GetItem", pass_request, reject(400, "AccessDeniedException"))

    assert [] == run(removed())
    put(1, "m/1/")
    assert [] == deliver(*queue_events())

    assert left == len(stored_objects())
    written = lines()
    first, second = log_lines(written)
    assert "continued" == first["outcome"]
    assert 3 + left == len(first["object_keys"])  # also those that may have been deleted
    message = "Checkpoint saved again while its artifacts were deleted"
    expected = line_of("ERROR", message, "conflict", reason="saved_again", object_keys=[])
    assert expected == second
    assert [[1]] == [line["ReclaimConflicts"] for line in written if "ReclaimConflicts" in line]


@pytest.mark.usefixtures("_small_pages")
def test_a_conflict_that_was_seen_is_reported_also_if_the_record_is_deleted_again(
    s3: FaultyClient, dynamodb: FaultyClient, lines: Lines
) -> None:
    save(*(f"m/1/{number}" for number in range(6)))
    s3.fail("delete_objects", after(lambda: put(1, "m/1/")))

    def clear_afterwards(request: Request, apply: Apply) -> Any:
        response = apply(**request)
        clear_tables()
        return response

    dynamodb.fail("get_item", pass_on, clear_afterwards, s3_error(400, "AccessDeniedException"))

    assert [] == run(removed())

    assert 3 == len(stored_objects())
    assert ["conflict"] == [line["outcome"] for line in log_lines(lines())]


def test_what_surely_was_not_deleted_is_no_conflict(s3: FaultyClient, lines: Lines) -> None:
    save("m/1/a")

    def deny(_request: Request, _apply: Apply) -> Any:
        put(1, "m/1/")
        return {"Errors": [{"Key": "m/1/a", "Code": "AccessDenied"}]}

    s3.fail("delete_objects", deny)

    assert [] == deliver(*run(removed()))

    assert ["retry", "kept"] == [line["outcome"] for line in log_lines(lines())]


# Faults

FAULTS = [
    s3_error(503, "SlowDown"), s3_error(500, "InternalError"), s3_error(409, "OperationAborted"),
    s3_error(400, "RequestTimeout"), s3_error(403, "AccessDenied"), s3_error(404, "NoSuchBucket"),
    s3_error(501, "NotImplemented"), drop_call, lose_reply,
]  # fmt: skip
OPERATIONS = {"list_objects_v2": "m/1/a", "delete_objects": "m/1/a", "delete_object": "m/1/\x01"}
EMPTY_RESPONSES = [("list_objects_v2", blank_reply), ("delete_objects", blank_reply)]


@pytest.mark.parametrize(("operation", "fault"), [*product(OPERATIONS, FAULTS), *EMPTY_RESPONSES])
def test_after_any_fault_of_s3_exactly_that_message_is_delivered_again(
    operation: str, fault: ClientFault, s3: FaultyClient, lines: Lines
) -> None:
    save(OPERATIONS[operation], "m/2/a")
    s3.fail(operation, fault)

    failed = run(removed(1), removed(2))

    assert stored_objects() <= {OPERATIONS[operation]}
    (line, _) = [line for line in lines() if "outcome" in line]
    assert [line_of("WARNING", "Reclaim interrupted", "retry")] == log_lines([line])
    assert line["exception"]
    assert [1] == [json.loads(each["Records"][0]["body"])["step"] == "1" for each in failed]
    assert [] == deliver(*failed)
    assert set() == stored_objects()


@pytest.mark.usefixtures("_small_pages")
@pytest.mark.parametrize(
    ("codes", "outcome"),
    [
        (["InternalError"], "continued"),
        (["AccessDenied", "SlowDown"], "continued"),
        (["NoSuchKey"], "freed"),
        (["PreconditionFailed"], "freed"),
    ],
    ids=str,
)
def test_errors_of_single_objects_do_not_stop_the_deletion_of_others(
    codes: list[str], outcome: str, s3: FaultyClient, lines: Lines
) -> None:
    keys = [f"m/1/{name}" for name in "abcdef"]
    save(*keys)
    errors = dict(zip(keys, codes, strict=False))
    s3.fail("delete_objects", object_errors(errors))

    assert [] == run(removed())

    assert set(errors) == stored_objects()
    line = lines()[0]
    assert (outcome, 6 - len(codes)) == (line["outcome"], line["objects_deleted"])
    assert [] == run(removed())
    assert set() == stored_objects()


@pytest.mark.parametrize("operation", ["Query", "GetItem"])
@pytest.mark.parametrize(
    "fault",
    [
        reject(500, "InternalServerError"),
        drop_request,
        reject(400, "AccessDeniedException"),
        reject(400, "ResourceNotFoundException"),
    ],
)
def test_deletes_nothing_if_it_cannot_read_the_records(
    operation: str, fault: Any, endpoint: Endpoint, lines: Lines
) -> None:
    save("m/1/a", "m/2/a")
    endpoint.keep_failing(operation, fault)

    failed = run(removed(1), removed(2))

    assert {"m/1/a", "m/2/a"} == stored_objects()
    assert ["retry"] * 2 == [line["outcome"] for line in log_lines(lines())]
    endpoint.heal()
    assert 2 == len(failed)
    assert [] == deliver(*failed)
    assert set() == stored_objects()


@pytest.mark.parametrize("missing", ["bucket", "client"])
def test_raises_an_error_if_it_cannot_connect_or_has_no_bucket(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing == "bucket":
        monkeypatch.delenv("ARTIFACTS_BUCKET")
    else:
        monkeypatch.setattr(reclaim, "connect", mock.Mock(side_effect=KeyError))

    with pytest.raises(KeyError):
        run(removed())


# Time


def test_deletes_thousands_of_objects_page_by_page(s3: FaultyClient, lines: Lines) -> None:
    put_objects(*(f"m/1/{number}" for number in range(2_500)), "m/10/a", saved_at=BEFORE)
    sizes: list[int] = []

    def count(request: Request, apply: Apply) -> Any:
        sizes.append(len(request["Delete"]["Objects"]))
        return apply(**request)

    s3.fail("delete_objects", *[count] * 3)

    assert [] == run(removed())
    assert [] == run(removed())  # the queue can deliver a message twice

    assert {"m/10/a"} == stored_objects()
    assert [1_000, 1_000, 500] == sizes
    counts = {"objects_deleted": 2_500, "bytes_freed": 17_500}
    assert [freed(**counts), NOTHING] == log_lines(lines())


@pytest.mark.usefixtures("_small_pages")
@pytest.mark.parametrize(("key", "lists"), [("m/", 3), ("m/1", 2), ("m/0", 2)])
def test_does_not_list_all_keys_that_start_like_a_single_object(
    key: str, lists: int, s3: FaultyClient
) -> None:
    save("m/1", *(f"m/1{name}" for name in "abcdef"))
    s3.fail("list_objects_v2", *[pass_on] * lists, s3_error(403, "AccessDenied"))

    assert [] == run(make_stream_record(uri(key)))

    assert {"m/": 0, "m/1": 6, "m/0": 7}[key] == len(stored_objects())


def test_starts_nothing_without_enough_time(lines: Lines) -> None:
    save("m/1/a")
    context = lambda_context(reclaim.MIN_REMAINING_MS - 1)

    assert 1 == len(run(removed(1), context=context))

    assert {"m/1/a"} == stored_objects()
    assert ["retry"] == [line["outcome"] for line in log_lines(lines())]


@pytest.mark.usefixtures("_small_pages")
def test_what_has_no_time_goes_on_in_a_new_message(s3: FaultyClient, lines: Lines) -> None:
    save(*(f"m/1/{number}" for number in range(8)))

    def deliver_with_time_for_one_page(*messages: Event) -> list[Event]:
        context: Any = lambda_context(MILLISECONDS)

        def end() -> None:
            context.get_remaining_time_in_millis = lambda: reclaim.MIN_REMAINING_MS - 1

        s3.fail("delete_objects", after(end))
        return deliver(*messages, context=context)

    queue.lambda_handler({"Records": [removed()]}, lambda_context())
    (first,) = queue_events()
    assert [] == deliver_with_time_for_one_page(first)
    assert 5 == len(stored_objects())
    (second,) = queue_events()
    bodies = [json.loads(each["Records"][0]["body"]) for each in (first, second)]
    assert bodies[0] | {"started": True} == bodies[1]
    assert [] == deliver_with_time_for_one_page(second)
    assert [] == deliver(*queue_events())

    assert set() == stored_objects()
    assert [("continued", 3), ("continued", 3), ("freed", 2)] == [
        (line["outcome"], line["objects_deleted"]) for line in log_lines(lines())
    ]
    assert [] == queue_events()


@pytest.mark.usefixtures("_small_pages")
def test_an_error_after_progress_does_not_count_as_one_of_the_five_attempts(
    s3: FaultyClient, sqs: FaultyClient, lines: Lines
) -> None:
    save(*(f"m/1/{number}" for number in range(9)))
    delays: list[int] = []

    def note_delay(request: Request, apply: Apply) -> Any:
        delays.append(request["DelaySeconds"])
        return send_now(request, apply)

    sqs.fail("send_message", *[note_delay] * 2)
    s3.fail("delete_objects", *[pass_on, s3_error(503, "SlowDown")] * 2)

    assert [] == run(removed())
    assert [] == deliver(*queue_events())
    assert [] == deliver(*queue_events())

    assert [300, 300] == delays
    assert set() == stored_objects()
    written = [line for line in lines() if "outcome" in line]
    assert [("continued", 3), ("continued", 3), ("freed", 3)] == [
        (line["outcome"], line["objects_deleted"]) for line in written
    ]
    assert [True, True, False] == ["exception" in line for line in written]


def test_what_went_on_finds_nothing_left_and_is_freed(
    sqs: FaultyClient, endpoint: Endpoint, lines: Lines
) -> None:
    save("m/1/a")
    sqs.fail("send_message", send_now)
    endpoint.fail("GetItem", pass_request, reject(400, "AccessDeniedException"))

    assert [] == run(removed())
    assert [] == deliver(*queue_events())

    assert ["continued", "freed"] == [line["outcome"] for line in log_lines(lines())]


@pytest.mark.usefixtures("_small_pages")
def test_a_deletion_whose_response_was_lost_is_progress(s3: FaultyClient, lines: Lines) -> None:
    save(*(f"m/1/{number}" for number in range(6)))

    def find_nothing(request: Request, _apply: Apply) -> Any:
        keys = [each["Key"] for each in request["Delete"]["Objects"]]
        return {"Errors": [{"Key": key, "Code": "NoSuchKey"} for key in keys]}

    s3.fail("delete_objects", find_nothing, s3_error(503, "SlowDown"))

    assert [] == run(removed())

    assert ["continued"] == [line["outcome"] for line in log_lines(lines())]


@pytest.mark.usefixtures("_small_pages")
def test_says_that_objects_were_not_deleted_also_if_it_then_has_no_time(
    s3: FaultyClient, lines: Lines
) -> None:
    save(*(f"m/1/{number}" for number in range(6)))
    context: Any = lambda_context(MILLISECONDS)

    def deny(request: Request, _apply: Apply) -> Any:
        context.get_remaining_time_in_millis = lambda: reclaim.MIN_REMAINING_MS - 1
        keys = [each["Key"] for each in request["Delete"]["Objects"]]
        return {"Errors": [{"Key": key, "Code": "AccessDenied"} for key in keys]}

    s3.fail("delete_objects", deny)

    assert 1 == len(run(removed(), context=context))

    (line,) = [line for line in lines() if "outcome" in line]
    assert ("retry", "NotDeletedError") == (line["outcome"], line["exception_name"])
    assert "AccessDenied: 3" in line["exception"]


@pytest.mark.usefixtures("_small_pages")
@pytest.mark.parametrize("lost", [drop_call, s3_error(403, "AccessDenied")])
def test_the_message_is_delivered_again_if_the_new_one_cannot_be_sent(
    lost: ClientFault, s3: FaultyClient, sqs: FaultyClient, lines: Lines
) -> None:
    save(*(f"m/1/{number}" for number in range(4)))
    context: Any = lambda_context(MILLISECONDS)
    end = mock.Mock(side_effect=lambda: vars(context).update(get_remaining_time_in_millis=int))
    s3.fail("delete_objects", after(end))
    sqs.fail("send_message", lost)
    vars(context)["get_remaining_time_in_millis"] = lambda: MILLISECONDS

    failed = run(removed(), context=context)

    assert ["retry"] == [line["outcome"] for line in log_lines(lines())]
    assert [] == deliver(*failed)
    assert set() == stored_objects()


@pytest.mark.usefixtures("_small_pages")
@pytest.mark.parametrize("seconds", range(60, 400, 30))
def test_ends_in_time_even_if_every_call_is_slow(seconds: int, s3: FaultyClient) -> None:
    save(*(f"m/1/{name}" for name in "abcde\x01\x02"))
    left = [seconds * 1_000]
    context: Any = lambda_context()
    context.get_remaining_time_in_millis = lambda: left[0]

    def spend() -> None:
        left[0] -= MAX_CALL_SECONDS * 1_000

    for operation in OPERATIONS:
        s3.fail(operation, *repeat(after(spend), 10))

    run(removed(), context=context)

    assert left[0] >= min(seconds * 1_000, reclaim.END_MS)


@pytest.mark.usefixtures("_small_pages")
@pytest.mark.parametrize("slow_read", range(1, 6))
def test_ends_in_time_even_if_dynamodb_answers_just_before_the_deadline(
    slow_read: int, s3: FaultyClient, sqs: FaultyClient, dynamodb: FaultyClient
) -> None:
    save(*(f"m/1/{name}" for name in "abcdefg"))
    left = [MILLISECONDS]
    context: Any = lambda_context()
    context.get_remaining_time_in_millis = lambda: left[0]
    reads: list[int] = []

    def spend() -> None:
        left[0] -= MAX_CALL_SECONDS * 1_000

    def read(request: Request, apply: Apply) -> Any:
        reads.append(1)
        if len(reads) == slow_read:
            is_last = len(stored_objects()) < 7 and left[0] < reclaim.MIN_REMAINING_MS
            left[0] = reclaim.SEND_MS if is_last else reclaim.END_MS
        return apply(**request)

    for client, operation, fault in (
        *((s3, operation, after(spend)) for operation in OPERATIONS),
        *((dynamodb, operation, read) for operation in ("query", "get_item")),
        (sqs, "send_message", after(spend)),
    ):
        client.fail(operation, *repeat(fault, 10))

    run(removed(), context=context)

    assert left[0] > 0


# What is logged


def test_tells_aws_the_sdk_the_environment_and_the_application() -> None:
    """CloudTrail shows the user agent."""
    sent: list[str] = []

    def remember(request: Any, **_: object) -> None:
        sent.append(request.headers["User-Agent"].decode())

    clients = (reclaim.connect()[1], queue.connect())
    for client in clients:
        client.meta.events.register_first("before-send", remember)
    try:
        assert [] == run(removed())
    finally:
        for client in clients:
            client.meta.events.unregister("before-send", remember)

    assert 2 == len(sent)
    assert all(re.match(r"Boto3/\S+ exec-env/\S+ app/checkpoints ", each) for each in sent)


@pytest.mark.parametrize("fault", [pass_on, s3_error(403, "AccessDenied"), drop_call])
def test_no_other_field_of_a_record_is_logged(
    fault: ClientFault, s3: FaultyClient, lines: Lines, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    save("m/1/a", "m/1/secret-object")
    s3.fail("delete_objects", fault)
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
