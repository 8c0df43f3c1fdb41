"""The artifacts of deleted checkpoints are deleted: all of them, and nothing else."""

import logging
import os
import re
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product, repeat
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
from emulators.storage import clear_bucket, put_objects, stored_objects, stream_event
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


def removed(step: int = 1) -> dict[str, Any]:
    """Return the stream record of a deleted checkpoint with artifacts under `m/` and the step."""
    return make_stream_record(uri(f"m/{step}/"), step=step)


def save(*keys: str) -> None:
    """Save an object at each key before the checkpoints were deleted."""
    put_objects(*keys, saved_at=BEFORE)


def run(*records: dict[str, Any], context: Any = None, **event: object) -> dict[str, Any]:
    """Call the function with a batch of records."""
    context = context or lambda_context(MILLISECONDS)
    return reclaim.lambda_handler({"Records": list(records)} | event, context)


def retry(*steps: int) -> dict[str, Any]:
    """Return the response that makes Lambda retry the records of these steps."""
    return {"batchItemFailures": [{"itemIdentifier": sequence_number(step)} for step in steps]}


def outcome(level: str, message: str, outcome: str, **fields: object) -> dict[str, object]:
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
            "outcome": outcome,
        }
        | ({} if "reason" in fields else counts)
        | fields
    )


def freed(**counts: object) -> dict[str, object]:
    return outcome("INFO", "Storage freed", "freed", **counts)


def assert_refused(written: list[dict[str, Any]], reason: str, **fields: object) -> None:
    line = outcome("ERROR", "Reclaim refused", "refused", reason=reason, **fields)
    assert [line] == log_lines(written)
    assert {"ReclaimsRefused": 1} == metrics(written)


# What is deleted


def test_a_deletion_frees_the_storage_of_exactly_the_deleted_checkpoints(call: Call) -> None:
    for step in (1, 10):
        artifact_uri = {"S": uri(f"m/{step}/")}
        put_checkpoints(MODEL, [step], entity=ENTITY, artifact_uri=artifact_uri)
        save(f"m/{step}/model.bin", f"m/{step}/optimizer.bin")
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
    save(*EVERYTHING)

    assert DONE == run(make_stream_record(uri(key)))

    assert EVERYTHING - deleted == stored_objects()


KEYS = [
    "a b", " a ", "a+b", "a%2Fb", "a%20b", "100%", "a?versionId=null", "a#b", "a/../b", "../a",
    "./a", "//a//b", "a&amp;<b>'\"", "a]]>", "été", "e\u0301te\u0301", "重み/🏋", "\u200ba",
    "a\nb", "a\rb", "a\r\nb", "a\tb", "a\x00b", "a\x01b", "a\x1fb", "a\x7f\x85b", "a\u2028b",
    "a\ufffeb", "a\uffff", "s3://b/c", "x" * 1024,
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=ascii)
def test_uses_a_key_without_decoding_it(key: str, lines: Lines) -> None:
    """All objects have the same ETag, so the condition on it cannot hide a wrong key."""
    similar = {
        *(unquote_plus(key), quote(key), os.path.normpath(key), key.strip(), f"{key}/", key[:-1]),
        *(unicodedata.normalize(form, key) for form in ("NFC", "NFD")),
        *(re.split("[?#]", key)[0], key.replace("\r", ""), key.replace("\r", "\n")),
    }  # fmt: skip
    others = {other for other in similar if other != key and 0 < len(other.encode()) <= 1024}
    save(key, *others)

    assert DONE == run(make_stream_record(uri(key)))

    assert others == stored_objects()
    assert 1 == lines()[0]["objects_deleted"]
    if len(key) < 1000:
        others |= {f"{other}/{key}" for other in others}
        save(f"{key}/{key}", *others)

        assert DONE == run(make_stream_record(uri(f"{key}/")))

        assert {each for each in others if not each.startswith(f"{key}/")} == stored_objects()


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
    "no_trailing_slash": [uri("m/1")],  # it probably means the folder
}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "reason"), [(each, reason) for reason in REFUSED for each in REFUSED[reason]], ids=str
)
def test_refuses_what_is_not_a_key_in_the_bucket(value: object, reason: str, lines: Lines) -> None:
    everything = {"m/1/a", "m/1-old", "/m/1/a", " /a", "\u00a0/a", "other/m/1/a", "artifacts/m/1/"}
    save(*everything)

    assert DONE == run(make_stream_record(value))

    assert everything == stored_objects()
    assert_refused(lines(), reason, artifact_uri=str(value)[:2_000])


