"""The four workloads and the initialisation: fluctua against the yardsticks and all other libraries that are there.

    python benchmarks/bench.py                                          # fluctua, and what is in its environment
    python benchmarks/bench.py --python /path/to/python                  # and the libraries found there

Every contestant is a process of its own (`worker.py`), so that its peak memory is its own and no library gets in the
way of another. Within a workload they take turns, round by round: what slows the machine down slows down all alike.
`publish.py` makes the tables and figures of docs/performance.md from the results.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from contestants import Contestant, of_workload
from machine import machine
from results import Results, Run, skipped, workload_table
from workloads import WORKLOADS

WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes:
        rounds: turns of every contestant.
        quick: tiny sizes.
        pythons: interpreters: fluctua and the yardsticks take the first, a library the first that has it.
        only: names of contestants; none for all.
    """

    rounds: int
    quick: bool
    pythons: tuple[str, ...]
    only: tuple[str, ...] = ()


class Worker:
    """A contestant's process. It works only when it is asked to."""

    def __init__(self, run: Run, python: str, *, quick: bool) -> None:
        self.run, threads = run, str(run.threads)
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process
        self.process = subprocess.Popen(
            [python, WORKER, run.workload, run.contestant, "--threads", threads, *(["--quick"] if quick else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        )
        self._note()

    def turn(self) -> None:
        """Have it do its work, and note how long that took."""
        with suppress(BrokenPipeError):  # it is dead: what it leaves unanswered is noted
            print(file=self.process.stdin, flush=True)
        self._note()

    def close(self) -> Run:
        """Let it end, and return all that is known of it."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        if self.run.skipped is None:
            self._note()
        self.process.wait()
        return self.run

    def _note(self) -> None:
        """Read what it answers: a step's seconds, or facts about the run."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"skipped": f"it failed: {self._last_error()}"}
        if "seconds" in answer:
            answer["seconds"] = (*self.run.seconds, answer["seconds"])
        self.run = replace(self.run, **answer)

    def _last_error(self) -> str:
        if (status := self.process.wait()) < 0:
            return f"killed by signal {-status}" + (", for want of memory?" if status == -signal.SIGKILL else "")
        self.errors.seek(0)
        return next((line for line in reversed(self.errors.read().splitlines()) if line.strip()), "no message")


def measure(workload: str, threads: int, plan: Plan) -> list[Run]:
    """All contestants of a workload, in turns."""
    chosen = [c for c in of_workload(workload) if not plan.only or c.name in plan.only]
    workers = [started(Run(workload, c.name, threads), c, plan) for c in chosen]
    for _ in range(plan.rounds):
        for worker in workers:
            if worker.run.skipped is None:
                worker.turn()
    return [worker.close() for worker in workers]


def started(run: Run, contestant: Contestant, plan: Plan) -> Worker:
    """The contestant's process, in the first environment where it can take part."""
    pythons = plan.pythons if contestant.library else plan.pythons[:1]
    for python in pythons:
        worker = Worker(run, python, quick=plan.quick)
        if worker.run.skipped is None:
            break
    return worker


def main(arguments: Sequence[str] | None = None) -> Results:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--python", nargs="*", default=[], help="interpreters of environments with other libraries")
    parser.add_argument("--only", nargs="+", default=[], help="names of contestants, as in the tables")
    parser.add_argument("--quick", action="store_true", help="so small that the numbers mean nothing; to try it out")
    parser.add_argument("--keep", action="store_true", help="keep what the file has of other workloads and threads")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/bench.json"))
    options = parser.parse_args(arguments)

    plan = Plan(options.rounds, options.quick, (sys.executable, *options.python), tuple(options.only))
    now = {(workload, threads) for workload in options.workloads for threads in options.threads}
    before = Results.load(options.out).runs if options.keep else ()
    kept = tuple(run for run in before if (run.workload, run.threads) not in now)
    results = Results(machine(), plan.rounds, plan.quick, kept)
    for workload in options.workloads:
        for threads in options.threads:
            results = replace(results, runs=(*results.runs, *measure(workload, threads, plan)))
            results.save(options.out)
        print(f"\n{workload}: {WORKLOADS[workload].title}\n\n{workload_table(results, workload)}", flush=True)
    for line in skipped(results):
        print(f"not measured: {line}")
    print(f"\nwritten: {options.out}")
    return results


if __name__ == "__main__":
    main()
