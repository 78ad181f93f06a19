"""Callbacks of a run: checkpoints, patience and a time limit, each derived from Lightning's.

They assume one process, and passes over data that `Recorder.begin_pass` has seeded.
"""

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch import Tensor
from typing_extensions import override

from fluctua.lab.training.description import Description
from fluctua.lab.training.folder import FORMAT, RunFolder, weights_of
from fluctua.lab.training.isolation import seed_all
from fluctua.lab.training.module import SpikingClassifier
from fluctua.lab.training.settings import Row, TrainSettings, best_epoch

try:
    import lightning
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer
except ImportError as error:
    raise ImportError('training needs lightning, which is missing: pip install "fluctua[train]".') from error


NOWHERE = os.path.abspath(os.sep)
"""For Lightning in the place of the run's folder: which reads `~` and `::` in names, and writes nothing itself."""


class Recorder(ModelCheckpoint):
    """Writes every finished epoch to disk in one step, as `last.ckpt`, and makes each pass over data repeatable."""

    def __init__(
        self,
        folder: RunFolder,
        settings: TrainSettings,
        description: Description,
        record: dict[str, Any] | None,
        timer: Timer,
    ) -> None:
        super().__init__(
            NOWHERE,
            folder.checkpoint.stem,
            every_n_epochs=1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self.folder, self.settings, self.description, self.timer = folder, settings, description, timer
        self.history: list[Row] = record["history"] if record else []
        self.best: dict[str, Tensor] = record["best"] if record else {}
        self.seconds: float = record["seconds"] if record else 0.0
        self.resume_from = Path(NOWHERE, folder.checkpoint.name) if record else None
        self.saved = len(self.history)  # epochs that a resumed run need not do again
        self._trainer: lightning.Trainer | None = None
        self._interrupted = False

    def interrupt(self, *_: Any) -> None:
        """Stop at once, or after the batch if Python is in a callback that drops the exception."""
        self._interrupted = True
        raise KeyboardInterrupt

    def _stop_if_interrupted(self) -> None:
        if self._interrupted:
            raise KeyboardInterrupt

    @override
    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._trainer = trainer

    def begin_pass(self, loader: Any) -> None:
        """Seed all draws of the next pass from seed, epoch and stage, and tell the data the epoch."""
        assert self._trainer is not None
        stage = "train" if self._trainer.training else "val" if self._trainer.validating else "test"
        epoch = len(self.history) if stage != "test" else 0
        seed_all(self.settings.seed, epoch, ("train", "val", "test").index(stage))
        if stage == "train":
            data = getattr(self._trainer, "datamodule", None)
            for holder in (data, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
                if set_epoch := getattr(holder, "set_epoch", None):
                    set_epoch(epoch)

    @override
    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        super().on_train_batch_end(*args, **kwargs)
        self._stop_if_interrupted()

    @override
    def on_validation_batch_end(self, *_: Any) -> None:
        self._stop_if_interrupted()

    @override
    def on_test_batch_end(self, *_: Any) -> None:
        self._stop_if_interrupted()

    @override
    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.history.append({"epoch": len(self.history) + 1} | {key: metrics[key] for key in _columns(metrics)})
        is_best = best_epoch(self.history) == len(self.history)
        if is_best:
            assert isinstance(pl_module, SpikingClassifier)
            self.best = weights_of(pl_module.model)
        super().on_train_epoch_end(trainer, pl_module)
        self.saved = len(self.history)
        self.write_what_follows(weights=is_best)

    def write_what_follows(self, *, weights: bool = True) -> None:
        """Rewrite the files that follow from the record, since a kill may have come between it and them."""
        if weights:
            self.folder.save_weights(self.best)
        self.folder.save_metrics(self.history)

    @override
    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.seconds = self.timer.time_elapsed()
        checkpoint["fluctua"] = {
            "format": FORMAT,
            "history": self.history,
            "seconds": self.seconds,
            "run": self.description.plain(),
            "best": self.best,
        }
        checkpoint.pop("datamodule_hyper_parameters", None)  # they may be objects, which a safe load refuses


class Patience(EarlyStopping):
    """Early stopping that a resumed run may change, and that starts no epoch once patience has run out."""

    def __init__(self, patience: int | None) -> None:
        endless = sys.maxsize  # it still counts, since the run may be resumed with a patience
        super().__init__("val_score", mode="max", patience=patience or endless, check_finite=False, strict=False)

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue counting, with the present patience."""
        super().load_state_dict(state_dict | {"patience": self.patience})

    @override
    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        trainer.should_stop = self.wait_count >= self.patience


class TimeLimit(Timer):
    """A timer that starts no epoch expected to exceed the limit, judged by the last one; it cuts only the first short.

    Lightning's timer ends any epoch midway, and counts the time spent before a run was resumed.
    """

    def __init__(self, minutes: float | None) -> None:
        super().__init__(None if minutes is None else timedelta(minutes=minutes))
        self._epoch_start = 0.0

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count all of the run's time, but limit only the time from now on."""
        super().load_state_dict(state_dict)
        if self._duration is not None:
            self._duration += self._offset

    @override
    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._epoch_start = self.time_elapsed()

    @override
    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.current_epoch == 0:
            super().on_train_batch_end(trainer, *args, **kwargs)

    @override
    def on_train_epoch_end(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        left = self.time_remaining()
        if left is not None and left < self.time_elapsed() - self._epoch_start:
            trainer.should_stop = True


def _columns(metrics: dict[str, float]) -> list[str]:
    first = [f"{stage}_{what}" for stage in ("train", "val") for what in ("loss", "accuracy", "penalty")]
    return [name for name in first if name in metrics] + [name for name in metrics if name.startswith("rate_")]
