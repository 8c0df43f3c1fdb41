"""Authentication and scopes. Each refusal is the same with a valid and with an invalid body."""

import os
import time
from collections.abc import Mapping
from typing import Any
from unittest import mock

import boto3
import pytest

from checkpoints.auth import hash_token
from emulators.dynamodb import put_checkpoints, put_token, stored_checkpoints
from events import ENTITY, JSON, MODEL, TOKEN, Answer, Call
from faulty_dynamodb import Endpoint

NOT_AUTHENTICATED = Answer(
    401,
    JSON | {"WWW-Authenticate": 'Bearer realm="checkpoints"'},
    {"detail": "Not authenticated"},
)
INVALID_TOKEN = Answer(
    401,
    JSON | {"WWW-Authenticate": 'Bearer realm="checkpoints", error="invalid_token"'},
    {"detail": "Invalid or expired token"},
)
INSUFFICIENT_SCOPE = Answer(
    403,
    JSON
    | {
        "WWW-Authenticate": 'Bearer realm="checkpoints", error="insufficient_scope", '
        'scope="checkpoints:delete"'
    },
    {"detail": "The token lacks the scope checkpoints:delete"},
)

either_body = pytest.mark.parametrize(
    "body",
    ['{"steps": [1]}', "not JSON", None],
    ids=["with a good body", "with a bad body", "without a body"],
)


@pytest.fixture(autouse=True)
def _one_checkpoint(endpoint: Endpoint, _fresh_tables: None) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)
    endpoint.heal()


@either_body
@pytest.mark.parametrize(
    "value",
    [
        pytest.param("", id="empty"),
        pytest.param("Bearer", id="scheme alone"),
        pytest.param("Bearer ", id="scheme and a space"),
        pytest.param(TOKEN, id="token alone"),
        pytest.param(f"Basic {TOKEN}", id="another scheme"),
        pytest.param(f"Bearer{TOKEN}", id="glued"),
        pytest.param(f"Bearer\t{TOKEN}", id="tab"),
        pytest.param(f" Bearer {TOKEN}", id="leading space"),
        pytest.param(f"Bearer {TOKEN} ", id="trailing space"),
        pytest.param(f"Bearer {TOKEN}\n", id="trailing newline"),
        pytest.param(f"Bearer {TOKEN}\0", id="control character"),
        pytest.param(f'Bearer "{TOKEN}"', id="quoted"),
        pytest.param(f"Bearer {TOKEN}, Bearer {TOKEN}", id="repeated in one value"),
        pytest.param(f"Bearer {TOKEN} {TOKEN}", id="two tokens"),
        pytest.param("Bearer =", id="padding alone"),
        pytest.param("Bearer a=b", id="padding in the middle"),
        pytest.param("Bearer tökén", id="not ASCII"),
        pytest.param("Bearer \ud800", id="not Unicode"),
        pytest.param(f"Bearer {'ä' * 9_000}", id="long and not ASCII"),
        pytest.param(f"\uff22earer {TOKEN}", id="scheme with a wide letter"),
        pytest.param(None, id="null"),
        pytest.param(7, id="a number"),
    ],
)
def test_refuses_malformed_credentials_without_reading_a_table(
    call: Call, endpoint: Endpoint, value: object, body: str | None
) -> None:
    assert NOT_AUTHENTICATED == call(headers={"Authorization": value}, body=body)
    assert [] == endpoint.calls


@either_body
@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"headers": {}, "multiValueHeaders": {}}, id="no headers"),
        pytest.param({"headers": None, "multiValueHeaders": None}, id="null headers"),
        pytest.param(
            {"headers": {}, "multiValueHeaders": {"Authorization": None}}, id="null values"
        ),
        pytest.param({"headers": {}, "multiValueHeaders": {"Authorization": []}}, id="no values"),
        pytest.param(
            {
                "headers": {"Authorization": f"Bearer {TOKEN}"},
                "multiValueHeaders": {"Authorization": [f"Bearer {TOKEN}", f"Bearer {TOKEN}"]},
            },
            id="the same twice",
        ),
        pytest.param(
            {
                "headers": {"Authorization": f"Bearer {TOKEN}"},
                "multiValueHeaders": {"Authorization": ["Basic x", f"Bearer {TOKEN}"]},
            },
            id="two different ones",
        ),
        pytest.param(
            {
                "headers": {"Authorization": f"Bearer {TOKEN}", "authorization": "Bearer x"},
                "multiValueHeaders": None,
            },
            id="two spellings",
        ),
        pytest.param(
            {
                "headers": {"Authorization": f"Bearer {TOKEN}"},
                "multiValueHeaders": {
                    "Authorization": [f"Bearer {TOKEN}"],
                    "AUTHORIZATION": [f"Bearer {TOKEN}"],
                },
            },
            id="two spellings as lists",
        ),
        pytest.param({"headers": {"X-Authorization": f"Bearer {TOKEN}"}}, id="another header"),
    ],
)
def test_refuses_absent_and_repeated_credentials(
    call: Call, endpoint: Endpoint, headers: Mapping[str, object], body: str | None
) -> None:
    assert NOT_AUTHENTICATED == call(**{"multiValueHeaders": None, **headers}, body=body)
    assert [] == endpoint.calls


