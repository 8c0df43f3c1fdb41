"""Issue, list and revoke the bearer tokens of the API."""

import argparse
import os
import re
import secrets
import sys
import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from checkpoints.auth import DELETE_SCOPE, hash_token
from scripts.stacks import UsageError, describe, output_of

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

SCOPES = (DELETE_SCOPE, "checkpoints:read")
TOKEN_BYTES = 32
SHOWN_HASH_DIGITS = 12
FEWEST_HASH_DIGITS = 8  # or a short name, mistyped, could hit the hash of another token
SECONDS = {"m": 60, "h": 3_600, "d": 86_400}
LONGEST_LABEL = 200  # it is on every log line of the token's requests
LONGEST_LIFE = 100 * 365 * SECONDS["d"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code: 0 done, 1 not done, 2 not understood."""
    options = _parser().parse_args(arguments)
    try:
        table = _table_name(options)
        options.command(boto3.client("dynamodb"), table, options)
    except UsageError as error:
        print(f"tokens.py: {error}", file=sys.stderr)
        return 1
    except (BotoCoreError, ClientError) as error:
        print(f"tokens.py: {describe(error)}", file=sys.stderr)
        return 1
    return 0


def issue(  # noqa: PLR0913 what a token is made of
    client: "DynamoDBClient",
    table: str,
    *,
    entity: str,
    name: str,
    scopes: Collection[str],
    lifetime: int | None = None,
) -> str:
    """Make a token that is good for `lifetime` seconds, keep its hash, and return it."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    now = int(time.time())
    record: dict[str, Any] = {
        "token_hash": {"S": hash_token(token)},
        "entity": {"S": entity},
        "name": {"S": name},
        "scopes": {"SS": sorted(set(scopes))},
        "created_at": {"N": str(now)},
    }
    if lifetime is not None:
        record["expires_at"] = {"N": str(now + lifetime)}
    client.put_item(
        TableName=table, Item=record, ConditionExpression="attribute_not_exists(token_hash)"
    )
    return token


def print_new(client: "DynamoDBClient", table: str, options: argparse.Namespace) -> None:
    """Print a new token, this once."""
    token = issue(
        client,
        table,
        entity=options.entity,
        name=options.name,
        scopes=options.scope,
        lifetime=options.expires,
    )
    print(token)
    print("This is the only time the token is shown; it is kept nowhere.", file=sys.stderr)


def print_all(client: "DynamoDBClient", table: str, _: argparse.Namespace) -> None:
    """Print a line for each token: all about it but the token."""
    records = sorted(_records(client, table), key=lambda r: (_text(r, "entity"), _text(r, "name")))
    rows = [("ENTITY", "NAME", "SCOPES", "CREATED", "EXPIRES", "HASH")]
    rows += [
        (
            _text(record, "entity"),
            _text(record, "name"),
            ",".join(sorted(record.get("scopes", {}).get("SS", []))),
            _moment(record, "created_at"),
            _moment(record, "expires_at") or "never",
            _text(record, "token_hash")[:SHOWN_HASH_DIGITS],
        )
        for record in records
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def revoke(client: "DynamoDBClient", table: str, options: argparse.Namespace) -> None:
    """Delete the one token that goes by this name, or whose hash begins so."""
    wanted = options.token
    found = [
        record
        for record in _records(client, table)
        if wanted == _text(record, "name")
        or (len(wanted) >= FEWEST_HASH_DIGITS and _text(record, "token_hash").startswith(wanted))
    ]
    if not found:
        raise UsageError(f"no token has the name or the hash prefix {wanted!r}")
    if len(found) > 1:
        hashes = ", ".join(
            f"{_text(record, 'token_hash')[:SHOWN_HASH_DIGITS]} of {_text(record, 'entity')}"
            for record in found
        )
        raise UsageError(f"{wanted!r} is ambiguous; name one of the hashes: {hashes}")
    (record,) = found
    client.delete_item(TableName=table, Key={"token_hash": record["token_hash"]})
    print(f"Revoked {_text(record, 'name')!r} of {_text(record, 'entity')!r}.")


def _parser() -> argparse.ArgumentParser:
    where = argparse.ArgumentParser(add_help=False)
    place = where.add_mutually_exclusive_group()
    place.add_argument("--table", help="name of the table of tokens")
    place.add_argument("--stack", help="name of the deployed stack that has the table")

    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="The table is that of --table, of --stack, or of the environment variable "
        "TOKENS_TABLE. Account, region and endpoint are found as boto3 finds them.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser(
        "issue", parents=[where], help="make a token and print it, this once"
    )
    command.add_argument("--entity", required=True, type=_label, help="owner it will speak for")
    command.add_argument("--name", required=True, type=_label, help="what to know it by")
    command.add_argument(
        "--scope",
        required=True,
        action="append",
        choices=SCOPES,
        help="what it will permit; may be given again for more",
    )
    command.add_argument(
        "--expires",
        type=_lifetime,
        metavar="TIME",
        help="how long it will be good for, such as 90d, 12h or 30m; for ever if not given",
    )
    command.set_defaults(command=print_new)

    command = commands.add_parser(
        "list", parents=[where], help="list the tokens, without their secrets"
    )
    command.set_defaults(command=print_all)

    command = commands.add_parser("revoke", parents=[where], help="make a token invalid at once")
    command.add_argument(
        "token",
        metavar="NAME|HASH-PREFIX",
        help=f"its name, or the first {FEWEST_HASH_DIGITS} digits or more of its hash",
    )
    command.set_defaults(command=revoke)
    return parser


def _label(text: str) -> str:
    if not text.strip() or not text.isprintable() or len(text) > LONGEST_LABEL:
        raise argparse.ArgumentTypeError(
            f"must be printable, not blank, and of {LONGEST_LABEL} characters at the most"
        )
    return text


def _lifetime(text: str) -> int:
    match = re.fullmatch(r"([1-9][0-9]{0,8})([mhd])", text, re.ASCII)
    seconds = int(match[1]) * SECONDS[match[2]] if match else 0
    if not 0 < seconds <= LONGEST_LIFE:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time such as 90d, 12h or 30m, of a century at the most"
        )
    return seconds


def _table_name(options: argparse.Namespace) -> str:
    if options.stack:
        return output_of(options.stack, "TokensTableName")
    name: str | None = options.table or os.environ.get("TOKENS_TABLE")
    if not name:
        raise UsageError("name the table with --table, --stack or TOKENS_TABLE")
    return name


def _records(client: "DynamoDBClient", table: str) -> list[dict[str, Any]]:
    pages = client.get_paginator("scan").paginate(TableName=table, ConsistentRead=True)
    return [record for page in pages for record in page["Items"]]


def _text(record: dict[str, Any], key: str) -> str:
    """Return an attribute, harmless to a terminal whoever wrote it."""
    text: str = record.get(key, {}).get("S", "")
    return text if text.isprintable() else repr(text)


def _moment(record: dict[str, Any], key: str) -> str:
    if key not in record:
        return ""
    return datetime.fromtimestamp(int(record[key]["N"]), UTC).strftime("%Y-%m-%d %H:%M")


if __name__ == "__main__":
    sys.exit(main())
