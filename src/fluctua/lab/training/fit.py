"""Train a model on a Lightning data module, so that the run can be watched, stopped, resumed and repeated."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fluctua.homeostasis.refinement import TrainingDiverged
from fluctua.lab.training.folder import RunFolder, load_checkpoint, save_checkpoint
from fluctua.lab.training.isolation import isolated_randomness, quiet_lightning, seed_all
from fluctua.lab.training.module import SpikingClassifier
from fluctua.lab.training.settings import (
    FitResult,
    Row,
    TrainingInterrupted,
    TrainSettings,
    best_epoch,
)

try:
    import lightning
    from lightning.fabric.plugins import TorchCheckpointIO
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.pytorch.strategies import SingleDeviceStrategy
    from lightning.pytorch.utilities.model_helpers import is_overridden
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
except ImportError as error:
    raise ImportError('training needs lightning and rich: pip install "fluctua[train]".') from error

__all__ = ["FitResult", "TrainSettings", "TrainingDiverged", "TrainingInterrupted", "fit"]


def fit(
    model: nn.Module,
    data: lightning.LightningDataModule,
    *,
    out_dir: str | Path,
    settings: TrainSettings,
    resume: bool = False,
) -> FitResult:
    """Train, keep the weights of the best epoch, and test them once.

    After every epoch `out_dir` holds its row in `metrics.csv`, `last.ckpt` to resume from, and the best weights so far
    as `model.safetensors`; at the end `result.json`. A resumed run ends with the same weights as an uninterrupted one
    as long as what is random in the data comes from the global generators, or from the epoch that is told by
    `set_epoch(epoch)` (0, 1, ...) to the data module or its sampler where they have that method.

    Args:
        model: `[T, B, ...] -> [T, B, C]`, trained in place on the first GPU if there is one; it comes back with the
            weights of the best epoch, in evaluation mode, on the device where it was.
        data: batches `(x [T, B, ...], y [B])` for training, validation and, if it has any, for testing; several test
            loaders are named by `data.test_names`.
        out_dir: folder for the run's files, made if need be.
        settings: how to train.
        resume: go on after the last finished epoch in `out_dir`; if there is none, begin.

    Raises:
        OSError: `out_dir` cannot be written; FileExistsError if it holds a run and `resume` is false.
        ValueError: the run to be resumed had other settings or another model, or its checkpoint is damaged.
        TrainingDiverged: the loss or its gradient is no longer finite.
        TrainingInterrupted: Ctrl-C or SIGTERM; a KeyboardInterrupt.
    """
    folder = RunFolder(Path(out_dir))
    folder.claim(resume=resume)
    record = folder.load_record(model, settings) if resume else None
    classifier = SpikingClassifier(
        model,
        loss=settings.loss,
        optimizer=settings.optimizer,
        lr=settings.lr,
        regularizers=settings.regularizers,
        optimizer_options=settings.optimizer_options,
        schedule=settings.lr_schedule,
    )
    recorder = _Recorder(folder, settings, record)
    with quiet_lightning(), isolated_randomness(), _handed_back(model), _progress_bar(settings) as bar:
        trainer = _trainer(recorder, bar)
        with _interruptible(trainer, recorder):
            if len(recorder.history) < settings.epochs:
                classifier.train()
                trainer.fit(classifier, datamodule=data, ckpt_path=recorder.resume_from)
            folder.load_weights(model)
            classifier.eval()
            test = _test(trainer, classifier, data)
    result = FitResult(recorder.history, test, best_epoch(recorder.history), folder.root, recorder.seconds)
    folder.save_result(result, settings)
    return result


def _trainer(recorder: "_Recorder", bar: Progress) -> lightning.Trainer:
    settings = recorder.settings
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    return lightning.Trainer(
        max_epochs=settings.epochs,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        strategy=_SeededPasses(device, recorder.begin_pass),
        plugins=[LightningEnvironment()],  # one process is all we want, also inside a SLURM job of many tasks
        callbacks=[recorder, _ProgressBar(bar, recorder)],
        default_root_dir=recorder.folder.root,
        gradient_clip_val=settings.gradient_clip,
        num_sanity_val_steps=0,
        inference_mode=False,  # a model may keep tensors from validation and use them in training
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@contextmanager
def _interruptible(trainer: lightning.Trainer, recorder: "_Recorder") -> Iterator[None]:
    """Turn an interruption into one error that says how to go on."""
    in_main = threading.current_thread() is threading.main_thread()
    on_interrupt = signal.getsignal(signal.SIGINT)
    if in_main:
        signal.signal(signal.SIGINT, recorder.interrupt)
    try:
        yield
    except SystemExit:  # Lightning's answer to Ctrl-C, which it also makes the process deaf to
        pass
    finally:
        if in_main:
            signal.signal(signal.SIGINT, on_interrupt)
    if trainer.interrupted:
        raise TrainingInterrupted(
            f"training was interrupted with {recorder.saved} of {recorder.settings.epochs} epochs finished: "
            f"pass resume=True to go on with the run in {recorder.folder.root}"
        )


def _test(
    trainer: lightning.Trainer, classifier: SpikingClassifier, data: lightning.LightningDataModule
) -> dict[str, float]:
    """Accuracy on every test set, by name."""
    if not is_overridden("test_dataloader", data):
        return {}
    scores = [float(*score.values()) for score in trainer.test(classifier, datamodule=data, verbose=False)]
    names = getattr(data, "test_names", ())
    if len(names) != len(scores):  # after hours of training no error will do
        names = ["test"] if len(scores) == 1 else [f"test {i + 1}" for i in range(len(scores))]
    return dict(zip(names, scores, strict=True))


class _Recorder(lightning.Callback):
    """Puts every finished epoch on disk, says when to stop, and makes each pass over data repeatable."""

    def __init__(self, folder: RunFolder, settings: TrainSettings, record: dict[str, Any] | None) -> None:
        self.folder, self.settings = folder, settings
        self.history: list[Row] = record["history"] if record else []
        self.resume_from = folder.checkpoint if record else None
        self._trainer: lightning.Trainer | None = None
        self._earlier_seconds: float = record["seconds"] if record else 0.0
        self._start = self._epoch_start = time.monotonic()
        self.saved = len(self.history)  # epochs that a resumed run need not do again
        self._interrupted = False

    def interrupt(self, *_: Any) -> None:
        """Stop at once; or after the batch, where Python happens to be in a callback that drops the exception."""
        self._interrupted = True
        raise KeyboardInterrupt

    def _stop_if_interrupted(self) -> None:
        if self._interrupted:
            raise KeyboardInterrupt

    @property
    def seconds(self) -> float:
        """Time spent in all finished epochs."""
        return self._earlier_seconds + self._epoch_start - self._start

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        self._trainer = trainer

    def begin_pass(self, loader: Any) -> None:
        """Seed all that the coming pass draws, from seed, epoch and stage, and tell the data the epoch."""
        assert self._trainer is not None
        stage = "train" if self._trainer.training else "val" if self._trainer.validating else "test"
        epoch = len(self.history) if stage != "test" else 0
        seed_all(self.settings.seed, epoch, ("train", "val", "test").index(stage))
        if stage == "train":
            data = getattr(self._trainer, "datamodule", None)
            for holder in (data, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
                if set_epoch := getattr(holder, "set_epoch", None):
                    set_epoch(epoch)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._start = self._epoch_start = time.monotonic()
        if self.history:
            self.folder.save_metrics(self.history)  # a kill may have come between checkpoint and table
            trainer.should_stop = self._out_of_patience()

    def on_validation_batch_end(self, *_: Any) -> None:
        self._stop_if_interrupted()

    def on_test_batch_end(self, *_: Any) -> None:
        self._stop_if_interrupted()

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._stop_if_interrupted()
        if not self.history and self._out_of_time(time.monotonic()):
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, SpikingClassifier)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.history.append({"epoch": len(self.history) + 1} | {key: metrics[key] for key in _columns(metrics)})
        now = time.monotonic()
        epoch_seconds, self._epoch_start = now - self._epoch_start, now
        if best_epoch(self.history) == len(self.history):
            self.folder.save_weights(pl_module.model)  # before the checkpoint: a kill in between then repeats both
        trainer.save_checkpoint(self.folder.checkpoint)
        self.saved = len(self.history)
        self.folder.save_metrics(self.history)
        if self._out_of_patience() or self._out_of_time(now + epoch_seconds):
            trainer.should_stop = True

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["fluctua"] = {
            "history": self.history,
            "seconds": self.seconds,
            "settings": self.settings.decisive(),
        }
        checkpoint.pop("datamodule_hyper_parameters", None)  # may be objects, which a safe load refuses

    def _out_of_patience(self) -> bool:
        patience = self.settings.patience
        return patience is not None and len(self.history) - best_epoch(self.history) >= patience

    def _out_of_time(self, at: float) -> bool:
        limit = self.settings.max_minutes
        return limit is not None and at - self._start > 60 * limit


def _columns(metrics: dict[str, float]) -> list[str]:
    first = [f"{stage}_{what}" for stage in ("train", "val") for what in ("loss", "accuracy", "penalty")]
    return [name for name in first if name in metrics] + [name for name in metrics if name.startswith("rate_")]


class _SeededPasses(SingleDeviceStrategy):
    """One device; safe, atomic checkpoints; and `begin_pass(loader)` before each pass over a loader."""

    def __init__(self, device: torch.device, begin_pass: Callable[[Any], None]) -> None:
        super().__init__(device=device, checkpoint_io=_SafeCheckpoints())
        self._begin_pass = begin_pass

    def process_dataloader(self, dataloader: object) -> object:
        return _Pass(dataloader, self._begin_pass)


class _Pass:
    """A loader whose passes begin when their first batch is asked for, however early Lightning makes iterators."""

    def __init__(self, loader: Any, begin: Callable[[Any], None]) -> None:
        self.loader, self.begin = loader, begin

    def __iter__(self) -> Iterator[Any]:
        self.begin(self.loader)
        yield from self.loader

    def __len__(self) -> int:
        return len(self.loader)


class _SafeCheckpoints(TorchCheckpointIO):
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        save_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return load_checkpoint(Path(path))


class _ProgressBar(lightning.Callback):
    """One bar for the whole of training."""

    def __init__(self, bar: Progress, recorder: _Recorder) -> None:
        self._bar, self._recorder, self._task = bar, recorder, TaskID(0)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        batches, epochs = trainer.num_training_batches, self._recorder.settings.epochs
        done = len(self._recorder.history)
        total = batches * epochs if isinstance(batches, int) else None
        self._task = self._bar.add_task(self._text(), total=total, completed=(total or 0) * done // epochs)

    def on_train_batch_end(self, *_: Any) -> None:
        self._bar.advance(self._task)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._bar.update(self._task, description=self._text())

    def _text(self) -> str:
        history = self._recorder.history
        text = f"epoch {len(history)}/{self._recorder.settings.epochs}"
        scores = [
            f"{key} {history[-1][f'{key}_accuracy']:.1%}"
            for key in ("train", "val")
            if history and f"{key}_accuracy" in history[-1]
        ]
        return "  ".join([text, *scores])


def _progress_bar(settings: TrainSettings) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    return Progress(*columns, disable=not settings.progress)


@contextmanager
def _handed_back(model: nn.Module) -> Iterator[None]:
    """Put the model back on its device at the end; Lightning leaves it on the CPU."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    try:
        yield
    finally:
        model.to(device)
