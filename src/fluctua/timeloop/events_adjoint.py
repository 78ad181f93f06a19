"""The way back through fused layers: gradients with respect to the input and to all numbers of the layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fluctua.timeloop import events_adaptive_kernels as adaptive
from fluctua.timeloop import events_kernels as kernels
from fluctua.timeloop.cpu_kernels import shape_of
from fluctua.timeloop.events_layout import Array, Arriving, Numbers, Padded
from fluctua.timeloop.threads import Blocks, over_samples


@dataclass(frozen=True, eq=False)
class Record:
    """What backward knows of a forward pass.

    Attributes:
        numbers: tensors of each layer.
        layers: the same as the kernels take them.
        arriving: what arrives at each layer; then the spikes that leave the last, if it spikes.
        steps: T.
        samples: B.
    """

    numbers: Sequence[Numbers]
    layers: Sequence[Padded]
    arriving: Sequence[Arriving]
    steps: int
    samples: int


def adjoint(
    record: Record, g_output: Tensor, wanted: Sequence[Sequence[bool]], g_input: Tensor | None, block: int
) -> list[Tensor | None]:
    """Gradients with respect to all tensors of the layers, in their order.

    Args:
        record: of the forward pass.
        g_output: gradient with respect to the output, `[T, B, n]`.
        wanted: which of its tensors' gradients are asked for, for each layer.
        g_input: filled with the gradient with respect to the input `[T, B, N]`, unless None.
        block: number of samples to work on at a time.
    """
    layers, last = record.layers, len(record.layers) - 1

    def work(blocks: Blocks) -> list[_Sums]:
        sums = [_Sums.zeros(layer, w) for layer, w in zip(layers, wanted, strict=True)]
        ways: dict[int, list[_Way]] = {}  # by number of samples: the last block may be smaller
        for first, stop in blocks:
            size = stop - first
            if size not in ways:
                ways[size] = [_Way(record, k, size, s) for k, s in enumerate(sums)]
            back = ways[size]
            back[last].g.copy_(g_output[:, first:stop].transpose(0, 1))
            for k in range(last, -1, -1):
                back[k].run(first)
                weight = record.numbers[k].weight
                if k > 0:
                    torch.mm(back[k].rows, weight, out=back[k - 1].rows)  # type: ignore[arg-type]
                elif g_input is not None:
                    g = back[k].g if weight is None else back[k].g @ weight
                    g_input[:, first:stop] = g.transpose(0, 1)
        return sums

    parts = over_samples(work, record.samples, block)
    gradients: list[Tensor | None] = []
    for k, (layer, numbers) in enumerate(zip(layers, record.numbers, strict=True)):
        found = _shaped([part[k] for part in parts], layer, numbers)
        gradients += [g if asked else None for g, asked in zip(found, wanted[k], strict=True)]
    return gradients


class _Sums(NamedTuple):
    """Gradients of a layer's numbers, summed over the samples of one thread; what is not asked for has no element."""

    weight: Array
    bias: Array
    recurrent: Array
    recurrent_bias: Array
    decay_mem: Array
    decay_syn: Array
    decay_adapt: Array
    strength: Array
    coupling: Array

    @classmethod
    def zeros(cls, layer: Padded, wanted: Sequence[bool]) -> "_Sums":
        """A bias comes with its weight, a decay with the other, as what adapts: one kernel gives all."""
        weight, recurrent, decays = any(wanted[0:2]), any(wanted[2:4]), any(wanted[4:6])
        adaptation, coupling = any(wanted[7:10]), layer.adaptation is not None and layer.adaptation.coupling.size > 0
        width, dtype = layer.width, layer.decay_mem.dtype

        def zeros(size: int, asked: bool, dtype: Any = dtype) -> Array:
            return np.zeros(size if asked else 0, dtype)

        return cls(
            zeros(layer.weight.size, weight),
            zeros(width, weight),
            zeros(layer.recurrent.size, recurrent),
            zeros(width, recurrent),
            zeros(width, decays, np.float64),
            zeros(width, decays, np.float64),
            zeros(width, adaptation, np.float64),
            zeros(width, adaptation, np.float64),
            zeros(width, adaptation and coupling, np.float64),
        )

    @property
    def constants(self) -> tuple[Array, ...]:
        """Those wrt the constants of the neurons."""
        return self[4:]


