"""The state of a network: what `initialize` and `inspect` return."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fluctua.state.facts import PopulationState

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table


@dataclass(frozen=True, eq=False)
class Report(Sequence[PopulationState]):
    """State of a network, population by population in the order in which they run.

    Print it for a table, `rows()`, `to_dict()` or `to_json()` for data, `plot()` for a figure, `report["name"]` for one
    population. A notebook shows table and figure.

    Attributes:
        populations: their states.
        notes: what was done or skipped, a sentence each.
        warnings: what the user should know, a sentence each.
        ran: for how many steps and on how many samples, as the neurons saw them.

    Example:
        >>> import fluctua
        >>> from fluctua.neurons import LI, LIF
        >>> model = torch.nn.Sequential(torch.nn.Linear(30, 20), LIF(), torch.nn.Linear(20, 2), LI())
        >>> report = fluctua.inspect(model, (torch.rand(100, 4, 30) < 0.1).float())
        >>> [(p.name, p.n) for p in report]
        [('1', 20), ('3', 2)]
        >>> print(report)
        T = 100 steps x B = 4 samples, dt = 2 ms, window = trial
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

    def to_dict(self) -> dict[str, Any]:
        """Everything but the data of the figure, in plain Python."""
        populations = [asdict(replace(p, plot_data=None)) for p in self.populations]  # type: ignore[arg-type]
        for p in populations:
            del p["plot_data"]
        return {"ran": self.ran, "populations": populations, "notes": list(self.notes), "warnings": list(self.warnings)}

    def to_json(self, indent: int | None = None) -> str:
        """`to_dict()` as JSON; NaN and infinite values become null."""
        return as_json(self.to_dict(), indent)

    def rows(self) -> list[dict[str, Any]]:
        """One flat dictionary of numbers per population, as for `pandas.DataFrame(report.rows())`."""
        from fluctua.state.table import flat_row

        return [flat_row(p) for p in self.populations]

    def plot(self, title: str | None = None, ax: "Axes | None" = None) -> "Figure":
        """A matplotlib figure: distributions of U against theory, rates per neuron, and a raster, per population.

        Args:
            title: above the figure.
            ax: draw a small version into these axes instead: mean and fluctuations of U of all populations.
        """
        from fluctua.state.figure import plot_populations, plot_report

        return plot_report(self, title) if ax is None else plot_populations(self, ax, title)

    def __repr__(self) -> str:
        names = ", ".join(p.name for p in self.populations)
        silent = sum(p.rate is not None and p.latency is None for p in self.populations)
        return (
            f"<Report of population{'s' * (len(self) != 1)} {names}: {silent} silent, {len(self.warnings)} "
            f"warning{'s' * (len(self.warnings) != 1)}{'; ' * bool(self.ran)}{self.ran}>"
        )

    def _repr_html_(self) -> str:
        """Table and figure, for a notebook; without matplotlib the table alone."""
        from fluctua.state.table import html_table

        figure = ""
        if self.populations and find_spec("matplotlib"):
            from fluctua.state.style import as_html

            figure = as_html(self.plot(), "The populations one by one: free membrane potential, firing rates, spikes")
        return html_table(self.populations, self.notes, self.warnings, self.ran) + figure

    def __str__(self) -> str:
        from fluctua.state.table import plain_text

        return plain_text(self.populations, self.notes, self.warnings, self.ran)

    def __rich__(self) -> "Table":
        from fluctua.state.table import rich_table

        return rich_table(self.populations, self.notes, self.warnings, self.ran)


def as_json(value: Any, indent: int | None = None) -> str:
    """Plain data as JSON; NaN and infinite values become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    """A value for JSON, which knows neither NaN nor infinity."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
