"""Deep networks: rates, gradients and accuracy against the number of hidden layers, by initialiser."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from fluctua.lab.networks import FullyConnected
from fluctua.lab.studies.learning import LearningStudy
from fluctua.lab.studies.methods import COMPARED, PRIMED, RELAY
from fluctua.lab.studies.plotting import against, curves_per_method, panels
from fluctua.lab.sweeps.study import Record, Setting
from fluctua.lab.sweeps.sweep import grid
from fluctua.theory import Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Draw = Callable[[Axes], None]


@dataclass(frozen=True, kw_only=True)
class Depth(LearningStudy):
    """Networks of several depths, each initialised by several methods; a trial must leave them about 20 ms per layer.

    Attributes:
        width: neurons of a hidden layer.
        depths: numbers of hidden layers.
        methods: by name.
        xi: target of the methods that have one.
    """

    title: ClassVar[str] = "Deep networks: accuracy, gradients and rates against depth"
    about: ClassVar[str] = (
        "Fully connected networks of several depths, initialised by baselines, by the formula of the paper with "
        "and without homeostatic priming, and by measurement with and without balance. Of several learning rates one "
        "is chosen for each method and depth by validation accuracy, the epoch of each run too; the test data are "
        "used once. The seed draws the task (if it is synthetic), the weights and the order of training, so "
        "methods get the same tasks."
    )

    width: int = 128
    depths: tuple[int, ...] = (1, 3, 6, 10, 15, 20)
    methods: tuple[str, ...] = (*COMPARED, RELAY)
    xi: float = 1.0

    def grid(self) -> list[Setting]:
        return grid(method=self.methods, depth=self.depths, lr=self.lrs)

    def seconds(self, setting: Setting) -> float:
        priming = 1.8 * float(setting["depth"] or 1) if setting["method"] == PRIMED else 0.0
        return priming + super().seconds(setting)

    def network(self, setting: Setting) -> FullyConnected:
        return FullyConnected(width=self.width, depth=int(setting["depth"] or 1))

    def target(self, setting: Setting) -> Target:
        return Target(xi=self.xi)

    def figure(self, records: Sequence[Record]) -> "Figure":
        """See `Study.figure`; for a single depth it shows epochs and layers."""
        if len({r.axis("depth") for r in records}) == 1:
            return self._of_one_depth(records)
        panel = partial(against, records, self.methods, "depth", xlabel="hidden layers")
        return panels(
            self.title,
            [
                panel("test", ylabel="test accuracy (%)", factor=100),
                panel("first", ylabel="accuracy after one epoch (%)", factor=100),
                panel("gradient_first", ylabel="initial gradient norm, layer 1", scale="log"),
                panel("rate", ylabel="initial rate, last layer (Hz)"),
            ],
        )

    def _of_one_depth(self, records: Sequence[Record]) -> "Figure":
        def along(curve: str, x: str, y: str, factor: float = 1.0, scale: str = "linear") -> "Draw":
            def draw(axis: "Axes") -> None:
                curves_per_method(axis, records, self.methods, curve, factor=factor)
                axis.set_yscale(scale)
                axis.set(xlabel=x, ylabel=y)

            return draw

        return panels(
            self.title,
            [
                along("val_accuracy", "epoch", "validation accuracy (%)", 100),
                along("rates", "hidden layer", "rate before training (Hz)"),
                along("gradients", "hidden layer", "gradient norm before training", scale="log"),
            ],
        )
