"""The fused loop on the GPU of a population that hears itself through a dense weight, one step late.

Forward and backward integrate step by step in Triton (see `gpu_recurrent_kernels.py`); the gradient of the weight is
one product over all steps and samples, made by torch after the loop.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from fluctua.timeloop import gpu_recurrent_kernels as kernels
from fluctua.timeloop.contract import SHAPES, LoopParameters, LoopResult, State
from fluctua.timeloop.limits import anchor, differentiable_once

# Samples and neurons of a tile, four of its cells a thread. Chosen by the machine code, in which hardly a register
# is spilled, not by measurements.
_SAMPLES, _NEURONS, _WARPS = 16, 64, 8

# Up to so many neurons a program takes its samples through all steps. With a larger weight a step in one program lasts
# longer than the launch of a program for each tile: an estimate from 16 x 256 x 256 products and sums.
_ALONE = 256


def run(current: Tensor, parameters: LoopParameters, state: State, weight: Tensor, bias: Tensor | None) -> LoopResult:
    """Integrate `current` `[T, B, N]` from `state` on; a request that `GpuEngine` serves.

    Args:
        current: from outside, not empty.
        parameters: of neurons that spike and do not adapt.
        state: before the first step.
        weight: `[N, N]`; row n says what neuron n hears from each, from the second step on.
        bias: `[N]`, which it hears from the second step on, or None.
    """
    p, neurons = parameters, current.shape[2]
    constants = torch.stack(
        [(p.decay_mem.detach() if c is None else c).expand(neurons) for c in (p.decay_mem, p.decay_syn, p.threshold)]
    )
    inputs = current, state.potential, state.current, constants, weight, bias
    trains = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    kind = _Kind.of(p, learns=trains and constants.requires_grad, trains=trains)
    output, potential, u, i = _Loop.apply(*inputs, anchor(inputs), kind)  # type: ignore[no-untyped-call]
    return LoopResult(output, potential, State(u, i if kind.exponential else state.current))


class _Kind(NamedTuple):
    """What there is to do; the flags are those of the kernels."""

    exponential: bool
    hard: bool
    differentiable: bool
    learns: bool
    records_drive: bool
    surrogate: tuple[str, float, float]

    @classmethod
    def of(cls, p: LoopParameters, learns: bool, trains: bool) -> "_Kind":
        exponential, hard, differentiable = p.decay_syn is not None, p.reset == "zero", p.differentiable_reset
        return cls(
            exponential,
            hard,
            differentiable,
            learns,
            records_drive=(trains and hard and differentiable) or (learns and exponential),
            surrogate=SHAPES[type(p.surrogate)](p.surrogate.beta),
        )


class _Loop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor | None, ...]:
        x, u, i, constants, weight, bias, tied, kind = inputs
        steps, samples, neurons = x.shape
        output, potential = torch.empty_like(x, memory_format=torch.contiguous_format), x.new_empty(steps + 1, *u.shape)
        drive = x.new_empty(steps * kind.records_drive + kind.exponential, *u.shape)
        potential[0] = u
        if kind.exponential:
            drive[0] = i
        given = x.contiguous(), constants, weight.contiguous(), constants if bias is None else bias.contiguous()
        flags = kind.exponential, kind.hard, kind.records_drive, bias is not None
        _launch(kernels.forward_steps, (*given, potential, output, drive), range(steps), samples, neurons, *flags)

        before, end = potential[:-1], drive[-1].clone() if kind.exponential else None
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(before)
        records = before, drive if kind.records_drive else None, output if ctx.needs_input_grad[4] else None
        ctx.save_for_backward(constants, weight, *records, tied)
        ctx.kind = kind
        return output, before, potential[-1].clone(), end

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        g_output, _, *g_end = grads
        with torch.no_grad():
            gradients = _adjoint(ctx, g_output, g_end)
        if torch.is_grad_enabled():  # create_graph: whoever goes on from here must not take them for constants
            gradients = differentiable_once(gradients, "the fused recurrent loop", ctx.saved_tensors[-1], *grads)
        return *gradients, None, None


def _adjoint(ctx: Any, g_output: Tensor | None, g_end: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """Gradients with respect to current, U, I, constants, weight and bias, where they are asked for."""
    constants, weight, potential, drive, output, _ = ctx.saved_tensors
    kind, wanted, (steps, samples, neurons) = ctx.kind, ctx.needs_input_grad, potential.shape
    g_x = torch.empty_like(potential)
    g_state = potential.new_zeros(1 + kind.exponential, samples, neurons)
    for row, g in zip(g_state, g_end, strict=False):
        if g is not None:
            row.copy_(g)
    g_constants = potential.new_zeros((3, samples, neurons) if kind.learns else 0)
    g_output = torch.zeros_like(g_x) if g_output is None else g_output.contiguous()
    given = g_output, constants, weight.contiguous(), potential, g_x if drive is None else drive
    flags = kind.exponential, kind.hard, kind.differentiable, kind.learns, *kind.surrogate
    arguments = *given, g_x, g_state, g_constants
    _launch(kernels.backward_steps, arguments, range(steps - 1, -1, -1), samples, neurons, *flags)

    heard = g_x[1:].flatten(0, 1)
    return (
        g_x if wanted[0] else None,
        g_state[0] if wanted[1] else None,
        g_state[1] if wanted[2] and kind.exponential else None,
        g_constants.sum(1, dtype=torch.float64).to(g_x) if kind.learns else None,
        heard.T @ output[:-1].flatten(0, 1) if wanted[4] else None,
        heard.sum(0) if wanted[5] else None,
    )


def _launch(kernel: Any, arrays: Sequence[Tensor], order: range, samples: int, neurons: int, *options: Any) -> None:
    """Run the steps in this order, in one launch or with one for each."""
    alone = neurons <= _ALONE
    grid = triton.cdiv(samples, _SAMPLES), 1 if alone else triton.cdiv(neurons, _NEURONS)
    sizes = samples, neurons, samples * neurons
    tile = {"SAMPLES": _SAMPLES, "NEURONS": _NEURONS, "num_warps": _WARPS, "enable_fp_fusion": False}
    with torch.cuda.device_of(arrays[0]):  # type: ignore[no-untyped-call]
        for first in order[:1] if alone else order:
            kernel[grid](*arrays, order[0], first, len(order) if alone else 1, *sizes, *options, **tile)