def test_refuses_a_stream_without_old_images(lines: Lines) -> None:
    save("m/1/a")
    record = removed()
    del record["dynamodb"]["OldImage"]

    assert DONE == run(record)

    assert {"m/1/a"} == stored_objects()
    assert_refused(lines(), "no_old_image", artifact_uri="", entity="")


def test_an_invalid_record_is_logged_and_retried(lines: Lines) -> None:
    record = removed()
    record["dynamodb"]["ApproximateCreationDateTime"] = 1e300

    assert retry(1) == run(record)

    (line,) = lines()
    assert ("ERROR", "Invalid stream record") == (line["level"], line["message"])
    assert "OverflowError" in line["exception"]


@pytest.mark.parametrize(("hours", "result"), [(5, "retry"), (7, "failed")])
def test_a_record_that_fails_for_hours_no_longer_blocks_others(
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
    saved: Any, stays: bool, endpoint: Endpoint, lines: Lines
) -> None:
    attributes = {"artifact_uri": saved} if saved else {}
    put_checkpoints(MODEL, [1], entity="anyone", **attributes)
    save("m/1/a", "m/1/b/c")

    assert DONE == run(removed())

    assert ({"m/1/a", "m/1/b/c"} if stays else set()) == stored_objects()
    kept = outcome("INFO", "Storage kept", "kept")
    line = kept if stays else freed(objects_deleted=2, bytes_freed=14)
    assert [line] == log_lines(lines())
    assert [True] == [request["ConsistentRead"] for request in endpoint.requests]


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


either_call = pytest.mark.parametrize(
    ("key", "operation"), [("m/1/a", "delete_objects"), ("m/1/\x01", "delete_object")], ids=ascii
)


@either_call
def test_keeps_an_object_that_is_overwritten_after_it_was_listed(
    key: str, operation: str, s3: FaultyS3, lines: Lines
) -> None:
    save(key, "m/1/b")
    s3.fail(operation, after(lambda: put_objects(key, content=b"new", saved_at=BEFORE)))

    assert DONE == run(removed())

    assert {key} == stored_objects()
    line = freed(objects_deleted=1, bytes_freed=7, objects_kept={"changed": 1})
    assert [line] == log_lines(written := lines())
    assert {"ObjectsDeleted": 1, "ObjectsKept": 1, "BytesFreed": 7} == metrics(written)


@either_call
def test_an_object_that_is_deleted_after_it_was_listed_is_neither_freed_nor_kept(
    key: str, operation: str, s3: FaultyS3, lines: Lines
) -> None:
    save(key)
    s3.fail(operation, after(clear_bucket))

    assert DONE == run(removed())

    assert [freed()] == log_lines(lines())


@pytest.mark.usefixtures("_small_pages")
def test_stops_when_the_record_is_saved_again_between_two_pages(s3: FaultyS3, lines: Lines) -> None:
    save("m/1/a", "m/1/b", "m/1/c", "m/1/d")

    def save_again() -> None:
        put_checkpoints(MODEL, [1], entity=ENTITY, artifact_uri={"S": uri("m/1/")})

    s3.fail("delete_objects", after(save_again))

    assert DONE == run(removed())

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
    save("m/1/a")

    assert DONE == run(record)

    assert {"m/1/a"} == stored_objects()
    assert [] == lines()


@pytest.mark.parametrize("wish", [True, 1, "true", None])
def test_a_dry_run_says_what_would_be_deleted_and_deletes_nothing(
    wish: object, lines: Lines
) -> None:
    save("m/1/a", "m/1/\x01")
    put_objects("m/1/later")

    response = run(removed(), make_stream_record("m/2/", step=2), dry_run=wish)

    assert {"m/1/a", "m/1/\x01", "m/1/later"} == stored_objects()
    first, second = log_lines(written := lines())
    counts = {"objects_deleted": 2, "bytes_freed": 14, "objects_kept": {"saved_later": 1}}
    assert outcome("INFO", "Reclaim dry run", "freed", dry_run=True, **counts) == first
    assert ("Reclaim dry run", "refused") == (second["message"], second["outcome"])
    logged = [
        {k: v for k, v in line.items() if k not in ("level", "message")} for line in (first, second)
    ]
    assert DONE | {"outcomes": logged} == response
    assert {} == metrics(written)


