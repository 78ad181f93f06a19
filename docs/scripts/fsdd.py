"""Spoken digits in the layout of SHD: `fsdd_train.h5` and `fsdd_test.h5` from spikes that lauscher has made.

    python docs/scripts/fsdd.py SPIKES OUT

SPIKES holds one `DIGIT_SPEAKER_INDEX.npz` for each recording of the Free Spoken Digit Dataset, see docs/data.md. Of
four speakers the recordings 5 to 49 are for training and 0 to 4 for the test; of lucas all are for the test.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")  # their numbers in the files
HEARD, UNHEARD = ("george", "jackson", "nicolas", "theo"), ("lucas",)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TESTED = 5  # recordings of each digit and speaker; the official test set of FSDD


@dataclass(frozen=True, order=True)
class Recording:
    """One recording, by its number, speaker and digit; times in seconds and channels of its spikes are in a file."""

    index: int
    speaker: str
    digit: int
    path: Path

    @classmethod
    def of(cls, path: Path) -> "Recording":
        """That of a file `DIGIT_SPEAKER_INDEX.npz`."""
        digit, speaker, index = path.stem.split("_")
        return cls(int(index), speaker, int(digit), path)

    def spikes(self) -> tuple[NDArray[np.float16], NDArray[np.uint16]]:
        """Times and channels, by time; what lauscher exports is the one array `[2, spikes]` of both."""
        with np.load(self.path) as file:
            times, channels = file["arr_0"]
        order = np.argsort(times, kind="stable")
        return times[order].astype(np.float16), channels[order].astype(np.uint16)


def write(path: Path, recordings: Sequence[Recording]) -> None:
    """A file in the layout of SHD."""
    times, channels = zip(*(r.spikes() for r in recordings), strict=True)
    with h5py.File(path, "w") as file:
        for name, rows, kind in (("times", times, np.float16), ("units", channels, np.uint16)):
            data = file.create_dataset(f"spikes/{name}", (len(rows),), dtype=h5py.vlen_dtype(kind))
            for i, row in enumerate(rows):
                data[i] = row
        file["labels"] = np.array([r.digit for r in recordings], dtype=np.uint8)
        file["extra/speaker"] = np.array([SPEAKERS.index(r.speaker) for r in recordings], dtype=np.uint8)
        file["extra/keys"] = np.array(DIGITS, dtype="S")
        file["extra/meta_info/speaker"] = np.array(SPEAKERS, dtype="S")


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spikes", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    every = sorted(map(Recording.of, given.spikes.glob("*_*_*.npz")))
    write(given.out / "fsdd_train.h5", [r for r in every if r.speaker in HEARD and r.index >= TESTED])
    tested = [r for r in every if r.speaker in UNHEARD or (r.speaker in HEARD and r.index < TESTED)]
    write(given.out / "fsdd_test.h5", tested)


if __name__ == "__main__":
    main()
