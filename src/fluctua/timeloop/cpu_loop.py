"""The passes of the fused CPU loop: a neuron of any kind through all steps, and the way back.

Samples and neurons are alike to the loop, so a current `[T, B, *N]` is taken as `[T, M]`, and its columns are split
over threads. What is recorded for the way back is what the derivation found to be cheapest; see `Plan`.
"""

import math
import mmap
import sys
import threading
import weakref
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluctua.simd.vectors import BYTES, lanes
from fluctua.timeloop.contract import name_of
from fluctua.timeloop.cpu_source import Kernel, kernel
from fluctua.timeloop.emitting import Pass, Passed
from fluctua.timeloop.threads import pool_of

Array = NDArray[Any]
Block = NDArray[np.uint8]

LANES = 16  # columns that are taken together: one vector of float32, two of float64; threads share no cache line
BLOCK = 1 << 15  # columns; a multiple of every vector's lanes. Their state stays in the core's cache
_STEPS = 3  # of a vector taken at a time, with its state in registers
_GRAIN = 1 << 16  # elements worth waking a thread for
_STREAM = 1 << 22  # bytes of an array that does not stay in the caches anyway


def run(way: Pass, read: Sequence[Tensor], state: Sequence[Tensor], constants: Sequence[Tensor]) -> Passed:
    """A pass over what is read, each `[T, B, *N]`, halves last."""
    like = read[0]
    written = [pool.empty(tuple(like.shape), like.dtype) for _ in way.written]
    new_halves = [pool.empty(tuple(like.shape), torch.int16) for _ in way.halves]
    own, end = _constants(constants, like), _stacked(state, like)
    sums = torch.zeros((len(way.sums), *like.shape[1:]), dtype=like.dtype)
    n = len(way.read)
    rows, out = [_rows(read[:n]), _rows(read[n:])], [_rows(written), _rows(new_halves)]
    _run(_kernel(way, name_of(like.dtype), own.shape[1] == 1), own, [end, sums], rows, out, like.shape)
    return Passed([*written, *new_halves], end, sums)


@lru_cache(maxsize=256)
def _kernel(way: Pass, dtype: str, shared: bool) -> Kernel:
    facts = {"FORTH": way.forth, "SHARED": shared, "LANES": lanes(dtype), "BLOCK": BLOCK, "STEPS": _STEPS}
    return kernel(way, "through", dtype, facts)


class _Row(NamedTuple):
    """Memory of `[T, B, *N]` as numbers on one axis, and how many of them lie between two steps."""

    numbers: Array
    stride: int

    def steps(self, steps: int, columns: int) -> Array:
        """The array `[T, M]`."""
        item = self.numbers.itemsize
        return np.lib.stride_tricks.as_strided(self.numbers, (steps, columns), (self.stride * item, item))


