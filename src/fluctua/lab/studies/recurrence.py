"""Recurrent networks: which share of the fluctuations should recurrence supply?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fluctua.lab.looks import looks
from fluctua.lab.networks import FullyConnected
from fluctua.lab.studies.learning import LearningStudy
from fluctua.lab.studies.methods import LABELS
from fluctua.lab.studies.plotting import level, line, panels
from fluctua.lab.sweeps.study import Record, Setting
from fluctua.lab.sweeps.sweep import grid
from fluctua.theory import Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Draw = Callable[[Axes], None]


@dataclass(frozen=True, kw_only=True)
class Recurrence(LearningStudy):
    """One recurrent layer, whose feed-forward weights supply a share alpha of the variance of its potential.

    Attributes:
        width: neurons.
        alphas: shares; the rest comes from the recurrent weights.
        methods: methods with a share.
        baselines: methods without one.
        xi: target.
    """

    title: ClassVar[str] = "Recurrent networks: accuracy against the feed-forward share alpha"
    about: ClassVar[str] = (
        "One recurrent layer is initialised so that its feed-forward weights supply a share alpha of the variance of "
        "the free potential and its recurrent ones the rest: by the formula of the paper, and by measurement with "
        "balance, which refuses shares for which there is no steady state; such runs count as failed. Of several "
        "learning rates one is chosen for each setting by validation accuracy, the epoch of each run too; the test "
        "data are used once."
    )

    width: int = 128
    alphas: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
    methods: tuple[str, ...] = ("poisson", "measured")
    baselines: tuple[str, ...] = ("kaiming",)
    xi: float = 1.0

    def grid(self) -> list[Setting]:
        return [
            *grid(method=self.methods, alpha=self.alphas, lr=self.lrs),
            *grid(method=self.baselines, alpha=(None,), lr=self.lrs),
        ]

    def network(self, setting: Setting) -> FullyConnected:
        return FullyConnected(width=self.width, depth=1, recurrent=True)

    def target(self, setting: Setting) -> Target:
        return Target(xi=self.xi)

    def alpha(self, setting: Setting) -> float:
        alpha = setting["alpha"]
        return super().alpha(setting) if alpha is None else float(alpha)

    def figure(self, records: Sequence[Record]) -> "Figure":

        def against_alpha(measure: str, label: str, factor: float = 1.0) -> "Draw":
            def draw(axis: "Axes") -> None:
                for method, look in looks((*self.methods, *self.baselines)).items():
                    here = [r for r in records if r.axis("method") == method]
                    if method in self.methods:
                        line(axis, here, "alpha", measure, factor=factor, label=LABELS[method], **look)
                    else:
                        level(axis, here, measure, factor=factor, label=LABELS[method], color=look["color"])
                axis.set(xlabel="feed-forward share $\\alpha$", ylabel=label)

            return draw

        return panels(
            self.title,
            [against_alpha("test", "test accuracy (%)", 100), against_alpha("rate", "initial rate (Hz)")],
        )
