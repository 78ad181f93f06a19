"""Spoken digits with all networks of the paper: the effect of the initial state on recordings, network by network."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar

from fluctua.lab.networks import NETWORKS, Architecture, ModernRecurrent
from fluctua.lab.studies.methods import COMPARED
from fluctua.lab.studies.speakers import Speakers
from fluctua.lab.studies.task import FSDD, Task
from fluctua.lab.studies.training import Recipe
from fluctua.lab.sweeps.study import Reference, Setting

ADAPTIVE = "adaptive"
"""A network like that of Baronig et al. 2025 (SE-adLIF): two recurrent layers of 360 adaptive neurons, no norm."""

_MORE: Mapping[str, Architecture] = MappingProxyType(
    {ADAPTIVE: ModernRecurrent(width=360, depth=2, dropout=0.15, spread=0.0, adaptation=1.0)}
)
_PAPER = "notebooks of the authors, one run on SHD (English and German, 8156 training samples, 2 ms, SMORMS3)"


@dataclass(frozen=True, kw_only=True)
class Digits(Speakers):
    """`Speakers` with the paper's recipe: no augmentation, maximum over time, every network at full width."""

    title: ClassVar[str] = "Spoken digits: accuracy by network and initialiser"
    about: ClassVar[str] = (
        "All training recordings, in the networks of the paper at its numbers of neurons and filters, and in an "
        "adaptive network without normalisation. All methods have the same epochs and learning rates, one of which is "
        "chosen for each network and method by validation accuracy on the first seeds, the epoch of each run too; the "
        "test data are used once. Known speakers are those of the training data."
    )
    references: ClassVar[tuple[Reference, ...]] = (
        Reference({"network": "fc", "method": "poisson"}, "test", 0.550, f"{_PAPER}; 100 epochs"),
        Reference({"network": "shd-conv", "method": "poisson"}, "test", 0.827, f"{_PAPER}; 200 epochs"),
        Reference({"network": "dale", "method": "poisson"}, "test", 0.834, f"{_PAPER}; 200 epochs"),
        Reference(
            {"network": "shd-conv-deep", "method": "poisson"},
            "test",
            0.809,
            "Rossbroich et al. 2022, as quoted by others: SHD, 300 epochs, 80.9 +- 1.2 %, Kaiming 4.5 %",
        ),
    )

    task: Task = replace(FSDD, dt=4e-3)  # noqa: RUF009 - frozen
    recipe: Recipe = Recipe(epochs=20, bounds="shd", reach=0.5)  # noqa: RUF009 - frozen
    networks: tuple[str, ...] = ("fc", "shd-conv", "shd-conv-deep", "dale", ADAPTIVE)
    methods: tuple[str, ...] = COMPARED
    dale_methods: tuple[str, ...] = ("kaiming-folded", "ei-init", "poisson", "measured")
    seconds_per_epoch: float = 6.0

    def network(self, setting: Setting) -> Architecture:
        name = str(setting["network"])
        return _MORE[name] if name in _MORE else NETWORKS[name]
