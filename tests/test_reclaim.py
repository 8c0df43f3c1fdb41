"""The storage of deleted checkpoints is freed: all of it, and nothing else."""

import logging
import os
import re
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import repeat
from typing import Any
from unittest import mock
from urllib.parse import quote, unquote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from checkpoints import artifacts, reclaim
from emulators.dynamodb import clear_tables, put_checkpoints, stored_checkpoints
from emulators.invocation import lambda_context
from emulators.records import ARTIFACTS_BUCKET as BUCKET
from emulators.storage import (
    clear_bucket,
    put_objects,
    stored_objects,
    stream_event,
)
from events import DELETED_AT, ENTITY, MODEL, Call, make_stream_record, sequence_number
from faulty_dynamodb import Endpoint, drop_request, reject
from faulty_s3 import (
    Apply,
    FaultyS3,
    Request,
    S3Fault,
    after,
    blank_reply,
    drop_call,
    lose_reply,
    object_errors,
    pass_on,
    s3_error,
)
from logs import Lines, log_lines, metrics

BEFORE = DELETED_AT - timedelta(seconds=1)
MILLISECONDS = 300_000
DONE: dict[str, Any] = {"batchItemFailures": []}


@pytest.fixture(autouse=True)
def _empty(bucket: None) -> None:  # noqa: ARG001 it is what is emptied
    clear_bucket()
    stream_event()


