"""The way back through an excitatory and an inhibitory population that hear each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fluctua.timeloop import events_exc_inh_kernels as kernels
from fluctua.timeloop.cpu_kernels import shape_of
from fluctua.timeloop.events_exc_inh_padded import Padded
from fluctua.timeloop.events_kernels import scatter
from fluctua.timeloop.events_layout import Array, Arriving
from fluctua.timeloop.threads import Blocks, over_samples


@dataclass(frozen=True, eq=False)
class Record:
    """What backward knows of a forward pass of T steps and B samples.

    Attributes:
        layer: the numbers.
        arriving: spikes or current from outside.
        exc: spikes of the excitatory population.
        inh: spikes of the inhibitory one.
        steps: T.
        samples: B.
    """

    layer: Padded
    arriving: Arriving
    exc: Arriving
    inh: Arriving
    steps: int
    samples: int


def adjoint(
    record: Record, g_spikes: Sequence[Tensor | None], wanted: Sequence[bool], g_input: Tensor | None, block: int
) -> list[Tensor | None]:
    """Gradients with respect to all `Numbers`, in their order.

    Args:
        record: of the forward pass.
        g_spikes: gradients with respect to the spikes of both populations, `[T, B, exc]` and `[T, B, inh]`.
        wanted: which of the numbers' gradients are asked for.
        g_input: filled with the gradient with respect to what arrives `[T, B, N]`, unless None.
        block: number of samples to work on at a time.
    """

    def work(blocks: Blocks) -> list[Array]:
        sums = _zeros(record.layer, wanted)
        ways: dict[int, _Way] = {}  # by number of samples: the last block may be smaller
        for first, stop in blocks:
            size = stop - first
            ways[size] = way = ways.get(size) or _Way(record, size, sums)
            way.run(first, g_spikes)
            if g_input is not None:
                g_input[:, first:stop] = way.input_gradient().transpose(0, 1)
        return sums

    parts = over_samples(work, record.samples, block)
    totals = [sum(arrays[1:], arrays[0]) for arrays in zip(*parts, strict=True)]  # over threads, in their order
    shaped = [_shaped(total, record.layer) if asked else None for total, asked in zip(totals, wanted, strict=False)]
    return [*shaped[:3], *(g if g is None else g[:, 0] for g in shaped[3:]), None]


def _zeros(layer: Padded, wanted: Sequence[bool]) -> list[Array]:
    """Sums of all gradients but the threshold's; what is not asked for has no element. One kernel gives all decays."""
    learns, matrices = any(wanted[3:6]), (layer.weight, layer.from_exc, layer.from_inh)
    weights = [np.zeros_like(w) if asked else w[:0] for w, asked in zip(matrices, wanted, strict=False)]
    return [*weights, *(np.zeros(layer.kind.width if learns else 0, np.float64) for _ in range(3))]


class _Way:
    """The way back over a block of so many samples: its buffers, used again for every block."""

    def __init__(self, record: Record, samples: int, sums: list[Array]) -> None:
        self.record, self.samples, self.sums = record, samples, sums
        layer, kind, steps = record.layer, record.layer.kind, record.steps
        dtype = layer.decay_mem.dtype
        learns = sums[3].size > 0
        size, row = samples * steps * kind.width, samples * kind.width
        self.memory = [np.zeros(size, dtype) for _ in range(2)]  # gradients wrt the two currents
        currents = size if learns or (kind.hard and kind.differentiable) else 0
        self.states = np.empty(size, dtype), np.empty(currents, dtype), np.empty(currents, dtype)
        # Not the words of the forward pass: somebody else may be reading those.
        self.words = np.empty_like(record.exc.words), np.empty_like(record.inh.words)
        self.carried = [np.empty(row, dtype) for _ in range(3)]
        self.decays = [np.empty(row if learns else 0, dtype) for _ in range(3)]
        shape, slope, height = shape_of(kind.surrogate)
        self.arguments: tuple[Any, ...] = (
            *(*self.memory, *self.states, *self.carried, *self.decays),
            *(layer.decay_mem, layer.gain, layer.decay_exc, layer.decay_inh, layer.threshold),
            *(kind.hard, kind.differentiable, shape, dtype.type(slope), dtype.type(height), steps),
        )

    def run(self, first: int, g_spikes: Sequence[Tensor | None]) -> None:
        """Go back over the samples from `first` on."""
        record, stop = self.record, first + self.samples
        record.layer.integrate(record.arriving, record.steps, first, stop, self.states, self.words)
        for array in (*self.carried, *self.decays):
            array.fill(0)
        for there, given in zip(record.layer.kind.parts(self._gradients()[0]), g_spikes, strict=True):
            there.copy_(given[:, first:stop].transpose(0, 1)) if given is not None else there.zero_()
        self._through_time()
        kind, (g_exc, g_inh) = record.layer.kind, self.memory
        ways = (
            (record.arriving, record.layer.units, g_exc, 0),
            (record.exc, kind.exc, g_exc, 1),
            (record.inh, kind.inh, g_inh, 1),
        )
        for (spikes, units, g, lag), total in zip(ways, self.sums, strict=False):
            if total.size:
                words = spikes.words, spikes.values, spikes.starts
                scatter(*words, units, g, kind.width, record.steps, lag, first, stop, total, total[:0])
        for total, part in zip(self.sums[3:], self.decays, strict=True):
            total += part.reshape(self.samples, -1).sum(0, dtype=np.float64) if part.size else 0.0

    def input_gradient(self) -> Tensor:
        """With respect to what arrives, `[samples, T, N]`, after `run`."""
        layer, (g, _) = self.record.layer, self._gradients()
        return g @ _matrix(layer.weight, layer) if layer.weight.size else torch.cat(layer.kind.parts(g), -1)

    def _gradients(self) -> list[Tensor]:
        """Wrt the two currents, `[samples, T, width]`; the first, where a step is not yet done, wrt the spikes."""
        return [torch.from_numpy(g).view(self.samples, self.record.steps, -1) for g in self.memory]

    def _through_time(self) -> None:
        layer = self.record.layer
        g_exc, g_inh = (g.unbind(1) for g in self._gradients())
        from_exc = _matrix(layer.from_exc, layer) if layer.from_exc.size else None
        from_inh = _matrix(layer.from_inh, layer)
        for t in range(self.record.steps - 1, -1, -1):
            if t < self.record.steps - 1:
                exc, inh = layer.kind.parts(g_exc[t])
                if from_exc is not None:
                    exc.addmm_(g_exc[t + 1], from_exc)
                inh.addmm_(g_inh[t + 1], from_inh)
            kernels.adjoint(*self.arguments, t)


def _matrix(weight: Array, layer: Padded) -> Tensor:
    """A weight as `[width, afferents]`."""
    return torch.from_numpy(weight).view(-1, layer.kind.width).t()


def _shaped(total: Array, layer: Padded) -> Tensor:
    """A sum of rows `[rows, width]` as `[n, rows]`."""
    rows = torch.from_numpy(total.astype(layer.decay_mem.dtype, copy=False)).view(-1, layer.kind.width)
    return torch.cat(layer.kind.parts(rows), -1).t().contiguous()
