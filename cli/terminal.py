"""Helpers for the scripts: parse options, print, show progress, and handle signals."""

import argparse
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from functools import partial
from typing import Any, TextIO

from emulators.environment import direct_connections

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

SECONDS = {"m": 60, "h": 3_600, "d": 86_400}
MAX_DURATION = 100 * 365 * SECONDS["d"]
ERASE_LINE = "\r\033[K"


class Parser(argparse.ArgumentParser):
    """Refuses an option that is given twice, where argparse would ignore the first value."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 those of argparse
        super().__init__(*arguments, **options)
        self.register("action", None, _Once)
        self.register("action", "store_true", partial(_Once, nargs=0, default=False))


class _Once(argparse.Action):
    """Stores the value of an option, or True if it takes none."""

    _given = False

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,  # noqa: ANN401 whatever the type of the option returns
        _option: str | None = None,
    ) -> None:
        if self._given:
            raise argparse.ArgumentError(self, "it is given twice")
        self._given = True
        setattr(namespace, self.dest, True if self.nargs == 0 else values)


def emphasize(text: str) -> str:
    """Return the text in bold, if standard output is a terminal that supports this.

    If NO_COLOR has a value that is not empty, return the text unchanged, as no-color.org says.
    """
    if _supports_escape_codes(sys.stdout) and not os.environ.get("NO_COLOR"):
        return f"\033[1m{text}\033[0m"
    return text


def _supports_escape_codes(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def say(text: str) -> None:
    """Print what the command is doing now."""
    print(emphasize(text), flush=True)


def parse_duration(text: str) -> int:
    """Return the seconds of a duration such as `90d`, `12h` or `30m`.

    Raises:
        ArgumentTypeError: it is not such a duration, or more than 100 years.

    """
    match = re.fullmatch(r"([1-9][0-9]{0,8})([mhd])", text, re.ASCII)
    seconds = int(match[1]) * SECONDS[match[2]] if match else 0
    if not 0 < seconds <= MAX_DURATION:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a duration such as 90d, 12h or 30m (at most 100 years)"
        )
    return seconds


def format_size(size: int) -> str:
    """Format a number of bytes for people, such as `1.5 GB`."""
    for factor, unit in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "KB")):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size} B"


def run_concurrently[T](
    work: Callable[[T], None], items: Iterable[T], *, concurrency: int, label: str
) -> None:
    """Call `work` on each item concurrently. On a terminal, show the label and the progress.

    After a failure or Ctrl-C, start no more items, and wait for those that have started.

    Raises:
        Exception: `work` raised it.

    """
    shows_progress = _supports_escape_codes(sys.stderr)
    with ThreadPoolExecutor(concurrency) as pool:
        futures = []
        try:
            futures = [pool.submit(work, item) for item in items]
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                if shows_progress:
                    progress = f"\r{label} {done / len(futures):.0%}"
                    print(progress, end="", file=sys.stderr, flush=True)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            if shows_progress and futures:
                print(ERASE_LINE, end="", file=sys.stderr, flush=True)


def run(command: Callable[[], int]) -> int:
    """Run a command and return its exit code. Print no traceback on Ctrl-C or a closed pipe.

    The command connects to this machine, such as to the emulator of `make serve`, without a proxy.
    """
    os.environ |= direct_connections(os.environ)
    try:
        code = command()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Python flushes again when it exits, which would raise the error again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code


def stop_on_signals() -> None:
    """Raise KeyboardInterrupt on Ctrl-C, SIGTERM, and SIGHUP (when the terminal is closed).

    Only the first signal counts. A terminal that is closed sends several signals, and the second
    must not interrupt the clean-up after the first.
    """
    for name in SIGNALS:
        signal.signal(name, _interrupt)


def _interrupt(*_: object) -> None:
    for name in SIGNALS:
        signal.signal(name, signal.SIG_IGN)
    with suppress(OSError):  # the terminal may be closed
        # Not with `print`: if the signal interrupted a `print`, calling it again would fail.
        os.write(sys.stderr.fileno(), b"\nStopping, which can take a moment.\n")
    raise KeyboardInterrupt
