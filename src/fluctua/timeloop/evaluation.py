"""Expressions evaluated by torch: what a step does, without a loop."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fluctua.timeloop.expressions import Expression, Value, walk


def evaluated(roots: Sequence[Value], leaves: Mapping[tuple[str, int], Tensor]) -> list[Tensor]:
    """The values of expressions for these leaves, all of one type, and of shapes that broadcast.

    A value has the shape of what it depends on, and so the rounding, as if torch had not been traced.
    """
    like = next(iter(leaves.values()))
    found: dict[Expression, Any] = {}

    def value(e: Value) -> Any:
        return found[e] if isinstance(e, Expression) else torch.full((), e, dtype=like.dtype, device=like.device)

    for e in walk(roots):
        if e.op == "leaf":
            found[e] = leaves[e.args]
        elif e.op == "float":
            found[e] = value(e.args[0]).to(like.dtype)
        else:
            found[e] = _OPERATIONS[e.op](*(value(a) for a in e.args))
    return [value(e) for e in roots]


_OPERATIONS: dict[str, Callable[..., Tensor]] = {
    **{name: getattr(torch, name) for name in ("add", "sub", "mul", "div", "neg", "abs", "exp", "log", "sqrt")},
    **{name: getattr(torch, name) for name in ("sigmoid", "tanh", "erf", "sin", "cos", "round", "floor", "trunc")},
    **{name: getattr(torch, name) for name in ("gt", "ge", "lt", "le", "eq", "ne")},
    "and": torch.logical_and,
    "or": torch.logical_or,
    "not": torch.logical_not,
    "select": torch.where,
    "max": torch.maximum,
    "min": torch.minimum,
}
