"""An excitatory and an inhibitory population that hear each other, as one operation on events.

The two are one population to the loop: an excitatory and an inhibitory current into every neuron, and spikes that
reach the one or the other, a step later, by where they come from. Blocks, threads and what is kept for backward are
those of `events_layers.py`; each step back takes one small product for the weights from each of the two populations.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fluctua.spikes import bits as bit_kernels
from fluctua.spikes.batch import SpikeBatch
from fluctua.timeloop.events_exc_inh_adjoint import Record, adjoint
from fluctua.timeloop.events_exc_inh_padded import Kind, Numbers, Padded
from fluctua.timeloop.events_layout import Arriving, nothing
from fluctua.timeloop.limits import anchor, differentiable_once
from fluctua.timeloop.threads import Blocks, over_samples

_BLOCK = 32  # samples: each step back multiplies by the recurrent weights, which must pay to load them


def run_exc_inh(x: Tensor, kind: Kind, numbers: Numbers, spikes: SpikeBatch | None = None) -> tuple[Tensor, Tensor]:
    """Run the two populations from rest.

    Args:
        x: `[T, B, N]`: what arrives from outside or, without `numbers.weight`, the excitatory current `[T, B, n]` that
            it causes. Beside `spikes` only its gradient matters.
        kind: sizes and options.
        numbers: plain tensors on the CPU, all of the type of `x`, float32 or float64.
        spikes: the same as `x`, wherever there is a weight.

    Returns:
        Spikes `[T, B, exc]` and `[T, B, inh]`.
    """
    exc, inh, *_ = _ExcInh.apply(kind, spikes, anchor([x, *numbers]), x, *numbers)  # type: ignore[no-untyped-call]
    return exc, inh


class _ExcInh(torch.autograd.Function):
    @staticmethod
    def forward(kind: Kind, spikes: SpikeBatch | None, tied: Tensor, x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        layer = Padded.of(kind, Numbers(*tensors), x.dtype)
        arriving = Arriving.dense(x) if spikes is None else Arriving.spikes(spikes, x.dtype)
        return _integrate(layer, arriving, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.kind, ctx.spikes, tied, x, *tensors = inputs
        ctx.shape = x.shape
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_backward(tied, *tensors, x if ctx.spikes is None else None, *output[2:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if grads[0] is None and grads[1] is None:
            return (None,) * (4 + len(Numbers._fields))
        with torch.no_grad():
            gradients = _adjoint(ctx, grads[:2])
        if torch.is_grad_enabled():  # create_graph: whoever goes on from here must not take them for constants
            gradients = differentiable_once(gradients, "fused layers", *ctx.saved_tensors[:1], *grads)
        return None, None, None, *gradients


def _integrate(layer: Padded, arriving: Arriving, x: Tensor) -> tuple[Tensor, ...]:
    """The spikes of both populations, dense and then as bits."""
    steps, samples = x.shape[:2]
    sizes = layer.kind.exc, layer.kind.inh
    dense = [x.new_zeros(steps, samples, n) for n in sizes]
    bits = [torch.empty(samples, steps, bit_kernels.words_of(n), dtype=torch.int64) for n in sizes]
    leaving = [Arriving.spikes(SpikeBatch(words, n), x.dtype) for words, n in zip(bits, sizes, strict=True)]

    def work(blocks: Blocks) -> None:
        unseen = (nothing(x.dtype),) * 3
        for first, stop in blocks:
            layer.integrate(arriving, steps, first, stop, unseen, tuple(out.words for out in leaving))
            for out, n, whole in zip(leaving, sizes, dense, strict=True):
                array = whole.numpy().reshape(-1)
                bit_kernels.unpack(out.words, out.values, out.starts, steps, samples, n, array, first, stop)

    over_samples(work, samples, _BLOCK)
    return *dense, *bits


def _adjoint(ctx: Any, g_spikes: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """Gradients with respect to what arrives and to all numbers, where they are asked for."""
    each = len(Numbers._fields)
    _, *saved = ctx.saved_tensors
    numbers, (current, *words) = Numbers(*saved[:each]), saved[each:]
    dtype = numbers.decay_mem.dtype
    arriving = Arriving.dense(current) if ctx.spikes is None else Arriving.spikes(ctx.spikes, dtype)
    exc, inh = (Arriving.spikes(SpikeBatch(w, 0), dtype) for w in words)
    record = Record(Padded.of(ctx.kind, numbers, dtype), arriving, exc, inh, *ctx.shape[:2])
    wants_input, *wanted = ctx.needs_input_grad[3:]
    g_input = torch.empty(ctx.shape, dtype=dtype) if wants_input else None
    return g_input, *adjoint(record, g_spikes, wanted, g_input, _BLOCK)
