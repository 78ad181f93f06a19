"""Homeostatic plasticity: an initial state refined before training, until its populations fire as they should.

Use it after any initialiser. `priming.prime` is the paper's way, gradient steps on activity regularisers alone;
`scaling.scale_synapses` needs no gradient. This file has what both return and share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fluctua.network.facts import Population
from fluctua.state.report import Report

if TYPE_CHECKING:
    from rich.table import Table


class TrainingDiverged(RuntimeError):
    """A loss or a gradient is no longer finite; everything that a training run had finished is on disk."""


@dataclass(frozen=True, eq=False)
class Refinement:
    """The result of homeostatic plasticity; print it for a table.

    Attributes:
        before: firing rate in Hz of each population concerned before, by name; per step where time counts in steps.
        missed: the populations not within tolerance at the end, and in words what they miss.
        rounds: passes over the data that changed weights; with `scale_synapses`, the most for any population.
        report: the state of the network at the end.
    """

    before: Mapping[str, float]
    missed: Mapping[str, str]
    rounds: int
    report: Report

    @property
    def reached(self) -> bool:
        """Whether all populations are within tolerance."""
        return not self.missed

    @property
    def after(self) -> dict[str, float]:
        """Firing rate in Hz at the end, by name."""
        return {name: self.report[name].rate for name in self.before}

    def __str__(self) -> str:
        width = max(len(row[0]) for row in self._rows())
        (_, *titles, _), *_ = self._rows()
        widths = width, *map(len, titles)
        lines = [
            "  ".join((p.ljust(width), b.rjust(widths[1]), a.rjust(widths[2]), state))
            for p, b, a, state in self._rows()
        ]
        notes = [f"note: {note}" for note in self.report.notes]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], self._summary(), *notes])

    def __rich__(self) -> "Table":
        from rich import box
        from rich.markup import escape
        from rich.table import Table

        caption = escape("\n".join((self._summary(), *self.report.notes)))
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, caption=caption, caption_justify="left")
        (name, before, after, state), *rows = self._rows()
        table.add_column(name, overflow="fold")
        table.add_column(before, justify="right")
        table.add_column(after, justify="right")
        table.add_column(state)
        for row in rows:
            table.add_row(*map(escape, row))
        return table

    def _rows(self) -> list[tuple[str, str, str, str]]:
        after = self.after
        digits, unit = (3, "per step") if any(p.in_steps for p in self.report) else (1, "Hz")
        said = ((p, self.missed.get(p, "yes"), rate, after[p] or 0.0) for p, rate in self.before.items())
        rows = [(p, f"{before:.{digits}f}", f"{now:.{digits}f}", state) for p, state, before, now in said]
        return [("population", f"{unit} before", f"{unit} after", "within tolerance"), *rows]

    def _summary(self) -> str:
        state = "within tolerance" if self.reached else "not within tolerance"
        return f"{state} after {self.rounds} round{'' if self.rounds == 1 else 's'}"


def rates(populations: Sequence[Population], spikes: Mapping[str, Tensor]) -> dict[str, float]:
    """Mean firing rate of each population in Hz."""
    return {p.name: float(spikes[p.name].detach().mean(dtype=torch.float64)) / p.neuron.kernel.dt for p in populations}
