"""Micheli et al.: the variance of the potential is handed on from layer to layer."""

import math
from statistics import NormalDist
from typing import Any

from torch import nn

from fluctua.methods.baselines.afferents import draw_weights, spiking_populations
from fluctua.methods.baselines.translation import delta_neuron
from fluctua.network import Population
from fluctua.network.batch import new_generator
from fluctua.network.preserve import Forward, plain_call


def micheli(model: nn.Module, batch: Any = None, *, seed: int | None = None, forward: Forward = plain_call) -> None:
    """Micheli, Booij, van Gemert & Tömen 2024 (arXiv 2410.00580), in place.

    The potentials of every layer are to stay N(0, 1), so that a unit of the layer before spikes with the probability
    `p = P(u > theta)` of a standard normal number above its threshold, and ::

        Var w = 1 / (n p)

    Certain: this formula (abstract; the authors' code), in a theory without leak and reset. Translated here: what one
    step's input adds to the potential has unit variance, `Var w = 1 / (gain^2 n p)` with the gain of `delta_neuron`,
    1 for a delta synapse; n p is summed over all pathways into a population; weights from the data have the measured
    mean square of the data for p, the probability of a spike if it is binary. Unit variance of the whole free
    potential, memory included, would be worse for the rival: activity then dies out within three layers (20/10 ms, or
    delta synapse, dt = 2 ms), where this goes on through eight. Left out: the variant for leaky neurons with soft
    reset in the authors' code.

    Args:
        model: of known neurons.
        batch: input `[T, B, ...]`.
        seed: of the draws.
        forward: runs all time steps.

    Raises:
        ValueError: no batch, or a threshold that a potential of unit variance never reaches.
        BatchError: a batch that cannot be measured.
        SilentInputError: no activity reaches a population from the data.
        WiringError: no spiking neuron found, or a model that cannot be traced.
    """
    generator = new_generator(seed, None)
    for population, afferents in spiking_populations("micheli", model, batch, forward, generator, data=True):
        power = afferents.total_power(population, _spike_probability(population))
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
