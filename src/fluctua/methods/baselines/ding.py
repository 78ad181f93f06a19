"""Ding et al.: weights that make the asymptote of the response curve a ReLU."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from fluctua.methods.baselines.afferents import SpikingBaseline, draw_weights
from fluctua.methods.baselines.delta_neuron import delta_neuron
from fluctua.methods.weights import writable, write
from fluctua.network.facts import Population
from fluctua.network.replay import Replay


@dataclass(frozen=True)
class Ding(SpikingBaseline):
    """Ding, Zhang, Yu & Huang 2021 (OpenReview T8BnDXDTcFZ, "... with Parameter Initialization").

    A strong constant current I makes a leaky neuron (see `DeltaNeuron`) fire `gain I / theta - (1 - kappa) / 2` times
    per step. With ::

        w ~ N(0, 2 theta^2 / (gain^2 n)),     bias = theta (1 - kappa) / (2 gain)

    this asymptote becomes a ReLU through the origin, to whose slope the factor 2 of He et al. (2015) applies.

    Certain: weights and bias, from the code of Shi & Yu (2026, SpikeInit), who compare with it; the asymptote was
    derived again here and tested. Reconstructed: n counts the afferents of all pathways into a population, which share
    one bias; layers without biases get none. The batch only serves to find the wiring.

    Example:
        >>> import fluctua
        >>> from fluctua.neurons import LI, LIF
        >>> model = nn.Sequential(nn.Linear(30, 20), LIF(), nn.Linear(20, 2), LI())
        >>> x = (torch.rand(100, 16, 30, generator=torch.Generator().manual_seed(0)) < 0.1).float()
        >>> report = fluctua.initialize(model, x, method=Ding(), seed=0)
        >>> print(f"{model[0].weight.std():.2f}")
        0.73
    """

    measures: ClassVar[bool] = False

    def fill(self, population: Population, replay: Replay, generator: torch.Generator) -> None:
        neuron = delta_neuron(population.neuron)
        fan_in = sum(q.fan_in for q in population.pathways)
        draw_weights(population, math.sqrt(2 / fan_in) * neuron.theta / neuron.gain, generator)
        biases = [q.bias for q in writable(population) if q.bias is not None]
        for bias in biases:
            share = neuron.theta * (1 - neuron.kappa) / (2 * neuron.gain) / len(biases)
            write(bias, torch.full_like(bias, share))
