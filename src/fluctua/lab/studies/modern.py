"""The paper's recipe beside a modern one, and the modern one with single changes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fluctua.lab.looks import looks
from fluctua.lab.networks import Architecture, FullyConnected, ModernRecurrent
from fluctua.lab.recipes import RECIPES, Ingredients
from fluctua.lab.studies.plotting import panels
from fluctua.lab.studies.speakers import KNOWN, UNHEARD
from fluctua.lab.studies.task import SHD, FileTask
from fluctua.lab.studies.training import MEASURES, MixedRecipe, trained
from fluctua.lab.sweeps.study import Measure, Outcome, Record, Reference, Setting, Study
from fluctua.lab.sweeps.sweep import grid
from fluctua.theory import Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Mix:
    """A network and its training recipe."""

    network: Architecture
    ingredients: Ingredients


PAPER, MODERN = "paper", "modern"

VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "adaptation added": {"adaptation": 0.25},
        "no softmax loss": {"loss": RECIPES[PAPER].loss},
        "no schedule": {"schedule": "constant", "warmup": 0.0},
        "no shift": {"augment": False},
        "no dropout": {"dropout": 0.0},
        "no weight decay": {"weight_decay": 0.0},
        "equal time constants": {"spread": 0.0},
    }
)
"""What each variant of the modern recipe changes in network or training: the first adds something, the others remove
what the paper's recipe lacks."""


@dataclass(frozen=True, kw_only=True)
class Modern(Study):
    """One recurrent layer, trained with the paper's recipe, with the modern one, and with the modern one changed once.

    Attributes:
        task: recordings, and how far the modern recipe shifts them.
        task_name: its name in the table.
        network: of the modern recipe; the paper's recipe has one of the same width and depth.
        modern: ingredients of the modern recipe.
        epochs: of each recipe.
        method: initialiser of each recipe.
        xi: its target.
        variants: names in `VARIANTS`.
        seconds_per_epoch: of one layer, on one core.
    """

    title: ClassVar[str] = "A modern recipe: accuracy with each ingredient"
    about: ClassVar[str] = (
        "A recurrent layer is trained by the recipe of the paper (maximum over time, SMORMS3, a constant learning "
        "rate), by a modern one (sum of softmax, AdamW with weight decay, cosine schedule, shifted samples, dropout of "
        "units, time constants that differ between neurons), and by that with one ingredient changed at a time. "
        "All start from the same method. The epoch of each run is chosen by validation accuracy; the test data are "
        "used once. Neither uses activity bounds."
    )
    measures: ClassVar[tuple[Measure, ...]] = (
        MEASURES[0],
        Measure(KNOWN, "test accuracy on known speakers (%)", factor=100, spec=".1f", within=(0, 1)),
        Measure(UNHEARD, "test accuracy on unheard speakers (%)", factor=100, spec=".1f", within=(0, 1)),
        *MEASURES[1:],
    )
    references: ClassVar[tuple[Reference, ...]] = (
        Reference(
            {"task": "shd", "recipe": MODERN},
            "test",
            0.910,
            "code of the authors, 2024: 1024 recurrent neurons that spike at random, dropout 0.4, shifts, sum of "
            "softmax, cosine with restarts, sigma_U 0.1; one run",
        ),
    )

    task: FileTask = replace(SHD, shift=10)  # noqa: RUF009 - frozen
    task_name: str = "shd"
    network: ModernRecurrent = ModernRecurrent()  # noqa: RUF009 - frozen
    modern: Ingredients = RECIPES[MODERN]
    epochs: int = 100
    method: str = "measured"
    xi: float = 1.0
    variants: tuple[str, ...] = tuple(VARIANTS)
    seconds_per_epoch: float = 300.0

    @property
    def files(self) -> tuple[str, ...]:
        return self.task.files

    def grid(self) -> list[Setting]:
        return grid(task=(self.task_name,), recipe=(PAPER, MODERN, *self.variants))

    def mix(self, recipe: str) -> Mix:
        """The network of a recipe, and its training."""
        if recipe == PAPER:
            layers = FullyConnected(width=self.network.width, depth=self.network.depth, recurrent=True)
            return Mix(layers, RECIPES[PAPER])
        changes = VARIANTS[recipe] if recipe != MODERN else {}
        of_network = {name: value for name, value in changes.items() if hasattr(self.network, name)}
        others = {name: value for name, value in changes.items() if name not in of_network}
        return Mix(replace(self.network, **of_network), replace(self.modern, **others))

    def seconds(self, setting: Setting) -> float:
        return 3 + self.seconds_per_epoch * self.epochs * self.network.depth

    def run(self, setting: Setting, seed: int, data: Path | None) -> Outcome:
        mix, n = self.mix(str(setting["recipe"])), self.network.measured_on
        return trained(
            self.task if mix.ingredients.augment else replace(self.task, shift=0),
            mix.network,
            MixedRecipe(epochs=self.epochs, ingredients=mix.ingredients, reach=0.5, measured_on=n),
            method=self.method,
            target=Target(xi=self.xi),
            lr=mix.ingredients.lr,
            seed=seed,
            data=data,
        )

    def figure(self, records: Sequence[Record]) -> "Figure":
        recipes = [recipe for recipe in (PAPER, MODERN, *self.variants) if _of(records, recipe)]
        measures = [m for m in ("test", KNOWN, UNHEARD) if any(m in r.values for r in records)]

        def accuracy(axis: "Axes") -> None:
            for k, (measure, look) in enumerate(looks(measures).items()):
                rows = [_values(records, recipe, measure) for recipe in recipes]
                places = np.arange(len(recipes)) + 0.2 * (k - (len(measures) - 1) / 2)
                seeds = [(value, place) for row, place in zip(rows, places, strict=True) for value in row]
                axis.plot(*zip(*seeds, strict=True), ls="", marker=".", ms=3, alpha=0.45, color=look["color"])
                label = "all test samples" if measure == "test" else measure
                axis.plot([np.mean(row) for row in rows], places, ms=5, label=label, **look | {"ls": ""})
            axis.set_yticks(range(len(recipes)), recipes)
            axis.invert_yaxis()
            axis.set_xlabel("test accuracy (%)")

        def learning(axis: "Axes") -> None:
            for recipe, style in ((PAPER, "k--"), (MODERN, "k-")):
                curves = [r.curves["val_accuracy"] for r in _of(records, recipe)]
                if curves:
                    mean = 100 * np.mean(curves, axis=0)
                    axis.plot(np.arange(len(mean)) + 1, mean, style, lw=1.2, label=f"{recipe} recipe")
            axis.set(xlabel="epoch", ylabel="validation accuracy (%)")

        return panels(self.title, [accuracy, learning])


def _of(records: Sequence[Record], recipe: str) -> list[Record]:
    return [r for r in records if r.axis("recipe") == recipe]


def _values(records: Sequence[Record], recipe: str, measure: str) -> list[float]:
    return [100 * r.values[measure] for r in _of(records, recipe) if measure in r.values]
