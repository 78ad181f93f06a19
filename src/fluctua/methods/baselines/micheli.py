"""Micheli et al.: weights that preserve the variance of the potential from layer to layer."""

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

    The potentials of every layer should stay N(0, 1). A unit of the layer before then spikes with the probability
    `p = P(u > theta)` of a standard normal number above its threshold, and ::

        Var w = 1 / (n p)

    Certain: this formula (abstract; the authors' code), in a theory without leak and reset. Translated here: the input
    of one step adds unit variance to the potential, `Var w = 1 / (gain^2 n p)` with the gain of `delta_neuron`, 1 for a
    delta synapse. The sum of n p runs over all pathways into a population; for weights from the data, p is the measured
    mean square of the data, which is the probability of a spike if the data are binary. Unit variance of the whole free
    potential, memory included, would serve the method worse: activity then dies out within three layers (20/10 ms, or
    delta synapse, dt = 2 ms) instead of lasting through eight. Left out: the authors' variant for leaky neurons with
    soft reset.

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
        power = afferents_of(population, replay).total_power(population, _spike_probability(population))
        draw_weights(population, 1 / (delta_neuron(population.neuron).gain * math.sqrt(power)), generator)


def _spike_probability(population: Population) -> float:
    """Spike probability of the afferents, which are taken to have the threshold of their targets."""
    p = NormalDist().cdf(-(population.neuron.threshold or 0.0))
    if p < 1e-9:
        raise ValueError(
            f"micheli holds the potential at a variance of 1, and the threshold of {population.name}, "
            f"{population.neuron.threshold:g}, is out of its reach: use thresholds below 6"
        )
    return p
