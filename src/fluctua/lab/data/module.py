"""Data sets as Lightning data modules; events are binned when a batch is made."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from fluctua.lab.data.augmentations import Augmentation, Augmented, DropEvents, RandomCrop
from fluctua.lab.data.binning import bin_events, channel_count, check_times, step_count
from fluctua.lab.data.dvs_gesture import DVSGesture
from fluctua.lab.data.events import EventDataset, Events, LabelledDataset, occurrence, split, whole
from fluctua.lab.data.fingerprint import checksum, in_text
from fluctua.lab.data.nmnist import NMNIST
from fluctua.lab.data.order import EpochKeys, EpochShuffle
from fluctua.lab.data.shd import SHDFile, by_acquaintance

try:
    import lightning
except ImportError as error:
    raise ImportError('Data modules need lightning, which is missing: pip install "fluctua[train]".') from error

_LOOKED_AT = 8  # samples checked for the unit of their times

Batch = tuple[torch.Tensor, torch.Tensor]
D = TypeVar("D", bound=LabelledDataset[Any])


class SplitDataModule(lightning.LightningDataModule, Generic[D]):
    """Batches `(x, y)` of training, validation and test sets: `x` float32 `[T, B, *shape]`, `y` int64 `[B]`.

    The order of training and its augmentations depend only on seed and epoch. Lightning tells the sampler the epoch; in
    your own loop call `loader.sampler.set_epoch(epoch)`.

    Attributes:
        splits: the data sets by name, as given: `train`, `val`, `test`, then the further test sets.
        test_names: names of the test sets, in the order of Lightning's `dataloader_idx`.
        shape: of one sample at one time step.
        n_classes: number of classes.
        n_steps: number of time steps T.
    """

    shape: tuple[int, ...]
    n_steps: int

    def __init__(
        self,
        splits: Mapping[str, D],
        collate: Callable[[Sequence[Any]], Batch],
        *,
        batch_size: int,
        seed: int,
        num_workers: int,
        prepare: Sequence[Augmentation[Any]] = (),
        augment: Sequence[Augmentation[Any]] = (),
    ) -> None:
        """Take data sets by name, the first two of which are `train` and `val`, and a function from samples to a batch.

        All samples pass through `prepare`, training samples then through `augment`. Training draws anew in every epoch;
        the other sets, and `batch`, keep the draws of epoch 0.

        Raises:
            ValueError: if `batch_size` is out of range, or labels are not whole.
        """
        super().__init__()
        if not (isinstance(batch_size, int) and batch_size >= 1 and isinstance(seed, int)):
            raise ValueError(f"{batch_size=} must be at least 1, and {seed=} whole: change them.")
        for name, dataset in splits.items():
            whole(dataset.labels, f"labels of {name}")
        self.splits = dict(splits)
        self.test_names = tuple(name for name in splits if name not in ("train", "val"))
        self.n_classes = max(dataset.n_classes for dataset in splits.values())
        self._collate, self._prepare, self._augment = collate, tuple(prepare), tuple(augment)
        self._batch_size, self._seed, self._num_workers = batch_size, seed, num_workers

    def batch(self, n: int, split: str = "train") -> Batch:
        """Return `n` samples as one batch `(x, y)`, the same at every call, with classes as balanced as possible.

        Raises:
            ValueError: if there is no such split, or it has fewer than `n` samples.
        """
        if split not in self.splits:
            raise ValueError(f"split {split!r} is unknown: choose one of {list(self.splits)}.")
        dataset = self.splits[split]
        if not 1 <= n <= len(dataset):
            raise ValueError(
                f"n={n} is not in 1..{len(dataset)}, the samples of {split!r}: ask for as many as there are."
            )
        order = np.random.default_rng(self._seed).permutation(len(dataset))
        rounds = occurrence(dataset.labels[order])  # the first of every class, then the second of every class, ...
        samples = self._drawn(split)
        return self._collate([samples[int(i)] for i in order[np.argsort(rounds, kind="stable")[:n]]])

    def fingerprint(self) -> dict[str, Any]:
        """What of these data decides a run's numbers, as plain data: settings, and checksums under "samples".

        Reads every sample once.
        """
        return {
            **vars(self._collate),
            "shape": list(self.shape),
            "batch_size": self._batch_size,
            "data_seed": self._seed,
            "prepare": [in_text(step) for step in self._prepare],
            "augment": [in_text(step) for step in self._augment],
            "samples": {name: checksum(dataset) for name, dataset in self.splits.items()},
        }

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the training batches, in an order given by seed and epoch."""
        train = self._drawn("train")
        order = EpochShuffle(len(self.splits["train"]), seed=self._seed)
        return self._loader(train, EpochKeys(order) if isinstance(train, Augmented) else order)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the validation batches, in the order of the data set."""
        return self._loader(self._drawn("val"))

    def test_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Return the test batches: one loader, or one for each of `test_names` if there are several."""
        loaders = [self._loader(self._drawn(name)) for name in self.test_names]
        return loaders if len(loaders) > 1 else loaders[0]

    def _drawn(self, split: str) -> D | Augmented:
        """The data set with its augmentations, if it has any."""
        steps = self._prepare + (self._augment if split == "train" else ())
        return Augmented(self.splits[split], steps, seed=self._seed) if steps else self.splits[split]

    def _loader(self, dataset: D | Augmented, sampler: Sampler[Any] | None = None) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_size=self._batch_size,
            sampler=sampler,
            collate_fn=self._collate,
            num_workers=self._num_workers,
            generator=torch.Generator().manual_seed(self._seed),  # otherwise it draws from the global generator
        )


