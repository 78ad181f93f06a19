"""Reader for DVS128 Gesture, hand and arm gestures before an event camera (Amir et al. 2017)."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fluctua.files import FileError, reading
from fluctua.lab.data.aedat import Recording, Times
from fluctua.lab.data.events import EventDataset, Events

SOURCE = "https://ibm.ent.box.com/s/3hiq58ww1pbbjrinh367ykfdf60xsfm8 (DvsGesture.tar.gz, to be unpacked)"
FETCH = "python -m fluctua.lab.data.fetch dvs-gesture FOLDER"
SENSOR, N_CLASSES = 128, 11

Part = Literal["train", "test"]

_LISTS = {"train": "trials_to_train.txt", "test": "trials_to_test.txt"}  # of the official release
_FOLDERS = {"train": "ibmGestureTrain", "test": "ibmGestureTest"}  # of tonic
_ENDLESS = 1 << 50  # microseconds, some 36 years: longer than any recording
_USER = re.compile(r"user(\d+)_")


@dataclass(frozen=True, order=True)
class _Trial:
    """A gesture: a file of its own, or a span of a recording in microseconds."""

    user: int
    name: str
    label: int
    file: Path
    span: tuple[int, int] | None = None


class DVSGesture(EventDataset):
    """The gestures of one part of DVS128 Gesture, read one by one from the official files or those of tonic.

    The official release has recordings `user01_led.aedat` (AEDAT 3.1) with `user01_led_labels.csv` (class from 1,
    start and end in microseconds) and the lists `trials_to_train.txt` and `trials_to_test.txt`: 12 gestures in a
    recording, class 8 twice. tonic has `ibmGestureTrain/user01_led/3.npy` and `ibmGestureTest`, one array of column,
    row, polarity and milliseconds per gesture, one per class. Both may lie in a folder `DvsGesture` or `DVSGesture`.

    A gesture lasts some 6 s; its time counts from its start in the official release, from its first event in tonic's.
    The camera's 128 x 128 pixels are merged to `side * side`, and an event is a spike of unit
    `polarity * side^2 + row * side + column`, so that the units reshape to `(2, side, side)`. Nothing is unpickled.

    Attributes:
        path: the folder.
        side: rows and columns after merging.
        shape: `(2, side, side)`, polarity (1: brighter), row and column.
        labels: int64 `[samples]`, from 0.
        users: int64 `[samples]`, who moves; no user is in both parts.
    """

    n_classes = N_CLASSES

    def __init__(self, path: str | Path, part: Part = "train", *, side: int = 32) -> None:
        """Find the gestures of `part` under `path`.

        Raises:
            FileNotFoundError: if the folder has neither layout, or a listed recording is missing.
            ValueError: if `side` does not divide 128; FileError if labels cannot be read.
        """
        if not (1 <= side <= SENSOR and SENSOR % side == 0):
            raise ValueError(
                f"side={side} must divide the {SENSOR} pixels of the camera: pass 32 as the paper, or 128."
            )
        self.path, self.side = Path(path), side
        self.shape = (2, side, side)
        self.n_units = 2 * side * side
        self._recordings: dict[Path, Recording] = {}
        root, official = _root(self.path)
        self._trials = sorted(_official(root, part) if official else _of_tonic(root, part))
        if not self._trials:
            raise ValueError(f"{root} has no gesture of the part {part}: get it from {SOURCE}, or run `{FETCH}`.")
        self.labels = np.array([trial.label for trial in self._trials], dtype=np.int64)
        self.users = np.array([trial.user for trial in self._trials], dtype=np.int64)

    def events(self, i: int) -> Events:
        """Read the events of sample `i`.

        Raises:
            FileNotFoundError: if its file is gone.
            FileError: if its file is truncated, of another kind, or has an event outside the 128 x 128 pixels.
        """
        trial = self._trials[i]
        if trial.span is None:
            time, x, y, polarity = _array(trial.file)
            start = time.min(initial=np.iinfo(np.int64).max)
        else:
            time, x, y, polarity = self._recording(trial.file).between(*trial.span)
            start = trial.span[0]
        if (outside := (x < 0) | (x >= SENSOR) | (y < 0) | (y >= SENSOR)).any():
            k = int(np.argmax(outside))
            raise FileError(
                f"{trial.file}: event {k} at x={x[k]}, y={y[k]} is outside {SENSOR} x {SENSOR} pixels: get it again."
            )
        merged = SENSOR // self.side
        units = (polarity * self.side + y // merged) * self.side + x // merged
        with reading(trial.file, "events", f"`{FETCH}` gets it again"):
            return Events(((time - start) * 1e-6).astype(np.float32), units)

    def _recording(self, file: Path) -> Recording:
        """The packets of a file, found once; this takes little memory."""
        if file not in self._recordings:
            self._recordings[file] = Recording.index(file)
        return self._recordings[file]


def holds_gestures(path: Path) -> bool:
    """Whether the folder `path` has one of the two layouts."""
    return _find_root(path) is not None


def _find_root(path: Path) -> tuple[Path, bool] | None:
    """The folder with the files, and whether they are the official ones."""
    for root in (path, path / "DvsGesture", path / "DVSGesture"):
        if any((root / name).is_file() for name in _LISTS.values()):
            return root, True
        if any((root / name).is_dir() for name in _FOLDERS.values()):
            return root, False
    return None


def _root(path: Path) -> tuple[Path, bool]:
    if (found := _find_root(path)) is None:
        raise FileNotFoundError(
            f"{path} has neither {_LISTS['train']} of the official DVS128 Gesture nor {_FOLDERS['train']} of tonic: "
            f"get it from {SOURCE}, or run `{FETCH}`."
        )
    return found


def _user(name: str) -> int:
    match = _USER.match(name)
    return int(match[1]) if match else 0


# --- the official release ---


def _official(root: Path, part: Part) -> Iterator[_Trial]:
    path = root / _LISTS[part]
    with reading(path, "a list of recordings", f"get DVS128 Gesture again from {SOURCE}"):
        names = path.read_text("utf-8", "replace").replace("\0", "").splitlines()
    for name in filter(None, map(str.strip, names)):
        file = root / Path(name).name
        if not file.is_file():
            raise FileNotFoundError(f"{file} is listed in {path.name} and missing: get it again from {SOURCE}.")
        for k, (label, span) in enumerate(_labels(file.with_name(f"{file.stem}_labels.csv"))):
            yield _Trial(_user(name), f"{file.stem} {k:02}", label, file, span)


def _labels(path: Path) -> Iterator[tuple[int, tuple[int, int]]]:
    """Label from 0 and span in microseconds of each line."""
    with reading(path, "a table of gestures", f"get DVS128 Gesture again from {SOURCE}"):
        rows = list(csv.reader(path.read_text("utf-8", "replace").splitlines()))
    if len(rows) < 2:
        raise FileError(f"{path} has no gesture: get it again from {SOURCE}.")
    for row in rows[1:]:
        try:
            number, start, end = map(int, row)
        except ValueError:
            number, start, end = 0, 0, 0
        if not (1 <= number <= N_CLASSES and 0 <= start < end < _ENDLESS):
            raise FileError(
                f"{path}: {','.join(row)[:80]!r} is not a class from 1 to {N_CLASSES} with start and end in µs: "
                f"get it again from {SOURCE}."
            )
        yield number - 1, (start, end)


# --- tonic's files ---


def _of_tonic(root: Path, part: Part) -> Iterator[_Trial]:
    for file in (root / _FOLDERS[part]).glob("user*/*.npy"):
        if not (file.stem.isdecimal() and int(file.stem) < N_CLASSES):
            raise ValueError(f"{file} must be named for its class, 0 to {N_CLASSES - 1}: `{FETCH}` gets it again.")
        yield _Trial(_user(file.parent.name), f"{file.parent.name} {file.stem:0>2}", int(file.stem), file)


def _array(file: Path) -> tuple[Times, Times, Times, Times]:
    """Times in microseconds, columns, rows and polarities, as from `Recording.between`."""
    with reading(file, "an array", f"`{FETCH}` gets it again"):
        array = np.lib.format.open_memmap(file, "r")  # allocates no more than the file holds
        whole = array.ndim == 2 and array.shape[1] == 4 and array.dtype.kind in "iuf"
        if not (whole and ((np.abs(array) < _ENDLESS) & (array == np.rint(array))).all()):
            raise FileError(
                f"{file} is not an array of integers [events, 4] but {array.dtype} {list(array.shape)}: `{FETCH}` "
                "gets it again."
            )
        x, y, polarity, time = array.astype(np.int64).T
    return time * 1000, x, y, (polarity > 0).astype(np.int64)
