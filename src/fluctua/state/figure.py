"""A report as a figure: one row per population."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fluctua.state.facts import PopulationState, wanted
from fluctua.state.style import BLACK, BLUE, RED, lay_out, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ROWS = 6


def plot_report(report: Sequence[PopulationState], title: str | None = None) -> "Figure":
    """Distribution of U against theory, firing rates, and a raster, for up to six populations spread over the depth.

    The figure is not tied to pyplot: save it with `figure.savefig(path)`, or return it from a notebook cell.
    """
    chosen = np.unique(np.linspace(0, len(report) - 1, min(len(report), MOST_ROWS)).round().astype(int))
    populations = [report[int(index)] for index in chosen]
    with style():
        figure = new_figure(7.5, 1.75 * len(chosen) + 0.9)
        axes = figure.subplots(len(chosen), 3, squeeze=False, width_ratios=(1.1, 0.8, 1.5))
        for row, population in zip(axes, populations, strict=True):
            plot_distribution(row[0], population)
            plot_rates(row[1], population)
            plot_raster(row[2], population)
        axes[0, 0].set_title("free membrane potential")
        axes[-1, 0].set_xlabel("U (in the unit of the threshold)")
        spiking = [row for row, population in zip(axes, populations, strict=True) if population.rate is not None]
        for row in spiking[:1]:
            row[1].set_title("firing rates")
            row[2].set_title("spikes, one sample")
        in_steps = any(population.in_steps for population in populations)
        for row in spiking[-1:]:  # readouts, often the last rows, have no rates and no raster
            row[1].set_xlabel(f"rate ({'per step' if in_steps else 'Hz'})")
            row[2].set_xlabel(f"time ({'steps' if in_steps else 's'})")
        shared_legend(figure)
        figure.suptitle(title or "State of the network", fontsize=11)
        lay_out(figure)
    return figure


def plot_populations(report: Sequence[PopulationState], axis: "Axes", title: str | None = None) -> "Figure":
    """Mean and fluctuations of the free potential, in units of the threshold, population by population."""
    for k, p in enumerate(report):
        unit = abs(p.threshold or 1.0)
        mu, temporal, sigma = (x / unit for x in (p.mu_u, p.sigma_temporal, p.sigma_u))
        first = k == 0
        axis.errorbar(k, mu, sigma, fmt="none", ecolor=BLUE, elinewidth=2, alpha=0.4, label="sigma_U" if first else "")
        axis.errorbar(
            k, mu, temporal, fmt="o", color=BLUE, elinewidth=5, label="mu_U, its temporal part" if first else ""
        )
        if p.threshold is not None:
            where = (k - 0.4, k + 0.4)
            axis.plot(where, [p.threshold / unit] * 2, color=RED, ls="--", label="threshold" if first else "")
    axis.set_xticks(range(len(report)), [p.name for p in report], rotation=45 if len(report) > MOST_ROWS else 0)
    axis.set_xlabel("population")
    axis.set_ylabel("U (in units of the threshold)")
    low, high = axis.get_ylim()
    axis.set(xlim=(-0.6, len(report) - 0.4), ylim=(low, high + 0.2 * (high - low)))  # room for the legend
    axis.legend(loc="upper center", ncols=3)
    if title is not None:
        axis.set_title(title)
    return axis.get_figure(root=True)  # type: ignore[return-value]


def shared_legend(figure: "Figure") -> None:
    """One legend at the foot of the figure, for the labels of all its axes."""
    handles = [axis.get_legend_handles_labels() for axis in figure.axes]
    by_label = {label: handle for group in handles for handle, label in zip(*group, strict=True)}
    figure.legend(by_label.values(), by_label.keys(), loc="outside lower center", ncols=len(by_label) or 1)


def plot_distribution(axis: "Axes", p: PopulationState) -> None:
    """Histogram of the free potential, the Gaussian of its target (or of its own moments), and the threshold."""
    axis.set_ylabel(f"{p.name}\n({p.n} neuron{'s' * (p.n != 1)})")
    axis.set_yticks([])
    if not np.isfinite([p.mu_u, p.sigma_u]).all():
        _say(axis, "NaN or infinite", color=RED)
        axis.set_xticks([])
        return
    mu, sigma = wanted(p)
    if p.sigma_u == 0:
        axis.text(0.03, 0.5, f"U = {p.mu_u:.3g} throughout", transform=axis.transAxes, va="center", fontsize=8)
    else:
        axis.stairs(p.plot_data.density, p.plot_data.edges, fill=True, color=BLUE, alpha=0.45, label="measured")
    if sigma > 0:
        u = mu + sigma * np.linspace(-4, 4, 201)
        gauss = np.exp(-((u - mu) ** 2) / (2 * sigma**2)) / (sigma * np.sqrt(2 * np.pi))
        if p.target_sigma_u is None:
            axis.plot(u, gauss, color=BLACK, lw=1.2, ls=":", label="Gaussian of the same moments")
        else:
            axis.plot(u, gauss, color=BLACK, lw=1.2, label="target")
        peak, found = float(gauss.max()), float(p.plot_data.density.max())
        axis.set_ylim(0, 1.1 * max(peak, min(found, 2.5 * peak)))
        if found > 2.75 * peak:  # as in a population mostly at rest
            axis.text(0.02, 0.97, "cut off", transform=axis.transAxes, va="top", fontsize=7.5, color=RED)
    if p.threshold is not None:
        axis.axvline(p.threshold, color=RED, lw=1.2, ls="--", label="threshold")
    axis.set_xlim(_range(p, mu, sigma))


def _range(p: PopulationState, mu: float, sigma: float) -> tuple[float, float]:
    """Limits for U that hold the target, the threshold, and what was measured, unless that would dwarf the target."""
    theta = p.threshold or 0.0
    low, high = min(mu - 4 * sigma, -1.2 * theta), max(mu + 4 * sigma, 1.2 * theta)
    if p.sigma_u < 5 * sigma:
        low, high = min(low, p.mu_u - 4 * p.sigma_u), max(high, p.mu_u + 4 * p.sigma_u)
    return (low, high) if low < high else (-1.0, 1.0)


def plot_rates(axis: "Axes", p: PopulationState) -> None:
    """Histogram of the firing rates of the neurons, their mean and the predicted rate."""
    if p.rate is None:
        _say(axis, "readout: no spikes", fontsize=8, color="0.4")
        axis.set_axis_off()
        return
    rates = p.plot_data.rates
    top = max(float(np.quantile(rates, 0.995)), p.rate, 1.3 * (p.rate_predicted or 0.0), 0.01 if p.in_steps else 1.0)
    counts, *_ = axis.hist(np.minimum(rates, top), 30, range=(0, top), histtype="stepfilled", color=BLUE, alpha=0.45)
    axis.set_xlim(-0.02 * top, 1.02 * top)
    axis.set_ylim(0, 1.8 * max(np.max(counts), 1))  # room for the text above the lines
    lines = [(f"mean {p.rate_in_words(p.rate)}", BLUE), (f"{p.silent:.0%} silent", BLACK)]
    axis.axvline(p.rate, ymax=0.58, color=BLUE, lw=1.4)
    if p.rate_predicted is not None:
        axis.axvline(p.rate_predicted, ymax=0.58, color=RED, lw=1.4, ls="--")
        lines.insert(1, (f"theory {p.rate_in_words(p.rate_predicted)}", RED))
    for k, (text, colour) in enumerate(lines):
        height = 0.97 - 0.12 * k
        axis.text(0.98, height, text, color=colour, fontsize=7.5, transform=axis.transAxes, ha="right", va="top")
    axis.set_yticks([])


def plot_raster(axis: "Axes", p: PopulationState) -> None:
    """Spikes of some neurons in the first sample."""
    if p.rate is None:
        axis.set_axis_off()
        return
    spikes = p.plot_data.raster
    axis.plot(spikes[:, 0], spikes[:, 1], "|", color=BLACK, ms=3, mew=0.7)
    axis.set_xlim(0, p.plot_data.duration)
    axis.set_ylim(-1, p.plot_data.shown)
    axis.set_yticks([])
    axis.set_ylabel(f"{p.plot_data.shown} of {p.n}")
    if len(spikes) == 0:
        _say(axis, "silent", color=RED)


def _say(axis: "Axes", text: str, **look: Any) -> None:
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", **look)
