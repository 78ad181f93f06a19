"""Firing rates as targets: do networks fire as asked, and what do they learn from there?"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from fluctua.lab.networks import FullyConnected
from fluctua.lab.studies.learning import LearningStudy
from fluctua.lab.studies.methods import UNBALANCED
from fluctua.lab.studies.plotting import against, panels
from fluctua.lab.sweeps.study import Record, Setting
from fluctua.lab.sweeps.sweep import grid
from fluctua.theory import Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Rates(LearningStudy):
    """Networks with a firing rate as their target.

    Attributes:
        width: neurons of a hidden layer.
        depth: hidden layers.
        rates: targets in Hz, up to 11 Hz, the largest crossing rate of a free potential of mean 0.
        methods: by name.
    """

    title: ClassVar[str] = "Firing-rate targets: rate and accuracy"
    about: ClassVar[str] = (
        "Every hidden layer of a fully connected network has a firing rate as its target. The paper's formula gets "
        "the xi at which threshold crossings are that frequent; measurement with and without balance goes on "
        "to the neurons' own rate. Of several learning rates one is chosen for each setting by validation accuracy, "
        "the epoch of each run too; the test data are used once."
    )

    width: int = 128
    depth: int = 3
    rates: tuple[float, ...] = (1.0, 2.0, 4.0, 6.0, 8.0, 10.0)
    methods: tuple[str, ...] = ("poisson", UNBALANCED, "measured")

    def grid(self) -> list[Setting]:
        return grid(method=self.methods, target_rate=self.rates, lr=self.lrs)

    def network(self, setting: Setting) -> FullyConnected:
        return FullyConnected(width=self.width, depth=self.depth)

    def target(self, setting: Setting) -> Target:
        return Target(rate=float(setting["target_rate"] or 0.0))

    def figure(self, records: Sequence[Record]) -> "Figure":
        panel = partial(against, records, self.methods, "target_rate", xlabel="target rate (Hz)")

        def reached(axis: "Axes") -> None:
            axis.plot(self.rates, self.rates, color="0.5", lw=1, ls=":")
            panel("rate", ylabel="initial rate, last layer (Hz)")(axis)

        return panels(self.title, [reached, panel("test", ylabel="test accuracy (%)", factor=100)])
