"""Recordings of event cameras in AEDAT 3.1 (docs.inivation.com): lines of text, then packets of events.

A packet is a header of 28 bytes and its events; everything except packets of polarity events is skipped. All numbers
are little-endian.
"""

import mmap
import struct
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fluctua.files import FileError, reading

_FIRST, _LAST = b"#!AER-DAT3.", b"#!END-HEADER\r\n"
_HEADER = struct.Struct("<hhiiiiii")  # type, source, size, offset of the time, its overflow, capacity, number, valid
_POLARITY, _EVENT = 1, np.dtype([("data", "<u4"), ("time", "<i4")])
_OVERFLOW = 31  # bits of a time

Times = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Recording:
    """Where the polarity events of a file lie, packet by packet.

    Attributes:
        path: the file.
        starts: int64 `[packets]`, bytes before the first event.
        counts: int64 `[packets]`, number of events.
        offsets: int64 `[packets]`, microseconds to add to the times of the events.
        first: int64 `[packets]`, microseconds, the first event.
        last: int64 `[packets]`, microseconds, the last event.
    """

    path: Path
    starts: Times
    counts: Times
    offsets: Times
    first: Times
    last: Times

    @classmethod
    def index(cls, path: Path) -> "Recording":
        """Find the packets of the file at `path`; only their headers and ends are read.

        Raises:
            FileNotFoundError: if there is no such file.
            FileError: if it is not AEDAT 3.1, or is truncated.
        """
        with _reading(path), path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
            columns = np.array(_packets(raw), dtype=np.int64).reshape(-1, 5).T
        return cls(path, *columns)

    def between(self, start: int, end: int) -> tuple[Times, Times, Times, Times]:
        """Read the valid events of `start <= time < end`.

        Args:
            start: microseconds.
            end: microseconds.

        Returns:
            Times in microseconds, columns x, rows y and polarities (1: brighter), each int64 `[events]`.

        Raises:
            FileError: if the file has changed.
        """
        times, data = [np.zeros(0, np.int64)], [np.zeros(0, np.uint32)]
        with _reading(self.path), self.path.open("rb") as file:
            for k in np.flatnonzero((self.first < end) & (self.last >= start)):
                file.seek(self.starts[k])
                events = np.frombuffer(file.read(self.counts[k] * _EVENT.itemsize), dtype=_EVENT)
                if len(events) < self.counts[k]:
                    raise FileError(f"{self.path} has shrunk since it was opened: get it again.")
                times.append(events["time"].astype(np.int64) + self.offsets[k])
                data.append(events["data"])
        time, word = np.concatenate(times), np.concatenate(data).astype(np.int64)
        chosen = (time >= start) & (time < end) & (word & 1 == 1)
        time, word = time[chosen], word[chosen]
        return time, word >> 17 & 0x7FFF, word >> 2 & 0x7FFF, word >> 1 & 1


def _reading(path: Path) -> AbstractContextManager[None]:
    return reading(path, "AEDAT 3.1", "get it again")


def _packets(raw: mmap.mmap) -> list[tuple[int, int, int, int, int]]:
    """The facts of `Recording` about every packet of polarity events."""
    if raw[: len(_FIRST)] != _FIRST:
        raise ValueError("it does not begin with #!AER-DAT3.")
    position = raw.find(_LAST)
    if position < 0:
        raise ValueError("its header does not end")
    position, end, packets = position + len(_LAST), len(raw), []
    while position < end:
        if position + _HEADER.size > end:
            raise ValueError(f"it is truncated at byte {end}, in the header of a packet")
        kind, _, size, _, overflow, capacity, number, _ = _HEADER.unpack_from(raw, position)
        start = position + _HEADER.size
        position = start + size * capacity
        if size < 1 or not 0 <= number <= capacity or (kind == _POLARITY and size != _EVENT.itemsize):
            raise ValueError(f"the packet at byte {start - _HEADER.size} has {number} events of {size} bytes")
        if position > end:
            raise ValueError(f"it is truncated at byte {end}, in a packet that ends at {position}")
        if kind == _POLARITY and number:
            offset, last = overflow << _OVERFLOW, start + (number - 1) * size
            times = (offset + struct.unpack_from("<i", raw, at + 4)[0] for at in (start, last))
            packets.append((start, number, offset, *times))
    return packets
