"""Write docs/demo.svg, the picture of what `make demo` prints, from the same text in README.md.

A test checks that the demo prints each of these lines.
"""

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from cli.runner import run
from scripts import generated

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "demo.svg"
WIDTH = 82  # columns


def main(check: generated.Check = False) -> int:
    """Write docs/demo.svg, the picture of what `make demo` prints, from the text in README.md."""
    return generated.write(PICTURE, draw(README.read_text()), check=check)


def draw(page: str) -> str:
    """Return the text block of a page as a picture of a terminal."""
    (block,) = re.findall(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    console = Console(record=True, file=io.StringIO(), width=WIDTH, force_terminal=True)
    for line in block.splitlines():
        style = "bold" if line.startswith(("$", "    --")) else "dim" if line[:1] == "#" else ""
        console.print(Text(line, style), soft_wrap=True)
    picture = console.export_svg(title="make demo", unique_id="demo")
    # Not with a font that a browser would load from elsewhere.
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)
    return picture.replace("Fira Code, monospace", "ui-monospace, monospace")


if __name__ == "__main__":
    sys.exit(run(main))