@pytest.fixture
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let S3 list three objects a page, not a thousand."""
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")


@pytest.fixture
def s3() -> Iterator[FaultyS3]:
    s3 = FaultyS3(reclaim.connect()[1])
    yield s3
    s3.heal()


def uri(key: str) -> str:
    return f"s3://{BUCKET}/{key}"


def run(*records: dict[str, Any], context: Any = None, **event: object) -> dict[str, Any]:
    """Hand a batch to the function."""
    context = context or lambda_context(MILLISECONDS)
    return reclaim.lambda_handler({"Records": list(records)} | event, context)


def retry(*steps: int) -> dict[str, Any]:
    """Return the response that makes Lambda retry the records of these steps."""
    return {"batchItemFailures": [{"itemIdentifier": sequence_number(step)} for step in steps]}


def outcome(level: str, message: str, **fields: object) -> dict[str, object]:
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
        }
        | ({} if "reason" in fields else counts)
        | fields
    )


# What is deleted


def test_a_deletion_through_the_api_frees_exactly_what_it_deleted(call: Call) -> None:
    for step in (1, 10):
        artifact_uri = {"S": uri(f"m/{step}/")}
        put_checkpoints(MODEL, [step], entity=ENTITY, artifact_uri=artifact_uri)
        put_objects(f"m/{step}/model.bin", f"m/{step}/optimizer.bin", saved_at=BEFORE)
    put_checkpoints(MODEL, [2], entity=ENTITY)
    put_checkpoints(MODEL, [3], entity="others", artifact_uri={"S": uri("m/10/")})

    call(steps=[1, 2, 3, 99])
    event = stream_event()

    assert ["INSERT"] * 4 + ["REMOVE"] * 2 == [each["eventName"] for each in event["Records"]]
    assert DONE == run(*event["Records"])
    assert {"m/10/model.bin", "m/10/optimizer.bin"} == stored_objects()
    assert {MODEL: {3, 10}} == stored_checkpoints()
    assert {"Records": []} == stream_event()


EVERYTHING = {"m/1", "m/1/", "m/1/a", "m/1/b/c", "m/10", "m/10/a", "M/1/a", "x/m/1/a"}


@pytest.mark.parametrize(
    ("key", "deleted"),
    [
        *((key, {key}) for key in ("m/1", "m/1/a", "m/10")),
        ("m/1/", {"m/1/", "m/1/a", "m/1/b/c"}),
        ("m/10/", {"m/10/a"}),
        ("m/", EVERYTHING - {"M/1/a", "x/m/1/a"}),
        *((key, set()) for key in ("m", "m/2/", "m/1/b", "/m/1/", "m//1/")),
    ],
)
def test_deletes_the_object_or_all_objects_with_the_prefix(key: str, deleted: set[str]) -> None:
    put_objects(*EVERYTHING, saved_at=BEFORE)

    assert DONE == run(make_stream_record(uri(key)))

    assert EVERYTHING - deleted == stored_objects()


KEYS = [
    "a b", " a ", "a+b", "a%2Fb", "a%20b", "100%", "a?versionId=null", "a#b", "a/../b", "../a",
    "./a", "//a//b", "a&amp;<b>'\"", "a]]>", "été", "e\u0301te\u0301", "重み/🏋", "\u200ba",
    "a\nb", "a\rb", "a\r\nb", "a\tb", "a\x00b", "a\x01b", "a\x1fb", "a\x7f\x85b", "a\u2028b",
    "a\ufffeb", "a\uffff", "s3://b/c", "x" * 1024,
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=ascii)
def test_uses_a_key_without_decoding(key: str, lines: Lines) -> None:
    """All objects have the same ETag, so that the condition cannot hide a wrong key."""
    similar = {
        *(unquote_plus(key), quote(key), os.path.normpath(key), key.strip(), f"{key}/", key[:-1]),
        *(unicodedata.normalize(form, key) for form in ("NFC", "NFD")),
        *(re.split("[?#]", key)[0], key.replace("\r", ""), key.replace("\r", "\n")),
    }  # fmt: skip
    others = {other for other in similar if other != key and 0 < len(other.encode()) <= 1024}
    put_objects(key, *others, saved_at=BEFORE)

    assert DONE == run(make_stream_record(uri(key)))

    assert others == stored_objects()
    assert 1 == lines()[0]["objects_deleted"]
    if len(key) < 1000:
        put_objects(f"{key}/{key}", *(f"{other}/{key}" for other in others), saved_at=BEFORE)
        beneath = {each for each in stored_objects() if each.startswith(f"{key}/")}

        assert DONE == run(make_stream_record(uri(f"{key}/")))

        assert {*others, *(f"{other}/{key}" for other in others)} - beneath == stored_objects()


REFUSED: dict[str, list[object]] = {
    "not_an_s3_uri": [
        "", "m/1/", "/m/1/", "https://artifacts/m/1/", "S3://artifacts/m/1/", "s3:/artifacts/m/1/",
        "s3:///m/1/", "s3://", "s3://artifacts", " s3://artifacts/m/1/", "s3:\\\\artifacts\\m\\1\\",
        {"N": "1"}, {"NULL": True}, {"BOOL": True}, {"SS": [uri("m/1/")]}, {"B": "czM6Ly9h"},
        {"L": [{"S": uri("m/1/")}]}, {"M": {"S": {"S": uri("m/1/")}}},
    ],
    "another_bucket": [
        "s3://other/m/1/", "s3://ARTIFACTS/m/1/", "s3://artifacts /m/1/", "s3://artifacts.s3/m/1/",
        "s3://me@artifacts/m/1/", "s3://artifacts:443/m/1/", "s3://artifacts?/m/1/", "s3://*/m/1/",
    ],
    "blank_key": [
        uri(""), uri("/"), uri("//"), uri(" "), uri(" /"), uri("\t/"), uri("\n"), uri("\u00a0/"),
        uri("\u3000/ /\u2028/"), uri("\x1c\x85/"),
    ],
    "key_too_long": [uri("x" * 1025), uri("é" * 512 + "/"), uri("\U0001f3cb" * 100_000)],
    "not_unicode": [uri("m/\ud800/")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "reason"), [(each, reason) for reason in REFUSED for each in REFUSED[reason]], ids=str
)
def test_refuses_what_is_not_a_key_in_the_bucket(value: object, reason: str, lines: Lines) -> None:
    everything = {"m/1/a", "/m/1/a", " /a", "\u00a0/a", "x", "other/m/1/a", "artifacts/m/1/"}
    put_objects(*everything, saved_at=BEFORE)

    assert DONE == run(make_stream_record(value))

    assert everything == stored_objects()
    refused = outcome("ERROR", "Reclaim refused", outcome="refused", reason=reason)
    assert [refused | {"artifact_uri": str(value)[:2_000]}] == log_lines(written := lines())
    assert {"ReclaimsRefused": 1} == metrics(written)


def test_refuses_a_folder_without_its_trailing_slash(lines: Lines) -> None:
    """The record probably means the folder, not an object that does not exist."""
    put_objects("m/1/a", "m/1-old", saved_at=BEFORE)

    assert DONE == run(make_stream_record(uri("m/1")))

    assert {"m/1/a", "m/1-old"} == stored_objects()
    refused = outcome("ERROR", "Reclaim refused", outcome="refused", reason="no_trailing_slash")
    assert [refused | {"artifact_uri": uri("m/1")}] == log_lines(written := lines())
    assert {"ReclaimsRefused": 1} == metrics(written)


def test_refuses_a_stream_without_old_images(lines: Lines) -> None:
    put_objects("m/1/a", saved_at=BEFORE)
    record = make_stream_record(uri("m/1/"))
    del record["dynamodb"]["OldImage"]

    assert DONE == run(record)

    assert {"m/1/a"} == stored_objects()
    refused = outcome("ERROR", "Reclaim refused", outcome="refused", reason="no_old_image")
    assert [refused | {"artifact_uri": "", "entity": ""}] == log_lines(lines())


def test_an_invalid_record_is_logged_and_retried(lines: Lines) -> None:
    record = make_stream_record(uri("m/1/"))
    record["dynamodb"]["ApproximateCreationDateTime"] = 1e300

    assert retry(1) == run(record)

    (line,) = lines()
    assert ("ERROR", "Invalid stream record") == (line["level"], line["message"])
    assert "OverflowError" in line["exception"]


@pytest.mark.parametrize(("hours", "result"), [(5, "retry"), (7, "failed")])
def test_a_fault_that_lasts_for_hours_no_longer_blocks_other_records(
    hours: int, result: str, s3: FaultyS3, lines: Lines
) -> None:
    record = make_stream_record(uri("m/1/"), at=datetime.now(UTC) - timedelta(hours=hours))
    s3.fail("list_objects_v2", *[s3_error(503, "SlowDown")] * 3)

    assert (retry(1) if result == "retry" else DONE) == run(record)

    assert [result] == [line["outcome"] for line in log_lines(lines())]


# What stays


OVERLAPPING = [
    *({"S": uri(key)} for key in ("m/1/", "m/", "m/1/a", "m/1/b/", "m/1/new", "m/1", "m", "m/1//")),
    *({"S": uri(unreadable)} for unreadable in ("", "/", "x" * 1025)),
    *({"S": unreadable} for unreadable in ("", "m/2/", "S3://artifacts/m/2/")),
    *({"N": "1"}, {"NULL": True}),
]
OTHER = [
    None,
    *({"S": uri(key)} for key in ("m/10/", "m/10", "M/1/", "/m/1/")),
    {"S": "s3://b/m/1/"},
]


@pytest.mark.parametrize(
    ("saved", "stays"),
    [*((each, True) for each in OVERLAPPING), *((each, False) for each in OTHER)],
)
def test_keeps_everything_if_the_record_exists_again_with_an_overlapping_uri(
    saved: Any, stays: bool, lines: Lines
) -> None:
    attributes = {"artifact_uri": saved} if saved else {}
    put_checkpoints(MODEL, [1], entity="anyone", **attributes)
    put_objects("m/1/a", "m/1/b/c", saved_at=BEFORE)

    assert DONE == run(make_stream_record(uri("m/1/")))

    assert ({"m/1/a", "m/1/b/c"} if stays else set()) == stored_objects()
    counts = {"objects_deleted": 2, "bytes_freed": 14}
    assert [
        outcome("INFO", "Storage kept", outcome="kept")
        if stays
        else outcome("INFO", "Storage freed", outcome="freed", **counts)
    ] == log_lines(lines())


@pytest.mark.parametrize("key", ["m/1/a", "m/1/\x01"], ids=ascii)
@pytest.mark.parametrize(
    ("seconds", "stays"), [(-3600, False), (-1, False), (0, True), (0.9, True), (1, True)]
)
def test_keeps_an_object_that_was_saved_in_the_second_of_the_deletion_or_later(
    key: str, seconds: float, stays: bool, lines: Lines
) -> None:
    put_objects(key, saved_at=DELETED_AT + timedelta(seconds=seconds))

    assert DONE == run(make_stream_record(uri("m/1/"), at=DELETED_AT + timedelta(seconds=0.95)))

    assert ({key} if stays else set()) == stored_objects()
    assert ({"saved_later": 1} if stays else {}) == lines()[0]["objects_kept"]


@pytest.mark.parametrize(
    ("key", "operation"), [("m/1/a", "delete_objects"), ("m/1/\x01", "delete_object")], ids=ascii
)
def test_keeps_an_object_that_is_overwritten_after_it_was_listed(
    key: str, operation: str, s3: FaultyS3, lines: Lines
) -> None:
    put_objects(key, "m/1/b", saved_at=BEFORE)
    s3.fail(operation, after(lambda: put_objects(key, content=b"new", saved_at=BEFORE)))

    assert DONE == run(make_stream_record(uri("m/1/")))

    assert {key} == stored_objects()
    told = {"objects_deleted": 1, "bytes_freed": 7, "objects_kept": {"changed": 1}}
    freed = outcome("INFO", "Storage freed", outcome="freed", **told)
    assert [freed] == log_lines(written := lines())
    assert {"ObjectsDeleted": 1, "ObjectsKept": 1, "BytesFreed": 7} == metrics(written)


@pytest.mark.parametrize(
    ("key", "operation"), [("m/1/a", "delete_objects"), ("m/1/\x01", "delete_object")], ids=ascii
)
def test_an_object_that_was_deleted_meanwhile_is_neither_freed_nor_kept(
    key: str, operation: str, s3: FaultyS3, lines: Lines
) -> None:
    put_objects(key, saved_at=BEFORE)
    s3.fail(operation, after(clear_bucket))

    assert DONE == run(make_stream_record(uri("m/1/")))

    assert [outcome("INFO", "Storage freed", outcome="freed")] == log_lines(lines())


@pytest.mark.usefixtures("_small_pages")
def test_stops_when_the_record_is_saved_again_in_the_middle(s3: FaultyS3, lines: Lines) -> None:
    put_objects("m/1/a", "m/1/b", "m/1/c", "m/1/d", saved_at=BEFORE)

    def save_again() -> None:
        put_checkpoints(MODEL, [1], entity=ENTITY, artifact_uri={"S": uri("m/1/")})

    s3.fail("delete_objects", after(save_again))

    assert DONE == run(make_stream_record(uri("m/1/")))

    assert {"m/1/d"} == stored_objects()
    line = lines()[0]
    assert ("kept", 3) == (line["outcome"], line["objects_deleted"])


@pytest.mark.parametrize(
    "record",
    [
        make_stream_record(uri("m/1/"), event_name="MODIFY"),
        make_stream_record(uri("m/1/"), event_name="INSERT"),
        make_stream_record(None),
    ],
)
def test_ignores_other_changes(record: dict[str, Any], lines: Lines) -> None:
    put_objects("m/1/a", saved_at=BEFORE)

    assert DONE == run(record)

    assert {"m/1/a"} == stored_objects()
    assert [] == lines()


@pytest.mark.parametrize("wish", [True, 1, "true", None])
def test_a_dry_run_tells_what_would_be_deleted_and_deletes_nothing(
    wish: object, lines: Lines
) -> None:
    put_objects("m/1/a", "m/1/\x01", saved_at=BEFORE)
    put_objects("m/1/later")

    answer = run(make_stream_record(uri("m/1/")), make_stream_record("m/2/", step=2), dry_run=wish)

    assert {"m/1/a", "m/1/\x01", "m/1/later"} == stored_objects()
    first, second = log_lines(written := lines())
    told = {"objects_deleted": 2, "bytes_freed": 14, "objects_kept": {"saved_later": 1}}
    assert outcome("INFO", "Reclaim dry run", outcome="freed", dry_run=True, **told) == first
    assert ("Reclaim dry run", "refused") == (second["message"], second["outcome"])
    logged = [
        {k: v for k, v in line.items() if k not in ("level", "message")} for line in (first, second)
    ]
    assert DONE | {"outcomes": logged} == answer
    assert {} == metrics(written)


def test_returns_the_outcomes_also_without_a_dry_run() -> None:
    put_objects("m/1/a", saved_at=BEFORE)

    answer = run(make_stream_record(uri("m/1/")), dry_run=False)

    assert ["freed"] == [each["outcome"] for each in answer["outcomes"]]
    assert set() == stored_objects()


# Faults

TRANSIENT = [
    s3_error(503, "SlowDown"), s3_error(500, "InternalError"), s3_error(502, "502"),
    s3_error(429, "429"), s3_error(409, "OperationAborted"), s3_error(400, "RequestTimeout"),
    drop_call, lose_reply,
]  # fmt: skip
LASTING = [
    s3_error(403, "AccessDenied"), s3_error(404, "NoSuchBucket"), s3_error(400, "MalformedXML"),
    s3_error(501, "NotImplemented"),
]  # fmt: skip
OPERATIONS = {"list_objects_v2": "m/1/a", "delete_objects": "m/1/a", "delete_object": "m/1/\x01"}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("fault", TRANSIENT)
def test_a_transient_fault_of_s3_retries_exactly_that_record(
    operation: str, fault: S3Fault, s3: FaultyS3, lines: Lines
) -> None:
    key = OPERATIONS[operation]
    put_objects(key, f"{key}/2", f"{key}/3", saved_at=BEFORE)
    batch = [
        make_stream_record(uri(f"{key}{end}"), step=step)
        for step, end in ((1, ""), (2, "/2"), (3, "/3"))
    ]
    s3.fail(operation, pass_on, fault)

    assert retry(2) == run(*batch)

    assert stored_objects() <= {f"{key}/2"}
    told = [line for line in log_lines(lines()) if line["outcome"] != "freed"]
    assert [("WARNING", "Reclaim interrupted", 2)] == [
        (line["level"], line["message"], line["step"]) for line in told
    ]
    assert DONE == run(*batch[1:])  # as Lambda does
    assert set() == stored_objects()


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("fault", LASTING)
def test_a_permanent_fault_of_s3_is_logged_and_does_not_block(
    operation: str, fault: S3Fault, s3: FaultyS3, lines: Lines
) -> None:
    key = OPERATIONS[operation]
    put_objects(key, "m/2/a", saved_at=BEFORE)
    s3.fail(operation, fault)

    assert DONE == run(make_stream_record(uri("m/1/")), make_stream_record(uri("m/2/"), step=2))

    assert {key} == stored_objects()
    written = lines()
    first, second = (line for line in written if "_aws" not in line)
    assert [outcome("ERROR", "Reclaim failed", outcome="failed")] == log_lines([first])
    assert first["exception"]
    assert "freed" == second["outcome"]
    assert 1 == sum(line.get("ReclaimsFailed", [0])[0] for line in written)


@pytest.mark.parametrize("operation", ["list_objects_v2", "delete_objects"])
def test_an_empty_response_is_not_a_success(operation: str, s3: FaultyS3) -> None:
    put_objects("m/1/a", saved_at=BEFORE)
    s3.fail(operation, blank_reply)

    assert retry(1) == run(make_stream_record(uri("m/1/")))

    assert DONE == run(make_stream_record(uri("m/1/")))
    assert set() == stored_objects()


@pytest.mark.usefixtures("_small_pages")
@pytest.mark.parametrize(
    ("codes", "answer", "message"),
    [
        (["InternalError"], retry(1), "Reclaim interrupted"),
        (["AccessDenied", "SlowDown"], retry(1), "Reclaim interrupted"),
        (["ConditionalRequestConflict"], retry(1), "Reclaim interrupted"),
        (["AccessDenied", "InvalidRequest"], DONE, "Reclaim failed"),
        (["NoSuchKey"], DONE, "Storage freed"),
        (["PreconditionFailed"], DONE, "Storage freed"),
    ],
    ids=str,
)
def test_errors_of_single_objects_do_not_stop_the_deletion_of_others(
    codes: list[str], answer: dict[str, Any], message: str, s3: FaultyS3, lines: Lines
) -> None:
    keys = [f"m/1/{name}" for name in "abcdef"]
    put_objects(*keys, saved_at=BEFORE)
    errors = dict(zip(keys, codes, strict=False))
    s3.fail("delete_objects", object_errors(errors))

    assert answer == run(make_stream_record(uri("m/1/")))

    assert set(errors) == stored_objects()
    line = lines()[0]
    assert (message, 6 - len(codes)) == (line["message"], line["objects_deleted"])
    assert DONE == run(make_stream_record(uri("m/1/")))
    assert set() == stored_objects()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (reject(500, "InternalServerError"), retry(1, 2)),
        (drop_request, retry(1, 2)),
        (reject(400, "AccessDeniedException"), DONE),
        (reject(400, "ResourceNotFoundException"), DONE),
    ],
)
def test_deletes_nothing_while_it_is_unknown_whether_the_record_exists_again(
    fault: Any, expected: dict[str, Any], endpoint: Endpoint, lines: Lines
) -> None:
    put_objects("m/1/a", "m/2/a", saved_at=BEFORE)
    endpoint.keep_failing("GetItem", fault)
    batch = [make_stream_record(uri(f"m/{step}/"), step=step) for step in (1, 2)]

    assert expected == run(*batch)

    assert {"m/1/a", "m/2/a"} == stored_objects()
    message = "Reclaim failed" if expected is DONE else "Reclaim interrupted"
    assert [message] * 2 == [line["message"] for line in log_lines(lines())]
    endpoint.heal()
    assert DONE == run(*batch)
    assert set() == stored_objects()


@pytest.mark.parametrize("missing", ["bucket", "client"])
def test_fails_as_a_whole_if_it_could_handle_no_record(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lambda reports such an error. The function itself reports the error of a single record."""
    if missing == "bucket":
        monkeypatch.delenv("ARTIFACTS_BUCKET")
    else:
        monkeypatch.setattr(reclaim, "connect", mock.Mock(side_effect=KeyError))

    with pytest.raises(KeyError):
        run(make_stream_record(uri("m/1/")))


