"""Bring measurements into docs/performance.md: its tables, and the figures beside it.

    python benchmarks/publish.py            # what `make bench` left in runs/bench

A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; the text around is written by hand.
"""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from figures import comparison_figure, growth_figure
from goals import THREADS, goals, goals_table
from growth import exponents
from results import Results, skipped, workload_table
from workloads import WORKLOADS

from fluctua.lab.results.figures import save

DOCS = Path(__file__).parents[1] / "docs"


def blocks_of(results: Results) -> dict[str, str]:
    """Text of each block that the main benchmark fills."""
    tables = [
        f"**{name}**, {WORKLOADS[name].title}\n\n{workload_table(results, name)}"
        for name in WORKLOADS
        if name in dict(results.groups)
    ]
    absent = skipped(results)
    if absent:
        tables.append("Not measured: " + "; ".join(absent) + ".")
    return {
        "goals": goals_table(goals(results)),
        "machine": described(results.machine, results.rounds),
        "workloads": "\n\n".join(tables),
    }


def described(machine: Mapping[str, Any], rounds: int) -> str:
    """The machine in a sentence."""
    software = ", ".join(f"{name} {machine[name]}" for name in ("python", "torch", "numba", "numpy") if name in machine)
    return (
        f"Measured on {machine['processor']}, {machine['cores']} cores, load {machine['load']} before the run; "
        f"{software}; commit {machine['commit']}; {rounds} rounds."
    )


def filled(page: str, blocks: Mapping[str, str]) -> str:
    """The page with these blocks in place of what stood there.

    Raises:
        ValueError: the page has no place for a block.
    """
    for name, text in blocks.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if len(pattern.findall(page)) != 1:
            raise ValueError(f"the page needs {begin} and {end} once, to put its table between")
        page = pattern.sub(lambda _, new=f"{begin}\n{text}\n{end}": new, page)  # type: ignore[misc]
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/bench"))
    parser.add_argument("--docs", type=Path, default=DOCS)
    options = parser.parse_args(arguments)

    blocks: dict[str, str] = {}
    if (path := options.folder / "bench.json").exists():
        results = Results.load(path)
        blocks |= blocks_of(results)
        save(comparison_figure(results, THREADS), options.docs / "img" / "performance.png")
    if (path := options.folder / "growth.json").exists():
        axes = json.loads(path.read_text())["axes"]
        blocks["growth"] = exponents(axes)
        save(growth_figure(axes), options.docs / "img" / "performance-growth.png")
    page = options.docs / "performance.md"
    page.write_text(filled(page.read_text(), blocks))
    print(f"filled: {', '.join(blocks) or 'nothing'} in {page}")


if __name__ == "__main__":
    main()
