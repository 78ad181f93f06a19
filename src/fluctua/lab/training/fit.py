"""Train a model on a Lightning data module, in runs that can be watched, stopped, resumed and repeated."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

import fluctua.lab.extras  # noqa: F401 - says what to install if the next lines fail
from fluctua.explain.monitor import FILE, Monitor
from fluctua.homeostasis.refinement import TrainingDiverged
from fluctua.lab.training.callbacks import NOWHERE, Patience, Recorder, TimeLimit
from fluctua.lab.training.description import Description
from fluctua.lab.training.folder import RunFolder, load_checkpoint, save_checkpoint
from fluctua.lab.training.isolation import isolated_randomness, quiet_lightning
from fluctua.lab.training.module import SpikingClassifier
from fluctua.lab.training.settings import (
    FitResult,
    TrainingInterrupted,
    TrainSettings,
    best_epoch,
)

try:
    import lightning
    from lightning.fabric.plugins import TorchCheckpointIO
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.pytorch.callbacks import Callback, RichProgressBar, TQDMProgressBar
    from lightning.pytorch.strategies import SingleDeviceStrategy
    from lightning.pytorch.utilities.model_helpers import is_overridden
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
    origin: Mapping[str, Any] | None = None,
) -> FitResult:
    """Train, keep the weights of the best epoch, and test them once.

    After every epoch `out_dir` holds `last.ckpt` to resume from, the epoch's row in `metrics.csv`, and the best weights
    so far as `model.safetensors`; `run.json` has everything that decides the numbers, and at the end `result.json` has
    the result. A resumed run ends with the same weights as an uninterrupted one, provided that the data draw from the
    global generators, or from the epoch passed to `set_epoch(epoch)` (0, 1, ...) of the data module or its sampler, if
    they have that method.

    It trains in one process. If torch.distributed runs several, the first trains and writes, and the others wait for
    its weights and result: all of them must see the folder.

    Args:
        model: `[T, B, ...] -> [T, B, C]`, trained in place on the first GPU if there is one; it returns with the
            weights of the best epoch, in evaluation mode, on its original device.
        data: batches `(x [T, B, ...], y)`, with classes or values, see `SpikingClassifier`, for training, validation
            and optionally testing; `data.test_names` names several test loaders. If it has a method `fingerprint()`
            that returns plain data identifying it, a run cannot be resumed on other data; `SplitDataModule` has one.
        out_dir: folder for the run's files, created if missing.
        settings: how to train.
        resume: continue after the last finished epoch in `out_dir`, or start if there is none.
        origin: plain data kept in `run.json`, from which `fluctua.lab.load` rebuilds model and data.

    Raises:
        OSError: `out_dir` cannot be written, or another process uses it; FileExistsError if it holds a run and
            `resume` is false.
        ValueError: the run to resume had other settings, other data or another model, or its checkpoint is damaged.
        TrainingDiverged: the loss or its gradient is no longer finite.
        RuntimeError: in any process but the first, if the first has failed.
        TrainingInterrupted: Ctrl-C or SIGTERM; a KeyboardInterrupt.
    """
    folder = RunFolder(Path(out_dir))

    def train() -> FitResult:
        with folder.claimed(resume=resume):
            return _fit(model, data, folder, settings, origin or {}, resume=resume)

    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return _in_the_first(train, model, folder) if several else train()


def _in_the_first(train: Callable[[], FitResult], model: nn.Module, folder: RunFolder) -> FitResult:
    """Train in the first of several processes; the others wait, and load what it wrote."""
    group = dist.new_group(backend="gloo", timeout=timedelta(days=365))
    done, first = torch.zeros(1), dist.get_rank() == 0
    try:
        if first:
            result = train()
            done += 1
    finally:
        dist.broadcast(done, 0, group=group)
    if first:
        return result
    if not done:
        raise RuntimeError(f"the first process failed to train in {folder.root}: its error says why")
    folder.load_weights(model.eval())
    return folder.load_result()


def _fit(
    model: nn.Module,
    data: lightning.LightningDataModule,
    folder: RunFolder,
    settings: TrainSettings,
    origin: Mapping[str, Any],
    *,
    resume: bool,
) -> FitResult:
    description = Description.of(model, data, settings, origin)
    if record := folder.load_record() if resume else None:
        Description.from_plain(record["run"]).refuse_other(description, folder.root)
    classifier = SpikingClassifier(
        model,
        loss=settings.loss,
        optimizer=settings.optimizer,
        lr=settings.lr,
        regularizers=settings.regularizers,
        optimizer_options=settings.optimizer_options,
        schedule=settings.lr_schedule,
    )
    folder.save_description(description)
    recorder = Recorder(folder, settings, description, record, TimeLimit(settings.max_minutes))
    if record:
        recorder.write_what_follows()
    with quiet_lightning(), isolated_randomness(), _handed_back(model):
        trainer = _trainer(recorder, model)
        with _interruptible(trainer, recorder):
            if len(recorder.history) < settings.epochs:
                folder.result.unlink(missing_ok=True)  # the result of fewer epochs
                classifier.train()
                trainer.fit(classifier, datamodule=data, ckpt_path=recorder.resume_from)
            folder.load_weights(model)
            classifier.eval()
            test = _test(trainer, classifier, data)
    result = FitResult(recorder.history, test, best_epoch(recorder.history), folder.root, recorder.seconds)
    folder.save_result(result, settings)
    return result


def _trainer(recorder: Recorder, model: nn.Module) -> lightning.Trainer:
    settings = recorder.settings
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    return lightning.Trainer(
        max_epochs=settings.epochs,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        strategy=_SeededPasses(device, recorder),
        plugins=[LightningEnvironment()],  # one process is all we want, also inside a SLURM job of many tasks
        callbacks=[
            recorder.timer,
            Patience(settings.patience),
            recorder,
            *([progress_bar()] if settings.progress else []),
            *_watching(recorder, model),
        ],
        default_root_dir=NOWHERE,
        gradient_clip_val=settings.gradient_clip,
        num_sanity_val_steps=0,
        inference_mode=False,  # a model may keep tensors from validation and use them in training
        logger=False,  # CSVLogger adds a row for each call of `log`, and starts afresh when a run is resumed
        enable_progress_bar=settings.progress,
        enable_model_summary=False,
    )


def progress_bar() -> Callback:
    """Lightning's progress bar; rich shows nothing in a notebook without widgets, where tqdm writes text."""
    in_notebook = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)() is not None
    return TQDMProgressBar() if in_notebook and find_spec("ipywidgets") is None else RichProgressBar()


