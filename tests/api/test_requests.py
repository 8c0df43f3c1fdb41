"""Which requests are valid, and what is wrong with the others.

For bodies, an independent JSON Schema validator decides.
"""

import base64
import json
import sys
from typing import Any

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from checkpoints.api.auth import READ_SCOPE
from emulators.dynamodb import put_checkpoints, put_token, stored_checkpoints
from events import (
    ENTITY,
    MODEL,
    Call,
    Invoke,
    Response,
    deleted,
    error,
    invalid,
    make_event,
    query,
    would_delete,
)
from faulty_dynamodb import Endpoint
from function_process import run_in_a_process
from published import schema


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


dumped = st.builds(
    lambda document, **style: json.dumps(document, **style).encode(),
    requests | documents,
    indent=st.none() | st.just(1),
    ensure_ascii=st.booleans(),
)
words = st.sampled_from(
    rb"""{"steps":[ ]} [ ] { } , : " "steps" 'steps' - 0 1 1.0 1e2 01 +1 NaN Infinity true null //
    \u0073 \ """.split()
)
odd_bytes = st.sampled_from([b" ", b"\n", b"\0", b"\xff", b"\xc3\xa9", b"\xef\xbb\xbf"])
fragments = st.lists(words | odd_bytes, max_size=8).map(b"".join)


@settings(max_examples=250, deadline=None)
@given(body=dumped | fragments | st.binary(max_size=40))
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
@example(b'{"steps":[' + b"9" * 4_301 + b"]}")
def test_accepts_exactly_what_the_schema_accepts(call: Call, body: bytes) -> None:
    response = send(call, body)

    assert (200 if satisfies_the_request_schema(body) else 422) == response.status


NO_INTEGER = "Input should be a valid integer"
EMPTY = error(["body"], "json_invalid", "Invalid JSON: the body is empty")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"steps": [1, "2", "3"]}', error(["body", "steps", 1], "int_type", NO_INTEGER)),
        ("{}", error(["body", "steps"], "missing", "Field required")),
        ("[1, 2]", error(["body"], "model_type", "Input should be an object")),
        (None, EMPTY),
        ("", EMPTY),
    ],
)
def test_says_what_is_wrong_and_where(
    call: Call, body: str | None, expected: dict[str, object]
) -> None:
    assert invalid(expected) == call(body=body)


@pytest.mark.parametrize("body", ["e30", "e30=\n", "é", "e3=0"])
def test_rejects_malformed_base64(call: Call, body: str) -> None:
    response = call(body=body, isBase64Encoded=True)

    assert (422, "json_invalid") == (response.status, response.body["detail"][0]["type"])


# The option `dry_run`. If it could be misread, the request is refused: it must not delete.


def request(steps: object = (1,), **fields: object) -> str:
    return json.dumps({"steps": steps} | fields)


BASE64 = base64.b64encode(request([1, 2], dry_run=True).encode()).decode()


@pytest.mark.parametrize(
    "wish",
    [
        {"body": request([1, 2], dry_run=True)},
        {"body": BASE64, "isBase64Encoded": True},
        {"steps": [1, 2], **query(dry_run="true")},
        {"body": request([1, 2], dry_run=True), **query(dry_run="false")},
        {"body": request([1, 2], dry_run=False), **query(dry_run="true")},
        {"steps": [1, 2], **query(dry_run=["true", "false"])},
        {"steps": [1, 2], "queryStringParameters": {"dry_run": "true"}},
        {"steps": [1, 2], "multiValueQueryStringParameters": {"dry_run": ["true"]}},
    ],
)
def test_is_a_dry_run_if_the_body_or_one_value_of_the_query_says_so(
    call: Call, wish: dict[str, Any]
) -> None:
    put_checkpoints(MODEL, [1, 3], entity=ENTITY)

    assert would_delete(1, [2]) == call(**wish)
    assert {MODEL: {1, 3}} == stored_checkpoints()


# Other letters, more letters or digits, or fewer.
OTHER_NAMES = ["dry_runs", "dry_run2", "is_dry_run", "dry", "dr\u0443_run", "dry_r\xfan", "", "_"]


@pytest.mark.parametrize(
    "no_wish",
    [
        {"body": request(dry_run=False)},
        {"steps": [1], **query(dry_run=["false", "false"])},
        {"body": request(dry_run=False, options={"dry_run": True, "dryRun": True})},
        {"body": request(note="dry_run", list=["dryRun", {"dryRun": True}])},
        *({"body": request(**{name: True})} for name in OTHER_NAMES),
        *({"steps": [1], **query(**{name: "true"})} for name in OTHER_NAMES),
    ],
)
def test_is_a_deletion_otherwise(call: Call, no_wish: dict[str, Any]) -> None:
    put_checkpoints(MODEL, [1, 2], entity=ENTITY)

    assert deleted(1) == call(**no_wish)
    assert {MODEL: {2}} == stored_checkpoints()


