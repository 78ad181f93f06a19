"""The two passes of the fused CPU loop, forward and its adjoint: tensors in, tensors out, no autograd.

Neurons and samples are alike to the loop, so a current `[T, B, *N]` is taken as `[T, M]` and its columns are split
over threads. No column knows of another: the number of threads cannot change a result.
"""

import math
import mmap
import sys
import threading
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluctua.simd.vectors import BYTES
from fluctua.timeloop.contract import LoopParameters
from fluctua.timeloop.cpu_kernels import (
    CURRENT,
    NONE,
    RATIONAL,
    THRESHOLD,
    Backward,
    Forward,
    Kernel,
    backward_kernel,
    forward_kernel,
    shape_of,
)
from fluctua.timeloop.threads import pool_of

Array = NDArray[Any]
Maybe = Tensor | None
Block = NDArray[np.uint8]

LANES = 16  # columns that are taken together: one vector of float32, two of float64; threads share no cache line
_GRAIN = 1 << 16  # elements worth waking a thread for
_STREAM = 1 << 22  # bytes of an array that does not stay in the caches anyway


class Kind(NamedTuple):
    """What there is to do, numbers apart; an option without effect is off, which saves compiling.

    `shape`, `slope` and `height` are the surrogate's; `trains` says whether a backward pass may follow, `learns`
    whether one that needs the gradients of constants, `compact` whether the potential is kept in bfloat16 for it.
    """

    exponential: bool
    spiking: bool
    hard: bool
    differentiable: bool
    adapts: int
    shape: int
    slope: float
    height: float
    trains: bool
    learns: bool
    compact: bool

    @classmethod
    def of(cls, p: LoopParameters, trains: bool, compact: bool) -> "Kind":
        """The kind of a population."""
        spiking, adaptation = p.spiking, p.adaptation if p.spiking else None
        adapts = NONE if adaptation is None else THRESHOLD if adaptation.coupling is None else CURRENT
        surrogate = shape_of(p.surrogate) if spiking else (RATIONAL, 0.0, 0.0)
        learns = trains and any(c is not None and c.requires_grad for c in p.constants)
        hard, differentiable = spiking and p.reset == "zero", spiking and p.differentiable_reset
        exponential, compact = p.decay_syn is not None, compact and spiking and trains
        return cls(exponential, spiking, hard, differentiable, adapts, *surrogate, trains, learns, compact)

    @property
    def equations(self) -> tuple[bool, bool, bool, int]:
        """What a kernel needs to know of the forward loop."""
        return self.exponential, self.spiking, self.hard, self.adapts

    @property
    def needs_drive(self) -> bool:
        """Whether the adjoint needs what entered the potential."""
        return self.trains and ((self.learns and self.exponential) or self.is_lost)

    @property
    def needs_adaptation(self) -> bool:
        """Whether the adjoint needs the adaptation of each step."""
        return self.trains and bool(self.adapts) and (self.learns or self.adapts == THRESHOLD or self.is_lost)

    @property
    def is_lost(self) -> bool:
        """Whether a gradient flows to what a reset takes away."""
        return self.hard and self.differentiable


class Passed(NamedTuple):
    """What the forward pass gives; the last three are what the adjoint needs, where it is recorded."""

    potential: Tensor
    output: Maybe
    u: Tensor
    i: Maybe = None
    w: Maybe = None
    current: Maybe = None
    adaptation: Maybe = None
    distance: Maybe = None


def integrate(x: Tensor, state: Sequence[Maybe], values: Sequence[Maybe], kind: Kind) -> Passed:
    """Potential, output of a spiking population, final state, and what is recorded for the adjoint."""

    def record(wanted: bool, dtype: torch.dtype = x.dtype) -> Maybe:
        return pool.empty(tuple(x.shape), dtype) if wanted else None

    end = [None if part is None else _copy(part) for part in state]
    potential, output = record(True), record(kind.spiking)
    current = record(kind.exponential and kind.needs_drive)
    adaptation, distance = record(kind.needs_adaptation), record(kind.compact, torch.int16)
    own = _constants(values, x.shape, x.dtype)
    _run(
        forward_kernel(Forward(_name(x.dtype), own.shape[1] == 1, *kind.equations)),
        (own, *(_column(part, x.dtype) for part in end)),
        [_row(x, x.dtype)],
        [*(_row(t, x.dtype) for t in (potential, output, current, adaptation)), _row(distance, torch.int16)],
        x.shape,
    )
    u, i, w = end
    assert potential is not None
    assert u is not None
    return Passed(potential, output, u, i, w, current, adaptation, distance)


