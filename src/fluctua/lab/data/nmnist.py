"""Reader for N-MNIST, handwritten digits in front of a moving event camera (Orchard et al. 2015)."""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fluctua.lab.data.events import EventDataset, Events

SOURCE = "https://www.garrickorchard.com/datasets/n-mnist, or run `python -m fluctua.lab.data.fetch nmnist FOLDER`"
SIDE = 34

_MEMBER = re.compile(r"(?:^|/)(Train|Test)/([0-9])/[^/]+\.bin$")
_MARKER, _BYTES = 240, 5  # row number of what is no event but a rollover of the clock; size of an event
_ROLLOVER = 1 << 13  # microseconds
_BLOCK = 512  # of a tar file


@dataclass(frozen=True, order=True)
class _Recording:
    """Where the events of a sample lie."""

    digit: int
    name: str
    file: Path
    start: int
    size: int


class NMNIST(EventDataset):
    """The recordings of one part of N-MNIST, read one by one from its folder or straight from an uncompressed tar file.

    The layout: `<part>/<digit>/<id>.bin`, five bytes an event: column x, row y, one bit of polarity (1: brighter) and
    23 bits of time in microseconds, high byte first. It becomes a spike of unit `polarity * 34 * 34 + y * 34 + x`, so
    that the units reshape to `(2, 34, 34)`. Of a tar file nothing is unpacked.

    Attributes:
        path: the folder or tar file.
        labels: int64 `[samples]`, the digits, in rising order.
        shape: `(2, 34, 34)`, polarity, row and column.
    """

    shape = (2, SIDE, SIDE)
    n_units = 2 * SIDE * SIDE
    n_classes = 10

    def __init__(self, path: str | Path, part: Literal["Train", "Test"] = "Train") -> None:
        """Find the recordings of `part` under `path`.

        Raises:
            FileNotFoundError: if there is no such folder or file.
            ValueError: if it holds no recording of that part, or is a damaged or compressed tar file.
        """
        self.path = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(f"{path} does not exist: get N-MNIST from {SOURCE}.")
        found = _in_folder(self.path, part) if self.path.is_dir() else _in_tar(self.path, part)
        self._recordings = sorted(found)
        if not self._recordings:
            raise ValueError(f"{path} has no recording {part}/<digit>/<id>.bin: get N-MNIST from {SOURCE}.")
        self.labels = np.array([recording.digit for recording in self._recordings], dtype=np.int64)

    def events(self, i: int) -> Events:
        """Read the events of sample `i`.

        Raises:
            ValueError: if the recording is cut short, or an event lies outside of the 34 x 34 pixels.
        """
        recording = self._recordings[i]
        with recording.file.open("rb") as file:
            file.seek(recording.start)
            raw = file.read(recording.size)
        try:
            return _decode(raw)
        except ValueError as error:
            raise ValueError(f"{recording.name} of {self.path}: {error}") from None


def _decode(raw: bytes) -> Events:
    if len(raw) % _BYTES:
        raise ValueError(f"{len(raw)} bytes are no whole number of events of {_BYTES}: get the file again.")
    x, y, high, middle, low = np.frombuffer(raw, dtype=np.uint8).reshape(-1, _BYTES).T.astype(np.int64)
    marker = y == _MARKER
    time = ((high & 0x7F) << 16 | middle << 8 | low) + _ROLLOVER * np.cumsum(marker)
    outside = ~marker & ((x >= SIDE) | (y >= SIDE))
    if outside.any():
        k = int(np.argmax(outside))
        raise ValueError(f"event {k} at x={x[k]}, y={y[k]} is outside of {SIDE} x {SIDE} pixels: get the file again.")
    units = (high >> 7) * SIDE * SIDE + y * SIDE + x
    return Events((time[~marker] * 1e-6).astype(np.float32), units[~marker])


def _in_folder(root: Path, part: str) -> Iterator[_Recording]:
    for file in root.glob(f"{part}/[0-9]/*.bin"):
        yield _Recording(int(file.parent.name), str(file.relative_to(root)), file, 0, file.stat().st_size)


def _in_tar(path: Path, part: str) -> Iterator[_Recording]:
    try:
        with tarfile.open(path, "r:") as tar, path.open("rb") as file:
            for member in tar:
                match = _MEMBER.search(member.name)
                if match and match[1] == part and member.isreg() and not member.issparse():
                    yield _Recording(int(match[2]), match[0].lstrip("/"), path, member.offset_data, member.size)
            file.seek(tar.offset)
            if file.read(_BLOCK) != bytes(_BLOCK):  # tarfile is content with the end of the file
                raise tarfile.ReadError("unexpected end of data")
    except tarfile.TarError as error:
        raise ValueError(
            f"{path} cannot be read as a tar file ({error}): get it again, or gunzip it if it is compressed."
        ) from None
