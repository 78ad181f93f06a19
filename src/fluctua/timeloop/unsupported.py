"""What none of the fused engines supports."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from fluctua.timeloop.contract import LoopParameters
from fluctua.timeloop.surrogates import SHAPES


def unsupported_numbers(current: Tensor, constants: Sequence[Tensor], parameters: LoopParameters) -> str | None:
    """Why an engine with loops in float32 and float64 does not support a request, or None where it does.

    Args:
        current: `[T, B, *N]`.
        constants: those that the population has.
        parameters: of the population.
    """
    if current.dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 and float64, not {current.dtype}"
    if any(c.dtype != current.dtype for c in constants):
        return f"a constant is not of the current's type {current.dtype}"
    if not all(_broadcasts(c.shape, current.shape[2:]) for c in constants):
        return f"a constant does not broadcast to the population's shape {tuple(current.shape[2:])}"
    if parameters.spiking and type(parameters.surrogate) not in SHAPES:
        return f"it does not know the surrogate {type(parameters.surrogate).__name__}"
    return None


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
