"""What the fused operations have in place of a second derivative: a refusal that says what to do."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


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


def once_differentiable(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """For the `backward` of a fused operation, of which the first saved tensor is an `anchor`.

    It runs without grad, and with `create_graph` whoever goes on from its gradients cannot take them for constants.
    """

    def decorate(backward: Callable[..., Any]) -> Callable[..., Any]:
        def once(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
            with torch.no_grad():
                gradients: tuple[Tensor | None, ...] = backward(ctx, *grads)
            if torch.is_grad_enabled():
                return differentiable_once(gradients, what, ctx.saved_tensors[0], *grads)
            return gradients

        return once

    return decorate


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
