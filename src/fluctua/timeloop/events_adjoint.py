"""The way back through fused layers: gradients with respect to the input and to all numbers of the layers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fluctua.spikes.bits import words_of
from fluctua.timeloop import events_kernels as kernels
from fluctua.timeloop.contract import shape_of
from fluctua.timeloop.events_layout import Array, Incoming, Numbers, Padded
from fluctua.timeloop.threads import Blocks, over_samples

_CONSTANTS = "decay_mem", "decay_syn", "decay_slow", "strength", "coupling"


@dataclass(frozen=True, eq=False)
class Record:
    """What backward knows of a forward pass.

    Attributes:
        numbers: tensors of each layer.
        layers: the same as the kernels take them.
        incoming: what arrives at each layer; then the spikes that leave the last, if it spikes.
        steps: T.
        samples: B.
    """

    numbers: Sequence[Numbers]
    layers: Sequence[Padded]
    incoming: Sequence[Incoming]
    steps: int
    samples: int


def adjoint(
    record: Record, g_outputs: Sequence[Tensor | None], wanted: Sequence[Numbers], g_input: Tensor | None, block: int
) -> list[Tensor | None]:
    """Gradients with respect to all tensors of the layers, in their order.

    Args:
        record: of the forward pass.
        g_outputs: gradients with respect to the outputs, `[T, B, n]`, None for zero.
        wanted: which of its tensors' gradients are asked for, for each layer.
        g_input: filled with the gradient with respect to the input `[T, B, N]`, unless None.
        block: number of samples to work on at a time.
    """
    layers, last = record.layers, len(record.layers) - 1

    def work(blocks: Blocks) -> list[dict[str, Array]]:
        sums = [_zeros(layer, w) for layer, w in zip(layers, wanted, strict=True)]
        buffers: dict[int, list[_Backward]] = {}  # by number of samples: the last block may be smaller
        for first, stop in blocks:
            if stop - first not in buffers:
                buffers[stop - first] = [_Backward(record, k, stop - first, s) for k, s in enumerate(sums)]
            back = buffers[stop - first]
            for part, given in zip(back[last].parts, g_outputs, strict=True):
                part.zero_() if given is None else part.copy_(given[:, first:stop].transpose(0, 1))
            for k in range(last, -1, -1):
                back[k].run(first)
                if k > 0:
                    torch.mm(back[k].rows, record.numbers[k].weight, out=back[k - 1].rows)  # type: ignore[arg-type]
                elif g_input is not None:
                    g_input[:, first:stop] = back[0].input_gradient().transpose(0, 1)
        return sums

    threads = over_samples(work, record.samples, block)
    gradients: list[Tensor | None] = []
    for k, (layer, numbers) in enumerate(zip(layers, record.numbers, strict=True)):
        totals = {name: sum((sums[k][name] for sums in threads[1:]), threads[0][k][name]) for name in threads[0][k]}
        for name, tensor, asked in zip(Numbers._fields, numbers, wanted[k], strict=True):
            gradients.append(_shaped(totals[name], layer, tensor) if asked and name in totals else None)
    return gradients


def _zeros(layer: Padded, wanted: Numbers) -> dict[str, Array]:
    """Sums, over the samples of one thread, of the gradients of a layer; what is not asked for has no element.

    A bias comes with its weight, and a decay with the other: one kernel gives both.
    """
    decays, adapts = any(wanted[5:7]), any(wanted[8:11])
    slow = decays or adapts if layer.inhibition is not None else adapts
    decays = slow if layer.inhibition is not None else decays
    coupling = layer.adaptation is not None and layer.adaptation.coupling.size > 0
    inhibitory = 0 if layer.inhibition is None else layer.inhibition.weight.size
    weight, recurrent, width = any(wanted[0:2]), any(wanted[2:4]), layer.width
    sizes = {
        "weight": (layer.weight.size, weight),
        "bias": (width, weight and layer.inhibition is None),
        "recurrent": (layer.recurrent.size, recurrent),
        "recurrent_bias": (width, recurrent and layer.inhibition is None),
        "inhibitory": (inhibitory, wanted.inhibitory),
    }
    constants = zip(_CONSTANTS, (decays, decays, slow, adapts, adapts and coupling), strict=True)
    like = torch.from_numpy(layer.membrane[0])  # by torch, whose memory starts with a line of the cache
    return {name: like.new_zeros(size if asked else 0).numpy() for name, (size, asked) in sizes.items()} | {
        name: np.zeros(width if asked else 0, np.float64) for name, asked in constants
    }


class _Backward:
    """One layer's way back over a block of so many samples: its buffers, used again for every block.

    Attributes:
        g: `[samples, T, width]`, the gradient wrt the output and, once it has run, wrt the input current.
        parts: the same of each population.
        rows: of the first population as `[samples * T, n]`.
    """

    def __init__(self, record: Record, k: int, samples: int, sums: dict[str, Array]) -> None:
        layer = self.layer = record.layers[k]
        self.numbers, self.steps, self.samples, self.sums = record.numbers[k], record.steps, samples, sums
        self.incoming, self.outgoing = record.incoming[k], record.incoming[(k + 1) % len(record.incoming)]
        options, steps, dtype = layer.options, record.steps, layer.dtype
        size, row = samples * steps * layer.width, samples * layer.width
        learns, inhibited = sums["decay_mem"].size > 0, layer.inhibition is not None
        drives = learns or (options.hard and options.differentiable)
        levels = drives if inhibited else layer.adaptation is not None
        again = options.spiking or learns  # a readout's gradient needs no potential
        like = torch.from_numpy(layer.membrane[0])
        self.memory, self.inhibitory = (like.new_zeros(n).numpy() for n in (size, size if inhibited else 0))
        self.records = [np.empty(size if wanted else 0, dtype) for wanted in (again, drives, levels)]
        # Not the words of the forward pass: somebody else may be reading those.
        self.words = np.empty_like(self.outgoing.words) if options.spiking else self.outgoing.words
        slow = inhibited or layer.adaptation is not None
        self.states = [np.empty(n, dtype) for n in (row, row, row if slow else 0)]
        self.constants = [np.empty(samples * sums[name].size, dtype) for name in _CONSTANTS]
        self.g = torch.from_numpy(self.memory).view(samples, steps, layer.width)
        self.parts = options.parts(self.g)
        self.rows = self.g.view(samples * steps, layer.width)[:, : options.sizes[0]]
        shape, slope, height = shape_of(options.surrogate) if options.spiking else (0, 0.0, 0.0)
        self.arguments = (
            *(self.memory, self.inhibitory, *self.records, *self.states, *self.constants),
            *(*layer.membrane, layer.adaptation, layer.inhibition, options.exponential, options.spiking),
            *(options.hard, options.differentiable, shape, dtype.type(slope), dtype.type(height), steps),
        )

    def run(self, first: int) -> None:
        """Go back over the samples from `first` on."""
        layer, stop = self.layer, first + self.samples
        if self.records[0].size:
            layer.integrate(self.incoming, self.steps, first, stop, self.records, self.words)
        for array in (*self.states, *self.constants):
            array.fill(0)
        self._through_time()
        self._scatter(first, self.incoming, self.incoming.units, None, 0, self.memory, "weight", "bias")
        own, (excitatory, *inhibitory) = layer.options.words, layer.options.places
        self._scatter(first, self.outgoing, excitatory[1], own, 0, self.memory, "recurrent", "recurrent_bias")
        for at, n in inhibitory:
            self._scatter(first, self.outgoing, n, own, at >> 6, self.inhibitory, "inhibitory")
        for name, part in zip(_CONSTANTS, self.constants, strict=True):
            self.sums[name] += part.reshape(self.samples, -1).sum(0, dtype=np.float64) if part.size else 0.0

    def input_gradient(self) -> Tensor:
        """With respect to what arrives, `[samples, T, N]`, after `run`."""
        if self.numbers.weight is None:
            return torch.cat(self.parts, -1)
        if len(self.parts) == 1:
            return self.parts[0] @ self.numbers.weight
        return self.g @ _matrix(self.layer.weight, self.layer)

    def _scatter(
        self, first: int, spikes: Incoming, units: int, stride: int | None, offset: int, g: Array, *names: str
    ) -> None:
        """Add up the gradient wrt a weight of so many units and its bias, of the same step or of the next."""
        total, *bias = (self.sums[name] for name in names)
        if total.size:
            row = words_of(units) if stride is None else stride
            place = spikes.words, spikes.values, spikes.starts, units, row, offset
            sizes = self.layer.width, self.steps, int(stride is not None), first, first + self.samples
            kernels.scatter(*place, g, *sizes, total, bias[0] if bias else total[:0])

    def _through_time(self) -> None:
        layer, inhibition = self.layer, self.layer.inhibition
        if self.numbers.recurrent is None and inhibition is None:
            kernels.adjoint(*self.arguments, 0, self.steps)
            return
        excitatory, inhibitory = self.numbers.recurrent, None
        heard = self.parts[0].unbind(1)  # what the excitatory, or only, population is told
        if inhibition is not None:  # padded, as are the gradients
            excitatory = _matrix(layer.recurrent, layer) if excitatory is not None else None
            inhibitory = _matrix(inhibition.weight, layer)
            g_inhibitory = torch.from_numpy(self.inhibitory).view(self.g.shape).unbind(1)
        told = heard if inhibition is None else self.g.unbind(1)
        for t in range(self.steps - 1, -1, -1):
            if t < self.steps - 1:
                if excitatory is not None:
                    heard[t].addmm_(told[t + 1], excitatory)
                if inhibitory is not None:
                    self.parts[1][:, t].addmm_(g_inhibitory[t + 1], inhibitory)
            kernels.adjoint(*self.arguments, t, t + 1)


def _matrix(weight: Array, layer: Padded) -> Tensor:
    """A weight as `[width, afferents]`."""
    return torch.from_numpy(weight).view(-1, layer.width).t()


def _shaped(total: Array, layer: Padded, like: Tensor | None) -> Tensor | None:
    """A sum of rows in the shape of its tensor: a matrix, constants, or one that all neurons share."""
    if like is None or not total.size:
        return None
    whole = torch.cat(layer.options.parts(torch.from_numpy(total).view(-1, layer.width)), -1).t()
    shared = like.numel() == 1 and whole.numel() > 1 and like.ndim < 2
    return (whole.sum() if shared else whole).to(like.dtype).reshape(like.shape).contiguous()
