"""Fused layers: weights and the neurons behind them in one operation, spikes handed from layer to layer as bits.

The input current is never in memory as a whole: samples pass through all layers a few at a time, so that what they
need stays in the core's cache. Forward keeps the bits of the spikes alone; backward integrates again, which takes less
time than to write the potentials to memory and to read them back, and then runs the adjoint loop.

Samples are split over threads, each with a gradient of the weights of its own; these are summed in a fixed order, so
a fixed number of threads gives the same numbers every time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fluctua.spikes import bits as bit_kernels
from fluctua.spikes.batch import SpikeBatch
from fluctua.timeloop.contract import LoopParameters
from fluctua.timeloop.events_adjoint import Record, adjoint
from fluctua.timeloop.events_layout import Incoming, Numbers, Options, Padded, nothing
from fluctua.timeloop.limits import anchor, once_differentiable
from fluctua.timeloop.threads import Blocks, over_samples

_CACHE = 1 << 19  # bytes of a block's potentials: half of L2
_RECURRENT_BLOCK = 32  # samples: each step back multiplies by the recurrent weight, which must pay to load it


@dataclass(frozen=True, eq=False)
class Layer:
    """A population and what feeds it. Tensors are plain, on the CPU, all float32 or all float64.

    Attributes:
        neurons: size n of the population.
        parameters: its constants, each of one element or `[n]`.
        weight: `[n, afferents]`, or None where the input current itself is given.
        bias: `[n]`, or None.
        recurrent: `[n, n]`, through which the population hears its own spikes of the step before, or None.
        recurrent_bias: `[n]`, from the second step on, or None.
        initial: potential before the first step.
    """

    neurons: int
    parameters: LoopParameters
    weight: Tensor | None = None
    bias: Tensor | None = None
    recurrent: Tensor | None = None
    recurrent_bias: Tensor | None = None
    initial: float = 0.0

    @property
    def options(self) -> Options:
        """What there is to do."""
        p = self.parameters
        return Options.of(p, self.neurons, initial=self.initial, exponential=p.decay_syn is not None)

    @property
    def numbers(self) -> Numbers:
        """All tensors."""
        weights = self.weight, self.bias, self.recurrent, self.recurrent_bias
        return Numbers(*weights, None, self.parameters.decay_mem, *self.parameters.constants[1:])


def run_layers(x: Tensor, layers: Sequence[Layer], spikes: SpikeBatch | None = None) -> Tensor:
    """Run layers one behind the other.

    Args:
        x: `[T, B, N]`: what arrives at the first layer, or its input current where it has no weight. Beside `spikes`
            only its gradient matters.
        layers: all but the last spike.
        spikes: the same as `x`, for a first layer with a weight.

    Returns:
        Spikes of the last layer `[T, B, n]`, or the potential of a readout.
    """
    return _run(x, [layer.options for layer in layers], [layer.numbers for layer in layers], spikes)[0]


def run_exc_inh(x: Tensor, options: Options, numbers: Numbers, spikes: SpikeBatch | None = None) -> tuple[Tensor, ...]:
    """Run an excitatory and an inhibitory population that hear each other, n neurons in all, from rest.

    Args:
        x: `[T, B, N]`: what arrives from outside and excites or, without `numbers.weight`, the excitatory current
            `[T, B, n]` that it causes. Beside `spikes` only its gradient matters.
        options: with both sizes.
        numbers: `weight` `[n, N]`, `recurrent` `[n, exc]` and `inhibitory` `[n, inh]`, from the spikes of the step
            before, and constants `[n]`, the excitatory neurons first; no gradient flows to the threshold.
        spikes: the same as `x`, wherever there is a weight.

    Returns:
        Spikes `[T, B, exc]` and `[T, B, inh]`.
    """
    return _run(x, [options], [numbers], spikes)[:2]


def _run(
    x: Tensor, options: Sequence[Options], numbers: Sequence[Numbers], spikes: SpikeBatch | None
) -> tuple[Tensor, ...]:
    tensors = [t for own in numbers for t in own]
    outputs: tuple[Tensor, ...] = _Layers.apply(tuple(options), spikes, anchor([x, *tensors]), x, *tensors)  # type: ignore[no-untyped-call]
    return outputs


class _Layers(torch.autograd.Function):
    @staticmethod
    def forward(
        options: Sequence[Options], spikes: SpikeBatch | None, tied: Tensor, x: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        layers = [Padded.of(o, n, x.dtype) for o, n in zip(options, Numbers.of_all(tensors), strict=True)]
        return _integrate(layers, spikes, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.options, ctx.spikes, tied, x, *tensors = inputs
        ctx.shape, ctx.n_tensors = x.shape, len(tensors)
        words = output[len(ctx.options[-1].sizes) :]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*words)
        ctx.save_for_backward(tied, *tensors, x if ctx.spikes is None else None, *words)

    @staticmethod
    @once_differentiable("fused layers")
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        given = grads[: len(ctx.options[-1].sizes)]
        if all(g is None for g in given):
            return tuple([None] * (4 + ctx.n_tensors))
        return None, None, None, *_adjoint(ctx, given)


def _integrate(layers: Sequence[Padded], spikes: SpikeBatch | None, x: Tensor) -> tuple[Tensor, ...]:
    """The outputs, and the spikes of all populations that spike, as bits."""
    steps, samples = x.shape[:2]
    last = layers[-1].options
    outputs = [x.new_zeros(steps, samples, n) for n in last.sizes]
    words = [torch.empty(samples, steps, p.options.words, dtype=torch.int64) for p in layers if p.options.spiking]
    incoming = _all_incoming(spikes, x, words, layers)
    leaving = [*(spiking.words for spiking in incoming[1:]), np.empty(0, np.uint64)]
    block = _block(layers, steps, least=1)

    def work(blocks: Blocks) -> None:
        none = nothing(x.dtype)
        memory = none if last.spiking else np.empty(min(block, samples) * steps * layers[-1].width, none.dtype)
        for first, stop in blocks:
            for layer, source, target in zip(layers, incoming, leaving, strict=False):
                potential = none if layer.options.spiking else memory
                layer.integrate(source, steps, first, stop, (potential, none, none), target)
            if not last.spiking:
                potential = memory[: (stop - first) * steps * layers[-1].width]
                by_sample = torch.from_numpy(potential).view(stop - first, steps, -1)[..., : last.sizes[0]]
                outputs[0][:, first:stop] = by_sample.transpose(0, 1)
                continue
            for out, (at, n) in zip(outputs, last.places, strict=True):
                place = *incoming[-1][:3], last.words, at >> 6, steps, samples, n
                bit_kernels.unpack(*place, out.numpy().reshape(-1), first, stop)

    over_samples(work, samples, block)
    return *outputs, *words


def _adjoint(ctx: Any, g_outputs: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """Gradients with respect to the input and to all tensors of the layers, where they are asked for."""
    _, *saved = ctx.saved_tensors
    tensors, (current, *words) = saved[: ctx.n_tensors], saved[ctx.n_tensors :]
    numbers = Numbers.of_all(tensors)
    dtype = numbers[0].decay_mem.dtype
    layers = [Padded.of(options, n, dtype) for options, n in zip(ctx.options, numbers, strict=True)]
    like = numbers[0].decay_mem if current is None else current
    incoming = _all_incoming(ctx.spikes, like, words, layers)
    wants_input, *wanted = ctx.needs_input_grad[3:]
    g_input = torch.empty(ctx.shape, dtype=dtype) if wants_input else None
    record = Record(numbers, layers, incoming, *ctx.shape[:2])
    block = _block(layers, ctx.shape[0], least=_RECURRENT_BLOCK)
    asked = [Numbers(*part) for part in Numbers.of_all(wanted)]
    return g_input, *adjoint(record, g_outputs, asked, g_input, block)


def _all_incoming(
    spikes: SpikeBatch | None, x: Tensor, words: Sequence[Tensor], layers: Sequence[Padded]
) -> list[Incoming]:
    """What arrives at each layer, and what leaves the last if it spikes."""
    first = Incoming.dense(x) if spikes is None else Incoming.spikes(spikes, x.dtype)
    batches = (SpikeBatch(w, layer.options.sizes[0]) for w, layer in zip(words, layers, strict=False))
    return [first, *(Incoming.spikes(batch, x.dtype) for batch in batches)]


def _block(layers: Sequence[Padded], steps: int, least: int) -> int:
    """How many samples go through the layers at a time, with recurrence at least so many."""
    if any(layer.inhibition is not None for layer in layers):
        return _RECURRENT_BLOCK
    size = max(layer.width for layer in layers) * steps * layers[0].membrane[0].itemsize
    return max(1, _CACHE // size, least if any(layer.recurrent.size for layer in layers) else 1)
