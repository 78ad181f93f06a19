"""The way back through fused layers: gradients with respect to the input and to all numbers of the layers."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fluctua.simd.compiling import helper, kernel
from fluctua.simd.memory import load, load4, store
from fluctua.spikes.bits import rows_of
from fluctua.timeloop.cpu_loop import Array
from fluctua.timeloop.derivation import by_constant
from fluctua.timeloop.events_layout import PATHS, Arriving, Padded, backward, forward
from fluctua.timeloop.limits import Maybe
from fluctua.timeloop.threads import Blocks, added, over_samples


def adjoint(
    layers: Sequence[Padded],
    arriving: Sequence[Arriving],
    g_output: Tensor,
    wanted: Sequence[Sequence[bool]],
    g_input: Maybe,
    block: int,
) -> list[Maybe]:
    """Gradients with respect to all tensors of the layers, in their order.

    Args:
        layers: as the kernels take them.
        arriving: what arrives at each layer; then the spikes that leave the last, if it spikes.
        g_output: gradient with respect to the output of the last layer, `[T, B, n]`.
        wanted: which of its tensors' gradients are asked for, for each layer.
        g_input: filled with the gradient with respect to the input `[T, B, N]`, unless None.
        block: number of samples to work on at a time.
    """
    steps, samples, _ = g_output.shape
    last = len(layers) - 1
    leaving = [*arriving[1:], arriving[0]][: last + 1]  # of a readout, whose own do not matter, anything

    def work(blocks: Blocks) -> list[list[Array]]:
        sums = [_zeros(layer, asked) for layer, asked in zip(layers, wanted, strict=True)]
        ways: dict[int, list[_Way]] = {}  # by number of samples: the last block may be smaller
        for first, stop in blocks:
            size = stop - first
            if size not in ways:
                own = zip(layers, arriving, leaving, wanted, sums, strict=False)
                ways[size] = [_Way(*each, steps=steps, samples=size) for each in own]
            back = ways[size]
            back[last].g.copy_(g_output[:, first:stop])
            for k in range(last, -1, -1):
                back[k].run(first)
                if k > 0:
                    back[k].arrived(out=back[k - 1].g.flatten(0, 1))
                elif g_input is not None:
                    g_input[:, first:stop] = back[k].arrived()
        return sums

    parts = over_samples(work, samples, block)
    sums = [added(each) for each in zip(*parts, strict=True)]
    found = [_shaped(*own) for own in zip(sums, layers, wanted, strict=True)]
    return [gradient for of_layer in found for gradient in of_layer]


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
    return [*(np.zeros(size, layer.dtype) for size in sizes), np.zeros((len(_numbers(wanted)), layer.width))]


class _Way:
    """One layer's way back over a block of so many samples: its buffers, used again for every block.

    Attributes:
        g: `[T, samples, n]`, the gradient wrt the output and, once it has run, wrt the first input.
    """

    def __init__(
        self,
        layer: Padded,
        arriving: Arriving,
        leaving: Arriving,
        wanted: Sequence[bool],
        sums: Sequence[Array],
        steps: int,
        samples: int,
    ) -> None:
        self.layer, self.arriving, self.leaving = layer, arriving, leaving
        (*self.totals, self.by_constant), self.steps, self.samples = sums, steps, samples
        self.weight, _, self.recurrent, *_ = layer.tensors
        kind, dtype, columns = layer.kind, layer.dtype, samples * layer.width
        self.backward, values = backward(kind, dtype, _numbers(wanted))
        self.forward = forward(kind, dtype, values)
        self.records = tuple(np.empty(steps * columns, dtype) for _ in values)
        self.memory = tuple(np.zeros(steps * columns, dtype) for _ in range(kind.form.inputs))
        rows = [torch.from_numpy(memory).view(steps, samples, layer.width) for memory in self.memory]
        self.by_port = [row[..., : kind.size] for row in rows]
        self.g = self.by_port[0]
        # Not the words of the forward pass: somebody else may be reading those.
        self.words = np.empty_like(leaving.words) if kind.spiking else leaving.words
        self.states = np.empty(kind.form.states * columns, dtype)
        self.constants = np.empty((len(self.by_constant), samples, layer.width), dtype)

    def run(self, first: int) -> None:
        """Go back over the samples from `first` on."""
        layer, times = self.layer, (self.steps, first, first + self.samples)
        if self.records:
            layer.integrate(self.arriving, times, self.words, self.records, other=self.forward)
        self.states.fill(0)
        self.constants.fill(0)
        self._through_time()
        one, two = self.memory[0], self.memory[-1]
        if self.totals[0].size:
            units = layer.units, layer.units
            scatter(*self.arriving[:3], *units, one, two, layer.width, *times, 0, *self.totals[:2])
        if self.totals[2].size:
            units = layer.kind.size, layer.kind.split
            scatter(*self.leaving[:3], *units, one, two, layer.width, *times, 1, *self.totals[2:])
        if self.by_constant.size:
            self.by_constant[...] += self.constants.sum(1, dtype=np.float64)

    def arrived(self, out: Maybe = None) -> Tensor:
        """Gradient wrt what arrives, `[T, samples, N]`; `out` is `[T * samples, N]`."""
        if self.weight is None:
            return self.g
        return torch.mm(self.g.flatten(0, 1), self.weight, out=out).view(*self.g.shape[:2], -1)

    def _through_time(self) -> None:
        kind, code = self.layer.kind, self.backward
        columns = self.samples * self.layer.width
        given = code.numbers, self.layer.constants, self.states, self.constants.reshape(-1)
        read = self.memory[0], *self.records
        sizes = tuple(columns for _ in read), columns

        def call(begin: int, steps: int) -> None:
            rows, results = (
                tuple(a[begin * columns : (begin + steps) * columns] for a in arrays) for arrays in (read, self.memory)
            )
            code.call(*given, rows, results, *sizes, steps, 0, columns, False)

        if not kind.recurrent:
            call(0, self.steps)
            return
        ways = []  # of what each neuron says: the gradient wrt it, that wrt the current which it causes, and how
        if self.recurrent is not None:
            for port, part in ((0, slice(kind.split)), (-1, slice(kind.split, kind.size))):
                said, heard = self.g[..., part].unbind(0), self.by_port[port].unbind(0)
                if said[0].numel():
                    ways.append((said, heard, self.recurrent[:, part]))
        for t in range(self.steps - 1, -1, -1):
            if t < self.steps - 1:
                for said, heard, weight in ways:
                    said[t].addmm_(heard[t + 1], weight)
            call(t, 1)


def _shaped(sums: Sequence[Array], layer: Padded, wanted: Sequence[bool]) -> list[Maybe]:
    """Each gradient in the shape of its tensor."""
    rows = [torch.from_numpy(total).view(-1, layer.width)[:, : layer.kind.size] for total in sums]
    found: list[Maybe] = [
        own.t().contiguous().view(tensor.shape) if asked else None
        for own, tensor, asked in zip(rows, layer.tensors[:PATHS], wanted, strict=False)
    ]
    return [*found, *by_constant(rows[PATHS], layer.tensors[PATHS:], _numbers(wanted))]


@kernel
def scatter(  # type: ignore[no-untyped-def]
    words, values, starts, units, split, one, two, width, steps, first, stop, lag, gradient, gradient_bias
):
    """Add the gradient wrt a weight `[units, width]` and its bias, from the spikes of `lag` steps before.

    All arrays are flat and laid out as in `cpu_shells.integrate`. `one` is the gradient wrt the input current `[steps,
    stop - first, width]` that the units before `split` reach, `two` that of the others.
    """
    lane, n_words, samples = 64 // one.itemsize, (units + 63) >> 6, stop - first
    rows = np.empty(units, np.int32)
    for s in range(first, stop):
        for t in range(lag, steps):
            at = s * steps + t - lag
            n = rows_of(words, at * n_words, n_words, width, rows, 0)
            begun, start = n, starts[at] if values.size > 0 else 0
            while begun > 0 and rows[begun - 1] >= split * width:
                begun -= 1
            row = (t * samples + s - first) * width
            _add_to(gradient, rows, 0, begun, values, start, one, row, width)
            _add_to(gradient, rows, begun, n, values, start, two, row, width)
            if gradient_bias.size > 0:
                for j in range(0, width, lane):
                    store(gradient_bias, j, load(gradient_bias, j) + load(one, row + j))


@helper
def _add_to(gradient, rows, begin, end, values, start, g, row, width):  # type: ignore[no-untyped-def]
    """Add a row of `g`, times the value of each spike, to the row of the gradient of each of them."""
    lane, j = 64 // g.itemsize, 0
    if begin == end:
        return
    while j + 4 * lane <= width:
        four = load4(g, row + j)
        if values.size > 0:
            for e in range(begin, end):
                store(gradient, rows[e] + j, load4(gradient, rows[e] + j) + four * values[start + e])
        else:
            for e in range(begin, end):
                store(gradient, rows[e] + j, load4(gradient, rows[e] + j) + four)
        j += 4 * lane
    while j < width:
        g0 = load(g, row + j)
        for e in range(begin, end):
            k = rows[e] + j
            store(gradient, k, load(gradient, k) + (g0 * values[start + e] if values.size > 0 else g0))
        j += lane
