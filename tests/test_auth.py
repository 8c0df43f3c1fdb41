"""Authentication and scopes. Each refusal is the same with a valid and with an invalid body."""

import os
import time
from typing import Any
from unittest import mock

import boto3
import pytest

from checkpoints.api.auth import DELETE_SCOPE, READ_SCOPE, hash_token
from emulators.dynamodb import put_checkpoints, put_token, stored_checkpoints
from events import ENTITY, MODEL, TOKEN, Call, deleted, refused
from faulty_dynamodb import Endpoint

NOT_AUTHENTICATED = refused(401, "Not authenticated", 'Bearer realm="checkpoints"')
INVALID_TOKEN = refused(
    401, "Invalid or expired token", 'Bearer realm="checkpoints", error="invalid_token"'
)
INSUFFICIENT_SCOPE = refused(
    403,
    "The token lacks the scope checkpoints:delete",
    'Bearer realm="checkpoints", error="insufficient_scope", scope="checkpoints:delete"',
)

NOW = 2_000_000_000

either_body = pytest.mark.parametrize(
    "body",
    ['{"steps": [1]}', "not JSON", None],
    ids=["with a good body", "with a bad body", "without a body"],
)


@pytest.fixture(autouse=True)
def _one_checkpoint(_fresh_tables: None) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)


def put_record(token: str, scopes: dict[str, Any]) -> None:
    """Save a token that has only an entity and this attribute."""
    record = {"token_hash": {"S": hash_token(token)}, "entity": {"S": ENTITY}, "scopes": scopes}
    boto3.client("dynamodb").put_item(TableName=os.environ["TOKENS_TABLE"], Item=record)


GOOD = f"Bearer {TOKEN}"
MALFORMED = [
    "", "Bearer", "Bearer ", TOKEN, f"Basic {TOKEN}", f"Bearer{TOKEN}", f"Bearer\t{TOKEN}",
    f" {GOOD}", f"{GOOD} ", f"{GOOD}\n", f"{GOOD}\0", f'Bearer "{TOKEN}"', f"{GOOD}, {GOOD}",
    f"{GOOD} {TOKEN}", "Bearer =", "Bearer a=b", "Bearer tökén", "Bearer \ud800",
    f"Bearer {'ä' * 9_000}", f"\uff22earer {TOKEN}", None, 7,
]  # fmt: skip
ABSENT_OR_REPEATED = {
    "no headers": {"headers": {}, "multiValueHeaders": {}},
    "null headers": {"headers": None, "multiValueHeaders": None},
    "null values": {"headers": {}, "multiValueHeaders": {"Authorization": None}},
    "no values": {"headers": {}, "multiValueHeaders": {"Authorization": []}},
    "another header": {"headers": {"X-Authorization": GOOD}},
    "the same twice": {"multiValueHeaders": {"Authorization": [GOOD, GOOD]}},
    "two different ones": {"multiValueHeaders": {"Authorization": ["Basic x", GOOD]}},
    "two spellings": {
        "headers": {"Authorization": GOOD, "authorization": "Bearer x"},
        "multiValueHeaders": None,
    },
    "two spellings as lists": {
        "multiValueHeaders": {"Authorization": [GOOD], "AUTHORIZATION": [GOOD]}
    },
}


@either_body
@pytest.mark.parametrize(
    "event",
    [
        *(pytest.param({"headers": {"Authorization": v}}, id=ascii(v)[:40]) for v in MALFORMED),
        *(pytest.param(event, id=name) for name, event in ABSENT_OR_REPEATED.items()),
    ],
)
def test_refuses_absent_malformed_and_repeated_credentials_without_reading_a_table(
    call: Call, endpoint: Endpoint, event: dict[str, Any], body: str | None
) -> None:
    assert NOT_AUTHENTICATED == call(**event, body=body)
    assert [] == endpoint.calls


@either_body
@pytest.mark.parametrize(
    "token",
    ["unknown", TOKEN.upper(), f"{TOKEN}=", hash_token(TOKEN), "x" * 9_000, "-._~+/=="],
    ids=["unknown", "other case", "padded", "hash of a good one", "long", "signs only"],
)
def test_refuses_a_token_that_was_not_issued(
    call: Call, endpoint: Endpoint, token: str, body: str | None
) -> None:
    assert INVALID_TOKEN == call(token=token, body=body)
    assert ["GetItem"] == endpoint.calls


