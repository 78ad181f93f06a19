"""What the fused operations do not do: the numbers that they do not serve, and second derivatives."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from fluctua.timeloop.contract import Dynamics, constant_when_compiled
from fluctua.timeloop.steps import Step, Tensors
from fluctua.timeloop.tracing import traced, untraceable


def unsupported_numbers(inputs: Tensors, dynamics: Dynamics) -> str | None:
    """Why an engine with loops in float32 and float64 does not support a request, or None where it does.

    Args:
        inputs: each `[T, B, *N]`.
        dynamics: of the population.
    """
    current = inputs[0]
    if any(is_special(tensor) for tensor in (*inputs, *dynamics.constants)):
        return "it takes plain tensors, not subclasses, sparse or dual tensors, nor those of torch.func"
    if current.dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 and float64, not {current.dtype}"
    if any(t.dtype != current.dtype for t in (*inputs, *dynamics.constants)):
        return f"a constant is not of the current's type {current.dtype}"
    if not all(_broadcasts(c.shape, current.shape[2:]) for c in dynamics.constants):
        return f"a constant does not broadcast to the population's shape {tuple(current.shape[2:])}"
    return _untraceable(dynamics.step, dynamics.inputs, dynamics.states, len(dynamics.constants))


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@constant_when_compiled
def _untraceable(step: Step | str, inputs: int, states: int, constants: int) -> str | None:
    return untraceable(step, inputs, states, constants)


def gives_spikes(dynamics: Dynamics) -> bool:
    """Whether the output of a neuron is 0 or 1, by a threshold; not where its step cannot be traced."""
    sizes = dynamics.step, dynamics.inputs, dynamics.states, len(dynamics.constants)
    return untraceable(*sizes) is None and traced(*sizes).fired is not None


@constant_when_compiled
def has_potential(step: Step | str, inputs: int, states: int, constants: int) -> bool:
    """Whether the potential of a neuron is not its output itself."""
    followed = traced(step, inputs, states, constants)
    return followed.output is not followed.potential


def is_special(tensor: Tensor) -> bool:
    """Whether a tensor is more than numbers in memory: a subclass, sparse, dual, or inside a transformation."""
    if torch.compiler.is_compiling():
        return tensor.layout != torch.strided
    return (
        type(tensor) not in (Tensor, Parameter)
        or tensor.layout != torch.strided
        or torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        or forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]
    )


def _broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    return len(shape) <= len(to) and all(m in (1, n) for m, n in zip(reversed(shape), reversed(to), strict=False))


def anchor(tensors: Sequence[Tensor | None]) -> Tensor:
    """A tensor without elements that hangs on all of these in autograd's graph, for `differentiable_once`."""
    tied: Tensor = _Anchor.apply(*tensors)  # type: ignore[no-untyped-call]
    return tied


def differentiable_once(gradients: Sequence[Tensor | None], what: str, *of: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradients, for whoever goes on from them with `create_graph`: who differentiates them again is refused.

    Args:
        gradients: that a fused operation has computed.
        what: the operation.
        of: all that they depend on, an `anchor` in place of what is not kept. Without these a derivative with respect
            to them would be taken for zero.
    """
    once: tuple[Tensor | None, ...] = _Once.apply(what, len(of), *of, *gradients)  # type: ignore[no-untyped-call]
    return once


def refuse_second_derivative(what: str) -> None:
    """Say that a fused operation has a first derivative only.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(
        f"{what} can be differentiated only once; for second derivatives run the network "
        "within `with fluctua.timeloop.engine('reference'):`"
    )


class _Anchor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tensors: Tensor | None) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.tensors = len(tensors)
        return next(t for t in tensors if t is not None).new_empty(0)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[None, ...]:
        return tuple([None] * ctx.tensors)


class _Once(torch.autograd.Function):
    """Identity that refuses to be differentiated; torch's `once_differentiable` lets constant gradients through."""

    @staticmethod
    def forward(ctx: Any, what: str, n_of: int, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.what = what
        return tuple(g if g is None else g.view_as(g) for g in tensors[n_of:])

    @staticmethod
    def backward(ctx: Any, *_: Any) -> None:
        refuse_second_derivative(ctx.what)