def adjoint(
    shape: torch.Size,
    gout: Maybe,
    gend: Sequence[Maybe],
    values: Sequence[Maybe],
    recorded: Sequence[Maybe],
    wanted: Sequence[bool],
    kind: Kind,
) -> list[Maybe]:
    """The gradients of a loss with respect to current, state and constants, ten in all, where they are wanted.

    Args:
        shape: `[T, B, *N]`.
        gout: gradient with respect to the output, `[T, B, *N]`, None for zero.
        gend: those with respect to the final potential, current and adaptation, `[B, *N]`, likewise.
        values: the six constants.
        recorded: the potential, what entered it, the adaptation, and the distance from threshold.
        wanted: which of the ten.
        kind: of the forward pass.
    """
    a = values[0]
    assert a is not None
    number, dtype = np.dtype(_name(a.dtype)).type, a.dtype
    own = _constants(values, shape, dtype)
    gout = a.new_zeros(()).expand(shape) if gout is None else gout
    gx = pool.empty(tuple(shape), dtype) if wanted[0] else None
    state = [a.new_zeros(shape[1:]) if g is None else _copy(g) for g in gend]
    sums = [a.new_zeros(shape[1:]) if want else None for want in wanted[4:]]
    variant = Backward(_name(dtype), own.shape[1] == 1, *kind.equations, kind.differentiable, kind.shape)
    _run(
        backward_kernel(variant),
        (number(kind.slope), number(kind.height), own, *(_column(part, dtype) for part in (*state, *sums))),
        [*(_row(t, dtype) for t in (gout, *recorded[:3])), _row(recorded[3], torch.int16)],
        [_row(gx, dtype)],
        shape,
    )
    by_constants = (None if g is None else _summed(g, value) for g, value in zip(sums, values, strict=True))
    return [gx, *(g if want else None for g, want in zip(state, wanted[1:4], strict=True)), *by_constants]


class _Row(NamedTuple):
    """Memory of `[T, B, *N]` as numbers on one axis, and how many of them lie between two steps."""

    numbers: Array
    stride: int

    def steps(self, steps: int, columns: int) -> Array:
        """The array `[T, M]`."""
        item = self.numbers.itemsize
        return np.lib.stride_tricks.as_strided(self.numbers, (steps, columns), (self.stride * item, item))