def test_refuses_a_revoked_token_immediately(call: Call, endpoint: Endpoint) -> None:
    assert deleted(0) == call(steps=[])
    boto3.client("dynamodb").delete_item(
        TableName=os.environ["TOKENS_TABLE"], Key={"token_hash": {"S": hash_token(TOKEN)}}
    )

    assert INVALID_TOKEN == call(steps=[])
    assert ["GetItem", "GetItem"] == endpoint.calls


@either_body
@pytest.mark.parametrize("age", [1, 0], ids=["a moment ago", "now"])
@pytest.mark.parametrize("scope", [DELETE_SCOPE, READ_SCOPE])
def test_refuses_an_expired_token_whatever_its_scope_is(
    call: Call, endpoint: Endpoint, age: int, scope: str, body: str | None
) -> None:
    put_token("old-token", entity=ENTITY, scopes=[scope], expires_at={"N": str(NOW - age)})

    with mock.patch.object(time, "time", return_value=NOW):
        assert INVALID_TOKEN == call(token="old-token", body=body)
    assert ["GetItem"] == endpoint.calls


def test_an_expired_token_without_an_entity_is_like_any_expired_token(call: Call) -> None:
    record = {"token_hash": {"S": hash_token("old-token")}, "expires_at": {"N": "1"}}
    boto3.client("dynamodb").put_item(TableName=os.environ["TOKENS_TABLE"], Item=record)

    assert INVALID_TOKEN == call(token="old-token", steps=[1])


def test_accepts_a_token_until_the_moment_it_expires(call: Call) -> None:
    put_token("old-token", entity=ENTITY, expires_at={"N": str(NOW)})

    with mock.patch.object(time, "time", return_value=NOW - 0.001):
        assert deleted(1) == call(token="old-token", steps=[1])


@either_body
@pytest.mark.parametrize(
    "scopes",
    [
        pytest.param({"SS": ["checkpoints:read"]}, id="another"),
        pytest.param({"SS": ["checkpoints", "checkpoints:delete:x", "*"]}, id="similar ones"),
        pytest.param({"SS": ["CHECKPOINTS:DELETE"]}, id="in capitals"),
        pytest.param({"SS": ["checkpoints:*"]}, id="a pattern"),
        pytest.param({"S": "checkpoints:delete"}, id="not a set"),
    ],
)
def test_refuses_a_token_without_the_scope(
    call: Call, endpoint: Endpoint, scopes: dict[str, Any], body: str | None
) -> None:
    put_record("under-scoped", scopes)

    assert INSUFFICIENT_SCOPE == call(token="under-scoped", body=body)
    assert ["GetItem"] == endpoint.calls


def test_a_refused_request_deletes_nothing(call: Call) -> None:
    put_token("under-scoped", entity=ENTITY, scopes=[READ_SCOPE])

    for token in (None, "un known", "unknown", "under-scoped"):
        assert call(token=token, steps=[1]).status in (401, 403)
    assert {MODEL: {1}} == stored_checkpoints()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Authorization", f"Bearer {TOKEN}"),
        ("authorization", f"bearer {TOKEN}"),
        ("AUTHORIZATION", f"BEARER {TOKEN}"),
        ("aUTHORIZATION", f"bEARER   {TOKEN}"),
    ],
)
@pytest.mark.parametrize("event", [{"multiValueHeaders": None}, {}], ids=["headers", "both"])
def test_accepts_the_header_and_its_scheme_in_any_case(
    call: Call, name: str, value: str, event: dict[str, None]
) -> None:
    assert deleted(1) == call(headers={name: value}, steps=[1], **event)


def test_accepts_a_token_without_a_name_and_with_more_scopes(call: Call) -> None:
    put_record("bare", {"SS": ["checkpoints:read", "checkpoints:delete"]})

    assert deleted(1) == call(token="bare", steps=[1])
