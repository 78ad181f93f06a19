"""A step of which nothing is left but its trace: it runs as any other, and equal ones are one neuron."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fluctua.timeloop.contract import Tensors
from fluctua.timeloop.expressions import Expression, walk
from fluctua.timeloop.tracing import Traced


@dataclass(frozen=True)
class Followed:
    """A step that was followed already, of which nothing is left but its trace. Equal ones do the same.

    Attributes:
        text: all that it does.
        traced: the trace.
    """

    text: str
    traced: Traced = field(compare=False, repr=False)

    @classmethod
    def of(cls, traced: Traced) -> "Followed":
        """Of a trace."""
        numbers = {e: f"e{k}" for k, e in enumerate(walk(traced.ends))}

        def said(a: Any) -> str:
            return numbers[a] if isinstance(a, Expression) else repr(a)

        lines = [f"{name} = {e.op}({', '.join(map(said, e.args))})" for e, name in numbers.items()]
        return cls("\n".join([*lines, ", ".join(map(said, traced.ends))]), traced)

    def __call__(self, inputs: Tensors, state: Tensors, constants: Tensors) -> tuple[Tensor, Tensors]:
        output, *after = _Evaluated.apply(self.traced, *inputs, *state, *constants)  # type: ignore[no-untyped-call]
        return output, tuple(after)


class _Evaluated(torch.autograd.Function):
    """One step, and its adjoint, as they were followed."""

    @staticmethod
    def forward(ctx: Any, traced: Traced, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.traced, ctx.shapes = traced, [t.shape for t in tensors]
        with torch._C.DisableTorchFunction():  # no code but ours: whoever follows the call has seen it
            given = torch.broadcast_tensors(*tensors)  # type: ignore[no-untyped-call]
            found = traced.evaluations[0](traced.leaves_of(given))
            ctx.save_for_backward(*given)
            return tuple(value.expand_as(given[0]).clone() for value in found)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        t, given = ctx.traced, ctx.saved_tensors
        with torch._C.DisableTorchFunction():
            found = t.evaluations[1](t.leaves_of(given, grads))
            return None, *(g.expand_as(given[0]).sum_to_size(shape) for g, shape in zip(found, ctx.shapes, strict=True))
