"""Files for numba: a shell of `cpu_shells.py` with a neuron's step, or its adjoint, written into it.

All is written into one function: numba takes as long for each small function as for the lines of a whole step.
"""

import ast
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluctua import simd
from fluctua.simd.compiling import edition
from fluctua.timeloop import generated
from fluctua.timeloop.emitting import NUMBA, Body, Pass, names


@dataclass(frozen=True, eq=False)
class Kernel:
    """Machine code, and its arguments among the step's numbers, so that surrogates share code."""

    call: Callable[..., None]
    numbers: NDArray[Any]


_HEAD = '''"""Written by fluctua from a neuron's step."""
import numpy as np

from fluctua.simd.compiling import generated
from fluctua.simd.memory import *
from fluctua.simd.vectors import *
from fluctua.spikes.bits import SLACK, rows_of, sample_rows
'''


_AHEAD = {False: "+ 512", True: "- 4 * strides[{0}]"}
"""What to prefetch: columns, or with narrow rows what the adjoint loop reads some steps later."""


def kernel(way: Pass, shell: str, dtype: str, facts: Mapping[str, Any]) -> Kernel:
    """The machine code of a pass.

    Args:
        way: what the shell does with a neuron.
        shell: name of a function of `cpu_shells`.
        dtype: of all numbers, "float32" or "float64".
        facts: constants of the file.
    """
    body = Body(way, NUMBA)
    states, sums, read = range(len(way.before)), range(len(way.sums)), range(len(way.read))
    row = "broadcast(constants[{}, 0], s[0])" if facts.get("SHARED") else "load(constants, {} * constants.shape[1] + k)"
    constants = [row.format(k) for k in range(body.constants)]
    constants += [f"broadcast(numbers[{k}], s[0])" for k in range(len(body.numbers))]
    given = {
        "r": names("r", len(way.read)),
        "s": names("s", len(way.before)),
        "c": names("c", body.constants) + names("n", len(body.numbers)),
    }
    now, ahead = "[{0}], t * strides[{0}] + j", _AHEAD[bool(facts.get("NARROW"))]
    halves = [e.args[0] == "half" for e in way.read]
    rows = [f"load_bfloat16(rows{now.format(k)}, s[0])" if halves[k] else f"load(rows{now.format(k)})" for k in read]
    writes = ["put(results[{}], at, {}, streams)"] * (len(way.written) - way.halves)
    writes += ["store_bfloat16(results[{}], at, {})"] * way.halves
    functions = {
        "states_at(states, j, stride)": [_returning(f"load(states, {k} * stride + j)" for k in states)],
        "keep(states, j, stride, s)": [f"store(states, {k} * stride + j, s[{k}])" for k in states],
        "constants_at(constants, k, numbers, s)": [_returning(constants)],
        "rows_at(rows, t, strides, j, s)": [
            *(f"prefetch(rows{now} {ahead})".format(k) for k in read),
            _returning(rows),
        ],
        "with_records(first, at, records, to)": [
            _returning(["load(first, at)", *(f"load(records[{k}], to)" for k in read[:-1])])
        ],
        "both(x, y)": [_returning(["x", "y"][: len(way.read)])],
        "step(r, s, c, results, at, streams)": [
            "zero, one = broadcast(0.0, s[0]), broadcast(1.0, s[0])",
            *(f"{', '.join(parts)}, = {group}" for group, parts in given.items() if parts),
            *body.lines,
            *(line.format(k, value) for k, (line, value) in enumerate(zip(writes, body.written, strict=True))),
            f"return {_tuple(body.after)}, {_tuple(body.sums)}, {body.fired or 'zero'}",
        ],
        "fired_of(out)": ["return bits(out)" if body.fired else "return np.uint64(0)"],
        "no_sums(s)": [_returning("broadcast(0.0, s[0])" for _ in sums)],
        "added(a, b)": [_returning(f"a[{k}] + b[{k}]" for k in sums)],
        "add_to(sums, j, stride, a)": [*(f"add(sums, {k} * stride + j, a[{k}])" for k in sums), "return"],
    }
    head = [_HEAD, *(_of_maps() if shell.endswith("_map") else [])]
    head.append(f"EDITION = {edition(Path(simd.__file__).parent)!r}")
    if (vectors := facts.get("VECTORS", 1)) > 1:
        head.append(f"load = load{vectors}")
    head += [f"{name} = {value!r}" for name, value in facts.items()]
    parts = ["\n    ".join([f"def {name}:", *lines]) for name, lines in functions.items()]
    text = written_out(_shells()[shell], parts)
    module = generated.loaded("\n\n".join(["\n".join(head), f"@generated\n{text}"]))
    return Kernel(getattr(module, shell), np.array(body.numbers, dtype))


