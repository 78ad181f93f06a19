"""Which target: how far from threshold a deep network should start, measured or not, balanced or not."""

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
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Targets(LearningStudy):
    """One deep network, initialised to several targets by methods that have one.

    Attributes:
        width: neurons of a hidden layer.
        depth: hidden layers.
        xis: targets; mu_U is 0.
        methods: by name.
    """

    title: ClassVar[str] = "Which target: accuracy against xi"
    about: ClassVar[str] = (
        "A deep fully connected network starts at several xi, the distance of the threshold from the mean potential "
        "in standard deviations, by the formula of the paper and by measurement with and without balance. Of several "
        "learning rates one is chosen for each setting by validation accuracy, the epoch of each run too; the test "
        "data are used once. The best target is the one with the best validation accuracy."
    )

    width: int = 128
    depth: int = 6
    xis: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 3.0)
    methods: tuple[str, ...] = ("poisson", UNBALANCED, "measured")

    def grid(self) -> list[Setting]:
        return grid(method=self.methods, xi=self.xis, lr=self.lrs)

    def network(self, setting: Setting) -> FullyConnected:
        return FullyConnected(width=self.width, depth=self.depth)

    def target(self, setting: Setting) -> Target:
        return Target(xi=float(setting["xi"] or 1.0))

    def figure(self, records: Sequence[Record]) -> "Figure":
        panel = partial(against, records, self.methods, "xi", xlabel="target $\\xi$")
        return panels(
            self.title,
            [
                panel("val", ylabel="validation accuracy (%)", factor=100),
                panel("test", ylabel="test accuracy (%)", factor=100),
                panel("rate", ylabel="initial rate, last layer (Hz)"),
            ],
        )
