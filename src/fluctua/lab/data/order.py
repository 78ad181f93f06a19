"""The order in which training sees the samples, which depends only on seed and epoch."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class EpochShuffle(Sampler[int]):
    """All indices below `n` in a random order that depends on `(seed, epoch)` alone.

    After every pass comes the next epoch, so that a wrapper that hides `set_epoch` still sees all orders.
    """

    def __init__(self, n: int, *, seed: int) -> None:
        self.n, self.seed, self.epoch = n, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; Lightning calls this at the start of every epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        return iter(np.random.default_rng((self.seed, epoch)).permutation(self.n).tolist())

    def __len__(self) -> int:
        return self.n


class EpochKeys(Sampler[tuple[int, int]]):
    """`(epoch, i)` for the indices of a shuffle: what `Augmented` needs to draw, in a worker process too."""

    def __init__(self, order: EpochShuffle) -> None:
        self.order = order

    def set_epoch(self, epoch: int) -> None:
        """Choose order and draws."""
        self.order.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.order.epoch
        return iter([(epoch, i) for i in self.order])

    def __len__(self) -> int:
        return len(self.order)
