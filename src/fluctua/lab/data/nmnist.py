"""Reader for N-MNIST, handwritten digits in front of a moving event camera (Orchard et al. 2015)."""

import mmap
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np

from fluctua.files import FileError, reading
from fluctua.lab.data.events import EventDataset, Events

SOURCE = "https://www.garrickorchard.com/datasets/n-mnist or by `python -m fluctua.lab.data.fetch nmnist FOLDER`"
SIDE = 34

_MEMBER = re.compile(r"(?:^|/)(Train|Test)/([0-9])/[^/]+\.bin$")
_MARKER, _BYTES = 240, 5  # row number that marks a rollover of the clock; bytes of an event
_ROLLOVER = 1 << 13  # microseconds
_BLOCK = 512  # bytes, in a tar file


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

    The layout: `<part>/<digit>/<id>.bin`, five bytes per event: column x, row y, one bit of polarity (1: brighter) and
    23 bits of time in microseconds, high byte first. It becomes a spike of unit `polarity * 34 * 34 + y * 34 + x`, so
    that the units reshape to `(2, 34, 34)`. A tar file is not unpacked.

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
            FileError: if it holds no recording of that part, or is a damaged or compressed tar file.
        """
        self.path = Path(path)
        found = _in_folder(self.path, part) if self.path.is_dir() else _in_tar(self.path, part)
        self._recordings = sorted(found)
        if not self._recordings:
            raise FileError(f"{path} has no recording {part}/<digit>/<id>.bin: get N-MNIST from {SOURCE}.")
        self.labels = np.array([recording.digit for recording in self._recordings], dtype=np.int64)

    def events(self, i: int) -> Events:
        """Read the events of sample `i`.

        Raises:
            FileError: if the recording is truncated, or an event lies outside the 34 x 34 pixels.
        """
        recording = self._recordings[i]
        if recording.size == 0:
            return _decode(b"")
        with reading(recording.file, "events", "get the file again"), recording.file.open("rb") as file:
            file.seek(recording.start)
            raw = file.read(recording.size)
        try:
            if len(raw) < recording.size:
                raise ValueError("the file has shrunk since it was opened: get it again.")
            return _decode(raw)
        except ValueError as error:
            raise FileError(f"{recording.name} of {self.path}: {error}") from None


def _decode(raw: bytes) -> Events:
    if len(raw) % _BYTES:
        raise ValueError(f"{len(raw)} bytes are not a whole number of events of {_BYTES} bytes: get the file again.")
    x, y, high, middle, low = np.frombuffer(raw, dtype=np.uint8).reshape(-1, _BYTES).T.astype(np.int64)
    marker = y == _MARKER
    time = ((high & 0x7F) << 16 | middle << 8 | low) + _ROLLOVER * np.cumsum(marker)
    outside = ~marker & ((x >= SIDE) | (y >= SIDE))
    if outside.any():
        k = int(np.argmax(outside))
        raise ValueError(f"event {k} at x={x[k]}, y={y[k]} is outside {SIDE} x {SIDE} pixels: get the file again.")
    units = (high >> 7) * SIDE * SIDE + y * SIDE + x
    return Events((time[~marker] * 1e-6).astype(np.float32), units[~marker])


def _in_folder(root: Path, part: str) -> Iterator[_Recording]:
    for file in root.glob(f"{part}/[0-9]/*.bin"):
        yield _Recording(int(file.parent.name), str(file.relative_to(root)), file, 0, file.stat().st_size)


def is_tar(path: Path) -> bool:
    """Whether a file begins like a tar file."""
    with path.open("rb") as file:
        return file.read(_BLOCK)[257:262] == b"ustar"


def _in_tar(path: Path, part: str) -> list[_Recording]:
    """The recordings of a part, from the headers alone."""
    found = []
    with (
        reading(path, "a tar file", f"get N-MNIST from {SOURCE}, or gunzip it if it is compressed"),
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw,  # never reads beyond the end
        tarfile.open(fileobj=raw, mode="r:", tarinfo=_Member) as tar,  # type: ignore[call-overload]
    ):
        for member in tar:
            if member.size < 0 or member.offset_data + member.size > len(raw):
                raise tarfile.ReadError("unexpected end of data")
            match = _MEMBER.search(member.name)
            if match and match[1] == part and member.isreg() and not member.issparse():
                name = match[0].lstrip("/")
                found.append(_Recording(int(match[2]), name, path, member.offset_data, member.size))
        if raw[tar.offset : tar.offset + _BLOCK] != bytes(_BLOCK):  # tarfile accepts the end of the file
            raise tarfile.ReadError("unexpected end of data")
    return found


class _Member(tarfile.TarInfo):
    """A header of a tar file. On a negative size, which leads back to itself, Python before 3.11.14 loops for ever."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0:
            raise tarfile.ReadError("a member of negative size")
        return member