def _watching(recorder: Recorder, model: nn.Module) -> Iterator[Callback]:
    """A monitor, if wanted; it continues the rows of a resumed run."""
    if recorder.settings.monitor is not None:
        if recorder.resume_from is None:
            (recorder.folder.root / FILE).unlink(missing_ok=True)
        yield Monitor(model, recorder.settings.monitor, recorder.folder.root).callback()


@contextmanager
def _interruptible(trainer: lightning.Trainer, recorder: Recorder) -> Iterator[None]:
    """Turn an interruption into one error that says how to resume."""
    in_main = threading.current_thread() is threading.main_thread()
    on_interrupt = signal.getsignal(signal.SIGINT)
    if in_main:
        signal.signal(signal.SIGINT, recorder.interrupt)
    try:
        yield
    except SystemExit:  # Lightning's answer to Ctrl-C, which it then ignores
        pass
    finally:
        if in_main:
            signal.signal(signal.SIGINT, on_interrupt)
    if trainer.interrupted:
        raise TrainingInterrupted(
            f"training was interrupted with {recorder.saved} of {recorder.settings.epochs} epochs finished: "
            f"pass resume=True to continue the run in {recorder.folder.root}"
        )


def _test(
    trainer: lightning.Trainer, classifier: SpikingClassifier, data: lightning.LightningDataModule
) -> dict[str, float]:
    """Accuracy on every test set, or the error for values, by name."""
    if not is_overridden("test_dataloader", data):
        return {}
    scores = [float(*score.values()) for score in trainer.test(classifier, datamodule=data, verbose=False)]
    names = getattr(data, "test_names", ())
    if len(names) != len(scores):  # no error after hours of training
        names = ["test"] if len(scores) == 1 else [f"test {i + 1}" for i in range(len(scores))]
    return dict(zip(names, scores, strict=True))


class _SeededPasses(SingleDeviceStrategy):
    """One device; the record of the run as its checkpoint; and `begin_pass(loader)` before each pass over a loader."""

    def __init__(self, device: torch.device, recorder: Recorder) -> None:
        super().__init__(device=device, checkpoint_io=_Record(recorder.folder.checkpoint))
        self._begin_pass = recorder.begin_pass

    def process_dataloader(self, dataloader: object) -> object:
        return _Pass(dataloader, self._begin_pass)


class _Pass:
    """A loader whose passes begin with the request for their first batch, however early Lightning makes iterators."""

    def __init__(self, loader: Any, begin: Callable[[Any], None]) -> None:
        self.loader, self.begin = loader, begin

    def __iter__(self) -> Iterator[Any]:
        self.begin(self.loader)
        yield from self.loader

    def __len__(self) -> int:
        return len(self.loader)


class _Record(TorchCheckpointIO):
    """A checkpoint that is written at one go, and read safely, in one place, wherever Lightning believes it to be."""

    def __init__(self, place: Path) -> None:
        super().__init__()
        self.place = place

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        save_checkpoint(checkpoint, self.place)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return load_checkpoint(self.place)

    def remove_checkpoint(self, path: Any) -> None:
        """Nothing: each takes the place of the one before."""


@contextmanager
def _handed_back(model: nn.Module) -> Iterator[None]:
    """Return the model to its device at the end; Lightning leaves it on the CPU."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    try:
        yield
    finally:
        model.to(device)
