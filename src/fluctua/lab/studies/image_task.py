"""Tasks on event-camera recordings, still images and spoken digits, each with a chosen number of samples."""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from fluctua.lab.data.augmentations import DropEvents, RandomCrop
from fluctua.lab.data.cifar10 import Images, read_cifar10
from fluctua.lab.data.dvs_gesture import SENSOR, DVSGesture
from fluctua.lab.data.events import EventDataset, Events, LabelledDataset, Subset, occurrence, partition
from fluctua.lab.data.nmnist import NMNIST
from fluctua.lab.data.shd import SHDFile
from fluctua.lab.studies.task import Task

if TYPE_CHECKING:
    from fluctua.lab.data.image_module import ImageDataModule
    from fluctua.lab.data.module import SpikeDataModule, SplitDataModule

D = TypeVar("D", bound=LabelledDataset[Any])


@dataclass(frozen=True, kw_only=True)
class SampledTask(Task, Generic[D]):
    """Some samples of a data set with its own test part.

    Attributes:
        path: of the data set, in the folder of the data.
        per_class: samples of each class of the training part, drawn by the seed; None for all.
        test_per_class: samples of each class of the test part, likewise.
        val_fraction: share of the training samples held out for validation.
        pool: rows and columns merged into one, a divisor of the image's; for sounds, channels.
    """

    path: str
    batch_size: int = 16
    per_class: int | None = None
    test_per_class: int | None = None
    val_fraction: float = 0.1
    pool: int = 1

    @property
    def files(self) -> tuple[str, ...]:
        return (self.path,)

    def load(self, seed: int, data: Path | None) -> "SplitDataModule[D]":
        every, test = self.read(data or Path())
        every = self.subset(every, balanced(every.labels, self.per_class, seed))
        test = self.subset(test, balanced(test.labels, self.test_per_class, seed))
        parts = partition(every.labels, (1 - self.val_fraction, self.val_fraction), seed=seed, stratified=True)
        train, val = (self.subset(every, part) for part in parts)
        options = {"dt": self.dt, "duration": self.duration, "batch_size": self.batch_size, "seed": seed}
        return self.module(train, val, test, options)

    @abstractmethod
    def read(self, folder: Path) -> tuple[D, D]:
        """Training and test part."""

    @abstractmethod
    def subset(self, dataset: D, indices: NDArray[np.int64]) -> D:
        """Some samples of a data set."""

    @abstractmethod
    def module(self, train: D, val: D, test: D, options: dict[str, Any]) -> "SplitDataModule[D]":
        """The data module of these parts; `options` are the arguments common to all data modules."""


@dataclass(frozen=True, kw_only=True)
class EventTask(SampledTask[EventDataset]):
    """Recordings in events."""

    def subset(self, dataset: EventDataset, indices: NDArray[np.int64]) -> EventDataset:
        return Subset(dataset, indices)


@dataclass(frozen=True, kw_only=True)
class SpokenTask(EventTask):
    """Recordings in the layout of SHD; from the test file, only speakers of the training file.

    Attributes:
        path: of the training file.
        test_path: of the test file.
    """

    test_path: str
    duration: float = 0.7

    @property
    def files(self) -> tuple[str, ...]:
        return self.path, self.test_path

    def read(self, folder: Path) -> tuple[EventDataset, EventDataset]:
        train, test = SHDFile(folder / self.path), SHDFile(folder / self.test_path)
        if train.speakers is None or test.speakers is None:
            return train, test
        return train, Subset(test, np.flatnonzero(np.isin(test.speakers, train.speakers)))

    def module(
        self, train: EventDataset, val: EventDataset, test: EventDataset, options: dict[str, Any]
    ) -> "SpikeDataModule":
        from fluctua.lab.data.module import SpikeDataModule

        return SpikeDataModule(train, val, test, pool=self.pool, **options)


@dataclass(frozen=True, kw_only=True)
class NMNISTTask(EventTask):
    """N-MNIST, its folder or a tar file of it."""

    path: str = "N-MNIST"
    duration: float = 0.3

    def read(self, folder: Path) -> tuple[EventDataset, EventDataset]:
        return NMNIST(folder / self.path), NMNIST(folder / self.path, "Test")

    def module(
        self, train: EventDataset, val: EventDataset, test: EventDataset, options: dict[str, Any]
    ) -> "SpikeDataModule":
        from fluctua.lab.data.module import SpikeDataModule

        train, val, test = (Merged(part, NMNIST.shape, self.pool) for part in (train, val, test))
        return SpikeDataModule(train, val, test, shape=merged_shape(NMNIST.shape, self.pool), **options)


