"""A neuron's step as expressions: what the tracer records and the emitters write out."""

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias, Union

Value: TypeAlias = Union["Expression", float]

UNKNOWN = "unknown"  # operation for what cannot be expressed; its argument says why
_MASKS = frozenset({"gt", "ge", "lt", "le", "eq", "ne", "and", "or", "not"})
_MOST = 3  # largest number of records tried together
_OF_NUMBERS: dict[str, Callable[..., Any]] = {
    **{op: getattr(operator, op) for op in ("add", "sub", "mul", "neg", "abs")},
    "div": operator.truediv,
    "exp": math.exp,
    "sqrt": math.sqrt,
}


@dataclass(frozen=True, eq=False)
class Expression:
    """One value of a step, lane by lane. Two expressions of a graph are equal only if they are the same object.

    Attributes:
        op: "leaf", or the operation on the arguments.
        args: for a leaf its kind and number, such as ("state", 0).
        leaves: the kinds of leaves that it depends on.
    """

    op: str
    args: tuple[Any, ...]
    leaves: frozenset[str]

    @property
    def is_mask(self) -> bool:
        """Whether it is a truth value per lane."""
        return self.op in _MASKS


class Graph:
    """Expressions of one step; equal ones are made once."""

    def __init__(self) -> None:
        self._made: dict[Any, Expression] = {}

    def leaf(self, kind: str, number: int) -> Expression:
        """An input of the step: "input", "state", "constant" or "gradient"."""
        return self._once("leaf", (kind, number), frozenset([kind]))

    def unknown(self, why: str) -> Expression:
        """A value that cannot be expressed and must not be requested."""
        return self._once(UNKNOWN, (why,), frozenset())

    def __call__(self, op: str, *args: Value) -> Value:
        """The expression, simplified if that changes no bit of a finite number."""
        if op == "mul" and 0.0 in args and any(isinstance(a, Expression) and a.op == UNKNOWN for a in args):
            return 0.0  # such as noise of size zero
        if op in ("add", "sub", "mul", "div", "neg", "abs"):  # arithmetic treats truth as 1
            args = tuple(self("float", a) if isinstance(a, Expression) and a.is_mask else a for a in args)
            masks = [a.args[0] for a in args if isinstance(a, Expression) and a.op == "float"]
            if op == "mul" and len(masks) == 2:
                return self("float", self("and", *masks))
            if op == "sub" and masks and args[0] == 1.0:
                return self("float", self("not", *masks))
        if not any(isinstance(a, Expression) for a in args) and op in _OF_NUMBERS:
            return float(_OF_NUMBERS[op](*args))
        neutral = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0}.get(op)
        if neutral is not None and args[1] == neutral:
            return args[0]
        if op in ("add", "mul") and args[0] == neutral:
            return args[1]
        if op == "float" and not (isinstance(args[0], Expression) and args[0].is_mask):
            return args[0]
        if op == "neg" and isinstance(args[0], Expression) and args[0].op == "neg":
            inner: Value = args[0].args[0]
            return inner
        if op == "add" and isinstance(args[1], Expression) and args[1].op == "neg":
            return self("sub", args[0], args[1].args[0])
        if op == "select" and args[1] is args[2]:
            return args[1]
        return self._once(op, args, frozenset[str]().union(*(a.leaves for a in args if isinstance(a, Expression))))

    def _once(self, op: str, args: tuple[Any, ...], leaves: frozenset[str]) -> Expression:
        key = op, *(("is", id(a)) if isinstance(a, Expression) else a for a in args)
        if key not in self._made:
            self._made[key] = Expression(op, args, leaves)
        return self._made[key]


def walk(roots: Iterable[Value], known: Iterable[Value] = ()) -> list[Expression]:
    """All expressions under the roots, each after its arguments, stopping at known ones."""
    seen = {id(e) for e in known}
    out: list[Expression] = []

    def visit(e: Value) -> None:
        if isinstance(e, Expression) and id(e) not in seen:
            seen.add(id(e))
            if e.op != "leaf":
                for a in e.args:
                    visit(a)
            out.append(e)

    for root in roots:
        visit(root)
    return out


def replaced(graph: Graph, roots: Sequence[Value], known: Mapping[Expression, Value]) -> list[Value]:
    """The roots with some expressions replaced."""
    new: dict[Expression, Value] = dict(known)
    for e in walk(roots, known):
        arguments = [new.get(a, a) if isinstance(a, Expression) else a for a in e.args]
        new[e] = e if e.op == "leaf" else graph(e.op, *arguments)
    return [new[root] if isinstance(root, Expression) else root for root in roots]


def cheapest_records(roots: Sequence[Value], cost: Callable[[Expression], float]) -> tuple[Expression, ...]:
    """What forward should keep, so that the roots can be computed from it, constants and gradients.

    Args:
        roots: of backward.
        cost: of storing a value of each step and reading it again.
    """
    nodes = walk(roots)
    kept_anyway = {"constant", "gradient", "half"}
    before = [e for e in nodes if "gradient" not in e.leaves and not e.leaves <= kept_anyway and not e.is_mask]
    costs = {e: cost(e) for e in before}

    def enough(records: tuple[Expression, ...]) -> bool:
        return all(e.op != "leaf" or e.args[0] in kept_anyway for e in walk(roots, records))

    best = tuple(e for e in before if e.op == "leaf")  # from which the whole step can be recomputed
    least = sum(costs[e] for e in best)
    for size in range(min(len(before), _MOST) + 1):
        if size * min(costs.values(), default=0.0) >= least:
            break
        for records in combinations(before, size):
            total = sum(costs[e] for e in records)
            if total < least and enough(records):
                best, least = records, total
    return best
