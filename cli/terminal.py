"""Print to a terminal: tables, progress, and what a command is doing; and ask."""

import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, track

from cli.errors import CommandError

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


def printable(text: str) -> str:
    """Return a text with control characters escaped, because they could change the terminal."""
    return text if text.isprintable() else repr(text)


def confirm(question: str, *, yes: bool, stderr: bool = False) -> None:
    """Ask, unless `yes`.

    Raises:
        CommandError: the answer is no, or there is no terminal to ask on.

    """
    # Python sets a stream to None if it is closed, as with `<&-`.
    if not yes and not (sys.stdin and sys.stdin.isatty() and sys.stdout):
        raise CommandError("Without a terminal, add --yes to confirm. Nothing was changed.")
    if not yes and not typer.confirm(question, err=stderr):
        raise CommandError("Not confirmed. Nothing was changed.")


def count_items[T](pages: Iterable[list[T]], label: str) -> Iterator[T]:
    """Yield the items of all pages. On a terminal, show the label and how many there were."""
    errors = console(stderr=True)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}: {task.completed:,}"),
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
    ) as progress:
        task = progress.add_task(label, total=None)
        for page in pages:
            yield from page
            progress.advance(task, len(page))


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
