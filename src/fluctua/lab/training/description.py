"""Everything that decides the numbers of a run: stored in its folder, and compared on resuming or loading."""

import json
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

import fluctua
from fluctua.lab.training.settings import TrainSettings


@contextmanager
def as_of_now() -> Iterator[None]:
    """Say in a sentence that plain data are not as this version writes them."""
    try:
        yield
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("a run is described as another version of fluctua does: choose another out_dir") from error


@dataclass(frozen=True)
class Description:
    """A run as plain data.

    Attributes:
        settings: all of `TrainSettings`.
        data: the result of `data.fingerprint()`: settings by name, and under "samples" a checksum of each set; empty
            for data without this method.
        model: its modules and their constants, as in `print(model)`.
        origin: how to rebuild model and data, for `fluctua.lab.load`; empty if only the caller knows.
        versions: of the software that computed the numbers.
    """

    settings: Mapping[str, Any]
    data: Mapping[str, Any]
    model: str
    origin: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, data: Any, settings: TrainSettings, origin: Mapping[str, Any]) -> "Description":
        """The description of a run about to start."""
        versions = {
            "fluctua": fluctua.__version__,
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "python": platform.python_version(),
        }
        return cls(settings.plain(), fingerprint_of(data), modules_of(model), dict(origin), versions)

    def plain(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Description":
        """What `plain` gave.

        Raises:
            ValueError: it is not as this version gives it.
        """
        with as_of_now():
            found = cls(**plain)
            TrainSettings.from_plain(found.settings)
            parts = [found.data, found.data.get("samples", {}), found.origin, *found.origin.values(), found.versions]
            if not (isinstance(found.model, str) and all(isinstance(part, dict) for part in parts)):
                raise TypeError("another type")
        return found

    def refuse_other(self, now: "Description", folder: object) -> None:
        """Compare the run in a folder with the one that should resume it.

        Raises:
            ValueError: they differ in something that decides the numbers.
        """
        way_out = "resume it with the same, or choose another out_dir"
        both = [TrainSettings.from_plain(one.settings) for one in (self, now)]
        decisive = {key for settings in both for key in settings.decisive()}
        before, after = ({key: settings.plain()[key] for key in decisive} for settings in both)
        if changed := different(before, after):
            raise ValueError(f"{folder} was trained with {' and '.join(changed)}: {way_out}")
        if others := other_data(self.data, now.data):
            raise ValueError(f"{folder} was trained on other data ({', '.join(others)}): {way_out}")
        if self.model != now.model:
            raise ValueError(f"{folder} was trained with another model: resume it with the same architecture")


def different(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings that differ, in words: `lr 0.05, not 0.1`."""
    keys = sorted(before.keys() | now.keys())
    return [f"{key} {before.get(key)}, not {now.get(key)}" for key in keys if before.get(key) != now.get(key)]


def other_data(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences of two fingerprints: settings, and names of the sets with different samples."""
    old, new = ({**told} for told in (before, now))
    sets, others = (told.pop("samples", {}) for told in (old, new))
    names = dict.fromkeys([*sets, *others])
    return different(old, new) + [f"samples of {name}" for name in names if sets.get(name) != others.get(name)]


def fingerprint_of(data: Any) -> dict[str, Any]:
    """The fingerprint of the data after a round trip through JSON; empty for a data module without one."""
    return dict(json.loads(json.dumps(data.fingerprint()))) if hasattr(data, "fingerprint") else {}


def modules_of(model: nn.Module) -> str:
    """The modules and their constants, without anything that differs between processes."""
    return re.sub(r"0x[0-9a-f]+", "0x", str(model))
