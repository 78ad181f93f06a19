"""Write the expressions of a step as straight-line Python, for numba's vectors or for Triton."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from fluctua.timeloop.expressions import Expression, Value, walk
from fluctua.timeloop.tracing import Traced

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "gt": ">", "ge": ">=", "lt": "<", "le": "<="} | {
    "eq": "==", "ne": "!=", "and": "&", "or": "|",
}  # fmt: skip
_MIRRORED = {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge", "eq": "eq", "ne": "ne"}
_PLAIN = (0.0, 1.0, 2.0, -1.0, 0.5)  # numbers written as literals; others are arguments, so that they may change


Dialect = dict[str, str]
"""How a language writes operations other than operators; `{0}` is the first operand.

One with the form "mul_add" may round a product and a sum once.
"""

NUMBA: Dialect = {
    "neg": "-{0}",
    "not": "~{0}",
    "abs": "absolute({0})",
    "float": "select({0}, one, zero)",
    "select": "select({0}, {1}, {2})",
    "max": "larger({0}, {1})",
    "min": "smaller({0}, {1})",
    "mul_add": "mul_add({0}, {1}, {2})",
    **{op: op + "_of({0})" for op in ("exp", "log", "sqrt", "sigmoid", "tanh", "erf", "sin", "cos")},
    **{op: op + "_of({0})" for op in ("round", "floor", "trunc")},
}

_TRITON: Dialect = {
    "neg": "-{0}",
    "not": "~{0}",
    "abs": "tl.abs({0})",
    "float": "{0}.to(zero.dtype)",
    "select": "tl.where({0}, {1}, {2})",
    "max": "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "min": "tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "sigmoid": "1 / (1 + tl.exp(-{0}))",
    "tanh": "libdevice.tanh({0})",
    "round": "libdevice.rint({0})",
    "trunc": "libdevice.trunc({0})",
} | {op: f"tl.{op}({{0}})" for op in ("exp", "log", "sqrt", "erf", "sin", "cos", "floor")}


def triton_dialect(dtype: str) -> Dialect:
    """The dialect of Triton, whose fast float32 quotient and root are not rounded as in torch."""
    exact = {"div": "tl.div_rn({0} + zero, {1} + zero)", "sqrt": "tl.sqrt_rn({0})"} if dtype == "float32" else {}
    return _TRITON | exact


@dataclass(frozen=True, eq=False)
class Pass:
    """A neuron's way through time, forward or backward: all that a shell knows about it.

    Attributes:
        traced: the step.
        forth: whether time runs forward. No operation is then fused with another, so that spikes equal torch's.
        read: what is read: inputs, or the gradient wrt the output and records; leaves "half" in bfloat16.
        before: the state before a step.
        after: the state after it.
        written: what is written, each to its own array.
        halves: how many of these, the last ones, are written in bfloat16.
        sums: what is summed over time.
    """

    traced: Traced
    forth: bool
    read: tuple[Expression, ...]
    before: tuple[Expression, ...]
    after: tuple[Value, ...]
    written: tuple[Value, ...]
    halves: int = 0
    sums: tuple[Value, ...] = ()

    @classmethod
    def onward(cls, t: Traced, records: Sequence[Value], halves: int = 0) -> "Pass":
        """The step itself, with these records, `halves` of them in bfloat16."""
        inputs, before = (t.leaves(kind, n) for kind, n in (("input", t.inputs), ("state", len(t.state))))
        return cls(t, True, inputs, before, t.state, tuple(records), halves)

    @classmethod
    def back(cls, t: Traced, gradients: Sequence[Value], read: Sequence[Expression], writes: int) -> "Pass":
        """The adjoint: `gradients` as in `Traced.roots`; those wrt the first `writes` inputs are written."""
        n, m = t.inputs, t.inputs + len(t.state)
        g_output, *before = t.leaves("gradient", 1 + len(t.state))
        after, written, sums = (tuple(gradients[part]) for part in (slice(n, m), slice(writes), slice(m, None)))
        return cls(t, False, (g_output, *read), tuple(before), after, written, sums=sums)


class Passed(NamedTuple):
    """The result of a pass: arrays written, final state `[S, B, *N]`, and sums likewise."""

    written: list[Tensor]
    state: Tensor
    sums: Tensor


class Body:
    """The lines of one step of a pass, from `r0, s0, c0, n0, ...`: what is read, the state, constants and numbers.

    Attributes:
        numbers: of the step that are arguments of a kernel, so that surrogates share code.
        lines: the code.
        after: names of the results, as in the fields of `Pass`; likewise `written` and `sums`.
        fired: name of the comparison that makes spikes.
    """

    def __init__(self, way: Pass, dialect: Dialect) -> None:
        mask = way.traced.fired if way.forth else None
        roots = [*way.after, *way.written, *way.sums, *([] if mask is None else [mask])]
        self.numbers = _literals(roots)
        self.constants = len(way.traced.by_constant)
        constants = way.traced.leaves("constant", self.constants)
        given = {"r": way.read, "s": way.before, "c": constants}
        known = {e: f"{name}{k}" for name, group in given.items() for k, e in enumerate(group)}
        w = Writer(dialect, known, {value: f"n{k}" for k, value in enumerate(self.numbers)})
        w.write(*roots, fused=not way.forth)
        self.lines = w.lines
        groups = way.after, way.written, way.sums
        self.after, self.written, self.sums = ([w.name(value) for value in group] for group in groups)
        self.fired = None if mask is None else w.mask(mask)


def names(prefix: str, count: int) -> list[str]:
    """Such as `x0, x1`."""
    return [f"{prefix}{k}" for k in range(count)]


def _literals(roots: Sequence[Value]) -> list[float]:
    made = [e for e in walk(roots) if e.op != "leaf"]
    plain = [value for value in (*roots, *(a for e in made for a in e.args)) if not isinstance(value, Expression)]
    return list(dict.fromkeys(float(value) for value in plain if value not in _PLAIN))


class Writer:
    """Lines that compute expressions, each once.

    Args:
        dialect: the language.
        known: names of existing values.
        numbers: names of the numbers that are not literals.
    """

    def __init__(self, dialect: Dialect, known: dict[Expression, str], numbers: dict[float, str]) -> None:
        self.lines: list[str] = []
        self._dialect, self._names, self._numbers = dialect, dict(known), numbers

    def write(self, *roots: Value, fused: bool = False) -> None:
        """Add what the roots need; `fused` lets a product and its sum be rounded once."""
        order = walk(roots, self._names)
        uses = [a for e in order for a in e.args] + [*roots]
        fused = fused and "mul_add" in self._dialect
        single = {id(a) for a in uses if sum(a is b for b in uses) == 1} if fused else set()
        exact = {id(e) for mask in order if mask.is_mask for e in walk(mask.args)}
        hidden: set[int] = set()
        for e in order:
            if e.op == "add" and id(e) not in exact:
                product = next((a for a in e.args if _is_product(a) and id(a) in single and a not in self._names), None)
                if product is not None:
                    hidden.add(id(product))
        for e in order:
            if id(e) not in hidden:
                self._names[e] = f"v{len(self._names)}"
                self.lines.append(f"{self._names[e]} = {self._right(e, hidden)}")

    def name(self, value: Value) -> str:
        """The name of a value that is written, as a vector."""
        if not isinstance(value, Expression):
            plain = {0.0: "zero", 1.0: "one"}.get(value)
            return plain or self._numbers.get(value) or f"({value!r} * one)"
        return self._dialect["float"].format(self._names[value]) if value.is_mask else self._names[value]

    def mask(self, value: Value) -> str:
        """The name of a comparison that is written."""
        assert isinstance(value, Expression)
        return self._names[value]

    def _operand(self, value: Value) -> str:
        if isinstance(value, Expression):
            return self._names[value]
        return self._numbers.get(value) or repr(value)

    def _right(self, e: Expression, hidden: set[int]) -> str:
        if e.op in _INFIX and e.op not in self._dialect:
            a, b = e.args
            product = next((x for x in (a, b) if id(x) in hidden), None)
            if product is not None:
                other = b if product is a else a
                return self._dialect["mul_add"].format(*(self.name(x) for x in (*product.args, other)))
            op = e.op
            if op in _MIRRORED and not isinstance(a, Expression):
                a, b, op = b, a, _MIRRORED[op]
            return f"{self._operand(a)} {_INFIX[op]} {self._operand(b)}"
        takes_masks = e.op in ("not", "float", "select")
        first, *rest = e.args
        operands = [self.mask(first) if takes_masks else self.name(first), *(self.name(a) for a in rest)]
        return self._dialect[e.op].format(*operands)


def _is_product(value: Value) -> bool:
    return isinstance(value, Expression) and value.op == "mul"
