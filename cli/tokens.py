"""Issue, list and revoke the bearer tokens of the API."""

import re
import secrets
import sys
import time
from collections.abc import Collection
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import boto3
import typer
from botocore.exceptions import BotoCoreError, ClientError
from rich.table import Table

from checkpoints.api.auth import TOKEN_ID_DIGITS, hash_token
from cli.errors import CommandError, describe
from cli.options import STANDARD_INPUT
from cli.stacks import output_of
from cli.terminal import console, printable

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

SCOPE_PREFIX = "checkpoints:"  # left out in the list, so that its lines are short
TOKEN_BYTES = 32


def issue_and_print(
    stack: str, *, entity: str, name: str, scopes: Collection[str], seconds: int | None
) -> None:
    """Print a new token to standard output, and its fields to standard error."""
    client, table = _connect(stack)
    expires_at = seconds and int(time.time()) + seconds
    token = issue(client, table, entity=entity, name=name, scopes=scopes, expires_at=expires_at)
    token_hash = hash_token(token)
    print(
        "Issued a token. It is shown only once. Only its hash is stored.\n"
        f"  entity   {entity}\n"
        f"  name     {name}\n"
        f"  scopes   {','.join(sorted(set(scopes)))}\n"
        f"  expires  {_format_time(expires_at)}\n"
        f"  id       {token_hash[:TOKEN_ID_DIGITS]}",
        file=sys.stderr,
    )
    try:
        print(token, flush=True)
    except OSError:
        print("The token could not be written. Revoke it by its id.", file=sys.stderr)
        raise
    _warn_of_same_name(client, table, name, token_hash)


def issue(  # noqa: PLR0913 these are the fields of a token
    client: "DynamoDBClient",
    table: str,
    *,
    entity: str,
    name: str,
    scopes: Collection[str],
    expires_at: int | None = None,
    token: str | None = None,
) -> str:
    """Store the hash of a token that is valid until `expires_at`; return the token.

    It is a new one, unless it is given.
    """
    token = token or secrets.token_urlsafe(TOKEN_BYTES)
    record: dict[str, Any] = {
        "token_hash": {"S": hash_token(token)},
        "entity": {"S": entity},
        "name": {"S": name},
        "scopes": {"SS": sorted(set(scopes))},
        "created_at": {"N": str(int(time.time()))},
    }
    if expires_at is not None:
        record["expires_at"] = {"N": str(expires_at)}
    client.put_item(
        TableName=table, Item=record, ConditionExpression="attribute_not_exists(token_hash)"
    )
    return token


def _warn_of_same_name(client: "DynamoDBClient", table: str, name: str, token_hash: str) -> None:
    """Warn of other tokens with the same name. The new token is valid even if this fails."""
    try:
        others = [
            record
            for record in _records(client, table)
            if _raw(record, "name") == name and _raw(record, "token_hash") != token_hash
        ]
    except (BotoCoreError, ClientError) as error:
        print(
            f"Could not check whether another token has this name. {describe(error)}",
            file=sys.stderr,
        )
        return
    for record in others:
        print(f"There is already a token named {_identity(record)}.", file=sys.stderr)
    if others:
        print("To revoke one of them, use its id.", file=sys.stderr)


