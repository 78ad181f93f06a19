"""A fused layer's numbers as the kernels of events take them: flat arrays, padded to whole vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fluctua.simd.vectors import lanes
from fluctua.spikes.batch import SpikeBatch, flat
from fluctua.spikes.bits import words_of
from fluctua.timeloop.contract import Form, name_of
from fluctua.timeloop.cpu_loop import Array
from fluctua.timeloop.cpu_source import Kernel, kernel
from fluctua.timeloop.derivation import adjoint_of
from fluctua.timeloop.emitting import Pass
from fluctua.timeloop.expressions import Expression, Value
from fluctua.timeloop.limits import Maybe
from fluctua.timeloop.tracing import Traced, traced

PATHS = 6
"""Weight and bias of each path that spikes take to a layer: from outside, and from its first and second section."""

_WIDEST = 4  # vectors that are taken together: so many sums over spikes run at a time


class Kind(NamedTuple):
    """What there is to do in a layer, numbers apart.

    Attributes:
        form: of the neurons, see `Dynamics.form`.
        sections: sizes of the populations side by side, of which each speaks to one input of all.
        recurrent: whether they hear each other.
        initial: each part of the state before the first step.
    """

    form: Form
    sections: tuple[int, ...]
    recurrent: bool
    initial: tuple[float, ...]

    @property
    def traced(self) -> Traced:
        """The step of the neurons."""
        return traced(*self.form)

    @property
    def spiking(self) -> bool:
        """Whether bits leave it."""
        return self.traced.fired is not None

    @property
    def words(self) -> int:
        """Number of words that hold the spikes of one step."""
        return sum(words_of(n) for n in self.sections)

    @property
    def split(self) -> int:
        """Number of words of the first section."""
        return words_of(self.sections[0])

    def vectors(self, dtype: str) -> int:
        """How many vectors are taken together: as many as the population fills."""
        filled = -(-self.sections[0] // lanes(dtype))
        return _WIDEST if len(self.sections) > 1 or filled > 2 else filled

    def width(self, dtype: str) -> int:
        """Size of a row: whole vectors, or of several sections whole words each."""
        unit = self.vectors(dtype) * lanes(dtype)
        return -(-self.sections[0] // unit) * unit if len(self.sections) == 1 else 64 * self.words

    def parts(self, rows: Tensor) -> list[Tensor]:
        """The columns of each section in rows `[..., width]`."""
        starts = [0, 64 * self.split]
        return [rows.narrow(-1, start, n) for start, n in zip(starts, self.sections, strict=False)]


@lru_cache(maxsize=256)
def forward(kind: Kind, dtype: str, records: tuple[Value, ...]) -> Kernel:
    """The kernel of the way forth, which records such values of each step."""
    vectors = kind.vectors(dtype)
    facts = {"VECTORS": vectors, "LANES": vectors * lanes(dtype), "STATES": kind.form.states}
    facts |= {"RECURRENT": kind.recurrent, "SPIKING": kind.spiking}
    return kernel(Pass.onward(kind.traced, records), "integrate", dtype, facts)


@lru_cache(maxsize=256)
def backward(kind: Kind, dtype: str, wanted: tuple[int, ...]) -> tuple[Kernel, tuple[Expression, ...]]:
    """The kernel of the way back, and what it reads of each step, integrated again."""
    way = adjoint_of(kind.traced, wanted, kind.form.inputs)
    return kernel(way, "adjoint", dtype, {"LANES": lanes(dtype), "STATES": kind.form.states}), way.read[1:]


class Arriving(NamedTuple):
    """What arrives at a layer: spikes as words, values and starts, or a current as memory and two strides."""

    words: Array
    values: Array
    starts: Array
    current: Array
    step_stride: int
    sample_stride: int

    @classmethod
    def spikes(cls, batch: SpikeBatch, dtype: torch.dtype) -> "Arriving":
        """Spikes of a batch, with values of this type."""
        return cls(*batch.arrays(dtype), nothing(dtype), 0, 0)

    @classmethod
    def dense(cls, current: Tensor) -> "Arriving":
        """An input current `[T, B, n]`, in any layout."""
        x = current if current.stride(2) == 1 else current.contiguous()
        return cls(np.empty(0, np.uint64), nothing(x.dtype), np.empty(0, np.int64), flat(x), x.stride(0), x.stride(1))


@dataclass(frozen=True, eq=False)
class Padded:
    """A layer's numbers as flat arrays of `width` a row; what there is not has no element."""

    kind: Kind
    units: int
    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    constants: Array
    live: Array
    kernel: Kernel

    @classmethod
    def of(cls, kind: Kind, tensors: Sequence[Any], dtype: torch.dtype) -> "Padded":
        """Copies of a layer's tensors in the kernels' layout: a weight has one row for each afferent."""
        name = name_of(dtype)
        n, width = sum(kind.sections), kind.width(name)

        def rows(columns: Tensor, out: Tensor) -> Array:
            """`[n, rows]` as `[rows, width]`, section by section."""
            first = 0
            for part, size in zip(kind.parts(out), kind.sections, strict=True):
                part.copy_(columns[first : first + size].t())
                first += size
            return out.numpy()

        def flat_rows(matrix: Maybe) -> Array:
            if matrix is None:
                return nothing(dtype)
            return rows(matrix.detach(), torch.zeros(matrix.shape[1], width, dtype=dtype)).reshape(-1)

        def row(values: Maybe) -> Array:
            return np.zeros(width, name) if values is None else flat_rows(values[:, None])

        # Where there are no neurons there are copies of the first, which nobody hears of.
        each = torch.stack([c.detach().reshape(-1).expand(n) for c in tensors[PATHS:]])
        padded = rows(each.t(), each[:, :1].repeat(1, width))
        return cls(
            kind,
            0 if tensors[0] is None else tensors[0].shape[1],
            tuple(flat_rows(weight) for weight in tensors[:PATHS:2]),
            tuple(row(bias) for bias in tensors[1:PATHS:2]),
            padded,
            _live(kind.sections),
            forward(kind, name, () if kind.spiking else (kind.traced.output,)),
        )

    @property
    def dtype(self) -> str:
        """Name of the type of all numbers."""
        return str(self.constants.dtype)

    @property
    def width(self) -> int:
        """Size of a row."""
        return int(self.constants.shape[1])

    @property
    def places(self) -> list[tuple[int, int, int]]:
        """For each path: how many words of spikes a step has, the first of them that counts, and how many units."""
        sections, words = self.kind.sections, self.kind.words
        starts = 0, self.kind.split
        own = [(words, start, n) for start, n in zip(starts, sections, strict=False)]
        return [(words_of(self.units), 0, self.units), *own]

    def integrate(
        self,
        arriving: Arriving,
        steps: int,
        first: int,
        stop: int,
        words: Array,
        records: tuple[Array, ...] = (),
        other: Kernel | None = None,
    ) -> None:
        """Run the samples `first:stop`: see `cpu_shells.integrate`.

        A readout fills one record, its output. Another kernel fills those that it was made for.
        """
        k, a, code = self.kind, arriving, other or self.kernel
        one, two = (*k.sections, 0)[:2]
        code.call(
            *(a.words, a.values, a.starts, self.units, self.weights[0], self.biases[0]),
            *(a.current, a.step_stride, a.sample_stride, *self.weights[1:], self.biases[1]),
            *(code.numbers, self.constants, k.initial, self.live, (one, two, k.split, k.words)),
            *(steps, first, stop, records, words),
        )


def nothing(dtype: torch.dtype) -> Array:
    """An array without elements."""
    array: Array = torch.empty(0, dtype=dtype).numpy()
    return array


@lru_cache(maxsize=256)
def _live(sections: tuple[int, ...]) -> Array:
    """Words with a bit for each neuron."""
    full = (1 << 64) - 1
    words = [word for n in sections for word in [full] * (n // 64) + [(1 << n % 64) - 1] * (n % 64 > 0)]
    return np.array(words, np.uint64)