class SpikeDataModule(SplitDataModule[EventDataset]):
    """Batches `(x, y)` of spike events: `x` float32 `[T, B, N]`, or `[T, B, *shape]` if units have a shape.

    Attributes:
        n_units: number of input channels N, after pooling.
    """

    def __init__(
        self,
        train: EventDataset,
        val: EventDataset,
        test: EventDataset,
        *,
        dt: float,
        duration: float,
        further_tests: Mapping[str, EventDataset] | None = None,
        batch_size: int = 128,
        pool: int = 1,
        shape: tuple[int, ...] | None = None,
        binary: bool = True,
        prepare: Sequence[Augmentation[Events]] = (),
        augment: Sequence[Augmentation[Events]] = (),
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        """Take data sets of equal `n_units`.

        Args:
            train: training samples.
            val: samples for choosing the best epoch.
            test: samples for the final test.
            dt: time step, seconds.
            duration: length of a batch, seconds; later events are dropped.
            further_tests: other test sets by name, such as those of some speakers.
            batch_size: samples per batch B; the last batch may have fewer.
            pool: neighbouring units merged into one channel.
            shape: how the N channels of one time step are laid out, such as `(2, 34, 34)`; default: in a row.
            binary: 0 and 1; if False, numbers of events.
            prepare: functions `(events, rng) -> events` applied to all samples in turn before binning.
            augment: further functions for training samples only, with new draws in every epoch.
            seed: not negative; decides the order of training, the samples of `batch` and all draws.
            num_workers: processes that bin; 0 bins in this process.

        Raises:
            ValueError: if the data sets differ in `n_units`, names collide, a setting is out of range, or nearly all
                events of the training samples lie beyond `duration` or in the first time step, for example because
                times are in another unit.
        """
        further = dict(further_tests or {})
        if taken := {"train", "val", "test"} & further.keys():
            raise ValueError(f"further_tests uses the names {sorted(taken)}, which are taken: choose others.")
        splits = {"train": train, "val": val, "test": test, **further}
        for name, dataset in splits.items():
            if dataset.n_units != train.n_units:
                raise ValueError(
                    f"{name} has {dataset.n_units} units and train {train.n_units}: pass data sets of the same input."
                )
        self.n_units = channel_count(train.n_units, pool)
        self.n_steps = step_count(dt, duration)
        self.shape = (self.n_units,) if shape is None else shape
        if math.prod(self.shape) != self.n_units:
            raise ValueError(f"shape={shape} holds {math.prod(self.shape)} channels, not {self.n_units}: correct it.")
        collate = _Collate(train.n_units, dt=dt, duration=duration, binary=binary, pool=pool, shape=self.shape)
        super().__init__(
            splits,
            collate,
            batch_size=batch_size,
            seed=seed,
            num_workers=num_workers,
            prepare=prepare,
            augment=augment,
        )
        self._check_times(dt, duration)

    def _check_times(self, dt: float, duration: float) -> None:
        """Refuse times that are plainly not in the unit of `dt` and `duration`."""
        samples = self._drawn("train")
        chosen = np.linspace(0, len(samples) - 1, min(_LOOKED_AT, len(samples))).astype(int)
        times = np.concatenate([np.zeros(0, np.float32), *(samples[int(i)][0].times for i in chosen)])
        check_times(times, dt, duration)

    @classmethod
    def from_shd_files(
        cls,
        train_path: str | Path,
        test_path: str | Path | None = None,
        *,
        val_path: str | Path | None = None,
        dt: float = 2e-3,
        duration: float = 0.7,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        n_units: int = 700,
        batch_size: int = 128,
        pool: int = 1,
        binary: bool = True,
        augment: Sequence[Augmentation[Events]] = (),
        seed: int = 0,
        num_workers: int = 0,
    ) -> Self:
        """Read files in the layout of SHD; `dt` and `duration` default to the paper's.

        Without a validation file, samples are held out of the training file, an equal share of every class; so are the
        test samples without a test file. If the test file has speakers that the training file lacks, the further test
        sets `known speakers` and `unheard speakers` report the two kinds separately.

        Args:
            train_path: the training file, such as `shd_train.h5`.
            test_path: the test file, such as `shd_test.h5`.
            val_path: the validation file, such as `ssc_valid.h5`; SHD has none.
            dt: time step, seconds.
            duration: length of a batch, seconds.
            val_fraction: share of the training file to hold out for validation, if there is no such file.
            test_fraction: share of it to hold out for testing, if there is no test file.
            n_units: number of channels in the files.
            batch_size: samples per batch.
            pool: neighbouring units merged into one channel.
            binary: 0 and 1; if False, numbers of events.
            augment: as in `SpikeDataModule`.
            seed: decides what is held out, besides what it decides in `SpikeDataModule`.
            num_workers: processes that bin.
        """
        file = SHDFile(train_path, n_units=n_units)
        held_out = [*([] if val_path else [val_fraction]), *([] if test_path else [test_fraction])]
        train, *rest = split(file, (1 - sum(held_out), *held_out), seed=seed, stratified=True)
        val = SHDFile(val_path, n_units=n_units) if val_path else rest[0]
        test = SHDFile(test_path, n_units=n_units) if test_path else rest[-1]
        return cls(
            train,
            val,
            test,
            dt=dt,
            duration=duration,
            further_tests=by_acquaintance(file, test) if isinstance(test, SHDFile) else None,
            batch_size=batch_size,
            pool=pool,
            binary=binary,
            augment=augment,
            seed=seed,
            num_workers=num_workers,
        )

    @classmethod
    def from_nmnist(
        cls,
        path: str | Path,
        *,
        dt: float = 2e-3,
        duration: float = 0.3,
        val_fraction: float = 0.1,
        batch_size: int = 16,
        binary: bool = True,
        augment: Sequence[Augmentation[Events]] = (),
        seed: int = 0,
        num_workers: int = 0,
    ) -> Self:
        """Read N-MNIST from its folder or tar file; batches are `[T, B, 2, 34, 34]`, polarity, row and column.

        Validation samples are held out of `Train`, an equal share of every digit; `Test` is the test set.

        Args:
            path: folder that holds `Train` and `Test`, or a tar file of both.
            dt: time step, seconds.
            duration: length of a batch, seconds; the recordings last 0.3 s.
            val_fraction: share of the training samples to hold out for validation.
            batch_size: samples per batch.
            binary: 0 and 1; if False, numbers of events.
            augment: as in `SpikeDataModule`.
            seed: decides what is held out, besides what it decides in `SpikeDataModule`.
            num_workers: processes that bin.
        """
        train, val = split(NMNIST(path), (1 - val_fraction, val_fraction), seed=seed, stratified=True)
        return cls(
            train,
            val,
            NMNIST(path, "Test"),
            dt=dt,
            duration=duration,
            batch_size=batch_size,
            shape=NMNIST.shape,
            binary=binary,
            augment=augment,
            seed=seed,
            num_workers=num_workers,
        )

    @classmethod
    def from_dvs_gesture(
        cls,
        path: str | Path,
        *,
        side: int = 32,
        drop: float = 0.5,
        dt: float = 2e-3,
        duration: float = 1.0,
        val_fraction: float = 0.1,
        batch_size: int = 16,
        binary: bool = False,
        augment: Sequence[Augmentation[Events]] = (),
        seed: int = 0,
        num_workers: int = 0,
    ) -> Self:
        """Read DVS128 Gesture from its folder, see `DVSGesture`; batches are `[T, B, 2, side, side]`.

        The defaults are the paper's: half of the events of every sample, also for testing, are dropped, and a random
        second is shown. Validation samples are held out of the training part, an equal share of every class.

        Args:
            path: folder of the official release or of tonic's files.
            side: rows and columns that the camera's 128 x 128 pixels are merged to.
            drop: probability of dropping an event.
            dt: time step, seconds.
            duration: length of a batch, seconds, cut at random from gestures of some 6 s.
            val_fraction: share of the training samples to hold out for validation.
            batch_size: samples per batch.
            binary: 0 and 1; if False, numbers of events.
            augment: as in `SpikeDataModule`.
            seed: decides what is held out, besides what it decides in `SpikeDataModule`.
            num_workers: processes that read and bin.
        """
        every, test = DVSGesture(path, side=side), DVSGesture(path, "test", side=side)
        train, val = split(every, (1 - val_fraction, val_fraction), seed=seed, stratified=True)
        return cls(
            train,
            val,
            test,
            dt=dt,
            duration=duration,
            batch_size=batch_size,
            shape=every.shape,
            binary=binary,
            prepare=(DropEvents(drop), RandomCrop(duration)),
            augment=augment,
            seed=seed,
            num_workers=num_workers,
        )


@dataclass(frozen=True)
class _Collate:
    """Samples -> batch; a class rather than a closure, so that it can be sent to worker processes."""

    n_units: int
    dt: float
    duration: float
    binary: bool
    pool: int
    shape: tuple[int, ...]

    def __call__(self, samples: Sequence[tuple[Events, int]]) -> Batch:
        events, labels = zip(*samples, strict=True)
        x = bin_events(
            events, n_units=self.n_units, dt=self.dt, duration=self.duration, binary=self.binary, pool=self.pool
        )
        return x.reshape(*x.shape[:2], *self.shape), torch.tensor(labels)
