"""A fused layer's numbers for the event kernels: flat arrays, padded to whole vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fluctua.simd.vectors import lanes
from fluctua.spikes.batch import SpikeBatch, flat, words_of
from fluctua.timeloop.contract import Form, name_of
from fluctua.timeloop.cpu_loop import Array, padded, through
from fluctua.timeloop.cpu_source import Kernel, kernel
from fluctua.timeloop.derivation import adjoint_of
from fluctua.timeloop.emitting import Pass
from fluctua.timeloop.events_kernels import VECTORS
from fluctua.timeloop.expressions import Expression, Value
from fluctua.timeloop.tracing import Traced, traced

Times = tuple[int, int, int]
PATHS = 4
"""Weight and bias of each path of spikes into a layer: from outside, and from itself."""

_WIDEST = 2 * VECTORS  # processed together: this many sums over spikes run at a time


class Kind(NamedTuple):
    """The kind of a layer, without its numbers.

    Attributes:
        form: of the neurons, see `Dynamics.form`.
        size: number of neurons.
        split: neurons before it feed the first input of all, the others the last.
        recurrent: whether there is recurrence.
        initial: each part of the state before the first step.
    """

    form: Form
    size: int
    split: int
    recurrent: bool
    initial: tuple[float, ...]

    @property
    def traced(self) -> Traced:
        """The step of the neurons."""
        return traced(*self.form)

    @property
    def spiking(self) -> bool:
        """Whether its output is spikes."""
        return self.traced.fired is not None

    def vectors(self, dtype: str) -> int:
        """Number of vectors processed together."""
        return _WIDEST if self.size > VECTORS * lanes(dtype) else VECTORS

    def width(self, dtype: str) -> int:
        """Size of a row: whole groups of vectors."""
        unit = self.vectors(dtype) * lanes(dtype)
        return -(-self.size // unit) * unit


@lru_cache(maxsize=256)
def forward(kind: Kind, dtype: str, records: tuple[Value, ...]) -> Kernel:
    """The forward kernel, which records these values of each step."""
    vectors = kind.vectors(dtype)
    facts = {"VECTORS": vectors, "LANES": vectors * lanes(dtype), "STATES": kind.form.states}
    facts |= {"RECURRENT": kind.recurrent, "SPIKING": kind.spiking}
    return kernel(Pass.onward(kind.traced, records), "integrate", dtype, facts)


@lru_cache(maxsize=256)
def backward(kind: Kind, dtype: str, wanted: tuple[int, ...]) -> tuple[Kernel, tuple[Expression, ...]]:
    """The backward kernel, and what it reads of each step, integrated again."""
    way = adjoint_of(kind.traced, wanted, kind.form.inputs)
    return through(way, dtype, shared=False, narrow=True), way.read[1:]


class Arriving(NamedTuple):
    """The input of a layer: spikes as words, values and starts, or a current as memory and two strides."""

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
    """A layer's numbers, `width` per row, weights in `[width / lanes, units, lanes]`; missing arrays are empty."""

    kind: Kind
    tensors: Sequence[Any]
    units: int
    weights: tuple[Array, Array]
    biases: tuple[Array, Array]
    constants: Array

    @classmethod
    def of(cls, kind: Kind, tensors: Sequence[Any], dtype: torch.dtype) -> "Padded":
        """Copies of a layer's tensors in the kernels' layout: a weight has one row for each afferent."""
        name = name_of(dtype)
        n, width = kind.size, kind.width(name)
        group = kind.vectors(name) * lanes(name)
        weights = (
            nothing(dtype) if w is None else grouped(padded(w.detach().t(), width), width, group)
            for w in tensors[:PATHS:2]
        )
        biases = (np.zeros(width, name) if b is None else padded(b.detach(), width) for b in tensors[1:PATHS:2])
        # Padding gets copies of the first neuron, whose output is unused.
        each = torch.stack([c.detach().reshape(-1).expand(n) for c in tensors[PATHS:]])
        constants = padded(each, width, each[:, :1]).reshape(-1, width)
        units = 0 if tensors[0] is None else tensors[0].shape[1]
        return cls(kind, tensors, units, tuple(weights), tuple(biases), constants)  # type: ignore[arg-type]

    @property
    def dtype(self) -> str:
        """Name of the type of all numbers."""
        return str(self.constants.dtype)

    @property
    def width(self) -> int:
        """Size of a row."""
        return int(self.constants.shape[1])

    def integrate(
        self,
        code: Kernel,
        arriving: Arriving,
        times: Times,
        words: Array,
        records: tuple[Array, ...],
        final: Array,
        streams: bool = False,
    ) -> None:
        """Run `steps` steps of the samples from `first` to `stop`; see `cpu_shells.integrate`."""
        k, a = self.kind, arriving
        code.call(
            *(a.words, a.values, a.starts, self.units, self.weights[0], self.biases[0]),
            *(a.current, a.step_stride, a.sample_stride, self.weights[1], self.biases[1], k.split),
            *(code.numbers, self.constants, k.initial, live(k.size), k.size, *times, records, words, final, streams),
        )


def grouped(rows: Array, width: int, group: int) -> Array:
    """Rows `[n, width]` as `[width / group, n, group]`: what is read together lies together."""
    found: Array = np.ascontiguousarray(rows.reshape(-1, width // group, group).swapaxes(0, 1))
    return found.reshape(-1)


def nothing(dtype: torch.dtype) -> Array:
    """An array without elements."""
    array: Array = torch.empty(0, dtype=dtype, device="cpu").numpy()
    return array


@lru_cache(maxsize=256)
def live(n: int) -> Array:
    """Words with a bit for each of n neurons."""
    words = np.full(words_of(n), 2**64 - 1, np.uint64)
    words[-1] >>= np.uint64(-n % 64)
    return words
