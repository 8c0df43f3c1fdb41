"""The command `checkpoints tokens`, with an endpoint over HTTP."""

import os
import re
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest

from checkpoints.api.auth import hash_token
from commands import Result, Run, run_on_stack
from emulators.dynamodb import put_checkpoints, put_token
from events import ENTITY, MODEL, Call
from faulty_dynamodb import Endpoint, reject

ISSUE = ["issue", "--entity", ENTITY, "--name", "laptop", "--scope", "checkpoints:delete"]


@pytest.fixture
def run(endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str, **others: Any) -> Result:
        return run_on_stack("tokens", *arguments, endpoint=endpoint, capsys=capsys, **others)

    return run


@pytest.mark.parametrize(
    ("argument", "stdin"),
    [
        ("laptop", ""),
        *(("-", pasted) for pasted in ("TOKEN", "Bearer TOKEN\r\n", "'TOKEN'\n")),
        *(("-", pasted) for pasted in ('"Authorization: Bearer TOKEN"', "bearer  TOKEN ")),
    ],
)
def test_an_issued_token_is_accepted_until_it_is_revoked(
    run: Run, call: Call, argument: str, stdin: str
) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)

    token = run(*ISSUE).stdout.strip()

    assert {"deleted_count": 1, "not_found_steps": []} == call(token=token, steps=[1]).body
    identity = f"'laptop' of '{ENTITY}' (id {hash_token(token)[:8]})"
    told = f"Revoked {identity}. It is refused from now on.\n"
    revoked = run("revoke", argument, stdin=stdin.replace("TOKEN", token).encode())
    assert Result(0, told, "") == revoked
    assert 401 == call(token=token, steps=[1]).status


def test_prints_the_token_only_once_and_keeps_only_its_hash(run: Run) -> None:
    issued = run(*ISSUE, "--scope", "checkpoints:read", "--expires", "90d")

    token = issued.stdout.removesuffix("\n")
    assert len(token) >= 43  # 256 bits in base64
    records = boto3.client("dynamodb").scan(TableName=os.environ["TOKENS_TABLE"])["Items"]
    (record,) = [record for record in records if record["name"]["S"] == "laptop"]
    created_at, expires_at = (int(record[key]["N"]) for key in ("created_at", "expires_at"))
    assert 90 * 24 * 60 * 60 - (expires_at - created_at) in (0, 1)  # the clock may have ticked
    assert {
        "token_hash": {"S": hash_token(token)},
        "entity": {"S": ENTITY},
        "name": {"S": "laptop"},
        "scopes": {"SS": ["checkpoints:delete", "checkpoints:read"]},
        "created_at": {"N": str(created_at)},
        "expires_at": {"N": str(expires_at)},
    } == record
    told = (
        "Issued a token. It is shown only once. Only its hash is stored.\n"
        "  entity   vision-team\n"
        "  name     laptop\n"
        "  scopes   checkpoints:delete,checkpoints:read\n"
        f"  expires  {datetime.fromtimestamp(expires_at, UTC):%Y-%m-%dT%H:%MZ}\n"
        f"  id       {hash_token(token)[:8]}\n"
    )
    assert Result(0, f"{token}\n", told) == issued


def test_issues_another_token_and_warns_of_those_with_the_same_name(run: Run) -> None:
    put_token("y", entity="speech-team", name="desktop")
    first = run(*ISSUE).stdout.strip()

    second = run(*ISSUE)

    assert (0, 1) == (second.returncode, len(second.stdout.splitlines()))
    assert first not in second.stdout
    assert [
        f"There is already a token named 'laptop' of '{ENTITY}' (id {hash_token(first)[:8]}).",
        "To revoke one of them, use its id.",
    ] == second.stderr.splitlines()[-2:]
    assert "desktop" not in second.stderr


@pytest.mark.parametrize(
    ("operation", "code", "tokens", "message"),
    [
        ("Scan", 0, 1, "Could not check whether another token has this name. "),
        ("PutItem", 1, 0, "Error: "),
    ],
)
def test_prints_a_token_only_if_it_is_kept(  # noqa: PLR0913, PLR0917 two cases of one promise
    run: Run, endpoint: Endpoint, operation: str, code: int, tokens: int, message: str
) -> None:
    endpoint.keep_failing(operation, reject(400, "AccessDeniedException"))

    issued = run(*ISSUE)

    assert (code, tokens) == (issued.returncode, len(issued.stdout.splitlines()))
    assert (
        f"{message}The AWS credentials lack a permission. on command"
        == issued.stderr.splitlines()[-1]
    )


