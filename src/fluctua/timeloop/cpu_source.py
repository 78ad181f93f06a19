"""Files for numba: a shell of `cpu_shells.py` with the step of a neuron, or its way back, written into it."""

import ast
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from inspect import getsource
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluctua import simd
from fluctua.simd.compiling import edition
from fluctua.timeloop import generated
from fluctua.timeloop.emitting import NUMBA, Writer, literals
from fluctua.timeloop.expressions import Expression, Value
from fluctua.timeloop.tracing import Traced


@dataclass(frozen=True, eq=False)
class Kernel:
    """Machine code, and the numbers of the step that are arguments of it: no surrogate needs code of its own."""

    call: Callable[..., None]
    numbers: NDArray[Any]


_HEAD = '''"""Written by fluctua from a neuron's step."""
import numpy as np

from fluctua.simd.compiling import generated, inlined
from fluctua.simd.functions import *
from fluctua.simd.memory import *
from fluctua.simd.vectors import *
from fluctua.spikes.bits import rows_of, sample_rows
'''


def forward_kernel(
    traced: Traced,
    shell: str,
    dtype: str,
    facts: Mapping[str, Any],
    records: Sequence[Value],
    halves: Sequence[Value] = (),
) -> Kernel:
    """A shell of the way forth.

    Args:
        traced: the step.
        shell: name of a function of `cpu_shells`.
        dtype: of all numbers, "float32" or "float64".
        facts: constants of the file.
        records: values of each step to be written, each to an array of its own.
        halves: those that are written in bfloat16.
    """
    mask = traced.fired
    roots = [*traced.state, *records, *halves, *([] if mask is None else [mask])]
    file = _File(traced, roots, facts)
    file.unpack("x", "input", traced.inputs)
    file.unpack("s", "state", len(traced.state))
    w = file.writer()
    w.write(*roots)
    end = f"return {_tuple(w.name(v) for v in traced.state)}, {'zero' if mask is None else w.mask(mask)}"
    kept = [f"put(records[{k}], at, {w.name(v)}, streams)" for k, v in enumerate(records)]
    kept += [f"store_bfloat16(halves[{k}], at, {w.name(v)})" for k, v in enumerate(halves)]
    file.function("forth", "x, s, c, records, halves, at, streams", [*w.lines, *kept, end], like="s[0]")
    inputs = range(traced.inputs)
    file.function(
        "inputs_at",
        "inputs, t, strides, j",
        [
            *(f"prefetch(inputs[{k}], t * strides[{k}] + j + {_AHEAD})" for k in inputs),
            f"return {_tuple(f'load(inputs[{k}], t * strides[{k}] + j)' for k in inputs)}",
        ],
    )
    file.function("both", "x, y", [f"return {'(x, y)' if traced.inputs == 2 else '(x,)'}"])
    file.function("fired_of", "out", ["return np.uint64(0)" if mask is None else "return bits(out)"])
    return file.compiled(shell, dtype)


_AHEAD = 512  # columns that are asked for before they are needed


def backward_kernel(
    traced: Traced,
    shell: str,
    dtype: str,
    facts: Mapping[str, Any],
    gradients: Sequence[Value],
    read: Sequence[Expression],
    *,
    writes: int,
    compact: bool = False,
) -> Kernel:
    """A shell of the way back.

    Args:
        traced: the step.
        shell: name of a function of `cpu_shells`.
        dtype: of all numbers, "float32" or "float64".
        facts: constants of the file.
        gradients: those that are written, then those wrt the state, then those that are summed up.
        read: values of each step that are read; the gradient wrt the output comes in front of them.
        writes: how many are written.
        compact: whether the distance from threshold is read too, in bfloat16.
    """
    states = len(traced.state)
    written, carried, sums = gradients[:writes], gradients[writes : writes + states], gradients[writes + states :]
    file = _File(traced, gradients, facts)
    row = [file.leaf("gradient", 0), *read, *([file.leaf("half", 0)] if compact else [])]
    names = [f"r{k}" for k in range(len(row))]
    file.lines.append(f"{', '.join(names)}, = r")
    file.known |= dict(zip(row, names, strict=True))
    file.unpack("g", "gradient", states, first=1)
    w = file.writer()
    w.write(*gradients, fused=True)
    given = [f"put(results[{k}], at, {w.name(v)}, streams)" for k, v in enumerate(written)]
    end = f"return {_tuple(w.name(v) for v in carried)}, {_tuple(w.name(v) for v in sums)}"
    file.function("back", "r, g, c, results, at, streams", [*w.lines, *given, end], like="g[0]")
    n = 1 + len(read)
    at = [f"load(rows[{k}], t * strides[{k}] + j)" for k in range(n)]
    at += [f"load_bfloat16(halves[0], t * strides[{n}] + j, g[0])"] if compact else []
    ahead = [f"prefetch(rows[{k}], t * strides[{k}] + j + {_AHEAD})" for k in range(n)]
    file.function("rows_at", "rows, halves, t, strides, j, g", [*ahead, f"return {_tuple(at)}"])
    others = "".join(f", load(records[{k}], at)" for k in range(len(read)))
    file.function("with_records", "g, own, records, at", [f"return (load(g, own){others or ','})"])
    m = range(len(sums))
    file.function("no_sums", "g", ["zero = broadcast(0.0, g[0])", f"return {_tuple('zero' for _ in m)}"])
    file.function("added", "a, b", [f"return {_tuple(f'a[{k}] + b[{k}]' for k in m)}"])
    file.function("add_to", "sums, j, stride, a", [*(f"add(sums, {k} * stride + j, a[{k}])" for k in m), "return"])
    return file.compiled(shell, dtype)


