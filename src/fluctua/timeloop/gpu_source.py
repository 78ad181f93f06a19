"""Files for Triton: loops over time with a neuron's step, or its adjoint, written into them.

A program of the plain loop integrates a block of columns of `[T, M]` arrays: the state stays in registers while time
runs, and each array is passed over once, with loads a few steps ahead of the arithmetic.

A program of the recurrent loop takes a block of samples through time. In each step it goes over the neurons in tiles:
it multiplies the samples' spikes of the last step, or in backward the gradients of the next step, by a tile of the
weight, and integrates the tile. State and spikes pass through memory, with a barrier between two steps. Because nothing
stays in registers, a population may have any size. A launch may also do a single step with one program for each tile,
so that the whole GPU works on a large weight; then the end of the launch is the barrier. There is no recurrent input in
the first step of a direction. The spikes of the units before `split` reach the first input, those of the others may
reach a second one.

A feature map that hears itself through a convolution has a row for each sample and place, and channels for neurons; it
gathers the spikes around a place, and takes a launch for every step.

Constants are `[C, N]`; the state `[S, M]` is updated in place. No operation is fused with another (the launch says so),
so that spikes equal the reference's.
"""

from collections.abc import Sequence
from functools import lru_cache
from textwrap import indent
from typing import Any, Literal, NamedTuple

from fluctua.timeloop import generated
from fluctua.timeloop.emitting import Body, Pass, names, triton_dialect

Heard = Literal["nothing", "one input", "two inputs", "a map"]
"""What a population hears itself with."""


class Kernel(NamedTuple):
    """A Triton kernel, and its arguments among the step's numbers."""

    call: Any
    numbers: tuple[float, ...]


@lru_cache(maxsize=256)
def kernel(way: Pass, dtype: str, heard: Heard, interpreted: bool) -> Kernel:
    """The loop of a pass: the plain one, or a recurrent one."""
    body = Body(way, triton_dialect(dtype))
    text = _plain(way, body) if heard == "nothing" else _recurrent(way, body, heard)
    module = generated.loaded(_HEAD.format(interpreted=interpreted) + text)
    return Kernel(module.loop, tuple(body.numbers))


_HEAD = '''"""Written by fluctua from a neuron's step."""
import triton
import triton.language as tl
from triton.language.extra import libdevice

INTERPRETED = {interpreted}
'''

_PRODUCT = '''

@triton.jit
def product(given, weight, row, n, there_n, samples, start, stop, neurons, along_k, along_n):
    """Units `start:stop` of rows of `given` `[B, N]` times columns n of a matrix, whose strides say how it lies."""
    total = tl.full([row.shape[0], n.shape[0]], 0, given.dtype.element_ty)
    for first in range(start, stop, n.shape[0]):
        k = first + tl.arange(0, n.shape[0])
        there = k < stop
        rows = row.to(tl.int64)[:, None] * neurons + k[None, :]
        left = tl.load(given + rows, (row < samples)[:, None] & there[None, :], 0.0)
        right = tl.load(
            weight + k[:, None] * along_k + n[None, :] * along_n, there[:, None] & there_n[None, :], 0.0
        )
        total = tl.dot(left, right, total, input_precision="ieee", out_dtype=total.dtype)
    return total
'''


_CONVOLUTION = '''

@triton.jit
def product(given, weight, row, n, there_n, samples, neurons, places, across, high, wide, sign, along_k, along_n):
    """Maps `given` `[B, C, places]` convolved, at the rows' places, for channels n; `sign` turns the window around."""
    total = tl.full([row.shape[0], n.shape[0]], 0, given.dtype.element_ty)
    for dy in range(0, high):
        for dx in range(0, wide):
            y = (row % places) // across + sign * (dy - high // 2)
            x = (row % places) % across + sign * (dx - wide // 2)
            inside = (row < samples) & (y >= 0) & (y < places // across) & (x >= 0) & (x < across)
            source = given + (row // places).to(tl.int64) * (neurons * places) + y * across + x
            for first in range(0, neurons, n.shape[0]):
                k = first + tl.arange(0, n.shape[0])
                there = k < neurons
                left = tl.load(source[:, None] + k[None, :] * places, inside[:, None] & there[None, :], 0.0)
                right = tl.load(
                    weight + dy * wide + dx + k[:, None] * along_k + n[None, :] * along_n,
                    there[:, None] & there_n[None, :],
                    0.0,
                )
                total = tl.dot(left, right, total, input_precision="ieee", out_dtype=total.dtype)
    return total
'''