@either_body
@pytest.mark.parametrize(
    "token",
    [
        pytest.param("unknown", id="unknown"),
        pytest.param(TOKEN.upper(), id="in another case"),
        pytest.param(TOKEN + "=", id="padded"),
        pytest.param(hash_token(TOKEN), id="the hash of a good one"),
        pytest.param("x" * 9_000, id="9,000 characters"),
        pytest.param("-._~+/==", id="signs only"),
    ],
)
def test_refuses_a_token_that_was_not_issued(
    call: Call, endpoint: Endpoint, token: str, body: str | None
) -> None:
    assert INVALID_TOKEN == call(token=token, body=body)
    assert ["GetItem"] == endpoint.calls


@either_body
def test_refuses_a_revoked_token_immediately(
    call: Call, endpoint: Endpoint, body: str | None
) -> None:
    put_token("short-lived", entity=ENTITY)
    assert call(token="short-lived", steps=[]).status == 200
    boto3.client("dynamodb").delete_item(
        TableName=os.environ["TOKENS_TABLE"], Key={"token_hash": {"S": hash_token("short-lived")}}
    )
    endpoint.heal()

    assert INVALID_TOKEN == call(token="short-lived", body=body)
    assert ["GetItem"] == endpoint.calls


@either_body
@pytest.mark.parametrize("age", [1, 0], ids=["a moment ago", "now"])
def test_refuses_an_expired_token_that_is_still_in_the_table(
    call: Call, endpoint: Endpoint, age: int, body: str | None
) -> None:
    now = 2_000_000_000
    put_token("old-token", entity=ENTITY, expires_at={"N": str(now - age)})

    with mock.patch.object(time, "time", return_value=now):
        assert INVALID_TOKEN == call(token="old-token", body=body)
    assert ["GetItem"] == endpoint.calls


def test_accepts_a_token_until_the_moment_it_expires(call: Call) -> None:
    now = 2_000_000_000
    put_token("old-token", entity=ENTITY, expires_at={"N": str(now)})

    with mock.patch.object(time, "time", return_value=now - 0.001):
        assert call(token="old-token", steps=[1]).body == {
            "deleted_count": 1,
            "not_found_steps": [],
        }


@either_body
@pytest.mark.parametrize(
    "scopes",
    [
        pytest.param(["checkpoints:read"], id="another"),
        pytest.param(["checkpoints", "checkpoints:delete:x", "*"], id="similar ones"),
        pytest.param(["CHECKPOINTS:DELETE"], id="in capitals"),
        pytest.param(["checkpoints:*"], id="a pattern"),
    ],
)
def test_refuses_a_token_without_the_scope(
    call: Call, endpoint: Endpoint, scopes: list[str], body: str | None
) -> None:
    put_token("under-scoped", entity=ENTITY, scopes=scopes)

    assert INSUFFICIENT_SCOPE == call(token="under-scoped", body=body)
    assert ["GetItem"] == endpoint.calls


def test_refuses_a_token_whose_scopes_are_not_a_set(call: Call) -> None:
    token: dict[str, Any] = {
        "token_hash": {"S": hash_token("malformed")},
        "entity": {"S": ENTITY},
        "scopes": {"S": "checkpoints:delete"},
    }
    boto3.client("dynamodb").put_item(TableName=os.environ["TOKENS_TABLE"], Item=token)

    assert INSUFFICIENT_SCOPE == call(token="malformed", steps=[1])


@either_body
def test_an_expired_token_does_not_reveal_its_scopes(call: Call, body: str | None) -> None:
    put_token("old", entity=ENTITY, scopes=["checkpoints:read"], expires_at={"N": "1"})

    assert INVALID_TOKEN == call(token="old", body=body)


def test_a_refused_request_deletes_nothing(call: Call) -> None:
    put_token("under-scoped", entity=ENTITY, scopes=["checkpoints:read"])

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
@pytest.mark.parametrize("single", [True, False], ids=["headers alone", "with multiValueHeaders"])
def test_accepts_the_header_and_its_scheme_in_any_case(
    call: Call, name: str, value: str, *, single: bool
) -> None:
    event = {"multiValueHeaders": None} if single else {}

    answer = call(headers={name: value}, steps=[1], **event)

    assert Answer(200, JSON, {"deleted_count": 1, "not_found_steps": []}) == answer


def test_accepts_a_token_without_a_name_and_with_more_scopes(call: Call) -> None:
    record: dict[str, Any] = {
        "token_hash": {"S": hash_token("bare")},
        "entity": {"S": ENTITY},
        "scopes": {"SS": ["checkpoints:read", "checkpoints:delete"]},
    }
    boto3.client("dynamodb").put_item(TableName=os.environ["TOKENS_TABLE"], Item=record)

    assert call(token="bare", steps=[1]).body == {"deleted_count": 1, "not_found_steps": []}
