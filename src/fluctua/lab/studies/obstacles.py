"""Twenty layers: the obstacles on plain Randman, removed one by one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from fluctua.lab.networks import FullyConnected
from fluctua.lab.studies.learning import LearningStudy
from fluctua.lab.studies.methods import RELAY, SHARE
from fluctua.lab.studies.plotting import cases_across, panels
from fluctua.lab.studies.task import RandmanTask
from fluctua.lab.sweeps.study import Outcome, Record, Setting
from fluctua.lab.sweeps.sweep import grid
from fluctua.neurons import SuperSpike
from fluctua.theory import Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LONG: Mapping[str, Any] = {"duration": 0.6, "heard": 0.2}
CASES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "3 layers": {"depth": 3},
        "20 layers": {},
        "time": _LONG,
        "gradient": {"beta": 9.0},
        "time + gradient": {**_LONG, "beta": 9.0},
        "time + gradient + xi = 0.5": {**_LONG, "beta": 9.0, "xi": 0.5},
        "time + gradient + xi = 0.5 + smooth": {**_LONG, "beta": 9.0, "xi": 0.5, "alpha": 3.0},
    }
)
"""What differs from the paper's setting: 20 layers, 0.2 s, a surrogate of beta = 20, xi = 1, alpha = 1."""


@dataclass(frozen=True, kw_only=True)
class Obstacles(LearningStudy):
    """Twenty layers, with more and more obstacles removed.

    Attributes:
        width: neurons of a hidden layer.
        cases: of `CASES`.
        methods: by name.
    """

    title: ClassVar[str] = "Twenty layers: what stands in their way"
    about: ClassVar[str] = (
        "Fully connected networks of twenty layers on Randman. Step by step, the trial goes on for 0.4 s after the "
        "input (time), the surrogate is one that keeps the gradient's size (beta = 9 at 2 ms), the target is xi = 0.5, "
        "and the manifolds are smooth (alpha = 3, another and easier task)."
    )

    lrs: tuple[float, ...] = (1e-3, 2e-3, 5e-3)
    task: RandmanTask = RandmanTask()  # noqa: RUF009 - frozen
    width: int = 128
    cases: tuple[str, ...] = tuple(CASES)
    methods: tuple[str, ...] = ("poisson", "measured", SHARE, RELAY)
    lists: ClassVar[frozenset[str]] = LearningStudy.lists | {"cases"}

    def grid(self) -> list[Setting]:
        return grid(case=self.cases, method=self.methods, lr=self.lrs)

    def network(self, setting: Setting) -> FullyConnected:
        case = CASES[str(setting["case"])]
        return FullyConnected(
            width=self.width, depth=case.get("depth", 20), surrogate=SuperSpike(case.get("beta", 20.0))
        )

    def target(self, setting: Setting) -> Target:
        return Target(xi=CASES[str(setting["case"])].get("xi", 1.0))

    def run(self, setting: Setting, seed: int, data: Path | None) -> Outcome:
        case = CASES[str(setting["case"])]
        changes = {name: value for name, value in case.items() if name in ("duration", "heard", "alpha")}
        if not changes:
            return super().run(setting, seed, data)
        return replace(self, task=replace(self.task, **changes)).plainly(setting, seed, data)

    def plainly(self, setting: Setting, seed: int, data: Path | None) -> Outcome:
        """A run on the study's own task."""
        return super().run(setting, seed, data)

    def figure(self, records: Sequence[Record]) -> "Figure":

        def accuracy(axis: "Axes") -> None:
            cases_across(axis, records, self.methods, self.cases, "test", factor=100)
            axis.set_xlim(0, 100)
            axis.set(xlabel="test accuracy (%)")

        return panels(self.title, [accuracy])
