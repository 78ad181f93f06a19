"""A fused loop as one operation of torch: as an autograd function, and as operators for `torch.compile`.

`torch.compile` and `torch.export` take operators as they are; see `operators.py`.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from fluctua.timeloop.contract import Dynamics, Run
from fluctua.timeloop.derivation import Kind, plan_of
from fluctua.timeloop.limits import anchor, differentiable_once, has_potential
from fluctua.timeloop.steps import Tensors

Maybe = Tensor | None


def run(inputs: Tensors, dynamics: Dynamics, state: Tensors, device: Any, compact: bool = False) -> Run:
    """What an engine's `run` does, by the loop of "cpu" or "gpu"."""
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
    return Run(output, potential, tuple(others[: dynamics.states]))


def integrate(tensors: Sequence[Tensor], kind: Kind) -> list[Tensor]:
    """The way forth.

    Args:
        tensors: inputs `[T, B, *N]`, state `[B, *N]` and constants.
        kind: what there is to do.

    Returns:
        Output, potential unless it is the output, final state, and what is recorded for the way back.
    """
    n, end = kind.inputs, kind.inputs + kind.states
    results: list[Tensor] = _passes(kind).integrate(tensors[:n], tensors[n:end], tensors[end:], kind)
    return results


def adjoint(
    g_output: Maybe,
    g_state: Sequence[Maybe],
    saved: Sequence[Tensor],
    shape: torch.Size,
    wants_inputs: bool,
    kind: Kind,
) -> list[Maybe]:
    """The way back.

    Args:
        g_output: gradient with respect to the output, None for zero.
        g_state: with respect to the final state, likewise.
        saved: constants, then what `to_be_saved` gave.
        shape: of an input.
        wants_inputs: whether gradients with respect to the inputs are asked for.
        kind: of the way forth.

    Returns:
        Gradients with respect to inputs, state and constants.
    """
    n = kind.constants + len(plan_of(kind).read)
    constants, read, halves = saved[: kind.constants], saved[kind.constants : n], saved[n:]
    like = constants[0]
    g_output = like.new_zeros(()).expand(shape) if g_output is None else g_output
    ends = [like.new_zeros(shape[1:]) if g is None else g for g in g_state]
    found: list[Maybe] = _passes(kind).adjoint(g_output, ends, constants, read, halves, wants_inputs, kind)
    return found


def to_be_saved(tensors: Sequence[Tensor], results: Sequence[Tensor], kind: Kind) -> list[Tensor]:
    """Constants, and what the plan reads on the way back, of the arguments and results of `integrate`."""
    plan = plan_of(kind)
    first = 1 + plan.separate + kind.states
    there = {plan.traced.potential: results[int(plan.separate)]}
    there |= {plan.traced.leaf("input", k): tensors[k] for k in range(kind.inputs)}
    there |= dict(zip(plan.own, results[first:], strict=False))
    halves = results[first + len(plan.own) :]
    return [*tensors[kind.inputs + kind.states :], *(there[e] for e in plan.read), *halves]


def _passes(kind: Kind) -> Any:
    """The module with both ways, which is imported when it is first needed."""
    return import_module(f"fluctua.timeloop.{kind.device}_loop")


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
