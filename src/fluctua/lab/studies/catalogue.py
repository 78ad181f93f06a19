"""The studies by name, each in full and in a version of minutes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from fluctua.lab.networks import ModernRecurrent
from fluctua.lab.recipes import RECIPES
from fluctua.lab.studies.ablation import Ablation
from fluctua.lab.studies.conv import (
    CONV_CIFAR10,
    CONV_DVS,
    CONV_SHD,
    SMALL_CONV_CIFAR10,
    SMALL_CONV_DVS,
    SMALL_CONV_DVS_DEEP,
    SMALL_CONV_SHD,
    SMALL_WIDE_CONV_CIFAR10,
    SMALL_WIDE_CONV_DVS,
    SMALL_WIDE_CONV_SHD,
    WIDE_CONV_DVS,
    WIDE_CONV_SHD,
)
from fluctua.lab.studies.dale import DaleNets
from fluctua.lab.studies.depth import Depth
from fluctua.lab.studies.depth_in_time import DepthInTime
from fluctua.lab.studies.digits import Digits
from fluctua.lab.studies.direct import DirectStates, DirectVGGs
from fluctua.lab.studies.filters import Filters
from fluctua.lab.studies.image_task import CIFAR10Task
from fluctua.lab.studies.modern import Modern
from fluctua.lab.studies.obstacles import Obstacles
from fluctua.lab.studies.rates import Rates
from fluctua.lab.studies.recurrence import Recurrence
from fluctua.lab.studies.robustness import Robustness
from fluctua.lab.studies.shallow import Shallow
from fluctua.lab.studies.speakers import Speakers
from fluctua.lab.studies.states import States
from fluctua.lab.studies.targets import Targets
from fluctua.lab.studies.task import FSDD, SHD, FileTask, RandmanTask
from fluctua.lab.studies.theory import Theory
from fluctua.lab.studies.time_constants import TimeConstants
from fluctua.lab.studies.training import MixedRecipe, Recipe
from fluctua.lab.sweeps.study import Study


@dataclass(frozen=True)
class Pair:
    """A study in full, and in a version that takes minutes on two cores."""

    full: Study
    small: Study


_RANDMAN = RandmanTask(samples_per_class=200, batch_size=50)
_HARD = RandmanTask(n_classes=20, dim=2, alpha=0.5, samples_per_class=200)
_DIGITS = FileTask(train=FSDD.train, test=FSDD.test, dt=4e-3, pool=7, batch_size=64)
"""Spoken digits at a quarter of the cost: 100 channels, 4 ms."""
_VOICES = replace(FSDD, dt=5e-3, pool=5, binary=False, batch_size=64, shift=20, stretch=0.15)
"""Spoken digits in 140 channels, as counts; pitch and tempo change from epoch to epoch."""
_LRS = (5e-3, 2e-2)
_SMOOTH = RandmanTask(alpha=3.0, dt=4e-3, duration=0.4, heard=0.2, samples_per_class=400, batch_size=50)
"""Smooth manifolds, presented for 0.2 s; the trial goes on for as long again."""
_FILES = Recipe(epochs=100, bounds="shd", reach=0.5)
_FEW_EPOCHS = Recipe(epochs=15, bounds="shd", reach=0.5)
_ON_SHD: Mapping[str, Any] = {"task": SHD, "recipe": _FILES, "seconds_per_epoch": 30.0}
_ON_DIGITS: Mapping[str, Any] = {"task": _DIGITS, "recipe": _FEW_EPOCHS, "lrs": _LRS[:1], "seconds_per_epoch": 1.2}


def _modern(epochs: int) -> MixedRecipe:
    ingredients = replace(RECIPES["modern"], loss="mean_over_time")
    return MixedRecipe(epochs=epochs, ingredients=ingredients, reach=0.5, measured_on=64)


def _direct(epochs: int) -> MixedRecipe:
    ingredients = replace(RECIPES["plain"], loss="mean_over_time")
    return MixedRecipe(epochs=epochs, ingredients=ingredients, reach=0.3, bounds="cifar10_conv", measured_on=64)


_IN_TIME = DepthInTime(
    task=_SMOOTH,
    recipe=Recipe(epochs=40),
    lrs=(5e-4, 1e-3, 2e-3),
    depths=(3, 6, 12, 20),
    methods=("kaiming", "poisson", "measured"),
    beta=3.0,
    xi=0.5,
    seconds_per_epoch=0.35,
)
_SHALLOW = Shallow(recipe=Recipe(epochs=40), lrs=(5e-3, 2e-2, 5e-2))
_SMALL_SHALLOW = Shallow(
    task=_RANDMAN, recipe=Recipe(epochs=5), lrs=_LRS, sigmas=(0.05, 0.2, 0.5, 1.0, 2.0, 5.0), seconds_per_epoch=0.27
)

STUDIES: Mapping[str, Pair] = MappingProxyType(
    {
        "theory": Pair(Theory(), Theory(samples=8, width=200, duration=1.0, further_xis=(0.5, 1.5, 2.5))),
        "shallow": Pair(_SHALLOW, _SMALL_SHALLOW),
        "shallow-shd": Pair(
            replace(_SHALLOW, task_name="shd", **_ON_SHD),
            replace(_SMALL_SHALLOW, task_name="fsdd", task=FSDD, recipe=replace(_FILES, epochs=3)),
        ),
        "depth": Pair(
            Depth(),
            Depth(task=_RANDMAN, recipe=Recipe(epochs=10), seconds_per_epoch=0.27),
        ),
        "depth-fsdd": Pair(
            Depth(task=FSDD, recipe=_FILES, depths=(1, 3, 6, 10), seconds_per_epoch=5.0),
            replace(Depth(**_ON_DIGITS, depths=(3,)), recipe=replace(_FEW_EPOCHS, epochs=10)),
        ),
        "depth-hard": Pair(
            Depth(task=_HARD, recipe=Recipe(reach=0.5), seconds_per_epoch=0.5),
            Depth(
                task=replace(_HARD, samples_per_class=100, batch_size=50),
                recipe=Recipe(epochs=15, reach=0.5),
                lrs=_LRS[:1],
                depths=(1, 3, 6),
                seconds_per_epoch=0.27,
            ),
        ),
        "depth-time": Pair(
            replace(_IN_TIME, task=replace(_SMOOTH, samples_per_class=1000)),
            replace(_IN_TIME, recipe=Recipe(epochs=30), depths=(3, 20), lrs=(1e-3,)),
        ),
        "depth-time-fsdd": Pair(
            DepthInTime(
                task=replace(FSDD, duration=0.8), recipe=_FILES, depths=(1, 3, 6, 12, 20), seconds_per_epoch=5.0
            ),
            DepthInTime(
                task=replace(_DIGITS, duration=0.8, batch_size=32),
                width=64,
                recipe=replace(_FEW_EPOCHS, epochs=12),
                lrs=(1e-3,),
                depths=(3, 12, 20),
                methods=("kaiming", "poisson", "measured"),
                seconds_per_epoch=0.3,
            ),
        ),
        "targets": Pair(
            Targets(),
            Targets(
                task=_RANDMAN, recipe=Recipe(epochs=10), lrs=_LRS, xis=(0.5, 1.0, 2.0, 3.0), seconds_per_epoch=0.27
            ),
        ),
        "speakers": Pair(
            Speakers(task=_VOICES, recipe=_modern(100), lrs=(5e-3, 2e-2, 5e-2), seconds_per_epoch=5.0),
            Speakers(task=_VOICES, recipe=_modern(30), lrs=(2e-2,), seconds_per_epoch=3.0),
        ),
        "recurrence": Pair(Recurrence(**_ON_SHD), Recurrence(**_ON_DIGITS, alphas=(0.3, 0.5, 0.7, 0.9, 0.99))),
        "dale": Pair(DaleNets(task_name="shd", **_ON_SHD), DaleNets(**_ON_DIGITS, means=(-0.5, 0.0), ratios=(2, 4, 8))),
        "conv-shd": Pair(CONV_SHD, SMALL_CONV_SHD),
        "conv-shd-wide": Pair(WIDE_CONV_SHD, SMALL_WIDE_CONV_SHD),
        "conv-cifar10": Pair(CONV_CIFAR10, SMALL_CONV_CIFAR10),
        "conv-dvs": Pair(CONV_DVS, SMALL_CONV_DVS),
        "conv-dvs-deep": Pair(replace(CONV_DVS, networks=("dvs-conv-deep",), beta=9.0), SMALL_CONV_DVS_DEEP),
        "conv-cifar10-wide": Pair(replace(CONV_CIFAR10, networks=("cifar10-conv",)), SMALL_WIDE_CONV_CIFAR10),
        "conv-dvs-wide": Pair(WIDE_CONV_DVS, SMALL_WIDE_CONV_DVS),
        "states": Pair(States(), replace(States(), depths=(1, 5, 20, 100))),
        "filters": Pair(Filters(), Filters()),
        "ablation": Pair(Ablation(), Ablation(task=_RANDMAN, recipe=Recipe(epochs=10), seconds_per_epoch=0.27)),
        "robustness": Pair(Robustness(), Robustness()),
        "digits": Pair(Digits(), replace(Digits(), recipe=replace(Digits().recipe, epochs=10))),
        "obstacles": Pair(
            Obstacles(), Obstacles(task=_RANDMAN, recipe=Recipe(epochs=10), lrs=(2e-3, 5e-3), seconds_per_epoch=0.5)
        ),
        "direct": Pair(
            DirectVGGs(
                task=CIFAR10Task(dt=1.0, duration=4.0, batch_size=64),
                recipe=_direct(50),
                lrs=(2e-4, 5e-4, 2e-3),
                seconds_per_epoch=60.0,
            ),
            DirectVGGs(
                task=CIFAR10Task(
                    dt=1.0, duration=4.0, batch_size=32, per_class=200, test_per_class=100, val_fraction=0.2
                ),
                width=16,
                recipe=_direct(10),
                lrs=(5e-4, 2e-3),
                seconds_per_epoch=1.0,
            ),
        ),
        "direct-states": Pair(DirectStates(), DirectStates()),
        "rates": Pair(Rates(), Rates(task=_RANDMAN, recipe=Recipe(epochs=5), lrs=_LRS[:1], seconds_per_epoch=0.27)),
        "time-constants": Pair(TimeConstants(**_ON_SHD), TimeConstants(**_ON_DIGITS)),
        "modern": Pair(
            Modern(),
            Modern(
                task=replace(FSDD, dt=5e-3, duration=0.5, pool=5, batch_size=64, shift=10),
                task_name="fsdd",
                network=ModernRecurrent(width=256, dropout=0.2),
                modern=replace(RECIPES["modern"], lr=2e-2),
                epochs=10,
                seconds_per_epoch=1.5,
            ),
        ),
    }
)
