"""The tasks of studies: synthetic spike trains, or files in the layout of SHD."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluctua.lab.data import Augmentation, Events, RandmanSettings, TimeStretch, UnitShift, make_randman

if TYPE_CHECKING:
    from fluctua.lab.data.module import SpikeDataModule, SplitDataModule


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """Spike trains of several classes, in training, validation and test data; times in seconds.

    Attributes:
        dt: time step.
        duration: of a trial.
        batch_size: samples per step of training.
    """

    dt: float = 2e-3
    duration: float
    batch_size: int

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files that it reads."""
        return ()

    @abstractmethod
    def load(self, seed: int, data: Path | None) -> "SplitDataModule[Any]":
        """The data; `data` is the folder of the files."""


@dataclass(frozen=True, kw_only=True)
class RandmanTask(Task):
    """Randman; the seed draws the manifolds too, so that a mean over seeds is a mean over tasks.

    Attributes:
        n_classes: number of classes, each on its own manifolds.
        dim: dimension of the manifolds; more is harder.
        alpha: fall-off of their spectrum; smaller is harder.
        samples_per_class: 80 % for training, 10 % for validation, 10 % for testing.
        heard: seconds from the start in which the input spikes; None for all of the trial.
    """

    duration: float = 0.2
    batch_size: int = 125
    n_classes: int = 10
    dim: int = 1
    alpha: float = 1.0
    samples_per_class: int = 1000
    heard: float | None = None

    def __post_init__(self) -> None:
        if self.heard is not None and not 0 < self.heard <= self.duration:
            raise ValueError(f"heard={self.heard} s must be in (0, {self.duration}], within the trial")

    def load(self, seed: int, data: Path | None) -> "SpikeDataModule":
        from fluctua.lab.data.module import SpikeDataModule

        settings = RandmanSettings(
            n_classes=self.n_classes,
            dim=self.dim,
            alpha=self.alpha,
            duration=self.duration if self.heard is None else self.heard,
            samples_per_class=self.samples_per_class,
        )
        train, val, test = make_randman(settings, seed=seed)
        options = {"dt": self.dt, "duration": self.duration, "batch_size": self.batch_size}
        return SpikeDataModule(train, val, test, **options, seed=seed)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class FileTask(Task):
    """Recordings in the layout of SHD; a tenth of the training file, drawn by the seed, is held out for validation.

    Attributes:
        train: name of the training file.
        test: name of the test file.
        pool: number of neighbouring channels to merge.
        binary: 0 and 1; if False, numbers of spikes.
        shift: largest shift of training samples in either direction, in channels of the file.
        stretch: largest change of tempo, as the logarithm of the factor.
    """

    train: str
    test: str
    duration: float = 0.7
    batch_size: int = 128
    pool: int = 1
    binary: bool = True
    shift: int = 0
    stretch: float = 0.0

    @property
    def files(self) -> tuple[str, ...]:
        return self.train, self.test

    def load(self, seed: int, data: Path | None) -> "SpikeDataModule":
        from fluctua.lab.data.module import SpikeDataModule

        folder = data or Path()
        return SpikeDataModule.from_shd_files(
            folder / self.train,
            folder / self.test,
            dt=self.dt,
            duration=self.duration,
            batch_size=self.batch_size,
            pool=self.pool,
            binary=self.binary,
            augment=tuple(self._augment()),
            seed=seed,
        )

    def _augment(self) -> Iterator[Augmentation[Events]]:
        if self.shift:
            yield UnitShift(self.shift)
        if self.stretch:
            yield TimeStretch(self.stretch)


SHD = FileTask(train="shd_train.h5", test="shd_test.h5")
FSDD = FileTask(train="fsdd_train.h5", test="fsdd_test.h5")
"""Spoken digits, in the layout of SHD."""
