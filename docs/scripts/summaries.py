"""Figures of the studies of docs/results.md whose runs were not kept: means and intervals, from docs/results/NAME.csv.

    python docs/scripts/summaries.py [NAME ...]

A figure of runs that are kept shows every seed (docs/scripts/results.py); of these the table is all there is. An
interval ends where it would leave what is possible; of fewer than three seeds there is none.
"""

import csv
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluctua.lab.looks import looks
from fluctua.lab.results.figures import save
from fluctua.lab.studies.methods import LABELS
from fluctua.lab.studies.plotting import panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOCS = Path(__file__).parents[1]
Row = Mapping[str, str]
_FEWEST = 3  # seeds of an interval


@dataclass(frozen=True)
class Panel:
    """One number of a study.

    Attributes:
        measure: its name in the table.
        label: of its axis, with its unit.
        by: the column of the table that the other axis shows.
        across: the label of that axis.
        scale: of the axis of the number; the other one is logarithmic where its places are decades apart.
        at: the number before training at which a row without a value of `by` stands; without one it is a dashed line.
        where: what rows have in other columns; a row without a value there is shown too.
        title: over the panel.
    """

    measure: str
    label: str
    by: str = "method"
    across: str = ""
    scale: str = "linear"
    at: str = ""
    where: Mapping[str, str] | None = None
    title: str = ""

    def draw(self, table: Sequence[Row]) -> Callable[["Axes"], None]:
        """A function that draws it."""
        fits = (self.where or {}).items()
        rows = [r for r in table if r["mean"] and all(r[axis] in (value, "") for axis, value in fits)]
        here = [r for r in rows if r["measure"] == self.measure]
        at = {_setting(r): float(r["mean"]) for r in rows if r["measure"] == self.at}

        def on(axis: "Axes") -> None:
            axis.set_title(self.title)
            if self.by in ("method", "recipe"):
                self._listed(axis, here)
            else:
                self._against(axis, here, at)

        return on

    @property
    def _factor(self) -> float:
        return 100.0 if self.label.endswith("(%)") else 1.0

    def _ends(self, r: Row) -> tuple[float, float, float]:
        """Mean, and how far its interval goes down and up; not beyond what is possible."""
        mean = float(r["mean"])
        if not r["low"] or int(r["n"]) < _FEWEST:
            return self._factor * mean, 0.0, 0.0
        top = 1.0 if self._factor == 100 else math.inf
        low, high = max(float(r["low"]), 0.0), min(float(r["high"]), top)
        if self.scale == "log":
            low = max(low, mean / 1000)  # a logarithm has no zero; the line leaves the panel
        return self._factor * mean, self._factor * (mean - low), self._factor * (high - mean)

    def _listed(self, axis: "Axes", rows: Sequence[Row]) -> None:
        """A line of the panel for each method or recipe; recipes share one look."""
        names = [r[self.by] for r in rows]
        chosen = looks(names if self.by == "method" else ["measured"] * len(names))
        for place, r in enumerate(rows):
            look = chosen.get(r[self.by], chosen.get("measured", {}))
            mean, down, up = self._ends(r)
            axis.errorbar([mean], [place], xerr=[[down], [up]], **_sized(look) | {"ls": ""})
        axis.set_yticks(range(len(rows)), [LABELS.get(name, name) for name in names], fontsize=8)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_xlabel(self.label)
        axis.set_xlim(left=-0.03 * axis.get_xlim()[1])

    def _against(self, axis: "Axes", rows: Sequence[Row], at: Mapping[Any, float]) -> None:
        """A line for each method against numbers, or its marker at each name."""
        names = list(dict.fromkeys(r[self.by] for r in rows if r[self.by]))
        numbers = _numbers(names)
        places = dict(zip(names, numbers or range(len(names)), strict=True))
        wide = bool(numbers) and min(numbers) > 0 and max(numbers) / min(numbers) > 30
        span = max(places.values()) - min(places.values())
        shown = looks(dict.fromkeys(r["method"] for r in rows))
        for i, (method, look) in enumerate(shown.items()):
            own = [r for r in rows if r["method"] == method]
            shift = i - (len(shown) - 1) / 2
            points = sorted((places[r[self.by]], *self._ends(r)) for r in own if r[self.by])
            style = _sized(look) | {"label": LABELS.get(method, method)}
            if points:
                place, mean, down, up = zip(*points, strict=True)
                step = 0.014 * span if numbers else 0.1
                x = [p * 1.03**shift if wide else p + step * shift for p in place]
                axis.errorbar(x, mean, yerr=[down, up], **style | ({} if numbers else {"ls": ""}))
            for r in (r for r in own if not r[self.by]):
                self._placeless(axis, r, at, style)
        if wide:
            axis.set_xscale("log")
        elif not numbers:
            axis.set_xlim(-0.5, len(names) - 0.5)
        axis.set_xticks(list(places.values()), [f"{float(n):g}" if numbers else n for n in names])
        axis.set_yscale(self.scale, **{"linthresh": 1.0} if self.scale == "symlog" else {})
        if self.scale == "symlog":
            axis.yaxis.set_major_formatter("{x:g}")
            axis.set_ylim(bottom=-0.2)
        if self.scale == "log":
            axis.set_ylim(bottom=min(mean for r in rows if (mean := float(r["mean"]))) / 3)
        axis.set(xlabel=self.across, ylabel=self.label)

    def _placeless(self, axis: "Axes", r: Row, at: Mapping[Any, float], style: Mapping[str, Any]) -> None:
        """A row without a value on the other axis: where it was found, or as a level line."""
        mean, down, up = self._ends(r)
        if self.at:
            axis.errorbar([at[_setting(r)]], [mean], yerr=[[down], [up]], **{**style, "ls": ""})
        else:
            axis.axhline(mean, color=style["color"], lw=1.2, ls="--", label=style["label"])