def _run(
    kernel: Kernel,
    constants: Array,
    columns: Sequence[Tensor],
    read: Sequence[Sequence[_Row]],
    written: Sequence[Sequence[_Row]],
    shape: torch.Size,
) -> None:
    """Run the kernel on all columns, split over as many threads as torch uses."""
    steps, count = shape[0], math.prod(shape[1:])
    whole = count - count % LANES
    out = [row.numbers for group in written for row in group]
    streams = count == whole and bool(out) and out[0].nbytes > _STREAM and all(_is_line(numbers) for numbers in out)
    flat = [part.numpy().reshape(-1) for part in columns]
    arguments = *_arguments(kernel, constants, flat, read, written), count, steps
    if whole:
        workers = max(1, min(torch.get_num_threads(), steps * whole // _GRAIN))
        share = -(-whole // (workers * LANES)) * LANES
        first, *others = [(lo, min(lo + share, whole)) for lo in range(0, whole, share)]
        jobs = [pool_of(torch.get_num_threads()).submit(kernel.call, *arguments, *s, streams) for s in others]
        kernel.call(*arguments, *first, streams)
        for job in jobs:
            job.result()
    if count > whole:
        _run_rest(kernel, constants, flat, read, written, steps, count)


def _arguments(
    kernel: Kernel,
    constants: Array,
    columns: Sequence[Array],
    read: Sequence[Sequence[_Row]],
    written: Sequence[Sequence[_Row]],
) -> tuple[Any, ...]:
    """As the shells take them."""
    rows = (tuple(row.numbers for row in group) for group in (*read, *written))
    strides = tuple(row.stride for group in read for row in group)
    return kernel.numbers, constants, *columns, *rows, strides


def _run_rest(
    kernel: Kernel,
    constants: Array,
    columns: Sequence[Array],
    read: Sequence[Sequence[_Row]],
    written: Sequence[Sequence[_Row]],
    steps: int,
    count: int,
) -> None:
    """Run the kernel on the last columns, too few for a vector, in memory of a vector's width."""
    rest = count % LANES
    first = count - rest
    if constants.shape[1] > 1:
        constants = np.ascontiguousarray(constants[:, np.arange(first, first + LANES) % constants.shape[1]])

    def widened(narrow: Array) -> Array:
        wide = np.zeros((len(narrow), LANES), narrow.dtype)
        wide[:, :rest] = narrow[:, first:]
        return wide.reshape(-1)

    def of_rows(groups: Sequence[Sequence[_Row]]) -> list[list[_Row]]:
        return [[_Row(widened(row.steps(steps, count)), LANES) for row in group] for group in groups]

    wide_columns = [widened(values.reshape(-1, count)) for values in columns]
    wide_read, wide_written = of_rows(read), of_rows(written)
    kernel.call(*_arguments(kernel, constants, wide_columns, wide_read, wide_written), LANES, steps, 0, LANES, False)
    for values, wide in zip(columns, wide_columns, strict=True):
        values.reshape(-1, count)[:, first:] = wide.reshape(-1, LANES)[:, :rest]
    for group, wide_group in zip(written, wide_written, strict=True):
        for row, wide_row in zip(group, wide_group, strict=True):
            row.steps(steps, count)[:, first:] = wide_row.steps(steps, LANES)[:, :rest]


def _constants(values: Sequence[Tensor], like: Tensor) -> Array:
    """The constants, one row each, with one column if all neurons share them, else one for each neuron."""
    neurons = like.shape[2:]
    shared = all(value.numel() == 1 for value in values)
    rows = np.zeros((len(values), 1 if shared else math.prod(neurons)), name_of(like.dtype))
    for row, value in zip(rows, values, strict=True):
        number = value.detach()
        row[:] = (number if number.numel() == 1 else number.expand(neurons)).numpy().reshape(-1)
    return rows


def _rows(tensors: Sequence[Tensor]) -> list[_Row]:
    return [_row(tensor) for tensor in tensors]


def _row(tensor: Tensor) -> _Row:
    """Copied is only what is not contiguous within a step."""
    tensor = tensor.detach().resolve_neg()
    if tensor.numel() == 0:
        return _Row(np.empty(0, name_of(tensor.dtype)), 0)
    if not tensor[0].is_contiguous():
        tensor = tensor.contiguous()
    steps, columns, stride = tensor.shape[0], math.prod(tensor.shape[1:]), tensor.stride(0) if len(tensor) > 1 else 0
    return _Row(tensor.as_strided((stride * (steps - 1) + columns,), (1,)).numpy(), stride)


def _stacked(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    """Contiguous memory of its own for a state `[S, B, *N]`: the loop carries it along in place."""
    out = torch.empty((len(parts), *like.shape[1:]), dtype=like.dtype)
    for row, part in zip(out, parts, strict=True):
        row.copy_(part.detach())
    return out


def _is_line(numbers: Array) -> bool:
    """Whether an array starts with a cache line."""
    return numbers.ctypes.data % BYTES == 0


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
