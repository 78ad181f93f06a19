"""One run, wherever it happens: on one thread, with its result stored and its failure caught."""

import os
import sys
import time
import traceback
from pathlib import Path

from fluctua.lab.sweeps.store import Store
from fluctua.lab.sweeps.study import Record
from fluctua.lab.sweeps.sweep import Run


def perform(run: Run, root: Path) -> Record:
    """Perform a run on one CPU thread and keep its result in the store at `root`."""
    _one_thread()  # there is a process for every core
    start = time.monotonic()
    try:
        outcome = run()
    except Exception as error:
        record = failure(run, error, time.monotonic() - start)
    else:
        values = {name: float(value) for name, value in outcome.values.items()}
        curves = {name: [float(value) for value in curve] for name, curve in outcome.curves.items()}
        record = Record(run.key, run.setting, run.seed, values, curves, round(time.monotonic() - start, 3))
    Store(root).save(record)
    return record


def _one_thread() -> None:
    """For torch: now if it is loaded, else from when the run loads it, which takes a process seconds."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)
    else:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"


def failure(run: Run, error: BaseException, seconds: float = 0.0) -> Record:
    """The record of a run that ended with an error."""
    text = " ".join(str(error).split())
    where = "".join(traceback.format_exception(error))
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return Record(run.key, run.setting, run.seed, seconds=round(seconds, 3), error=said, traceback=where)
