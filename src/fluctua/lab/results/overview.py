"""The picture on the home page: membrane potentials of two initial states, and the learning curves that follow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fluctua.lab.results.figures import looks_of, plot_accuracy
from fluctua.neurons import LIF
from fluctua.state import inspect
from fluctua.state.style import BLACK, RED, lay_out, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEURONS = 3  # of each layer
LOWEST, HIGHEST = -2.2, 1.8  # range of a neuron's band, in units of the threshold


@dataclass(frozen=True)
class Traces:
    """The first neurons of a layer in one sample, and the state of the layer from the arrival of activity on.

    Attributes:
        potential: U `[T, neurons]` in units of the threshold, with spikes and resets.
        spikes: `[T, neurons]`.
        dt: time step in seconds.
        sigma_u: of the free potential of all neurons and samples.
        rate: mean firing rate in Hz.
        silent: share of the neurons that never fire.
    """

    potential: NDArray[np.float32]
    spikes: NDArray[np.float32]
    dt: float
    sigma_u: float
    rate: float
    silent: float


def traces_of(model: nn.Sequential, x: Tensor) -> list[Traces]:
    """Traces of the LIF layers of a chain on a batch `[T, B, ...]`; the first sample is shown."""
    found = []
    states = iter(inspect(model, x, window="arrival"))
    with torch.no_grad():
        for module in model:
            if not isinstance(module, LIF):
                x = module(x)
                continue
            run, state = module.simulate(x), next(states)
            potential, spikes = (
                part[:, 0, :NEURONS].numpy() for part in (run.potential / module.threshold, run.output)
            )
            found.append(Traces(potential, spikes, module.dt, state.sigma_u, state.rate or 0.0, state.silent or 0.0))
            x = run.output
    return found


def overview_figure(
    states: Mapping[str, Sequence[Traces]], histories: Mapping[str, Sequence[Mapping[str, float]]], chance: float
) -> "Figure":
    """Potentials of every layer (rows) of some networks (columns), above the learning curves of these and others.

    Args:
        states: of each network shown, its layers, by the label of its method.
        histories: of each network trained, its epochs, by the label of its method.
        chance: accuracy of guessing.
    """
    depth, columns = len(next(iter(states.values()))), len(states)
    with style():
        figure = new_figure(6.4, 1.35 * depth + 2.6)  # small enough to read on a phone
        parts = figure.subfigures(2, 1, height_ratios=(1.35 * depth + 0.7, 1.9), squeeze=False)
        upper, lower = parts.ravel().tolist()
        axes = np.asarray(upper.subplots(depth, columns, squeeze=False, sharex=True, sharey=True))
        for column, (label, layers) in zip(axes.T, states.items(), strict=True):
            for axis, traces in zip(column, layers, strict=True):
                _plot_traces(axis, traces, label)
                axis.set_title(f"$\\sigma_U$ = {traces.sigma_u:.2f}, {traces.rate:.1f} Hz, {traces.silent:.0%} silent")
            column[0].annotate(
                label, (0.5, 1), (0, 24), "axes fraction", "offset points", ha="center", weight="bold", fontsize=11
            )
            column[-1].set_xlabel("time (s)")
        for k, axis in enumerate(axes[:, 0]):
            axis.set_ylabel(f"layer {k + 1}\nU / $\\theta$")
        upper.suptitle("Before training: three neurons of each layer, one sample", fontsize=11)
        plot_accuracy(curves := lower.subplots(), histories, chance)
        curves.legend(loc="center right", ncols=2)
        lower.suptitle("Training", fontsize=11)
        lay_out(figure)
    return figure


def _plot_traces(axis: "Axes", traces: Traces, label: str) -> None:
    """Neurons in rows, each with its threshold; strokes mark spikes, triangles clipped potentials."""
    time, colour = traces.dt * np.arange(len(traces.potential)), looks_of([label])[label]["color"]
    floors = [(LOWEST - HIGHEST) * k for k in range(traces.potential.shape[1])]
    for floor, u, spikes in zip(floors, traces.potential.T, traces.spikes.T, strict=True):
        axis.axhline(floor + 1, color=RED, lw=0.8, ls="--")
        axis.plot(time, floor + np.clip(u, LOWEST + 0.2, 1), color=colour, lw=1.3)
        axis.vlines(time[spikes > 0], floor + 1, floor + HIGHEST, color=BLACK, lw=1.3)
        if u.min() < LOWEST + 0.2:
            axis.plot(time[u.argmin()], floor + LOWEST + 0.2, "v", color=colour, ms=5)
    axis.set_yticks([floor + level for floor in floors for level in (0, 1)], ["0", "1"] * len(floors), fontsize=6)
    axis.set_xlim(0, time[-1])
    axis.set_ylim(floors[-1] + LOWEST, HIGHEST + 0.1)