def test_tells_s3_the_sdk_the_environment_and_the_application() -> None:
    """CloudTrail shows the user agent."""
    sent: list[str] = []

    def remember(request: Any, **_: object) -> None:
        sent.append(request.headers["User-Agent"].decode())

    events = reclaim.connect()[1].meta.events
    events.register_first("before-send.s3", remember)
    try:
        assert DONE == run(removed())
    finally:
        events.unregister("before-send.s3", remember)

    assert sent
    assert all(re.match(r"Boto3/\S+ exec-env/\S+ app/checkpoints ", each) for each in sent)


# Faults

TRANSIENT = [
    s3_error(503, "SlowDown"), s3_error(500, "InternalError"), s3_error(502, "502"),
    s3_error(429, "429"), s3_error(409, "OperationAborted"), s3_error(400, "RequestTimeout"),
    s3_error(400, "ExpiredToken"), s3_error(400, "InvalidToken"),
    s3_error(400, "TokenRefreshRequired"), s3_error(403, "InvalidAccessKeyId"),
    s3_error(403, "RequestTimeTooSkewed"), s3_error(403, "SignatureDoesNotMatch"),
    s3_error(400, "BadDigest"), drop_call, lose_reply,
]  # fmt: skip
PERMANENT = [
    s3_error(403, "AccessDenied"), s3_error(404, "NoSuchBucket"), s3_error(400, "MalformedXML"),
    s3_error(501, "NotImplemented"),
]  # fmt: skip
OPERATIONS = {"list_objects_v2": "m/1/a", "delete_objects": "m/1/a", "delete_object": "m/1/\x01"}
EMPTY_RESPONSES = [("list_objects_v2", blank_reply), ("delete_objects", blank_reply)]


@pytest.mark.parametrize(
    ("operation", "fault"), [*product(OPERATIONS, TRANSIENT), *EMPTY_RESPONSES]
)
def test_a_transient_fault_of_s3_retries_exactly_that_record(
    operation: str, fault: S3Fault, s3: FaultyS3, lines: Lines
) -> None:
    key = OPERATIONS[operation]
    keys = [key, f"{key}/2", f"{key}/3"]
    save(*keys)
    batch = [make_stream_record(uri(each), step=step) for step, each in enumerate(keys, 1)]
    s3.fail(operation, pass_on, fault)

    assert retry(2) == run(*batch)

    assert stored_objects() <= {f"{key}/2"}
    (line,) = [line for line in log_lines(lines()) if line["outcome"] != "freed"]
    level_message_step = (line["level"], line["message"], line["step"])
    assert ("WARNING", "Reclaim interrupted", 2) == level_message_step
    assert DONE == run(*batch[1:])  # as Lambda does
    assert set() == stored_objects()


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("fault", PERMANENT)
def test_a_permanent_fault_of_s3_is_logged_and_does_not_block(
    operation: str, fault: S3Fault, s3: FaultyS3, lines: Lines
) -> None:
    key = OPERATIONS[operation]
    save(key, "m/2/a")
    s3.fail(operation, fault)

    assert DONE == run(removed(1), removed(2))

    assert {key} == stored_objects()
    written = lines()
    first, second = (line for line in written if "_aws" not in line)
    assert [outcome("ERROR", "Reclaim failed", "failed")] == log_lines([first])
    assert first["exception"]
    assert "freed" == second["outcome"]
    assert 1 == sum(line.get("ReclaimsFailed", [0])[0] for line in written)


