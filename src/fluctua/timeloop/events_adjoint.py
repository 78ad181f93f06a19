"""The way back through fused layers: gradients with respect to the input and to all numbers of the layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fluctua.spikes.bits import words_of
from fluctua.timeloop.autograd import Maybe
from fluctua.timeloop.cpu_loop import Array
from fluctua.timeloop.derivation import by_constant
from fluctua.timeloop.events_kernels import scatter
from fluctua.timeloop.events_layout import Arriving, Numbers, Padded, backward, forward
from fluctua.timeloop.threads import Blocks, added, over_samples

Split = Sequence[tuple[Numbers, Sequence[Any]]]


@dataclass(frozen=True, eq=False)
class Record:
    """What backward knows of a forward pass.

    Attributes:
        tensors: numbers and constants of each layer.
        layers: the same as the kernels take them.
        arriving: what arrives at each layer; then the spikes that leave the last, if it spikes.
        steps: T.
        samples: B.
    """

    tensors: Split
    layers: Sequence[Padded]
    arriving: Sequence[Arriving]
    steps: int
    samples: int


def adjoint(record: Record, g_outputs: Sequence[Maybe], wanted: Split, g_input: Maybe, block: int) -> list[Maybe]:
    """Gradients with respect to all tensors of the layers, in their order.

    Args:
        record: of the forward pass.
        g_outputs: gradients with respect to the output of each section of the last layer, `[T, B, n]`, None for zero.
        wanted: which of its tensors' gradients are asked for, for each layer.
        g_input: filled with the gradient with respect to the input `[T, B, N]`, unless None.
        block: number of samples to work on at a time.
    """
    layers, last = record.layers, len(record.layers) - 1

    def work(blocks: Blocks) -> list[_Sums]:
        sums = [_Sums.zeros(layer, *w) for layer, w in zip(layers, wanted, strict=True)]
        ways: dict[int, list[_Way]] = {}  # by number of samples: the last block may be smaller
        for first, stop in blocks:
            size = stop - first
            if size not in ways:
                ways[size] = [_Way(record, k, size, s) for k, s in enumerate(sums)]
            back = ways[size]
            for part, g in zip(layers[last].kind.parts(back[last].g[0]), g_outputs, strict=True):
                part.copy_(g[:, first:stop].transpose(0, 1)) if g is not None else part.zero_()
            for k in range(last, -1, -1):
                back[k].run(first)
                if k > 0:
                    back[k].times_weight(out=back[k - 1].rows)
                elif g_input is not None:
                    g_input[:, first:stop] = back[k].by_input().transpose(0, 1)
        return sums

    parts = over_samples(work, record.samples, block)
    gradients: list[Maybe] = []
    for k, (layer, (numbers, constants)) in enumerate(zip(layers, record.tensors, strict=True)):
        found = _shaped([part[k] for part in parts], layer, numbers, constants)
        of_numbers, of_constants = wanted[k]
        gradients += [g if asked else None for g, asked in zip(found, [*of_numbers, *of_constants], strict=True)]
    return gradients


class _Sums(NamedTuple):
    """Gradients of a layer's numbers, summed over the samples of one thread; what is not asked for has no element.

    `wanted` are the numbers of the constants, of each of which there is a row.
    """

    weight: Array
    bias: Array
    recurrent: Array
    recurrent_second: Array
    recurrent_bias: Array
    constants: Array
    wanted: tuple[int, ...]

    @classmethod
    def zeros(cls, layer: Padded, numbers: Numbers, constants: Sequence[bool]) -> "_Sums":
        """A bias comes with its weight: one kernel gives both."""
        weight = bool(numbers.weight or numbers.bias)
        recurrent = bool(numbers.recurrent or numbers.recurrent_bias)
        wanted = tuple(k for k, asked in enumerate(constants) if asked)
        first, second = layer.recurrent
        dtype = layer.bias.dtype

        def zeros(size: int, asked: bool) -> Array:
            return np.zeros(size if asked else 0, dtype)

        return cls(
            zeros(layer.weight.size, weight),
            zeros(layer.width, weight),
            zeros(first.size, recurrent),
            zeros(second.size, bool(numbers.recurrent_second)),
            zeros(layer.width, recurrent),
            np.zeros((len(wanted), layer.width)),
            wanted,
        )


class _Way:
    """One layer's way back over a block of so many samples: its buffers, used again for every block.

    Attributes:
        g: `[samples, T, width]`, the gradient wrt the output and, once it has run, wrt the first input; then that wrt
            the second.
        rows: the first, of the first section, as `[samples * T, n]`.
    """

    def __init__(self, record: Record, k: int, samples: int, sums: _Sums) -> None:
        layer = self.layer = record.layers[k]
        self.weights = record.tensors[k][0]
        self.steps, self.samples, self.sums = record.steps, samples, sums
        self.arriving, self.leaving = record.arriving[k], record.arriving[(k + 1) % len(record.arriving)]
        size, dtype = samples * record.steps * layer.width, layer.bias.dtype
        self.backward, values = backward(layer.kind, layer.dtype, sums.wanted)
        self.forward = forward(layer.kind, layer.dtype, values)
        self.records = tuple(np.empty(size, dtype) for _ in values)
        self.memory = tuple(np.zeros(size, dtype) for _ in range(layer.kind.form.inputs))
        self.g = [torch.from_numpy(memory).view(samples, record.steps, layer.width) for memory in self.memory]
        self.rows = self.g[0].view(-1, layer.width)[:, : layer.kind.sections[0]]
        # Not the words of the forward pass: somebody else may be reading those.
        self.words = np.empty_like(self.leaving.words) if layer.kind.spiking else self.leaving.words
        self.states = np.empty(layer.kind.form.states * samples * layer.width, dtype)
        self.constants = np.empty((len(sums.wanted), samples, layer.width), dtype)

    def run(self, first: int) -> None:
        """Go back over the samples from `first` on."""
        layer, stop = self.layer, first + self.samples
        if self.records:
            layer.integrate(self.arriving, self.steps, first, stop, self.words, self.records, self.forward)
        self.states.fill(0)
        self.constants.fill(0)
        self._through_time()
        sums, kind = self.sums, layer.kind
        if sums.weight.size:
            place = words_of(layer.units), 0, layer.units
            self._scatter(self.arriving, place, self.memory[0], 0, first, sums.weight, sums.bias)
        if sums.recurrent.size:
            place = kind.words, 0, kind.sections[0]
            self._scatter(self.leaving, place, self.memory[0], 1, first, sums.recurrent, sums.recurrent_bias)
        if sums.recurrent_second.size:
            place = kind.words, kind.split, kind.sections[1]
            self._scatter(self.leaving, place, self.memory[1], 1, first, sums.recurrent_second, sums.bias[:0])
        if sums.wanted:
            sums.constants[...] += self.constants.sum(1, dtype=np.float64)

    def _scatter(
        self,
        spikes: Arriving,
        place: tuple[int, int, int],
        g: Array,
        lag: int,
        first: int,
        total: Array,
        bias: Array,
    ) -> None:
        """Add the gradient of a weight; `place` is how many words a step has, the first of them, and the units."""
        span = self.layer.width, self.steps, lag, first, first + self.samples
        scatter(*spikes[:3], *place, g, *span, total, bias)

    def by_input(self) -> Tensor:
        """Gradient wrt what arrives, `[samples, T, N]`."""
        if self.weights.weight is not None:
            return self.times_weight().view(self.samples, self.steps, -1)
        return torch.cat(self.layer.kind.parts(self.g[0]), -1)

    def times_weight(self, out: Maybe = None) -> Tensor:
        """Gradient wrt the spikes that arrive, `[samples * T, N]`."""
        assert self.weights.weight is not None
        columns, matrix = self._matrix(self.weights.weight, self.layer.weight)
        return torch.mm(self.g[0].view(-1, self.layer.width)[:, :columns], matrix, out=out)

    def _matrix(self, weight: Tensor, padded: Array) -> tuple[int, Tensor]:
        """A weight as it multiplies a gradient, and to how many columns of that."""
        if len(self.layer.kind.sections) == 1:
            return len(weight), weight
        return self.layer.width, torch.from_numpy(padded).view(-1, self.layer.width).t()

    def _through_time(self) -> None:
        layer, kind = self.layer, self.layer.kind
        kernel = self.backward
        given = kernel.numbers, layer.constants, self.states, self.constants.reshape(-1)
        arguments = *given, self.records, self.memory, self.steps
        if not kind.recurrent:
            kernel.call(*arguments, 0, self.steps)
            return
        weights = self.weights.recurrent, self.weights.recurrent_second
        ways = []  # of each section: the gradient wrt its spikes, that of the current which they cause, and how
        for out, g, weight, padded in zip(
            kind.parts(self.g[0]), (self.g[0], self.g[-1]), weights, layer.recurrent, strict=False
        ):
            if weight is not None:
                columns, matrix = self._matrix(weight, padded)
                ways.append((out.unbind(1), g[..., :columns].unbind(1), matrix))
        for t in range(self.steps - 1, -1, -1):
            if t < self.steps - 1:
                for sections, heard, matrix in ways:
                    sections[t].addmm_(heard[t + 1], matrix)
            kernel.call(*arguments, t, t + 1)


def _rows(layer: Padded, values: Tensor) -> Tensor:
    """Values of all neurons `[..., n]`, of `[..., width]`."""
    parts = layer.kind.parts(values)
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def _shaped(parts: Sequence[_Sums], layer: Padded, numbers: Numbers, constants: Sequence[Tensor]) -> list[Maybe]:
    """Sum over threads, in their order, each gradient in the shape of its tensor."""
    *totals, by_neuron = added([part[:6] for part in parts])

    def shaped(total: Array, tensor: Maybe) -> Maybe:
        if tensor is None or total.size == 0:
            return None
        rows = _rows(layer, torch.from_numpy(total).view(-1, layer.width))
        return rows.t().contiguous() if tensor.ndim == 2 else rows[0]

    of_neurons = _rows(layer, torch.from_numpy(by_neuron))
    return [
        *(shaped(total, tensor) for total, tensor in zip(totals, numbers, strict=True)),
        *by_constant(of_neurons, constants, parts[0].wanted),
    ]
