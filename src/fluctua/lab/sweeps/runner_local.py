"""Runs in processes of this machine, one per core and one thread each; a process that dies loses only its own run."""

import os
import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from pathlib import Path

from joblib.externals.loky import ProcessPoolExecutor

from fluctua.lab.sweeps.runner import Backend
from fluctua.lab.sweeps.runner_perform import failure, perform
from fluctua.lab.sweeps.store import Store
from fluctua.lab.sweeps.study import Record
from fluctua.lab.sweeps.sweep import Run


def local_processes(workers: int | None = None) -> Backend:
    """A backend of `workers` processes (default: one for each core that this process may use).

    Raises:
        ValueError: fewer than one process.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"a sweep needs at least one process, got {workers}")
    return partial(_run_all, workers=workers or cores())


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run_all(runs: Sequence[Run], root: Path, *, workers: int) -> Generator[Record, None, None]:
    # One pool of one process per core: a process that dies breaks its pool, and fails everything queued in it.
    waiting, idle = list(reversed(runs)), [_pool() for _ in range(min(workers, len(runs)))]
    busy: dict[Future[Record], tuple[ProcessPoolExecutor, Run]] = {}
    try:
        while waiting or busy:
            while waiting and idle:
                pool, run = idle.pop(), waiting.pop()
                busy[pool.submit(perform, run, root)] = pool, run
            for future in wait(busy, return_when=FIRST_COMPLETED).done:
                pool, run = busy.pop(future)
                died = future.exception()
                if died is None:
                    record = future.result()
                else:
                    pool.shutdown(kill_workers=True)
                    pool, record = _pool(), failure(run, died)
                    Store(root).save(record)
                idle.append(pool)
                yield record
    finally:  # files are written in one step, so killing a process is safe
        for pool in [*idle, *(pool for pool, _ in busy.values())]:
            pool.shutdown(kill_workers=True)


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, initializer=_end_with, initargs=(os.getpid(),))


def _end_with(parent: int) -> None:
    """End this process with its runner, which cannot stop it when killed by SIGKILL."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
