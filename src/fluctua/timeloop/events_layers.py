"""Fused layers: weights and the neurons behind them in one operation, with spikes passed from layer to layer as bits.

The whole input current is never in memory: samples pass through all layers a few at a time, so that their data stay in
the core's cache. Forward keeps the bits of the spikes, and what the adjoint loop reads of each step, such as the
potentials. Where that would take too much memory, backward integrates again, which takes a sixth more time.

Samples are split over threads, each with its own gradient of the weights; these are summed in a fixed order, so a fixed
number of threads gives the same numbers every time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fluctua.simd.threads import Blocks, added, cache_size, over_blocks, shares
from fluctua.simd.vectors import lanes
from fluctua.spikes.batch import SpikeBatch, words_of
from fluctua.timeloop import products
from fluctua.timeloop.contract import Dynamics, Maybe, Operation, Tensors, apply, name_of, passed_on
from fluctua.timeloop.cpu_loop import Array, pool, streamed
from fluctua.timeloop.derivation import by_constant
from fluctua.timeloop.events_kernels import VECTORS, scatter
from fluctua.timeloop.events_layout import PATHS, Arriving, Kind, Padded, Times, backward, forward
from fluctua.timeloop.expressions import Value

_KEPT = 1 << 28  # bytes that forward keeps for backward at most, besides spikes
_RECURRENT_BLOCK = 32  # samples: each step back loads the recurrent weight, which needs enough samples to pay


@dataclass(frozen=True, eq=False)
class Layer:
    """Neurons and what feeds them. Tensors are plain, on the CPU, all float32 or all float64.

    Attributes:
        sections: size n of the population, or of two populations that run as one.
        dynamics: of all neurons, with constants of one element or `[n]`.
        weight: `[n, afferents]` to the first input, or None if the input current itself is given.
        bias: `[n]`, or None.
        recurrent: `[n, n]`, from the spikes of the last step, or None; a second section reaches the second input. With
            `[n, second]` the first section has no recurrent weights.
        recurrent_bias: `[n]`, from the second step on, or None.
        initial: state before the first step, the potential first; missing parts start at zero.
    """

    sections: tuple[int, ...]
    dynamics: Dynamics
    weight: Maybe = None
    bias: Maybe = None
    recurrent: Maybe = None
    recurrent_bias: Maybe = None
    initial: tuple[float, ...] = ()

    @property
    def kind(self) -> Kind:
        """The kind of the layer, without its numbers."""
        initial = *self.initial, *[0.0] * (self.dynamics.states - len(self.initial))
        return Kind(self.dynamics.form, sum(self.sections), self.sections[0], self.recurrent is not None, initial)

    @property
    def tensors(self) -> tuple[Maybe, ...]:
        """Weight and bias of each path of spikes into it, then the constants."""
        return self.weight, self.bias, self.recurrent, self.recurrent_bias, *self.dynamics.constants

    def parted(self, output: Tensor) -> tuple[Tensor, ...]:
        """The output of each section, with its own history, which tells the populations apart."""
        if len(self.sections) == 1:
            return (output,)
        return tuple(part.view_as(part) for part in output.split(self.sections, 2))  # type: ignore[no-untyped-call]


def run_layers(x: Tensor, layers: Sequence[Layer], spikes: SpikeBatch | None = None) -> tuple[Tensor, ...]:
    """Run layers one behind the other.

    Args:
        x: `[T, B, N]`: the input of the first layer, or its input current if it has no weight. With `spikes` only its
            gradient matters.
        layers: all but the last spike, and have one section.
        spikes: the same as `x`, for a first layer with a weight.

    Returns:
        Spikes of each section of the last layer `[T, B, n]`, or the potential of a readout.
    """
    return layers[-1].parted(run_to_end(x, layers, spikes)[0])


def run_to_end(x: Tensor, layers: Sequence[Layer], spikes: SpikeBatch | None = None) -> tuple[Tensor, list[Tensors]]:
    """As `run_layers`: the output of the last, and the state `[B, n]` of each after the last step, without history."""
    tensors = [x, *(t for layer in layers for t in layer.tensors)]
    trains = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    output, *others = apply(_Layers.of(layers, spikes, x, trains), tensors)
    ends = zip(others, layers, strict=False)
    return output, [final[..., : layer.kind.size].unbind(1) for final, layer in ends]


def weighted(spikes: SpikeBatch, like: Tensor, weight: Tensor, bias: Maybe) -> Tensor:
    """`like`, which holds these spikes, times a weight, as of `nn.Linear`: the weights of the spikes are added up."""
    one = Dynamics(passed_on, (weight.new_ones(()),), 1, spiking=False)
    return run_layers(like, [Layer((len(weight),), one, weight, bias)], spikes)[0]


@dataclass(frozen=True, eq=False)
class _Layers(Operation):
    """See `contract.Operation`: of the input, then of all tensors of the layers.

    Attributes:
        kinds: of the layers.
        numbers: of the constants of each layer that have a gradient.
        records: values of each layer that forward keeps of each step.
        blocks: samples that pass through the layers together, of each thread.
        spikes: the input, unless it is dense.
        shape: of the input.
    """

    kinds: Sequence[Kind]
    numbers: Sequence[tuple[int, ...]]
    records: Sequence[tuple[Value, ...]]
    blocks: Sequence[Blocks]
    spikes: SpikeBatch | None
    shape: torch.Size
    called = "fused layers"

    @classmethod
    def of(cls, layers: Sequence[Layer], spikes: SpikeBatch | None, x: Tensor, trains: bool) -> "_Layers":
        """The operation; `trains` says whether a backward pass may follow."""
        kinds, (steps, samples, _), dtype = [layer.kind for layer in layers], x.shape, name_of(x.dtype)
        numbers = [tuple(k for k, c in enumerate(layer.dynamics.constants) if c.requires_grad) for layer in layers]
        ways = zip(kinds, numbers, strict=True)
        records = [backward(kind, dtype, own)[1] if trains and kind.spiking else () for kind, own in ways]
        widths = [kind.width(dtype) for kind in kinds]
        size = steps * x.itemsize  # bytes of one value of each step, of a neuron for a sample
        if size * samples * sum(len(own) * width for own, width in zip(records, widths, strict=True)) > _KEPT:
            records = [()] * len(kinds)
        least = _RECURRENT_BLOCK if any(kind.recurrent for kind in kinds) else 1
        blocks = shares(samples, max(least, cache_size() // max(1, size * max(widths))))
        return cls(kinds, numbers, records, blocks, spikes, x.shape)

    def forth(self, tensors: Sequence[Any]) -> Sequence[Tensor]:
        """The output, the state of each at the end, spikes of all that spike, as bits, and what is kept of each."""
        x, *others = tensors
        (steps, samples, _), dtype = x.shape, name_of(x.dtype)
        last, fire = self.kinds[-1], [kind for kind in self.kinds if kind.spiking]
        words = [torch.empty(samples, steps, words_of(kind.size), dtype=torch.int64, device="cpu") for kind in fire]
        kept = [
            [pool.empty((steps * samples * kind.width(dtype),), x.dtype) for _ in values]
            for kind, values in zip(fire, self.records, strict=False)
        ]
        potential = None if last.spiking else x.new_empty(steps, samples, last.size)
        layers, arriving = self._padded(others, x.dtype), _all_arriving(self.spikes, x, words)
        finals = [x.new_empty(samples, layer.kind.form.states, layer.width) for layer in layers]
        ends = [final.numpy() for final in finals]
        ways = [
            (layer, source, target.words, own, end, forward(layer.kind, dtype, values), streamed(own))
            for layer, source, target, own, end, values in zip(
                layers, arriving, arriving[1:], kept, ends, self.records, strict=False
            )
        ]

        def work(blocks: Blocks) -> None:
            for first, stop in blocks:
                times = steps, first, stop
                for layer, source, target, own, end, code, streams in ways:
                    rows, end = _rows(own, layer, times), end[first:stop].reshape(-1)
                    layer.integrate(code, source, times, target, rows, end, streams)
                if potential is not None:
                    shown = np.empty((steps, stop - first, layers[-1].width), dtype)
                    code = forward(last, dtype, (last.traced.output,))
                    rows, end = (shown.reshape(-1),), ends[-1][first:stop].reshape(-1)
                    layers[-1].integrate(code, arriving[-1], times, np.empty(0, np.uint64), rows, end)
                    potential.numpy()[:, first:stop] = shown[..., : last.size]

        over_blocks(work, self.blocks)
        output = SpikeBatch(words[-1], last.size).dense(x.dtype) if potential is None else potential
        return [output, *finals, *words, *(values for own in kept for values in own)]

    def kept(self, tensors: Sequence[Any], results: Sequence[Tensor]) -> Sequence[Maybe]:
        x, *others = tensors
        return x if self.spikes is None else self.spikes.words, *others, *results[1 + len(self.kinds) :]

    def back(self, kept: Sequence[Any], grads: Sequence[Any], wanted: Sequence[bool]) -> Sequence[Maybe]:
        left, g = iter(kept), grads[0]
        current, *others = islice(left, len(wanted))
        layers, asked, steps = self._padded(others, g.dtype), self._split(wanted[1:]), self.shape[0]
        words = list(islice(left, sum(kind.spiking for kind in self.kinds)))
        records = [list(islice(left, len(values))) for values in self.records]
        arriving = _all_arriving(self.spikes, current if self.spikes is None else g, words)
        leaving = [*arriving[1:], arriving[0]]  # for a readout, whose own do not matter, anything
        g_input = torch.empty(self.shape, dtype=g.dtype, device="cpu") if wanted[0] else None
        last = len(layers) - 1

        def work(blocks: Blocks) -> list[list[Array]]:
            sums = [_zeros(*own) for own in zip(layers, asked, self.numbers, strict=True)]
            ways: dict[int, list[_Way]] = {}  # by number of samples: the last block may be smaller
            for first, stop in blocks:
                size = stop - first
                if size not in ways:
                    each = zip(layers, arriving, leaving, self.numbers, records, sums, strict=False)
                    ways[size] = [_Way(steps, size, *own) for own in each]
                back = ways[size]
                back[last].g.copy_(g[:, first:stop])
                for k in range(last, -1, -1):
                    back[k].run(first)
                    if k > 0:
                        back[k].arrived(out=back[k - 1].g.flatten(0, 1))
                    elif g_input is not None:
                        g_input[:, first:stop] = back[k].arrived()
            return sums

        sums = [added(each) for each in zip(*over_blocks(work, self.blocks), strict=True)]
        found = [_shaped(*own) for own in zip(sums, layers, asked, self.numbers, strict=True)]
        return [g_input, *(gradient for of_layer in found for gradient in of_layer)]

    def _split(self, values: Sequence[Any]) -> list[list[Any]]:
        """Split one list by the layers that its entries belong to."""
        left = iter(values)
        return [list(islice(left, PATHS + kind.form.constants)) for kind in self.kinds]

    def _padded(self, tensors: Sequence[Maybe], dtype: torch.dtype) -> list[Padded]:
        return [Padded.of(kind, own, dtype) for kind, own in zip(self.kinds, self._split(tensors), strict=True)]


def _all_arriving(spikes: SpikeBatch | None, x: Tensor, words: Sequence[Tensor]) -> list[Arriving]:
    """The input of each layer, and the output of the last if it spikes."""
    first = Arriving.dense(x) if spikes is None else Arriving.spikes(spikes, x.dtype)
    return [first, *(Arriving.spikes(SpikeBatch(w, 0), x.dtype) for w in words)]


def _rows(values: Sequence[Tensor], layer: Padded, times: Times) -> tuple[Array, ...]:
    """What is kept of a block of samples."""
    (steps, *samples), width = times, layer.width
    first, stop = (count * steps * width for count in samples)
    return tuple(each.numpy()[first:stop] for each in values)


# -- backward ---------------------------------------------------------------------------------------------------------


def _zeros(layer: Padded, wanted: Sequence[bool], numbers: Sequence[int]) -> list[Array]:
    """Gradients summed over the samples of one thread: of the weight and bias of each path, then of constants.

    Unwanted ones are empty; a weight is wanted with its bias, since one kernel gives both.
    """
    sizes = []
    for k, weight in enumerate(layer.weights):
        of_weight, of_bias = wanted[2 * k : 2 * k + 2]
        sizes += [weight.size * (of_weight or of_bias), layer.width * of_bias]
    return [*(np.zeros(size, layer.dtype) for size in sizes), np.zeros((len(numbers), layer.width))]


class _Way:
    """One layer's backward pass over a block of samples: its buffers, reused for every block.

    Attributes:
        g: `[T, samples, n]`, the gradient wrt the output and, after `run`, wrt the first input.
    """

    def __init__(
        self,
        steps: int,
        samples: int,
        layer: Padded,
        arriving: Arriving,
        leaving: Arriving,
        numbers: tuple[int, ...],
        kept: Sequence[Tensor],
        sums: Sequence[Array],
    ) -> None:
        self.layer, self.arriving, self.leaving, self.kept = layer, arriving, leaving, kept
        (*self.totals, self.by_constant), self.steps, self.samples = sums, steps, samples
        self.weight, _, self.recurrent, *_ = layer.tensors
        kind, dtype, columns = layer.kind, layer.dtype, samples * layer.width
        self.backward, values = backward(kind, dtype, numbers)
        self.again = forward(kind, dtype, values) if len(kept) < len(values) else None
        self.records = tuple(np.empty(steps * columns, dtype) for _ in values) if self.again else ()
        self.memory = np.zeros((kind.form.inputs, steps * columns), dtype)
        rows = [torch.from_numpy(memory).view(steps, samples, layer.width) for memory in self.memory]
        self.by_port = [row[..., : kind.size] for row in rows]
        self.g = self.by_port[0]
        # Not the words of the forward pass, which others may be reading.
        self.words = np.empty_like(leaving.words) if self.again else leaving.words
        self.states = np.empty(kind.form.states * columns, dtype)
        self.constants = np.empty((len(self.by_constant), samples, layer.width), dtype)

    def run(self, first: int) -> None:
        """Run backward over the samples from `first` on."""
        layer, times = self.layer, (self.steps, first, first + self.samples)
        if self.again:
            layer.integrate(self.again, self.arriving, times, self.words, self.records, self.states)
        else:
            self.records = _rows(self.kept, layer, times)
        self.states.fill(0)
        self.constants.fill(0)
        self._through_time()
        g = self.memory.reshape(-1), self.memory[1:].size, layer.width
        if self.totals[0].size:
            units = layer.units, layer.units
            scatter(*self.arriving[:3], *units, *g, *times, 0, *self.totals[:2])
        if self.totals[2].size:
            units = layer.kind.size, layer.kind.split
            scatter(*self.leaving[:3], *units, *g, *times, 1, *self.totals[2:])
        if self.by_constant.size:
            self.by_constant[...] += self.constants.sum(1, dtype=np.float64)

    def arrived(self, out: Maybe = None) -> Tensor:
        """Gradient wrt the input of the layer, `[T, samples, N]`; `out` is `[T * samples, N]`."""
        if self.weight is None:
            return self.g
        flat = self.g.flatten(0, 1)
        out = flat.new_empty(len(flat), self.weight.shape[1]) if out is None else out
        products.put(out, flat, self.weight)
        return out.view(*self.g.shape[:2], -1)

    def _through_time(self) -> None:
        kind, code, columns = self.layer.kind, self.backward, self.samples * self.layer.width
        read = self.memory[0], *self.records
        given = code.numbers, self.layer.constants, self.states, self.constants.reshape(-1), read, tuple(self.memory)
        sizes = tuple(columns for _ in read), columns
        if not kind.recurrent:
            code.call(*given, *sizes, self.steps, self.steps, 0, columns, False)
            return
        ways = []  # for each section: the gradient wrt its spikes, that wrt the current they cause, and how
        unheard = kind.size - self.recurrent.shape[1]
        for port, begin, end in ((0, unheard, kind.split), (-1, kind.split, kind.size)):
            if begin < end:
                said, heard = self.g[..., begin:end].unbind(0), self.by_port[port].unbind(0)
                ways.append((said, heard, self.recurrent[:, begin - unheard : end - unheard]))
        for t in range(self.steps - 1, -1, -1):
            if t < self.steps - 1:
                for said, heard, weight in ways:
                    said[t].addmm_(heard[t + 1], weight)
            code.call(*given, *sizes, t + 1, 1, 0, columns, False)


def _shaped(sums: Sequence[Array], layer: Padded, wanted: Sequence[bool], numbers: Sequence[int]) -> list[Maybe]:
    """Each gradient in the shape of its tensor."""
    size, width, group = layer.kind.size, layer.width, VECTORS * lanes(layer.dtype)
    *paths, constants = (torch.from_numpy(total) for total in sums)
    paths[::2] = [weight.view(width // group, -1, group).transpose(0, 1).flatten() for weight in paths[::2]]
    found: list[Maybe] = [
        own.view(-1, width)[:, :size].t().contiguous().view(tensor.shape) if asked else None
        for own, tensor, asked in zip(paths, layer.tensors, wanted, strict=False)
    ]
    return [*found, *by_constant(constants[:, :size], layer.tensors[PATHS:], numbers)]
