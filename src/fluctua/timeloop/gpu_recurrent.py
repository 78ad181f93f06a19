"""The fused loop on the GPU of a population that hears itself through a dense weight, one step late.

Forward and backward integrate step by step in Triton (see `gpu_source.py`); the gradient of the weight is one product
over all steps and samples, made by torch after the loop.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fluctua.timeloop.contract import Dynamics, LoopResult
from fluctua.timeloop.derivation import Kind, adjoint, integrate, to_be_saved
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
        return integrate(self._without_heard(tensors), self.kind, tensors[1:3])

    def kept(self, tensors: Sequence[Any], results: Sequence[Tensor]) -> Sequence[Maybe]:
        # What a neuron hears is part of its first input, so inputs are recorded where the way back reads them.
        weight, output = tensors[1], results[0]
        saved = to_be_saved(self._without_heard(tensors), results, self.kind)
        return weight, output if weight.requires_grad else None, *saved

    def back(self, kept: Sequence[Any], grads: Sequence[Maybe], wanted: Sequence[bool]) -> Sequence[Maybe]:
        weight, output, *saved = kept
        g_state = grads[2 : 2 + self.kind.form.states]
        g_x, *others = adjoint(grads[0], g_state, saved, self.shape, True, self.kind, [weight])
        assert g_x is not None
        heard = g_x[1:].flatten(0, 1)
        g_weight = heard.T @ output[:-1].flatten(0, 1) if wanted[1] else None
        return g_x, g_weight, heard.sum(0) if wanted[2] else None, *others[self.kind.form.inputs - 1 :]

    def _without_heard(self, tensors: Sequence[Any]) -> list[Tensor]:
        """Inputs, of which but the first there is nothing, state and constants."""
        x, _, _, *others = tensors
        return [x, *(torch.zeros_like(x) for _ in range(self.kind.form.inputs - 1)), *others]
