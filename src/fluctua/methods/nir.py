"""NIR graphs in the fluctuation-driven regime."""

from os import PathLike
from typing import Any

from torch import Tensor

from fluctua.methods.method import initialize
from fluctua.network.nir import from_nir, to_nir
from fluctua.state.report import Report
from fluctua.theory.target import Target


def initialize_nir(
    graph: Any | str | PathLike[str],
    batch: Tensor,
    target: Target | None = None,
    *,
    dt: float | None = None,
    convention: str | None = None,
    **options: Any,
) -> tuple[Any, Report]:
    """Put the network of a NIR graph into the fluctuation-driven regime.

    Args:
        graph: `nir.NIRGraph`, or the path of a file; it is not changed.
        batch: input `[T, B, *N]`.
        target: the wanted state of every spiking population (default: mean 0, xi = 1).
        dt: time step in seconds; NIR has none. None if the convention or the graph's metadata have it.
        convention: what the numbers of its neurons mean: "euler", "exact", or the framework that wrote it; see
            `fluctua.network.from_nir`.
        options: of `fluctua.initialize`.

    Returns:
        The graph with new weights and biases, and the state of every population.

    Raises:
        WiringError, UnsupportedNeuronError, ValueError: see `from_nir` and `fluctua.initialize`.
    """
    model = from_nir(graph, dt, convention)
    report = initialize(model, batch, target, **options)
    return to_nir(model), report
