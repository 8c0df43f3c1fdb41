"""What the commands that people run share: emphasis on a terminal, and how they are stopped."""

import os
import signal
import sys
from collections.abc import Callable

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def emphasize(text: str) -> str:
    """Return the text in bold, if standard output is a terminal and NO_COLOR is not set.

    The rule is that of no-color.org: any value but an empty one switches it off.
    """
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        return f"\033[1m{text}\033[0m"
    return text


def say(text: str) -> None:
    """Print a line that tells what the command does now."""
    print(emphasize(text), flush=True)


def run(command: Callable[[], int]) -> int:
    """Run a command and return its exit code. Print no traceback on Ctrl-C or a closed pipe."""
    try:
        code = command()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Python flushes once more when it exits, and would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code


def stop_on_signals() -> None:
    """Raise KeyboardInterrupt on Ctrl-C, SIGTERM, and the SIGHUP of a terminal that is closed.

    Only once: a terminal that is closed sends more than one signal, and the second must not break
    off what the first made the command clean up.
    """
    for name in SIGNALS:
        signal.signal(name, _interrupt)


def _interrupt(*_: object) -> None:
    for name in SIGNALS:
        signal.signal(name, signal.SIG_IGN)
    raise KeyboardInterrupt