# Time


def test_deletes_thousands_of_objects_page_by_page(s3: FaultyS3, lines: Lines) -> None:
    put_objects(*(f"m/1/{number}" for number in range(2_500)), "m/10/a", saved_at=BEFORE)
    sizes: list[int] = []

    def count(request: Request, apply: Apply) -> Any:
        sizes.append(len(request["Delete"]["Objects"]))
        return apply(**request)

    s3.fail("delete_objects", *[count] * 3)

    assert DONE == run(make_stream_record(uri("m/1/")))
    assert DONE == run(make_stream_record(uri("m/1/")))  # harmless

    assert {"m/10/a"} == stored_objects()
    assert [1_000, 1_000, 500] == sizes
    first, second = log_lines(lines())
    assert (2_500, 17_500) == (first["objects_deleted"], first["bytes_freed"])
    assert outcome("INFO", "Storage freed", outcome="freed") == second


@pytest.mark.usefixtures("_small_pages")
@pytest.mark.parametrize(("key", "lists"), [("m/", 3), ("m/1", 1), ("m/0", 2)])
def test_does_not_list_all_keys_that_start_like_a_single_object(
    key: str, lists: int, s3: FaultyS3
) -> None:
    put_objects("m/1", *(f"m/1{name}" for name in "abcdef"), saved_at=BEFORE)
    s3.fail("list_objects_v2", *[pass_on] * lists, s3_error(403, "AccessDenied"))

    answer = run(make_stream_record(uri(key)), dry_run=False)

    assert ["freed"] == [each["outcome"] for each in answer["outcomes"]]


