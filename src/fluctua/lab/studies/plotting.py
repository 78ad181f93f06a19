"""Parts of the studies' figures: panels in rows, and lines of means with 95 % intervals."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fluctua.lab.looks import looks
from fluctua.lab.studies.methods import LABELS
from fluctua.lab.sweeps.study import Record
from fluctua.state.style import lay_out, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def panels(title: str, draw: Sequence[Callable[["Axes"], None]], columns: int = 2) -> "Figure":
    """A figure of one panel for each function, in rows; one legend for all, in a free panel if there is one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    columns = min(len(draw), columns)  # more than two would be too small to read on a phone
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
        for left, right in zip(axes[::2], axes[1::2], strict=False):
            if columns == 2 and _names_of(left) == _names_of(right) != []:
                right.set_yticklabels([])  # those beside it are enough
        for axis in axes[len(draw) :]:
            axis.set_axis_off()
        _legend(figure, axes[len(draw)] if len(draw) < len(axes) else None)
        figure.suptitle(title, fontsize=11)
        lay_out(figure)
    return figure


def _from_zero(axis: "Axes") -> None:
    """Let all axes begin at 0; percentages go from 0 to 100, with room for a marker."""
    for label, limit in ((axis.get_xlabel(), axis.set_xlim), (axis.get_ylabel(), axis.set_ylim)):
        if label.endswith("(%)"):
            limit(-3, 103)
    low, high = axis.get_ylim()
    if axis.get_yscale() == "linear" and 0 < low < high:
        axis.set_ylim(bottom=0)


def _names_of(axis: "Axes") -> list[str]:
    """The labels of the vertical axis, if these are not numbers."""
    found = [tick.get_text() for tick in axis.get_yticklabels()]
    return found if any(text[:1].isalpha() for text in found) else []


def _legend(figure: "Figure", free: "Axes | None") -> None:
    """One legend for the labels of all panels: in a free place, or at the foot of the figure."""
    handles = [axis.get_legend_handles_labels() for axis in figure.axes]
    by_label = {label: handle for group in handles for handle, label in zip(*group, strict=True)}
    if free is not None:
        free.legend(by_label.values(), by_label.keys(), loc="center")
    else:
        figure.legend(by_label.values(), by_label.keys(), loc="outside lower center", ncols=2)


def line(
    axis: "Axes",
    records: Iterable[Record],
    x: str,
    measure: str,
    *,
    factor: float = 1.0,
    shift: float = 0.0,
    **look: Any,
) -> None:
    """Draw every seed as a dot, and the mean at each value of an axis of the grid as a line.

    `shift` moves all of it, in units of the axis, so that methods do not hide each other.
    """
    values: dict[float, list[float]] = {}
    for r in records:
        at = r.axis(x)
        if isinstance(at, int | float) and measure in r.values:
            values.setdefault(float(at), []).append(factor * r.values[measure])
    if not values:
        return
    points = sorted(values)
    axis.plot([p + shift for p in points], [float(np.mean(values[p])) for p in points], ms=4, lw=1.4, **look)
    seeds = [(p + shift, value) for p in points for value in values[p]]
    axis.plot(*zip(*seeds, strict=True), ls="", marker=".", ms=3, alpha=0.45, color=look.get("color"))


def line_per_method(
    axis: "Axes", records: Sequence[Record], methods: Iterable[str], x: str, measure: str, *, factor: float = 1.0
) -> None:
    """`line` for each method, in its look and with its label."""
    places = [float(at) for r in records if isinstance(at := r.axis(x), int | float)]
    span = max(places, default=0.0) - min(places, default=0.0)
    shown = list(looks(methods).items())
    for i, (method, look) in enumerate(shown):
        here = [r for r in records if r.axis("method") == method]
        shift = 0.0 if axis.get_xscale() == "log" else 0.006 * span * (i - (len(shown) - 1) / 2)
        line(axis, here, x, measure, factor=factor, shift=shift, label=LABELS[method], **look)


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
    """A panel of `line_per_method`, with labelled axes and the scale of the vertical one."""

    def draw(axis: "Axes") -> None:
        line_per_method(axis, records, methods, x, measure, factor=factor)
        mark_places(axis, records, x)
        axis.set_yscale(scale)
        axis.set(xlabel=xlabel, ylabel=ylabel)

    return draw


