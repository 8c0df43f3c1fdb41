"""The administration of tokens, against an endpoint over HTTP."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import boto3
import pytest
from botocore.stub import Stubber

from checkpoints.auth import hash_token
from emulators.dynamodb import put_checkpoints, put_token
from events import ENTITY, MODEL, Call
from faulty_dynamodb import Endpoint, reject
from scripts import tokens

SCRIPT = Path(__file__).parents[1] / "scripts" / "tokens.py"
ISSUE = ["issue", "--entity", ENTITY, "--name", "laptop", "--scope", "checkpoints:delete"]


class Result(NamedTuple):
    """What a person sees of a command."""

    returncode: object
    stdout: str
    stderr: str


type Run = Callable[..., Result]


@pytest.fixture
def run(
    endpoint: Endpoint, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Run the command; the environment names the table."""

    def run(*arguments: str, **environment: str) -> Result:
        capsys.readouterr()  # what others printed before
        with monkeypatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL_DYNAMODB", endpoint.url)
            for name, value in environment.items():
                patch.setenv(name, value)
            try:
                code: object = tokens.main(arguments)
            except SystemExit as error:
                code = error.code
        return Result(code, *capsys.readouterr())

    return run


def test_is_run_as_a_script(endpoint: Endpoint) -> None:
    process = subprocess.run(  # noqa: S603 it is ours
        [sys.executable, "-W", "error", SCRIPT, "revoke", "absent"],
        env=os.environ | {"AWS_ENDPOINT_URL_DYNAMODB": endpoint.url},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (1, "") == (process.returncode, process.stdout)
    assert process.stderr == "tokens.py: no token has the name or the hash prefix 'absent'\n"


def test_an_issued_token_is_accepted_until_it_is_revoked(run: Run, call: Call) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)

    issued = run(*ISSUE)

    assert (0, 1) == (issued.returncode, len(issued.stdout.splitlines()))
    token = issued.stdout.strip()
    assert call(token=token, steps=[1]).body == {"deleted_count": 1, "not_found_steps": []}

    revoked = run("revoke", "laptop")

    assert (0, f"Revoked 'laptop' of '{ENTITY}'.\n") == (revoked.returncode, revoked.stdout)
    assert 401 == call(token=token, steps=[1]).status


def test_keeps_the_hash_and_never_the_token(run: Run) -> None:
    token = run(*ISSUE, "--expires", "90d").stdout.strip()

    assert len(token) >= 43  # 256 bits in base64
    records = boto3.client("dynamodb").scan(TableName=os.environ["TOKENS_TABLE"])["Items"]
    (record,) = [record for record in records if record["name"]["S"] == "laptop"]
    created_at = int(record["created_at"]["N"])
    assert {
        "token_hash": {"S": hash_token(token)},
        "entity": {"S": ENTITY},
        "name": {"S": "laptop"},
        "scopes": {"SS": ["checkpoints:delete"]},
        "created_at": {"N": str(created_at)},
        "expires_at": {"N": str(created_at + 90 * 24 * 60 * 60)},
    } == record


def test_no_two_tokens_are_alike(run: Run) -> None:
    assert run(*ISSUE).stdout != run(*ISSUE).stdout


def test_lists_all_about_a_token_but_the_token(run: Run) -> None:
    put_token(
        "x",
        entity="speech-team",
        name="ci\x1b[2J",
        scopes=["checkpoints:read", "checkpoints:delete"],
        created_at={"N": "0"},
        expires_at={"N": str(86_400 * 365)},
    )
    token = run(*ISSUE).stdout.strip()

    listed = run("list")

    assert 0 == listed.returncode
    lines = [re.split(" {2,}", line) for line in listed.stdout.splitlines()]
    assert ["ENTITY", "NAME", "SCOPES", "CREATED", "EXPIRES", "HASH"] == lines[0]
    assert [
        "speech-team",
        r"'ci\x1b[2J'",
        "checkpoints:delete,checkpoints:read",
        "1970-01-01 00:00",
        "1971-01-01 00:00",
        hash_token("x")[:12],
    ] == lines[1]
    assert ["never", hash_token(token)[:12]] == lines[-1][-2:]
    assert token not in listed.stdout


def test_revokes_by_the_prefix_of_a_hash(run: Run) -> None:
    put_token("x", entity=ENTITY)

    assert 0 == run("revoke", hash_token("x")[:8]).returncode
    assert hash_token("x")[:12] not in run("list").stdout


