"""The effect of each ingredient of the default: step by step from the formula to measured, balanced weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fluctua.lab.networks import FullyConnected
from fluctua.lab.studies.learning import LearningStudy
from fluctua.lab.studies.methods import (
    CONTINUOUS,
    FULL,
    LOUD,
    PER_LAYER,
    POISSON_SHARE,
    PRIMED,
    RELAY,
    SHARE,
    UNBALANCED,
)
from fluctua.lab.studies.plotting import across, panels
from fluctua.lab.sweeps.study import Record, Setting
from fluctua.lab.sweeps.sweep import grid
from fluctua.theory import Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEPS = (CONTINUOUS, "poisson", PRIMED, PER_LAYER, UNBALANCED, FULL, "measured", LOUD, POISSON_SHARE, SHARE, RELAY)
"""In the order in which ingredients are added; then the quiet readout is removed, and the gradient calibrated."""


@dataclass(frozen=True, kw_only=True)
class Ablation(LearningStudy):
    """One deep network from every step between the formula and the default.

    Attributes:
        width: neurons of a hidden layer.
        depth: hidden layers.
        methods: the steps.
        xi: target.
    """

    title: ClassVar[str] = "Ingredients: what each step from the formula to the default brings"
    about: ClassVar[str] = (
        "Kernel sums in continuous time or at the time step; the input's rate for every layer, a rate measured for "
        "each, or the potential itself measured; balance; a quiet readout. One deep fully connected network on one "
        "task, everything else the same. Differences are to the default, seed by seed."
    )

    width: int = 128
    depth: int = 6
    methods: tuple[str, ...] = STEPS
    xi: float = 1.0

    def grid(self) -> list[Setting]:
        return grid(depth=(self.depth,), method=self.methods, lr=self.lrs)

    def network(self, setting: Setting) -> FullyConnected:
        return FullyConnected(width=self.width, depth=self.depth)

    def target(self, setting: Setting) -> Target:
        return Target(xi=self.xi)

    def figure(self, records: Sequence[Record]) -> "Figure":

        def panel(measure: str, label: str, factor: float) -> "Callable[[Axes], None]":
            def draw(axis: "Axes") -> None:
                across(axis, records, self.methods, measure, factor=factor)
                axis.set(xlabel=label)

            return draw

        return panels(
            self.title,
            [
                panel("test", "test accuracy (%)", 100),
                panel("sigma_u", "$\\sigma_U$ of the last layer", 1),
            ],
        )
