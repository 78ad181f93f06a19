"""Files for Triton: loops over time with the step of a neuron, or its way back, written into them.

A program of the plain loop integrates a block of columns of `[T, M]` arrays: the state stays in registers while time
runs, and each array is passed over once, its loads a few steps ahead of the arithmetic.

A program of the recurrent loop takes a block of samples through time. For each step it goes over the neurons in tiles:
it multiplies the samples' spikes of the step before, or backward the gradients of the step after, by a tile of the
weight and integrates the tile. Neurons hear each other, so the state and what they say pass through memory, with a
barrier between two steps. Because nothing stays in registers, a population may be of any size. A launch may also do a
single step with one program for each tile, so that all of the GPU works on a large weight; then the end of the launch
is the barrier. In the step `edge`, the first of the direction, nothing is heard.

Constants come as `[C, N]`, a state as `[S, M]`. No operation is fused with another (the launch says so), so that spikes
equal the reference's.
"""

from collections.abc import Sequence
from functools import lru_cache
from textwrap import indent
from typing import TYPE_CHECKING, Any, NamedTuple

from fluctua.timeloop import generated
from fluctua.timeloop.emitting import Writer, literals, triton_dialect
from fluctua.timeloop.expressions import Value
from fluctua.timeloop.tracing import Traced

if TYPE_CHECKING:
    from fluctua.timeloop.derivation import Kind, Plan


class Kernel(NamedTuple):
    """A Triton kernel, and the numbers of the step that are arguments of it."""

    call: Any
    numbers: tuple[float, ...]


@lru_cache(maxsize=256)
def forward_kernel(plan: "Plan", dtype: str, recurrent: bool, interpreted: bool) -> Kernel:
    """The way forth of a kind, in the plain or in the recurrent loop."""
    kind, t = plan.kind, plan.traced
    outputs = t.output, t.potential
    records = *outputs[: 1 + plan.separate], *plan.own
    known: dict[Any, str] = {t.leaf("state", k): f"s{k}" for k in range(kind.states)}
    known |= {t.leaf("input", k): f"x{k}" for k in range(kind.inputs)}
    step = _Body([*t.state, *records], known, kind, t, dtype)
    shell = _forward_steps if recurrent else _forward
    text = shell(kind, step, step.names(records), step.names(t.state))
    return _loaded("forward", text, recurrent, interpreted, step)


@lru_cache(maxsize=256)
def backward_kernel(plan: "Plan", dtype: str, recurrent: bool, wants_inputs: bool, interpreted: bool) -> Kernel:
    """The way back."""
    kind, t = plan.kind, plan.traced
    known: dict[Any, str] = {t.leaf("gradient", k): f"s{k - 1}" for k in range(1, 1 + kind.states)}
    known |= {e: f"r{k}" for k, e in enumerate((t.leaf("gradient", 0), *plan.read))}
    gradients = plan.gradients if wants_inputs else plan.gradients[kind.inputs :]
    step, inputs = _Body(gradients, known, kind, t, dtype), kind.inputs if wants_inputs else 0
    names = step.names(gradients)
    results, carried, sums = names[:inputs], names[inputs : inputs + kind.states], names[inputs + kind.states :]
    shell = _backward_steps if recurrent else _backward
    text = shell(kind, step, 1 + len(plan.read), results, carried, sums)
    return _loaded("backward", text, recurrent, interpreted, step)


def _loaded(name: str, text: str, recurrent: bool, interpreted: bool, step: "_Body") -> Kernel:
    module = generated.loaded(_HEAD.format(interpreted=interpreted) + (_PARTS if recurrent else "") + text)
    return Kernel(getattr(module, name), tuple(step.numbers))


_HEAD = '''"""Written by fluctua from a neuron's step."""
import triton
import triton.language as tl
from triton.language.extra import libdevice

INTERPRETED = {interpreted}
'''

_PARTS = '''

@triton.jit
def product(given, weight, row, n, samples, neurons, along_k, along_n):
    """Rows of `given` `[B, N]` times columns n of a matrix, of which the strides say how it lies in memory."""
    total = tl.full([row.shape[0], n.shape[0]], 0, given.dtype.element_ty)
    for first in range(0, neurons, n.shape[0]):
        k = first + tl.arange(0, n.shape[0])
        there = k < neurons
        rows = row.to(tl.int64)[:, None] * neurons + k[None, :]
        left = tl.load(given + rows, (row < samples)[:, None] & there[None, :], 0.0)
        right = tl.load(
            weight + k[:, None] * along_k + n[None, :] * along_n, there[:, None] & (n < neurons)[None, :], 0.0
        )
        total = tl.dot(left, right, total, input_precision="ieee", out_dtype=total.dtype)
    return total
'''


