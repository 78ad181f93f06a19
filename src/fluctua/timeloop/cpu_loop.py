"""The passes of the fused CPU loop: a neuron of any kind through all steps, forward and backward.

Samples and neurons are alike to the loop, so it takes a current `[T, B, *N]` as `[T, M]`, and splits the columns over
threads. For backward it records what the derivation found to be cheapest; see `Plan`.
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

from fluctua.simd import threads
from fluctua.simd.vectors import BYTES, lanes, width_of
from fluctua.timeloop.contract import name_of
from fluctua.timeloop.cpu_source import Kernel, kernel
from fluctua.timeloop.emitting import Pass, Passed

Array = NDArray[Any]
Block = NDArray[np.uint8]

LANES = 16  # columns that are taken together: one vector of float32, two of float64; threads share no cache line
BLOCK = 1 << 15  # columns; a multiple of every vector's lanes. Their state stays in the core's cache
_STEPS = 3  # of a vector taken at a time, with its state in registers
_STREAM = 1 << 22  # bytes from which an array does not stay in the caches


def run(way: Pass, read: Sequence[Tensor], state: Sequence[Tensor], constants: Sequence[Tensor]) -> Passed:
    """A pass over the arrays that it reads, each `[T, B, *N]`."""
    like = read[0]
    types = [like.dtype] * (len(way.written) - way.halves) + [torch.int16] * way.halves
    written = [pool.empty(tuple(like.shape), dtype) for dtype in types]
    end, sums = like.new_empty(len(state), *like.shape[1:]), like.new_zeros(len(way.sums), *like.shape[1:])
    for row, part in zip(end, state, strict=True):  # a copy, since the loop updates it in place
        row.copy_(part.detach())
    own = _constants(constants, like)
    code = through(way, name_of(like.dtype), own.shape[1] == 1)
    columns = [end.numpy().reshape(-1), sums.numpy().reshape(-1)]
    _run(_Call(code, own, columns, [_row(t) for t in read], [_row(t) for t in written]), like.shape)
    return Passed(written, end, sums)


@lru_cache(maxsize=256)
def through(way: Pass, dtype: str, shared: bool, narrow: bool = False) -> Kernel:
    """The kernel of a pass; `shared` says whether all neurons have the same constants, `narrow` that rows are short."""
    facts: dict[str, int] = {"FORTH": way.forth, "SHARED": shared, "NARROW": narrow}
    facts |= {"LANES": lanes(dtype), "BLOCK": BLOCK, "STEPS": _STEPS}
    return kernel(way, "through", dtype, facts)


class _Row(NamedTuple):
    """Memory of `[T, B, *N]` on one axis, and the stride between two steps."""

    numbers: Array
    stride: int

    def steps(self, steps: int, columns: int) -> Array:
        """The array `[T, M]`."""
        item = self.numbers.itemsize
        return np.lib.stride_tricks.as_strided(self.numbers, (steps, columns), (self.stride * item, item))


class _Call(NamedTuple):
    """The arguments of a kernel: constants `[C, period]`, state and sums, arrays to read and to write."""

    kernel: Kernel
    constants: Array
    columns: list[Array]
    read: list[_Row]
    written: list[_Row]

    def __call__(self, *sizes: int) -> None:
        """Run it on `columns, steps, taken, start, stop, streams`."""
        rows = (tuple(row.numbers for row in group) for group in (self.read, self.written))
        strides = tuple(row.stride for row in self.read)
        self.kernel.call(self.kernel.numbers, self.constants, *self.columns, *rows, strides, *sizes)


def _run(call: _Call, shape: torch.Size) -> None:
    """Run the kernel on all columns, split over as many threads as torch uses."""
    steps, count = shape[0], math.prod(shape[1:])
    whole = count // LANES
    streams = count == whole * LANES and streamed([row.numbers for row in call.written])

    def columns(first: int, stop: int) -> None:
        call(count, steps, steps, first * LANES, stop * LANES, streams)

    if (elements := steps * whole * LANES) < 2 * threads.GRAIN:
        columns(0, whole)
    else:
        threads.over_shares(columns, whole, elements)
    if count > whole * LANES:
        _run_rest(call, steps, count)


def streamed(out: Sequence[Array | Tensor]) -> bool:
    """Whether kernels may write whole vectors past the caches, in which these arrays would not stay."""
    addresses = [t.data_ptr() if isinstance(t, Tensor) else t.ctypes.data for t in out]
    return bool(out) and out[0].nbytes > _STREAM and not any(address % BYTES for address in addresses)


def _run_rest(call: _Call, steps: int, count: int) -> None:
    """Run the kernel on the last columns, too few for a vector, in memory of a vector's width."""
    rest = count % LANES
    first, period = count - rest, call.constants.shape[1]
    constants = call.constants
    if period > 1:
        constants = np.ascontiguousarray(constants[:, np.arange(first, first + LANES) % period])

    def widened(narrow: Array) -> Array:
        wide = np.zeros((len(narrow), LANES), narrow.dtype)
        wide[:, :rest] = narrow[:, first:]
        return wide.reshape(-1)

    columns = [values.reshape(-1, count) for values in call.columns]
    written = [row.steps(steps, count) for row in call.written]
    wide_columns, wide_written = ([widened(values) for values in group] for group in (columns, written))
    read = [_Row(widened(row.steps(steps, count)), LANES) for row in call.read]
    wide = _Call(call.kernel, constants, wide_columns, read, [_Row(values, LANES) for values in wide_written])
    wide(LANES, steps, steps, 0, LANES, False)
    for values, others in zip([*columns, *written], [*wide_columns, *wide_written], strict=True):
        values[:, first:] = others.reshape(-1, LANES)[:, :rest]


