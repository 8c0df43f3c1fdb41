"""Run a command: read its options, handle signals, and turn errors into messages and exit codes."""

import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import Any

import typer
from typer.core import TyperCommand
from typer.main import get_command

from cli.errors import explain
from cli.proxies import direct_connections

FAILED = 1
INTERRUPTED = 128 + signal.SIGINT
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
COULD_BE_A_TOKEN = re.compile(r"[A-Za-z0-9_-]{40,}")


class Command(TyperCommand):
    """Refuses an option that is given twice, where Typer would ignore the first value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 Typer's is private
        """Read the arguments."""
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for option, count in Counter[Any](given).items():
            if count > 1 and not option.multiple:
                raise typer.BadParameter("The option is given twice.", ctx=ctx, param=option)
        return super().parse_args(ctx, args)


def run(
    command: typer.Typer | Callable[..., int | None], arguments: Sequence[str] | None = None
) -> int:
    """Run a command with the arguments, or those of the command line; return its exit code.

    A function is a command that has its parameters as options. The exit code is 0 if everything is
    done, 1 if not, 2 for wrong usage, and 130 if the command was interrupted.
    """
    if not isinstance(command, typer.Typer):
        function, command = command, typer.Typer(add_completion=False, rich_markup_mode=None)
        command.command(cls=Command)(function)
    arguments = sys.argv[1:] if arguments is None else arguments
    name = command.info.name if isinstance(command.info.name, str) else None
    main = get_command(command).main
    return report(lambda: main(arguments, prog_name=name, standalone_mode=False))


def report(work: Callable[[], int | None]) -> int:
    """Do the work of a command, and return its exit code.

    If it fails because of a wrong use, a wrong setting or an error of AWS, print why. Print no
    traceback then, nor on Ctrl-C or if nobody reads the output any more.
    """
    _prepare()
    try:
        code = work() or 0
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        # Python flushes again when it exits, which would raise the error again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    except typer.TyperException as error:
        code = _refuse(error)
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        print(f"Error: {message}", file=sys.stderr)
        code = FAILED
    if code == INTERRUPTED:
        print("\nStopped.", file=sys.stderr)
    return code


def _prepare() -> None:
    """Set what all commands need: connections, signals, and the output's encoding."""
    os.environ |= direct_connections(os.environ)
    for variable in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        if not os.environ.get(variable, "").strip():  # boto3 would take it for a region
            os.environ.pop(variable, None)
    if isinstance(sys.stdout, TextIOWrapper):  # it is None if it is closed
        sys.stdout.reconfigure(errors="backslashreplace")  # for what the encoding lacks
    for name in SIGNALS:
        signal.signal(name, _interrupt)


def _refuse(error: typer.TyperException) -> int:
    """Print what is wrong with the arguments, without what could be a token or a part of one."""
    message = error.format_message()
    context = getattr(error, "ctx", None)
    if context:
        help_hint = f"Try '{context.command_path} --help' for help."
        message = f"{context.get_usage()}\n{help_hint}\n\nError: {message}"
    print(COULD_BE_A_TOKEN.sub("…", message), file=sys.stderr)
    return error.exit_code


def _interrupt(*_: object) -> None:
    """Raise KeyboardInterrupt on Ctrl-C, SIGTERM, and SIGHUP (when the terminal is closed).

    Only the first signal counts. A terminal that is closed sends several signals, and the second
    must not interrupt the clean-up after the first.
    """
    for name in SIGNALS:
        signal.signal(name, signal.SIG_IGN)
    with suppress(OSError):  # the terminal may be closed
        # Not with `print`: if the signal interrupted a `print`, calling it again would fail.
        os.write(sys.stderr.fileno(), b"\nStopping, which can take a moment.\n")
    raise KeyboardInterrupt
