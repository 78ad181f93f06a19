"""The state of a network: what `initialize` and `inspect` return."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fluctua.state.facts import PopulationState

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table


@dataclass(frozen=True, eq=False)
class Report(Sequence[PopulationState]):
    """State of a network, population by population in the order in which they run.

    Print it for a table, `rows()` for data, `plot()` for a figure, `report["name"]` for one population.

    Attributes:
        populations: their states.
        notes: what was done or skipped, a sentence each.
        warnings: what the user should know, a sentence each.
        ran: how long and on how many samples, as the neurons saw it.

    Example:
        >>> import fluctua
        >>> from fluctua.neurons import LI, LIF
        >>> model = torch.nn.Sequential(torch.nn.Linear(30, 20), LIF(), torch.nn.Linear(20, 2), LI())
        >>> report = fluctua.inspect(model, (torch.rand(100, 4, 30) < 0.1).float())
        >>> [(p.name, p.n) for p in report]
        [('1', 20), ('3', 2)]
        >>> print(report)
        T = 100 steps x B = 4 samples
        population   N ...
    """

    populations: tuple[PopulationState, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())
    ran: str = ""

    def __len__(self) -> int:
        return len(self.populations)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            found = [p for p in self.populations if p.name == key]
            if not found:
                raise KeyError(f"no population {key!r}: there are {', '.join(p.name for p in self.populations)}")
            return found[0]
        return self.populations[key]

    def rows(self) -> list[dict[str, Any]]:
        """One flat dictionary of numbers per population, as for `pandas.DataFrame(report.rows())`."""
        from fluctua.state.table import flat_row

        return [flat_row(p) for p in self.populations]

    def plot(self, title: str | None = None) -> "Figure":
        """A matplotlib figure: distributions of U against theory, rates per neuron, and a raster, per population."""
        from fluctua.state.figure import plot_report

        return plot_report(self, title)

    def __str__(self) -> str:
        from fluctua.state.table import plain_text

        return plain_text(self.populations, self.notes, self.warnings, self.ran)

    def __rich__(self) -> "Table":
        from fluctua.state.table import rich_table

        return rich_table(self.populations, self.notes, self.warnings, self.ran)
