"""Reader for the HDF5 layout of the Spiking Heidelberg Digits and Spiking Speech Commands (Cramer et al. 2022)."""

import importlib
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluctua.files import FileError, reading
from fluctua.hdf5 import self_contained
from fluctua.lab.data.events import EventDataset, Events, Subset, check_range

SOURCE = "https://zenkelab.org/resources/spiking-heidelberg-datasets-shd/"
FETCH = "python -m fluctua.lab.data.fetch shd FOLDER"

_ROWS = {
    "spikes/times": ("f", "rows of float16, in seconds"),
    "spikes/units": ("iu", "rows of uint16, from 0"),
}
"""The kinds of numbers allowed in each, and a description."""


@dataclass(frozen=True)
class SHDPaths:
    """The files of SHD or SSC; None for those that are missing."""

    train: Path
    val: Path | None = None
    test: Path | None = None


def find_shd(folder: str | Path) -> SHDPaths | None:
    """Find `shd_train.h5` or `ssc_train.h5` and the files beside it in `folder`, or where tonic puts them.

    Returns:
        The paths, or None if there is no training file.

    Raises:
        ValueError: if there are the training files of both.
    """
    root = Path(folder)
    found = {
        name: place
        for name in ("shd", "ssc")
        for place in (root / name.upper(), root)
        if (place / f"{name}_train.h5").is_file()
    }
    if len(found) > 1:
        raise ValueError(f"{folder} has both SHD and SSC: choose by the path of the training file.")
    for name, place in found.items():
        train, val, test = (place / f"{name}_{part}.h5" for part in ("train", "valid", "test"))
        return SHDPaths(train, val if val.is_file() else None, test if test.is_file() else None)
    return None


class SHDFile(EventDataset):
    """One file of SHD, SSC or any other data set in their layout, read sample by sample.

    The layout: `spikes/times` (float16, seconds) and `spikes/units` (uint16), one variable-length row per sample;
    `labels` (uint16); and, if there, `extra/keys` (names of the classes), `extra/speaker` (one per sample) and
    `extra/meta_info/speaker` (their names). Only labels and speakers are held in memory. The file is opened where it
    is read, so the data set can be pickled and used in worker processes.

    A float16 time near 1 s is good to 0.5 ms, near 0.1 s to 0.06 ms: a time step below 1 ms gains little.

    Attributes:
        path: the file.
        labels: int64 `[samples]`.
        speakers: int64 `[samples]`, or None.
        speaker_names: name of each speaker number, or None.
        class_names: name of each label, or None.
        n_units: number of channels, 700 in SHD and SSC.
        n_classes: number of class names or of labels, whichever is larger.
    """

    def __init__(self, path: str | Path, *, n_units: int = 700) -> None:
        """Read labels and speakers of the file at `path`.

        Raises:
            FileNotFoundError: if there is no such file.
            FileError: if it is still compressed, damaged, or not in the layout; an OSError and a ValueError.
            ImportError: if h5py is missing.
        """
        self.path, self.n_units = Path(path), n_units
        self._handle: tuple[int, Any, Any] | None = None
        with self._reading(), _open(self.path) as file:
            self_contained(file, self.path)
            _check_rows(self.path, file)
            self.labels = _integers(self.path, file, "labels")
            self.speakers = _integers(self.path, file, "extra/speaker") if "extra/speaker" in file else None
            self.class_names = _names(file, "extra/keys")
            self.speaker_names = _names(file, "extra/meta_info/speaker")
            n_samples = {name: len(file[name]) for name in ("labels", *_ROWS)}
        if self.speakers is not None:
            n_samples["extra/speaker"] = len(self.speakers)
        if len(set(n_samples.values())) > 1:
            counts = ", ".join(f"{name} {count}" for name, count in n_samples.items())
            raise FileError(f"{self.path} has unequal numbers of samples ({counts}): get it again from {SOURCE}.")
        self.n_classes = max(len(self.class_names or ()), int(self.labels.max(initial=-1)) + 1)

    def events(self, i: int) -> Events:
        """Read the events of sample `i` from the file.

        Raises:
            FileError: if the file is damaged, times and units do not match, a time is not finite, or a unit is not
                below `n_units`.
        """
        i = range(len(self))[i]
        with self._reading():
            times, units = self._spikes()
            found = times[i], units[i]
        try:
            events = Events(*found)
            check_range(events.units, self.n_units, name="unit", limit="n_units")
        except ValueError as error:
            raise FileError(f"sample {i} of {self.path}: {error}") from None
        return events

    def _reading(self) -> AbstractContextManager[None]:
        return reading(self.path, "HDF5", f"get it again from {SOURCE} and gunzip it, or run `{FETCH}`")

    def _spikes(self) -> tuple[Any, Any]:
        """Return the open data sets of times and units; after a fork the child opens its own."""
        if self._handle is None or self._handle[0] != os.getpid():
            file = _open(self.path)
            self._handle = os.getpid(), file["spikes/times"], file["spikes/units"]
        return self._handle[1:]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}


def _open(path: Path) -> Any:
    try:
        h5py = importlib.import_module("h5py")
    except ImportError as error:
        raise ImportError('h5py reads these files and is missing: pip install "fluctua[train]".') from error
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] == b"\x1f\x8b" or start == b"PK\x03\x04":
        raise FileError(f"{path} is still compressed: gunzip or unzip it and pass the .h5 file.")
    return h5py.File(path, "r")


def _check_rows(path: Path, file: Any) -> None:
    """Refuse a file without rows of times in seconds and of integer units."""
    for name in ("labels", *_ROWS):
        if name not in file:
            raise FileError(f"{path} has no '{name}': SHD's layout is spikes/times, spikes/units and labels.")
    for name, (kinds, wanted) in _ROWS.items():
        row = importlib.import_module("h5py").check_vlen_dtype(file[name].dtype)
        if not isinstance(row, np.dtype) or row.kind not in kinds or file[name].ndim != 1:
            found = f"{'rows of ' if row else ''}{row or file[name].dtype}"
            raise FileError(f"{path} has {found} in '{name}', but SHD's layout has {wanted}: convert them.")


def _integers(path: Path, file: Any, name: str) -> NDArray[np.int64]:
    dataset = file[name]
    if not hasattr(dataset, "dtype"):
        raise FileError(f"{path} has a group at '{name}', but SHD's layout has numbers there: get it again.")
    if dataset.dtype.kind not in "iu" or dataset.ndim != 1:
        raise FileError(
            f"{path} has {dataset.dtype} of the shape {dataset.shape} in '{name}', but SHD's layout has one "
            f"integer per sample: write .astype('uint16') of them."
        )
    values: NDArray[np.int64] = dataset[()].astype(np.int64)
    outside = values[(values < 0) | (values > np.iinfo(np.uint16).max)]
    if outside.size:
        raise FileError(f"{path} has {outside[0]} in '{name}', which is not in 0..65535: number them from 0.")
    return values


def _names(file: Any, name: str) -> tuple[str, ...] | None:
    return tuple(file[name].asstr("utf-8", "replace")[()]) if name in file else None


def by_acquaintance(train: SHDFile, test: SHDFile) -> dict[str, EventDataset]:
    """Divide the test samples into those of speakers in the training set and others, if there are others."""
    if train.speakers is None or test.speakers is None:
        return {}
    known = np.isin(test.speakers, train.speakers)
    if known.all():
        return {}
    parts = {"known speakers": np.flatnonzero(known), "unheard speakers": np.flatnonzero(~known)}
    return {name: Subset(test, indices) for name, indices in parts.items() if len(indices)}