class _Body:
    """The lines of one step."""

    def __init__(self, roots: Sequence[Value], known: dict[Any, str], kind: "Kind", t: Traced, dtype: str) -> None:
        self.numbers = literals(roots)
        known = known | {t.leaf("constant", k): f"c{k}" for k in range(kind.constants)}
        numbers = {value: f"n{k}" for k, value in enumerate(self.numbers)}
        self._writer = Writer(triton_dialect(dtype), known, numbers)
        self._writer.write(*roots)
        self.lines = self._writer.lines

    def names(self, values: Sequence[Value]) -> list[str]:
        """What the values are called."""
        return [self._writer.name(value) for value in values]

    def loads(self) -> list[str]:
        """Lines that load the numbers."""
        return [f"n{k} = tl.load(numbers + {k})" for k in range(len(self.numbers))]


def _function(
    arguments: Sequence[str], before: Sequence[str], loop: str, body: Sequence[str], after: Sequence[str]
) -> str:
    name, *names = arguments
    lines = [*before, loop, *indent("\n".join(body), "    ").split("\n"), *after]
    return f"\n\n@triton.jit\ndef {name}({', '.join(names)}):\n" + indent("\n".join(lines), "    ") + "\n"


def _names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{k}" for k in range(count)]


def _assigned(targets: Sequence[str], values: Sequence[str]) -> list[str]:
    return [f"{', '.join(targets)} = {', '.join(values)}"] if targets else []


_COLUMNS = [
    "at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)",
    "live = at < columns",
    "neuron = constants + at % neurons",
]
_ONES = ["zero = tl.full(s0.shape, 0, s0.dtype)", "one = tl.full(s0.shape, 1, s0.dtype)"]


def _forward(kind: "Kind", step: _Body, written: Sequence[str], after: Sequence[str]) -> str:
    inputs, records, states = _names("input", kind.inputs), _names("record", len(written)), range(kind.states)
    arguments = ["forward", *inputs, "numbers", "state", "constants", *records, "end"]
    before = [
        *_COLUMNS,
        *(f"s{k} = tl.load(state + {k} * columns + at, live, 0.0)" for k in states),
        *(f"c{k} = tl.load(neuron + {k} * neurons, live, 0.0)" for k in range(kind.constants)),
        *_ONES,
        *step.loads(),
        "to = at",
    ]
    body = [
        *(f"x{k} = tl.load(input{k} + to, live, 0.0)" for k in range(kind.inputs)),
        *step.lines,
        *(f"tl.store({r} + to, {value}, live)" for r, value in zip(records, written, strict=True)),
        *_assigned(_names("s", kind.states), after),
        "to += columns",
    ]
    end = [f"tl.store(end + {k} * columns + at, s{k}, live)" for k in states]
    sizes = ["steps", "columns", "neurons", "BLOCK: tl.constexpr"]
    return _function([*arguments, *sizes], before, "for _ in tl.range(0, steps, num_stages=4):", body, end)


def _backward(
    kind: "Kind", step: _Body, n_rows: int, results: Sequence[str], carried: Sequence[str], sums: Sequence[str]
) -> str:
    rows, states = _names("row", n_rows), range(kind.states)
    to_inputs, totals = _names("result", len(results)), _names("total", len(sums))
    arguments = ["backward", *rows, "numbers", "g_end", "constants", *to_inputs, "g_state", "g_constants"]
    before = [
        *_COLUMNS,
        *(f"s{k} = tl.load(g_end + {k} * columns + at, live, 0.0)" for k in states),
        *(f"c{k} = tl.load(neuron + {k} * neurons, live, 0.0)" for k in range(kind.constants)),
        *_ONES,
        *step.loads(),
        *_assigned(totals, ["zero"] * len(totals)),
        "to = at + last",
    ]
    body = [
        *(f"r{k} = tl.load({row} + to, live, 0.0)" for k, row in enumerate(rows)),
        *step.lines,
        *(f"tl.store({r} + to, {value}, live)" for r, value in zip(to_inputs, results, strict=True)),
        *(f"{total} += {value}" for total, value in zip(totals, sums, strict=True)),
        *_assigned(_names("s", kind.states), carried),
        "to -= columns",
    ]
    after = [f"tl.store(g_state + {k} * columns + at, s{k}, live)" for k in states]
    after += [f"tl.store(g_constants + {k} * columns + at, {total}, live)" for k, total in enumerate(totals)]
    sizes = ["steps", "columns", "neurons", "last", "BLOCK: tl.constexpr"]
    return _function([*arguments, *sizes], before, "for _ in tl.range(0, steps, num_stages=4):", body, after)


