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
from fluctua.timeloop.events_layout import Arriving, Kind, Numbers, Padded, nothing
from fluctua.timeloop.limits import anchor, differentiable_once
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
    kinds = tuple(Kind.of(layer.neurons, layer.parameters, layer.initial) for layer in layers)
    tensors = [t for layer in layers for t in _numbers(layer)]
    output: Tensor = _Layers.apply(kinds, spikes, anchor([x, *tensors]), x, *tensors)[0]  # type: ignore[no-untyped-call]
    return output


def _numbers(layer: Layer) -> Numbers:
    p = layer.parameters
    weights = layer.weight, layer.bias, layer.recurrent, layer.recurrent_bias
    return Numbers(*weights, p.decay_mem, *p.constants[1:])


class _Layers(torch.autograd.Function):
    @staticmethod
    def forward(
        kinds: Sequence[Kind], spikes: SpikeBatch | None, tied: Tensor, x: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        layers = [Padded.of(k, n, x.dtype) for k, n in zip(kinds, Numbers.of_all(tensors), strict=True)]
        return _integrate(layers, spikes, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.kinds, ctx.spikes, tied, x, *tensors = inputs
        ctx.shape, ctx.n_tensors = x.shape, len(tensors)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(tied, *tensors, x if ctx.spikes is None else None, *output[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if grads[0] is None:
            return tuple([None] * (4 + ctx.n_tensors))
        with torch.no_grad():
            gradients = _adjoint(ctx, grads[0])
        if torch.is_grad_enabled():  # create_graph: whoever goes on from here must not take them for constants
            gradients = differentiable_once(gradients, "fused layers", *ctx.saved_tensors[:1], *grads)
        return None, None, None, *gradients


def _integrate(layers: Sequence[Padded], spikes: SpikeBatch | None, x: Tensor) -> tuple[Tensor, ...]:
    """The output, and the spikes of all populations that spike, as bits."""
    steps, samples = x.shape[:2]
    last = layers[-1]
    n = last.kind.neurons
    output = x.new_zeros(steps, samples, n)
    words = [torch.empty(samples, steps, layer.words, dtype=torch.int64) for layer in layers if layer.kind.spiking]
    arriving = _all_arriving(spikes, x, words)
    leaving = [*(spiking.words for spiking in arriving[1:]), np.empty(0, np.uint64)]

    def work(blocks: Blocks) -> None:
        scratch, none = nothing(x.dtype), nothing(x.dtype)
        for first, stop in blocks:
            size = (stop - first) * steps
            if scratch.size == 0:
                scratch = np.empty(size * max(layer.width for layer in layers), scratch.dtype)
            for layer, source, target in zip(layers, arriving, leaving, strict=False):
                layer.integrate(source, steps, first, stop, scratch, none, none, target)
            if last.kind.spiking:
                spikes_out = arriving[-1].words, arriving[-1].values, arriving[-1].starts
                bit_kernels.unpack(*spikes_out, steps, samples, n, output.numpy().reshape(-1), first, stop)
            else:
                potential = torch.from_numpy(scratch[: size * last.width]).view(stop - first, steps, last.width)
                output[:, first:stop] = potential[..., :n].transpose(0, 1)

    over_samples(work, samples, _block(layers, steps, least=1))
    return output, *words


def _adjoint(ctx: Any, g_output: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients with respect to the input and to all tensors of the layers, where they are asked for."""
    _, *saved = ctx.saved_tensors
    tensors, (current, *words) = saved[: ctx.n_tensors], saved[ctx.n_tensors :]
    numbers = Numbers.of_all(tensors)
    layers = [Padded.of(kind, n, g_output.dtype) for kind, n in zip(ctx.kinds, numbers, strict=True)]
    arriving = _all_arriving(ctx.spikes, g_output if current is None else current, words)
    wants_input, *wanted = ctx.needs_input_grad[3:]
    g_input = torch.empty(ctx.shape, dtype=g_output.dtype) if wants_input else None
    record = Record(numbers, layers, arriving, *ctx.shape[:2])
    block = _block(layers, ctx.shape[0], least=_RECURRENT_BLOCK)
    each = len(Numbers._fields)
    chunked = [wanted[k : k + each] for k in range(0, len(wanted), each)]
    return g_input, *adjoint(record, g_output, chunked, g_input, block)


def _all_arriving(spikes: SpikeBatch | None, x: Tensor, words: Sequence[Tensor]) -> list[Arriving]:
    """What arrives at each layer, and what leaves the last if it spikes."""
    first = Arriving.dense(x) if spikes is None else Arriving.spikes(spikes, x.dtype)
    return [first, *(Arriving.spikes(SpikeBatch(w, 0), x.dtype) for w in words)]


def _block(layers: Sequence[Padded], steps: int, least: int) -> int:
    """How many samples go through the layers at a time, with recurrence at least so many."""
    size = max(layer.width for layer in layers) * steps * layers[0].decay_mem.itemsize
    return max(1, _CACHE // size, least if any(layer.recurrent.size for layer in layers) else 1)
