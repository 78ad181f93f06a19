"""Baselines whose theory is of spiking neurons: what they know of a population, and the methods of Ding and Micheli."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fluctua.methods.baselines.classic import Baseline, draw_kaiming
from fluctua.methods.components import SilentInputError
from fluctua.methods.weights import normal, of_entries, writable, write
from fluctua.network.facts import Neuron, Population
from fluctua.network.network import Network
from fluctua.network.replay import Replay
from fluctua.theory.psp import TwoStateKernel


@dataclass(frozen=True)
class DeltaNeuron:
    """A leaky neuron without synaptic current, in discrete time ::

        y[t] = kappa y[t-1] (1 - s[t-1]) + gain x[t],     s[t] = H(y[t] - theta)

    Attributes:
        kappa: fraction of the potential that is left after a step.
        gain: `lambda`, what one unit of current adds to the potential within a step.
        theta: threshold.
    """

    kappa: float
    gain: float
    theta: float


def delta_neuron(neuron: Neuron, *, constant_input: bool = False) -> DeltaNeuron:
    """The delta neuron that stands in for a neuron with any PSP kernel (mean over the population where they differ).

    It matches mean and variance of the real free potential under white input: `gain / (1 - kappa) = sum_k eps[k]` and
    `gain^2 / (1 - kappa^2) = sum_k eps[k]^2`. A neuron with a delta synapse is thus matched exactly, with
    `kappa = exp(-dt / tau_mem)` and `gain = 1`; with an exponential synapse the memory is that of membrane and synapse
    together, `kappa ~ exp(-dt / (tau_mem + tau_syn))`.

    No match is exact, and this one treats the baselines best. Keeping `kappa = exp(-dt / tau_mem)` and the mean,
    `gain = (1 - kappa) / (1 - exp(-dt / tau_syn))`, makes weights a third smaller (20/10 ms, dt = 2 ms): Ding's
    networks then fall silent after five layers instead of firing evenly through eight, and SpikeInit, asked for 0.02
    spikes per step under white input, gets 0.006 instead of 0.015 (0.010 if the variance is kept instead of the mean).

    With `constant_input` that second match is exact: the current outlasts a reset, and only the membrane starts anew.
    (A kernel known only by its samples keeps the first rule.)

    Raises:
        ValueError: a readout, which has no threshold.
    """
    if neuron.threshold is None:
        raise ValueError("a readout has no threshold, so it is no spiking neuron")
    k = neuron.kernel
    if constant_input and isinstance(k, TwoStateKernel):
        charge = k.jump_mem + k.coupling * k.jump_syn / (1 - k.b)
        return DeltaNeuron(float(k.a.mean()), float(charge.mean()), neuron.threshold)
    total, power = float(np.mean(k.eps_bar)) / k.dt, power_gain(neuron)
    memory = max(total**2 / power, 1.0)  # (1 + kappa) / (1 - kappa)
    kappa = (memory - 1) / (memory + 1)
    return DeltaNeuron(kappa, math.sqrt((1 - kappa**2) * power), neuron.threshold)


def power_gain(neuron: Neuron) -> float:
    """Variance of the free potential per unit of variance of a white input current: `sum_k eps[k]^2`."""
    return float(np.mean(neuron.kernel.eps_hat)) / neuron.kernel.dt


@dataclass(frozen=True, eq=False)
class Afferents:
    """The input of one population.

    Attributes:
        shape: of its input current, `[T, B, *N]`.
        power: mean square of the input of each pathway from the data, by the pathway's name.
        constant: whether its whole input comes from the data and is the same at every time step.
    """

    shape: torch.Size
    power: dict[str, float]
    constant: bool

    def total_power(self, population: Population, spiking: float) -> float:
        """Sum of mean squares over the afferents of one neuron; `spiking` for each afferent from a population.

        Raises:
            SilentInputError: the data do not reach the population.
        """
        total = sum(q.fan_in * self.power.get(q.name, spiking) for q in population.pathways)
        if not total > 0:
            raise SilentInputError(
                f"no activity of this batch reaches {population.name}, so its weights cannot be sized: take a batch "
                "with activity"
            )
        return total


class SpikingBaseline(Baseline):
    """A baseline whose theory is about spiking neurons, one population at a time.

    Such theories do not cover readouts, nor layers that feed another layer: these get Kaiming weights of gain 1, as
    the classifiers in the code of SpikeInit do. Biases are zero.
    """

    def begin(self, network: Network, generator: torch.Generator) -> None:
        draw_kaiming(network, generator)

    def serves(self, population: Population) -> bool:
        return population.neuron.threshold is not None and super().serves(population)


def draw_weights(population: Population, std: float, generator: torch.Generator) -> None:
    """Normal weights with the same standard deviation for all pathways of a population."""
    for q in writable(population):
        write(q.weight, of_entries(q, std * normal(q.weight, generator)))


def afferents_of(population: Population, replay: Replay) -> Afferents:
    """Measure the input of a population."""
    inputs = replay.data(population)
    shape = replay.current(population).shape
    power = {name: float(x.double().square().mean()) for name, x in inputs.items()}
    constant = len(power) == len(population.pathways) and all(_constant(x, shape[0]) for x in inputs.values())
    return Afferents(shape, power, constant)


def _constant(x: Tensor, steps: int) -> bool:
    """Whether an input `[T, B, ...]` or `[T * B, ...]` is the same at all steps."""
    x = x.reshape(steps, -1)
    return bool((x[1:] == x[:-1]).all())


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
        biases = [q.bias for q in writable(population) if q.bias is not None and q.bias.requires_grad]
        for bias in biases:
            share = neuron.theta * (1 - neuron.kappa) / (2 * neuron.gain) / len(biases)
            write(bias, torch.full_like(bias, share))


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
