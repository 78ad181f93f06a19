"""The fused loop on the CPU of a feature map that hears itself through a convolution, one step late.

Forward only the windows of neurons that spike are added up. For backward the potential is kept, and the spikes as
bits. Samples are split over threads, each with a gradient of the weight of its own; these are summed in a fixed order,
so a fixed number of threads gives the same numbers every time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fluctua.simd.vectors import lanes, width_of
from fluctua.spikes.batch import SpikeBatch, flat
from fluctua.spikes.bits import words_of
from fluctua.timeloop.contract import Dynamics, Form, name_of
from fluctua.timeloop.cpu_loop import Array, pool
from fluctua.timeloop.cpu_source import Kernel, kernel
from fluctua.timeloop.derivation import adjoint_of, by_constant
from fluctua.timeloop.emitting import Pass
from fluctua.timeloop.events_conv import padded
from fluctua.timeloop.limits import Maybe, apply
from fluctua.timeloop.threads import Blocks, added, over_samples
from fluctua.timeloop.tracing import traced

_BLOCK = 8  # samples that go through the steps together: what they have of one step lies side by side in memory


def run(x: Tensor, dynamics: Dynamics, weight: Tensor) -> Tensor:
    """Spikes `[T, B, C, *N]` of neurons at rest before the first step; a request that `CpuEngine` serves.

    Args:
        x: current from outside `[T, B, C, *N]`, with one or two axes N, not empty.
        dynamics: of neurons that spike; what they hear and the current go to their first input.
        weight: `[C, C, *K]` of odd sizes K, that of a convolution which keeps the shape of the map.
    """
    inputs = x, weight, *dynamics.constants
    trains = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    wanted = tuple(k for k, c in enumerate(dynamics.constants) if trains and c.requires_grad)
    operation = _Loop(_Kind(_Sheet.of(x, weight), dynamics.form, wanted, trains), x.shape)
    return apply(operation, inputs)[0]


class _Sheet(NamedTuple):
    """Where the neurons are, and how far they hear; one axis of places is one row of them."""

    channels: int
    rows: int
    columns: int
    high: int
    wide: int

    @classmethod
    def of(cls, x: Tensor, weight: Tensor) -> "_Sheet":
        """That of a current and the recurrent weight."""
        one_row = [1] * (5 - x.ndim)
        return cls(len(weight), *one_row, *x.shape[3:], *one_row, *weight.shape[2:])

    def width(self, dtype: torch.dtype) -> int:
        """Numbers at one place of a map."""
        return width_of(self.channels, name_of(dtype))

    def map(self, values: Tensor, padding: float = 0.0) -> Array:
        """A map of numbers `[channels, *N]`, with `padding` where there are no neurons."""
        places = self.rows + self.high - 1, self.columns + self.wide - 1
        whole = values.new_full((*places, self.width(values.dtype)), padding)
        neurons = self.of_map(whole)
        neurons.copy_(values.reshape(neurons.shape))
        return flat(whole)

    def of_map(self, whole: Tensor) -> Tensor:
        """Back from there, `[..., rows, columns, width]`."""
        top, left = self.high // 2, self.wide // 2
        inner = whole[..., top : top + self.rows, left : left + self.columns, : self.channels]
        return inner.movedim(-1, -3)

    def forth(self, weight: Tensor) -> Array:
        """The weight as the way forth takes it, `[channels, window, width]`, and its gradient comes."""
        return padded(self._turned_around(weight).permute(1, 2, 0))

    def weight_of(self, rows: Array, like: Tensor) -> Tensor:
        """Back from there, in the shape of the weight."""
        whole = torch.from_numpy(rows).view(self.channels, self.high * self.wide, -1)
        return whole[..., : self.channels].permute(2, 0, 1).flip(2).reshape(like.shape)

    def back(self, weight: Tensor) -> Array:
        """The weight as the way back takes it, `[window, outputs, width]`."""
        return padded(self._turned_around(weight).permute(2, 0, 1))

    def _turned_around(self, weight: Tensor) -> Tensor:
        """`[outputs, channels, window]`: what a place hears from each of those around it, in their order."""
        return weight.detach().flatten(2).flip(2)


class _Kind(NamedTuple):
    """What there is to do, numbers apart.

    `trains` says whether a backward pass may follow, `wanted` are the numbers of the constants that it asks for.
    """

    sheet: _Sheet
    form: Form
    wanted: tuple[int, ...]
    trains: bool

    def numbers(self, constants: Sequence[Tensor], neurons: torch.Size) -> Array:
        """The constants as maps; where there are no neurons they are those of the first."""
        each = [c.detach().expand(neurons) for c in constants]
        return np.stack([self.sheet.map(c, float(c.reshape(-1)[0])) for c in each])

    def live(self, like: Tensor) -> Array:
        """A bit for each place of a map where there is a neuron."""
        there = torch.from_numpy(self.sheet.map(like.new_ones(self.sheet[:3])))
        spikes = SpikeBatch.from_dense(there.view(1, 1, -1))
        assert spikes is not None
        return spikes.arrays(like.dtype)[0]


@lru_cache(maxsize=64)
def _kernels(kind: _Kind, dtype: str) -> tuple[Kernel, Kernel, int]:
    """Forth and back, and the number of records in between."""
    facts, t = {"LANES": lanes(dtype), "STATES": kind.form.states}, traced(*kind.form)
    back = adjoint_of(t, kind.wanted, writes=1)
    records = back.read[1:] if kind.trains else ()
    forth = kernel(Pass.onward(t, records), "integrate_map", dtype, facts)
    return forth, kernel(back, "back_map", dtype, facts), len(records)


@dataclass(frozen=True)
class _Loop:
    """See `limits.Operation`: of current, weight and constants; gives spikes, their bits and records."""

    kind: _Kind
    shape: torch.Size
    called = "the fused recurrent loop"
    differentiable = (0,)

    def forth(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        x, weight, *constants = tensors
        x, sheet, (steps, samples, *neurons) = _ordered(x), self.kind.sheet, self.shape
        numbers = self.kind.numbers(constants, torch.Size(neurons))
        size = numbers.shape[1]
        code, _, n_records = _kernels(self.kind, str(numbers.dtype))
        output, words = (
            pool.empty(tuple(x.shape), x.dtype),
            x.new_empty(steps, samples, words_of(size), dtype=torch.int64),
        )
        records = [pool.empty((steps, samples, size), x.dtype) for _ in range(n_records)]
        given = flat(x), sheet, sheet.forth(weight), code.numbers, numbers, self.kind.live(x), steps, samples
        filled = flat(output), _bits(words), tuple(flat(record) for record in records)

        def work(blocks: Blocks) -> None:
            for first, stop in blocks:
                code.call(*given, first, stop, *filled)

        over_samples(work, samples, _BLOCK)
        return output, words, *records

    def kept(self, tensors: Sequence[Tensor], results: Sequence[Tensor]) -> Sequence[Tensor]:
        return *tensors[1:], *results[1:]

    def back(self, kept: Sequence[Tensor], grads: Sequence[Maybe], wanted: Sequence[bool]) -> Sequence[Maybe]:
        (g, *_), (weight, *others), n = grads, kept, self.kind.form.constants
        assert g is not None
        constants, words, records = others[:n], others[n], others[n + 1 :]
        g, sheet, (steps, samples, *neurons) = _ordered(g), self.kind.sheet, self.shape
        numbers = self.kind.numbers(constants, torch.Size(neurons))
        _, code, _ = _kernels(self.kind, str(numbers.dtype))
        g_x, turned = pool.empty(tuple(self.shape) if wanted[0] else (0,), g.dtype), sheet.back(weight)
        given = flat(g), sheet, turned, code.numbers, numbers, steps, samples
        read = _bits(words), tuple(flat(record) for record in records), flat(g_x)
        sizes = (
            (sheet.forth(weight).size if wanted[1] else 0, g.dtype),
            (len(self.kind.wanted) * numbers.shape[1], torch.float64),
        )

        def work(blocks: Blocks) -> list[Array]:
            # By torch, whose memory starts with a line of the cache.
            sums = [torch.zeros(n, dtype=dtype).numpy() for n, dtype in sizes]
            for first, stop in blocks:
                code.call(*given, first, stop, *read, *sums)
            return sums

        by_weight, maps = added(over_samples(work, samples, _BLOCK))
        places = sheet.rows + sheet.high - 1, sheet.columns + sheet.wide - 1
        of_neurons = sheet.of_map(torch.from_numpy(maps).view(len(self.kind.wanted), *places, sheet.width(g.dtype)))
        by_constants = by_constant(of_neurons.reshape(-1, *neurons), constants, self.kind.wanted)
        return g_x if wanted[0] else None, sheet.weight_of(by_weight, weight) if wanted[1] else None, *by_constants


def _ordered(tensor: Tensor) -> Tensor:
    """The same numbers, frame after frame in memory."""
    return tensor.detach().resolve_neg().contiguous()


def _bits(words: Tensor) -> Array:
    return flat(words).view(np.uint64)