def _sized(look: Mapping[str, Any]) -> dict[str, Any]:
    return {**look, "ms": 8 if look["marker"] == "*" else 5, "capsize": 2, "lw": 1.2}


def _setting(r: Row) -> tuple[str, str]:
    return r["method"], r.get("lr", "")


def _numbers(names: Sequence[str]) -> list[float]:
    try:
        return [float(name) for name in names]
    except ValueError:
        return []


TEST, FIRST = ("test", "test accuracy (%)"), ("first", "accuracy after one epoch (%)")
RATE, GRADIENT = ("rate", "initial rate, last layer (Hz)"), ("gradient_first", "gradient norm, layer 1")
SIGMA, SILENT = ("sigma_u", "initial $\\sigma_U$, last layer"), ("silent", "silent in the last layer (%)")
KNOWN, UNHEARD = (
    ("known speakers", "accuracy, known speakers (%)"),
    ("unheard speakers", "accuracy, unheard speaker (%)"),
)
CONV = tuple(Panel(*number) for number in (TEST, FIRST, RATE, SILENT))
LAYERS = {"by": "depth", "across": "hidden layers"}

FIGURES: Mapping[str, tuple[str, tuple[Panel, ...]]] = {
    "shallow-small": (
        "One hidden layer, Randman",
        tuple(
            Panel(*number, "sigma_u", "$\\sigma_U$ before training", scale, at="sigma_u")
            for number, scale in ((TEST, "linear"), (GRADIENT, "log"))
        ),
    ),
    "depth-hard-small": (
        "The harder task, against depth",
        (
            Panel(*TEST, **LAYERS),
            Panel(*FIRST, **LAYERS),
            Panel(*GRADIENT, **LAYERS, scale="log"),
            Panel(*RATE, **LAYERS),
        ),
    ),
    "depth-fsdd-small": ("Three layers on spoken digits", CONV),
    "depth-time-small": (
        "Randman with time to answer, against depth",
        (Panel(*TEST, **LAYERS), Panel(*RATE, **LAYERS)),
    ),
    "depth-time-fsdd-small": (
        "Spoken digits with time to answer, against depth",
        (Panel(*TEST, **LAYERS), Panel(*RATE, **LAYERS)),
    ),
    "targets-small": (
        "Six layers on Randman, against the target",
        tuple(
            Panel(*number, "xi", "target $\\xi$") for number in (("val", "validation accuracy (%)"), TEST, RATE, SILENT)
        ),
    ),
    "speakers-small": (
        "Spoken digits, by network",
        tuple(Panel(*number, "network", "network") for number in (KNOWN, UNHEARD)),
    ),
    "conv-dvs-small": ("N-MNIST, six narrow convolutions (dvs-conv)", CONV),
    "conv-dvs-deep-small": ("N-MNIST, eight narrow convolutions (dvs-conv-deep)", CONV),
    "conv-cifar10-small": ("CIFAR-10 subset, four narrow convolutions (cifar10-conv)", CONV),
    "recurrence-small": (
        "One recurrent layer on spoken digits",
        tuple(Panel(*number, "alpha", "feed-forward share $\\alpha$") for number in (TEST, RATE)),
    ),
    "rates-small": (
        "Three layers on Randman, asked for a rate",
        tuple(Panel(*number, "target_rate", "target rate (Hz)") for number in (RATE, TEST)),
    ),
    "dale-small": (
        "Dale's law on spoken digits",
        (
            Panel(*TEST, "family", "weight law", where={"mu_u": "0.0", "ratio": "4"}),
            Panel(*TEST, "mu_u", "target $\\mu_U$", where={"family": "exponential", "ratio": "4"}),
            Panel(*TEST, "ratio", "excitatory per inhibitory neuron", where={"family": "exponential", "mu_u": "0.0"}),
        ),
    ),
    "time-constants-small": (
        "One layer on spoken digits, by kind of time constants",
        tuple(Panel(*number, "time_constants", "time constants") for number in (TEST, RATE)),
    ),
    "modern-small": (
        "256 recurrent neurons on spoken digits, by recipe",
        tuple(Panel(*number, "recipe") for number in (KNOWN, UNHEARD)),
    ),
}
"""Title and panels of each figure, by the name of its table."""


def main() -> None:
    """Draw those that are named, or all."""
    for name in sys.argv[1:] or FIGURES:
        title, shown = FIGURES[name]
        with (DOCS / "results" / f"{name}.csv").open() as file:
            table = list(csv.DictReader(file))
        figure = panels(f"{title}\nmean and 95 % interval of three seeds", [panel.draw(table) for panel in shown])
        save(figure, DOCS / "img" / f"results-{name}.png")


if __name__ == "__main__":
    main()
