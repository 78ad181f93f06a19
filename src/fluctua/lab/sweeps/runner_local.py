"""Runs in processes of this machine, one per core and one thread each; a process that dies takes one run with it."""

import multiprocessing
import os
import threading
from collections.abc import Generator, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from fluctua.lab.sweeps.runner import Backend
from fluctua.lab.sweeps.runner_perform import failure, perform
from fluctua.lab.sweeps.store import Store
from fluctua.lab.sweeps.study import Record
from fluctua.lab.sweeps.sweep import Run

_SPAWN = multiprocessing.get_context("spawn")  # forking is not safe once torch has threads


def local_processes(workers: int | None = None) -> Backend:
    """A backend of so many processes (default: one for each core that this process may use).

    Raises:
        ValueError: fewer than one process.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"a sweep needs one process or more, got {workers}")
    return partial(_run_all, workers=workers or cores())


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run_all(runs: Sequence[Run], root: Path, *, workers: int) -> Generator[Record, None, None]:
    waiting, busy = list(reversed(runs)), list[_Worker]()
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                busy.append(_Worker(root))
                busy[-1].begin(waiting.pop())
            wait([worker.connection for worker in busy])
            for worker in [worker for worker in busy if worker.connection.poll()]:
                yield worker.end()
                if waiting and worker.alive:
                    worker.begin(waiting.pop())
                else:
                    busy.remove(worker)
                    worker.stop()
    finally:
        for worker in busy:
            worker.stop()


class _Worker:
    """A process that does one run after the other."""

    def __init__(self, root: Path) -> None:
        self.root, self.alive = root, True
        self.connection, theirs = _SPAWN.Pipe()
        self._process: SpawnProcess = _SPAWN.Process(target=_serve, args=(theirs, root), daemon=True)
        self._process.start()
        theirs.close()  # so that its end is seen here as the end of the connection
        self._run: Run | None = None

    def begin(self, run: Run) -> None:
        """Have it do a run; one that is dead already says so in `end`."""
        self._run = run
        with suppress(BrokenPipeError):
            self.connection.send(run)

    def end(self) -> Record:
        """What came of the run; waits for it."""
        assert self._run is not None
        try:
            record: Record = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.alive = False
            self._process.join()
            code = self._process.exitcode
            how = f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
            record = failure(
                self._run, ChildProcessError(f"the process of the run died ({how}); 9 is often want of memory")
            )
            Store(self.root).save(record)
        return record

    def stop(self) -> None:
        """End the process, whatever it does: files are written at one go, so nothing is left half done."""
        self._process.kill()
        self._process.join()
        self.connection.close()


def _serve(connection: Connection, root: Path) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        while True:
            connection.send(perform(connection.recv(), root))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):  # Ctrl-C is answered by the parent
        pass


def _die_with_parent() -> None:
    """A runner killed with SIGKILL cannot stop its processes; they would go on beside those of the next runner."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
