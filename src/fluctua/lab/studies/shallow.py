"""Shallow networks: how much the initial sigma_U matters with one hidden layer, and how the baselines compare."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fluctua.lab.looks import looks
from fluctua.lab.networks import FullyConnected
from fluctua.lab.studies.learning import LearningStudy
from fluctua.lab.studies.methods import LABELS
from fluctua.lab.studies.plotting import line, panels
from fluctua.lab.sweeps.study import Record, Reference, Setting
from fluctua.lab.sweeps.sweep import grid
from fluctua.theory import Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Shallow(LearningStudy):
    """One hidden layer; the targets of the methods that have one, and baselines that have none.

    Attributes:
        task_name: in the settings.
        width: neurons of the hidden layer.
        methods: methods with a target.
        sigmas: targets for sigma_U.
        baselines: methods without a target.
    """

    title: ClassVar[str] = "Shallow networks: accuracy and initial gradients against sigma_U"
    about: ClassVar[str] = (
        "One hidden layer is initialised to several targets sigma_U by the formula of the paper and by measurement "
        "with balance, and by baselines, which have no target and are drawn where their sigma_U is found. "
        "Measurement refuses targets so small that no spike reaches the readout: such runs count as failed. Of "
        "several learning rates one is chosen for each setting by validation accuracy, the epoch of each run too; the "
        "test data are used once. The seed draws the task (if it is synthetic), the weights and the order of "
        "training."
    )
    references: ClassVar[tuple[Reference, ...]] = (
        Reference(
            {"method": "poisson", "sigma_u": 1.0, "task": "randman"},
            "test",
            0.963,
            "notebook 01 of the authors: 200 epochs of SMORMS3 with activity bounds, one run, accuracy averaged over "
            "batches, validation and test samples in the standardisation",
        ),
    )

    task_name: str = "randman"
    width: int = 128
    methods: tuple[str, ...] = ("poisson", "measured")
    sigmas: tuple[float, ...] = (0.05, 0.1, 0.2, 1 / 3, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0)
    baselines: tuple[str, ...] = ("kaiming", "kaiming-relu", "xavier", "torch", "ding", "micheli", "spikeinit", "lsuv")

    def grid(self) -> list[Setting]:
        return [
            *grid(task=(self.task_name,), method=self.methods, sigma_u=self.sigmas, lr=self.lrs),
            *grid(task=(self.task_name,), method=self.baselines, sigma_u=(None,), lr=self.lrs),
        ]

    def network(self, setting: Setting) -> FullyConnected:
        return FullyConnected(width=self.width, depth=1)

    def target(self, setting: Setting) -> Target:
        sigma = setting["sigma_u"]
        return Target() if sigma is None else Target(sigma=float(sigma))

    def figure(self, records: Sequence[Record]) -> "Figure":

        def accuracy(axis: "Axes") -> None:
            self._draw(axis, records, "test", 100, filled=True)
            axis.set(ylabel="test accuracy (%)", title="after training")

        def gradients(axis: "Axes") -> None:
            self._draw(axis, records, "gradient_first", 1, filled=True)
            self._draw(axis, records, "gradient_readout", 1, filled=False)
            axis.set_yscale("log")
            axis.set(ylabel="gradient norm", title="before training; hollow: readout")

        return panels(self.title, [accuracy, gradients])

    def _draw(self, axis: "Axes", records: Sequence[Record], measure: str, factor: float, *, filled: bool) -> None:
        for method, look in looks((*self.methods, *self.baselines)).items():
            here = [r for r in records if r.axis("method") == method]
            face: dict[str, Any] = {} if filled else {"mfc": "white"}
            label: dict[str, Any] = {"label": LABELS[method]} if filled else {}
            if method in self.methods:
                line(axis, here, "sigma_u", measure, factor=factor, **look, **face, **label)
            else:
                x = [r.values["sigma_u"] for r in here]
                y = [factor * r.values[measure] for r in here]
                axis.plot(x, y, ms=4, **look | face | label | {"ls": ""})
        axis.set_xscale("log")
        axis.set_xlabel("$\\sigma_U$ before training")
