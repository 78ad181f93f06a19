"""What was measured: how it is kept, compared and printed. No torch here, and no fluctua."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contestants import MATMUL_ONLY, PASSES, STEPWISE, TRAIN

UNITS: Mapping[str, tuple[str, ...]] = {
    "W1": (MATMUL_ONLY,),
    "W2": (MATMUL_ONLY,),
    "W3": (MATMUL_ONLY, STEPWISE),
    "W4": (PASSES,),
    "initialise": (TRAIN,),
}
"""What the others are compared with; of several, the fastest."""


@dataclass(frozen=True)
class Run:
    """One contestant on one workload.

    Attributes:
        workload: its name.
        contestant: its name.
        threads: that it had, and as many cores.
        seconds: of a step, one number a round.
        first: seconds of the first step, which may compile.
        peak_mb: most memory that its process held from the first step on, in MB.
        idle_mb: what it held before: imports, data and weights.
        skipped: why it did not take part.
    """

    workload: str
    contestant: str
    threads: int
    seconds: tuple[float, ...] = ()
    first: float = 0.0
    peak_mb: float = 0.0
    idle_mb: float = 0.0
    skipped: str | None = None

    @property
    def median(self) -> float:
        """Of the seconds of a step."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Ratio:
    """How one run compares with another, from the ratios within each round.

    Attributes:
        median: over the rounds.
        low: first quartile.
        high: third quartile.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, run: Sequence[float], unit: Sequence[float]) -> "Ratio":
        """Of two runs that took turns, so that a round's drift cancels."""
        ratios = [a / b for a, b in zip(run, unit, strict=True)]
        if len(ratios) == 1:
            return cls(*ratios * 3)
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return cls(middle, low, high)

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Results:
    """All runs of one call of the benchmark.

    Attributes:
        machine: what it ran on, see `machine.py`.
        rounds: turns of every contestant.
        quick: whether the sizes were so small that the numbers mean nothing.
        runs: of all workloads and thread counts.
    """

    machine: Mapping[str, Any]
    rounds: int
    quick: bool
    runs: tuple[Run, ...]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Workload and thread count of every group that was interleaved."""
        return list(dict.fromkeys((run.workload, run.threads) for run in self.runs))

    def of(self, workload: str, threads: int) -> dict[str, Run]:
        """Runs of a group that took part, by contestant."""
        return {
            r.contestant: r for r in self.runs if (r.workload, r.threads) == (workload, threads) and r.skipped is None
        }

    def unit(self, workload: str, threads: int) -> Run | None:
        """The run that the others of the group are compared with."""
        group = self.of(workload, threads)
        return min((group[name] for name in UNITS[workload] if name in group), key=lambda r: r.median, default=None)

    def ratio(self, run: Run) -> Ratio | None:
        """A run against the unit of its group."""
        unit = self.unit(run.workload, run.threads)
        return None if unit is None else Ratio.of(run.seconds, unit.seconds)

    def save(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Results":
        """What `save` wrote."""
        facts = json.loads(path.read_text())
        runs = tuple(Run(**{**run, "seconds": tuple(run["seconds"])}) for run in facts.pop("runs"))
        return cls(runs=runs, **facts)


def workload_table(results: Results, workload: str) -> str:
    """A Markdown table of a workload: time, its multiple of the unit's (quartiles), and memory of every contestant."""
    threads = sorted(count for name, count in results.groups if name == workload)
    unit = " or ".join(UNITS[workload])
    head = [
        "",
        *(cell for n in threads for cell in (f"{n} thread{'s'[: n - 1]}, ms", f"/ {unit}")),
        "peak MB",
        "before, MB",
    ]
    names = dict.fromkeys(run.contestant for n in threads for run in results.of(workload, n).values())
    return table(head, [[name, *_cells(results, workload, name, threads)] for name in names])


def _cells(results: Results, workload: str, contestant: str, threads: Sequence[int]) -> list[str]:
    """The row of a contestant; memory is that with the fewest threads, at its peak and before the first step."""
    runs = [results.of(workload, n).get(contestant) for n in threads]
    cells: list[str] = []
    for run in runs:
        ratio = None if run is None else results.ratio(run)
        cells.append(
            "" if run is None else f"{1e3 * run.median:.0f}" if run.median > 0.1 else f"{1e3 * run.median:.1f}"
        )
        cells.append("" if ratio is None else str(ratio))
    first = next(run for run in runs if run is not None)
    return [*cells, f"{first.peak_mb:.0f}", f"{first.idle_mb:.0f}"]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown, numbers to the right."""
    align = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, align, *rows))


def skipped(results: Results) -> list[str]:
    """A line for each contestant that did not take part, with the reason."""
    lines = [f"{run.contestant}: {run.skipped}" for run in results.runs if run.skipped is not None]
    return list(dict.fromkeys(lines))