@dataclass(frozen=True, kw_only=True)
class GestureTask(EventTask):
    """DVS128 Gesture from its folder, read as in the paper: a random second, numbers of events rather than spikes.

    Attributes:
        pool: camera pixels (of 128 x 128) per side of a merged pixel.
        drop: probability of dropping an event.
    """

    path: str = "DvsGesture"
    duration: float = 1.0
    pool: int = 4
    drop: float = 0.5

    def read(self, folder: Path) -> tuple[EventDataset, EventDataset]:
        path, (_, side, _) = folder / self.path, self._shape
        return DVSGesture(path, side=side), DVSGesture(path, "test", side=side)

    @property
    def _shape(self) -> tuple[int, int, int]:
        return merged_shape((2, SENSOR, SENSOR), self.pool)

    def module(
        self, train: EventDataset, val: EventDataset, test: EventDataset, options: dict[str, Any]
    ) -> "SpikeDataModule":
        from fluctua.lab.data.module import SpikeDataModule

        prepare = (DropEvents(self.drop), RandomCrop(self.duration))
        return SpikeDataModule(train, val, test, shape=self._shape, binary=False, prepare=prepare, **options)


@dataclass(frozen=True, kw_only=True)
class CIFAR10Task(SampledTask[Images]):
    """CIFAR-10 from its folder of batches; an image is a constant current."""

    path: str = "cifar-10-batches-py"
    duration: float = 0.5

    def read(self, folder: Path) -> tuple[Images, Images]:
        return read_cifar10(folder / self.path)

    def subset(self, dataset: Images, indices: NDArray[np.int64]) -> Images:
        return dataset.subset(indices)

    def module(self, train: Images, val: Images, test: Images, options: dict[str, Any]) -> "ImageDataModule":
        from fluctua.lab.data.image_module import ImageDataModule

        train, val, test = (mean_pooled(part, self.pool) for part in (train, val, test))
        return ImageDataModule(train, val, test, **options)


def balanced(labels: NDArray[np.int64], per_class: int | None, seed: int) -> NDArray[np.int64]:
    """Indices of `per_class` samples of each class, drawn at random; of all samples for None.

    Raises:
        ValueError: a class with fewer samples.
    """
    if per_class is None:
        return np.arange(len(labels))
    classes, counts = np.unique(labels, return_counts=True)
    if not 1 <= per_class <= counts.min():
        fewest = classes[counts.argmin()]
        raise ValueError(
            f"per_class={per_class} is not in 1..{counts.min()}, the samples of class {fewest}: ask for as many as "
            "there are"
        )
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.sort(order[occurrence(labels[order]) < per_class])


class Merged(EventDataset):
    """A data set of images `(polarity, row, column)`, with `pool` x `pool` pixels merged into one."""

    def __init__(self, dataset: EventDataset, shape: tuple[int, int, int], pool: int) -> None:
        self.dataset, self.labels, self.n_classes = dataset, dataset.labels, dataset.n_classes
        polarities, rows, columns = merged_shape(shape, pool)
        self.n_units = polarities * rows * columns
        units = np.arange(self.n_units).reshape(polarities, rows, columns)
        self._unit_of = units.repeat(pool, axis=1).repeat(pool, axis=2).ravel()

    def events(self, i: int) -> Events:
        """Return the events of sample `i`."""
        events = self.dataset.events(i)
        return Events(events.times, self._unit_of[events.units])


def mean_pooled(images: Images, pool: int) -> Images:
    """Images with `pool` x `pool` pixels averaged into one."""
    channels, rows, columns = merged_shape(images.pixels.shape[1:], pool)
    squares = images.pixels.reshape(-1, channels, rows, pool, columns, pool)
    return Images(squares.mean(axis=(3, 5)).round().astype(np.uint8), images.labels, images.n_classes)


def merged_shape(shape: tuple[int, ...], pool: int) -> tuple[int, int, int]:
    """`(channels, rows, columns)` after merging.

    Raises:
        ValueError: a number that does not divide rows and columns.
    """
    channels, rows, columns = shape
    if pool < 1 or rows % pool or columns % pool:
        raise ValueError(f"pool={pool} must divide the {rows} x {columns} pixels of an image: pass 1 to keep them")
    return channels, rows // pool, columns // pool
