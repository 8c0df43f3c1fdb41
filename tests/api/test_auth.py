"""Authentication and scopes."""

import os
import time
from typing import Any
from unittest import mock

import boto3
import pytest

from checkpoints.api.auth import DELETE_SCOPE, READ_SCOPE, hash_token
from emulators.dynamodb import put_checkpoints, put_token, stored_checkpoints
from events import (
    ENTITY,
    INTERNAL_SERVER_ERROR,
    MODEL,
    TOKEN,
    Call,
    Response,
    deleted,
    query,
    refused,
)
from faulty_dynamodb import Endpoint

NOT_AUTHENTICATED = refused(401, "Not authenticated", 'Bearer realm="checkpoints"')
INVALID_TOKEN = refused(
    401, "Invalid or expired token", 'Bearer realm="checkpoints", error="invalid_token"'
)
NOW = 2_000_000_000
LIST: dict[str, Any] = {"method": "GET"} | query(limit="not a number")


def insufficient(scope: str) -> Response:
    """Return the response to a request whose token lacks a scope."""
    challenge = f'Bearer realm="checkpoints", error="insufficient_scope", scope="{scope}"'
    return refused(403, f"The token lacks the scope {scope}", challenge)


@pytest.fixture(autouse=True)
def _one_checkpoint(_fresh_tables: None) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)


def put_record(token: str, **attributes: dict[str, Any]) -> None:
    """Save a token that has only these attributes."""
    record = {"token_hash": {"S": hash_token(token)}} | attributes
    boto3.client("dynamodb").put_item(TableName=os.environ["TOKENS_TABLE"], Item=record)


def assert_refused(
    call: Call, endpoint: Endpoint, response: Response, event: dict[str, Any], *, reads: int = 1
) -> None:
    """Send this event with several bodies: each is refused for the same reason, without effect."""
    bodies = ['{"steps": [1]}', '{"steps": [1], "dry_run": true}', "not JSON", None]
    for body in bodies:
        assert response == call(**event, body=body)
    assert ["GetItem"] * reads * len(bodies) == endpoint.calls
    assert {MODEL: {1}} == stored_checkpoints()


GOOD = f"Bearer {TOKEN}"
MALFORMED = [
    "", "Bearer", "Bearer ", TOKEN, f"Basic {TOKEN}", f"Bearer{TOKEN}", f"Bearer\t{TOKEN}",
    f" {GOOD}", f"{GOOD} ", f"{GOOD}\n", f'Bearer "{TOKEN}"', f"{GOOD}, {GOOD}",
    f"{GOOD} {TOKEN}", "Bearer =", "Bearer a=b", "Bearer tökén", "Bearer \ud800",
    f"Bearer {'ä' * 9_000}", f"\uff22earer {TOKEN}",
]  # fmt: skip


@pytest.mark.parametrize(
    "event",
    [
        *({"headers": {"Authorization": value}} for value in MALFORMED),
        {"headers": None, "multiValueHeaders": None},
        {"headers": {"X-Authorization": GOOD}},
        {"multiValueHeaders": {"Authorization": [GOOD, GOOD]}},
        {"multiValueHeaders": {"Authorization": ["Basic x", GOOD]}},
        {"multiValueHeaders": {"Authorization": [GOOD], "AUTHORIZATION": [GOOD]}},
    ],
    ids=lambda event: ascii(event)[:60],
)
def test_refuses_absent_malformed_and_repeated_credentials_without_reading_a_table(
    call: Call, endpoint: Endpoint, event: dict[str, Any]
) -> None:
    assert_refused(call, endpoint, NOT_AUTHENTICATED, event, reads=0)


@pytest.mark.parametrize(
    "token",
    [
        *("unknown", TOKEN.upper(), f"{TOKEN}=", hash_token(TOKEN), "x" * 9_000, "-._~+/=="),
        *("just-expired", "expired-without-scopes"),
    ],
    ids=lambda token: token[:30],
)
def test_refuses_an_unknown_or_expired_token(call: Call, endpoint: Endpoint, token: str) -> None:
    """An expired token gets this response whatever else is wrong with it."""
    put_token("just-expired", entity=ENTITY, expires_at={"N": str(NOW)})
    put_record("expired-without-scopes", expires_at={"N": str(NOW)})

    with mock.patch.object(time, "time", return_value=NOW):
        assert_refused(call, endpoint, INVALID_TOKEN, {"token": token})


def test_refuses_a_revoked_token_immediately(call: Call, endpoint: Endpoint) -> None:
    assert deleted(0) == call(steps=[])
    boto3.client("dynamodb").delete_item(
        TableName=os.environ["TOKENS_TABLE"], Key={"token_hash": {"S": hash_token(TOKEN)}}
    )

    assert INVALID_TOKEN == call(steps=[])
    assert ["GetItem", "GetItem"] == endpoint.calls
    assert [True, True] == [read["ConsistentRead"] for read in endpoint.requests]


def test_a_token_without_an_entity_is_an_internal_error(call: Call) -> None:
    """It must not own the checkpoints that have an empty entity."""
    put_record("damaged", scopes={"SS": [DELETE_SCOPE]})
    put_checkpoints(MODEL, [2], entity="")

    assert INTERNAL_SERVER_ERROR == call(token="damaged", steps=[2])
    assert {MODEL: {1, 2}} == stored_checkpoints()


@pytest.mark.parametrize(
    "scopes",
    [
        {"SS": [READ_SCOPE]},
        {"SS": ["checkpoints", "checkpoints:delete:x", "checkpoints:*", "*", "CHECKPOINTS:DELETE"]},
        {"S": DELETE_SCOPE},
    ],
    ids=["another", "similar ones", "not a set"],
)
def test_refuses_a_token_without_the_scope(
    call: Call, endpoint: Endpoint, scopes: dict[str, Any]
) -> None:
    put_record("under-scoped", entity={"S": ENTITY}, scopes=scopes)

    assert_refused(call, endpoint, insufficient(DELETE_SCOPE), {"token": "under-scoped"})


def test_the_scope_to_delete_is_not_enough_to_list(call: Call, endpoint: Endpoint) -> None:
    assert_refused(call, endpoint, insufficient(READ_SCOPE), LIST)


@pytest.mark.parametrize("others", [{"multiValueHeaders": None}, {}], ids=["headers", "both"])
@pytest.mark.parametrize(
    ("name", "scheme"),
    [("Authorization", "Bearer "), ("authorization", "bearer "), ("aUTHORIZATION", "BEARER   ")],
)
def test_accepts_a_token_until_it_expires_and_its_header_in_any_case(
    call: Call, name: str, scheme: str, others: dict[str, None]
) -> None:
    """The token may have more scopes, and no name."""
    scopes = {"SS": [READ_SCOPE, DELETE_SCOPE]}
    put_record("bare", entity={"S": ENTITY}, scopes=scopes, expires_at={"N": str(NOW)})

    with mock.patch.object(time, "time", return_value=NOW - 0.001):
        assert deleted(1) == call(headers={name: f"{scheme}bare"}, steps=[1], **others)
