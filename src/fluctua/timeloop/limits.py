"""The numbers that the fused operations do not serve."""

import os

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from fluctua.timeloop.contract import Dynamics, constant_when_compiled
from fluctua.timeloop.steps import Step, Tensors
from fluctua.timeloop.tracing import traced, untraceable


def unsupported_numbers(inputs: Tensors, dynamics: Dynamics, neurons: torch.Size | None) -> str | None:
    """Why an engine with loops in float32 and float64 does not support a request, or None where it does.

    Args:
        inputs: each `[T, B, *N]`.
        dynamics: of the population.
        neurons: its shape, by default that of the inputs.
    """
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
    """Whether the output of a neuron is 0 or 1, by a threshold; not where its step cannot be traced."""
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
