"""Write a generated file, or check that it is up to date."""

import sys
from pathlib import Path
from typing import Annotated

import typer

Check = Annotated[
    bool, typer.Option("--check", help="Write nothing, and fail if the file is out of date.")
]


def write(path: Path, text: str, *, check: bool) -> int:
    """Write the file or, with `check`, only compare it; return the exit code."""
    if not check:
        path.write_text(text)
        return 0
    if not path.exists() or path.read_text() != text:
        print(f"Error: docs/{path.name} is out of date. Run make update.", file=sys.stderr)
        return 1
    return 0
