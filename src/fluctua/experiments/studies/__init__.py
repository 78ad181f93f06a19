"""The studies by name, each as a whole and as one of minutes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from fluctua.experiments.studies.depth import Depth
from fluctua.experiments.studies.shallow import Shallow
from fluctua.experiments.studies.task import FSDD, SHD, FileTask, RandmanTask, Task
from fluctua.experiments.studies.theory import Theory
from fluctua.experiments.studies.training import Recipe
from fluctua.experiments.sweep import Study

__all__ = ["FSDD", "SHD", "STUDIES", "Depth", "FileTask", "Pair", "RandmanTask", "Recipe", "Shallow", "Task", "Theory"]


@dataclass(frozen=True)
class Pair:
    """A study as a whole, and as one of minutes on two cores."""

    full: Study
    small: Study


_FEW_SAMPLES = RandmanTask(samples_per_class=200, batch_size=50)
_SHORT = Recipe(epochs=5)
_ON_FILES = Recipe(bounds="shd", reach=0.5)

_SHALLOW = Shallow()
_SMALL_SHALLOW = Shallow(
    task=_FEW_SAMPLES,
    recipe=_SHORT,
    lrs=(5e-3, 2e-2),
    sigmas=(0.05, 0.2, 0.5, 1.0, 2.0, 5.0),
    seconds_per_epoch=0.27,
)
_DEPTH = Depth()
_SMALL_DEPTH = Depth(
    task=_FEW_SAMPLES, recipe=Recipe(epochs=10), lrs=(5e-3, 2e-2), depths=(1, 3, 6, 10), seconds_per_epoch=0.27
)
_FILES = {"recipe": _ON_FILES, "lrs": (5e-3, 2e-2)}

STUDIES: Mapping[str, Pair] = MappingProxyType(
    {
        "theory": Pair(Theory(), Theory(samples=8, width=200, duration=1.0, further_xis=(0.5, 1.5, 2.5))),
        "shallow": Pair(_SHALLOW, _SMALL_SHALLOW),
        "shallow-shd": Pair(
            replace(_SHALLOW, task=SHD, task_name="shd", recipe=_ON_FILES, seconds_per_epoch=30.0),
            replace(_SMALL_SHALLOW, task=FSDD, task_name="fsdd", recipe=replace(_ON_FILES, epochs=3)),
        ),
        "depth": Pair(_DEPTH, _SMALL_DEPTH),
    }
)
