"""Ding et al.: weights that make the asymptote of the response curve a ReLU."""

import math
from typing import Any

import torch
from torch import nn

from fluctua.methods.baselines.afferents import draw_weights, free, spiking_populations
from fluctua.methods.baselines.translation import delta_neuron
from fluctua.methods.drawing import write
from fluctua.network.batch import new_generator
from fluctua.network.preserve import Forward, plain_call


def ding(model: nn.Module, batch: Any = None, *, seed: int | None = None, forward: Forward = plain_call) -> None:
    """Ding, Zhang, Yu & Huang 2021 (OpenReview T8BnDXDTcFZ, "... with Parameter Initialization"), in place.

    A strong constant current I makes a leaky neuron (see `DeltaNeuron`) fire `gain I / theta - (1 - kappa) / 2` times
    per step. With ::

        w ~ N(0, 2 theta^2 / (gain^2 n)),     bias = theta (1 - kappa) / (2 gain)

    this asymptote becomes a ReLU through the origin whose slope the factor 2 of He et al. (2015) takes care of.

    Certain: weights and bias, from the code of Shi & Yu (2026, SpikeInit), who compare with it; the asymptote is
    derived here anew and tested. Reconstructed: n counts the afferents of all pathways into a population, which share
    one bias; where layers have none, it is left out. The batch only serves to find the wiring.

    Args:
        model: of known neurons.
        batch: input `[T, B, ...]`.
        seed: of the draws.
        forward: runs all time steps.

    Raises:
        ValueError: no batch.
        WiringError: no spiking neuron found, or a model that cannot be traced.
    """
    generator = new_generator(seed, None)
    for population, _ in spiking_populations("ding", model, batch, forward, generator, data=False):
        neuron = delta_neuron(population.neuron)
        fan_in = sum(q.fan_in for q in population.pathways)
        draw_weights(population, math.sqrt(2 / fan_in) * neuron.theta / neuron.gain, generator)
        biases = [q.bias for q in free(population) if q.bias is not None]
        for bias in biases:
            share = neuron.theta * (1 - neuron.kappa) / (2 * neuron.gain) / len(biases)
            write(bias, torch.full_like(bias, share))
