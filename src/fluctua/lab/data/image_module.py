"""Still images as the constant input current of a spiking network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch

from fluctua.lab.data.augmentations import Augmentation
from fluctua.lab.data.binning import step_count
from fluctua.lab.data.cifar10 import Images, Pixels, read_cifar10
from fluctua.lab.data.events import partition
from fluctua.lab.data.module import Batch, SplitDataModule


class ImageDataModule(SplitDataModule[Images]):
    """Batches `(x, y)` of images: `x` float32 `[T, B, *shape]`, the same at every time step, `y` int64 `[B]`.

    Pixels from 0 to 255 become `(pixel / 255 - 0.5) / 0.5`, from -1 to 1. `x` is a view: it takes the memory of one
    time step, on the device too.
    """

    def __init__(
        self,
        train: Images,
        val: Images,
        test: Images,
        *,
        dt: float,
        duration: float,
        batch_size: int = 16,
        augment: Sequence[Augmentation[Pixels]] = (),
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        """Take images of one size.

        Args:
            train: training images.
            val: images for choosing the best epoch.
            test: images for the final test.
            dt: time step, seconds.
            duration: time for which an image is shown, seconds.
            batch_size: images per batch B; the last batch may have fewer.
            augment: functions `(pixels, rng) -> pixels` applied to the training images in turn, with new draws in
                every epoch.
            seed: not negative; decides the order of training, the images of `batch` and all draws.
            num_workers: processes that make batches.

        Raises:
            ValueError: if a setting is out of range.
        """
        self.n_steps, self.shape = step_count(dt, duration), train.pixels.shape[1:]
        super().__init__(
            {"train": train, "val": val, "test": test},
            _Constant(self.n_steps),
            batch_size=batch_size,
            seed=seed,
            num_workers=num_workers,
            augment=augment,
        )

    @classmethod
    def from_cifar10(
        cls,
        folder: str | Path,
        *,
        dt: float = 2e-3,
        duration: float = 0.5,
        val_fraction: float = 0.1,
        batch_size: int = 16,
        augment: Sequence[Augmentation[Pixels]] = (),
        seed: int = 0,
        num_workers: int = 0,
    ) -> Self:
        """Read CIFAR-10 from `cifar-10-batches-py`; `dt` and `duration` default to the paper's.

        Validation images are held out of the training batches, an equal share of every class.

        Args:
            folder: the unpacked official download.
            dt: time step, seconds.
            duration: time for which an image is shown, seconds.
            val_fraction: share of the training images to hold out for validation.
            batch_size: images per batch.
            augment: as in `ImageDataModule`.
            seed: decides what is held out, besides what it decides in `ImageDataModule`.
            num_workers: processes that make batches.
        """
        every, test = read_cifar10(folder)
        parts = partition(every.labels, (1 - val_fraction, val_fraction), seed=seed, stratified=True)
        train, val = (every.subset(part) for part in parts)
        return cls(
            train,
            val,
            test,
            dt=dt,
            duration=duration,
            batch_size=batch_size,
            augment=augment,
            seed=seed,
            num_workers=num_workers,
        )

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Send one time step, not T copies of it."""
        x, y = batch
        return x[0].to(device).expand_as(x), y.to(device)


@dataclass(frozen=True)
class _Constant:
    """Images -> batch."""

    n_steps: int

    def __call__(self, samples: Sequence[tuple[Pixels, int]]) -> Batch:
        pixels, labels = zip(*samples, strict=True)
        current = (torch.from_numpy(np.stack(pixels)).float() / 255 - 0.5) / 0.5
        return current.expand(self.n_steps, *current.shape), torch.tensor(labels)
