"""What the figures of the studies have in common: panels in a row, and lines of means with 95 % intervals."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fluctua.lab.results.aggregate import interval
from fluctua.lab.studies.methods import LABELS
from fluctua.lab.sweeps.study import Record
from fluctua.state.style import looks, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def panels(title: str, draw: Sequence[Callable[["Axes"], None]]) -> "Figure":
    """A figure of one panel for each function, in rows of two; one legend for all, in a place that is free."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    columns = min(len(draw), 2)  # more would be too small to read on a phone
    rows = -(-len(draw) // columns)
    with style():
        figure = Figure(figsize=(max(3.7 * columns, 5.5), 3.0 * rows + 0.9))
        FigureCanvasAgg(figure)
        axes = np.asarray(figure.subplots(rows, columns, squeeze=False)).ravel().tolist()
        for axis, function in zip(axes, draw, strict=False):
            function(axis)
            _from_zero(axis)
            for side in (axis.xaxis, axis.yaxis):
                side.set_minor_formatter(NullFormatter())  # powers of ten are enough on a log scale
        for axis in axes[len(draw) :]:
            axis.remove()
        _legend(figure, free=None if len(draw) == len(axes) else (0.75, 0.5 / rows))
        figure.suptitle(title, fontsize=11)
        figure.get_layout_engine().execute(figure)  # type: ignore[union-attr]
    return figure


def _from_zero(axis: "Axes") -> None:
    """No axis that begins where it suits: per cent are from 0 to 100, with room for a marker, all else from 0."""
    for label, limit in ((axis.get_xlabel(), axis.set_xlim), (axis.get_ylabel(), axis.set_ylim)):
        if label.endswith("(%)"):
            limit(-3, 103)
    low, high = axis.get_ylim()
    if axis.get_yscale() == "linear" and 0 < low < high:
        axis.set_ylim(bottom=0)


def _legend(figure: "Figure", free: tuple[float, float] | None) -> None:
    """One legend for whatever any panel has labelled: around a free place of the figure, or at its foot."""
    handles = [axis.get_legend_handles_labels() for axis in figure.axes]
    by_label = {label: handle for group in handles for handle, label in zip(*group, strict=True)}
    if free:
        figure.legend(by_label.values(), by_label.keys(), loc="center", bbox_to_anchor=free)
    else:
        figure.legend(by_label.values(), by_label.keys(), loc="outside lower center", ncols=2)


def line(axis: "Axes", records: Iterable[Record], x: str, measure: str, *, factor: float = 1.0, **look: Any) -> None:
    """Mean of a measure against an axis of the grid, with its 95 % interval; nothing without values."""
    values: dict[float, list[float]] = {}
    for r in records:
        at = r.axis(x)
        if isinstance(at, int | float) and measure in r.values:
            values.setdefault(float(at), []).append(factor * r.values[measure])
    if not values:
        return
    points = sorted(values)
    means, _, halves = (np.array(column) for column in zip(*(interval(values[p]) for p in points), strict=True))
    axis.errorbar(points, means, np.nan_to_num(halves), ms=4, lw=1.2, capsize=2, **look)


def line_per_method(
    axis: "Axes", records: Sequence[Record], methods: Iterable[str], x: str, measure: str, *, factor: float = 1.0
) -> None:
    """`line` for each method, in its look and with its label."""
    for method, look in looks(methods).items():
        here = [r for r in records if r.axis("method") == method]
        line(axis, here, x, measure, factor=factor, label=LABELS[method], **look)


def against(
    records: Sequence[Record],
    methods: Iterable[str],
    x: str,
    measure: str,
    *,
    xlabel: str,
    ylabel: str,
    factor: float = 1.0,
    scale: str = "linear",
) -> Callable[["Axes"], None]:
    """A panel of `line_per_method`, with what its axes say and the scale of the upright one."""

    def draw(axis: "Axes") -> None:
        line_per_method(axis, records, methods, x, measure, factor=factor)
        axis.set_yscale(scale)
        axis.set(xlabel=xlabel, ylabel=ylabel)

    return draw


def curves_per_method(
    axis: "Axes", records: Sequence[Record], methods: Iterable[str], curve: str, *, factor: float = 1.0
) -> None:
    """For each method the mean over the seeds of a list of numbers, against the place in it, from 1."""
    from matplotlib.ticker import MaxNLocator

    for method, look in looks(methods).items():
        curves = [r.curves[curve] for r in records if r.axis("method") == method]
        if curves:
            means = factor * np.mean(curves, axis=0)
            axis.plot(range(1, len(means) + 1), means, ms=4, lw=1.2, label=LABELS[method], **look)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def dots(
    axis: "Axes",
    records: Iterable[Record],
    by: str,
    names: Sequence[str],
    measure: str,
    *,
    factor: float = 1.0,
    shift: int = 0,
    **look: Any,
) -> None:
    """Mean of a measure, with its 95 % interval, at each name on an axis of the grid; `shift` sets it beside others."""
    values = [[factor * r.values[measure] for r in records if r.axis(by) == name] for name in names]
    found = [(i, *interval(v)) for i, v in enumerate(values) if v]
    axis.set_xticks(range(len(names)), names)
    axis.set_xlim(-0.3, len(names) - 0.3)
    if found:
        places, means, _, halves = (np.array(column, dtype=float) for column in zip(*found, strict=True))
        axis.errorbar(places + 0.1 * shift, means, np.nan_to_num(halves), ms=5, capsize=2, **look | {"ls": ""})


def dots_per_method(
    axis: "Axes",
    records: Sequence[Record],
    methods: Iterable[str],
    by: str,
    names: Sequence[str],
    measure: str,
    *,
    factor: float = 1.0,
) -> None:
    """`dots` for each method, side by side, in its look and with its label."""
    for i, (method, look) in enumerate(looks(methods).items()):
        here = [r for r in records if r.axis("method") == method]
        dots(axis, here, by, names, measure, factor=factor, shift=i, label=LABELS[method], **look)


def level(axis: "Axes", records: Iterable[Record], measure: str, *, factor: float = 1.0, **look: Any) -> None:
    """The mean of a measure of what has no place on the axis, as a level line; nothing without values."""
    if values := [factor * r.values[measure] for r in records if measure in r.values]:
        axis.axhline(float(np.mean(values)), lw=1, ls="--", **look)
