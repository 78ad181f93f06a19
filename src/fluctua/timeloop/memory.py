"""Memory for large tensors, used again when they are freed.

A tensor as large as a population's record comes from the system page by page, which costs more time than the loop that
fills it (92 MB: 27 ms). So large tensors get memory of their own, on huge pages where the system has them, which comes
back to a pool when nobody refers to the tensor any more, and then goes to the next tensor of the same size.
"""

import math
import mmap
import sys
import threading
import weakref
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Block = NDArray[np.uint8]

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
