"""The populations of a model on a batch, as most tests want them."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from fluctua.network import Network, ProbedNeuron
from fluctua.network.facts import Population
from fluctua.network.run import Forward


def trace(
    model: nn.Module,
    batch: Any,
    forward: Forward | None = None,
    *,
    dt: float | None = None,
    neurons: Mapping[type[nn.Module], ProbedNeuron] | None = None,
) -> tuple[Population, ...]:
    """As `Network.of` finds them."""
    return Network.of(model, batch, forward=forward, dt=dt, neurons=neurons).populations
