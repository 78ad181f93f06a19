"""A report as a figure: one row per population."""

from typing import TYPE_CHECKING, Any

import numpy as np

from fluctua.diagnostics.report import PopulationState, Report
from fluctua.diagnostics.style import BLACK, BLUE, ORANGE, RED, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ROWS = 6


def plot_report(report: Report, title: str | None = None) -> "Figure":
    """Distribution of U against theory, firing rates, and a raster, for up to six populations spread over the depth.

    The figure is not tied to pyplot: save it with `figure.savefig(path)`, or return it from a notebook cell.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chosen = np.unique(np.linspace(0, len(report) - 1, min(len(report), MOST_ROWS)).round().astype(int))
    with style():
        figure = Figure(figsize=(9.5, 1.75 * len(chosen) + 0.6))
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(chosen), 3, squeeze=False, width_ratios=(1.1, 0.8, 1.5))
        for row, index in zip(axes, chosen, strict=True):
            population = report[int(index)]
            plot_distribution(row[0], population)
            plot_rates(row[1], population)
            plot_raster(row[2], population)
        axes[0, 0].set_title("free membrane potential")
        axes[0, 1].set_title("firing rate of the neurons")
        axes[0, 2].set_title("spikes of some neurons, one sample")
        axes[-1, 0].set_xlabel("U (in the unit of the threshold)")
        axes[-1, 1].set_xlabel("rate (Hz)")
        axes[-1, 2].set_xlabel("time (s)")
        axes[0, 0].legend(loc="upper left", handlelength=1.2)
        figure.suptitle(title or "State of the network", fontsize=11)
        figure.get_layout_engine().execute(figure)  # type: ignore[union-attr]
    return figure


def plot_distribution(axis: "Axes", p: PopulationState) -> None:
    """Histogram of the free potential, the Gaussian of its target (or of its own moments), and the threshold."""
    edges, density = p.sketch.edges, p.sketch.density
    axis.stairs(density, edges, fill=True, color=BLUE, alpha=0.45, label="measured")
    mu = p.mu_u if p.target_mu_u is None else p.target_mu_u
    sigma = p.sigma_u if p.target_sigma_u is None else p.target_sigma_u
    span = max(4 * sigma, 1.2 * (p.threshold or 0.0), 4 * p.sigma_u if p.sigma_u < 5 * sigma else 0)
    u = np.linspace(mu - span, mu + span, 300)
    if sigma > 0:
        gauss = np.exp(-((u - mu) ** 2) / (2 * sigma**2)) / (sigma * np.sqrt(2 * np.pi))
        axis.plot(u, gauss, color=BLACK, lw=1.2, label="its moments" if p.target_sigma_u is None else "target")
        axis.set_ylim(0, 1.25 * gauss.max())
    if p.threshold is not None:
        axis.axvline(p.threshold, color=RED, lw=1.2, ls="--", label="threshold")
    axis.set_xlim(u[0], u[-1])
    axis.set_yticks([])
    axis.set_ylabel(f"{p.name}\n({p.n} neurons)")


def plot_rates(axis: "Axes", p: PopulationState) -> None:
    """Histogram of the firing rates of the neurons, their mean and the predicted rate."""
    if p.rate is None:
        _say(axis, "readout: no spikes")
        return
    rates = p.sketch.rates
    top = max(float(np.quantile(rates, 0.995)) if len(rates) else 0.0, 1.3 * (p.rate_predicted or 0.0), 1.0)
    counts, *_ = axis.hist(np.minimum(rates, top), bins=30, range=(0, top), color=BLUE, alpha=0.45)
    axis.set_ylim(0, 1.8 * max(np.max(counts), 1))  # room for the text
    axis.axvline(p.rate, color=BLUE, lw=1.4)
    if p.rate_predicted is not None:
        axis.axvline(p.rate_predicted, color=ORANGE, lw=1.4, ls="--")
    text = f"mean {p.rate:.1f} Hz" + (f"\ntheory {p.rate_predicted:.1f} Hz" if p.rate_predicted is not None else "")
    axis.text(
        0.98, 0.95, f"{text}\n{p.silent:.0%} silent", transform=axis.transAxes, ha="right", va="top", fontsize=7.5
    )
    axis.set_yticks([])


def plot_raster(axis: "Axes", p: PopulationState) -> None:
    """Spikes of some neurons in the first sample."""
    if p.rate is None:
        _say(axis, "")
        return
    spikes = p.sketch.raster
    axis.plot(spikes[:, 0], spikes[:, 1], "|", color=BLACK, ms=3, mew=0.7)
    axis.set_xlim(0, p.sketch.duration)
    axis.set_ylim(-1, min(p.sketch.shown, p.n))
    axis.set_ylabel("neuron")
    if len(spikes) == 0:
        axis.text(0.5, 0.5, "silent", transform=axis.transAxes, ha="center", va="center", color=RED)


def _say(axis: Any, text: str) -> None:
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", fontsize=8, color="0.4")
    axis.set_axis_off()
