"""The fused time loop on the CPU: one pass over the data forward, one backward, threads over neurons and samples."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fluctua.timeloop.contract import Dynamics, Run
from fluctua.timeloop.cpu_loop import Kind, adjoint, integrate, plan_of
from fluctua.timeloop.limits import anchor, differentiable_once, has_potential, unsupported_numbers
from fluctua.timeloop.steps import Tensors

Maybe = Tensor | None


class CpuEngine:
    """Serves float32 and float64 on the CPU, of every neuron that can be traced; see `unsupported`."""

    name = "cpu"
    compact = False

    def unsupported(self, inputs: Tensors, dynamics: Dynamics) -> str | None:
        """See `Engine.unsupported`."""
        tensors = *inputs, *dynamics.constants
        if any(tensor.device.type != "cpu" for tensor in tensors):
            return f"it takes CPU tensors, not one on {next(t.device for t in tensors if t.device.type != 'cpu')}"
        return unsupported_numbers(inputs, dynamics)

    def run(self, inputs: Tensors, dynamics: Dynamics, state: Tensors) -> Run:
        """See `Engine.run`."""
        tensors = *inputs, *state, *dynamics.constants
        trains = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        kind = Kind.of(dynamics, trains, self.compact)
        if torch.compiler.is_compiling():
            from fluctua.timeloop.cpu_operators import compiled  # defining operators takes a moment

            results = compiled(tensors, kind)
        elif trains:
            results = _Loop.apply(*tensors, anchor(tensors), kind)  # type: ignore[no-untyped-call]
        else:
            results = integrate(inputs, state, dynamics.constants, kind)
        output, *others = results
        there = has_potential(kind.step, kind.inputs, kind.states, kind.constants)
        potential = others.pop(0) if there else output
        return Run(output, potential, tuple(others[: dynamics.states]))


class CompactCpuEngine(CpuEngine):
    """Keeps the potential of spiking neurons for backward in bfloat16, as its distance from threshold: half the memory.

    Spikes are the same. A distance is off by up to 2^-8 of itself, so the surrogate of SuperSpike by up to 2^-7 of
    itself, and gradients by less than one percent of the largest.
    """

    name = "cpu-bfloat16"
    compact = True


class _Loop(torch.autograd.Function):
    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        *tensors, _, kind = inputs
        return tuple(integrate(*split(tensors, kind), kind))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, tied, kind = inputs
        ctx.set_materialize_grads(False)
        ctx.kind = kind
        constants = split(tensors, kind)[2]
        records = output[1 + plan_of(kind).separate + kind.states :]
        ctx.save_for_backward(*constants, *what_is_read(tensors, output, kind), tied)
        ctx.mark_non_differentiable(*(output[1:2] if plan_of(kind).separate else ()), *records)

    @staticmethod
    def backward(ctx: Any, *grads: Maybe) -> tuple[Maybe, ...]:
        kind: Kind = ctx.kind
        *saved, tied = ctx.saved_tensors
        constants, read = saved[: kind.constants], saved[kind.constants :]
        first = 1 + plan_of(kind).separate
        wanted = ctx.needs_input_grad
        with torch.no_grad():
            gradients: Sequence[Maybe] = gradients_of(
                grads[0], grads[first : first + kind.states], constants, read, any(wanted[: kind.inputs]), kind
            )
        gradients = [g if want else None for g, want in zip(gradients, wanted, strict=False)]
        if torch.is_grad_enabled():  # create_graph: whoever goes on from here must not take them for constants
            gradients = differentiable_once(gradients, "the fused time loop", tied, *grads)
        return *gradients, None, None


def split(tensors: Sequence[Tensor], kind: Kind) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
    """Inputs, state and constants."""
    n, end = kind.inputs, kind.inputs + kind.states
    return tensors[:n], tensors[n:end], tensors[end:]


def what_is_read(tensors: Sequence[Tensor], output: Sequence[Tensor], kind: Kind) -> list[Tensor]:
    """What the plan reads on the way back, of the inputs and results of `integrate`."""
    plan = plan_of(kind)
    records = list(output[1 + plan.separate + kind.states :])
    potential = output[int(plan.separate)]
    there = {plan.traced.potential: potential}
    there |= {plan.traced.leaf("input", k): tensors[k] for k in range(kind.inputs)}
    there |= dict(zip((*plan.own, *plan.halves), records, strict=True))
    return [there[e] for e in (*plan.read, *plan.halves)]


def gradients_of(
    g_output: Maybe,
    g_state: Sequence[Maybe],
    constants: Sequence[Tensor],
    read: Sequence[Tensor],
    wants_inputs: bool,
    kind: Kind,
) -> list[Maybe]:
    """Gradients with respect to inputs, state and constants, in one list; see `cpu_loop.adjoint`."""
    n = len(plan_of(kind).read)
    by_input, by_state, by_constant = adjoint(g_output, g_state, constants, read[:n], read[n:], wants_inputs, kind)
    return [*by_input, *by_state, *by_constant]
