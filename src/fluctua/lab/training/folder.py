"""The folder of a training run: what its files are called, and how they are written so that none is ever half."""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fluctua.files import reading
from fluctua.lab.training.settings import FitResult, Row, TrainSettings
from fluctua.network.atomic import all_or_nothing

FORMAT = 2
"""Of what `fit` keeps in a checkpoint; a run that began with another cannot be gone on with."""


@dataclass(frozen=True)
class RunFolder:
    """The files of one run.

    `metrics.csv` has one row per finished epoch, `last.ckpt` all that is needed to go on from the last of them,
    `model.safetensors` the weights of the best one so far, `result.json` the outcome.
    """

    root: Path

    @property
    def metrics(self) -> Path:
        """One row per finished epoch."""
        return self.root / "metrics.csv"

    @property
    def checkpoint(self) -> Path:
        """Weights, optimiser state and history after the last finished epoch."""
        return self.root / "last.ckpt"

    @property
    def weights(self) -> Path:
        """Weights of the epoch with the best validation accuracy so far."""
        return self.root / "model.safetensors"

    @property
    def result(self) -> Path:
        """Test accuracy and settings of a finished run."""
        return self.root / "result.json"

    def claim(self, *, resume: bool) -> None:
        """Make the folder and see that it can be written and, unless resuming, holds no run.

        Raises:
            OSError: the folder cannot be made or written.
            FileExistsError: the folder holds a run already.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise OSError(f"cannot write to {self.root} ({error.strerror}): choose another out_dir") from error
        if not resume and self.checkpoint.exists():
            raise FileExistsError(
                f"{self.root} holds a training run already: pass resume=True to continue it, or choose another out_dir"
            )

    def load_record(self, model: nn.Module, settings: TrainSettings) -> dict[str, Any] | None:
        """What `fit` noted in the last checkpoint; None if there is none.

        Raises:
            ValueError: the checkpoint is damaged, not `fit`'s, or of another model or other settings.
        """
        if not self.checkpoint.exists():
            return None
        try:
            checkpoint = load_checkpoint(self.checkpoint)
        except Exception as error:  # torch raises whatever its parsers happen to raise
            raise ValueError(f"{self.checkpoint} is damaged: delete it to train afresh") from error
        if "fluctua" not in checkpoint:
            raise ValueError(f"{self.checkpoint} was not written by fluctua: choose another out_dir")
        record: dict[str, Any] = checkpoint["fluctua"]
        if record.get("format") != FORMAT:
            raise ValueError(f"{self.root} was begun by another version of fluctua: choose another out_dir")
        before, now = record["settings"], settings.decisive()
        if changed := sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key)):
            raise ValueError(
                f"{self.root} was trained with another {', '.join(changed)}: resume it with the same, or choose "
                "another out_dir"
            )
        shapes = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
        if shapes != {f"model.{name}": tuple(value.shape) for name, value in model.state_dict().items()}:
            raise ValueError(f"{self.root} was trained with another model: resume it with the same architecture")
        return record

    def save_metrics(self, history: Sequence[Row]) -> None:
        """Rewrite `metrics.csv`."""
        import pandas as pd

        with replacing(self.metrics) as path:
            pd.DataFrame(history).to_csv(path, index=False, lineterminator="\n")

    def save_weights(self, model: nn.Module) -> None:
        """Rewrite `model.safetensors`."""
        from safetensors.torch import save_model

        with replacing(self.weights) as path:
            save_model(model, str(path))

    def load_weights(self, model: nn.Module) -> None:
        """Give the model the weights of `model.safetensors`, all or none.

        Raises:
            FileNotFoundError: there is no such file.
            FileError: it is damaged, or of another model.
        """
        from safetensors.torch import load_model

        with reading(self.weights, "the weights of this model", "train it anew, or build the model that it is of"):
            all_or_nothing(load_model)(model, self.weights)

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
        with replacing(self.result) as path:
            path.write_text(json.dumps(facts, indent=2) + "\n")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place at the end, so that no reader ever meets half a file.

    Others may read it as far as the umask lets them, though some writers make their files private.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint of plain data and tensors."""
    with replacing(path) as temporary:
        torch.save(checkpoint, temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; anything but plain data and tensors is refused."""
    return dict(torch.load(path, map_location="cpu", weights_only=True))
