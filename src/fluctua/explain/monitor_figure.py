"""The rows of a monitor as figure and table."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fluctua.state.style import as_html, lay_out, new_figure, style
from fluctua.state.table import aligned, as_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]

LABELS: Mapping[str, str] = {
    "rate": "firing rate (Hz or per step)",
    "silent": "silent neurons (share)",
    "saturated": "saturated neurons (share)",
    "mu_u": "mu_U",
    "sigma_u": "sigma_U in time",
    "xi": "xi",
    "gradient_norm": "gradient norm",
    "update_ratio": "update / weight",
    "surrogate": "neurons with a gradient (share)",
}
ALT = "The state of each population over the steps of training: " + ", ".join(LABELS.values())
LOGARITHMIC = {"gradient_norm", "update_ratio"}
SHARES = {"silent", "saturated", "surrogate"}


def plot_rows(rows: Rows) -> "Figure":
    """Each number over the steps, one line per population."""
    with style():
        figure = new_figure(7.0, 9.6)
        *axes, rest = figure.subplots(5, 2, sharex=True).ravel()
        for axis, (key, label) in zip(axes, LABELS.items(), strict=True):
            _draw(axis, rows, key)
            axis.set_title(label)
        for axis in axes[-2:]:
            axis.set_xlabel("step")
            axis.tick_params(labelbottom=True)  # the last in its column, or above the legend
        lines = {line.get_label(): line for axis in axes for line in axis.lines}
        shown = [name for name in dict.fromkeys(row["population"] for row in rows) if name in lines]
        rest.set_axis_off()
        rest.legend([lines[n] for n in shown], shown, loc="center", ncols=1 + (len(shown) - 1) // 8)
        lay_out(figure)
    return figure


def plot_number(rows: Rows, key: str, axis: "Axes | None") -> "Figure":
    """One number over the steps, into given axes or a new figure."""
    if key not in LABELS:
        raise ValueError(f"a monitor has no {key!r}: choose one of {', '.join(LABELS)}")
    with style():
        if axis is None:
            axis = new_figure(5.0, 3.2).subplots()
        _draw(axis, rows, key)
        axis.set(xlabel="step", ylabel=LABELS[key])
        axis.legend()
    return axis.get_figure(root=True)  # type: ignore[return-value]


def _draw(axis: "Axes", rows: Rows, key: str) -> None:
    """A line for each population that has the number."""
    from matplotlib import colormaps

    names = list(dict.fromkeys(row["population"] for row in rows))
    for k, name in enumerate(names):
        seen = [(row["step"], row[key]) for row in rows if row["population"] == name and row[key] is not None]
        if seen:
            colour = colormaps["viridis"](0.9 * k / max(len(names) - 1, 1))
            axis.plot(*zip(*seen, strict=True), color=colour, marker=".", ms=4, lw=1.2, label=name)
    sizes = [row[key] for row in rows if row[key]]
    if key in LOGARITHMIC and sizes and max(sizes) > 10 * min(sizes):
        axis.set_yscale("log")
        axis.yaxis.set_minor_formatter("")
    if key in SHARES:
        axis.set_ylim(-0.05, 1.05)


def cells_of(rows: Rows) -> list[list[str]]:
    """Head, and the last row of each population."""
    last = {row["population"]: row for row in rows}
    body = [
        [name, str(row["step"]), *("-" if row[key] is None else f"{row[key]:.3g}" for key in LABELS)]
        for name, row in last.items()
    ]
    return [["population", "step", *LABELS], *body]


def table_of(rows: Rows) -> str:
    """The last row of each population in plain characters."""
    return "\n".join(aligned(cells_of(rows)))


def html_of(rows: Rows) -> str:
    """Table and figure for a notebook."""
    return as_table(cells_of(rows)) + (as_html(plot_rows(rows), ALT) if rows and find_spec("matplotlib") else "")