@pytest.mark.usefixtures("_small_pages")
@pytest.mark.parametrize(
    ("codes", "response", "message"),
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
    codes: list[str], response: dict[str, Any], message: str, s3: FaultyS3, lines: Lines
) -> None:
    keys = [f"m/1/{name}" for name in "abcdef"]
    save(*keys)
    errors = dict(zip(keys, codes, strict=False))
    s3.fail("delete_objects", object_errors(errors))

    assert response == run(removed())

    assert set(errors) == stored_objects()
    line = lines()[0]
    assert (message, 6 - len(codes)) == (line["message"], line["objects_deleted"])
    assert DONE == run(removed())
    assert set() == stored_objects()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (reject(500, "InternalServerError"), retry(1, 2)),
        (drop_request, retry(1, 2)),
        (reject(400, "ExpiredTokenException"), retry(1, 2)),
        (reject(400, "AccessDeniedException"), DONE),
        (reject(400, "ResourceNotFoundException"), DONE),
    ],
)
def test_deletes_nothing_if_it_cannot_check_whether_the_record_exists_again(
    fault: Any, expected: dict[str, Any], endpoint: Endpoint, lines: Lines
) -> None:
    save("m/1/a", "m/2/a")
    endpoint.keep_failing("GetItem", fault)
    batch = [removed(1), removed(2)]

    assert expected == run(*batch)

    assert {"m/1/a", "m/2/a"} == stored_objects()
    message = "Reclaim failed" if expected is DONE else "Reclaim interrupted"
    assert [message] * 2 == [line["message"] for line in log_lines(lines())]
    endpoint.heal()
    assert DONE == run(*batch)
    assert set() == stored_objects()


@pytest.mark.parametrize("missing", ["bucket", "client"])
def test_raises_an_error_if_it_cannot_connect_or_has_no_bucket(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lambda logs such an error. The function logs the errors of single records."""
    if missing == "bucket":
        monkeypatch.delenv("ARTIFACTS_BUCKET")
    else:
        monkeypatch.setattr(reclaim, "connect", mock.Mock(side_effect=KeyError))

    with pytest.raises(KeyError):
        run(removed())


# Time


def test_deletes_thousands_of_objects_page_by_page(s3: FaultyS3, lines: Lines) -> None:
    put_objects(*(f"m/1/{number}" for number in range(2_500)), "m/10/a", saved_at=BEFORE)
    sizes: list[int] = []

    def count(request: Request, apply: Apply) -> Any:
        sizes.append(len(request["Delete"]["Objects"]))
        return apply(**request)

    s3.fail("delete_objects", *[count] * 3)

    assert DONE == run(make_stream_record(uri("m/1/")))
    assert DONE == run(make_stream_record(uri("m/1/")))  # to repeat it does no harm

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
    save("m/1", *(f"m/1{name}" for name in "abcdef"))
    s3.fail("list_objects_v2", *[pass_on] * lists, s3_error(403, "AccessDenied"))

    response = run(make_stream_record(uri(key)), dry_run=False)

    assert ["freed"] == [each["outcome"] for each in response["outcomes"]]
    assert {"m/": 0, "m/1": 6, "m/0": 7}[key] == len(stored_objects())


def test_starts_no_record_without_enough_time(lines: Lines) -> None:
    save("m/1/a", "m/2/a")
    context = lambda_context(reclaim.MIN_REMAINING_MS - 1)

    assert retry(1, 2) == run(removed(1), removed(2), context=context)

    assert {"m/1/a", "m/2/a"} == stored_objects()
    assert [] == lines()


@pytest.mark.usefixtures("_small_pages")
def test_a_later_attempt_finishes_what_had_no_time(s3: FaultyS3, lines: Lines) -> None:
    save("m/1/a", *(f"m/2/{number}" for number in range(8)), "m/3/a")
    batch = [removed(1), removed(2), removed(3)]
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
    save(*(f"m/1/{name}" for name in "abcde\x01\x02"), "m/2/a")
    left = [seconds * 1_000]
    context: Any = lambda_context()
    context.get_remaining_time_in_millis = lambda: left[0]

    def spend() -> None:
        left[0] -= artifacts.MAX_CALL_SECONDS * 1_000

    for operation in OPERATIONS:
        s3.fail(operation, *repeat(after(spend), 10))

    run(removed(1), removed(2), context=context)

    assert left[0] > 1_000


# What is logged


@pytest.mark.parametrize("fault", [pass_on, s3_error(403, "AccessDenied"), drop_call])
def test_no_other_field_of_a_record_is_logged(
    fault: S3Fault, s3: FaultyS3, lines: Lines, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    save("m/1/a", "m/1/secret-object")
    s3.fail("delete_objects", fault)
    metrics = {"M": {"secret": {"N": "1"}}}

    run(make_stream_record(uri("m/1/"), note={"S": "secret-note"}, metrics=metrics))

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
def test_deletes_the_objects_of_deleted_records_unless_they_were_saved_later(
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
