"""Several processes that meet in a folder: started from one that has imported what they need."""

import multiprocessing
from collections.abc import Callable
from typing import Any

from torch.multiprocessing.spawn import start_processes

NEEDED = ["torch.distributed", "torch._dynamo", "lightning", "fluctua", "fluctua.lab.training.fit"]
"""Imported once, where every process would take seconds for it; what is missing is left out."""


def start(function: Callable[..., None], *arguments: Any, processes: int = 2) -> None:
    """Call `function(rank, *arguments)` in so many processes, none of which is a fork of this one."""
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    if method == "forkserver":
        multiprocessing.set_forkserver_preload(NEEDED)
    start_processes(function, arguments, nprocs=processes, start_method=method)  # type: ignore[no-untyped-call]
