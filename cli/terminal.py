"""Print to a terminal: tables, progress, and what a command is doing."""

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed

from rich.console import Console
from rich.progress import track

MAX_WIDTH = 100_000


def console(*, stderr: bool = False) -> Console:
    """Return a console that prints text as it is.

    If it is not a terminal, a line can have any length, so that another program can read each row
    of a table from one line.
    """
    found = Console(
        stderr=stderr,
        highlight=False,
        markup=False,
        emoji=False,
    )
    if not found.is_terminal:
        found.width = MAX_WIDTH
    return found


def say(text: str) -> None:
    """Print what the command is doing now."""
    console().print(text, style="bold", soft_wrap=True)
    sys.stdout.flush()


def run_concurrently[T](
    work: Callable[[T], None], items: Iterable[T], *, concurrency: int, label: str
) -> None:
    """Call `work` on each item concurrently. On a terminal, show the label and the progress.

    After a failure or Ctrl-C, start no more items, and wait for those that have started.

    Raises:
        Exception: `work` raised it.

    """
    errors = console(stderr=True)
    with ThreadPoolExecutor(concurrency) as pool:
        try:
            futures = [pool.submit(work, item) for item in items]
            for future in track(
                as_completed(futures),
                description=label,
                total=len(futures),
                console=errors,
                transient=True,
                disable=not errors.is_terminal,
            ):
                future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
