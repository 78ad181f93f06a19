"""Figures that compare networks: states side by side, spikes before and after training, learning curves."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fluctua.lab.durable import replacing
from fluctua.lab.looks import looks
from fluctua.lab.networks import LABELS
from fluctua.state import Report
from fluctua.state.figure import plot_distribution, shared_legend
from fluctua.state.style import BLACK, RED, as_laid_out, lay_out, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METHODS = {label: method for method, label in LABELS.items()}


def membrane_figure(reports: Mapping[str, Report]) -> "Figure":
    """Distribution of the free potential of every spiking population (columns) of several networks (rows)."""
    layers = [p.name for p in next(iter(reports.values())) if p.rate is not None]

    def draw(axes: Any) -> None:
        for row, (label, report) in zip(axes, reports.items(), strict=True):
            for k, (axis, name) in enumerate(zip(row, layers, strict=True)):
                p = report[name]
                plot_distribution(axis, p)
                axis.set_xlim(-4.5, 4.5)  # the same for all, or they could not be compared
                axis.set_ylabel(label if k == 0 else "")
                axis.set_title(
                    f"layer {k + 1}: $\\sigma_U$ = {p.sigma_u:.2f}, {p.rate:.1f} Hz, {p.silent:.0%} silent",
                    fontsize=8.5,
                )
        for axis in axes[-1]:
            axis.set_xlabel("free membrane potential U")
        shared_legend(axes[0, 0].figure)

    title = "Membrane potential before training, against theory"
    size = (max(3.1 * len(layers), 6.0), 1.9 * len(reports) + 0.9)  # wide enough for title and legend
    return _grid(len(reports), len(layers), size, title, draw)


def raster_figure(before: Mapping[str, Report], after: Mapping[str, Report]) -> "Figure":
    """Spikes of all layers in one sample, before and after training (columns), of several networks (rows)."""

    def draw(axes: Any) -> None:
        for row, label in zip(axes, before, strict=True):
            for axis, report in zip(row, (before[label], after[label]), strict=True):
                _plot_layers(axis, report)
            row[0].set_ylabel(label)
        axes[0, 0].set_title("before training")
        axes[0, 1].set_title("after training")
        for axis in axes[-1]:
            axis.set_xlabel("time (s)")

    return _grid(len(before), 2, (7.5, 2.1 * len(before) + 0.6), "Spikes of up to 40 neurons a layer, one sample", draw)


def learning_figure(histories: Mapping[str, Sequence[Mapping[str, float]]], chance: float) -> "Figure":
    """Validation accuracy and training loss against the epoch, one line per network."""

    def draw(axes: Any) -> None:
        accuracy, loss = axes[0]
        plot_accuracy(accuracy, histories, chance)
        _plot_epochs(loss, histories, "train_loss")
        loss.set_ylabel("training loss (nats)")
        loss.set_ylim(bottom=0)
        accuracy.legend()

    return _grid(1, 2, (7.5, 3.6), "Learning", draw)


def plot_accuracy(axis: "Axes", histories: Mapping[str, Sequence[Mapping[str, float]]], chance: float) -> None:
    """Validation accuracy against the epoch, one line per network, and chance."""
    _plot_epochs(axis, histories, "val_accuracy", 100)
    axis.axhline(100 * chance, color="0.3", lw=1, ls=":", zorder=3, label="chance")
    axis.set_ylim(0, 102)
    axis.set_ylabel("validation accuracy (%)")


def looks_of(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Arguments for a line of each label: the look of the method with this printed name."""
    names = {label: METHODS.get(label, label) for label in labels}
    found = looks(names.values())
    return {label: found[name] for label, name in names.items()}


def _plot_epochs(
    axis: "Axes", histories: Mapping[str, Sequence[Mapping[str, float]]], column: str, factor: float = 1.0
) -> None:
    from matplotlib.ticker import MaxNLocator

    for label, look in looks_of(histories).items():
        epochs = [row["epoch"] for row in histories[label]]
        axis.plot(epochs, [factor * row[column] for row in histories[label]], ms=4, label=label, **look)
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def save(figure: "Figure", path: Path) -> Path:
    """Write a figure that is laid out, completely or not at all."""
    with as_laid_out(figure), replacing(path) as file:
        figure.savefig(file, format=path.suffix.removeprefix("."))
    return path


def _plot_layers(axis: "Axes", report: Report) -> None:
    """One band of neurons per layer, the first at the top."""
    layers = [p for p in report if p.rate is not None]
    ticks = []
    for k, p in enumerate(layers):
        floor = (len(layers) - 1 - k) * 1.15
        spikes = p.plot_data.raster
        axis.plot(spikes[:, 0], floor + spikes[:, 1] / p.plot_data.shown, "|", color=BLACK, ms=2.2, mew=0.7)
        ticks.append(floor + 0.5)
        if len(spikes) == 0:
            axis.text(p.plot_data.duration / 2, floor + 0.5, "silent", color=RED, ha="center", va="center", fontsize=8)
    axis.set_yticks(ticks, [f"layer {k + 1}" for k in range(len(layers))])
    axis.set_xlim(0, layers[0].plot_data.duration)
    axis.set_ylim(-0.1, len(layers) * 1.15)


def _grid(rows: int, columns: int, size: tuple[float, float], title: str, draw: Callable[[Any], None]) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=size)
        FigureCanvasAgg(figure)
        draw(np.asarray(figure.subplots(rows, columns, squeeze=False)))
        figure.suptitle(title, fontsize=11)
        lay_out(figure)
    return figure
