"""The API accepts the same bodies as an independent JSON Schema validator."""

import base64
import json
import sys
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from checkpoints.api import app
from emulators.dynamodb import put_checkpoints, stored_checkpoints
from emulators.invocation import lambda_context
from events import ENTITY, MODEL, Call, Response, deleted, error, invalid, make_event, query
from faulty_dynamodb import Endpoint
from function_process import run_in_a_process

OPENAPI = json.loads((Path(__file__).parents[1] / "docs" / "openapi.json").read_bytes())


def schema(name: str) -> dict[str, Any]:
    """Return a schema of the published document, with those it refers to."""
    return {"$ref": f"#/components/schemas/{name}", "components": OPENAPI["components"]}


class Fraction:
    """A number written with a fraction or an exponent, which no step is."""


def satisfies_the_request_schema(body: bytes) -> bool:
    """Tell whether a body is JSON (RFC 8259, in UTF-8) that the published schema accepts."""
    try:
        text = body.decode("utf-8")
        document = json.loads(text, parse_float=lambda _: Fraction(), parse_constant=not_json)
    except ValueError:
        return False
    return jsonschema.Draft202012Validator(schema("DeleteCheckpointsRequest")).is_valid(document)


def not_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def assert_is_as_published(response: Response) -> None:
    """Check a response body against the published schema for its status."""
    name = {200: "DeleteCheckpointsResponse", 422: "HTTPValidationError"}[response.status]
    jsonschema.validate(response.body, schema(name))
    if response.status == 422:
        assert all(set(error) == {"loc", "msg", "type"} for error in response.body["detail"])


def send(call: Call, body: bytes) -> Response:
    """Send any bytes, as a gateway would: as text if possible, otherwise in base64."""
    try:
        return call(body=body.decode("utf-8"))
    except UnicodeDecodeError:
        return call(body=base64.b64encode(body).decode(), isBase64Encoded=True)


documents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**60), 10**60)
    | st.floats()
    | st.sampled_from([1.0, 1e5, -0.0, "7", "steps"])
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.just("steps") | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
steps = st.integers() | st.integers(-3, 3) | st.sampled_from([10**38, -(10**126), 10**4000])
requests = st.fixed_dictionaries(
    {"steps": st.lists(steps, max_size=8)}, optional={"dry_run": st.booleans() | documents}
) | st.builds(
    lambda more, wanted: more | {"steps": wanted},
    st.dictionaries(st.text(max_size=5), documents, max_size=2),
    st.lists(steps | documents, max_size=4),
)


@settings(max_examples=100, deadline=None)
@given(document=requests | documents, indent=st.none() | st.just(1), ascii_only=st.booleans())
def test_accepts_exactly_what_the_schema_accepts(
    call: Call, document: object, indent: int | None, *, ascii_only: bool
) -> None:
    body = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode()

    response = send(call, body)

    assert (200 if satisfies_the_request_schema(body) else 422) == response.status
    assert_is_as_published(response)


words = st.sampled_from(
    rb"""{"steps":[ ]} [ ] { } , : " "steps" 'steps' - 0 1 1.0 1e2 01 +1 NaN Infinity true null //
    \u0073 \ """.split()
)
odd_bytes = st.sampled_from([b" ", b"\n", b"\0", b"\xff", b"\xc3\xa9", b"\xef\xbb\xbf"])
fragments = st.lists(words | odd_bytes, max_size=8).map(b"".join)


@settings(max_examples=150, deadline=None)
@given(body=st.binary(max_size=40) | fragments)
@example(b"")
@example(b'{"steps":[1],"x":NaN}')
@example(b'{"steps":[1],"x":[-Infinity]}')
@example(b'{"steps":["x"],"steps":[1]}')
@example(b'{"steps":[1],"steps":["x"]}')
@example(b'\xef\xbb\xbf{"steps":[1]}')
@example('{"steps":[1]}'.encode("utf-16"))
@example('{"steps":[1]}'.encode("utf-32-be"))
@example(b'{"steps":[1]}\0')
@example(b'{"steps":[1]} {"steps":[2]}')
@example(b'{"steps":[1],"x":"\xff"}')
@example(b'{"steps":[1],"\xed\xa0\x80":1}')
@example(b'{"\\u0073teps":[1]}')
@example(b'{"steps":[-0]}')
@example(b'{"steps":[1,]}')
@example(b'{"Steps":[1]}')
def test_accepts_no_other_bytes(call: Call, body: bytes) -> None:
    response = send(call, body)

    assert (200 if satisfies_the_request_schema(body) else 422) == response.status
    assert_is_as_published(response)


