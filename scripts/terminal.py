"""What the commands that people run share: emphasis on a terminal, and how they are stopped."""

import os
import signal
import sys


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


def stop_on_signals() -> None:
    """Raise KeyboardInterrupt on Ctrl-C, SIGTERM, and the SIGHUP of a terminal that is closed."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, _interrupt)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
