"""Turn a bearer token into the principal it was issued to, or into the error that refuses it."""

import hashlib
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from checkpoints.dynamodb import call

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

DELETE_SCOPE = "checkpoints:delete"

# RFC 6750 section 2.1, the scheme in any case (RFC 9110 section 11.1).
_CREDENTIALS = re.compile(r"(?i:bearer) +([A-Za-z0-9._~+/-]+=*)", re.ASCII)
_CHALLENGE = 'Bearer realm="checkpoints"'


class Principal(NamedTuple):
    """Who a token speaks for: the owner of checkpoints, and the token's own name."""

    entity: str
    token_name: str


class RefusalError(Exception):
    """The caller may not do this.

    `challenge` is the value of `WWW-Authenticate` (RFC 6750 section 3). `reason` and `principal`,
    who it was if that is known, are for the operator alone.
    """

    status: int
    detail: str
    challenge: str

    def __init__(self, reason: str, principal: Principal | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.principal = principal


class NotAuthenticatedError(RefusalError):
    """There are no bearer credentials, or they are malformed or sent more than once."""

    status = 401
    detail = "Not authenticated"
    challenge = _CHALLENGE


class InvalidTokenError(RefusalError):
    """The token is unknown, revoked or expired; which of them, the caller does not learn."""

    status = 401
    detail = "Invalid or expired token"
    challenge = f'{_CHALLENGE}, error="invalid_token"'


class InsufficientScopeError(RefusalError):
    """The token is good, but not for this."""

    status = 403
    detail = f"The token lacks the scope {DELETE_SCOPE}"
    challenge = f'{_CHALLENGE}, error="insufficient_scope", scope="{DELETE_SCOPE}"'


def hash_token(token: str) -> str:
    """Return the key under which a token is kept: its SHA-256, in hex.

    A token is 256 random bits, so there is nothing for a salt or a slow hash to protect.
    """
    return hashlib.sha256(token.encode()).hexdigest()


class Authenticator:
    """The table of tokens."""

    def __init__(self, client: "DynamoDBClient", table: str) -> None:
        self._client = client
        self._table = table

    def authenticate(self, event: Mapping[str, Any], *, deadline: float) -> Principal:
        """Return the principal whose token the `Authorization` header of a REST event bears.

        Raises:
            NotAuthenticatedError: the header is absent, malformed or repeated.
            InvalidTokenError: the token is not in the table, or no longer good.
            InsufficientScopeError: the token does not carry `DELETE_SCOPE`.
            UnavailableError: DynamoDB could not be asked.

        """
        token = _bearer_token(event)
        answer = call(
            self._client.get_item,
            deadline=deadline,
            TableName=self._table,
            Key={"token_hash": {"S": hash_token(token)}},
            ConsistentRead=True,  # revoked means revoked
        )
        record = answer.get("Item")
        if record is None:
            raise InvalidTokenError("unknown_token")
        # The table's time to live removes expired tokens up to two days late.
        if "expires_at" in record and float(record["expires_at"]["N"]) <= time.time():
            raise InvalidTokenError("expired_token")
        # The name is a label for the log. Without one a token is as good; without an entity, never.
        principal = Principal(record["entity"]["S"], record.get("name", {}).get("S", ""))
        if DELETE_SCOPE not in record.get("scopes", {}).get("SS", ()):
            raise InsufficientScopeError("insufficient_scope", principal)
        return principal


def _bearer_token(event: Mapping[str, Any]) -> str:
    """Return the token of a REST proxy event, whose headers come once flat and once as lists."""
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
