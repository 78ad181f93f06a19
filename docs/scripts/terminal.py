"""The terminal on the start page: what its first example prints, as a picture.

    python docs/scripts/terminal.py

Needs the extra "train", for rich. The picture fetches no font.
"""

import argparse
import re
from pathlib import Path

import torch
from rich.console import Console

DOCS = Path(__file__).parents[1]
WIDTH = 92


def first_example(page: str) -> str:
    """The first block of Python of a page in Markdown."""
    found = re.search(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    if found is None:
        raise ValueError("the page has no block of Python")
    return found.group(1)


def picture(code: str) -> str:
    """An SVG of a terminal in which the code was run; what it prints is printed by rich."""
    console = Console(record=True, width=WIDTH, force_terminal=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    console.print("[bold green]$[/bold green] python example.py", highlight=False)
    torch.manual_seed(0)
    exec(code, {"print": lambda *values: console.print(*values, highlight=False)})
    svg = console.export_svg(title="fluctua.initialize", unique_id="fluctua")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # those would be fetched


def main() -> None:
    """Run the example of the start page and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DOCS / "img" / "terminal.svg")
    path = parser.parse_args().out
    path.write_text(picture(first_example((DOCS / "index.md").read_text())))
    print(path)


if __name__ == "__main__":
    main()
