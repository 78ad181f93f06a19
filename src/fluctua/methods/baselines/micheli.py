"""Micheli et al.: the variance of the potential is handed on from layer to layer."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch

from fluctua.methods.baselines.afferents import SpikingBaseline, afferents_of, draw_weights
from fluctua.methods.baselines.delta_neuron import delta_neuron
from fluctua.network.facts import Population
from fluctua.network.replay import Replay


@dataclass(frozen=True)
class Micheli(SpikingBaseline):
    """Micheli, Booij, van Gemert & Tömen 2024 (arXiv 2410.00580).

    The potentials of every layer are to stay N(0, 1), so that a unit of the layer before spikes with the probability
    `p = P(u > theta)` of a standard normal number above its threshold, and ::

        Var w = 1 / (n p)

    Certain: this formula (abstract; the authors' code), in a theory without leak and reset. Translated here: what one
    step's input adds to the potential has unit variance, `Var w = 1 / (gain^2 n p)` with the gain of `delta_neuron`,
    1 for a delta synapse; n p is summed over all pathways into a population; weights from the data have the measured
    mean square of the data for p, the probability of a spike if it is binary. Unit variance of the whole free
    potential, memory included, would be worse for the method: activity then dies out within three layers (20/10 ms, or
    delta synapse, dt = 2 ms), where this goes on through eight. Left out: the variant for leaky neurons with soft
    reset in the authors' code.

    Raises:
        ValueError: a threshold that a potential of unit variance never reaches.

    Example:
        >>> import fluctua
        >>> from fluctua.neurons import LI, LIF
        >>> model = nn.Sequential(nn.Linear(30, 20), LIF(), nn.Linear(20, 2), LI())
        >>> x = (torch.rand(100, 16, 30, generator=torch.Generator().manual_seed(0)) < 0.1).float()
        >>> report = fluctua.initialize(model, x, method=Micheli(), seed=0)
        >>> print(f"{model[0].weight.std():.2f}")
        1.64
    """

    def fill(self, population: Population, replay: Replay, generator: torch.Generator) -> None:
        """See `Baseline.fill`."""
        power = afferents_of(population, replay).total_power(population, _spike_probability(population))
        draw_weights(population, 1 / (delta_neuron(population.neuron).gain * math.sqrt(power)), generator)


def _spike_probability(population: Population) -> float:
    """Of the afferents, which are taken to have the threshold of their targets."""
    p = NormalDist().cdf(-(population.neuron.threshold or 0.0))
    if p < 1e-9:
        raise ValueError(
            f"micheli holds the potential at a variance of 1, and the threshold of {population.name}, "
            f"{population.neuron.threshold:g}, is out of its reach: use thresholds below 6"
        )
    return p
