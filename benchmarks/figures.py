"""The figures of docs/performance.md."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from contestants import CHAIN, CONTESTANTS, EVENTS, FUSE, MATMUL_ONLY, PLAIN
from results import UNITS, Ratio, Results
from workloads import WORKLOADS

from fluctua.state.style import BLACK, BLUE, GREEN, ORANGE, SKY, lay_out, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {MATMUL_ONLY: BLACK, PLAIN: SKY, FUSE: BLUE, CHAIN: BLUE, EVENTS: GREEN}
LIBRARIES = frozenset(c.name for c in CONTESTANTS if c.library)


def comparison_figure(results: Results, threads: int) -> "Figure":
    """Time of a step as a multiple of the unit's, a panel for each workload, in order; whiskers are the quartiles."""
    workloads = [name for name in WORKLOADS if (name, threads) in results.groups and results.unit(name, threads)]
    bars = {name: _ratios(results, name, threads) for name in workloads}
    with style():
        figure = new_figure(7.0, sum(0.24 * len(known) + 0.9 for known in bars.values()))
        sizes = [len(known) + 2 for known in bars.values()]
        axes = figure.subplots(len(workloads), 1, squeeze=False, height_ratios=sizes).flatten()
        for axis, (workload, known) in zip(axes, bars.items(), strict=True):
            middle = np.array([ratio.median for ratio in known.values()])
            spread = [middle - [r.low for r in known.values()], [r.high for r in known.values()] - middle]
            colours = [ORANGE if name in LIBRARIES else COLOURS.get(name, "0.6") for name in known]
            axis.barh(list(known), middle, xerr=np.abs(spread), color=colours, height=0.7, ecolor="0.4")
            axis.axvline(1.0, color=BLACK, lw=1, ls=":")
            axis.invert_yaxis()
            axis.set_title(f"{workload}: {WORKLOADS[workload].title}", loc="left")
            axis.set_xlabel(f"time of a step / {' or '.join(UNITS[workload][-1:])}")
        lay_out(figure)
    return figure


def _ratios(results: Results, workload: str, threads: int) -> dict[str, Ratio]:
    """Of every contestant that took part, in the order of the tables."""
    ratios = {name: results.ratio(run) for name, run in results.of(workload, threads).items()}
    return {name: ratio for name, ratio in ratios.items() if ratio is not None}


def growth_figure(axes: Mapping[str, Mapping[str, Any]]) -> "Figure":
    """Milliseconds of a step against each size, on logarithmic axes; the dotted lines are linear growth."""
    from matplotlib.ticker import NullFormatter

    with style():
        figure = new_figure(7.4, 8.0)
        grid = figure.subplots(3, 2, squeeze=False).flatten()
        for panel, facts in zip(grid, axes.values(), strict=False):
            for name, seconds in facts["curves"].items():
                panel.loglog(facts["values"], 1e3 * np.array(seconds), "o-", ms=3.5, color=COLOURS[name], label=name)
            first = 1e3 * np.array(next(iter(facts["curves"].values())))
            values = np.array(facts["values"])
            limits = panel.get_ylim()
            panel.loglog(values, first[-1] * values / values[-1], ":", color="0.5", lw=1, label="linear growth")
            panel.set_ylim(limits)
            panel.set_xticks(values, [f"{value:g}" for value in values])
            panel.xaxis.set_minor_formatter(NullFormatter())
            panel.yaxis.set_minor_formatter(NullFormatter())
            panel.set_xlabel(facts["label"])
            panel.set_ylabel("ms a step")
        for panel in grid[len(axes) :]:
            panel.axis("off")
        grid[-1].legend(*grid[0].get_legend_handles_labels(), loc="center")
        lay_out(figure)
    return figure