class _File:
    """A file in the making."""

    def __init__(self, traced: Traced, roots: Sequence[Value], facts: Mapping[str, Any]) -> None:
        self.leaf = traced.leaf
        self.numbers = literals(roots)
        self.constants = len(traced.by_constant)
        self.known: dict[Expression, str] = {}
        self.lines: list[str] = []
        self._facts = facts
        self._text: list[str] = []
        states = len(traced.state)
        self.function("states_at", "states, j, stride", [_returned("states", "stride", states)])
        self.function(
            "keep",
            "states, j, stride, s",
            [*(f"store(states, {k} * stride + j, s[{k}])" for k in range(states)), "return"],
        )
        row = "broadcast(constants[{k}, 0], s[0])" if facts.get("SHARED") else "load(constants, {k} * width + k)"
        values = [row.replace("{k}", str(k)) for k in range(self.constants)]
        values += [f"broadcast(numbers[{k}], s[0])" for k in range(len(self.numbers))]
        self.function(
            "constants_at", "constants, k, numbers, s", ["width = constants.shape[1]", f"return {_tuple(values)}"]
        )

    def unpack(self, name: str, kind: str, count: int, first: int = 0) -> None:
        """Take the tuple `name` apart, into leaves of this kind from the number `first` on."""
        names = [f"{name}{k}" for k in range(count)]
        self.lines.append(f"{', '.join(names)}, = {name}")
        self.known |= {self.leaf(kind, first + k): n for k, n in enumerate(names)}

    def writer(self) -> Writer:
        """For the body of the step."""
        names = [f"c{k}" for k in range(self.constants + len(self.numbers))]
        if names:
            self.lines.append(f"{', '.join(names)}, = c")
        self.known |= {self.leaf("constant", k): names[k] for k in range(self.constants)}
        return Writer(NUMBA, self.known, dict(zip(self.numbers, names[self.constants :], strict=True)))

    def function(self, name: str, arguments: str, body: Sequence[str], like: str = "") -> None:
        """Add a function; one that is `like` a vector starts with the lines and has the numbers zero and one."""
        ones = [f"zero, one = broadcast(0.0, {like}), broadcast(1.0, {like})", *self.lines] if like else []
        self._text.append("\n    ".join([f"@inlined\ndef {name}({arguments}):", *ones, *body]))

    def compiled(self, shell: str, dtype: str) -> Kernel:
        """The shell with all this."""
        head = [
            _HEAD,
            *(_of_maps() if shell.endswith("_map") else []),
            f"EDITION = {edition(Path(simd.__file__).parent)!r}",
        ]
        vectors = self._facts.get("VECTORS", 1)
        head += [f"load = load{vectors}"] if vectors > 1 else []
        head += [f"{name} = {value!r}" for name, value in self._facts.items()]
        body = f"@generated\n{_shells()[shell]}"
        module = generated.loaded("\n\n".join(["\n".join(head), *self._text, body]))
        return Kernel(getattr(module, shell), np.array(self.numbers, dtype))


@cache
def _shells() -> dict[str, str]:
    """The text of each function of `cpu_shells.py`, which is never run by itself."""
    text = Path(__file__).with_name("cpu_shells.py").read_text()
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    return {node.name: ast.get_source_segment(text, node) or "" for node in functions}


def _returned(array: str, stride: str, count: int) -> str:
    return f"return {_tuple(f'load({array}, {k} * {stride} + j)' for k in range(count))}"


def _tuple(items: Any) -> str:
    return "(" + "".join(f"{item}, " for item in items) + ")"


@cache
def _of_maps() -> list[str]:
    """What the shells of maps need besides; changes with what that is made of."""
    from fluctua.timeloop import events_conv_kernels, maps

    text = "".join(getsource(module) for module in (maps, events_conv_kernels))
    return ["from fluctua.timeloop.maps import *", f"MAPS = {hashlib.sha256(text.encode()).hexdigest()[:8]!r}"]
