"""The state of a network, as facts: what `initialize` and `inspect` return."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PathwayState:
    """One pathway into a population.

    Attributes:
        name: of its weight.
        sources: presynaptic populations.
        fan_in: afferents of a neuron.
        mean: of the weights.
        std: of the weights.
        skipped_because: why they were not to be written, None if they were.
        share: the variance of U that it brings alone, over the sum of what all bring alone. None where the population
            has no other pathway or they cannot be told apart, and in the report of `initialize` where the population
            has several pathways from outside: `inspect` knows.
    """

    name: str
    sources: tuple[str, ...]
    fan_in: int
    mean: float
    std: float
    skipped_because: str | None = None
    share: float | None = None


@dataclass(frozen=True, eq=False)
class Sketch:
    """A population's picture in few numbers: what `Report.plot` draws.

    Attributes:
        edges: `[K + 1]`, and `density` `[K]`: histogram of the free potential over neurons, samples and window.
        rates: `[N]`, firing rate of every neuron in Hz.
        raster: `[M, 2]`, spikes of some neurons in the first sample: time in seconds, and the neuron's number among
            those shown, which are spread evenly over the population.
        shown: number of neurons in the raster.
        duration: of the trial, in seconds.
    """

    edges: Array
    density: Array
    rates: Array
    raster: Array
    shown: int
    duration: float


@dataclass(frozen=True, eq=False)
class PopulationState:
    """The state of one population; potentials are those of the *free* membrane, which never spikes.

    Attributes:
        name: as in `model.named_modules()`.
        n: number of neurons.
        threshold: `theta`, None for a readout.
        mu_u: mean potential over neurons, samples and time.
        sigma_u: standard deviation over neurons, samples and time; its square is the sum of the next two squared.
        sigma_temporal: the part in time and over samples, which makes a neuron fire.
        sigma_across: the part between neurons ("quenched"), which makes some silent and others saturated.
        xi: `(theta - mu_u) / sigma_u`.
        rate: measured firing rate in Hz.
        rate_predicted: by the level-crossing formula at the measured xi.
        latency: time of the population's first spike in seconds, median over samples; None where half of them or more
            have none.
        silent: share of neurons without a spike in the whole batch; of feature maps, share of the maps.
        saturated: share of neurons whose mean potential is above threshold: driven by their mean, not by fluctuations.
        target_mu_u: what was asked for, None if nothing was.
        target_sigma_u: likewise.
        gradient_norm: of the loss with respect to the population's weights, where a loss was given.
        pathways: the weights that feed it.
        sketch: for the figure.
        in_steps: whether time is counted in steps, as its framework does where nobody says how long one is: rates are
            then spikes per step, and times numbers of steps.
    """

    name: str
    n: int
    threshold: float | None
    mu_u: float
    sigma_u: float
    sigma_temporal: float
    sigma_across: float
    xi: float | None
    rate: float | None
    rate_predicted: float | None
    latency: float | None
    silent: float | None
    saturated: float | None
    target_mu_u: float | None
    target_sigma_u: float | None
    gradient_norm: float | None
    pathways: tuple[PathwayState, ...]
    sketch: Sketch
    in_steps: bool = False

    def rate_in_words(self, rate: float | None) -> str:
        """A rate with its unit."""
        if rate is None:
            return "-"
        return f"{rate:.3f} / step" if self.in_steps else f"{rate:.1f} Hz"

    def time_in_words(self, time: float | None) -> str:
        """A time with its unit."""
        if time is None:
            return "-"
        return f"{time:.0f} steps" if self.in_steps else f"{1e3 * time:.0f} ms"


@dataclass(frozen=True, eq=False)
class Report(Sequence[PopulationState]):
    """State of a network, population by population in the order in which they run.

    Print it for a table, `rows()` for data, `plot()` for a figure, `report["name"]` for one population.

    Attributes:
        populations: their states.
        notes: what was done or skipped, a sentence each.
        warnings: what the user should know, a sentence each.
    """

    populations: tuple[PopulationState, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())

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

        return plain_text(self)

    def __rich__(self) -> "Table":
        from fluctua.state.table import rich_table

        return rich_table(self)
