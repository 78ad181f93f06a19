"""The fused loop on the CPU of a feature map that hears itself through a convolution, one step late.

Forward only the windows of neurons that spike are added up. For backward the potential is kept, and the spikes as
bits. Samples are split over threads, each with a gradient of the weight of its own; these are summed in a fixed order,
so a fixed number of threads gives the same numbers every time.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fluctua.spikes.bits import words_of
from fluctua.timeloop import conv_recurrence_kernels as kernels
from fluctua.timeloop.contract import LoopParameters
from fluctua.timeloop.cpu_kernels import shape_of
from fluctua.timeloop.cpu_loop import pool
from fluctua.timeloop.events_kernels import width_of
from fluctua.timeloop.events_layout import Array, nothing
from fluctua.timeloop.limits import anchor, differentiable_once
from fluctua.timeloop.threads import Blocks, over_samples

Maybe = Tensor | None

_BLOCK = 8  # samples that go through the steps together: what they have of one step lies side by side in memory


def run(x: Tensor, parameters: LoopParameters, weight: Tensor) -> Tensor:
    """Spikes `[T, B, C, *N]` of neurons at rest before the first step; a request that `CpuEngine` serves.

    Args:
        x: current from outside `[T, B, C, *N]`, with one or two axes N, not empty.
        parameters: of neurons that spike and do not adapt; no gradient flows to the threshold.
        weight: `[C, C, *K]` of odd sizes K, that of a convolution which keeps the shape of the map.
    """
    p = parameters
    constants = [None if c is None else c.expand(x.shape[2:]) for c in (p.decay_mem, p.decay_syn, p.threshold)]
    inputs = x, weight, *constants
    trains = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    kind = _Kind.of(p, _Sheet.of(x, weight), trains)
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
        return width_of(self.channels, nothing(dtype).dtype)

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
    """What there is to do, numbers apart; `trains` says whether a backward pass may follow."""

    sheet: _Sheet
    exponential: bool
    hard: bool
    differentiable: bool
    surrogate: tuple[int, float, float]
    trains: bool
    records_drive: bool

    @classmethod
    def of(cls, p: LoopParameters, sheet: _Sheet, trains: bool) -> "_Kind":
        exponential, hard, differentiable = p.decay_syn is not None, p.reset == "zero", p.differentiable_reset
        records_drive = trains and ((hard and differentiable) or (exponential and p.learnable))
        surrogate = shape_of(p.surrogate)
        return cls(sheet, exponential, hard, differentiable, surrogate, trains, records_drive)

    def numbers(self, constants: Sequence[Maybe], like: Tensor) -> tuple[Array, ...]:
        """Decay and gain of the membrane, decay of the synapse and threshold, as maps."""
        a, b, theta = (c if c is None else c.detach() for c in constants)
        assert a is not None
        padded = (a, 0.0), (1 - a, 0.0), (b, 0.0), (theta, torch.finfo(like.dtype).max)
        return tuple(self.sheet.map(c, like, padding) for c, padding in padded)


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
            gradients: Sequence[Maybe] = _adjoint(ctx, _ordered(grads[0]), weight, saved[:3], saved[3:])
        if torch.is_grad_enabled():  # create_graph: whoever goes on from here must not take them for constants
            gradients = differentiable_once(gradients, "the fused recurrent loop", tied, *grads)
        return *gradients, None, None, None


def _integrate(x: Tensor, weight: Tensor, constants: Sequence[Maybe], kind: _Kind) -> tuple[Tensor, ...]:
    """The spikes, and what the adjoint needs: their bits, the potential and what entered it, `[T, B, ...]`."""
    steps, samples = x.shape[:2]
    numbers = kind.numbers(constants, x)
    size = numbers[0].size
    output, words = pool.empty(tuple(x.shape), x.dtype), torch.empty(steps, samples, words_of(size), dtype=torch.int64)
    potential, drive = (
        pool.empty((steps, samples, size if wanted else 0), x.dtype) for wanted in (kind.trains, kind.records_drive)
    )
    given = _flat(x), kind.sheet, kind.sheet.forth(weight), *numbers, kind.exponential, kind.hard, steps, samples
    filled = _flat(output), _bits(words), _flat(potential), _flat(drive)

    def work(blocks: Blocks) -> None:
        for first, stop in blocks:
            kernels.integrate(*given, first, stop, *filled)

    over_samples(work, samples, _BLOCK)
    return output, words, potential, drive


def _adjoint(
    ctx: Any, g: Tensor, weight: Tensor, constants: Sequence[Maybe], records: Sequence[Tensor]
) -> tuple[Maybe, ...]:
    """Gradients with respect to current, weight and decays, where they are asked for."""
    kind, (wants_x, wants_weight, *wants_decays) = ctx.kind, ctx.needs_input_grad[:4]
    sheet, (words, potential, drive), numbers = kind.sheet, records, kind.numbers(constants, g)
    shape, real = ctx.shape, numbers[0].dtype.type
    g_x = pool.empty(tuple(shape) if wants_x else (0,), g.dtype)
    decays = numbers[0].size if any(wants_decays) else 0, torch.float64  # one comes with the other
    totals = (sheet.forth(weight).size if wants_weight else 0, g.dtype), decays, decays
    form, slope, height = kind.surrogate
    rule = kind.exponential, kind.hard, kind.differentiable, form, real(slope), real(height)
    given = _flat(g), sheet, sheet.back(weight), *numbers, *rule, *shape[:2]
    recorded = _bits(words), _flat(potential), _flat(drive), _flat(g_x)

    def work(blocks: Blocks) -> list[Array]:
        # By torch, whose memory starts with a line of the cache.
        sums = [torch.zeros(n, dtype=dtype).numpy() for n, dtype in totals]
        for first, stop in blocks:
            kernels.back(*given, first, stop, *recorded, *sums)
        return sums

    parts = over_samples(work, shape[1], _BLOCK)
    by_weight, *by_decays = (sum(sums[1:], sums[0]) for sums in zip(*parts, strict=True))  # threads in their order
    return (
        g_x if wants_x else None,
        sheet.weight_of(by_weight, weight) if wants_weight else None,
        *(
            sheet.of_map(total).to(g.dtype).reshape(shape[2:]) if wanted else None
            for total, wanted in zip(by_decays, wants_decays, strict=True)
        ),
    )


def _ordered(tensor: Tensor) -> Tensor:
    """The same numbers, frame after frame in memory."""
    return tensor.detach().resolve_neg().contiguous()


def _flat(tensor: Tensor) -> Array:
    array: Array = tensor.numpy().reshape(-1)
    return array


def _bits(words: Tensor) -> Array:
    return _flat(words).view(np.uint64)
