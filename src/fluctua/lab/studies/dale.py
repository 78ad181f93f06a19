"""Networks under Dale's law: weight law, mean potential, and neurons per inhibitory neuron."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from fluctua.lab.looks import looks
from fluctua.lab.networks import Dale
from fluctua.lab.studies.learning import LearningStudy
from fluctua.lab.studies.methods import LABELS
from fluctua.lab.studies.plotting import dots_per_method, level, line, panels
from fluctua.lab.sweeps.study import Record, Reference, Setting, Value
from fluctua.lab.sweeps.sweep import grid
from fluctua.theory import Target
from fluctua.theory.laws import Exponential, LogNormal, OneSided

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Draw = Callable[[Axes], None]

FAMILIES: Mapping[str, OneSided] = MappingProxyType({"exponential": Exponential(), "lognormal": LogNormal(1.0)})
"""The weight laws of the paper."""


@dataclass(frozen=True, kw_only=True)
class DaleNets(LearningStudy):
    """One recurrent layer of excitatory and inhibitory neurons, varied around a standard setting on each axis.

    Attributes:
        width: excitatory neurons.
        families: weight laws by name, each with every method.
        means: targets for mu_U, with the first weight law.
        ratios: excitatory neurons per inhibitory one, likewise.
        ratio: ratio of the other settings, the paper's.
        methods: methods with a target.
        baselines: methods without a target.
        xi: target.
    """

    title: ClassVar[str] = "Dale networks: accuracy by weight law, mean potential and E/I ratio"
    about: ClassVar[str] = (
        "A recurrent layer of excitatory and inhibitory neurons is initialised by the formula of the paper, by "
        "measurement with balance, and by baselines: with exponential and log-normal weights, with several targets "
        "mu_U, and with several numbers of excitatory neurons per inhibitory one. Of several learning rates one is "
        "chosen for each setting by validation accuracy, the epoch of each run too; the test data are used "
        "once. A method whose training fails, or that refuses its target, counts as failed."
    )
    references: ClassVar[tuple[Reference, ...]] = (
        Reference(
            {"method": "poisson", "family": "exponential", "mu_u": 0.0, "ratio": 4, "task": "shd"},
            "test",
            0.834,
            "notebook 04 of the authors: SHD, 200 epochs of SMORMS3 with activity bounds, one run, accuracy averaged "
            "over batches",
        ),
    )

    task_name: str = "fsdd"
    width: int = 128
    families: tuple[str, ...] = ("exponential", "lognormal")
    means: tuple[float, ...] = (-1.0, -0.5, 0.0, 0.5)
    ratios: tuple[int, ...] = (1, 2, 4, 8)
    ratio: int = 4
    methods: tuple[str, ...] = ("poisson", "measured")
    baselines: tuple[str, ...] = ("kaiming-folded", "ei-init")
    xi: float = 1.0

    def grid(self) -> list[Setting]:
        base: dict[str, Sequence[Value]] = {
            "task": (self.task_name,),
            "family": self.families[:1],
            "mu_u": (0.0,),
            "ratio": (self.ratio,),
        }
        given: dict[str, Sequence[Value]] = {"method": self.methods, "lr": self.lrs}
        settings = [
            *grid(**base | {"family": self.families} | given),
            *grid(**base | {"mu_u": self.means} | given),
            *grid(**base | {"ratio": self.ratios} | given),
            *grid(**base | {"mu_u": (None,), "method": self.baselines, "lr": self.lrs}),
        ]
        return [setting for i, setting in enumerate(settings) if setting not in settings[:i]]

    def network(self, setting: Setting) -> Dale:
        family, ratio = FAMILIES[str(setting["family"])], int(setting["ratio"] or self.ratio)
        return replace(Dale(), width=self.width, family=family, ratio=ratio)

    def target(self, setting: Setting) -> Target:
        return Target(mean=float(setting["mu_u"] or 0.0), xi=self.xi)

    def figure(self, records: Sequence[Record]) -> "Figure":
        family = self.families[0]

        def against(x: str, label: str, **fixed: float) -> "Draw":
            def draw(axis: "Axes") -> None:
                for method, look in looks((*self.methods, *self.baselines)).items():
                    here = [r for r in records if r.axis("method") == method and r.axis("family") == family]
                    if method in self.methods:
                        at = [r for r in here if all(r.axis(name) == value for name, value in fixed.items())]
                        line(axis, at, x, "test", factor=100, label=LABELS[method], **look)
                    else:
                        level(axis, here, "test", factor=100, label=LABELS[method], color=look["color"])
                axis.set(xlabel=label, ylabel="test accuracy (%)")

            return draw

        def by_family(axis: "Axes") -> None:
            at = [r for r in records if r.axis("ratio") == self.ratio and not r.axis("mu_u")]
            methods = (*self.methods, *self.baselines)
            dots_per_method(axis, at, methods, "family", self.families, "test", factor=100)
            axis.set(xlabel="weight law", ylabel="test accuracy (%)")

        return panels(
            self.title,
            [
                by_family,
                against("mu_u", "target $\\mu_U$", ratio=self.ratio),
                against("ratio", "excitatory neurons per inhibitory one", mu_u=0.0),
            ],
        )
