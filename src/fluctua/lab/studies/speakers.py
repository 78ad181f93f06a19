"""Spoken digits: accuracy on speakers in the training data, and on one who is not."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fluctua.lab.networks import NETWORKS, Architecture, Dale
from fluctua.lab.studies.learning import LearningStudy
from fluctua.lab.studies.plotting import dots_per_method, panels
from fluctua.lab.studies.task import FSDD, Task
from fluctua.lab.studies.training import MEASURES
from fluctua.lab.sweeps.study import Measure, Record, Setting
from fluctua.lab.sweeps.sweep import grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Draw = Callable[[Axes], None]

KNOWN, UNHEARD = "known speakers", "unheard speakers"
"""The further test sets of `SpikeDataModule.from_shd_files`."""


@dataclass(frozen=True, kw_only=True)
class Speakers(LearningStudy):
    """Networks on recordings whose test file has speakers that the training file lacks.

    Attributes:
        networks: their names in `lab.networks`.
        methods: for networks whose weights take either sign.
        dale_methods: for those under Dale's law.
    """

    title: ClassVar[str] = "Known and unheard speakers: accuracy by network and initialiser"
    about: ClassVar[str] = (
        "Fully connected, recurrent convolutional and Dale networks learn spoken digits, each initialised by several "
        "methods; test samples of speakers who are in the training data count apart from those of speakers who are "
        "not. Of several learning rates one is chosen for each network and method by validation accuracy, on speakers "
        "of the training data, the epoch of each run too; the test data are used once."
    )
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure(KNOWN, "test accuracy on known speakers (%)", factor=100, spec=".1f", within=(0, 1)),
        Measure(UNHEARD, "test accuracy on unheard speakers (%)", factor=100, spec=".1f", within=(0, 1)),
        *MEASURES,
    )

    task: Task = FSDD
    networks: tuple[str, ...] = ("fc", "audio-conv", "dale")
    methods: tuple[str, ...] = ("kaiming", "poisson", "measured")
    dale_methods: tuple[str, ...] = ("kaiming-folded", "poisson", "measured")

    def grid(self) -> list[Setting]:
        return [setting for name in self.networks for setting in self._of(name)]

    def _of(self, name: str) -> Iterator[Setting]:
        methods = self.dale_methods if isinstance(self.network({"network": name}), Dale) else self.methods
        yield from grid(network=(name,), method=methods, lr=self.lrs)

    def network(self, setting: Setting) -> Architecture:
        return NETWORKS[str(setting["network"])]

    def figure(self, records: Sequence[Record]) -> "Figure":

        def accuracy(measure: str, title: str) -> "Draw":
            def draw(axis: "Axes") -> None:
                methods = dict.fromkeys((*self.methods, *self.dale_methods))
                dots_per_method(axis, records, methods, "network", self.networks, measure, factor=100)
                axis.set(xlabel="network", ylabel="test accuracy (%)", title=title)

            return draw

        return panels(self.title, [accuracy(KNOWN, KNOWN), accuracy(UNHEARD, UNHEARD)])