def _function(arguments: Sequence[str], before: Sequence[str], loop: str, body: Sequence[str]) -> str:
    lines = [*before, loop, *_indented(body)]
    return f"\n\n@triton.jit\ndef loop({', '.join(arguments)}):\n" + "\n".join(_indented(lines)) + "\n"


def _indented(lines: Sequence[str]) -> list[str]:
    return indent("\n".join(lines), "    ").split("\n")


def _each(line: str, values: Sequence[str]) -> list[str]:
    """The line for each of the values, with its number."""
    return [line.format(k=k, value=value) for k, value in enumerate(values)]


def _ready(body: Body) -> list[str]:
    """Constants that the lines of the step need."""
    ones = [f"{name} = tl.full(s0.shape, {k}, s0.dtype)" for k, name in enumerate(("zero", "one"))]
    return [*ones, *(f"n{k} = tl.load(numbers + {k})" for k in range(len(body.numbers)))]


def _plain(way: Pass, body: Body) -> str:
    rows, results, states = names("row", len(way.read)), names("result", len(way.written)), names("s", len(way.before))
    constants, totals = names("c", body.constants), names("total", len(way.sums))
    before = [
        "at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)",
        "live = at < columns",
        *_each("{value} = tl.load(state + {k} * columns + at, live, 0.0)", states),
        *_each("{value} = tl.load(constants + {k} * neurons + at % neurons, live, 0.0)", constants),
        *_ready(body),
        *_each("{value} = zero", totals),
        "to = at + first",
    ]
    lines = [
        *_each("r{k} = tl.load({value} + to, live, 0.0)", rows),
        *body.lines,
        *_each("tl.store(result{k} + to, {value}, live)", body.written),
        *_each("total{k} += {value}", body.sums),
        f"{', '.join(states)} = {', '.join(body.after)}",
        "to += columns" if way.forth else "to -= columns",
    ]
    after = [
        *_each("tl.store(state + {k} * columns + at, {value}, live)", states),
        *_each("tl.store(sums + {k} * columns + at, {value}, live)", totals),
    ]
    arguments = [*rows, "numbers", "state", "constants", *results, "sums", "steps", "columns", "neurons", "first"]
    loop = "for _ in tl.range(0, steps, num_stages=4):"
    return _function([*arguments, "BLOCK: tl.constexpr"], before, loop, lines) + "\n".join(_indented(after)) + "\n"


