"""Move what depends only on constants out of a step, so that torch computes it once, with torch's rounding."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fluctua.timeloop.evaluation import Evaluation, by_leaf
from fluctua.timeloop.expressions import Expression, Graph, Value, replaced, walk
from fluctua.timeloop.tracing import Traced

_ROUNDED = frozenset({"exp", "log", "sqrt", "sigmoid", "tanh", "erf", "sin", "cos"})
"""Operations whose last bit depends on the implementation."""


def hoisted(t: Traced) -> tuple[Traced, list[Expression]]:
    """A step whose constants are the hoisted values, and these as expressions of its former constants."""
    roots = t.ends
    outer = [e for e in walk(roots) if e.op in _ROUNDED and e.leaves == {"constant"}]
    inner = {a for e in outer for a in walk([e]) if a is not e}
    taken = [e for e in outer if e not in inner]
    named = {e.args[1] for e in walk(roots, taken) if e.op == "leaf" and e.args[0] == "constant"}
    trained = {k for k, gradient in enumerate(t.by_constant) if isinstance(gradient, Expression)}
    remaining = [t.leaf("constant", k) for k in sorted(named | trained)]
    constants = [*remaining, *taken] or [t.leaf("constant", 0)]
    graph = Graph()
    leaves = {e: graph.leaf(*e.args) for e in walk(roots, taken) if e.op == "leaf" and e.args[0] != "constant"}
    known: dict[Expression, Value] = {**leaves, **{e: graph.leaf("constant", k) for k, e in enumerate(constants)}}

    def new(values: Sequence[Value]) -> tuple[Value, ...]:
        return tuple(replaced(graph, values, known))

    (output,), by_constant = new([t.output]), [t.by_constant[e.args[1]] if e.op == "leaf" else 0.0 for e in constants]
    state, by_input, by_state = (new(values) for values in (t.state, t.by_input, t.by_state))
    return Traced(graph, t.inputs, output, state, by_input, by_state, new(by_constant)), constants


def constants_of(expressions: Sequence[Expression], given: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The constants of a hoisted step, from the former ones. Only unchanged constants have a gradient."""
    leaves = by_leaf(constant=given)
    with torch.no_grad():
        found = Evaluation(expressions)(leaves) if expressions else []
    return tuple(leaves[e.args] if e.op == "leaf" else value for e, value in zip(expressions, found, strict=True))
