"""One contestant in a process of its own, driven by `bench.py` over its standard input and output.

It answers a line of JSON when it is ready, `{"first": seconds}` or `{"skipped": reason}`, one more for every line it
reads, `{"seconds": ...}` of a step, and at the end `{"peak_mb": ..., "idle_mb": ..., "facts": ...}`. No import stands
above that of the contestant's package, so that its memory is its own.
"""

import argparse
import gc
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

from contestants import CONTESTANTS, Contestant
from workloads import QUICK, WORKLOADS, Unfit, Workload


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("contestant", choices=[c.name for c in CONTESTANTS])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    contestant = next(c for c in CONTESTANTS if c.name == options.contestant)
    workload = (QUICK if options.quick else WORKLOADS)[options.workload]

    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints on import must not mix with the answers
    serve(workload, contestant, options.threads, answers)


def serve(workload: Workload, contestant: Contestant, threads: int, answers: TextIO) -> None:
    """Make ready, then a turn for every line of the standard input."""

    def answer(**facts: Any) -> None:
        print(json.dumps(facts), file=answers, flush=True)

    try:
        step = prepared(workload, contestant, threads)
    except (ImportError, Unfit) as reason:
        answer(skipped=str(reason))
        return
    forget_peak()
    idle = peak_mb()
    answer(first=seconds(step))
    for _ in sys.stdin:
        answer(seconds=turn(step))
    answer(peak_mb=peak_mb(), idle_mb=idle)


def prepared(workload: Workload, contestant: Contestant, threads: int) -> Callable[[], object]:
    """The contestant's step, built and ready to be timed."""
    if find_spec(contestant.package) is None:
        raise Unfit(f"{contestant.package} is not installed")
    if find_spec("torch") is not None:
        import_module("torch").set_num_threads(threads)
    step: Callable[[], object] = import_module(f"contestants.{contestant.module}").build(workload, contestant.variant)
    return step


def turn(step: Callable[[], object], least: float = 0.3) -> float:
    """Median time of as many steps as fit into `least` seconds, one at least."""
    taken: list[float] = []
    while sum(taken) < least:
        taken.append(seconds(step))
    return statistics.median(taken)


def seconds(step: Callable[[], object]) -> float:
    """Of one step."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def forget_peak() -> None:
    """Let the peak memory count from now on, where the system can: what made ready is not the work."""
    gc.collect()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """Most memory that this process held, in MB (1e6 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


if __name__ == "__main__":
    main()