def mark_places(axis: "Axes", records: Sequence[Record], x: str) -> None:
    """Ticks at the values that were run, unless these are many."""
    places = sorted({float(at) for r in records if isinstance(at := r.axis(x), int | float)})
    if len(places) <= 8:
        axis.set_xticks(places, [f"{place:g}" for place in places])


def curves_per_method(
    axis: "Axes", records: Sequence[Record], methods: Iterable[str], curve: str, *, factor: float = 1.0
) -> None:
    """For each method, the mean over seeds of a curve, against the position in it, from 1."""
    from matplotlib.ticker import MaxNLocator

    for method, look in looks(methods).items():
        curves = [r.curves[curve] for r in records if r.axis("method") == method]
        if curves:
            means = factor * np.mean(curves, axis=0)
            axis.plot(range(1, len(means) + 1), means, ms=4, lw=1.2, label=LABELS[method], **look)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


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
    """For each method, side by side at each name of an axis that was run: every seed as a dot, and the mean."""
    shown, run = looks(methods), {r.axis(by) for r in records}
    names = [name for name in names if name in run]
    axis.set_xticks(range(len(names)), names)
    axis.set_xlim(-0.5, len(names) - 0.5)
    for k, (method, look) in enumerate(shown.items()):
        here = [r for r in records if r.axis("method") == method and measure in r.values]
        found = {i: [factor * r.values[measure] for r in here if r.axis(by) == name] for i, name in enumerate(names)}
        places = {i + 0.8 * ((k + 0.5) / len(shown) - 0.5): values for i, values in found.items() if values}
        seeds = [(at, value) for at, values in places.items() for value in values]
        axis.plot(*zip(*seeds, strict=True), ls="", marker=".", ms=3, alpha=0.45, color=look.get("color"))
        means = [float(np.mean(values)) for values in places.values()]
        axis.plot(list(places), means, ms=5, label=LABELS[method], **look | {"ls": ""})


def across(
    axis: "Axes", records: Sequence[Record], methods: Sequence[str], measure: str, *, factor: float = 1.0
) -> None:
    """One row for each method that was run: every seed as a dot, and their mean."""
    methods = [method for method in methods if any(r.axis("method") == method for r in records)]
    for place, (method, look) in enumerate(looks(methods).items()):
        _seeds(axis, [r for r in records if r.axis("method") == method], measure, factor, place, 0.25, look)
    _names(axis, [LABELS[method] for method in methods])


def cases_across(
    axis: "Axes",
    records: Sequence[Record],
    methods: Sequence[str],
    cases: Sequence[str],
    measure: str,
    *,
    factor: float = 1.0,
) -> None:
    """One row for each case, with the methods one above the other: every seed as a dot, and their mean."""
    shown = looks(methods)
    for place, case in enumerate(cases):
        for i, (method, look) in enumerate(shown.items()):
            here = [r for r in records if r.axis("case") == case and r.axis("method") == method]
            label = {"label": LABELS[method]} if place == 0 else {}
            _seeds(axis, here, measure, factor, place + 0.7 * (i / max(len(shown) - 1, 1) - 0.5), 0.0, look | label)
    _names(axis, cases)


def _seeds(
    axis: "Axes", records: Iterable[Record], measure: str, factor: float, at: float, below: float, look: dict[str, Any]
) -> None:
    values = [factor * r.values[measure] for r in records]
    axis.plot(values, [at + below] * len(values), ls="", marker=".", ms=3, alpha=0.45, color=look["color"])
    if values:
        axis.plot([float(np.mean(values))], [at], ms=5, **look | {"ls": ""})


def _names(axis: "Axes", names: Sequence[str]) -> None:
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlim(left=-0.03 * axis.get_xlim()[1])  # from zero, with room for a marker


def level(axis: "Axes", records: Iterable[Record], measure: str, *, factor: float = 1.0, **look: Any) -> None:
    """The mean of a measure without a value on the axis, as a horizontal line."""
    if values := [factor * r.values[measure] for r in records if measure in r.values]:
        axis.axhline(float(np.mean(values)), lw=1, ls="--", **look)