def test_lists_tokens_without_their_secrets(run: Run) -> None:
    """Each on one line, with text from the table as it is, and control characters escaped."""
    put_token(
        "x",
        entity="speech-team",
        name="ci\x1b[2J",
        scopes=["checkpoints:read", "checkpoints:delete"],
        created_at={"N": "0"},
        expires_at={"N": str(86_400 * 365)},
    )
    put_token("y", entity="[red]zoo" * 20, created_at={"N": "1764012345000"})  # in milliseconds
    token = run(*ISSUE).stdout.strip()
    created = f"{datetime.now(UTC):%Y-%m-%dT}"

    code, listed, errors = run("list")

    rows = [re.split(" {2,}", line.rstrip()) for line in listed.splitlines()]
    own = rows.pop()
    assert (0, "") == (code, errors)
    assert [
        ["ENTITY", "NAME", "SCOPES", "CREATED", "EXPIRES", "ID"],
        ["[red]zoo" * 20, "y", "delete", "1764012345000", "never", hash_token("y")[:8]],
        [
            "speech-team",
            r"'ci\x1b[2J'",
            "delete,read",
            "1970-01-01T00:00Z",
            "1971-01-01T00:00Z",
            hash_token("x")[:8],
        ],
    ] == rows[:3]
    assert [ENTITY, "laptop", "delete"] == own[:3]
    assert own[3].startswith(created)
    assert ["never", hash_token(token)[:8]] == own[4:]
    assert token not in listed


@pytest.mark.parametrize(
    "prefix", [hash_token("x")[:8], hash_token("x")[:8].upper(), hash_token("x")]
)
def test_revokes_by_the_id_or_more_digits_of_the_hash(run: Run, prefix: str) -> None:
    put_token("x", entity=ENTITY)

    assert 0 == run("revoke", prefix).returncode
    assert hash_token("x")[:8] not in run("list").stdout


NO_SUCH_TOKEN = (
    "There is no such token in TokensTable in the region us-east-1. It may have been revoked "
    "already. Check that you pasted the whole token."
)
NO_MATCH = "There is no token with the name or the id"
SHORT = hash_token("x")[:7]
MORE_DIGITS = "An id has 8 digits."


@pytest.mark.parametrize(
    ("argument", "stdin", "message"),
    [
        ("desktop", b"", f"{NO_MATCH} 'desktop'."),
        ("", b"", f"{NO_MATCH} ''."),
        (hash_token("x")[1:], b"", f"{NO_MATCH} '{hash_token('x')[1:]}'."),
        (SHORT, b"", f"There is no token with the name '{SHORT}'. {MORE_DIGITS}"),
        ("-", b"", "There is no token on standard input."),
        ("-", b" \n", "There is no token on standard input."),
        ("-", b"another", NO_SUCH_TOKEN),
        ("-", b"\xff\xfe", NO_SUCH_TOKEN),
    ],
)
def test_revokes_nothing_if_no_token_matches(
    run: Run, argument: str, stdin: bytes, message: str
) -> None:
    put_token("x", entity=ENTITY)

    assert Result(1, "", f"Error: {message}\n") == run("revoke", argument, stdin=stdin)
    assert hash_token("x")[:8] in run("list").stdout


@pytest.mark.parametrize(
    "arguments",
    ["TOKEN", "revoke laptop TOKEN", "revoke --stack x -- TOKEN", "revoke --token TOKEN"],
)
@pytest.mark.parametrize("token", ["A" * 43, "-" + "b_" * 21, f"Authorization: Bearer {'A' * 43}"])
def test_refuses_a_token_on_the_command_line_and_does_not_repeat_it(
    run: Run, arguments: str, token: str
) -> None:
    words = arguments.split()

    refused = run(*(token if word == "TOKEN" else word for word in words))

    assert (2, "") == (refused.returncode, refused.stdout)
    assert token not in refused.stderr
    assert refused.stderr.endswith(
        "Error: Do not put a token on the command line, where the shell's history and the list "
        "of processes show it. Revoke it now: run `checkpoints tokens revoke --stack STACK -`, "
        "and paste the token at the prompt.\n"
    )


@pytest.mark.parametrize("argument", ["--token=TOKEN", "--expires=TOKEN", "-xTOKEN"])
def test_repeats_no_part_of_a_token_in_a_message(run: Run, argument: str) -> None:
    refused = run(*ISSUE, argument.replace("TOKEN", "A" * 43))

    assert (2, False) == (refused.returncode, "A" * 10 in refused.stderr)


@pytest.mark.parametrize(
    ("wanted", "first", "second", "digits"),
    [
        ("laptop", ("1" * 64, "laptop"), ("2" * 64, "laptop"), 8),
        ("0123abcd", ("0123abcd" + "1" * 56, "a"), ("0123abcd" + "2" * 56, "b"), 64),
        ("0123abcd", ("0123abcd" + "1" * 56, "a"), ("2" * 64, "0123abcd"), 64),
    ],
    ids=["name", "id", "id of one and name of the other"],
)
def test_revokes_nothing_if_two_tokens_match_and_says_how_to_name_one(
    run: Run, wanted: str, first: tuple[str, str], second: tuple[str, str], digits: int
) -> None:
    for token_hash, name in (first, second):
        texts = {"token_hash": token_hash, "entity": ENTITY, "name": name}
        record: Any = {key: {"S": text} for key, text in texts.items()}
        boto3.client("dynamodb").put_item(TableName=os.environ["TOKENS_TABLE"], Item=record)
    listed = run("list")

    refused = run("revoke", wanted)

    headline, *identities = refused.stderr.splitlines()
    assert (1, "", listed) == (refused.returncode, refused.stdout, run("list"))
    assert f"Error: {wanted!r} is ambiguous. Give an id:" == headline
    assert {
        f"  {name!r} of '{ENTITY}' (id {token_hash[:digits]})"
        for token_hash, name in (first, second)
    } == set(identities)
    assert 0 == run("revoke", first[0][:digits]).returncode
