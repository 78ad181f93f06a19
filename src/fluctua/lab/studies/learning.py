"""The base class of studies that train networks: a task, a recipe, learning rates to choose from, and a run."""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fluctua.lab.networks import Architecture
from fluctua.lab.studies.task import RandmanTask, Task
from fluctua.lab.studies.training import MEASURES, Recipe, trained
from fluctua.lab.sweeps.study import Measure, Outcome, Setting, Study
from fluctua.theory import Target

LISTS = frozenset({"methods", "baselines", "dale_methods", "networks", "depths", "lrs", "seconds_per_epoch"})
"""Fields of the studies that only list settings or state times: see `Study.lists`."""


@dataclass(frozen=True, kw_only=True)
class LearningStudy(Study):
    """Networks that are initialised and trained; the axes `method` and `lr` are in every setting.

    Attributes:
        task: what is learned.
        recipe: how the networks are trained.
        lrs: learning rates; for each setting the best on validation data is used, chosen by the first seeds.
        seconds_per_epoch: of one hidden layer, on one core; an estimate.
    """

    measures: ClassVar[tuple[Measure, ...]] = MEASURES
    chosen: ClassVar[tuple[str, ...]] = ("lr",)
    criterion: ClassVar[str] = "val"
    compared_to: ClassVar[str] = "measured"
    lists: ClassVar[frozenset[str]] = LISTS
    choose_by: ClassVar[int | None] = 2

    task: Task = RandmanTask()  # noqa: RUF009 - frozen
    recipe: Recipe = Recipe()  # noqa: RUF009 - frozen
    lrs: tuple[float, ...] = (2e-3, 5e-3, 2e-2)
    seconds_per_epoch: float = 1.2

    @property
    def files(self) -> tuple[str, ...]:
        return self.task.files

    @abstractmethod
    def network(self, setting: Setting) -> Architecture:
        """What is trained."""

    def target(self, setting: Setting) -> Target:
        """The target of the initial state, for methods that have one."""
        return Target()

    def alpha(self, setting: Setting) -> float:
        """The feed-forward share of the variance, if there is recurrence."""
        return 0.9

    def nu(self, setting: Setting) -> float | None:
        """The rate of all afferents in Hz, for the formula of the paper; None to measure that of the input."""
        return None

    def seconds(self, setting: Setting) -> float:
        depth = float(getattr(self.network(setting), "depth", 1))
        return 2 + self.seconds_per_epoch * self.recipe.epochs * depth

    def run(self, setting: Setting, seed: int, data: Path | None) -> Outcome:
        lr = setting["lr"]
        assert isinstance(lr, float)
        return trained(
            self.task,
            self.network(setting),
            self.recipe,
            method=str(setting["method"]),
            target=self.target(setting),
            alpha=self.alpha(setting),
            nu=self.nu(setting),
            lr=lr,
            seed=seed,
            data=data,
        )