def test_starts_no_record_without_enough_time(lines: Lines) -> None:
    put_objects("m/1/a", "m/2/a", saved_at=BEFORE)
    batch = [make_stream_record(uri(f"m/{step}/"), step=step) for step in (1, 2)]

    assert retry(1, 2) == run(*batch, context=lambda_context(reclaim.MIN_REMAINING_MS - 1))

    assert {"m/1/a", "m/2/a"} == stored_objects()
    assert [] == lines()


@pytest.mark.usefixtures("_small_pages")
def test_a_later_attempt_finishes_what_had_no_time(s3: FaultyS3, lines: Lines) -> None:
    put_objects(*(f"m/2/{number}" for number in range(8)), saved_at=BEFORE)
    put_objects("m/1/a", "m/3/a", saved_at=BEFORE)
    batch = [make_stream_record(uri(f"m/{step}/"), step=step) for step in (1, 2, 3)]
    context: Any = lambda_context(MILLISECONDS)

    def end() -> None:
        context.get_remaining_time_in_millis = lambda: reclaim.MIN_REMAINING_MS - 1

    s3.fail("delete_objects", pass_on, pass_on, after(end))

    assert retry(2, 3) == run(*batch, context=context)

    assert 3 == len(stored_objects())
    assert ["freed", "retry"] == [line["outcome"] for line in log_lines(lines())]
    assert DONE == run(*batch[1:])
    assert set() == stored_objects()
    assert [2, 1] == [line["objects_deleted"] for line in log_lines(lines())]


