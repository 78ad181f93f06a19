"""The fused operations as torch sees them: the numbers they serve, a forward, and a backward without a derivative."""

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from fluctua.timeloop.contract import Dynamics, Step, Tensors, constant_when_compiled
from fluctua.timeloop.tracing import traced, untraceable

Maybe = Tensor | None


def unsupported_numbers(inputs: Tensors, dynamics: Dynamics, neurons: torch.Size | None) -> str | None:
    """Why an engine with loops in float32 and float64 does not support a request, or None if it does.

    Args:
        inputs: each `[T, B, *N]`.
        dynamics: of the population.
        neurons: its shape, by default that of the inputs.
    """
    if not torch.compiler.is_compiling() and torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        return "torch.jit traces the network, and sees only plain operations"
    current = inputs[0]
    neurons = current.shape[2:] if neurons is None else neurons
    if any(is_special(tensor) for tensor in (*inputs, *dynamics.constants)):
        return "it takes plain tensors, not subclasses, sparse or dual tensors, nor those of torch.func"
    if current.dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 and float64, not {current.dtype}"
    if any(t.dtype != current.dtype for t in (*inputs, *dynamics.constants)):
        return f"a constant is not of the current's type {current.dtype}"
    if not all(_broadcasts(c.shape, neurons) for c in dynamics.constants):
        return f"a constant does not broadcast to the population's shape {tuple(neurons)}"
    return _untraceable(*dynamics.form)


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@constant_when_compiled
def _untraceable(step: Step | str, inputs: int, states: int, constants: int) -> str | None:
    return untraceable(step, inputs, states, constants)


def gives_spikes(dynamics: Dynamics) -> bool:
    """Whether the output of a neuron is 0 or 1, by a threshold; False if its step cannot be traced."""
    return untraceable(*dynamics.form) is None and traced(*dynamics.form).fired is not None


@constant_when_compiled
def has_potential(step: Step | str, inputs: int, states: int, constants: int) -> bool:
    """Whether the potential of a neuron is not its output itself."""
    return traced(step, inputs, states, constants).separate


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


class Operation(ABC):
    """An operation to be fused, with everything it knows besides tensors."""

    @property
    @abstractmethod
    def called(self) -> str:
        """Its name, in messages."""

    @property
    def differentiable(self) -> Collection[int]:
        """Numbers of the results that have a gradient."""
        return (0,)

    @abstractmethod
    def forth(self, tensors: Sequence[Any]) -> Sequence[Tensor]:
        """The results, and what backward may need."""

    @abstractmethod
    def kept(self, tensors: Sequence[Any], results: Sequence[Tensor]) -> Sequence[Maybe]:
        """What backward needs."""

    @abstractmethod
    def back(self, kept: Sequence[Any], grads: Sequence[Any], wanted: Sequence[bool]) -> Sequence[Maybe]:
        """Gradients with respect to all tensors, those not wanted do not matter."""


def apply(operation: Operation, tensors: Sequence[Maybe]) -> tuple[Tensor, ...]:
    """The results of an operation, as a node of autograd's graph."""
    results: tuple[Tensor, ...] = _Fused.apply(operation, _anchor(tensors), *tensors)  # type: ignore[no-untyped-call]
    return results


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(operation: Operation, tied: Tensor, *tensors: Maybe) -> tuple[Tensor, ...]:
        return tuple(operation.forth(tensors))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.operation, tied, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(t for k, t in enumerate(output) if k not in ctx.operation.differentiable))
        ctx.save_for_backward(tied, *ctx.operation.kept(tensors, output))

    @staticmethod
    def backward(ctx: Any, *grads: Maybe) -> tuple[Maybe, ...]:
        tied, *kept = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        if all(g is None for g in grads):
            return tuple([None] * (2 + len(wanted)))
        with torch.no_grad():
            found = ctx.operation.back(kept, grads, wanted)
        gradients: Sequence[Maybe] = [g if asked else None for g, asked in zip(found, wanted, strict=True)]
        if torch.is_grad_enabled():  # create_graph: they must not pass for constants
            gradients = _Once.apply(ctx.operation.called, 1 + len(grads), tied, *grads, *gradients)  # type: ignore[no-untyped-call]
        return None, None, *gradients


def _anchor(tensors: Sequence[Maybe]) -> Tensor:
    """An empty tensor that depends on all of these in autograd's graph, in place of tensors that are not kept."""
    tied: Tensor = _Anchor.apply(*tensors)  # type: ignore[no-untyped-call]
    return tied


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
    def forward(ctx: Any, *tensors: Maybe) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.tensors = len(tensors)
        return next(t for t in tensors if t is not None).new_empty(0)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[None, ...]:
        return tuple([None] * ctx.tensors)


class _Once(torch.autograd.Function):
    """Passes gradients on and refuses to differentiate them by the first `n_of` tensors, which they depend on.

    Torch's `once_differentiable` accepts constant gradients, and treats a derivative wrt unsaved tensors as zero.
    """

    @staticmethod
    def forward(ctx: Any, what: str, n_of: int, *tensors: Maybe) -> tuple[Maybe, ...]:
        ctx.what = what
        return tuple(g if g is None else g.view_as(g) for g in tensors[n_of:])

    @staticmethod
    def backward(ctx: Any, *_: Any) -> None:
        refuse_second_derivative(ctx.what)
