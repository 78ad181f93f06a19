"""Runs on a cluster through Dask, which gives the runs of a dead worker to another."""

from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path

from fluctua.lab.sweeps.runner import Backend
from fluctua.lab.sweeps.runner_perform import failure, perform
from fluctua.lab.sweeps.store import Store
from fluctua.lab.sweeps.study import Record
from fluctua.lab.sweeps.sweep import Run


def dask_cluster(address: str, *, timeout: float = 30.0) -> Backend:
    """A backend of the workers of the Dask scheduler at an address; waits up to `timeout` seconds for it.

    The backend raises RuntimeError without Dask, and OSError if no scheduler answers or it dies on the way.
    """
    return partial(_run_all, address=address, timeout=timeout)


def _run_all(runs: Sequence[Run], root: Path, *, address: str, timeout: float) -> Generator[Record, None, None]:
    try:
        from distributed import CancelledError, Client, as_completed
    except ImportError as error:
        raise RuntimeError('--scheduler needs Dask, which is missing: pip install "fluctua[cluster]"') from error
    try:
        client = Client(address, timeout=timeout, set_as_default=False)
    except (OSError, ValueError) as error:
        raise OSError(
            f"no Dask scheduler answers at {address} within {timeout:g} s: start one with `dask scheduler`, or leave "
            "--scheduler out"
        ) from error
    store = Store(root.resolve())
    with client:
        # Not pure: a run whose key Dask happens to remember from an earlier sweep must still be repeated.
        by_future = {client.submit(perform, run, store.root, pure=False): run for run in runs}
        try:
            for future in as_completed(list(by_future), loop=client.loop):
                run = by_future.pop(future)
                try:
                    record = future.result()
                except CancelledError as error:
                    raise OSError(
                        f"the Dask scheduler at {address} is gone: finished runs are kept, so restart it and "
                        "repeat the command"
                    ) from error
                except Exception as died:  # the worker died more often than Dask retries
                    record = failure(run, died)
                if not store.has(run):  # workers may have another file system
                    store.save(record)
                yield record
                future.release()
        finally:
            client.cancel(list(by_future))
