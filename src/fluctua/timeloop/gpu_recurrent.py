"""The fused loop on the GPU of a population that hears itself through a dense weight, one step late.

Forward and backward integrate step by step in Triton (see `gpu_source.py`); the gradient of the weight is one product
over all steps and samples, made by torch after the loop.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fluctua.timeloop import gpu_loop
from fluctua.timeloop.contract import Dynamics, LoopResult
from fluctua.timeloop.derivation import Kind, by_constant, over_samples, plan_of, to_be_saved
from fluctua.timeloop.limits import Maybe, apply
from fluctua.timeloop.steps import Tensors


def run(current: Tensor, dynamics: Dynamics, state: Tensors, weight: Tensor, bias: Maybe) -> LoopResult:
    """Integrate `current` `[T, B, N]` from `state` on; a request that `GpuEngine` serves.

    Args:
        current: from outside, not empty.
        dynamics: of neurons that spike; what they hear and the current go to their first input.
        state: before the first step.
        weight: `[N, N]`; row n says what neuron n hears from each, from the second step on.
        bias: `[N]`, which it hears from the second step on, or None.
    """
    inputs = current, weight, bias, *state, *dynamics.constants
    trains = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    operation = _Loop(Kind.of("gpu", dynamics, trains, recurrent=True), current.shape)
    output, potential, *end = apply(operation, inputs)
    return LoopResult(output, potential, tuple(end[: dynamics.states]))


@dataclass(frozen=True)
class _Loop:
    """See `limits.Operation`: of current, weight, bias, state and constants."""

    kind: Kind
    shape: torch.Size
    called = "the fused recurrent loop"

    @property
    def differentiable(self) -> Collection[int]:
        return {0, *range(2, 2 + self.kind.form.states)}

    def forth(self, tensors: Sequence[Any]) -> Sequence[Tensor]:
        x, weight, bias, *others = tensors
        state, constants = others[: self.kind.form.states], others[self.kind.form.states :]
        # What a neuron hears is part of its first input, so inputs are recorded where the way back reads them.
        read = [x, *[torch.zeros_like(x)] * (self.kind.form.inputs - 1)]
        passed = gpu_loop.run(plan_of(self.kind).forth, read, state, constants, weight, bias)
        return *passed.written[:2], *(part.clone() for part in passed.state), *passed.written[2:]

    def kept(self, tensors: Sequence[Any], results: Sequence[Tensor]) -> Sequence[Maybe]:
        weight = tensors[1]
        output = results[0] if weight.requires_grad else None
        return weight, output, *to_be_saved([*[tensors[0]] * self.kind.form.inputs, *tensors[3:]], results, self.kind)

    def back(self, kept: Sequence[Any], grads: Sequence[Maybe], wanted: Sequence[bool]) -> Sequence[Maybe]:
        weight, output, *saved = kept
        constants, read = saved[: self.kind.form.constants], saved[self.kind.form.constants :]
        g_output = weight.new_zeros(self.shape) if grads[0] is None else grads[0]
        ends = [weight.new_zeros(self.shape[1:]) if g is None else g for g in grads[2 : 2 + self.kind.form.states]]
        passed = gpu_loop.run(plan_of(self.kind).back[True], [g_output, *read], ends, constants, weight)
        g_x = passed.written[0]
        heard = g_x[1:].flatten(0, 1)
        g_weight = heard.T @ output[:-1].flatten(0, 1) if wanted[1] else None
        by_constants = by_constant(over_samples(passed.sums), constants, self.kind.wanted)
        return g_x, g_weight, heard.sum(0) if wanted[2] else None, *passed.state.unbind(0), *by_constants
