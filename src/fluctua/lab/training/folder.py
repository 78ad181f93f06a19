"""The folder of a training run: the names of its files, and the record from which the others follow."""

import io
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from fluctua.files import FileError, reading
from fluctua.lab.durable import (
    UNSEALED,
    DamagedFile,
    locked,
    make_folder,
    read_json,
    read_sealed,
    replacing,
    seal,
    sweep,
    write_json,
)
from fluctua.lab.training.description import Description
from fluctua.lab.training.settings import FitResult, Row, TrainSettings

FORMAT = 3
"""Version of what `fit` keeps in a checkpoint; a run with another version cannot be resumed."""


@dataclass(frozen=True)
class RunFolder:
    """The files of one run.

    `last.ckpt` is the record: everything needed to continue after the last finished epoch, with the history and the
    best weights so far. An epoch is finished once it is in place. `run.json`, `metrics.csv` (a row per finished epoch)
    and `model.safetensors` (the best weights) follow from it, and are rewritten from it when a run is resumed;
    `result.json` is the outcome.
    """

    root: Path

    @property
    def description(self) -> Path:
        """Everything that decides the numbers of the run."""
        return self.root / "run.json"

    @property
    def metrics(self) -> Path:
        """One row per finished epoch."""
        return self.root / "metrics.csv"

    @property
    def checkpoint(self) -> Path:
        """Weights, optimiser state, history and best weights after the last finished epoch."""
        return self.root / "last.ckpt"

    @property
    def weights(self) -> Path:
        """Weights of the epoch with the best validation accuracy so far."""
        return self.root / "model.safetensors"

    @property
    def result(self) -> Path:
        """Test accuracy and settings of a finished run."""
        return self.root / "result.json"

    @contextmanager
    def claimed(self, *, resume: bool) -> Iterator[None]:
        """Create the folder and lock it; check that it can be written and, unless resuming, holds no run.

        Raises:
            OSError: the folder cannot be created or written, or another process uses it.
            FileExistsError: the folder already holds a run.
        """
        make_folder(self.root)
        with locked(self.root):
            sweep(self.root)
            if not resume and self.checkpoint.exists():
                raise FileExistsError(
                    f"{self.root} already holds a training run: pass resume=True to continue it, or choose another "
                    "out_dir"
                )
            yield

    def load_record(self) -> dict[str, Any] | None:
        """What `fit` noted in the last checkpoint; None if there is none.

        Raises:
            ValueError: the checkpoint is damaged, or not from `fit`.
        """
        if not self.checkpoint.exists():
            return None
        record = load_checkpoint(self.checkpoint).get("fluctua", {})
        if record.get("format") != FORMAT:
            raise ValueError(f"{self.root} was started by another version of fluctua: choose another out_dir")
        return dict(record)

    def describe(self) -> Description | None:
        """Everything that decides the numbers of the run in the folder; None if there is none.

        Raises:
            ValueError: its files are damaged.
        """
        try:
            return Description.from_plain(read_json(self.description))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            # What the last epoch was trained with does as well.
            record = self.load_record()
            return Description.from_plain(record["run"]) if record else None

    def save_description(self, description: Description) -> None:
        """Rewrite `run.json`."""
        write_json(self.description, description.plain())

    def save_metrics(self, history: Sequence[Row]) -> None:
        """Rewrite `metrics.csv`."""
        import pandas as pd

        with replacing(self.metrics) as file:
            pd.DataFrame(history).to_csv(file, index=False, lineterminator="\n")

    def save_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Rewrite `model.safetensors`."""
        with replacing(self.weights) as file:
            file.write(save(dict(weights), {"checksum": UNSEALED}))
            seal(file)

    def load_weights(self, model: nn.Module) -> None:
        """Give the model the weights of `model.safetensors`, all or none.

        Raises:
            FileNotFoundError: there is no such file.
            FileError: it is damaged, or belongs to another model.
        """
        remedy = f"resume=True rewrites it from {self.checkpoint.name}"
        with reading(self.weights, "weights", remedy):
            found, own = load(read_sealed(self.weights, f"{self.weights} is damaged: {remedy}")), weights_of(model)
            if {name: value.shape for name, value in found.items()} != {name: own[name].shape for name in own}:
                raise FileError(f"{self.weights} has the weights of another model: build the same model")
            model.load_state_dict(found, strict=False)  # of names that share one tensor, the file has the first

    def save_result(self, result: FitResult, settings: TrainSettings) -> None:
        """Rewrite `result.json`."""
        facts = {
            "test": result.test,
            "best_epoch": result.best_epoch,
            "best": result.history[result.best_epoch - 1],
            "epochs": len(result.history),
            "seconds": round(result.seconds, 3),
            "settings": settings.plain(),
        }
        write_json(self.result, facts)

    def load_result(self) -> FitResult:
        """The result of the run.

        Raises:
            ValueError: there is none, or a file is damaged.
        """
        facts, record = read_json(self.result), self.load_record()
        history = [] if record is None else record["history"]
        return FitResult(history, facts["test"], facts["best_epoch"], self.root, facts["seconds"])


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's state on the CPU; tensors that share memory are kept under their first name."""
    first: dict[tuple[Any, ...], str] = {}
    state = model.state_dict()
    for name, value in state.items():
        place = (value.data_ptr(), value.device, value.dtype, value.shape, value.stride())
        first.setdefault(place if value.numel() else (name,), name)
    return {name: state[name].detach().cpu().clone(memory_format=torch.contiguous_format) for name in first.values()}


def save_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint of plain data and tensors, sealed."""
    with replacing(path) as file:
        torch.save(checkpoint, file)
        _comment(file, UNSEALED.encode())
        seal(file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; anything but plain data and tensors is refused.

    Raises:
        ValueError: it is damaged.
    """
    damaged = (
        f"{path} is damaged, or from another version of fluctua: delete it to train afresh, or choose another out_dir"
    )
    content = read_sealed(path, damaged)
    try:
        return dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises whatever its parsers happen to raise
        raise DamagedFile(damaged) from error


def _comment(file: BinaryIO, text: bytes) -> None:
    """Add a comment to a zip archive without one: its last two bytes are the comment's length."""
    end = file.seek(0, 2)
    file.seek(end - 2)
    file.write(struct.pack("<H", len(text)) + text)
