"""Bring results of `fluctua reproduce` into docs/results.md: its tables, the figures, and the whole tables as CSV.

    python docs/scripts/results.py            # what the commands of docs/results.md left in runs

A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; the text around is written by hand. Studies that
are not in the folder are left as they are.
"""

import argparse
import csv
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fluctua.lab.studies.methods import LABELS

DOCS = Path(__file__).parents[1]
Row = Mapping[str, str]


@dataclass(frozen=True)
class Block:
    """One table of the page: a number of a study, as mean and half the 95 % interval.

    Attributes:
        study: folder of its results.
        measure: the number.
        columns: the axis whose values are the columns.
        rows: the axis whose values are the rows.
        factor: from the value to what is printed.
        digits: behind the point.
        where: values on other axes.
    """

    study: str
    measure: str
    columns: str
    rows: str = "method"
    factor: float = 100.0
    digits: int = 1
    where: tuple[tuple[str, str], ...] = ()

    def lines(self, table: Sequence[Row]) -> Iterator[str]:
        """The table in Markdown; a run that failed is told, a setting that was not tried is left blank."""
        here = [
            r for r in table if r["measure"] == self.measure and all(r[axis] == value for axis, value in self.where)
        ]
        columns, rows = (sorted(dict.fromkeys(r[axis] for r in here), key=_place) for axis in (self.columns, self.rows))
        yield "| " + " | ".join([self.rows, *(_plain(value) for value in columns)]) + " |"
        yield "|---" * (len(columns) + 1) + "|"
        for row in rows:
            cells = [[self._cell(r) for r in here if (r[self.rows], r[self.columns]) == (row, c)] for c in columns]
            yield "| " + " | ".join([LABELS.get(row, _plain(row)), *(", ".join(cell) for cell in cells)]) + " |"

    def _cell(self, r: Row) -> str:
        if not r["mean"]:
            return "failed"
        mean = self.factor * float(r["mean"])
        half = f" ± {self.factor * (float(r['high']) - float(r['mean'])):.{self.digits}f}" if r["high"] else ", one run"
        told = f" ({r['failed']} failed)" if int(r["failed"] or 0) else ""
        return f"{mean:.{self.digits}f}{half}{told}"


BLOCKS: Mapping[str, Block] = {
    "shallow": Block("shallow-small", "test", "sigma_u"),
    "shallow full": Block("shallow", "test", "sigma_u"),
    "depth": Block("depth-small", "test", "depth"),
    "depth first": Block("depth-small", "first", "depth"),
    "depth-hard": Block("depth-hard-small", "test", "depth"),
    "depth-hard epochs": Block("depth-hard-small", "epochs_to", "depth", factor=1.0),
    "depth-fsdd": Block("depth-fsdd-small", "test", "depth"),
    "depth-time": Block("depth-time-small", "test", "depth"),
    "depth-time-fsdd": Block("depth-time-fsdd-small", "test", "depth"),
    "depth-fsdd first": Block("depth-fsdd-small", "first", "depth"),
    "targets": Block("targets-small", "val", "xi"),
    "targets test": Block("targets-small", "test", "xi"),
    "speakers known": Block("speakers-small", "known speakers", "network"),
    "speakers unheard": Block("speakers-small", "unheard speakers", "network"),
    "conv-shd": Block("conv-shd-small", "test", "network"),
    "conv-cifar10": Block("conv-cifar10-small", "test", "network"),
    "conv-dvs": Block("conv-dvs-small", "test", "network"),
    "conv-dvs-deep": Block("conv-dvs-deep-small", "test", "network"),
    "recurrence": Block("recurrence-small", "test", "alpha"),
    "dale family": Block("dale-small", "test", "family", where=(("ratio", "4"), ("mu_u", "0.0"))),
    "dale mean": Block("dale-small", "test", "mu_u", where=(("ratio", "4"), ("family", "exponential"))),
    "dale ratio": Block("dale-small", "test", "ratio", where=(("mu_u", "0.0"), ("family", "exponential"))),
    "states rate": Block("states-small", "rate", "depth", factor=1.0, digits=2),
    "states silent": Block("states-small", "silent", "depth", digits=0),
    "rates": Block("rates-small", "rate", "target_rate", factor=1.0, digits=2),
    "rates test": Block("rates-small", "test", "target_rate"),
    "time-constants": Block("time-constants-small", "test", "time_constants"),
    "modern": Block("modern-small", "known speakers", "task", rows="recipe"),
    "modern unheard": Block("modern-small", "unheard speakers", "task", rows="recipe"),
}


def _place(value: str) -> tuple[bool, float]:
    """Numbers by size, names as they come, what has none last."""
    try:
        return not value, float(value or 0)
    except ValueError:
        return False, 0.0


def _plain(value: str) -> str:
    if not value:
        return "-"
    try:
        return f"{float(value):.3g}"
    except ValueError:
        return value


def filled(page: str, name: str, text: str) -> str:
    """The page with a text in the place of that name; a page without the place stays as it is."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    return pattern.sub(lambda _: f"{begin}\n\n{text}\n\n{end}", page)


def main() -> None:
    """Fill the page and copy what stands beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="?", default=Path("runs"))
    runs = parser.parse_args().runs
    page = (DOCS / "results.md").read_text()
    for name, block in BLOCKS.items():
        folder = runs / block.study
        if not (folder / "table.csv").exists():
            continue
        with (folder / "table.csv").open() as file:
            page = filled(page, name, "\n".join(block.lines(list(csv.DictReader(file)))))
        (DOCS / "results").mkdir(exist_ok=True)
        shutil.copyfile(folder / "table.csv", DOCS / "results" / f"{block.study}.csv")
        shutil.copyfile(folder / "figure.png", DOCS / "img" / f"results-{block.study}.png")
    (DOCS / "results.md").write_text(page)


if __name__ == "__main__":
    main()