_TILES = "for tile in range(tl.program_id(1) * NEURONS, neurons, tl.num_programs(1) * NEURONS):"
_ROWS = [
    "row = tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)",
    "now = first.to(tl.int64) * columns  # where the step begins",
]
_CELLS = [
    "n = tile + tl.arange(0, NEURONS)",
    "there = n < neurons",
    "live = (row < samples)[:, None] & there[None, :]",
    "cell = row.to(tl.int64)[:, None] * neurons + n[None, :]",
    "at = now + cell",
]
_SIZES = ["edge", "first", "steps", "samples", "neurons", "columns"]
_TILE = ["SAMPLES: tl.constexpr", "NEURONS: tl.constexpr"]


def _tile(kind: "Kind", step: _Body, state: str) -> list[str]:
    """State and constants of the cells of a tile."""
    return [
        *_CELLS,
        *(f"s{k} = tl.load({state} + {k} * columns + cell, live, 0.0)" for k in range(kind.states)),
        *(f"c{k} = tl.load(constants + {k} * neurons + n, there, 0.0)[None, :]" for k in range(kind.constants)),
        *_ONES,
        *step.loads(),
    ]


def _steps(arguments: Sequence[str], loop: str, tile: Sequence[str], move: str) -> str:
    body = [_TILES, *indent("\n".join(tile), "    ").split("\n"), move, "tl.debug_barrier()"]
    text = _function([*arguments, *_TILE], _ROWS, loop, body, [])
    return text.replace("@triton.jit", '@triton.jit(do_not_specialize=["edge", "first"])')


def _forward_steps(kind: "Kind", step: _Body, written: Sequence[str], after: Sequence[str]) -> str:
    """`state` is carried along; the first record is the output, which is heard."""
    records = _names("record", len(written))
    tile = [
        *_tile(kind, step, "state"),
        "x0 = tl.load(input0 + at, live, 0.0)",
        "if t != edge:",
        "    heard = product(record0 + now - columns, weight, row, n, samples, neurons, 1, neurons)",
        "    if BIASED:",
        "        heard += tl.load(bias + n, there, 0.0)[None, :]",
        "    x0 += heard",
        *step.lines,
        *(f"tl.store({r} + at, {value}, live)" for r, value in zip(records, written, strict=True)),
        *(f"tl.store(state + {k} * columns + cell, {v}, live)" for k, v in enumerate(after)),
    ]
    arguments = ["forward", "input0", "numbers", "constants", "weight", "bias", "state", *records, *_SIZES]
    arguments.append("BIASED: tl.constexpr")
    return _steps(arguments, "for t in range(first, first + steps):", tile, "now += columns")


def _backward_steps(
    kind: "Kind", step: _Body, n_rows: int, results: Sequence[str], carried: Sequence[str], sums: Sequence[str]
) -> str:
    """`result0` is also the gradient wrt what was heard; `g_state` and `g_constants` are carried along."""
    rows = _names("row", n_rows)
    tile = [
        *_tile(kind, step, "g_state"),
        *(f"r{k} = tl.load({row} + at, live, 0.0)" for k, row in enumerate(rows)),
        "if first - back != edge:",
        "    r0 += product(result0 + now + columns, weight, row, n, samples, neurons, neurons, 1)",
        *step.lines,
        f"tl.store(result0 + at, {results[0]}, live)",
        *(f"tl.store(g_state + {k} * columns + cell, {v}, live)" for k, v in enumerate(carried)),
    ]
    for k, value in enumerate(sums):
        of = f"g_constants + {k} * columns + cell"
        tile.append(f"tl.store({of}, tl.load({of}, live, 0.0) + {value}, live)")
    arguments = ["backward", *rows, "numbers", "constants", "weight", "result0", "g_state", "g_constants", *_SIZES]
    return _steps(arguments, "for back in range(0, steps):", tile, "now -= columns")
