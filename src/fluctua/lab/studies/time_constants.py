"""Time constants: the same for all neurons, mixed, or learned."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from fluctua.lab.networks import FullyConnected
from fluctua.lab.studies.learning import LearningStudy
from fluctua.lab.studies.plotting import dots_per_method, panels
from fluctua.lab.studies.task import FSDD, Task
from fluctua.lab.sweeps.study import Record, Setting
from fluctua.lab.sweeps.sweep import grid
from fluctua.neurons import LIF, heterogeneous

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SAME, MIXED, LEARNED = "same", "mixed", "mixed and learned"
KINDS = (SAME, MIXED, LEARNED)
"""Time constants of a population: one for all, drawn for each neuron, or drawn and then trained with the weights."""


@dataclass(frozen=True, kw_only=True)
class Heterogeneous(FullyConnected):
    """`FullyConnected` with time constants of one of `KINDS`; drawn ones are the same in every population."""

    kind: str = MIXED

    def cells(self, dt: float) -> Callable[[], LIF]:
        if self.kind == SAME:
            return super().cells(dt)
        tau_mem, tau_syn = (
            heterogeneous(mean, (self.width,), dt=dt, seed=seed)
            for seed, mean in enumerate((self.tau_mem, self.tau_syn))
        )
        return partial(LIF, tau_mem, tau_syn, dt, surrogate=self.surrogate, learn_tau=self.kind == LEARNED)


@dataclass(frozen=True, kw_only=True)
class TimeConstants(LearningStudy):
    """Fully connected networks with time constants of each kind.

    Attributes:
        width: neurons of a hidden layer.
        depth: hidden layers.
        methods: by name.
    """

    title: ClassVar[str] = "Time constants: the same, mixed, learned"
    about: ClassVar[str] = (
        "The neurons of a fully connected network have the same time constants, or each its own, drawn from a gamma "
        "law of shape 3 as in Perez-Nieves et al. (2021), or start from such and learn them. Formula and measurement "
        "give each neuron its own kernel. Of several learning rates one is chosen for each setting by validation "
        "accuracy, the epoch of each run too; the test data are used once."
    )

    task: Task = FSDD
    width: int = 128
    depth: int = 1
    methods: tuple[str, ...] = ("kaiming", "poisson", "measured")

    def grid(self) -> list[Setting]:
        return grid(method=self.methods, time_constants=KINDS, lr=self.lrs)

    def network(self, setting: Setting) -> Heterogeneous:
        return Heterogeneous(width=self.width, depth=self.depth, kind=str(setting["time_constants"]))

    def figure(self, records: Sequence[Record]) -> "Figure":

        def test(axis: "Axes") -> None:
            dots_per_method(axis, records, self.methods, "time_constants", KINDS, "test", factor=100)
            axis.set(xlabel="time constants", ylabel="test accuracy (%)")

        return panels(self.title, [test])
