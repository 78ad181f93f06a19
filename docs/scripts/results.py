"""Fill docs/results.md from what is committed in docs/results: its tables, and the figures in docs/img.

    python docs/scripts/results.py

Of a study whose runs are there (NAME.jsonl.gz, which docs/scripts/evidence.py writes) the whole table is made again
from them as NAME.csv, and the figure drawn; of older ones the CSV is all there is, and docs/scripts/summaries.py draws
it. A table of the page stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; what is around is written by hand.
"""

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fluctua.lab.durable import replacing
from fluctua.lab.reproduce import study_named
from fluctua.lab.results.aggregate import chosen_settings, summarise
from fluctua.lab.results.figures import save
from fluctua.lab.results.table import as_csv
from fluctua.lab.studies.methods import COMPARED, LABELS
from fluctua.lab.studies.plotting import against, dots_per_method, panels
from fluctua.lab.studies.speakers import KNOWN
from fluctua.lab.sweeps.archive import Archive
from fluctua.lab.sweeps.study import Record, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOCS = Path(__file__).parents[1]
Row = Mapping[str, str]


@dataclass(frozen=True)
class Block:
    """One table of the page: a number of a study, as a mean and the ends of its 95 % interval.

    Attributes:
        study: file of its results.
        measure: the number.
        columns: the axis whose values are the columns.
        rows: the axis whose values are the rows.
        factor: from the value to what is printed.
        digits: behind the point.
        where: values on other axes.
        within: the least and the largest possible value.
        differences: print the paired differences to the default instead: mean, interval, seeds ahead and behind.
        only: the values of `columns` to print, where all of them are too many for a page.
    """

    study: str
    measure: str
    columns: str
    rows: str = "method"
    factor: float = 100.0
    digits: int = 1
    where: tuple[tuple[str, str], ...] = ()
    within: tuple[float, float] = (0.0, 1.0)
    differences: bool = False
    only: tuple[str, ...] = ()

    def lines(self, table: Sequence[Row]) -> Iterator[str]:
        """The table in Markdown; a run that failed is told, a setting that was not tried is left blank."""
        here = [
            r for r in table if r["measure"] == self.measure and all(r[axis] == value for axis, value in self.where)
        ]
        here = [r for r in here if not self.differences or r.get("difference")]
        here = [r for r in here if not self.only or r[self.columns] in self.only]
        numbers = {r["pairs" if self.differences else "n"] for r in here} - {"0"}
        same = len(numbers) == 1
        cells = {(r[self.rows], r[self.columns]): self._cell(r, same) for r in here}
        columns = sorted(dict.fromkeys(c for _, c in cells if c), key=_place)
        placed = [row for row in dict.fromkeys(r[self.rows] for r in here) if any((row, c) in cells for c in columns)]
        rows = sorted(placed, key=_place)
        if len(columns) > _MOST_COLUMNS > len(rows):  # a page is narrow
            by_row = [[row, *(cells.get((row, c), "") for c in columns)] for row in rows]
            yield from _table(self.columns, self.rows, columns, by_row)
        else:
            by_column = [[c, *(cells.get((row, c), "") for row in rows)] for c in columns]
            yield from _table(self.rows, self.columns, rows, by_column)
        if without := {row: cell for (row, c), cell in cells.items() if not c}:
            yield ""
            yield from _table(
                self.rows, "", [*without], [["no target" if self.columns != "alpha" else "no share", *without.values()]]
            )
        if same:
            yield f"\nn = {numbers.pop()}"

    def _cell(self, r: Row, same: bool) -> str:
        """The number, and what else is to be known of it in small print on a line of its own."""
        if self.differences:
            small = [self._between(r, "difference_"), f"{r['more']}:{r['less']}"]
            return _with_small(self._printed(r["difference"], "+"), small)
        if not r["mean"]:
            return "failed"
        number = "" if same else f"n&nbsp;=&nbsp;{r['n']}"
        told = f"{r['failed']} failed" if int(r["failed"] or 0) else ""
        return _with_small(self._printed(r["mean"]), [self._between(r, ""), number, told])

    def _between(self, r: Row, which: str) -> str:
        if not r[f"{which}low"] or int(r["n"]) < _FEWEST:
            return ""
        low, high = (self._printed(r[f"{which}{end}"], "+" if which else "") for end in ("low", "high"))
        return f"{low} to {high}" if low != high else ""

    def _printed(self, value: str, sign: str = "") -> str:
        number = float(value) if sign else min(max(float(value), self.within[0]), self.within[1])
        return f"{self.factor * number:{sign}.{self.digits}f}"