def _constants(values: Sequence[Tensor], like: Tensor) -> Array:
    """The constants, one row each: one column if neurons share them, else one per neuron, padded to whole vectors."""
    if all(value.numel() == 1 for value in values):
        return np.array([[value.item()] for value in values], name_of(like.dtype))
    each = [(v.reshape(()) if v.numel() == 1 else v).detach().expand(like.shape[2:]) for v in values]
    rows: Array = torch.stack(each).reshape(len(values), -1).numpy()
    return np.tile(rows, LANES // math.gcd(LANES, max(1, rows.shape[1])))


def _row(tensor: Tensor) -> _Row:
    """Copies only what is not contiguous within a step."""
    tensor = tensor.detach().resolve_neg()
    if tensor.numel() > 0 and not tensor[0].is_contiguous():
        tensor = tensor.contiguous()
    columns, stride = math.prod(tensor.shape[1:]), tensor.stride(0) if len(tensor) > 1 else 0
    span = columns and stride * (len(tensor) - 1) + columns
    return _Row(tensor.as_strided((span,), (1,)).numpy(), stride)


def padded(values: Tensor, width: int | None = None, fill: Tensor | float = 0.0) -> Array:
    """Rows padded to a width, by default to whole vectors, as one axis."""
    n, of_vectors = values.shape[-1], width_of(values.shape[-1], name_of(values.dtype))
    out = values.new_zeros(*values.shape[:-1], width or of_vectors) + fill
    out[..., :n] = values
    array: Array = out.reshape(-1).numpy()
    return array


# -- memory for tensors, reused when they are freed --------------------------------------------------------------------
#
# The system provides the memory of a large tensor page by page, which takes longer than the loop that fills it (92 MB:
# 27 ms). So large tensors get memory of their own, on huge pages if possible. It returns to a pool when nobody refers
# to the tensor any more, and serves the next tensor of the same size.

_HUGE = 1 << 21  # bytes of a huge page
_LEAST = 1 << 20  # bytes from which a tensor is worth it
_NUMPY = {torch.float32: np.float32, torch.float64: np.float64, torch.int16: np.int16}


class Pool:
    """Blocks of free memory for tensors, at most `limit` bytes in all; the latest to return are kept.

    Threads may share it. It never waits for its lock, since a tensor can be freed at any moment, even within the pool:
    if the lock is taken, memory goes to or comes from the system.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.lent = 0  # bytes in tensors now; a statistic, not exact with several threads
        self._free: list[Block] = []
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Bytes of free blocks."""
        return sum(block.nbytes for block in self._free)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor, aligned to 64 bytes."""
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes < _LEAST:
            return torch.empty(shape, dtype=dtype, device="cpu")
        block = self._take(-(-nbytes // _HUGE) * _HUGE)
        loan = block[:nbytes].view(_NUMPY[dtype])  # lives as long as any tensor or array that uses it
        weakref.finalize(loan, self._give_back, block).atexit = False
        return torch.from_numpy(loan).view(shape)

    def clear(self) -> None:
        """Return free blocks to the system."""
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
