"""Check a bearer token, and return the principal it was issued to."""

import hashlib
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from checkpoints.dynamodb import Calls

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

DELETE_SCOPE = "checkpoints:delete"
READ_SCOPE = "checkpoints:read"

TOKEN_ID_DIGITS = 8  # of its hash, in the log and in the list of tokens

# RFC 6750 section 2.1. The scheme is case-insensitive (RFC 9110 section 11.1).
_CREDENTIALS = re.compile(r"(?i:bearer) +([A-Za-z0-9._~+/-]+=*)", re.ASCII)
_CHALLENGE = 'Bearer realm="checkpoints"'


class Principal(NamedTuple):
    """Who a token belongs to, an entity that owns checkpoints, and what the token allows."""

    entity: str
    token_name: str
    token_id: str  # the beginning of the token's hash
    scopes: frozenset[str]

    @property
    def log_fields(self) -> dict[str, str]:
        """What the log says of the caller."""
        return {"entity": self.entity, "token_name": self.token_name, "token_id": self.token_id}

    def require(self, scope: str) -> None:
        """Check that the token has a scope.

        Raises:
            InsufficientScopeError: it does not.

        """
        if scope not in self.scopes:
            raise InsufficientScopeError(scope)


class AuthError(Exception):
    """The caller is not authenticated, or not authorized.

    `challenge` is the value of `WWW-Authenticate` (RFC 6750 section 3). `reason`, and the
    `principal` of an expired token, are only for the log.
    """

    status = 401
    detail: str
    challenge: str

    def __init__(self, reason: str, principal: Principal | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.principal = principal


class NotAuthenticatedError(AuthError):
    """The bearer credentials are missing, malformed or sent more than once."""

    detail = "Not authenticated"
    challenge = _CHALLENGE


class InvalidTokenError(AuthError):
    """The token is unknown, revoked or expired. The response does not say which."""

    detail = "Invalid or expired token"
    challenge = f'{_CHALLENGE}, error="invalid_token"'


class InsufficientScopeError(AuthError):
    """The token is valid, but does not have the scope that the operation needs."""

    status = 403

    def __init__(self, scope: str) -> None:
        super().__init__("insufficient_scope")
        self.detail = f"The token lacks the scope {scope}"
        self.challenge = f'{_CHALLENGE}, error="insufficient_scope", scope="{scope}"'


class InvalidRecordError(Exception):
    """A record of the tokens table is damaged: an internal error."""


def hash_token(token: str) -> str:
    """Return the key of a token's record: the token's SHA-256, in hex.

    A token is 256 random bits, so it needs neither a salt nor a slow hash.
    """
    return hashlib.sha256(token.encode()).hexdigest()


def authenticate(
    event: Mapping[str, Any], *, client: "DynamoDBClient", table: str, calls: Calls
) -> Principal:
    """Return the principal of the token in the `Authorization` header of an event.

    Raises:
        NotAuthenticatedError: the header is missing, malformed or repeated.
        InvalidTokenError: the token is not in the table, or has expired.
        InvalidRecordError: the token's record is damaged.
        CallError: DynamoDB failed.

    """
    token_hash = hash_token(bearer_token(event))
    response = calls.make(
        client.get_item,
        TableName=table,
        Key={"token_hash": {"S": token_hash}},
        ConsistentRead=True,  # a revoked token must be refused immediately
    )
    record = response.get("Item")
    if record is None:
        raise InvalidTokenError("unknown_token")
    entity = record.get("entity", {}).get("S")
    principal = Principal(
        entity or "",
        record.get("name", {}).get("S", ""),  # only for the log, so it may be missing
        token_hash[:TOKEN_ID_DIGITS],
        frozenset(record.get("scopes", {}).get("SS", ())),
    )
    # The table's time to live can delete an expired token days late.
    if "expires_at" in record and float(record["expires_at"]["N"]) <= time.time():
        raise InvalidTokenError("expired_token", principal)
    if entity is None:
        raise InvalidRecordError("The token's record has no entity")
    return principal


def bearer_token(event: Mapping[str, Any]) -> str:
    """Return the token of an API Gateway event, which has each header in two places.

    Read the plain dictionaries, because Powertools' class hides one of two headers whose names
    differ only in case.

    Raises:
        NotAuthenticatedError: the header is missing, malformed or repeated.

    """
    values = [
        value
        for name, values in (event.get("multiValueHeaders") or {}).items()
        if name.lower() == "authorization"
        for value in values or ()
    ] or [
        value
        for name, value in (event.get("headers") or {}).items()
        if name.lower() == "authorization"
    ]
    if not any(values):
        raise NotAuthenticatedError("no_credentials")
    if len(values) > 1:
        raise NotAuthenticatedError("repeated_credentials")
    match = _CREDENTIALS.fullmatch(values[0]) if isinstance(values[0], str) else None
    if match is None:
        raise NotAuthenticatedError("malformed_credentials")
    return match[1]
