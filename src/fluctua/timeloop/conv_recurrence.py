"""The fused loop on the CPU of a feature map that hears itself through a convolution, one step late.

Forward only the windows of neurons that spike are added up. For backward the potential is kept, and the spikes as
bits. Samples are split over threads, each with a gradient of the weight of its own; these are summed in a fixed order,
so a fixed number of threads gives the same numbers every time.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fluctua.simd.vectors import lanes, width_of
from fluctua.spikes.batch import SpikeBatch
from fluctua.spikes.bits import words_of
from fluctua.timeloop.contract import Dynamics
from fluctua.timeloop.cpu_loop import pool
from fluctua.timeloop.cpu_source import Kernel, backward_kernel, forward_kernel
from fluctua.timeloop.events_layout import Array, Maybe
from fluctua.timeloop.expressions import Expression, cheapest_records
from fluctua.timeloop.limits import anchor, differentiable_once
from fluctua.timeloop.steps import Step
from fluctua.timeloop.threads import Blocks, over_samples
from fluctua.timeloop.tracing import Traced, traced

_BLOCK = 8  # samples that go through the steps together: what they have of one step lies side by side in memory


def run(x: Tensor, dynamics: Dynamics, weight: Tensor) -> Tensor:
    """Spikes `[T, B, C, *N]` of neurons at rest before the first step; a request that `CpuEngine` serves.

    Args:
        x: current from outside `[T, B, C, *N]`, with one or two axes N, not empty.
        dynamics: of neurons that spike and have one input.
        weight: `[C, C, *K]` of odd sizes K, that of a convolution which keeps the shape of the map.
    """
    inputs = x, weight, *(c.expand(x.shape[2:]) for c in dynamics.constants)
    trains = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    wanted = tuple(k for k, c in enumerate(dynamics.constants) if trains and c.requires_grad)
    kind = _Kind(_Sheet.of(x, weight), dynamics.step, dynamics.states, len(dynamics.constants), wanted, trains)
    output: Tensor = _Loop.apply(*inputs, anchor(inputs), kind)  # type: ignore[no-untyped-call]
    return output


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
        return width_of(self.channels, str(dtype).removeprefix("torch."))

    def map(self, constant: Maybe, like: Tensor, padding: float = 0.0) -> Array:
        """A map of a constant `[channels, rows, columns]`, with `padding` where there are no neurons."""
        places = self.rows + self.high - 1, self.columns + self.wide - 1
        whole = like.new_full((*places, self.width(like.dtype)), padding)
        if constant is not None:
            neurons = self._neurons(whole)
            neurons.copy_(constant.reshape(neurons.shape))
        return _flat(whole)

    def of_map(self, values: Array) -> Tensor:
        """Back from there."""
        places = self.rows + self.high - 1, self.columns + self.wide - 1
        return self._neurons(torch.from_numpy(values).view(*places, -1))

    def _neurons(self, whole: Tensor) -> Tensor:
        top, left = self.high // 2, self.wide // 2
        inner = whole[top : top + self.rows, left : left + self.columns, : self.channels]
        return inner.permute(2, 0, 1)

    def forth(self, weight: Tensor) -> Array:
        """The weight as the way forth takes it, `[channels, window, width]`, and its gradient comes."""
        return self._padded(self._turned_around(weight).permute(1, 2, 0))

    def weight_of(self, rows: Array, like: Tensor) -> Tensor:
        """Back from there, in the shape of the weight."""
        whole = torch.from_numpy(rows).view(self.channels, self.high * self.wide, -1)
        return whole[..., : self.channels].permute(2, 0, 1).flip(2).reshape(like.shape)

    def back(self, weight: Tensor) -> Array:
        """The weight as the way back takes it, `[window, outputs, width]`."""
        return self._padded(self._turned_around(weight).permute(2, 0, 1))

    def _turned_around(self, weight: Tensor) -> Tensor:
        """`[outputs, channels, window]`: what a place hears from each of those around it, in their order."""
        return weight.detach().flatten(2).flip(2)

    def _padded(self, values: Tensor) -> Array:
        whole = values.new_zeros(*values.shape[:2], self.width(values.dtype))
        whole[..., : self.channels] = values
        return _flat(whole)


class _Kind(NamedTuple):
    """What there is to do, numbers apart.

    `trains` says whether a backward pass may follow, `wanted` are the numbers of the constants that it asks for.
    """

    sheet: _Sheet
    step: Step | str
    states: int
    constants: int
    wanted: tuple[int, ...]
    trains: bool

    @property
    def traced(self) -> Traced:
        return traced(self.step, 1, self.states, self.constants)

    @property
    def records(self) -> tuple[Expression, ...]:
        """What the way back reads of each step."""
        return cheapest_records(self.traced.roots(self.wanted), lambda e: 1.0) if self.trains else ()

    def facts(self, dtype: str) -> dict[str, int]:
        return {"LANES": lanes(dtype), "STATES": self.states}

    def numbers(self, constants: Sequence[Tensor], like: Tensor) -> Array:
        """The constants as maps; where there are no neurons they are those of the first."""
        maps = [self.sheet.map(c.detach(), like, float(c.detach().reshape(-1)[0])) for c in constants]
        return np.stack(maps)

    def live(self, like: Tensor) -> Array:
        """A bit for each place of a map where there is a neuron."""
        channels, rows, columns, *_ = self.sheet
        there = torch.from_numpy(self.sheet.map(like.new_ones(channels, rows, columns), like))
        spikes = SpikeBatch.from_dense(there.view(1, 1, -1))
        assert spikes is not None
        return spikes.arrays(like.dtype)[0]


@lru_cache(maxsize=64)
def _forward(kind: _Kind, dtype: str) -> Kernel:
    return forward_kernel(kind.traced, "integrate_map", dtype, kind.facts(dtype), kind.records)


@lru_cache(maxsize=64)
def _backward(kind: _Kind, dtype: str) -> Kernel:
    gradients = kind.traced.roots(kind.wanted)
    return backward_kernel(kind.traced, "back_map", dtype, kind.facts(dtype), gradients, kind.records, writes=1)


class _Loop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        x, weight, *constants, tied, kind = inputs
        output, *records = _integrate(_ordered(x), weight, constants, kind)
        ctx.save_for_backward(tied, weight, *constants, *records)
        ctx.kind, ctx.shape = kind, x.shape
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Maybe, ...]:
        tied, weight, *saved = ctx.saved_tensors
        with torch.no_grad():
            gradients: Sequence[Maybe] = _adjoint(
                ctx, _ordered(grads[0]), weight, saved[: ctx.kind.constants], saved[ctx.kind.constants :]
            )
        if torch.is_grad_enabled():  # create_graph: whoever goes on from here must not take them for constants
            gradients = differentiable_once(gradients, "the fused recurrent loop", tied, *grads)
        return *gradients, None, None, None


def _integrate(x: Tensor, weight: Tensor, constants: Sequence[Tensor], kind: _Kind) -> tuple[Tensor, ...]:
    """The spikes, and what the adjoint needs: their bits, the potential and what entered it, `[T, B, ...]`."""
    steps, samples = x.shape[:2]
    numbers = kind.numbers(constants, x)
    size, dtype = numbers.shape[1], str(numbers.dtype)
    output, words = pool.empty(tuple(x.shape), x.dtype), torch.empty(steps, samples, words_of(size), dtype=torch.int64)
    records = [pool.empty((steps, samples, size), x.dtype) for _ in kind.records]
    kernel = _forward(kind, dtype)
    given = _flat(x), kind.sheet, kind.sheet.forth(weight), kernel.numbers, numbers, kind.live(x)
    filled = _flat(output), _bits(words), tuple(_flat(record) for record in records)

    def work(blocks: Blocks) -> None:
        for first, stop in blocks:
            kernel.call(*given, steps, samples, first, stop, *filled)

    over_samples(work, samples, _BLOCK)
    return output, words, *records


def _adjoint(
    ctx: Any, g: Tensor, weight: Tensor, constants: Sequence[Tensor], records: Sequence[Tensor]
) -> tuple[Maybe, ...]:
    """Gradients with respect to current, weight and constants, where they are asked for."""
    kind, (wants_x, wants_weight, *_) = ctx.kind, ctx.needs_input_grad
    sheet, (words, *recorded), numbers = kind.sheet, records, kind.numbers(constants, g)
    shape, size, dtype = ctx.shape, numbers.shape[1], str(numbers.dtype)
    g_x = pool.empty(tuple(shape) if wants_x else (0,), g.dtype)
    totals = (
        (sheet.forth(weight).size if wants_weight else 0, g.dtype),
        (len(kind.wanted) * size, torch.float64),
    )
    kernel = _backward(kind, dtype)
    given = _flat(g), sheet, sheet.back(weight), kernel.numbers, numbers, *shape[:2]
    read = _bits(words), tuple(_flat(record) for record in recorded), _flat(g_x)

    def work(blocks: Blocks) -> list[Array]:
        # By torch, whose memory starts with a line of the cache.
        sums = [torch.zeros(n, dtype=kind_of_sum).numpy() for n, kind_of_sum in totals]
        for first, stop in blocks:
            kernel.call(*given, first, stop, *read, *sums)
        return sums

    parts = over_samples(work, shape[1], _BLOCK)
    by_weight, by_constant = (sum(sums[1:], sums[0]) for sums in zip(*parts, strict=True))  # threads in their order
    found: list[Maybe] = [None] * kind.constants
    for k, total in zip(kind.wanted, by_constant.reshape(-1, size), strict=True):
        found[k] = sheet.of_map(total).to(g.dtype).reshape(shape[2:])
    return g_x if wants_x else None, sheet.weight_of(by_weight, weight) if wants_weight else None, *found


def _ordered(tensor: Tensor) -> Tensor:
    """The same numbers, frame after frame in memory."""
    return tensor.detach().resolve_neg().contiguous()


def _flat(tensor: Tensor) -> Array:
    array: Array = tensor.numpy().reshape(-1)
    return array


def _bits(words: Tensor) -> Array:
    return _flat(words).view(np.uint64)
