"""Expressions evaluated by torch: what a step does, without a loop."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from fluctua.timeloop.expressions import Expression, Value, walk

Item = TypeVar("Item")


def by_leaf(**kinds: Sequence[Item]) -> dict[tuple[str, int], Item]:
    """What belongs to each leaf of these kinds, in order: `by_leaf(state=[u, w])`."""
    return {(kind, k): item for kind, items in kinds.items() for k, item in enumerate(items)}


class Evaluation:
    """How expressions are computed one after the other, read once for all steps."""

    def __init__(self, roots: Sequence[Value]) -> None:
        order = walk(roots)
        leaves = [e for e in order if e.op == "leaf"]
        made = [e for e in order if e.op != "leaf"]
        numbers = [v for v in (*roots, *(a for e in made for a in e.args)) if not isinstance(v, Expression)]
        places = {id(v): k for k, v in enumerate((*leaves, *numbers, *made))}
        self._leaves, self._numbers = [e.args for e in leaves], numbers
        self._calls = [(e.op, [places[id(a)] for a in e.args]) for e in made]
        self._roots = [places[id(v)] for v in roots]
        self._alive = order  # an id stays that of its value

    def __call__(self, leaves: Mapping[tuple[str, int], Tensor]) -> list[Tensor]:
        """The values for these leaves, all of one type, and of shapes that broadcast.

        A value has the shape of what it depends on, and so the rounding, as if torch had not been traced.
        """
        like = next(iter(leaves.values()))
        values = [leaves[leaf] for leaf in self._leaves]
        values += [torch.full((), number, dtype=like.dtype, device=like.device) for number in self._numbers]
        for op, places in self._calls:
            arguments = [values[k] for k in places]
            values.append(arguments[0].to(like.dtype) if op == "float" else _OPERATIONS[op](*arguments))
        return [values[k] for k in self._roots]


_OPERATIONS: dict[str, Callable[..., Tensor]] = {
    **{name: getattr(torch, name) for name in ("add", "sub", "mul", "div", "neg", "abs", "exp", "log", "sqrt")},
    **{name: getattr(torch, name) for name in ("sigmoid", "tanh", "erf", "sin", "cos", "round", "floor", "trunc")},
    **{name: getattr(torch, name) for name in ("gt", "ge", "lt", "le", "eq", "ne")},
    **{op: getattr(torch, f"logical_{op}") for op in ("and", "or", "not")},
    "select": torch.where,
    "max": torch.maximum,
    "min": torch.minimum,
}
