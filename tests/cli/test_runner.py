"""What all commands have in common: help, wrong usage, signals, closed pipes, prompts."""

import contextlib
import os
import pty
import shlex
import signal
import subprocess
import sys
import uuid
from typing import Any

import pytest
from typer.main import get_command

from cli.main import app
from cli.runner import COULD_BE_A_TOKEN, Command
from commands import run_command
from emulators.dynamodb import put_token
from events import ENTITY
from faulty_dynamodb import Endpoint
from scripts import demo, local, openapi, serve

SCRIPTS = [demo.main, local.main, openapi.main, serve.main]
ISSUE = "tokens issue --stack s --entity a --name b --scope checkpoints:read"
RESTORE = "restore --stack s --from t"
MODEL = f"{RESTORE} --model m"
ID = f"--request {uuid.UUID(int=1)}"
UNUSABLE_LABEL = "It must be printable, not blank, and have at most 200 characters."

# As `checkpoints`, but it finds the tables without a stack.
PROGRAM = """
import os, sys
from cli import main, stacks
stacks.read_outputs = lambda _: {"TokensTableName": os.environ["TOKENS_TABLE"]}
sys.exit(main.main())
"""


def subcommands(group: Any, path: str = "") -> list[str]:
    """Return what to type for a group and for each command below it, such as "tokens list"."""
    found = [path]
    for name, command in getattr(group, "commands", {}).items():
        found += subcommands(command, f"{path} {name}")
    return found


@pytest.mark.parametrize(
    ("command", "path"),
    [(app, path) for path in subcommands(get_command(app))] + [(script, "") for script in SCRIPTS],
)
def test_explains_itself(command: Any, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    explained = run_command(command, *path.split(), "--help", capsys=capsys)

    assert (0, "") == (explained.returncode, explained.stderr)
    assert "Usage: " in explained.stdout


def test_each_command_refuses_an_option_that_is_given_twice() -> None:
    """But for prune, which is one file: its rules can be repeated."""

    def leaves(group: Any) -> list[Any]:
        commands = getattr(group, "commands", {}).values()
        return [leaf for command in commands for leaf in leaves(command)] or [group]

    others = [leaf for leaf in leaves(get_command(app)) if not isinstance(leaf, Command)]

    assert ["prune"] == [leaf.name for leaf in others]


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
        ("tokens lst", "No such command 'lst'. Did you mean 'list'?"),
        ("tokens list", "Missing option '--stack' (env var: 'CHECKPOINTS_STACK')."),
        (f"{ISSUE} --scope x", "Value error, 'x' is not one of "),
        *(
            (f"{ISSUE} --expires={text}", f"'{text}' is not a duration such as 90d, 12h or 30m")
            for text in ("", "90", "0d", "-1d", "1.5d", "9y", "999999999d")
        ),
        *(
            (f"tokens issue --stack s --scope checkpoints:read {labels}", UNUSABLE_LABEL)
            for labels in (
                *("--name b --entity ' '", "--entity a --name 'a\nb'"),
                *("--name b --entity 'a\x1b[2Jb'", f"--entity a --name {'a' * 201}"),
            )
        ),
        *(
            (f"{RESTORE} {others}", "Use either --request, or --model and --steps.")
            for others in ("", "--model m", "--steps 1", f"{ID} --steps 1", f"{ID} --model m")
        ),
        (f"{RESTORE} --request='{{$.a=1}}'", "'{$.a=1}' is not a UUID"),
        *(
            (f"{MODEL} --steps='{text}'", f"'{text[:40]}' is not a step or a range like 200-203.")
            for text in (
                *("", "a", "1-", "1.5", "٣", "200-100", "1--2-3", "9" * 5_000),
                *(f"1{'0' * 126}", f"1{'0' * 37}11"),
            )
        ),
        (f"{MODEL} --steps=0-1000000", "There are more than 1,000,000 steps."),
        (f"{RESTORE} --steps 1 --model=", "A model id has 1 to 2,048 bytes."),
        (f"{RESTORE} --steps 1 --model {'é' * 1_025}", "A model id has 1 to 2,048 bytes."),
        *(
            (f"smoke --stack s --url={url}", "A URL must begin with http:// or https://.")
            for url in ("ftp://127.0.0.1", "")
        ),
        *(
            (twice, "The option is given twice.")
            for twice in (
                *(f"{ISSUE} --entity a", "tokens list --stack s --stack s"),
                *("tokens revoke a --stack s --stack s", f"{MODEL} --steps 1 --steps 1"),
                *(f"{RESTORE} --dry-run --dry-run", "smoke --stack s --stack s"),
            )
        ),
    ],
)
def test_refuses_wrong_usage(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = run_command(app, *shlex.split(arguments), capsys=capsys)

    usage, hint, blank, error = refused.stderr.splitlines()
    assert (2, "", "") == (refused.returncode, refused.stdout, blank)
    assert usage.startswith("Usage: checkpoints ")
    assert hint.startswith("Try 'checkpoints ")
    assert error.startswith("Error: ")
    assert COULD_BE_A_TOKEN.sub("…", message) in error
    assert len(refused.stderr) < 1_000


def test_scripts_refuse_an_option_that_is_given_twice(capsys: pytest.CaptureFixture[str]) -> None:
    refused = run_command(openapi.main, "--check", "--check", capsys=capsys)

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


def test_escapes_what_the_encoding_of_the_output_lacks(endpoint: Endpoint) -> None:
    put_token("x", entity="été", name="laptop")

    done = subprocess.run(  # noqa: S603 it is ours
        [sys.executable, "-c", PROGRAM, "tokens", "list", "--stack", "s"],
        env=os.environ | {"AWS_ENDPOINT_URL_DYNAMODB": endpoint.url, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )

    assert (0, b"") == (done.returncode, done.stderr)
    assert rb"\xe9t\xe9" in done.stdout


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
    code, told = (130, ["Stopping, which can ", "Stopped."]) if interrupted else (0, ["Revoked"])
    assert code == process.wait()
    assert all(text in shown.decode() for text in told), shown
