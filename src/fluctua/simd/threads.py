"""The threads of CPU kernels, and samples split over them: no barrier until all are done.

They are those of torch, as OpenMP lets its threads wait for the next work in a loop of some milliseconds, in which they
would take the cores from any others.
"""

import ctypes
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from pathlib import Path
from threading import Barrier
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")
Blocks = Sequence[tuple[int, int]]
"""Samples from the first to the one before the second, of each block."""

GRAIN = 1 << 16
"""Elements that are worth waking a thread for."""

_USUAL = 1 << 19  # bytes of a second cache of which nothing is known
_BORN = os.getpid()
_Body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def over_samples(work: Callable[[Blocks], Result], samples: int, block: int, most: int | None = None) -> list[Result]:
    """Results of `work`, one for each thread, in the order of the samples.

    Args:
        work: gets the samples of one thread as blocks `(first, stop)` of at most `block`.
        samples: number of samples.
        block: number of samples processed together.
        most: largest useful number of threads.
    """
    return over_blocks(work, shares(samples, block, most))


def over_each_block(call: Callable[[int, int], object], samples: int, block: int, most: int | None = None) -> None:
    """Call it for each block, with its first sample and the one behind its last; the rest as in `over_samples`."""

    def work(blocks: Blocks) -> None:
        for first, stop in blocks:
            call(first, stop)

    over_samples(work, samples, block, most)


def over_shares(call: Callable[[int, int], object], samples: int, elements: int) -> None:
    """Call it once in each thread, with its first sample and the one behind its last.

    Args:
        call: is given the samples.
        samples: number of samples.
        elements: number of elements in all; few are left to few threads.
    """
    over_each_block(call, samples, samples, max(1, elements // GRAIN))


def shares(samples: int, block: int, most: int | None = None) -> list[Blocks]:
    """The blocks of each thread, as `over_samples` splits them."""
    threads = torch.get_num_threads()
    share = max(1, -(-samples // min(threads, most or threads)))
    spans = [(lo, min(lo + share, samples)) for lo in range(0, samples, share)]
    return [_blocks(*span, block) for span in spans or [(0, samples)]]


def over_blocks(work: Callable[[Blocks], Result], each: Sequence[Blocks]) -> list[Result]:
    """Results of `work` on the blocks of each thread."""

    def run(blocks: Blocks) -> Result:
        with torch.no_grad():  # set separately in each thread
            return work(blocks)

    if len(each) < 2:
        return [run(blocks) for blocks in each]
    parallel = _parallel() if os.getpid() == _BORN else None  # of OpenMP's threads, none survives a fork
    if parallel is None:
        pool = _pool(os.getpid(), torch.get_num_threads())
        return [job.result() for job in [pool.submit(run, blocks) for blocks in each]]
    todo, results, errors = iter(enumerate(each)), dict[int, Result](), list[BaseException]()

    def help_out(_: int | None) -> None:
        try:
            for k, blocks in todo:
                results[k] = run(blocks)
        except BaseException as error:  # which OpenMP could not hand on
            errors.append(error)

    parallel(_Body(help_out), None, torch.get_num_threads(), 0)  # with fewer, the others would end
    for error in errors:
        raise error
    return [results[k] for k in range(len(each))]


@cache
def _parallel() -> Callable[..., None] | None:
    """OpenMP's function that runs another in many threads, from the library that torch uses; None if it has none."""
    try:
        found = ctypes.CDLL(str(Path(torch.__file__).with_name("lib") / "libtorch_cpu.so")).GOMP_parallel
    except (OSError, AttributeError):  # not on Linux, or without OpenMP
        return None
    found.argtypes, found.restype = [_Body, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return found


@cache
def cache_size() -> int:
    """Bytes of a core's second cache, as far as the system tells: blocks of this size are processed together."""
    try:
        kilobytes = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip().removesuffix("K")
    except OSError:
        return _USUAL
    return int(kilobytes) << 10 if kilobytes.isdecimal() else _USUAL


def added(parts: Sequence[Sequence[Any]]) -> list[Any]:
    """Sums over threads, in their order, of arrays that each of them has filled."""
    return [sum(arrays[1:], arrays[0]) for arrays in zip(*parts, strict=True)]


def _blocks(lo: int, hi: int, block: int) -> Blocks:
    return [(first, min(first + block, hi)) for first in range(lo, hi, max(1, block))]


@lru_cache(maxsize=1)
def _pool(pid: int, threads: int) -> ThreadPoolExecutor:
    """Other threads, where OpenMP's cannot be had; in each of them torch uses one thread.

    A forked process gets its own, since threads do not survive a fork.
    """
    everybody = Barrier(threads)

    def alone() -> None:
        torch.get_num_threads()  # makes torch set up the thread, which would undo the next line
        torch.set_num_threads(1)
        everybody.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="fluctua")
    for job in [pool.submit(alone) for _ in range(threads)]:
        job.result()
    torch.set_num_threads(threads)  # inherited by threads that start later
    return pool