def misspelled(place: str, name: str) -> dict[str, object]:
    return error([place, name], "misspelled_name", "The name should be spelled dry_run")


NO_BOOLEANS: list[object] = ["true", "false", "", 1, 0, 1.0, None, [], [True], {}]
NO_BOOLEANS_IN_A_QUERY = ["", "1", "0", "True", "FALSE", "yes", "true ", "true,false", "null"]
IN_QUERY = error(["query", "dry_run"], "bool_parsing", "Input should be true or false")
IN_BODY = error(["body", "dry_run"], "bool_type", "Input should be a valid boolean")
NO_STEPS = error(["body", "steps"], "missing", "Field required")
REPEATED = error(["body"], "json_invalid", "Invalid JSON: the key dry_run is repeated")


@pytest.mark.parametrize(
    ("event", "errors"),
    [
        *(({"body": request(dry_run=value)}, [IN_BODY]) for value in NO_BOOLEANS),
        *((query(dry_run=value), [IN_QUERY]) for value in NO_BOOLEANS_IN_A_QUERY),
        (query(dry_run=["true", "maybe"]), [IN_QUERY]),
        (query(dry_run=["maybe", "true"]), [IN_QUERY]),
        ({"body": '{"dry_run": 1}', **query(dry_run="1")}, [IN_QUERY, NO_STEPS, IN_BODY]),
        ({"body": '{"steps": [1], "dry_run": true, "dry_run": false}'}, [REPEATED]),
        ({"body": r'{"steps": [1], "dry\u005frun": true, "dry_run": false}'}, [REPEATED]),
        # Of several misspellings in one place, the first is named.
        ({"body": r'{"steps": [1], "\u0064ryRun": true}'}, [misspelled("body", "dryRun")]),
        ({"body": '{"dryRun": true, "steps": [1], "dryRun": 1}'}, [misspelled("body", "dryRun")]),
        ({"body": request(dry_run=True, DRYRUN=1, dryRun=1)}, [misspelled("body", "DRYRUN")]),
        (query(dry_run="true", dryrun="1"), [misspelled("query", "dryrun")]),
        (
            {"body": request(dryRun=True), **query(dry_run="1", Dry_run="")},
            [IN_QUERY, misspelled("query", "Dry_run"), misspelled("body", "dryRun")],
        ),
        (
            {"body": request(**{"dry" + 200 * "_" + "run": True})},
            [misspelled("body", "dry" + 97 * "_")],
        ),
        (query(**{"dry\ud800run": 1}), [misspelled("query", "dry?run")]),
    ],
)
def test_rejects_a_dry_run_that_is_no_boolean_repeated_or_misspelled(
    call: Call, endpoint: Endpoint, event: dict[str, Any], errors: list[dict[str, object]]
) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)

    assert invalid(*errors) == call(**{"body": request()} | event)
    assert ["GetItem"] == endpoint.calls
    assert {MODEL: {1}} == stored_checkpoints()


# `dry_run` but for case, for characters that are neither letters nor digits, and for full width.
MISSPELLED = [
    "dryRun", "DryRun", "dryrun", "DRY_RUN", "Dry_Run", "dry-run", "dry.run", "dry run", " dry_run",
    "dry_run[]", "dry__run", "_dry_run", "dry_run:", "d_r_y_r_u_n", 'dry"run', "dry\\run",
    "dry\0run", "dry\u200b_run", "dry_run\ufe0f", "\uff24ry\u2014RUN",
    "\uff44\uff52\uff59\uff3f\uff52\uff55\uff4e",
]  # fmt: skip


@pytest.mark.parametrize("name", MISSPELLED)
@pytest.mark.parametrize("value", [True, False])
def test_rejects_another_spelling(call: Call, endpoint: Endpoint, name: str, value: object) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)

    for ascii_only in (True, False):
        in_body = json.dumps({"steps": [1], name: value}, ensure_ascii=ascii_only)
        assert invalid(misspelled("body", name)) == call(body=in_body)
    for parameters in query(**{name: value}).items():
        assert invalid(misspelled("query", name)) == call(steps=[1], **dict([parameters]))
    assert {"GetItem"} == set(endpoint.calls)
    assert {MODEL: {1}} == stored_checkpoints()


# The parameters of the list

NO_NUMBER = (
    "int_parsing",
    "Input should be a valid integer, unable to parse string as an integer",
)
NOT_WRITTEN_AS_INTEGERS = [
    *("", " ", "abc", "1.5", "7.0", "1e2", "+7", " 7", "7 ", "07", "-0", "--7", "1_000", "0x7"),
    *("\u0663", "\uff17", "7,8", "null", "true", "7\0", "\ud800", "9" * 4_301),
]
NO_ID = (
    "impossible_checkpoint_id",
    "No checkpoint can have this id: DynamoDB cannot store the number",
)
IMPOSSIBLE_IDS = [10**38 + 1, -(10**38) - 1, 10**126, -(10**126), 10**4_299]
TOO_SMALL = ("greater_than_equal", "Input should be greater than or equal to 1")
TOO_LARGE = ("less_than_equal", "Input should be less than or equal to 100")
NO_ORDER = ("literal_error", "Input should be 'asc' or 'desc'")
NO_ORDERS = ["", "ASC", "asc ", "ascending", "1", "asc,desc"]