def print_all(stack: str) -> None:
    """Print a line for each token, without its secret."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("ENTITY", "NAME", "SCOPES", "CREATED", "EXPIRES", "ID"):
        table.add_column(heading, overflow="fold")
    records = _records(*_connect(stack))
    for record in sorted(records, key=lambda each: (_text(each, "entity"), _text(each, "name"))):
        scopes = sorted(record.get("scopes", {}).get("SS", []))
        table.add_row(
            _text(record, "entity"),
            _text(record, "name"),
            ",".join(scope.removeprefix(SCOPE_PREFIX) for scope in scopes),
            _format_time(record.get("created_at", {}).get("N"), default=""),
            _format_time(record.get("expires_at", {}).get("N")),
            _text(record, "token_hash")[:TOKEN_ID_DIGITS],
        )
    console().print(table)


def revoke(stack: str, wanted: str) -> None:
    """Delete the token with the given name, id or secret."""
    client, table = _connect(stack)
    if wanted == STANDARD_INPUT:
        key = {"token_hash": {"S": hash_token(_read_token())}}
    else:
        key = {"token_hash": _find(_records(client, table), wanted)["token_hash"]}
    deleted = client.delete_item(TableName=table, Key=key, ReturnValues="ALL_OLD")
    if "Attributes" not in deleted:
        raise CommandError(
            f"There is no such token in {table} in the region {client.meta.region_name}. It may "
            "have been revoked already. Check that you pasted the whole token."
        )
    print(f"Revoked {_identity(deleted['Attributes'])}. It is refused from now on.")


def _read_token() -> str:
    """Read a token from standard input, without echo if it is a terminal."""
    if sys.stdin.isatty():
        token = typer.prompt("Token", hide_input=True, err=True)
    else:
        token = sys.stdin.buffer.read().decode(errors="replace")
    if not token.strip():
        raise CommandError("There is no token on standard input.")
    # People may paste the whole header, or the token in quotes.
    return re.sub(
        r"^(authorization: *)?bearer +", "", token.strip(" \t\r\n\"'"), flags=re.IGNORECASE
    )


def _find(records: list[dict[str, Any]], wanted: str) -> dict[str, Any]:
    """Return the one token with this name, this id, or this longer beginning of its hash.

    Raises:
        CommandError: there is no such token, or more than one.

    """
    found = [
        record
        for record in records
        if wanted == _raw(record, "name")
        or (
            # With fewer digits, a mistyped name could match another token.
            len(wanted) >= TOKEN_ID_DIGITS and _raw(record, "token_hash").startswith(wanted.lower())
        )
    ]
    if not found and re.fullmatch(rf"[0-9a-fA-F]{{1,{TOKEN_ID_DIGITS - 1}}}", wanted):
        raise CommandError(
            f"There is no token with the name {wanted!r}. An id has {TOKEN_ID_DIGITS} digits."
        )
    if not found:
        raise CommandError(f"There is no token with the name or the id {wanted!r}.")
    if len(found) > 1:
        ids = {_raw(record, "token_hash")[:TOKEN_ID_DIGITS] for record in found}
        # If an id does not name one of them, such as one that is also a name, show the whole hash.
        is_enough = len(ids) == len(found) and wanted.lower() not in ids
        digits = TOKEN_ID_DIGITS if is_enough else None
        identities = [_identity(record, digits) for record in found]
        raise CommandError("\n  ".join([f"{wanted!r} is ambiguous. Give an id:", *identities]))
    return found[0]


def _connect(stack: str) -> tuple["DynamoDBClient", str]:
    """Return a client, and the name of the table."""
    return boto3.client("dynamodb"), output_of(stack, "TokensTableName")


def _records(client: "DynamoDBClient", table: str) -> list[dict[str, Any]]:
    pages = client.get_paginator("scan").paginate(TableName=table, ConsistentRead=True)
    return [record for page in pages for record in page["Items"]]


def _raw(record: dict[str, Any], key: str) -> str:
    text: str = record.get(key, {}).get("S", "")
    return text


def _text(record: dict[str, Any], key: str) -> str:
    """Return an attribute, with control characters escaped for the terminal."""
    return printable(_raw(record, key))


def _identity(record: dict[str, Any], digits: int | None = TOKEN_ID_DIGITS) -> str:
    token_id = _raw(record, "token_hash")[:digits]
    return f"{_raw(record, 'name')!r} of {_raw(record, 'entity')!r} (id {token_id})"


def _format_time(seconds: str | int | None, *, default: str = "never") -> str:
    """Format seconds since the epoch for people. Other text is returned unchanged."""
    if seconds is None:
        return default
    try:
        return f"{datetime.fromtimestamp(float(seconds), UTC):%Y-%m-%dT%H:%MZ}"
    except (ValueError, OverflowError):
        return str(seconds)