@cache
def _shells() -> dict[str, str]:
    """The text of each function of `cpu_shells.py`, which never runs itself."""
    text = Path(__file__).with_name("cpu_shells.py").read_text()
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    return {node.name: ast.get_source_segment(text, node) or "" for node in functions}


def _returning(items: Iterable[str]) -> str:
    return f"return {_tuple(items)}"


def _tuple(items: Iterable[str]) -> str:
    return "(" + "".join(f"{item}, " for item in items) + ")"


@cache
def _of_maps() -> list[str]:
    """Further code for the shells of maps; it changes with its sources."""
    path = Path(__file__).with_name("events_conv_kernels.py")
    text = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    return [f"from fluctua.timeloop.{path.stem} import *", f"MAPS = {text!r}"]


# -- functions written into the one that calls them --------------------------------------------------------------------


def written_out(function: str, parts: Sequence[str]) -> str:
    """The text of a function with all calls of others written out.

    Args:
        function: calls the parts within assignments and expressions; shares no local name with a part, but for
            parameters.
        parts: functions that assign to no parameter and return at their end, if at all.
    """
    found = [node for part in parts for node in ast.parse(part).body if isinstance(node, ast.FunctionDef)]
    return ast.unparse(_WrittenOut({part.name: part for part in found}).visit(ast.parse(function)))


class _WrittenOut(ast.NodeTransformer):
    """Puts what a part does before the statement that calls it, and what it returns in the place of the call."""

    def __init__(self, parts: Mapping[str, ast.FunctionDef]) -> None:
        self._parts = parts
        self._before: list[ast.stmt] = []

    def visit(self, node: ast.AST) -> Any:
        if not isinstance(node, ast.Assign | ast.AugAssign | ast.Expr):
            return super().visit(node)
        before: list[ast.stmt] = []
        self._before = before
        kept = self.generic_visit(node)
        returns_nothing = isinstance(kept, ast.Expr) and isinstance(kept.value, ast.Constant)
        return before if returns_nothing else [*before, kept]

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)  # arguments first, as they are evaluated
        part = self._parts.get(node.func.id) if isinstance(node.func, ast.Name) else None
        if part is None:
            return node
        given = dict[str, ast.expr]()
        for parameter, value in zip(part.args.args, node.args, strict=True):
            given[parameter.arg] = value
            if not isinstance(value, ast.Name | ast.Constant):  # computed once, however often it is used
                name = f"{part.name}_{parameter.arg}"
                self._before.append(ast.fix_missing_locations(ast.Assign([ast.Name(name, ast.Store())], value)))
                given[parameter.arg] = ast.Name(name, ast.Load())
        body = [_Given(given).visit(deepcopy(statement)) for statement in part.body]
        last = body.pop() if isinstance(body[-1], ast.Return) else ast.Return()
        self._before += body
        return last.value or ast.Constant(None)


class _Given(ast.NodeTransformer):
    """Replaces parameters by what is given for them."""

    def __init__(self, given: Mapping[str, ast.expr]) -> None:
        self._given = given

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return deepcopy(self._given.get(node.id, node))
