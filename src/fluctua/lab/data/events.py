"""Spike events: samples and data sets.

Events keep their times in seconds, so the time step is chosen when they are binned, not when they are stored.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Dataset

Sample = TypeVar("Sample", covariant=True)


@dataclass(frozen=True, eq=False)
class Events:
    """The spikes of one sample, in any order.

    Attributes:
        times: float32 `[n]`, seconds, finite and not negative.
        units: int64 `[n]`, the unit which spikes, from 0.

    Raises:
        ValueError: if the shapes differ, a time is negative or not finite, or the units are not integers.
    """

    times: NDArray[np.float32]
    units: NDArray[np.int64]

    def __post_init__(self) -> None:
        times, units = np.asarray(self.times), np.asarray(self.units)
        if times.dtype.kind not in "fiu":
            raise ValueError(f"times must be seconds, not {times.dtype}: cast them with .astype('float32').")
        with np.errstate(over="ignore"):  # refused below
            times = times.astype(np.float32, copy=False)
        if times.ndim != 1 or times.shape != units.shape:
            raise ValueError(f"times {times.shape} and units {units.shape} must be vectors of equal length: pair them.")
        units = whole(units, "units")
        if not np.isfinite(times).all():
            raise ValueError(
                f"{np.sum(~np.isfinite(times))} of {times.size} times are not finite: remove those events."
            )
        if times.size and times.min() < 0:
            raise ValueError(f"time {times.min():g} s is negative, events start at 0 s: shift or drop them.")
        object.__setattr__(self, "times", times)
        object.__setattr__(self, "units", units)

    def __len__(self) -> int:
        return len(self.times)


class LabelledDataset(Dataset[tuple[Sample, int]], ABC, Generic[Sample]):
    """Samples of any kind, each with its class; `dataset[i]` is `(sample, label)`.

    Attributes:
        n_classes: number of classes; every label is below it.
        labels: int64 `[samples]`.
    """

    n_classes: int
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def __getitem__(self, i: int) -> tuple[Sample, int]: ...


class EventDataset(LabelledDataset[Events]):
    """Labelled samples of spike events.

    Attributes:
        n_units: number of input units; every event's unit is below it.
        n_classes: number of classes; every label is below it.
        labels: int64 `[samples]`.
    """

    n_units: int

    @abstractmethod
    def events(self, i: int) -> Events:
        """Return the events of sample `i`; negative `i` counts from the end, `IndexError` beyond it."""

    def __getitem__(self, i: int) -> tuple[Events, int]:
        return self.events(i), int(self.labels[i])


@dataclass(frozen=True, eq=False)
class EventArrays(EventDataset):
    """A data set in memory, as flat arrays: sample `i` owns the events `offsets[i]:offsets[i + 1]`.

    Attributes:
        times: float32 `[events]`, seconds.
        units: int64 `[events]`.
        offsets: int64 `[samples + 1]`, from 0 to the number of events.
        labels: int64 `[samples]`.
        n_units: number of input units.
        n_classes: number of classes.

    Raises:
        ValueError: if the arrays contradict each other.
    """

    times: NDArray[np.float32]
    units: NDArray[np.int64]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]
    n_units: int
    n_classes: int

    def __post_init__(self) -> None:
        every = Events(self.times, self.units)
        check_range(every.units, self.n_units, name="unit", limit="n_units")
        labels, offsets = whole(self.labels, "labels"), whole(self.offsets, "offsets")
        check_range(labels, self.n_classes, name="label", limit="n_classes")
        if len(self.offsets) != len(self.labels) + 1:
            raise ValueError(f"{len(self.labels)} labels need {len(self.labels) + 1} offsets, not {len(self.offsets)}.")
        if self.offsets[0] != 0 or self.offsets[-1] != len(every) or (np.diff(self.offsets) < 0).any():
            raise ValueError(f"offsets must rise from 0 to the number of events, {len(every)}: use a cumulative sum.")
        object.__setattr__(self, "times", every.times)
        object.__setattr__(self, "units", every.units)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "offsets", offsets)

    @classmethod
    def from_events(cls, samples: Sequence[Events], labels: Sequence[int], *, n_units: int, n_classes: int) -> Self:
        """Build the data set from one `Events` and one label per sample."""
        return cls(
            times=np.concatenate([sample.times for sample in samples]),
            units=np.concatenate([sample.units for sample in samples]),
            offsets=np.cumsum([0, *map(len, samples)]),
            labels=whole(labels, "labels"),
            n_units=n_units,
            n_classes=n_classes,
        )

    def events(self, i: int) -> Events:
        """Return the events of sample `i`, as views of the flat arrays."""
        i = range(len(self))[i]
        own = slice(self.offsets[i], self.offsets[i + 1])
        return Events(self.times[own], self.units[own])


class Subset(EventDataset):
    """Some samples of a data set, in the order of `indices`; only the labels are copied."""

    def __init__(self, dataset: EventDataset, indices: NDArray[np.int64] | Sequence[int]) -> None:
        self.dataset, self.indices = dataset, whole(indices, "indices")
        check_range(self.indices, len(dataset), name="index", limit="the number of samples")
        self.n_units, self.n_classes = dataset.n_units, dataset.n_classes
        self.labels = dataset.labels[self.indices]

    def events(self, i: int) -> Events:
        """Return the events of the subset's sample `i`."""
        return self.dataset.events(int(self.indices[i]))


