"""Sparse spikes: one bit for each unit, sample and step, and the values of the spikes where these are not all 1."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fluctua.simd.threads import over_shares

MAX_DENSITY = 0.25
"""Fraction of non-zero entries above which an input is multiplied as a dense tensor.

Measured for 700 afferents of 128 LIF neurons, forward and backward, one thread: spikes take 0.27 of the time of a
product at 3 %, 0.8 at 20 %, 1.25 at 35 %; convolutions cross at about the same density (`benchmarks/conv_events.py`).
Near the crossing both cost the same, so the choice needs no memory.
"""


@dataclass(frozen=True, eq=False)
class SpikeBatch:
    """Spikes of a batch, in 1/32 of the memory of the dense tensor `[T, B, N]`, and quick to walk through.

    Attributes:
        words: int64 `[B, T, ceil(N / 64)]`; bit k of word m says whether unit 64 m + k spikes.
        units: number of units N.
        values: `[n]`, the size of each spike in the order of samples, steps and units, or None where all are 1.
        starts: int64 `[B, T]`, where the values of each step begin, or None.

    Example:
        >>> spikes = SpikeBatch.from_indices(steps=[0, 2], samples=[0, 0], units=[1, 3], shape=(3, 1, 4))
        >>> spikes.dense()[:, 0].tolist()
        [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    """

    words: Tensor
    units: int
    values: Tensor | None = None
    starts: Tensor | None = None

    @classmethod
    def from_indices(
        cls, steps: ArrayLike, samples: ArrayLike, units: ArrayLike, shape: tuple[int, int, int]
    ) -> "SpikeBatch":
        """From a list of spikes, each of size 1 however often it is listed.

        Args:
            steps: time step of each spike.
            samples: its sample.
            units: its unit.
            shape: `(T, B, N)`.

        Raises:
            ValueError: lists of different lengths, fractions, or an index outside of `shape`.
        """
        given = [np.asarray(indices) for indices in (steps, samples, units)]
        lists = [indices.astype(np.int64) for indices in given]
        if not all(np.array_equal(whole, indices) for whole, indices in zip(lists, given, strict=True)):
            raise ValueError(
                "steps, samples and units are whole numbers: divide times by the time step, and round down"
            )
        if any(a.ndim != 1 or a.shape != lists[0].shape for a in lists):
            raise ValueError(f"spikes need one step, sample and unit each, got {[a.shape for a in lists]}")
        for name, indices, size in zip(("step", "sample", "unit"), lists, shape, strict=True):
            if indices.size and not 0 <= indices.min() <= indices.max() < size:
                raise ValueError(
                    f"a {name} must be in 0..{size - 1}, got {indices.min()}..{indices.max()}: correct shape"
                )
        t, b, n = shape
        words = np.zeros((b, t, words_of(n)), np.uint64)
        np.bitwise_or.at(words, (lists[1], lists[0], lists[2] >> 6), np.uint64(1) << (lists[2] & 63).astype(np.uint64))
        return cls(torch.from_numpy(words.view(np.int64)), n)

    @classmethod
    def from_dense(cls, x: Tensor, max_density: float = 1.0) -> "SpikeBatch | None":
        """From a dense tensor `[T, B, N]`, in any layout, or None if more than `max_density` of it is not zero.

        Other numbers than float32 and float64, such as booleans, become float32.
        """
        from fluctua.spikes import bits

        steps, samples, units = x.shape
        x = x.detach() if x.dtype in (torch.float32, torch.float64) else x.detach().float()
        x = x if x.stride(2) == 1 else x.contiguous()
        memory = flat(x)
        words = np.empty((samples, steps, words_of(units)), np.uint64)
        strides = x.stride(0), x.stride(1)
        limit = math.floor(max_density * x.numel())
        found: list[tuple[int, bool]] = []

        def pack(first: int, stop: int) -> None:
            own, out = memory[first * strides[1] :], words[first:stop].reshape(-1)
            found.append(bits.pack(own, *strides, steps, stop - first, units, limit, out))

        over_shares(pack, samples, x.numel())
        count, binary = sum(n for n, _ in found), all(ones for _, ones in found)
        if count > limit:
            return None
        packed = torch.from_numpy(words.view(np.int64))
        if binary:
            return cls(packed, units)
        starts, values = np.empty((samples, steps), np.int64), np.empty(count, memory.dtype)
        arrays = words.reshape(-1), starts.reshape(-1), values
        bits.read_values(memory, *strides, steps, samples, words.shape[2], *arrays)
        return cls(packed, units, torch.from_numpy(values), torch.from_numpy(starts))

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The dense tensor `[T, B, N]`."""
        from fluctua.spikes import bits

        out = torch.zeros(self.shape, dtype=dtype, device="cpu")
        steps, samples, units = self.shape
        arrays, memory = self.arrays(dtype), out.numpy().reshape(-1)

        def unpack(first: int, stop: int) -> None:
            bits.unpack(*arrays, steps, samples, units, memory, first, stop)

        over_shares(unpack, samples, out.numel())
        return out

    def placeholder(self, dtype: torch.dtype) -> Tensor:
        """A tensor in the shape of the dense one that takes no memory; its values are meaningless."""
        return torch.zeros(1, dtype=dtype, device="cpu").expand(self.shape)

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(T, B, N)`."""
        return self.words.shape[1], self.words.shape[0], self.units

    def arrays(self, dtype: torch.dtype) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Words, values and starts as flat NumPy arrays, empty where all spikes are 1."""
        nothing = torch.empty(0, dtype=dtype, device="cpu")
        values = nothing if self.values is None else self.values.to(dtype)
        starts = torch.empty(0, dtype=torch.int64, device="cpu") if self.starts is None else self.starts
        return self.words.numpy().view(np.uint64).reshape(-1), values.numpy(), starts.numpy().reshape(-1)


def flat(x: Tensor) -> NDArray[Any]:
    """The memory that a tensor spans, as one axis."""
    span = 0 if x.numel() == 0 else 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
    array: NDArray[Any] = x.detach().as_strided((span,), (1,)).numpy()
    return array


def words_of(units: int) -> int:
    """Number of words that hold a bit for each unit."""
    return -(-units // 64)
