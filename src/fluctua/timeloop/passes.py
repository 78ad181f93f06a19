"""Both ways through a fused loop, on either device; `derivation.py` says what they keep."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from fluctua.timeloop.derivation import Kind, plan_of

Maybe = Tensor | None


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
    return import_module(_PASSES[kind.device])


_PASSES = {"cpu": "fluctua.timeloop.cpu_loop", "gpu": "fluctua.timeloop.gpu_loop"}
