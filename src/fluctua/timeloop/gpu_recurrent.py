"""The fused loop on the GPU of a population that hears itself through a dense weight, one step late.

Forward and backward integrate step by step in Triton (see `gpu_source.py`); the gradient of the weight is one product
over all steps and samples, made by torch after the loop.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fluctua.timeloop.contract import Dynamics, LoopResult
from fluctua.timeloop.derivation import Kind, plan_of
from fluctua.timeloop.gpu_loop import by_constant, name_of, numbers_of, stacked
from fluctua.timeloop.gpu_source import backward_kernel, forward_kernel
from fluctua.timeloop.limits import anchor, differentiable_once, interpreted
from fluctua.timeloop.steps import Tensors

Maybe = Tensor | None

# Samples and neurons of a tile, four of its cells a thread. Chosen by the machine code, in which hardly a register
# is spilled, not by measurements.
_SAMPLES, _NEURONS, _WARPS = 16, 64, 8

# Up to so many neurons a program takes its samples through all steps. With a larger weight a step in one program lasts
# longer than the launch of a program for each tile: an estimate from 16 x 256 x 256 products and sums.
_ALONE = 256


def run(current: Tensor, dynamics: Dynamics, state: Tensors, weight: Tensor, bias: Maybe) -> LoopResult:
    """Integrate `current` `[T, B, N]` from `state` on; a request that `GpuEngine` serves.

    Args:
        current: from outside, not empty.
        dynamics: of neurons that spike and have one input.
        state: before the first step.
        weight: `[N, N]`; row n says what neuron n hears from each, from the second step on.
        bias: `[N]`, which it hears from the second step on, or None.
    """
    inputs = current, weight, bias, *state, *dynamics.constants
    trains = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    kind = Kind.of("gpu", dynamics, trains, recurrent=True)
    output, potential, *end = _Loop.apply(*inputs, anchor(inputs), kind)  # type: ignore[no-untyped-call]
    return LoopResult(output, potential, tuple(end[: kind.states]))


class _Loop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        x, weight, bias, *others, tied, kind = inputs
        state, constants = others[: kind.states], others[kind.states :]
        plan, (steps, samples, neurons) = plan_of(kind), x.shape
        rows = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(2 + len(plan.own))]
        end = torch.stack([part.detach() for part in state])
        kernel = forward_kernel(plan, name_of(x), True, interpreted())
        numbers, own = numbers_of(kernel, x.dtype, x.device), stacked(constants, x)
        # What a neuron hears is part of its input, so the input is recorded where the way back reads it.
        arrays = (
            x.contiguous(),
            numbers,
            own,
            weight.contiguous(),
            own if bias is None else bias.contiguous(),
            end,
            *rows,
        )
        _launch(kernel.call, arrays, range(steps), samples, neurons, bias is not None)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(rows[1], *rows[2:])
        there = {plan.traced.potential: rows[1], **dict(zip(plan.own, rows[2:], strict=True))}
        output = rows[0] if ctx.needs_input_grad[1] else None
        ctx.save_for_backward(weight, output, *constants, *(there[e] for e in plan.read), tied)
        ctx.kind, ctx.shape = kind, x.shape
        return rows[0], rows[1], *(part.clone() for part in end), *rows[2:]

    @staticmethod
    def backward(ctx: Any, *grads: Maybe) -> tuple[Maybe, ...]:
        with torch.no_grad():
            gradients = _adjoint(ctx, grads[0], grads[2 : 2 + ctx.kind.states])
        if torch.is_grad_enabled():  # create_graph: whoever goes on from here must not take them for constants
            gradients = differentiable_once(gradients, "the fused recurrent loop", ctx.saved_tensors[-1], *grads)
        return *gradients, None, None


def _adjoint(ctx: Any, g_output: Maybe, g_end: Sequence[Maybe]) -> tuple[Maybe, ...]:
    """Gradients with respect to current, weight, bias, state and constants, where they are asked for."""
    weight, output, *saved, _ = ctx.saved_tensors
    kind, wanted, (steps, samples, neurons) = ctx.kind, ctx.needs_input_grad, ctx.shape
    constants, read = saved[: kind.constants], saved[kind.constants :]
    g_output = weight.new_zeros(ctx.shape) if g_output is None else g_output.contiguous()
    g_x = torch.empty_like(g_output)
    g_state = torch.stack([weight.new_zeros(ctx.shape[1:]) if g is None else g for g in g_end])
    sums = weight.new_zeros(len(kind.wanted), samples, neurons)
    kernel = backward_kernel(plan_of(kind), name_of(weight), True, True, interpreted())
    numbers = numbers_of(kernel, weight.dtype, weight.device)
    arrays = g_output, *read, numbers, stacked(constants, g_output), weight.contiguous(), g_x, g_state, sums
    _launch(kernel.call, arrays, range(steps - 1, -1, -1), samples, neurons)
    heard = g_x[1:].flatten(0, 1)
    gradients = (
        g_x,
        heard.T @ output[:-1].flatten(0, 1) if wanted[1] else None,
        heard.sum(0) if wanted[2] else None,
        *g_state.unbind(0),
        *by_constant(sums.sum(1, dtype=torch.float64), constants, kind),
    )
    return tuple(g if asked else None for g, asked in zip(gradients, wanted, strict=False))


def _launch(kernel: Any, arrays: Sequence[Tensor], order: range, samples: int, neurons: int, *options: bool) -> None:
    """Run the steps in this order, in one launch or with one for each."""
    alone = neurons <= _ALONE
    grid = -(-samples // _SAMPLES), 1 if alone else -(-neurons // _NEURONS)
    sizes = samples, neurons, samples * neurons
    tile = {"SAMPLES": _SAMPLES, "NEURONS": _NEURONS, "num_warps": _WARPS, "enable_fp_fusion": False}
    with torch.cuda.device_of(arrays[0]):  # type: ignore[no-untyped-call]
        for first in order[:1] if alone else order:
            kernel[grid](*arrays, order[0], first, len(order) if alone else 1, *sizes, *options, **tile)