def _table(rows: str, columns: str, names: Sequence[str], cells: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table of columns of cells, each with its name first; `rows` and `columns` are the axes of the names."""
    yield "| " + " | ".join([_WORDS.get(rows, rows), *(_plain(name, columns) for name, *_ in cells)]) + " |"
    yield "|---" * (len(cells) + 1) + "|"
    for k, name in enumerate(names, 1):
        yield "| " + " | ".join([_plain(name, rows), *(column[k] for column in cells)]) + " |"


def _with_small(number: str, rest: Sequence[str]) -> str:
    small = ", ".join(filter(None, rest))
    return f"{number}<br><small>{small}</small>" if small else number


_POSITIVE = (0.0, math.inf)
_MOST_COLUMNS = 4  # behind the names; more do not fit on a phone
_FEWEST = 3  # seeds of a mean whose interval is worth printing
BLOCKS: Mapping[str, Block] = {
    "depth": Block("depth-small", "test", "depth"),
    "depth differences": Block("depth-small", "test", "depth", differences=True),
    "depth first": Block("depth-small", "first", "depth"),
    "depth epochs": Block("depth-small", "epochs_to", "depth", factor=1.0, within=_POSITIVE),
    "depth seconds": Block("depth-small", "seconds_to", "depth", factor=1.0, digits=0, within=_POSITIVE),
    "ablation": Block("ablation-small", "test", "depth"),
    "ablation differences": Block("ablation-small", "test", "depth", differences=True),
    "ablation sigma": Block("ablation-small", "sigma_u", "depth", factor=1.0, digits=2, within=_POSITIVE),
    "robustness": Block("robustness-small", "last", "method", rows="case", factor=1.0, digits=2, within=_POSITIVE),
    "robustness silent": Block("robustness-small", "silent", "method", rows="case", digits=0),
    "filters shd-conv": Block(
        "filters-small", "sigma_u", "method", "case", 1.0, 2, (("network", "shd-conv"),), _POSITIVE
    ),
    "filters shd-conv-deep": Block(
        "filters-small", "sigma_u", "method", "case", 1.0, 2, (("network", "shd-conv-deep"),), _POSITIVE
    ),
    "filters silent": Block("filters-small", "silent", "method", "case", 100.0, 0, (("network", "shd-conv-deep"),)),
    "digits": Block("digits-small", "known speakers", "network"),
    "digits differences": Block("digits-small", "known speakers", "network", differences=True),
    "digits unheard": Block("digits-small", "unheard speakers", "network"),
    "obstacles": Block("obstacles-small", "test", "method", rows="case"),
    "direct": Block("direct-small", "test", "network"),
    "direct differences": Block("direct-small", "test", "network", differences=True),
    "direct-states sigma": Block("direct-states-small", "sigma_u", "depth", factor=1.0, digits=2, within=_POSITIVE),
    "direct-states rate": Block("direct-states-small", "rate", "depth", factor=1.0, digits=3, within=_POSITIVE),
    "direct-states silent": Block("direct-states-small", "silent", "depth", digits=0),
    "states sigma": Block("states-small", "sigma_u", "depth", factor=1.0, digits=2, within=_POSITIVE),
    "states batch": Block("states-small", "on_batch", "depth", factor=1.0, digits=2, within=_POSITIVE),
    "states rate": Block("states-small", "rate", "depth", factor=1.0, digits=2, within=_POSITIVE),
    "states silent": Block("states-small", "silent", "depth", digits=0),
    "conv-shd-wide": Block("conv-shd-wide-small", "test", "network"),
    "conv-shd-wide differences": Block("conv-shd-wide-small", "test", "network", differences=True),
    "conv-shd-wide first": Block("conv-shd-wide-small", "first", "network"),
    "depth before": Block("depth-before", "test", "depth"),
    "conv-cifar10": Block("conv-cifar10-small", "test", "network"),
    "conv-cifar10 differences": Block("conv-cifar10-small", "test", "network", differences=True),
    "conv-dvs": Block("conv-dvs-small", "test", "network"),
    "conv-dvs differences": Block("conv-dvs-small", "test", "network", differences=True),
    "conv-dvs-deep": Block("conv-dvs-deep-small", "test", "network"),
    "shallow": Block("shallow-small", "test", "sigma_u"),
    "shallow full": Block("shallow", "test", "sigma_u"),
    "depth-hard": Block("depth-hard-small", "test", "depth"),
    "depth-hard epochs": Block("depth-hard-small", "epochs_to", "depth", factor=1.0, within=_POSITIVE),
    "depth-fsdd": Block("depth-fsdd-small", "test", "depth"),
    "depth-fsdd first": Block("depth-fsdd-small", "first", "depth"),
    "depth-time": Block("depth-time-small", "test", "depth"),
    "depth-time-fsdd": Block("depth-time-fsdd-small", "test", "depth"),
    "targets": Block("targets-small", "val", "xi"),
    "targets test": Block("targets-small", "test", "xi"),
    "speakers known": Block("speakers-small", "known speakers", "network"),
    "speakers unheard": Block("speakers-small", "unheard speakers", "network"),
    "recurrence": Block("recurrence-small", "test", "alpha"),
    "dale family": Block("dale-small", "test", "family", where=(("ratio", "4"), ("mu_u", "0.0"))),
    "dale mean": Block("dale-small", "test", "mu_u", where=(("ratio", "4"), ("family", "exponential"))),
    "dale ratio": Block("dale-small", "test", "ratio", where=(("mu_u", "0.0"), ("family", "exponential"))),
    "rates": Block("rates-small", "rate", "target_rate", factor=1.0, digits=2, within=_POSITIVE),
    "rates test": Block("rates-small", "test", "target_rate"),
    "time-constants": Block("time-constants-small", "test", "time_constants"),
    "modern": Block("modern-small", "known speakers", "task", rows="recipe"),
    "modern unheard": Block("modern-small", "unheard speakers", "task", rows="recipe"),
}


_METHODS = [*dict.fromkeys((*COMPARED, *LABELS))]


def _place(value: str) -> tuple[bool, float]:
    """Numbers by size, methods in the order of the studies, other names as they come, what has none last."""
    if value in _METHODS:
        return False, _METHODS.index(value)
    try:
        return not value, float(value or 0)
    except ValueError:
        return False, 0.0


_WORDS = {"sigma_u": "sigma_U", "target_rate": "target", "mu_u": "mu_U"}
_IN_WORDS = {
    "depth": "{} layers",
    "sigma_u": "sigma_U = {}",
    "xi": "xi = {}",
    "alpha": "alpha = {}",
    "mu_u": "mu_U = {}",
    "target_rate": "{} Hz",
    "ratio": "{} E per I",
}


def _plain(value: str, axis: str) -> str:
    try:
        text = f"{float(value):.4g}"
    except ValueError:
        return LABELS.get(value, value)
    return "1 layer" if (axis, text) == ("depth", "1") else _IN_WORDS.get(axis, "{}").format(text)


def filled(page: str, name: str, text: str) -> str:
    """The page with a text in the place of that name; a page without the place stays as it is."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    return pattern.sub(lambda _: f"{begin}\n\n{text}\n\n{end}", page)


def made_again(archive: Archive) -> None:
    """Table and figure of a study, from its runs."""
    name = archive.path.name.removesuffix(".jsonl.gz")
    study = study_named(name.removesuffix("-small"), small=name.endswith("-small"))
    records = archive.of(study)
    finished, failed = ([r for r in records if (r.error is None) == ended] for ended in (True, False))
    if not finished:
        return
    with replacing(archive.path.parent / f"{name}.csv") as opened:
        opened.write(as_csv(summarise(study, finished, failed)).encode())
    save(study.figure(_at_chosen(study, finished)), DOCS / "img" / f"results-{name}.png")


def _at_chosen(study: Study, finished: Sequence[Record]) -> list[Record]:
    """The runs with the learning rates that validation chooses."""
    settings = chosen_settings(study, finished)
    return [record for record in finished if record.setting in settings]


SHOWN: Mapping[str, tuple[str, str]] = {
    "fc": ("digits", "digits\n3 x 128"),
    "adaptive": ("digits", "digits\nadaptive"),
    "dale": ("digits", "digits\nDale"),
    "shd-conv": ("conv-shd-wide", "digits\nrecurrent\nconv."),
    "dvs-conv": ("conv-dvs", "N-MNIST\nconv."),
    "cifar10-conv": ("conv-cifar10", "images\nconv."),
}
"""Networks on real data in the figure for talks: of which study, and what they are called there."""

FOR_TALKS = 5
"""Seeds that a network needs to be in that figure."""


def for_talks() -> None:
    """Accuracy against depth, and on real data, of all methods: one figure of what has been run."""
    depth = _best_of("depth")
    real = [_known(r) for name, (study, _) in SHOWN.items() for r in _best_of(study) if r.axis("network") == name]
    seeds = {name: {r.seed for r in real if r.axis("network") == name} for name in SHOWN}
    networks = [name for name, found in seeds.items() if len(found) >= FOR_TALKS]
    methods = [m for m in LABELS if any(r.axis("method") == m for r in (*depth, *real))]

    def on_real_data(axis: "Axes") -> None:
        shown = [r for r in real if r.axis("network") in networks]
        dots_per_method(axis, shown, methods, "network", networks, "test", factor=100)
        axis.set_xticks(axis.get_xticks(), [SHOWN[name][1] for name in networks], fontsize=8)
        axis.set(ylabel="test accuracy (%)", title="real recordings (known speakers) and images")

    def on_randman(axis: "Axes") -> None:
        against(depth, methods, "depth", "test", xlabel="layers", ylabel="test accuracy (%)", factor=100)(axis)
        axis.set_title("Randman, fully connected")

    figure = panels("Test accuracy by initialiser, every seed a dot", [on_randman, on_real_data], columns=1)
    save(figure, DOCS / "img" / "accuracy.png")


def _known(record: Record) -> Record:
    """A run whose test accuracy is that on known speakers, where there are others too, as everywhere in that figure."""
    values = record.values
    return replace(record, values={**values, "test": values.get(KNOWN, values.get("test", math.nan))})


def _best_of(name: str) -> list[Record]:
    """The finished runs of a small study, with the learning rates that validation chooses."""
    study = study_named(name, small=True)
    finished = [r for r in Archive(DOCS / "results" / f"{name}-small.jsonl.gz").of(study) if r.error is None]
    return _at_chosen(study, finished)


def with_tables(page: str) -> str:
    """The page with the tables of the committed results."""
    for name, block in BLOCKS.items():
        path = DOCS / "results" / f"{block.study}.csv"
        if path.exists():
            with path.open() as file:
                page = filled(page, name, "\n".join(block.lines(list(csv.DictReader(file)))))
    return page


def main() -> None:
    """Fill the page, and make what stands beside it."""
    for path in sorted((DOCS / "results").glob("*.jsonl.gz")):
        made_again(Archive(path))
    for_talks()
    page = DOCS / "results.md"
    page.write_text(with_tables(page.read_text()))


if __name__ == "__main__":
    main()