@pytest.mark.usefixtures("_small_pages")
@pytest.mark.parametrize("seconds", range(60, 400, 30))
def test_ends_in_time_even_if_every_call_is_slow(seconds: int, s3: FaultyS3) -> None:
    put_objects(*(f"m/1/{name}" for name in "abcde\x01\x02"), "m/2/a", saved_at=BEFORE)
    left = [seconds * 1_000]
    context: Any = lambda_context()
    context.get_remaining_time_in_millis = lambda: left[0]

    def spend() -> None:
        left[0] -= artifacts.MAX_CALL_SECONDS * 1_000

    for operation in OPERATIONS:
        s3.fail(operation, *repeat(after(spend), 10))

    run(make_stream_record(uri("m/1/")), make_stream_record(uri("m/2/"), step=2), context=context)

    assert left[0] > 1_000


# What is logged


@pytest.mark.parametrize("fault", [pass_on, s3_error(403, "AccessDenied"), drop_call])
def test_no_other_field_of_a_record_is_logged(
    fault: S3Fault, s3: FaultyS3, lines: Lines, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    put_objects("m/1/a", "m/1/secret-object", saved_at=BEFORE)
    s3.fail("delete_objects", fault)

    run(
        make_stream_record(
            uri("m/1/"), note={"S": "secret-note"}, metrics={"M": {"secret": {"N": "1"}}}
        )
    )

    written = lines()
    assert (ENTITY, MODEL, 1) == tuple(written[0][key] for key in ("entity", "model_id", "step"))
    assert "secret" not in f"{written}{caplog.text}"


# Everything at once

PARTS = st.sampled_from(["a", "b", "1", "10", " ", "\x01", "é"])
KEY = st.lists(PARTS, min_size=1, max_size=3).map("/".join)
NAME = st.tuples(KEY, st.sampled_from(["", "/"])).map("".join)
TIME = st.integers(-2, 2).map(lambda seconds: DELETED_AT + timedelta(seconds=seconds))
RECORD = st.tuples(NAME, TIME, st.none() | NAME).filter(lambda record: record[0].strip(" /"))


def is_named(key: str, name: str) -> bool:
    return key.startswith(name) if name.endswith("/") else key == name


def is_within(name: str, other: str) -> bool:
    parts = other.rstrip("/").split("/")
    return parts == name.rstrip("/").split("/")[: len(parts)]


@settings(max_examples=60, deadline=None)
@given(
    objects=st.dictionaries(NAME, TIME, max_size=12),
    records=st.lists(RECORD, min_size=1, max_size=4),
)
@example(objects={"m/1": BEFORE}, records=[("m/1", DELETED_AT, "m/10")])
@example(objects={"m/10": BEFORE}, records=[("m/10", DELETED_AT, "m/1")])
def test_deletes_what_removed_records_name_unless_it_was_saved_later(
    objects: dict[str, datetime], records: list[tuple[str, datetime, str | None]]
) -> None:
    clear_tables()
    clear_bucket()
    for key, saved_at in objects.items():
        put_objects(key, saved_at=saved_at)
    deleted: set[str] = set()
    batch = []
    for step, (name, deleted_at, again) in enumerate(records):
        batch.append(make_stream_record(uri(name), step=step, at=deleted_at))
        if again is not None:
            put_checkpoints(MODEL, [step], entity=ENTITY, artifact_uri={"S": uri(again)})
            if not again.strip(" /") or is_within(name, again) or is_within(again, name):
                continue
        deleted |= {key for key in objects if is_named(key, name) and objects[key] < deleted_at}

    assert DONE == run(*batch)

    assert set(objects) - deleted == stored_objects()
