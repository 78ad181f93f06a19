"""The way back through fused layers: gradients with respect to the input and to all numbers of the layers."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fluctua.timeloop.cpu_loop import Array
from fluctua.timeloop.derivation import by_constant
from fluctua.timeloop.events_kernels import scatter
from fluctua.timeloop.events_layout import PATHS, Arriving, Padded, backward, forward
from fluctua.timeloop.limits import Maybe
from fluctua.timeloop.threads import Blocks, added, over_samples

Tensors = Sequence[Maybe]


def adjoint(
    tensors: Sequence[Tensors],
    layers: Sequence[Padded],
    arriving: Sequence[Arriving],
    g_outputs: Sequence[Maybe],
    wanted: Sequence[Sequence[bool]],
    g_input: Maybe,
    block: int,
) -> list[Maybe]:
    """Gradients with respect to all tensors of the layers, in their order.

    Args:
        tensors: of each layer, see `events_layers.Layer.tensors`.
        layers: the same as the kernels take them.
        arriving: what arrives at each layer; then the spikes that leave the last, if it spikes.
        g_outputs: gradients with respect to the output of each section of the last layer, `[T, B, n]`, None for zero.
        wanted: which of its tensors' gradients are asked for, for each layer.
        g_input: filled with the gradient with respect to the input `[T, B, N]`, unless None.
        block: number of samples to work on at a time.
    """
    steps, samples = next(g for g in g_outputs if g is not None).shape[:2]
    last = len(layers) - 1
    leaving = [*arriving[1:], arriving[0]][: last + 1]  # of a readout, whose own do not matter, anything

    def work(blocks: Blocks) -> list[list[Array]]:
        sums = [_zeros(layer, asked) for layer, asked in zip(layers, wanted, strict=True)]
        ways: dict[int, list[_Way]] = {}  # by number of samples: the last block may be smaller
        for first, stop in blocks:
            size = stop - first
            if size not in ways:
                own = layers, tensors, arriving, leaving, wanted, sums
                ways[size] = [_Way(*(values[k] for values in own), steps, size) for k in range(last + 1)]  # type: ignore
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

    parts = over_samples(work, samples, block)
    found = zip([added(sums) for sums in zip(*parts, strict=True)], layers, tensors, wanted, strict=True)
    return [gradient for own in found for gradient in _shaped(*own)]


def _numbers(wanted: Sequence[bool]) -> tuple[int, ...]:
    """Of the constants that are wanted."""
    return tuple(k for k, asked in enumerate(wanted[PATHS:]) if asked)


def _zeros(layer: Padded, wanted: Sequence[bool]) -> list[Array]:
    """Gradients summed over the samples of one thread: of the weight and bias of each path, then of constants.

    What is not asked for has no element; a weight is asked for with its bias, for one kernel gives both.
    """
    sizes = []
    for k, weight in enumerate(layer.weights):
        of_weight, of_bias = wanted[2 * k : 2 * k + 2]
        sizes += [weight.size * (of_weight or of_bias), layer.width * of_bias]
    totals = [np.zeros(size, layer.dtype) for size in sizes]
    return [*totals, np.zeros((len(_numbers(wanted)), layer.width))]


class _Way:
    """One layer's way back over a block of so many samples: its buffers, used again for every block.

    Attributes:
        g: `[samples, T, width]`, the gradient wrt the output and, once it has run, wrt the first input; then that wrt
            the second.
        rows: the first, of the first section, as `[samples * T, n]`.
    """

    def __init__(
        self,
        layer: Padded,
        tensors: Tensors,
        arriving: Arriving,
        leaving: Arriving,
        wanted: Sequence[bool],
        sums: Sequence[Array],
        steps: int,
        samples: int,
    ) -> None:
        self.layer, self.matrices, self.arriving, self.leaving = layer, tensors[:PATHS:2], arriving, leaving
        (*self.totals, self.by_constant), self.steps, self.samples = sums, steps, samples
        size, dtype = samples * steps * layer.width, layer.dtype
        self.backward, values = backward(layer.kind, dtype, _numbers(wanted))
        self.forward = forward(layer.kind, dtype, values)
        self.records = tuple(np.empty(size, dtype) for _ in values)
        self.memory = tuple(np.zeros(size, dtype) for _ in range(layer.kind.form.inputs))
        self.g = [torch.from_numpy(memory).view(samples, steps, layer.width) for memory in self.memory]
        self.rows = self.g[0].view(-1, layer.width)[:, : layer.kind.sections[0]]
        # Not the words of the forward pass: somebody else may be reading those.
        self.words = np.empty_like(leaving.words) if layer.kind.spiking else leaving.words
        self.states = np.empty(layer.kind.form.states * samples * layer.width, dtype)
        self.constants = np.empty((len(self.by_constant), samples, layer.width), dtype)

    def run(self, first: int) -> None:
        """Go back over the samples from `first` on."""
        layer, stop = self.layer, first + self.samples
        if self.records:
            layer.integrate(self.arriving, self.steps, first, stop, self.words, self.records, self.forward)
        self.states.fill(0)
        self.constants.fill(0)
        self._through_time()
        for k, place in enumerate(layer.places):
            total, bias = self.totals[2 * k : 2 * k + 2]
            if total.size:
                lag, g = int(k > 0), self.memory[k == 2]
                spikes = self.leaving if lag else self.arriving
                scatter(*spikes[:3], *place, g, layer.width, self.steps, lag, first, stop, total, bias)
        if self.by_constant.size:
            self.by_constant[...] += self.constants.sum(1, dtype=np.float64)

    def by_input(self) -> Tensor:
        """Gradient wrt what arrives, `[samples, T, N]`."""
        if self.matrices[0] is not None:
            return self.times_weight().view(self.samples, self.steps, -1)
        return torch.cat(self.layer.kind.parts(self.g[0]), -1)

    def times_weight(self, out: Maybe = None) -> Tensor:
        """Gradient wrt the spikes that arrive, `[samples * T, N]`."""
        columns, matrix = self._matrix(0)
        return torch.mm(self.g[0].view(-1, self.layer.width)[:, :columns], matrix, out=out)

    def _matrix(self, k: int) -> tuple[int, Tensor]:
        """The weight of a path as it multiplies a gradient, and to how many columns of that."""
        matrix = self.matrices[k]
        if len(self.layer.kind.sections) == 1 and matrix is not None:
            return len(matrix), matrix
        return self.layer.width, torch.from_numpy(self.layer.weights[k]).view(-1, self.layer.width).t()

    def _through_time(self) -> None:
        layer, kind = self.layer, self.layer.kind
        kernel = self.backward
        given = kernel.numbers, layer.constants, self.states, self.constants.reshape(-1)
        arguments = *given, self.records, self.memory, self.steps
        if not kind.recurrent:
            kernel.call(*arguments, 0, self.steps)
            return
        ways = []  # of each section: the gradient wrt its spikes, that of the current which they cause, and how
        for k, (out, g) in enumerate(zip(kind.parts(self.g[0]), (self.g[0], self.g[-1]), strict=False), start=1):
            if self.matrices[k] is not None:
                columns, matrix = self._matrix(k)
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


def _shaped(sums: Sequence[Array], layer: Padded, tensors: Tensors, wanted: Sequence[bool]) -> list[Maybe]:
    """Each gradient in the shape of its tensor."""
    found: list[Maybe] = []
    for total, tensor, asked in zip(sums, tensors[:PATHS], wanted, strict=False):
        rows = _rows(layer, torch.from_numpy(total).view(-1, layer.width)) if asked else None
        found.append(None if rows is None else rows.t().contiguous() if tensor.ndim == 2 else rows[0])  # type: ignore[union-attr]
    of_neurons = _rows(layer, torch.from_numpy(sums[PATHS]))
    return [*found, *by_constant(of_neurons, tensors[PATHS:], _numbers(wanted))]  # type: ignore[arg-type]
