"""The engines whose loops are derived from a neuron's step: one pass over the data forward, one backward.

A loop is one operation of torch: an autograd function, or operators for `torch.compile` (see `operators.py`).
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor

from fluctua.timeloop.contract import Dynamics, LoopResult
from fluctua.timeloop.derivation import Kind, adjoint, integrate, plan_of, to_be_saved
from fluctua.timeloop.limits import anchor, differentiable_once, has_potential, interpreted, unsupported_numbers
from fluctua.timeloop.steps import Tensors

Maybe = Tensor | None


class CpuEngine:
    """Serves float32 and float64 on the CPU, of every neuron that can be traced; see `unsupported`.

    Neurons and samples are split over threads.
    """

    name = "cpu"
    compact = False

    def unsupported(self, inputs: Tensors, dynamics: Dynamics) -> str | None:
        """See `Engine.unsupported`."""
        elsewhere = [t.device for t in (*inputs, *dynamics.constants) if t.device.type != "cpu"]
        if elsewhere:
            return f"it takes CPU tensors, not one on {elsewhere[0]}"
        return unsupported_numbers(inputs, dynamics)

    def run(self, inputs: Tensors, dynamics: Dynamics, state: Tensors) -> LoopResult:
        """See `Engine.run`."""
        return _run(inputs, dynamics, state, "cpu", self.compact)


class CompactCpuEngine(CpuEngine):
    """Keeps the potential of spiking neurons for backward in bfloat16, as its distance from threshold: half the memory.

    Spikes are the same. A distance is off by up to 2^-8 of itself, so the surrogate of SuperSpike by up to 2^-7 of
    itself, and gradients by less than one percent of the largest.
    """

    name = "cpu-bfloat16"
    compact = True


class GpuEngine:
    """Serves float32 and float64 on CUDA devices by Triton, of every neuron that can be traced; see `unsupported`.

    Under Triton's interpreter (the variable TRITON_INTERPRET=1 in the environment) it serves CPU tensors too, slowly:
    that is how it is tested.
    """

    name = "gpu"

    def unsupported(self, inputs: Tensors, dynamics: Dynamics) -> str | None:
        """See `Engine.unsupported`."""
        device = inputs[0].device
        if find_spec("triton") is None:
            return "triton is not installed: pip install 'fluctua[gpu]'"
        if device.type != "cuda" and not interpreted():
            return f"it takes CUDA tensors, not one on {device}"
        if any(t.device != device for t in (*inputs, *dynamics.constants)):
            return f"a constant is not on the current's device {device}"
        return unsupported_numbers(inputs, dynamics)

    def run(self, inputs: Tensors, dynamics: Dynamics, state: Tensors) -> LoopResult:
        """See `Engine.run`."""
        return _run(inputs, dynamics, state, "gpu")


def _run(
    inputs: Tensors, dynamics: Dynamics, state: Tensors, device: Literal["cpu", "gpu"], compact: bool = False
) -> LoopResult:
    tensors = *inputs, *state, *dynamics.constants
    trains = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    kind = Kind.of(device, dynamics, trains, compact=compact)
    results: Sequence[Tensor]
    if torch.compiler.is_compiling():
        from fluctua.timeloop.operators import compiled  # defining operators takes a moment

        results = compiled(tensors, kind)
    elif trains:
        results = _Loop.apply(*tensors, anchor(tensors), kind)  # type: ignore[no-untyped-call]
    else:
        results = integrate(tensors, kind)
    output, *others = results
    there = has_potential(kind.step, kind.inputs, kind.states, kind.constants)
    potential = others.pop(0) if there else output
    return LoopResult(output, potential, tuple(others[: dynamics.states]))


class _Loop(torch.autograd.Function):
    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        *tensors, _, kind = inputs
        return tuple(integrate(tensors, kind))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, tied, kind = inputs
        ctx.set_materialize_grads(False)
        ctx.kind, ctx.shape = kind, tensors[0].shape
        ctx.save_for_backward(*to_be_saved(tensors, output, kind), tied)
        first = 1 + plan_of(kind).separate
        ctx.mark_non_differentiable(*output[1:first], *output[first + kind.states :])

    @staticmethod
    def backward(ctx: Any, *grads: Maybe) -> tuple[Maybe, ...]:
        kind: Kind = ctx.kind
        *saved, tied = ctx.saved_tensors
        first, needed = 1 + plan_of(kind).separate, ctx.needs_input_grad
        with torch.no_grad():
            g_state = grads[first : first + kind.states]
            found = adjoint(grads[0], g_state, saved, ctx.shape, any(needed[: kind.inputs]), kind)
        gradients: Sequence[Maybe] = [g if asked else None for g, asked in zip(found, needed, strict=False)]
        if torch.is_grad_enabled():  # create_graph: whoever goes on from here must not take them for constants
            gradients = differentiable_once(gradients, "the fused time loop", tied, *grads)
        return *gradients, None, None