@pytest.mark.parametrize(
    ("parameters", "errors"),
    [
        *((query(after=text), {"after": NO_NUMBER}) for text in NOT_WRITTEN_AS_INTEGERS),
        *((query(after=step), {"after": NO_ID}) for step in IMPOSSIBLE_IDS),
        *((query(limit=text), {"limit": NO_NUMBER}) for text in NOT_WRITTEN_AS_INTEGERS),
        *((query(limit=limit), {"limit": TOO_SMALL}) for limit in (0, -1, -(10**40))),
        *((query(limit=limit), {"limit": TOO_LARGE}) for limit in (101, 10**40)),
        *((query(order=order), {"order": NO_ORDER}) for order in NO_ORDERS),
        (
            query(after="x", limit=0, order="up"),
            {"after": NO_NUMBER, "limit": TOO_SMALL, "order": NO_ORDER},
        ),
        (query(limit=[5, ""]), {"limit": NO_NUMBER}),
    ],
)
def test_rejects_invalid_parameters_of_the_list(
    call: Call,
    endpoint: Endpoint,
    parameters: dict[str, Any],
    errors: dict[str, tuple[str, str]],
) -> None:
    put_token("reader", entity=ENTITY, scopes=[READ_SCOPE])

    response = call(method="GET", token="reader", **parameters)

    assert response == invalid(*(error(["query", name], *each) for name, each in errors.items()))
    assert ["GetItem"] == endpoint.calls


# Large and hostile bodies

LARGE = 6_000_000  # bytes, as many as Lambda accepts


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param('{"steps": [' + "9" * LARGE + "]}", 422, id="a step that is all digits"),
        pytest.param("[" * 100_000 + "]" * 100_000, 422, id="deep"),
        pytest.param('{"steps":[],"x":' + "[" * 201 + "]" * 201 + "}", 422, id="deep beside steps"),
        pytest.param('{"steps":[],"x":' + "[" * 190 + "]" * 190 + "}", 200, id="not too deep"),
        pytest.param('{"steps":[' + "1.5," * 1_000_000 + "1]}", 422, id="a million fractions"),
        pytest.param('{"steps":[],"x":[' + "[]," * 10_001 + "0]}", 422, id="many arrays"),
        pytest.param('{"steps":[],"x":[' + "[]," * 9_990 + "0]}", 200, id="not too many arrays"),
        pytest.param('{"steps":[],"dry' + "_" * LARGE + 'run":1}', 422, id="a long misspelling"),
        pytest.param('{"steps":[],"a' + "\u0301\u0316" * 200_000 + '":1}', 200, id="accents"),
        pytest.param('{"steps":[],"x":"\\ud800"}', 422, id="unpaired surrogate"),
        pytest.param('{"steps":[],"x":"\ud800"}', 422, id="not Unicode"),
    ],
)
def test_limits_the_work_for_a_body(call: Call, body: str, status: int) -> None:
    response = call(body=body)

    assert status == response.status
    assert response.size < 1_000


def test_the_response_to_the_largest_request_fits(invoke: Invoke) -> None:
    """Lambda limits both to 6 MB, and `not_found_steps` is never cut."""
    limit = 6 * 1024 * 1024
    event = make_event(body="", **query(dry_run="true"))  # its response is longer
    room = limit - len(json.dumps(event, separators=(",", ":")))
    start = '{"steps":['
    wanted = [10**99 + number for number in range((room - len(start) - 4) // 101)]
    event["body"] = start + ",".join(map(str, wanted)) + "]}"
    event["body"] = event["body"].ljust(room - 2)  # its two quotes are escaped

    response = invoke(event)

    assert limit == len(json.dumps(event, separators=(",", ":")))
    assert wanted == response.body["not_found_steps"]
    assert response.size <= limit


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
        '{"steps":[' + ",".join(map(str, range(10**6, 10**6 + LARGE // 8))) + "]}",
    ]

    outcome = run_in_a_process(endpoint, [make_event(body=body) for body in bodies])

    assert [*[422] * 5, 200, 422, 200, 200, 200] == [
        response.status for response in outcome.responses
    ]
    assert outcome.peak_megabytes < 512


def test_is_not_slowed_down_by_steps_with_the_same_hash(call: Call) -> None:
    wanted = [number * sys.hash_info.modulus for number in range(250_000, 0, -1)]
    put_checkpoints(MODEL, wanted[:1], entity=ENTITY)

    assert deleted(1, wanted[1:]) == call(steps=[*wanted, *wanted])