@pytest.mark.parametrize("prefix", ["desktop", "", hash_token("x")[:7], hash_token("x")[1:]])
def test_revokes_nothing_when_none_is_meant(run: Run, prefix: str) -> None:
    put_token("x", entity=ENTITY)

    revoked = run("revoke", prefix)

    assert (1, "") == (revoked.returncode, revoked.stdout)
    message = f"tokens.py: no token has the name or the hash prefix {prefix!r}\n"
    assert message == revoked.stderr
    assert hash_token("x")[:12] in run("list").stdout


def test_revokes_nothing_when_several_could_be_meant(run: Run) -> None:
    put_token("x", entity=ENTITY, name="laptop")
    put_token("y", entity="speech-team", name="laptop")

    revoked = run("revoke", "laptop")

    assert (1, "") == (revoked.returncode, revoked.stdout)
    assert "'laptop' is ambiguous" in revoked.stderr
    for token in ("x", "y"):
        assert hash_token(token)[:12] in revoked.stderr
        assert hash_token(token)[:12] in run("list").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["issue"],
        ["revoke"],
        ["destroy"],
        [*ISSUE, "--scope", "checkpoints:destroy"],
        [*ISSUE, "--name", " "],
        [*ISSUE, "--entity", ""],
        [*ISSUE, "--name", "a\nb"],
        [*ISSUE, "--name", "a" * 201],
        [*ISSUE, "--table", "a", "--stack", "b"],
        *([*ISSUE, "--expires", text] for text in ["", "90", "d", "0d", "-1d", "1.5d", "9y"]),
        [*ISSUE, "--expires", "999999999d"],
    ],
    ids=" ".join,
)
def test_refuses_what_it_does_not_understand(run: Run, arguments: list[str]) -> None:
    refused = run(*arguments)

    assert (2, "") == (refused.returncode, refused.stdout)
    assert "usage:" in refused.stderr


@pytest.mark.parametrize("command", [[], ["issue"], ["list"], ["revoke"]], ids=" ".join)
def test_explains_itself(run: Run, command: list[str]) -> None:
    explained = run(*command, "--help")

    assert 0 == explained.returncode
    assert "usage:" in explained.stdout


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"TOKENS_TABLE": ""}, "name the table with --table, --stack or TOKENS_TABLE"),
        ({"TOKENS_TABLE": "absent"}, "ResourceNotFoundException"),
        ({"AWS_ENDPOINT_URL_DYNAMODB": "http://127.0.0.1:1"}, "Could not connect"),
    ],
    ids=["no table", "an absent table", "no endpoint"],
)
def test_says_in_a_line_what_went_wrong(
    run: Run, environment: dict[str, str], message: str
) -> None:
    failed = run("list", **environment)

    assert (1, "", 1) == (failed.returncode, failed.stdout, len(failed.stderr.splitlines()))
    assert message in failed.stderr


def test_prints_no_token_that_was_not_kept(run: Run, endpoint: Endpoint) -> None:
    endpoint.keep_failing("PutItem", reject(400, "AccessDeniedException"))

    assert (1, "") == (run(*ISSUE).returncode, run(*ISSUE).stdout)


def test_takes_the_table_from_the_option_before_the_environment(run: Run) -> None:
    table = os.environ["TOKENS_TABLE"]

    assert 0 == run("list", "--table", table, TOKENS_TABLE="absent").returncode


def test_finds_the_table_among_the_outputs_of_a_stack(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloudformation = boto3.client("cloudformation")
    stack = {
        "StackName": "deployed",
        "CreationTime": datetime.now(UTC),
        "StackStatus": "CREATE_COMPLETE",
        "Outputs": [
            {"OutputKey": "TokensTableName", "OutputValue": os.environ["TOKENS_TABLE"]},
        ],
    }
    dynamodb = boto3.client("dynamodb")
    clients = {"cloudformation": cloudformation, "dynamodb": dynamodb}
    monkeypatch.setattr(boto3, "client", clients.get)
    with Stubber(cloudformation) as stubber:
        stubber.add_response("describe_stacks", {"Stacks": [stack]}, {"StackName": "deployed"})
        listed = run("list", "--stack", "deployed", TOKENS_TABLE="")
        stubber.add_client_error(
            "describe_stacks", "ValidationError", "Stack with id absent does not exist"
        )
        failed = run("list", "--stack", "absent", TOKENS_TABLE="")

    assert (0, True) == (listed.returncode, "ENTITY" in listed.stdout)
    assert (1, True) == (failed.returncode, "no stack 'absent'" in failed.stderr)