class _Way:
    """One layer's way back over a block of so many samples: its buffers, used again for every block.

    Attributes:
        g: `[samples, T, n]`, the gradient wrt the output and, once it has run, wrt the input current.
        rows: the same memory as `[samples * T, n]`.
    """

    def __init__(self, record: Record, k: int, samples: int, sums: _Sums) -> None:
        layer = self.layer = record.layers[k]
        kind, steps, dtype = layer.kind, record.steps, layer.decay_mem.dtype
        self.recurrent = record.numbers[k].recurrent
        self.steps, self.samples, self.sums = steps, samples, sums
        self.arriving, self.leaving = record.arriving[k], record.arriving[(k + 1) % len(record.arriving)]
        learns = sums.decay_mem.size > 0
        size = samples * steps * layer.width
        again = kind.spiking or learns  # a readout's gradient needs no potential
        self.memory = np.zeros(size, dtype)
        self.potential = np.empty(size if again else 0, dtype)
        self.drive = np.empty(size if learns or (kind.hard and kind.differentiable) else 0, dtype)
        self.levels = np.empty(0 if layer.adaptation is None else size, dtype)
        # Not the words of the forward pass: somebody else may be reading those.
        self.words = np.empty_like(self.leaving.words) if kind.spiking else self.leaving.words
        self.states = [np.empty(samples * layer.width, dtype) for _ in range(2 if layer.adaptation is None else 3)]
        self.constants = [np.empty(samples * total.size, dtype) for total in sums.constants]
        self.rows = torch.from_numpy(self.memory).view(samples * steps, layer.width)[:, : kind.neurons]
        self.g = self.rows.view(samples, steps, kind.neurons)

    def run(self, first: int) -> None:
        """Go back over the samples from `first` on."""
        layer, stop = self.layer, first + self.samples
        if self.potential.size:
            layer.integrate(self.arriving, self.steps, first, stop, self.potential, self.drive, self.levels, self.words)
        for array in (*self.states, *self.constants):
            array.fill(0)
        self._through_time()
        sums, (words, values, starts, *_) = self.sums, self.arriving
        sizes = layer.width, self.steps
        if sums.weight.size:
            kernels.scatter(
                words, values, starts, layer.units, self.memory, *sizes, 0, first, stop, sums.weight, sums.bias
            )
        if sums.recurrent.size:
            words, values, starts, *_ = self.leaving
            n = layer.kind.neurons
            kernels.scatter(
                words, values, starts, n, self.memory, *sizes, 1, first, stop, sums.recurrent, sums.recurrent_bias
            )
        for total, part in zip(sums.constants, self.constants, strict=True):
            total += part.reshape(self.samples, -1).sum(0, dtype=np.float64) if part.size else 0.0

    def _through_time(self) -> None:
        layer, kind, real = self.layer, self.layer.kind, self.memory.dtype.type
        shape, slope, height = shape_of(kind.surrogate) if kind.spiking else (0, 0.0, 0.0)
        sequences = self.memory, self.potential, self.drive
        numbers = layer.decay_mem, layer.gain, layer.decay_syn, layer.threshold
        rule = kind.hard, kind.differentiable, shape, real(slope), real(height), self.steps
        arguments: tuple[Any, ...]
        if layer.adaptation is None:
            back = kernels.adjoint
            carried = *self.states, *self.constants[:2]
            arguments = *sequences, *carried, *numbers, kind.exponential, kind.spiking, *rule
        else:
            back = adaptive.adjoint
            carried = *self.states, *self.constants
            arguments = *sequences, self.levels, *carried, *numbers, layer.adaptation, kind.exponential, *rule
        if self.recurrent is None:
            back(*arguments, 0, self.steps)
            return
        g = self.g.unbind(1)
        for t in range(self.steps - 1, -1, -1):
            if t < self.steps - 1:
                g[t].addmm_(g[t + 1], self.recurrent)
            back(*arguments, t, t + 1)


def _shaped(parts: Sequence[_Sums], layer: Padded, numbers: Numbers) -> list[Tensor | None]:
    """Sum over threads, in their order, each gradient in the shape of its tensor."""
    total = _Sums(*(sum(arrays[1:], arrays[0]) for arrays in zip(*parts, strict=True)))
    n = layer.kind.neurons

    def matrix(sums: Array) -> Tensor | None:
        return torch.from_numpy(sums).view(-1, layer.width)[:, :n].t().contiguous() if sums.size else None

    def vector(sums: Array) -> Tensor | None:
        return torch.from_numpy(sums)[:n] if sums.size else None

    def shared(sums: Array, constant: Tensor | None) -> Tensor | None:
        if constant is None or not sums.size:
            return None
        whole = torch.from_numpy(sums)[:n]
        return (whole.sum() if constant.numel() == 1 else whole).to(constant.dtype).reshape(constant.shape)

    return [
        matrix(total.weight),
        vector(total.bias),
        matrix(total.recurrent),
        vector(total.recurrent_bias),
        shared(total.decay_mem, numbers.decay_mem),
        shared(total.decay_syn, numbers.decay_syn),
        None,
        shared(total.decay_adapt, numbers.decay_adapt),
        shared(total.strength, numbers.strength),
        shared(total.coupling, numbers.coupling),
    ]
