"""A study of arithmetic, for the tests of sweeps: its truth is known, and it can fail or die where it is told to."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from rich.console import Console

from fluctua.lab.sweeps.study import Measure, Outcome, Reference, Setting, Study
from fluctua.lab.sweeps.sweep import grid, runs_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fluctua.lab.sweeps.study import Record


@dataclass(frozen=True, kw_only=True)
class Toy(Study):
    """`score = 2 x + noise(seed)`.

    Attributes:
        xs: values of x.
        pause: seconds that a run takes.
        fails_at: x whose runs raise.
        dies_at: x whose runs kill their process; if `once`, only until the file of that name is there.
        once: see there.
    """

    title: ClassVar[str] = "Toy: score against <x> & method"
    about: ClassVar[str] = "Arithmetic."
    measures: ClassVar[tuple[Measure, ...]] = (Measure("score", "score (%)", factor=100, spec=".1f"),)
    references: ClassVar[tuple[Reference, ...]] = (Reference({"x": 1, "method": "a"}, "score", 1.75, "a <journal>"),)

    lists: ClassVar[frozenset[str]] = frozenset({"xs"})

    xs: tuple[int, ...] = (0, 1, 2)
    pause: float = 0.0
    fails_at: int | None = None
    dies_at: int | None = None
    once: str | None = None

    def grid(self) -> list[Setting]:
        return grid(method=("a", "b"), x=self.xs)

    def seconds(self, setting: Setting) -> float:
        return 1.0

    def run(self, setting: Setting, seed: int, data: Path | None) -> Outcome:
        time.sleep(self.pause)
        x = setting["x"]
        assert isinstance(x, int)
        if x == self.fails_at:
            raise ArithmeticError(f"x = {x}\nis not to be had")
        if x == self.dies_at and not (self.once and Path(self.once).exists()):
            if self.once:
                Path(self.once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Outcome(truth(x, seed), {"line": [0.1, 0.2]})

    def figure(self, records: Sequence["Record"]) -> "Figure":
        from matplotlib.figure import Figure

        figure = Figure(figsize=(2, 2))
        figure.subplots().plot([r.values["score"] for r in records])
        return figure


SLOW = Toy(pause=0.2)
"""What `main` does."""


def truth(x: int, seed: int) -> dict[str, float]:
    return {"score": 2 * x + float(np.random.default_rng(seed).normal())}


def quiet() -> Console:
    return Console(quiet=True)


def main() -> None:
    """Do the sweep into the folder that is given, one run after the other."""
    from fluctua.lab.sweeps.runner import sweep  # a run's process does without
    from fluctua.lab.sweeps.runner_local import local_processes
    from fluctua.lab.sweeps.store import Store

    store = Store(Path(sys.argv[1]))
    store.open({})
    sweep(runs_of(SLOW, 2), store, local_processes(1), quiet())
