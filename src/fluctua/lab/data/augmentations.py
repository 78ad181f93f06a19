"""Augmentations: samples that differ from epoch to epoch, so that a network learns what they have in common.

An augmentation is a function `(sample, rng) -> sample`. It draws only from `rng`, which `Augmented` makes from seed,
epoch and sample: the same three give the same sample, in whatever order and process samples are read.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from fluctua.lab.data.cifar10 import Pixels
from fluctua.lab.data.events import Events, LabelledDataset

Sample = TypeVar("Sample")
Augmentation = Callable[[Sample, np.random.Generator], Sample]

GREY = 128  # a pixel value that causes no current


class Augmented(Dataset[tuple[Any, int]]):
    """The samples of a data set, each passed through augmentations in turn; labels stay the same.

    `augmented[i]` is sample `i` as drawn for epoch 0, the same at every call, and `augmented[epoch, i]` as drawn for
    that epoch.
    """

    def __init__(self, dataset: LabelledDataset[Any], augmentations: Sequence[Augmentation[Any]], *, seed: int) -> None:
        self.dataset, self.augmentations, self.seed = dataset, tuple(augmentations), seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Any, int]:
        epoch, i = key if isinstance(key, tuple) else (0, key)
        i = range(len(self))[i]
        sample, label = self.dataset[i]
        rng = np.random.default_rng((self.seed, epoch, i))
        for augmentation in self.augmentations:
            sample = augmentation(sample, rng)
        return sample, label


# --- of any events ---


@dataclass(frozen=True)
class DropEvents:
    """Drop each event independently with probability `p`.

    Raises:
        ValueError: if `p` is not in [0, 1).
    """

    p: float

    def __post_init__(self) -> None:
        if not 0 <= self.p < 1:
            raise ValueError(f"p={self.p} must be in [0, 1), where 0 keeps every event: pass the fraction to drop.")

    def __call__(self, events: Events, rng: np.random.Generator) -> Events:
        """Return the events that are kept."""
        return _kept(events, rng.random(len(events)) >= self.p)


@dataclass(frozen=True)
class RandomCrop:
    """Keep `duration` seconds from a random moment on, and count time from there.

    The moment is uniform between 0 and the last at which the crop ends with the last event; a sample not longer than
    the crop is left as it is.

    Raises:
        ValueError: if `duration` is not positive and finite.
    """

    duration: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.duration) and self.duration > 0):
            raise ValueError(f"duration={self.duration} s must be positive and finite: pass the length of the crop.")

    def __call__(self, events: Events, rng: np.random.Generator) -> Events:
        """Return the events of the crop."""
        slack = float(events.times.max(initial=0)) - self.duration
        if slack <= 0:
            return events
        since = events.times.astype(np.float64) - rng.uniform(0, slack)
        inside = (since >= 0) & (since < self.duration)
        return Events(since[inside].astype(np.float32), events.units[inside])


@dataclass(frozen=True)
class TimeJitter:
    """Shift each event in time by its own normal draw of standard deviation `std` seconds; drop those before 0 s.

    Raises:
        ValueError: if `std` is negative or not finite.
    """

    std: float

    def __post_init__(self) -> None:
        _check_std(self.std, "seconds")

    def __call__(self, events: Events, rng: np.random.Generator) -> Events:
        """Return the events at their new times."""
        times = (events.times + rng.normal(0, self.std, len(events))).astype(np.float32)
        return _kept(Events(np.maximum(times, 0), events.units), times >= 0)


@dataclass(frozen=True)
class TimeStretch:
    """Slow a sample down or speed it up by a factor whose logarithm is uniform in `-limit .. limit`.

    Raises:
        ValueError: if `limit` is negative or not finite.
    """

    limit: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.limit) and self.limit >= 0):
            raise ValueError(
                f"limit={self.limit} must be finite and not negative: pass the logarithm of the largest factor."
            )

    def __call__(self, events: Events, rng: np.random.Generator) -> Events:
        """Return the events at their new times."""
        factor = math.exp(rng.uniform(-self.limit, self.limit))
        return Events((events.times * factor).astype(np.float32), events.units)


# --- channels in a row, such as those of a cochlea ---


@dataclass(frozen=True)
class UnitShift:
    """Shift all events of a sample by the same number of units, uniform in `-limit .. limit`, like a change of pitch.

    Events outside the units `0 .. n_units - 1` is dropped.

    Raises:
        ValueError: if `limit` is not in `0 .. n_units - 1`.
    """

    limit: int
    n_units: int = 700

    def __post_init__(self) -> None:
        _check_limit(self.limit, self.n_units)

    def __call__(self, events: Events, rng: np.random.Generator) -> Events:
        """Return the events at their new units."""
        return _moved(events, events.units + rng.integers(-self.limit, self.limit, endpoint=True), self.n_units)


@dataclass(frozen=True)
class UnitJitter:
    """Shift each event by its own normal draw of standard deviation `std` units, rounded.

    Events outside the units `0 .. n_units - 1` is dropped.

    Raises:
        ValueError: if `std` is negative or not finite.
    """

    std: float
    n_units: int = 700

    def __post_init__(self) -> None:
        _check_std(self.std, "units")
        _check_limit(0, self.n_units)

    def __call__(self, events: Events, rng: np.random.Generator) -> Events:
        """Return the events at their new units."""
        steps = np.rint(rng.normal(0, self.std, len(events))).astype(np.int64)
        return _moved(events, events.units + steps, self.n_units)


# --- of pixels ---


@dataclass(frozen=True)
class SpatialShift:
    """Shift all events of a camera sample by the same numbers of rows and columns, each uniform in `-limit .. limit`.

    Events outside the field of view are dropped.

    Attributes:
        limit: pixels.
        shape: how units are laid out, `(channels, rows, columns)`, such as `(2, 34, 34)`.

    Raises:
        ValueError: if `limit` is not in `0 .. min(rows, columns) - 1`.
    """

    limit: int
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        _check_limit(self.limit, min(self.shape[1:]))

    def __call__(self, events: Events, rng: np.random.Generator) -> Events:
        """Return the events at their new pixels."""
        _, rows, columns = self.shape
        down, right = _steps(self.limit, rng)
        channel, y, x = np.unravel_index(events.units, self.shape)
        y, x = y + down, x + right
        inside = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
        units = (channel * rows + y) * columns + x
        return Events(events.times[inside], units[inside])


@dataclass(frozen=True)
class PixelShift:
    """Shift an image `[channels, rows, columns]` as `SpatialShift` does events; the border becomes grey, no current.

    Raises:
        ValueError: if `limit` is negative.
    """

    limit: int

    def __post_init__(self) -> None:
        if not isinstance(self.limit, Integral) or self.limit < 0:
            raise ValueError(f"limit={self.limit!r} must be a whole number from 0 on: pass the largest shift.")

    def __call__(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        """Return the shifted image."""
        m, (_, rows, columns) = self.limit, pixels.shape
        down, right = _steps(m, rng)
        wide = np.pad(pixels, ((0, 0), (m, m), (m, m)), constant_values=GREY)
        return wide[:, m - down : m - down + rows, m - right : m - right + columns]


@dataclass(frozen=True)
class Mirror:
    """Mirror an image `[channels, rows, columns]` left to right, with probability one half."""

    def __call__(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        """Return the image or its mirror image."""
        return pixels[..., ::-1].copy() if rng.random() < 0.5 else pixels


def _steps(limit: int, rng: np.random.Generator) -> tuple[int, int]:
    down, right = rng.integers(-limit, limit, 2, endpoint=True)
    return int(down), int(right)


def _kept(events: Events, kept: NDArray[np.bool_]) -> Events:
    return Events(events.times[kept], events.units[kept])


def _moved(events: Events, units: NDArray[np.int64], n_units: int) -> Events:
    return _kept(Events(events.times, units), (units >= 0) & (units < n_units))


def _check_limit(limit: int, size: int) -> None:
    if not isinstance(limit, Integral) or not 0 <= limit < size:
        raise ValueError(f"limit={limit!r} must be a whole number, 0..{size - 1}, of {size} in a row: pass a shift.")


def _check_std(std: float, unit: str) -> None:
    if not (math.isfinite(std) and std >= 0):
        raise ValueError(f"std={std} must be finite and not negative: pass the standard deviation in {unit}.")
