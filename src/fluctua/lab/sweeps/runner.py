"""The runner of a sweep: runs what the store lacks, stores every run as it ends, and estimates the time left.

It may be killed at any moment, by SIGKILL or a power cut: the same call then runs what is missing.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from fluctua.lab.sweeps.store import Store
from fluctua.lab.sweeps.study import Record
from fluctua.lab.sweeps.sweep import Run, in_words

Backend = Callable[[Sequence[Run], Path], Generator[Record, None, None]]
"""Performs runs in any order, stores each at that path, and yields each as it ends, failed or not."""


class SweepInterrupted(KeyboardInterrupt):
    """A sweep was interrupted by Ctrl-C; the message says how to resume."""


def sweep(runs: Sequence[Run], store: Store, backend: Backend, console: Console) -> None:
    """Perform all runs that the store has not finished, also failed ones.

    Args:
        runs: all runs of the sweep.
        store: an opened store.
        backend: `local_processes(...)` or `dask_cluster(...)`.
        console: for showing progress.

    Raises:
        SweepInterrupted: Ctrl-C; a KeyboardInterrupt. Finished runs are in the store.
    """
    todo = [run for run in runs if not store.has(run)]
    if len(todo) < len(runs):
        console.print(
            f"{len(runs) - len(todo)} of {len(runs)} runs are finished already, in {store.root}", markup=False
        )
    if not todo:
        return
    by_key = {run.key: run for run in todo}
    clock = _Clock(total=sum(run.seconds for run in todo), start=time.monotonic())
    ended = 0
    try:
        with _progress(console, len(todo)) as advance, closing(backend(todo, store.root)) as records:
            for record in records:
                ended += 1
                clock.done += by_key[record.key].seconds
                advance(record, clock.left(time.monotonic()))
    except KeyboardInterrupt:
        raise SweepInterrupted(
            f"the sweep was interrupted with {len(todo) - ended} runs left: the same command resumes"
        ) from None


@dataclass
class _Clock:
    """How much work is done since the start, in expected seconds on one core."""

    total: float
    start: float
    done: float = 0.0

    def left(self, now: float) -> float:
        """Seconds until the end, if the rest is as fast as the work so far."""
        return (now - self.start) * (self.total - self.done) / self.done


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[Record, float], None]]:
    """A bar on a terminal; in a log file a line per run."""
    columns = (TextColumn("{task.completed}/{task.total} runs"), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task: TaskID = bar.add_task("the time is known after the first run", total=total)
        ended = 0

        def advance(record: Record, left: float) -> None:
            nonlocal ended
            ended += 1
            name = f"{in_words(record.setting)}, seed {record.seed}"
            bar.update(task, advance=1, description=f"{duration(left)} left")
            if record.error is not None:
                console.print(f"failed: {name}: {record.error}", markup=False, soft_wrap=True)
            elif not console.is_terminal:
                console.print(
                    f"{ended}/{total} {name}: {duration(record.seconds)}, {duration(left)} left",
                    markup=False,
                    soft_wrap=True,
                )

        yield advance


def duration(seconds: float) -> str:
    """A time for people: `8 s`, `3 min`, `2.5 h`, `400 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 360_000 else f"{seconds / 3600:.0f} h"
