"""What the fused engines refuse alike: kinds of numbers that none of them serves, and second derivatives."""

from collections.abc import Container, Sequence
from typing import Any

import torch
from torch import Tensor

from fluctua.timeloop.contract import LoopParameters
from fluctua.timeloop.surrogates import Surrogate


def refusal_of_numbers(
    current: Tensor, constants: Sequence[Tensor], parameters: LoopParameters, known: Container[type[Surrogate]]
) -> str | None:
    """Why an engine with loops in float32 and float64, and for the `known` surrogates, cannot serve a request.

    Args:
        current: `[T, B, *N]`.
        constants: those that the population has.
        parameters: of the population.
        known: surrogates that the engine has a loop for.
    """
    if current.dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 and float64, not {current.dtype}"
    if any(c.dtype != current.dtype for c in constants):
        return f"a constant is not of the current's type {current.dtype}"
    if not all(_broadcasts(c.shape, current.shape[2:]) for c in constants):
        return f"a constant does not broadcast to the population's shape {tuple(current.shape[2:])}"
    if parameters.spiking and type(parameters.surrogate) not in known:
        return f"it does not know the surrogate {type(parameters.surrogate).__name__}"
    return None


def differentiable_once(gradients: Sequence[Tensor | None], what: str) -> tuple[Tensor | None, ...]:
    """The gradients, for whoever goes on from them with `create_graph`: who differentiates them again is refused."""
    attached = (g if g is None else g.requires_grad_() for g in gradients)
    once: tuple[Tensor | None, ...] = _Once.apply(what, *attached)  # type: ignore[no-untyped-call]
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


class _Once(torch.autograd.Function):
    """Identity that refuses to be differentiated; torch's `once_differentiable` lets constant gradients through."""

    @staticmethod
    def forward(ctx: Any, what: str, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.what = what
        return tuple(g if g is None else g.view_as(g) for g in gradients)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> None:
        refuse_second_derivative(ctx.what)


def _broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    return len(shape) <= len(to) and all(m in (1, n) for m, n in zip(reversed(shape), reversed(to), strict=False))