def _run(kernel: Kernel, columns: Sequence[Any], inputs: list[_Row], outputs: list[_Row], shape: torch.Size) -> None:
    """Run the kernel on all columns, split over as many threads as torch uses."""
    steps, count = shape[0], math.prod(shape[1:])
    whole = count - count % LANES
    streams = count == whole and all(_is_line(row.numbers) for row in outputs) and outputs[0].numbers.nbytes > _STREAM
    arguments = (*columns, *(row.numbers for row in (*inputs, *outputs)), *(row.stride for row in inputs), count, steps)
    if whole:
        workers = max(1, min(torch.get_num_threads(), steps * whole // _GRAIN))
        share = -(-whole // (workers * LANES)) * LANES
        first, *others = [(lo, min(lo + share, whole)) for lo in range(0, whole, share)]
        jobs = [pool_of(torch.get_num_threads()).submit(kernel, *arguments, *s, streams) for s in others]
        kernel(*arguments, *first, streams)
        for job in jobs:
            job.result()
    if count > whole:
        _run_rest(kernel, columns, inputs, outputs, steps, count)


def _run_rest(
    kernel: Kernel, columns: Sequence[Any], inputs: list[_Row], outputs: list[_Row], steps: int, count: int
) -> None:
    """Run the kernel on the last columns, too few for a vector, in memory of a vector's width."""
    rest = count % LANES
    first = count - rest

    def wide_column(values: Any) -> Any:
        if not isinstance(values, np.ndarray) or values.size == 0:
            return values
        if values.ndim == 2:  # constants
            neurons = np.arange(first, first + LANES) % values.shape[1]
            return np.ascontiguousarray(values[:, neurons])
        return np.concatenate([values[first:], np.zeros(LANES - rest, values.dtype)])

    def wide_row(row: _Row) -> _Row:
        if row.numbers.size == 0:
            return row
        wide = np.zeros((steps, LANES), row.numbers.dtype)
        wide[:, :rest] = row.steps(steps, count)[:, first:]
        return _Row(wide.reshape(-1), LANES)

    wide_columns, wide_inputs, wide_outputs = (
        [wide_column(c) for c in columns], [wide_row(r) for r in inputs], [wide_row(r) for r in outputs]
    )  # fmt: skip
    numbers, strides = [r.numbers for r in (*wide_inputs, *wide_outputs)], [r.stride for r in wide_inputs]
    kernel(*wide_columns, *numbers, *strides, LANES, steps, 0, LANES, False)
    for values, wide in zip(columns, wide_columns, strict=True):
        if isinstance(values, np.ndarray) and values.ndim == 1 and values.size:
            values[first:] = wide[:rest]
    for row, wide in zip(outputs, wide_outputs, strict=True):
        if row.numbers.size:
            row.steps(steps, count)[:, first:] = wide.steps(steps, LANES)[:, :rest]


def _constants(values: Sequence[Maybe], shape: torch.Size, dtype: torch.dtype) -> Array:
    """The constants, one row each, with one column if all neurons share them, else one for each neuron."""
    given = {row: value.detach() for row, value in enumerate(values) if value is not None}
    shared = all(value.numel() == 1 for value in given.values())
    rows = np.zeros((len(values), 1 if shared else math.prod(shape[2:])), _name(dtype))
    for row, value in given.items():
        rows[row] = (value if value.numel() == 1 else value.expand(shape[2:])).numpy().reshape(-1)
    return rows


def _row(tensor: Maybe, dtype: torch.dtype) -> _Row:
    """What is missing is empty; copied is only what is not contiguous within a step."""
    if tensor is None or tensor.numel() == 0:
        return _Row(np.empty(0, _name(dtype)), 0)
    tensor = tensor.detach().resolve_neg()
    if not tensor[0].is_contiguous():
        tensor = tensor.contiguous()
    steps, columns, stride = tensor.shape[0], math.prod(tensor.shape[1:]), tensor.stride(0) if len(tensor) > 1 else 0
    return _Row(tensor.as_strided((stride * (steps - 1) + columns,), (1,)).numpy(), stride)


def _column(tensor: Maybe, dtype: torch.dtype) -> Array:
    return np.empty(0, _name(dtype)) if tensor is None else tensor.numpy().reshape(-1)


def _copy(tensor: Tensor) -> Tensor:
    """Contiguous memory of its own for a state: the loop carries it along in place."""
    return torch.empty_like(tensor, requires_grad=False, memory_format=torch.contiguous_format).copy_(tensor.detach())


def _summed(gradient: Tensor, constant: Maybe) -> Tensor:
    """Sum over the batch and over the neurons that share a value of the constant."""
    assert constant is not None
    # By NumPy in double precision: the order in which torch sums depends on the number of threads.
    g = gradient.numpy().sum(0, dtype=np.float64)
    padded = (1,) * (g.ndim - constant.ndim) + constant.shape
    shared = tuple(axis for axis, size in enumerate(padded) if size == 1)
    return torch.as_tensor(g.sum(shared), dtype=constant.dtype).reshape(constant.shape)


def _is_line(numbers: Array) -> bool:
    """Whether an array starts with a cache line."""
    return numbers.ctypes.data % BYTES == 0


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# -- memory for the tensors, used again when they are freed ------------------------------------------------------------
#
# A tensor as large as a population's record comes from the system page by page, which costs more time than the loop
# that fills it (92 MB: 27 ms). So large tensors get memory of their own, on huge pages where the system has them, which
# comes back to a pool when nobody refers to the tensor any more, and then goes to the next tensor of the same size.

_HUGE = 1 << 21  # bytes of a huge page
_LEAST = 1 << 20  # bytes of a tensor worth the trouble
_NUMPY = {torch.float32: np.float32, torch.float64: np.float64, torch.int16: np.int16}


class Pool:
    """Blocks of memory that wait for a tensor: no more than `limit` bytes of them, the latest to come back are kept.

    Threads may share it. It never waits for its lock, since a tensor can be freed at any moment, within the pool itself
    too: who finds it taken goes without, to the system.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.lent = 0  # bytes that tensors have now; a statistic, which threads at the same moment may blur
        self._free: list[Block] = []
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Bytes that wait for a tensor."""
        return sum(block.nbytes for block in self._free)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor to be filled, at a multiple of 64 bytes."""
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes < _LEAST:
            return torch.empty(shape, dtype=dtype)
        block = self._take(-(-nbytes // _HUGE) * _HUGE)
        loan = block[:nbytes].view(_NUMPY[dtype])  # lives as long as any tensor or array that looks at it
        weakref.finalize(loan, self._give_back, block).atexit = False
        return torch.from_numpy(loan).view(shape)

    def clear(self) -> None:
        """Give what waits to the system."""
        with self._lock:
            self._free.clear()

    def _take(self, nbytes: int) -> Block:
        self.lent += nbytes
        if self._lock.acquire(blocking=False):
            try:
                for k in reversed(range(len(self._free))):
                    if self._free[k].nbytes == nbytes:
                        return self._free.pop(k)
            finally:
                self._lock.release()
        return _fresh(nbytes)

    def _give_back(self, block: Block) -> None:
        self.lent -= block.nbytes
        if self._lock.acquire(blocking=False):
            try:
                self._free.append(block)
                while self.waiting > self.limit:
                    del self._free[0]
            finally:
                self._lock.release()


def _fresh(nbytes: int) -> Block:
    """Private memory that starts at a huge page."""
    private: dict[str, Any] = {} if sys.platform == "win32" else {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}
    memory = mmap.mmap(-1, nbytes + _HUGE, **private)
    block = np.frombuffer(memory, np.uint8)
    start = -block.ctypes.data % _HUGE
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return block[start : start + nbytes]


pool = Pool(limit=1 << 31)
