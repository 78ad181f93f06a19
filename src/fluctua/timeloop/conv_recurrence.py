"""The fused CPU loop of a feature map with recurrence through a convolution, one step late.

Forward adds up only the windows of neurons that spike. For backward it keeps the potential, and the spikes as bits.
Samples are split over threads, each with its own gradient of the weight; these are summed in a fixed order, so a fixed
number of threads gives the same numbers every time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fluctua.simd.threads import Blocks, added, over_each_block, over_samples
from fluctua.simd.vectors import lanes, width_of
from fluctua.spikes.batch import SpikeBatch, flat, words_of
from fluctua.timeloop.contract import Dynamics, Form, Maybe, Operation, apply
from fluctua.timeloop.cpu_loop import Array, padded, pool
from fluctua.timeloop.cpu_source import Kernel, kernel
from fluctua.timeloop.derivation import adjoint_of, by_constant
from fluctua.timeloop.emitting import Pass
from fluctua.timeloop.events_conv import Window
from fluctua.timeloop.tracing import traced

_BLOCK = 8  # samples that go through the steps together: their values of one step lie side by side in memory


def run(x: Tensor, dynamics: Dynamics, weight: Tensor) -> Tensor:
    """Spikes `[T, B, C, *N]` of neurons at rest before the first step; a request that the engine of the CPU serves.

    Args:
        x: current from outside `[T, B, C, *N]`, with one or two axes N, not empty.
        dynamics: of spiking neurons; recurrent input and current go to their first input.
        weight: `[C, C, *K]` of odd sizes K, that of a convolution which keeps the shape of the map.
    """
    inputs = x, weight, *dynamics.constants
    trains = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    wanted = tuple(k for k, c in enumerate(dynamics.constants) if trains and c.requires_grad)
    (channels, *frame), one_row = x.shape[2:], [1] * (5 - x.ndim)  # one axis of places is one row of them
    high, wide = *one_row, *weight.shape[2:]
    window = Window((channels, channels, high, wide), (*one_row, *frame), (1, 1), (high // 2, wide // 2))  # type: ignore[arg-type]
    return apply(_Loop(window, dynamics.form, wanted, trains, x.shape), inputs)[0]


@lru_cache(maxsize=64)
def _kernels(form: Form, wanted: tuple[int, ...], trains: bool, dtype: str) -> tuple[Kernel, Kernel, int]:
    """The kernels forward and backward, and the number of records in between."""
    facts, t = {"LANES": lanes(dtype), "STATES": form.states}, traced(*form)
    back = adjoint_of(t, wanted, writes=1)
    records = back.read[1:] if trains else ()
    forth = kernel(Pass.onward(t, records), "integrate_map", dtype, facts)
    return forth, kernel(back, "back_map", dtype, facts), len(records)


@dataclass(frozen=True)
class _Loop(Operation):
    """See `contract.Operation`: of current, weight and constants; gives spikes, their bits and records.

    `trains` says whether a backward pass may follow, `wanted` are the indices of the constants with gradients.
    """

    window: Window
    form: Form
    wanted: tuple[int, ...]
    trains: bool
    shape: torch.Size
    called = "the fused recurrent loop"

    def forth(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        x, weight, *constants = tensors
        x, (steps, samples, channels, *frame) = _ordered(x), self.shape
        numbers = self._numbers(constants)
        code, _, n_records = _kernels(self.form, self.wanted, self.trains, str(numbers.dtype))
        spikes = SpikeBatch.from_dense(torch.from_numpy(padded(x.new_ones(*frame, channels))).view(1, 1, -1))
        assert spikes is not None
        output = pool.empty(tuple(x.shape), x.dtype)
        words = x.new_empty(steps, samples, words_of(numbers.shape[1]), dtype=torch.int64)
        records = [pool.empty((steps, samples, numbers.shape[1]), x.dtype) for _ in range(n_records)]
        live, *_ = spikes.arrays(x.dtype)  # a bit for each place of a map with a neuron
        rows = self.window.rows(weight)
        given = flat(x), self.window.geometry, rows, code.numbers, numbers, live, steps, samples
        filled = flat(output), _bits(words), tuple(flat(record) for record in records)
        over_each_block(lambda first, stop: code.call(*given, first, stop, *filled), samples, _BLOCK)
        return output, words, *records

    def kept(self, tensors: Sequence[Tensor], results: Sequence[Tensor]) -> Sequence[Tensor]:
        return *tensors[1:], *results[1:]

    def back(self, kept: Sequence[Tensor], grads: Sequence[Any], wanted: Sequence[bool]) -> Sequence[Maybe]:
        (g, *_), (weight, *others), n = grads, kept, self.form.constants
        constants, words, records = others[:n], others[n], others[n + 1 :]
        g, (steps, samples, channels, *frame) = _ordered(g), self.shape
        numbers = self._numbers(constants)
        _, code, _ = _kernels(self.form, self.wanted, self.trains, str(numbers.dtype))
        g_x = pool.empty(tuple(self.shape) if wanted[0] else (0,), g.dtype)
        # The weights with which a place receives from those around it, in order: the window turned around.
        turned = padded(weight.detach().flatten(2).flip(2).permute(2, 0, 1))
        given = flat(g), self.window.geometry, turned, code.numbers, numbers, steps, samples
        read = _bits(words), tuple(flat(record) for record in records), flat(g_x)
        sizes = turned.size if wanted[1] else 0, len(self.wanted) * numbers.shape[1]

        def work(blocks: Blocks) -> list[Array]:
            # By torch, whose memory is aligned to cache lines.
            sums = [
                torch.zeros(n, dtype=t, device="cpu").numpy()
                for n, t in zip(sizes, (g.dtype, torch.float64), strict=True)
            ]
            for first, stop in blocks:
                code.call(*given, first, stop, *read, *sums)
            return sums

        by_weight, maps = added(over_samples(work, samples, _BLOCK))
        width = width_of(channels, numbers.dtype)
        rows = torch.from_numpy(maps).view(len(self.wanted), numbers.shape[1] // width, width)[..., :channels]
        by_constants = by_constant(rows.mT.reshape(-1, channels, *frame), constants, self.wanted)
        g_weight = self.window.weight_of(by_weight).reshape(weight.shape) if wanted[1] else None
        return g_x if wanted[0] else None, g_weight, *by_constants

    def _numbers(self, constants: Sequence[Tensor]) -> Array:
        """The constants as maps; places without neurons get those of the first."""
        each = torch.stack([c.detach().expand(self.shape[2:]) for c in constants]).flatten(2).mT
        return padded(each, fill=each[:, :1, :1]).reshape(len(constants), -1)


def _ordered(tensor: Tensor) -> Tensor:
    """The same numbers, frame after frame in memory."""
    return tensor.detach().resolve_neg().contiguous()


def _bits(words: Tensor) -> Array:
    return flat(words).view(np.uint64)