def split(
    dataset: EventDataset,
    fractions: Sequence[float],
    *,
    seed: int,
    shuffle: bool = True,
    stratified: bool = False,
) -> tuple[Subset, ...]:
    """Cut a data set into disjoint parts that together hold every sample once.

    Args:
        dataset: what to cut.
        fractions: share of each part; they sum to 1. A part's size differs from its share by at most one sample.
        seed: decides the shuffle and nothing else; the same seed gives the same parts.
        shuffle: draw at random (and leave the parts in random order), else cut in the order of the samples.
        stratified: hold the shares within every class, not only overall.

    Raises:
        ValueError: if the fractions are negative or do not sum to 1.
    """
    parts = partition(dataset.labels, fractions, seed=seed, shuffle=shuffle, stratified=stratified)
    return tuple(Subset(dataset, part) for part in parts)


def partition(
    labels: NDArray[np.int64], fractions: Sequence[float], *, seed: int, shuffle: bool = True, stratified: bool = False
) -> tuple[NDArray[np.int64], ...]:
    """Cut the samples of these labels into disjoint parts, given as indices; arguments and errors as in `split`."""
    inner_bounds = cumulative(fractions)[:-1]
    samples = np.arange(len(labels))
    order = np.random.default_rng(seed).permutation(samples) if shuffle else samples
    groups = labels[order] if stratified else np.zeros(len(labels), dtype=np.int64)
    # A sample's part follows from its position in its group, from 0 to 1.
    quantile = (occurrence(groups) + 0.5) / np.bincount(groups)[groups]
    part = np.searchsorted(inner_bounds, quantile, side="right")
    return tuple(order[part == k] for k in range(len(fractions)))


def whole(values: ArrayLike, name: str) -> NDArray[np.int64]:
    """Convert integers to int64; nothing is truncated.

    Raises:
        ValueError: if the values are not of an integer type.
    """
    array = np.asarray(values)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        way = "np.flatnonzero on a mask" if array.dtype == np.bool_ else ".astype('int64') once they are whole"
        raise ValueError(f"{name} must be integers, not {array.dtype}: use {way}.")
    return array.astype(np.int64, copy=False)


def check_range(values: NDArray[np.int64], size: int, *, name: str, limit: str) -> None:
    """Refuse integers outside `0 .. size - 1` with a `ValueError` that names the first of them."""
    outside = values[(values < 0) | (values >= size)]
    if outside.size:
        raise ValueError(
            f"{name} {outside[0]} is not in 0..{size - 1}: raise {limit}, now {size}, or drop what lies outside."
        )


def cumulative(fractions: Sequence[float]) -> NDArray[np.float64]:
    """Return the running sum of `fractions`, which must not be negative and must sum to 1."""
    total = float(np.sum(fractions))
    if min(fractions, default=-1.0) < 0 or not math.isclose(total, 1.0, abs_tol=1e-9):
        raise ValueError(
            f"fractions {tuple(fractions)} must not be negative and must sum to 1, not {total:g}: correct them."
        )
    return np.cumsum(fractions, dtype=np.float64)


def occurrence(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count, for each entry, the equal entries before it: `[7, 8, 7, 7] -> [0, 0, 1, 2]`."""
    by_label = np.argsort(labels, kind="stable")
    _, first, counts = np.unique(labels[by_label], return_index=True, return_counts=True)
    rank = np.empty(len(labels), dtype=np.int64)
    rank[by_label] = np.arange(len(labels)) - np.repeat(first, counts)
    return rank
