"""A finished run, loaded from its folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lightning
from torch import nn

from fluctua.lab.demo import DemoRun
from fluctua.lab.durable import read_json
from fluctua.lab.train_file import FileRun
from fluctua.lab.training.description import Description, as_of_now, fingerprint_of, modules_of, other_data
from fluctua.lab.training.folder import RunFolder
from fluctua.lab.training.settings import TrainSettings

ORIGINS: Mapping[str, type[FileRun] | type[DemoRun]] = MappingProxyType({"train": FileRun, "demo": DemoRun})
"""The classes that rebuild model and data of a run, by their name in `run.json`."""


@dataclass(frozen=True)
class FinishedRun:
    """A run that `fluctua train`, `fluctua demo` or `fit` has finished.

    Attributes:
        model: with the weights of the best epoch, in evaluation mode.
        data: the data module that it was trained on; None for a run of `fit` loaded without data.
        settings: how it was trained.
        result: test accuracy, best epoch and the rest of `result.json`.
        origin: the command that started it, with its settings; None for a run of `fit`.
        versions: of the software that computed the numbers.

    Example:
        >>> run: FinishedRun = load("runs/shd")  # doctest: +SKIP
        >>> run.model(run.data.batch(4, "test")[0])  # doctest: +SKIP
    """

    model: nn.Module
    data: lightning.LightningDataModule | None
    settings: TrainSettings
    result: dict[str, Any]
    origin: FileRun | DemoRun | None
    versions: dict[str, str]


def load(
    folder: str | Path, *, model: nn.Module | None = None, data: lightning.LightningDataModule | None = None
) -> FinishedRun:
    """Load model, data and settings of a finished run.

    Args:
        folder: of the run.
        model: for a run of `fit`, whose model only its caller can build: a model built like it; its weights are
            overwritten.
        data: for a run of `fit`, or if the files have moved: the same data.

    Raises:
        ValueError: the folder holds no finished run, one of its files is damaged, or model or data are not those that
            the run had.
        OSError: a file of the run, or of its data, cannot be read.

    Example:
        >>> run = load("runs/shd")  # doctest: +SKIP
        >>> run.settings.lr, run.result["test"]  # doctest: +SKIP
    """
    files = RunFolder(Path(folder))
    description = files.describe()
    if description is None:
        raise ValueError(f"{folder} holds no run: give a folder that `fluctua train` or `fit` wrote")
    if not files.result.exists():
        raise ValueError(f"the run in {folder} is not finished: resume=True continues it")
    result = read_json(files.result)
    origin = _origin(description)
    if origin is not None:
        known: Any = origin.load_data() if data is None else data
        data, model = known, origin.build(known) if model is None else model
    elif model is None:
        raise ValueError(f"only you can build the model of the run in {folder}: pass one built like it as model=")
    if data is not None and (others := other_data(description.data, fingerprint_of(data))):
        raise ValueError(
            f"these are not the data that the run in {folder} had ({', '.join(others)}): pass the same as data="
        )
    if description.model != modules_of(model):
        raise ValueError(f"the model is not built like that of the run in {folder}: build the same model")
    files.load_weights(model)
    settings = TrainSettings.from_plain(description.settings)
    return FinishedRun(model.eval(), data, settings, result, origin, dict(description.versions))


def _origin(description: Description) -> FileRun | DemoRun | None:
    for name, plain in description.origin.items():
        if name in ORIGINS:
            with as_of_now():
                return ORIGINS[name].from_plain(plain)
    return None
