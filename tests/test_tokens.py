"""The tokens command, with an endpoint over HTTP."""

import contextlib
import io
import os
import pty
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from checkpoints.api.auth import hash_token
from cli import tokens
from commands import Result, Run
from emulators.dynamodb import put_checkpoints, put_token
from events import ENTITY, MODEL, Call
from faulty_dynamodb import Endpoint, reject

SCRIPT = Path(__file__).parents[1] / "cli" / "tokens.py"
ISSUE = ["issue", "--entity", ENTITY, "--name", "laptop", "--scope", "checkpoints:delete"]


@pytest.fixture
def run(
    endpoint: Endpoint, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Run the command; the environment names the table."""

    def run(*arguments: str, stdin: bytes = b"", **environment: str | None) -> Result:
        capsys.readouterr()  # what others printed before
        with monkeypatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL_DYNAMODB", endpoint.url)
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            for name, value in environment.items():
                patch.delenv(name) if value is None else patch.setenv(name, value)
            try:
                code: object = tokens.main(arguments)
            except SystemExit as error:
                code = error.code
        return Result(code, *capsys.readouterr())

    return run


def revoked(token: str) -> Result:
    """Return the result of a command that revoked this token."""
    identity = f"'laptop' of '{ENTITY}' (id {hash_token(token)[:8]})"
    return Result(0, f"Revoked {identity}. It is refused from now on.\n", "")


def test_an_issued_token_is_accepted_until_it_is_revoked(run: Run, call: Call) -> None:
    put_checkpoints(MODEL, [1], entity=ENTITY)

    token = run(*ISSUE).stdout.strip()

    assert call(token=token, steps=[1]).body == {"deleted_count": 1, "not_found_steps": []}
    assert revoked(token) == run("revoke", "laptop")
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


def test_issues_a_token_and_warns_of_others_with_the_same_name(run: Run) -> None:
    put_token("x", entity="speech-team", name="laptop")
    put_token("y", entity="speech-team", name="desktop")

    issued = run(*ISSUE)

    assert (0, 1) == (issued.returncode, len(issued.stdout.splitlines()))
    assert [
        f"There is already a token named 'laptop' of 'speech-team' (id {hash_token('x')[:8]}).",
        "To revoke one of them, use its id.",
    ] == issued.stderr.splitlines()[-2:]
    assert "desktop" not in issued.stderr


def test_issues_a_token_even_if_the_others_cannot_be_read(run: Run, endpoint: Endpoint) -> None:
    endpoint.keep_failing("Scan", reject(400, "AccessDeniedException"))

    issued = run(*ISSUE)

    assert (0, 1) == (issued.returncode, len(issued.stdout.splitlines()))
    assert (
        "Could not check whether another token has this name. "
        "The AWS credentials lack a permission. on command"
    ) == issued.stderr.splitlines()[-1]


def test_all_tokens_are_different(run: Run) -> None:
    assert run(*ISSUE).stdout != run(*ISSUE).stdout


def test_lists_tokens_without_their_secrets(run: Run) -> None:
    put_token(
        "x",
        entity="speech-team",
        name="ci\x1b[2J",
        scopes=["checkpoints:read", "checkpoints:delete"],
        created_at={"N": "0"},
        expires_at={"N": str(86_400 * 365)},
    )
    put_token("y", entity="zoo", created_at={"N": "1764012345000"})  # in milliseconds
    token = run(*ISSUE).stdout.strip()

    listed = run("list")

    assert 0 == listed.returncode
    lines = [re.split(" {2,}", line) for line in listed.stdout.splitlines()]
    assert ["ENTITY", "NAME", "SCOPES", "CREATED", "EXPIRES", "ID"] == lines[0]
    assert [
        "speech-team",
        r"'ci\x1b[2J'",
        "delete,read",
        "1970-01-01T00:00Z",
        "1971-01-01T00:00Z",
        hash_token("x")[:8],
    ] == lines[1]
    assert ["never", hash_token(token)[:8]] == lines[-2][-2:]
    assert ["1764012345000", "never", hash_token("y")[:8]] == lines[-1][-3:]
    assert token not in listed.stdout


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


@pytest.mark.parametrize(
    "pasted",
    ["%s", "%s\n", "%s\r\n", "Bearer %s", "'%s'\n", '"Authorization: Bearer %s"', "bearer  %s "],
)
def test_revokes_a_token_read_from_standard_input(run: Run, call: Call, pasted: str) -> None:
    token = run(*ISSUE).stdout.strip()

    assert revoked(token) == run("revoke", "-", stdin=(pasted % token).encode())
    assert 401 == call(token=token, steps=[1]).status


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

    assert Result(1, "", f"tokens.py: {message}\n") == run("revoke", argument, stdin=stdin)
    assert hash_token("x")[:8] in run("list").stdout


@pytest.mark.parametrize("interrupted", [False, True], ids=["typed", "interrupted"])
def test_asks_on_a_terminal_for_the_token_without_echo(
    endpoint: Endpoint, interrupted: bool
) -> None:
    put_token("leaked-token", entity=ENTITY, name="laptop")
    terminal, its_end = pty.openpty()
    process = subprocess.Popen(  # noqa: S603 it is ours
        [sys.executable, SCRIPT, "revoke", "-"],
        env=os.environ | {"AWS_ENDPOINT_URL_DYNAMODB": endpoint.url},
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        start_new_session=True,  # away from the terminal of the tests
    )
    os.close(its_end)
    shown = b""
    while not shown.endswith(b"Token: "):
        shown += os.read(terminal, 1000)
    if interrupted:
        os.write(terminal, b"leaked-token")
        process.send_signal(signal.SIGINT)
    else:
        os.write(terminal, b"leaked-token\n")
    with contextlib.suppress(OSError):  # how Linux tells that the command has ended
        while more := os.read(terminal, 1000):
            shown += more
    os.close(terminal)

    assert "leaked-token" not in shown.decode()
    code, said = (130, "Stopped.") if interrupted else (0, "Revoked 'laptop'")
    assert (code, True) == (process.wait(), said in shown.decode())


@pytest.mark.parametrize(
    "arguments",
    [
        ["revoke", "TOKEN"],
        ["revoke", "--stack", "x", "TOKEN", "TOKEN"],
        ["revoke", "laptop", "TOKEN"],
        ["revoke", "--", "TOKEN"],
        ["revoke", "Bearer TOKEN"],
        ["revoke", "--token", "TOKEN"],
        ["TOKEN"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("token", ["A" * 43, "-" + "b_" * 21])
def test_refuses_a_token_on_the_command_line_and_does_not_repeat_it(
    run: Run, arguments: list[str], token: str
) -> None:
    refused = run(*(argument.replace("TOKEN", token) for argument in arguments))

    assert (2, "") == (refused.returncode, refused.stdout)
    assert token not in refused.stderr
    assert refused.stderr.endswith(
        ": error: Do not put a token on the command line, where the shell's history and the list "
        "of processes show it. Revoke it now: run `.venv/bin/python cli/tokens.py revoke "
        "--stack STACK -`, and paste the token at the prompt.\n"
    )


@pytest.mark.parametrize("argument", ["--token=TOKEN", "--expires=TOKEN", "-xTOKEN"])
def test_repeats_no_part_of_a_token_in_a_message(run: Run, argument: str) -> None:
    refused = run(*ISSUE, argument.replace("TOKEN", "A" * 43))

    assert (2, False) == (refused.returncode, "A" * 10 in refused.stderr)


def test_the_option_names_the_table_even_if_the_name_looks_like_a_token(run: Run) -> None:
    name = "checkpoints-prod-1-TokensTable-1A2B3C4D5E6F"
    assert 43 == len(name)

    failed = run("list", "--table", name)

    assert (1, True) == (failed.returncode, f"There is no table '{name}'" in failed.stderr)


def test_revokes_nothing_if_several_tokens_match(run: Run) -> None:
    put_token("x", entity=ENTITY, name="laptop")
    put_token("y", entity="speech-team", name="laptop")

    refused = run("revoke", "laptop")

    assert (1, "") == (refused.returncode, refused.stdout)
    assert "'laptop' is ambiguous" in refused.stderr
    for token in ("x", "y"):
        assert hash_token(token)[:8] in refused.stderr
        assert hash_token(token)[:8] in run("list").stdout


def test_two_tokens_with_the_same_id_are_told_apart_by_their_hashes(run: Run) -> None:
    hashes = ["0123abcd" + "1" * 56, "0123abcd" + "2" * 56]
    for token_hash in hashes:
        record: Any = {"token_hash": {"S": token_hash}, "entity": {"S": ENTITY}}
        boto3.client("dynamodb").put_item(TableName=os.environ["TOKENS_TABLE"], Item=record)

    refused = run("revoke", "0123abcd")

    assert all(f"(id {token_hash})" in refused.stderr for token_hash in hashes)
    assert 0 == run("revoke", hashes[1][:9]).returncode


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["issue"],
        ["revoke"],
        ["destroy"],
        [*ISSUE, "--scope", "checkpoints:destroy"],
        *([*ISSUE[:3], *ISSUE[5:], "--name", name] for name in [" ", "a\nb", "a" * 201]),
        ["issue", *ISSUE[3:], "--entity", ""],
        [*ISSUE, "--table", "a", "--stack", "b"],
        *([*ISSUE, "--expires", text] for text in ["", "90", "d", "0d", "-1d", "1.5d", "9y"]),
        [*ISSUE, "--expires", "999999999d"],
    ],
    ids=" ".join,
)
def test_refuses_invalid_arguments(run: Run, arguments: list[str]) -> None:
    refused = run(*arguments)

    assert (2, "") == (refused.returncode, refused.stdout)
    assert "usage:" in refused.stderr


@pytest.mark.parametrize("command", [[], ["issue"], ["list"], ["revoke"]], ids=" ".join)
def test_explains_itself(run: Run, command: list[str]) -> None:
    assert 0 == run(*command, "--help").returncode


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("TOKENS_TABLE", "", "Name the table, for example with --stack checkpoints."),
        (
            "TOKENS_TABLE",
            "absent",
            (
                "There is no table 'absent' in the region us-east-1. Name another with --table, "
                "--stack or TOKENS_TABLE, or set AWS_DEFAULT_REGION or AWS_PROFILE."
            ),
        ),
        (
            "AWS_ENDPOINT_URL_DYNAMODB",
            "http://127.0.0.1:1",
            (
                'Could not connect to the endpoint URL: "http://127.0.0.1:1/". Check the network, '
                "AWS_DEFAULT_REGION, and AWS_ENDPOINT_URL if set."
            ),
        ),
        (
            "AWS_ENDPOINT_URL_DYNAMODB",
            "nonsense",
            (
                "An AWS setting is not valid: Invalid endpoint: nonsense. "
                "Check AWS_ENDPOINT_URL_DYNAMODB."
            ),
        ),
        (
            "AWS_DEFAULT_REGION",
            None,
            "No AWS region is set. Set AWS_DEFAULT_REGION, or AWS_PROFILE.",
        ),
    ],
    ids=["no table", "an absent table", "no endpoint", "no URL", "no region"],
)
def test_prints_errors_as_one_line(
    run: Run, variable: str, value: str | None, message: str
) -> None:
    assert Result(1, "", f"tokens.py: {message}\n") == run("list", **{variable: value})


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("AccessDeniedException", "The AWS credentials lack a permission. on command"),
        (
            "ExpiredTokenException",
            "The AWS credentials have expired. Log in again, or set AWS_PROFILE.",
        ),
        (
            "UnrecognizedClientException",
            "AWS does not accept the credentials. Log in again, or set AWS_PROFILE.",
        ),
    ],
)
def test_says_what_is_wrong_with_the_credentials(
    run: Run, endpoint: Endpoint, code: str, message: str
) -> None:
    endpoint.keep_failing("Scan", reject(400, code))

    assert Result(1, "", f"tokens.py: {message}\n") == run("list")


@pytest.mark.parametrize(
    ("command", "message"),
    [(["list"], ""), (ISSUE, "The token could not be written. Revoke it by its id.\n")],
    ids=["list", "issue"],
)
def test_ends_without_a_traceback_if_nobody_reads_the_output(
    endpoint: Endpoint, command: list[str], message: str
) -> None:
    environment = os.environ | {"AWS_ENDPOINT_URL_DYNAMODB": endpoint.url, "PYTHONUNBUFFERED": ""}
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        process = subprocess.run(  # noqa: S603 it is ours
            [sys.executable, SCRIPT, *command],
            env=environment,
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )

    assert (141, True) == (process.returncode, process.stderr.endswith(message))
    assert "Traceback" not in process.stderr
    assert "Exception" not in process.stderr


def test_prints_no_token_that_was_not_kept(run: Run, endpoint: Endpoint) -> None:
    endpoint.keep_failing("PutItem", reject(400, "AccessDeniedException"))

    assert (1, "") == (run(*ISSUE).returncode, run(*ISSUE).stdout)


def test_finds_the_table_among_the_outputs_of_a_stack(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloudformation = boto3.client("cloudformation")
    output = {"OutputKey": "TokensTableName", "OutputValue": os.environ["TOKENS_TABLE"]}
    status = {"CreationTime": datetime.now(UTC), "StackStatus": "CREATE_COMPLETE"}
    stack = status | {"StackName": "deployed", "Outputs": [output]}
    clients = {"cloudformation": cloudformation, "dynamodb": boto3.client("dynamodb")}
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
