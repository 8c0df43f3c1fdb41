"""Issue, list and revoke the bearer tokens of the API."""

import argparse
import getpass
import os
import re
import secrets
import sys
import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from checkpoints.api.auth import DELETE_SCOPE, READ_SCOPE, TOKEN_ID_DIGITS, hash_token
from cli.stacks import UsageError, describe, output_of, report_errors
from cli.terminal import Parser, parse_duration, run

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

SCOPES = (DELETE_SCOPE, READ_SCOPE)
SCOPE_PREFIX = "checkpoints:"  # left out in the list, so that its lines are short
TOKEN_BYTES = 32
MAX_LABEL_CHARACTERS = 200  # because the log line of each request has the label
STANDARD_INPUT = "-"
FREE_TEXT_OPTIONS = ("--table", "--stack", "--entity", "--name")  # values may look like a token
LOOKS_LIKE_A_TOKEN = re.compile(r"(?:Bearer )?[A-Za-z0-9_-]{43}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code: 0 success, 1 failure, 2 wrong usage."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    if any(
        LOOKS_LIKE_A_TOKEN.fullmatch(argument) and before not in FREE_TEXT_OPTIONS
        for before, argument in pairwise(["", *arguments])
    ):
        parser.error(
            "Do not put a token on the command line, where the shell's history and the list of "
            "processes show it. Revoke it now: run `.venv/bin/python cli/tokens.py revoke "
            f"--stack STACK {STANDARD_INPUT}`, and paste the token at the prompt."
        )
    options = parser.parse_args(arguments)
    return report_errors("tokens.py", lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    client, table = boto3.client("dynamodb"), _table_name(options)
    try:
        options.command(client, table, options)
    except client.exceptions.ResourceNotFoundException:
        raise UsageError(
            f"There is no table {table!r} in the region {client.meta.region_name}. Name another "
            "with --table, --stack or TOKENS_TABLE, or set AWS_DEFAULT_REGION or AWS_PROFILE."
        ) from None
    return 0


def issue(  # noqa: PLR0913 these are the fields of a token
    client: "DynamoDBClient",
    table: str,
    *,
    entity: str,
    name: str,
    scopes: Collection[str],
    expires_at: int | None = None,
) -> str:
    """Create a token that is valid until `expires_at`, store its hash, and return it."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
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


def print_new(client: "DynamoDBClient", table: str, options: argparse.Namespace) -> None:
    """Print a new token to standard output, and its fields to standard error."""
    expires_at = options.expires and int(time.time()) + options.expires
    token = issue(
        client,
        table,
        entity=options.entity,
        name=options.name,
        scopes=options.scope,
        expires_at=expires_at,
    )
    token_hash = hash_token(token)
    print(
        "Issued a token. It is shown only once. Only its hash is stored.\n"
        f"  entity   {options.entity}\n"
        f"  name     {options.name}\n"
        f"  scopes   {','.join(sorted(set(options.scope)))}\n"
        f"  expires  {_format_time(expires_at)}\n"
        f"  id       {token_hash[:TOKEN_ID_DIGITS]}",
        file=sys.stderr,
    )
    try:
        print(token, flush=True)
    except OSError:
        print("The token could not be written. Revoke it by its id.", file=sys.stderr)
        raise
    _warn_of_same_name(client, table, options.name, token_hash)


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


def print_all(client: "DynamoDBClient", table: str, _: argparse.Namespace) -> None:
    """Print a line for each token, without its secret."""
    records = sorted(_records(client, table), key=lambda r: (_text(r, "entity"), _text(r, "name")))
    rows = [("ENTITY", "NAME", "SCOPES", "CREATED", "EXPIRES", "ID")]
    rows += [
        (
            _text(record, "entity"),
            _text(record, "name"),
            ",".join(
                scope.removeprefix(SCOPE_PREFIX)
                for scope in sorted(record.get("scopes", {}).get("SS", []))
            ),
            _format_time(record.get("created_at", {}).get("N"), default=""),
            _format_time(record.get("expires_at", {}).get("N")),
            _text(record, "token_hash")[:TOKEN_ID_DIGITS],
        )
        for record in records
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def revoke(client: "DynamoDBClient", table: str, options: argparse.Namespace) -> None:
    """Delete the token with the given name, id or secret."""
    if options.token == STANDARD_INPUT:
        key = {"token_hash": {"S": hash_token(_read_token())}}
    else:
        key = {"token_hash": _find(_records(client, table), options.token)["token_hash"]}
    deleted = client.delete_item(TableName=table, Key=key, ReturnValues="ALL_OLD")
    if "Attributes" not in deleted:
        raise UsageError(
            f"There is no such token in {table} in the region {client.meta.region_name}. It may "
            "have been revoked already. Check that you pasted the whole token."
        )
    print(f"Revoked {_identity(deleted['Attributes'])}. It is refused from now on.")


def _read_token() -> str:
    """Read a token from standard input, without echo if it is a terminal."""
    if sys.stdin.isatty():
        try:
            token = getpass.getpass("Token: ")
        except EOFError:
            token = ""
    else:
        token = sys.stdin.buffer.read().decode(errors="replace")
    if not token.strip():
        raise UsageError("There is no token on standard input.")
    # People may paste the whole header, or the token in quotes.
    return re.sub(
        r"^(authorization: *)?bearer +", "", token.strip(" \t\r\n\"'"), flags=re.IGNORECASE
    )


def _find(records: list[dict[str, Any]], wanted: str) -> dict[str, Any]:
    """Return the one token with this name, this id, or this longer beginning of its hash.

    Raises:
        UsageError: there is no such token, or more than one.

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
        raise UsageError(
            f"There is no token with the name {wanted!r}. An id has {TOKEN_ID_DIGITS} digits."
        )
    if not found:
        raise UsageError(f"There is no token with the name or the id {wanted!r}.")
    if len(found) > 1:
        ids = {_raw(record, "token_hash")[:TOKEN_ID_DIGITS] for record in found}
        # If an id does not name one of them, such as one that is also a name, show the whole hash.
        is_enough = len(ids) == len(found) and wanted.lower() not in ids
        digits = TOKEN_ID_DIGITS if is_enough else None
        identities = [_identity(record, digits) for record in found]
        raise UsageError("\n  ".join([f"{wanted!r} is ambiguous. Give an id:", *identities]))
    return found[0]


class _Parser(Parser):
    """Removes arguments that could be a token, or a part of one, from error messages."""

    def error(self, message: str) -> NoReturn:
        super().error(re.sub(r"[A-Za-z0-9_-]{40,}", "…", message))


def _parser() -> argparse.ArgumentParser:
    table_options = _Parser(add_help=False)
    group = table_options.add_mutually_exclusive_group()
    group.add_argument("--table", help="name of the tokens table")
    group.add_argument("--stack", help="name of the deployed stack with the table")

    parser = _Parser(
        description=__doc__,
        epilog="Name the table with --table, --stack, or the environment variable TOKENS_TABLE. "
        "Set account and region with AWS_PROFILE and AWS_DEFAULT_REGION.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser(
        "issue", parents=[table_options], help="create a token and print it once"
    )
    command.add_argument(
        "--entity", required=True, type=_label, help="owner of the checkpoints, such as a team"
    )
    command.add_argument(
        "--name", required=True, type=_label, help="name of the token, in the list and the log"
    )
    command.add_argument(
        "--scope",
        required=True,
        action="append",
        choices=SCOPES,
        help="what the token allows; repeat the option for several scopes",
    )
    command.add_argument(
        "--expires",
        type=parse_duration,
        metavar="DURATION",
        help="how long the token is valid, such as 90d, 12h or 30m (default: it never expires)",
    )
    command.set_defaults(command=print_new)

    command = commands.add_parser(
        "list", parents=[table_options], help="list the tokens, without their secrets"
    )
    command.set_defaults(command=print_all)

    command = commands.add_parser(
        "revoke", parents=[table_options], help="make a token invalid immediately"
    )
    command.add_argument(
        "token",
        metavar=f"NAME|ID|{STANDARD_INPUT}",
        help=f"name or id of the token, or {STANDARD_INPUT} to read the token itself from standard "
        "input",
    )
    command.set_defaults(command=revoke)
    return parser


def _label(text: str) -> str:
    if not text.strip() or not text.isprintable() or len(text) > MAX_LABEL_CHARACTERS:
        raise argparse.ArgumentTypeError(
            f"must be printable, not blank, and have at most {MAX_LABEL_CHARACTERS} characters"
        )
    return text


def _table_name(options: argparse.Namespace) -> str:
    if options.stack:
        return output_of(options.stack, "TokensTableName")
    name: str | None = options.table or os.environ.get("TOKENS_TABLE")
    if not name:
        raise UsageError("Name the table, for example with --stack checkpoints.")
    return name


def _records(client: "DynamoDBClient", table: str) -> list[dict[str, Any]]:
    pages = client.get_paginator("scan").paginate(TableName=table, ConsistentRead=True)
    return [record for page in pages for record in page["Items"]]


def _raw(record: dict[str, Any], key: str) -> str:
    text: str = record.get(key, {}).get("S", "")
    return text


def _text(record: dict[str, Any], key: str) -> str:
    """Return an attribute, with control characters escaped for the terminal."""
    text = _raw(record, key)
    return text if text.isprintable() else repr(text)


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


if __name__ == "__main__":
    sys.exit(run(main))