NO_INTEGER = "Input should be a valid integer"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"steps": [1, "2", "3"]}', error(["body", "steps", 1], "int_type", NO_INTEGER)),
        ('{"steps": [true]}', error(["body", "steps", 0], "int_type", NO_INTEGER)),
        ("{}", error(["body", "steps"], "missing", "Field required")),
        (
            '{"steps": null}',
            error(["body", "steps"], "list_type", "Input should be a valid array"),
        ),
        ("[1, 2]", error(["body"], "model_type", "Input should be an object")),
        (None, error(["body"], "json_invalid", "Invalid JSON: the body is empty")),
        ("", error(["body"], "json_invalid", "Invalid JSON: the body is empty")),
    ],
)
def test_says_what_is_wrong_and_where(
    call: Call, body: str | None, expected: dict[str, object]
) -> None:
    assert invalid(expected) == call(body=body)


@pytest.mark.parametrize("body", ["e30", "e30=\n", "{}", "é", "=", "e3=0"])
def test_rejects_malformed_base64(call: Call, body: str) -> None:
    response = call(body=body, isBase64Encoded=True)

    assert 422 == response.status
    assert ["json_invalid"] == [error["type"] for error in response.body["detail"]]
    assert_is_as_published(response)


LARGE = 6_000_000  # bytes, as many as Lambda accepts


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param('{"steps": [' + "9" * 4_301 + "]}", 422, id="a digit too many"),
        pytest.param('{"steps": [' + "9" * LARGE + "]}", 422, id="a step that is all digits"),
        pytest.param("[" * 100_000 + "]" * 100_000, 422, id="deep"),
        pytest.param('{"steps":' * 100_000, 422, id="deep and incomplete"),
        pytest.param('{"steps":[],"x":' + "[" * 201 + "]" * 201 + "}", 422, id="deep beside steps"),
        pytest.param('{"steps":[],"x":' + "[" * 190 + "]" * 190 + "}", 200, id="not too deep"),
        pytest.param('{"steps":[' + "null," * 1_000_000 + "1]}", 422, id="a million wrong steps"),
        pytest.param('{"steps":[' + "1.5," * 1_000_000 + "1]}", 422, id="a million fractions"),
        pytest.param('{"steps":[' + "1," * (LARGE // 2) + "1]}", 200, id="a step repeated"),
        pytest.param('{"x":"' + "é" * (LARGE // 2) + '"}', 422, id="a long string"),
        pytest.param(" " * LARGE, 422, id="blank"),
        pytest.param('{"steps":[],"x":[' + "[]," * 10_001 + "0]}", 422, id="many arrays"),
        pytest.param('{"steps":[],"x":[' + "[]," * 9_990 + "0]}", 200, id="not too many arrays"),
        pytest.param("{" + '"x":1,' * 500_000 + '"steps":[]}', 200, id="a key repeated"),
        pytest.param('{"steps":[],"dry' + "_" * LARGE + 'run":1}', 422, id="a long misspelling"),
        pytest.param('{"steps":[],"a' + "\u0301\u0316" * 200_000 + '":1}', 200, id="accents"),
        pytest.param('{"steps":[],"x":"\\ud800"}', 422, id="unpaired surrogate"),
        pytest.param('{"steps":[],"x":"\ud800"}', 422, id="not Unicode"),
    ],
)
def test_limits_the_work_for_a_body(call: Call, body: str, status: int) -> None:
    response = call(body=body)

    assert status == response.status
    assert_is_as_published(response)
    assert len(json.dumps(response.body)) < 1_000


def test_handles_a_body_as_large_as_lambda_accepts(call: Call) -> None:
    wanted = list(range(10**6, 10**6 + LARGE // 8))
    put_checkpoints(MODEL, [wanted[0], wanted[-1]], entity=ENTITY)

    response = call(body=json.dumps({"steps": wanted}, separators=(",", ":")))

    assert deleted(2, wanted[1:-1]) == response
    assert {} == stored_checkpoints()


@pytest.mark.parametrize("dry_run", [False, True])
def test_the_response_to_the_largest_request_fits(*, dry_run: bool) -> None:
    """Lambda limits both to 6 MB, and `not_found_steps` is never cut."""
    limit = 6 * 1024 * 1024
    event = make_event(body="", **query(dry_run=str(dry_run).lower()))
    room = limit - len(json.dumps(event, separators=(",", ":")))
    start = '{"steps":['
    wanted = [10**99 + number for number in range((room - len(start) - 4) // 101)]
    event["body"] = start + ",".join(map(str, wanted)) + "]}"
    event["body"] = event["body"].ljust(room - 2)  # its two quotes are escaped

    response = app.lambda_handler(event, lambda_context())

    assert limit == len(json.dumps(event, separators=(",", ":")))
    assert len(json.dumps(response)) <= limit
    assert wanted == json.loads(response["body"])["not_found_steps"]


def test_no_body_needs_too_much_memory(endpoint: Endpoint) -> None:
    """The memory includes the test's own libraries, and three copies of the bodies."""
    nest = "[" * 180 + "]" * 180 + ","
    bodies = [
        '{"steps":[[' + nest * (LARGE // len(nest)) + "0]]}",
        '{"steps":[' + '{"":0},' * (LARGE // 7) + "0]}",
        '{"steps":[[' + "1.1," * (LARGE // 4) + "0]]}",
        '{"steps":{' + '"":0,' * (LARGE // 5) + '"a":0}}',
        '{"steps":{' + ",".join(f'"{key:06}":0' for key in range(LARGE // 12)) + "}}",
        '{"steps":[],"x":[' + '"abc",' * (LARGE // 6) + "0]}",
        '{"steps":[],"dry_run":true,"dry_run":true,' + '"":0,' * (LARGE // 5) + '"a":0}',
        '{"steps":[1,2],' + ",".join(f'"dryRu{key:06}":0' for key in range(LARGE // 17)) + "}",
        '{"steps":[' + "1," * (LARGE // 2) + '1],"x":0}',
    ]

    outcome = run_in_a_process(endpoint, [make_event(body=body) for body in bodies])

    assert [*[422] * 5, 200, 422, 200, 200] == [response.status for response in outcome.responses]
    assert outcome.peak_megabytes < 512


def test_is_not_slowed_down_by_steps_with_the_same_hash(call: Call) -> None:
    wanted = [number * sys.hash_info.modulus for number in range(250_000, 0, -1)]
    put_checkpoints(MODEL, wanted[:1], entity=ENTITY)

    assert deleted(1, wanted[1:]) == call(steps=[*wanted, *wanted])


def test_is_not_slowed_down_by_small_steps_that_collide_in_a_hash_table(call: Call) -> None:
    wanted = list(colliding_steps(slots=1 << 18, chained=120_000, searching=30_000))
    put_checkpoints(MODEL, wanted[:1], entity=ENTITY)

    assert deleted(1, wanted[1:]) == call(steps=wanted, milliseconds=17_000)


def colliding_steps(*, slots: int, chained: int, searching: int) -> Iterator[int]:
    """Yield steps that fill one chain of slots in CPython's dict, and steps that search it.

    Those that search start in the first third of the chain.
    """
    places = [slots] * slots
    slot = 1
    for place in range(chained):
        places[slot] = place
        yield slot
        slot = (5 * slot + 1) % slots

    def searches(step: int) -> bool:
        slot, perturbation = step % slots, step
        while places[slot] < slots:
            perturbation >>= 5
            if not perturbation:
                return places[slot] < chained // 3
            slot = (5 * slot + perturbation + 1) % slots
        return False

    yield from islice(filter(searches, count(slots)), searching)
