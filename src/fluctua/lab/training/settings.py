"""Settings of a training run, its result, and its errors; no Lightning here."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fluctua.homeostasis import ActivityBound
from fluctua.homeostasis.optimizers import optimizer_by_name
from fluctua.lab.training.losses import loss_by_name
from fluctua.lab.training.schedules import Schedule
from fluctua.theory.psp import number

Row = dict[str, float]
"""One epoch of the history: a row of `metrics.csv`."""


class TrainingInterrupted(KeyboardInterrupt):
    """Training was interrupted by Ctrl-C or SIGTERM; the message says how to resume."""


@dataclass(frozen=True)
class TrainSettings:
    """How to train; the defaults are the paper's.

    Attributes:
        epochs: passes over the training data.
        lr: learning rate.
        optimizer: name of the optimiser, see `make_optimizer`.
        optimizer_options: its further options, such as `{"weight_decay": 1e-4}`.
        loss: name of the loss, see `LOSSES`.
        schedule: "constant", or "cosine": from `lr` to zero along half a cosine; see `Schedule`.
        warmup: epochs over which the learning rate first rises from zero to `lr`.
        regularizers: bounds on the activity of every spiking population, see `paper_bounds`.
        seed: not negative; everything random in an epoch follows from seed and epoch.
        max_minutes: time limit. No epoch starts that would exceed it, judged by the last one; only the first epoch may
            be cut short.
        patience: number of epochs without a better validation accuracy (for values: a smaller validation loss) after
            which to stop.
        gradient_clip: largest 2-norm of the gradient.
        progress: show a progress bar.
        monitor: steps between observations of a `fluctua.Monitor`, which writes `monitor.jsonl`; None for no monitor.
            While it observes, fused layers run unfused, which may change the last bits of weights.
    """

    epochs: int = 100
    lr: float = 5e-3
    optimizer: str = "smorms3"
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    loss: str = "max_over_time"
    schedule: str = "constant"
    warmup: float = 0.0
    regularizers: tuple[ActivityBound, ...] = ()
    seed: int = 0
    max_minutes: float | None = None
    patience: int | None = None
    gradient_clip: float | None = None
    progress: bool = True
    monitor: int | None = None

    def __post_init__(self) -> None:
        loss_by_name(self.loss)
        optimizer_by_name(self.optimizer)
        object.__setattr__(self, "regularizers", tuple(self.regularizers))
        for name, least in (("epochs", 1), ("patience", 1), ("monitor", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= least):
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        for name in ("lr", "max_minutes", "gradient_clip"):
            value = getattr(self, name)
            if value is not None and not 0 < number(value) < math.inf:
                raise ValueError(f"{name} must be a positive number, got {value!r}")
        Schedule(self.schedule, self.epochs, self.warmup)

    @property
    def lr_schedule(self) -> Schedule:
        """The schedule of the learning rate."""
        return Schedule(self.schedule, self.epochs, self.warmup)

    def plain(self) -> dict[str, Any]:
        """All settings as plain data for JSON."""
        return dict(json.loads(json.dumps(dataclasses.asdict(self))))

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "TrainSettings":
        """The inverse of `plain`."""
        return cls(**{**plain, "regularizers": [ActivityBound(**bound) for bound in plain["regularizers"]]})

    def decisive(self) -> dict[str, Any]:
        """The settings that decide the weights after each epoch."""
        idle = {"epochs", "schedule", "warmup"} if self.lr_schedule.constant else set[str]()
        return {key: value for key, value in self.plain().items() if key not in idle | _HOW_LONG}


_HOW_LONG = frozenset({"max_minutes", "patience", "progress", "monitor"})


@dataclass(frozen=True)
class FitResult:
    """The result of a training run.

    Attributes:
        history: one row per finished epoch, as in `metrics.csv`.
        test: accuracy on each test set by name, with the weights of the best epoch; for values their squared error.
        best_epoch: the epoch, from 1, with the best validation accuracy, or for values the smallest validation loss;
            the last one if nothing was validated.
        out_dir: folder of the run's files.
        seconds: time spent training, over all resumptions.
    """

    history: list[Row]
    test: dict[str, float]
    best_epoch: int
    out_dir: Path
    seconds: float


def best_epoch(history: list[Row]) -> int:
    """The first epoch with the best validation, see `FitResult`; without validation the last epoch; 0 if none."""
    validated = [row for row in history if "val_loss" in row]
    if not validated:
        return len(history)
    return int(max(validated, key=lambda row: row.get("val_accuracy", -row["val_loss"]))["epoch"])
