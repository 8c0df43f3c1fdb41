"""What all commands have in common: help, wrong usage, signals, closed pipes, prompts."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from cli.main import app
from cli.runner import COULD_BE_A_TOKEN
from commands import COMMANDS, run_command
from emulators.dynamodb import put_token
from events import ENTITY
from faulty_dynamodb import Endpoint
from scripts import demo, local, openapi, serve

SCRIPTS = [demo.main, local.main, openapi.main, serve.main]
ISSUE = "tokens issue --stack s --entity a --name b --scope checkpoints:read"
RESTORE = "restore --stack s --from t"
MODEL = f"{RESTORE} --model m"
STEPS = f"{MODEL} --steps 1"
REQUEST = f"{RESTORE} --request {uuid.UUID(int=1)}"

# As `checkpoints`, but it finds the tables without a stack.
PROGRAM = """
import os, sys
from cli import main, stacks
stacks.read_outputs = lambda _: {"TokensTableName": os.environ["TOKENS_TABLE"]}
sys.exit(main.main())
"""


def commands() -> list[Any]:
    """Return each command with what to type for it."""
    return [(app, path) for path in ["", *COMMANDS]] + [(script, "") for script in SCRIPTS]


@pytest.mark.parametrize(("command", "path"), commands())
def test_explains_itself(command: Any, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    explained = run_command(command, *path.split(), "--help", capsys=capsys)

    assert (0, "") == (explained.returncode, explained.stderr)
    assert "Usage: " in explained.stdout


def test_help_does_not_import_boto3() -> None:
    """Its import takes longer than everything else."""
    program = "import sys; from cli import main; main.main(); sys.exit('boto3' in sys.modules)"

    done = subprocess.run(  # noqa: S603 it is ours
        [sys.executable, "-c", program, "--help"], capture_output=True, check=False
    )

    assert (0, b"") == (done.returncode, done.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "Missing command."),
        ("destroy", "No such command 'destroy'."),
        ("tokens lst", "No such command 'lst'. Did you mean 'list'?"),
        ("tokens list", "Missing option '--stack' (env var: 'CHECKPOINTS_STACK')."),
        ("tokens issue --stack s --name a --scope checkpoints:read", "Missing option '--entity'."),
        ("tokens revoke --stack s", "Missing argument 'NAME|ID|-'."),
        ("tokens revoke --stack s a b", "Got unexpected extra argument(s) (b)"),
        (f"{ISSUE} --scope x", "Value error, 'x' is not one of "),
        *(
            (f"{ISSUE} --expires={text}", f"'{text}' is not a duration such as 90d, 12h or 30m")
            for text in ("", "90", "d", "0d", "-1d", "1.5d", "9y", "999999999d")
        ),
        (RESTORE, "Use either --request, or --model and --steps."),
        (MODEL, "Use either --request, or --model and --steps."),
        (f"{RESTORE} --steps 1", "Use either --request, or --model and --steps."),
        (f"{REQUEST} --steps 1", "Use either --request, or --model and --steps."),
        (f"{REQUEST} --model m", "Use either --request, or --model and --steps."),
        *(
            (f"{RESTORE} --request={text}", "Input should be a valid UUID")
            for text in ("", "x", '"||"', "{$.a=1}", "1" * 31)
        ),
        *(
            (f"{MODEL} --steps={text}", f"'{text[:40]}' is not a step or a range like 200-203.")
            for text in (
                *("", "a", "1-", "-", "1.5", "1e3", "٣", "200-100", "1--2-3", "0x10", "[x]"),
                *(f"1{'0' * 126}", f"1{'0' * 37}11"),
            )
        ),
        (f"{MODEL} --steps=0-1000000", "There are more than 1,000,000 steps."),
        (f"{MODEL} --steps={'9' * 5_000}", "is not a step or a range like 200-203."),
        (f"{RESTORE} --steps 1 --model=", "A model id has 1 to 2,048 bytes."),
        (f"{RESTORE} --steps 1 --model {'é' * 1_025}", "A model id has 1 to 2,048 bytes."),
        *(
            (f"smoke --stack s --url={url}", "A URL must begin with http:// or https://.")
            for url in ("no-scheme", "ftp://127.0.0.1", "")
        ),
        *(
            (f"{others} {option} {option}", "The option is given twice.")
            for others, option in (
                (ISSUE, "--entity a"),
                (ISSUE, "--expires 1d"),
                ("tokens list", "--stack s"),
                (RESTORE, "--model m"),
                (STEPS, "--from t"),
                (STEPS, "--steps 1"),
                (STEPS, "--dry-run"),
                ("smoke --stack s", "--url http://a"),
            )
        ),
    ],
)
def test_refuses_wrong_usage(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = run_command(app, *arguments.split(), capsys=capsys)

    usage, hint, blank, error = refused.stderr.splitlines()
    assert (2, "", "") == (refused.returncode, refused.stdout, blank)
    assert usage.startswith("Usage: checkpoints ")
    assert hint.startswith("Try 'checkpoints ")
    assert error.startswith("Error: ")
    assert COULD_BE_A_TOKEN.sub("…", message) in error
    assert len(refused.stderr) < 1_000


@pytest.mark.parametrize("name", [" ", "a\nb", "a\x1b[2Jb", "a" * 201])
@pytest.mark.parametrize("option", ["--entity", "--name"])
def test_refuses_a_label_that_would_spoil_the_log(
    option: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    others = {"--entity": "a", "--name": "b", "--scope": "checkpoints:read", "--stack": "s"}
    arguments = [text for pair in (others | {option: name}).items() for text in pair]

    refused = run_command(app, "tokens", "issue", *arguments, capsys=capsys)

    assert (2, "") == (refused.returncode, refused.stdout)
    assert refused.stderr.endswith(
        f"Error: Invalid value for '{option}': It must be printable, not blank, and have at most "
        "200 characters.\n"
    )


@pytest.mark.parametrize(
    ("script", "option"),
    [
        (local.main, "--port 8000"),
        (serve.main, "--port 0"),
        (serve.main, "--verbose"),
        (openapi.main, "--check"),
    ],
)
def test_scripts_refuse_an_option_that_is_given_twice(
    script: Callable[..., int | None], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = run_command(script, *option.split() * 2, capsys=capsys)

    assert (2, "") == (refused.returncode, refused.stdout)
    assert refused.stderr.endswith(": The option is given twice.\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("tokens revoke laptop", ""),
        (
            "tokens issue --entity a --name b --scope checkpoints:read",
            "The token could not be written. Revoke it by its id.\n",
        ),
    ],
    ids=["revoke", "issue"],
)
def test_ends_without_a_traceback_if_nobody_reads_the_output(
    endpoint: Endpoint, arguments: str, message: str
) -> None:
    put_token("x", entity=ENTITY, name="laptop")
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        process = subprocess.run(  # noqa: S603 it is ours
            [sys.executable, "-c", PROGRAM, *arguments.split(), "--stack", "s"],
            env=os.environ | {"AWS_ENDPOINT_URL_DYNAMODB": endpoint.url, "PYTHONUNBUFFERED": ""},
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )

    assert (1, True) == (process.returncode, process.stderr.endswith(message))
    assert "Traceback" not in process.stderr
    assert "Exception" not in process.stderr


@pytest.mark.parametrize("interrupted", [False, True], ids=["typed", "interrupted"])
def test_asks_on_a_terminal_for_a_token_without_echo(endpoint: Endpoint, interrupted: bool) -> None:
    put_token("leaked-token", entity=ENTITY, name="laptop")
    terminal, its_end = pty.openpty()
    process = subprocess.Popen(  # noqa: S603 it is ours
        [sys.executable, "-c", PROGRAM, "tokens", "revoke", "-", "--stack", "s"],
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
    os.write(terminal, b"leaked-token" if interrupted else b"leaked-token\n")
    if interrupted:
        process.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # how Linux tells that the command has ended
        while more := os.read(terminal, 1000):
            shown += more
    os.close(terminal)

    assert "leaked-token" not in shown.decode()
    code, told = (130, "Stopped.") if interrupted else (0, "Revoked 'laptop'")
    assert (code, True) == (process.wait(), told in shown.decode())