class _Hearing(NamedTuple):
    """Lines of a recurrent loop that depend on what a population hears itself with.

    Attributes:
        parts: the function `product`.
        heard: add what is heard to the input `r0`, and to `r1`.
        stop: where a tile begins and stops, if that is not every NEURONS units.
        tiles: their number.
        cell: where the numbers of a row and unit n stand.
        constant: where those of the constant k stand, and how they are loaded.
        sizes: further sizes.
    """

    parts: str
    heard: Sequence[str]
    stop: Sequence[str] = ()
    tiles: str = "(neurons + NEURONS - 1) // NEURONS"
    cell: Sequence[str] = ("cell = row.to(tl.int64)[:, None] * neurons + n[None, :]",)
    constant: str = "{k} * neurons + n, there, 0.0)[None, :]"
    sizes: Sequence[str] = ()

    @classmethod
    def of(cls, by: Heard, forth: bool) -> "_Hearing":
        """In either direction."""
        shared = f"result{{}} + now {'-' if forth else '+'} columns, weight, row, n, there, samples"
        if by == "a map":
            sizes = "places", "across", "high", "wide"
            strides = "1, high * wide, neurons * high * wide" if forth else "-1, neurons * high * wide, high * wide"
            return cls(
                _CONVOLUTION,
                [f"heard = product({shared.format(0)}, neurons, {', '.join(sizes)}, {strides})"],
                cell=(
                    "unit = n[None, :] * places + (row % places)[:, None]",
                    "cell = (row // places).to(tl.int64)[:, None] * (neurons * places) + unit",
                ),
                constant="{k} * neurons * places + unit, live, 0.0)",
                sizes=sizes,
            )
        strides = "neurons, 1, neurons" if forth else "neurons, neurons, 1"
        all_of, others = (f"heard = product({shared.format(k)}, 0, neurons, {strides})" for k in (0, 1))
        if by == "one input":
            return cls(_PRODUCT, [all_of])
        ways = ["if tile < split:", f"    {all_of}", "else:", f"    {others}"]
        if forth:
            units = "heard = product({0}, 0, split, {1})", "r1 += product({0}, split, neurons, {1})"
            ways = [line.format(shared.format(0), strides) for line in units]
        apart = "if place < tiles:", "    stop = split", "else:", "    tile = split + (place - tiles) * NEURONS"
        return cls(_PRODUCT, ways, apart, "tiles + (neurons - split + NEURONS - 1) // NEURONS")


def _recurrent(way: Pass, body: Body, by: Heard) -> str:
    """The first array written is the recurrent input, added to the first one read; `sums` change like the state.

    With two inputs forward adds what the units from `split` on bring to the second one. Backward, whose first arrays
    written are the gradients of both, takes each unit's from the input that it reaches; no tile has units of both.
    """
    rows, results, states = names("row", len(way.read)), names("result", len(way.written)), names("s", len(way.before))
    hearing = _Hearing.of(by, way.forth)
    sum_at = "sums + {k} * columns + cell"
    tile = [
        "tile, stop = place * NEURONS, neurons",
        *hearing.stop,
        "n = tile + tl.arange(0, NEURONS)",
        "there = n < stop",
        "live = (row < samples)[:, None] & there[None, :]",
        *hearing.cell,
        "at = now + cell",
        *_each("{value} = tl.load(state + {k} * columns + cell, live, 0.0)", states),
        *_each(f"{{value}} = tl.load(constants + {hearing.constant}", names("c", body.constants)),
        *_ready(body),
        *_each("r{k} = tl.load({value} + at, live, 0.0)", rows),
        "if step + earlier > 0:",
        *_indented(hearing.heard),
        "    if BIASED:",
        "        heard += tl.load(bias + n, there, 0.0)[None, :]",
        "    r0 += heard",
        *body.lines,
        *_each("tl.store(result{k} + at, {value}, live)", body.written),
        *_each("tl.store(state + {k} * columns + cell, {value}, live)", body.after),
        *_each(f"tl.store({sum_at}, tl.load({sum_at}, live, 0.0) + {{value}}, live)", body.sums),
    ]
    before = [
        "row = tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)",
        "now = first.to(tl.int64) * columns  # where the step begins",
        "tiles = (split + NEURONS - 1) // NEURONS",
    ]
    places = f"for place in range(tl.program_id(1), {hearing.tiles}, tl.num_programs(1)):"
    lines = [places, *_indented(tile), f"now {'+' if way.forth else '-'}= columns", "tl.debug_barrier()"]
    arguments = [*rows, "numbers", "state", "constants", *results, "sums", "weight", "bias"]
    arguments += ["split", "earlier", "first", "steps", "samples", "neurons", "columns", *hearing.sizes]
    arguments += [f"{name}: tl.constexpr" for name in ("BIASED", "SAMPLES", "NEURONS")]
    text = _function(arguments, before, "for step in range(0, steps):", lines)
    return hearing.parts + text.replace("@triton.jit", '@triton.jit(do_not_specialize=["earlier", "first"])')
