"""SpikeInit: weights for a wanted spike probability per step, resets included."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor, nn

from fluctua.methods.baselines.afferents import draw_weights, free, spiking_populations
from fluctua.methods.baselines.translation import DeltaNeuron, delta_neuron, power_gain
from fluctua.methods.drawing import write
from fluctua.network import Population
from fluctua.network.batch import new_generator
from fluctua.network.preserve import Forward, plain_call, preserved
from fluctua.neurons import LIF
from fluctua.timeloop.surrogates import Surrogate

_NORMAL = NormalDist()


def spikeinit(
    model: nn.Module,
    batch: Any = None,
    *,
    seed: int | None = None,
    forward: Forward = plain_call,
    p: float = 0.1,
    surrogate: bool = False,
) -> None:
    """SpikeInit, analytic (Shi & Yu, "Training Deep Spiking Neural Networks without Normalization", ICML 2026).

    In place: `w ~ N(0, sigma^2 / n)`, with the sigma at which a neuron that gets white Gaussian current of variance
    `sigma^2 p` spikes with probability p per step, and so hands p on to the next layer; see `SpikeInitConstants`.

    Certain (the authors' code, xyshi2000/SpikeInit): all equations, p = 0.1 by default, and that the weights of a
    first layer whose input is constant in time are sized by the rate of neurons under constant drive. Translated
    here: the neuron (see `delta_neuron`); weights from the data have the measured mean square of the data for p, or
    for the 1 that the code assumes of constant input; pathways into one population share its variance. Left out: the
    adaptive surrogate (ASLIF), and residual branches and classifiers that start at zero.

    Args:
        model: of known neurons.
        batch: input `[T, B, ...]`.
        seed: of the draws.
        forward: runs all time steps.
        p: spike probability per step; for a rate in Hz, `rate * dt`.
        surrogate: whether every `LIF` also gets the method's surrogate, shaped so that gradients keep their size
            over depth. It is left out by default so that methods are compared by their weights alone.

    Raises:
        ValueError: no batch, or a p out of reach, naming the limit.
        BatchError: a batch that cannot be measured.
        SilentInputError: no activity reaches a population from the data.
        WiringError: no spiking neuron found, or a model that cannot be traced.
    """
    generator = new_generator(seed, None)
    for population, afferents in spiking_populations("spikeinit", model, batch, forward, generator, data=True):
        neuron = delta_neuron(population.neuron, constant_input=afferents.constant)
        constants = SpikeInitConstants.of(neuron, p)
        drive = constants.sigma_static if afferents.constant else constants.sigma * math.sqrt(p)
        draw_weights(population, drive / math.sqrt(afferents.total_power(population, p)), generator)
        for cell in population.module.modules() if surrogate else ():
            if isinstance(cell, LIF):
                cell.surrogate = PiecewiseExponential(constants.slope)


def spikeinit_sim(
    model: nn.Module,
    batch: Any = None,
    *,
    seed: int | None = None,
    forward: Forward = plain_call,
    p: float = 0.1,
    samples: int = 4096,
) -> None:
    """SpikeInit, simulated: as `spikeinit`, but sigma is found by running the neurons themselves on random current.

    This is the authors' variant for neurons without theory, so it needs no translation: synaptic current and reset
    are what they are. Certain: bisection of sigma until a simulated neuron spikes with probability p. Reconstructed:
    p is counted over the second half of a trial of the batch's length (theirs, of 4 steps, over the last), and one
    set of random numbers serves the whole bisection.

    Args:
        model: of known neurons that take a whole sequence per call.
        batch: input `[T, B, ...]`.
        seed: of the draws.
        forward: runs all time steps.
        p: spike probability per step; for a rate in Hz, `rate * dt`.
        samples: how many neurons, over all trials, are simulated at least.

    Raises:
        ValueError: no batch, or a p out of reach, naming the limit.
        BatchError: a batch that cannot be measured.
        SilentInputError: no activity reaches a population from the data.
        WiringError: no spiking neuron found, or a model that cannot be traced.
    """
    generator = new_generator(seed, None)
    for population, afferents in spiking_populations("spikeinit-sim", model, batch, forward, generator, data=True):
        steps, _, *neurons = afferents.shape
        trials = math.ceil(samples / math.prod(neurons))
        noise = torch.randn(1 if afferents.constant else steps, trials, *neurons, generator=generator)
        noise = noise.expand(steps, *noise.shape[1:]).to(population.pathways[0].weight)
        for q in free(population):
            write(q.weight, torch.zeros_like(q.weight))  # what comes back from the neurons is part of the noise
        with preserved(model):
            drive = simulated_drive(population.module, noise, p, _scale(population))
        draw_weights(population, drive / math.sqrt(afferents.total_power(population, p)), generator)


@dataclass(frozen=True)
class SpikeInitConstants:
    """What SpikeInit computes for a neuron and a spike probability p.

    The steady state (their theorem 4.1) of `y[t] = kappa y[t-1] 1(y[t-1] < theta) + x[t]` with white Gaussian x of
    variance `sigma_x^2`, and y taken to be Gaussian too, `a = (theta - mu_y) / sigma_y`, is ::

        mu_y               = kappa (mu_y Phi(a) - sigma_y phi(a))
        mu_y^2 + sigma_y^2 = kappa^2 ((mu_y^2 + sigma_y^2) Phi(a) - sigma_y (theta + mu_y) phi(a)) + sigma_x^2

    They search `sigma_x = gain sigma sqrt(p)` for `P(y > theta) = p`. But this fixes `a`, and the rest follows.

    Attributes:
        sigma: standard deviation of the weights, times the root of the fan-in.
        sigma_static: the same for weights whose input is constant in time, of mean square 1.
        mu_y: mean of the potential.
        sigma_y: standard deviation of the potential.
        slope: a of the surrogate `a exp(-2 a |y - theta|)`, see `surrogate_slope`.
    """

    sigma: float
    sigma_static: float
    mu_y: float
    sigma_y: float
    slope: float

    @classmethod
    def of(cls, neuron: DeltaNeuron, p: float = 0.1) -> "SpikeInitConstants":
        """Solve for a neuron.

        Raises:
            ValueError: a p that this neuron cannot reach however strong its input.
        """
        limit = largest_probability(neuron.kappa)
        if not 0 < p < limit:
            raise ValueError(
                f"SpikeInit can give this neuron a spike probability per step between 0 and {limit:.3g}, got {p}: "
                "ask for less (p is rate * dt)"
            )
        kappa, theta = neuron.kappa, neuron.theta
        a = _NORMAL.inv_cdf(1 - p)
        depression = _depression(kappa, p)
        sigma_y = theta / (a - depression)
        mu_y = -depression * sigma_y
        square = mu_y**2 + sigma_y**2
        kept = square * (1 - p) - sigma_y * (theta + mu_y) * _NORMAL.pdf(a)
        sigma = math.sqrt((square - kappa**2 * kept) / p) / neuron.gain
        sigma_static = _root(lambda s: static_rate(s, kappa, theta), p, 1e-6 * theta, 1e3 * theta) / neuron.gain
        backward = (1 - (1 - p) * kappa**2) / (sigma * neuron.gain) ** 2
        return cls(sigma, sigma_static, mu_y, sigma_y, surrogate_slope(mu_y - theta, sigma_y, backward))


def largest_probability(kappa: float) -> float:
    """Spike probability per step in the limit of infinitely strong input, in SpikeInit's theory."""
    low, high = 0.0, 0.5
    for _ in range(60):
        p = (low + high) / 2
        low, high = (p, high) if _NORMAL.inv_cdf(1 - p) > _depression(kappa, p) else (low, p)
    return low


def static_rate(drive: float, kappa: float, theta: float) -> float:
    """Spikes per step of neurons that each get a constant input of their own, drawn from N(0, drive^2).

    One that needs k steps to its threshold, `x (1 - kappa^k) / (1 - kappa) >= theta`, spikes once in k steps.
    """
    k = torch.arange(1, 20_000, dtype=torch.float64)  # who needs longer counts as silent
    growth = k if kappa == 1 else (1 - kappa**k) / (1 - kappa)
    within = torch.special.ndtr(-theta / (drive * growth))  # P(at threshold within k steps)
    first = torch.diff(within, prepend=torch.zeros(1, dtype=torch.float64))
    return float((first / k).sum())


def surrogate_slope(mean: float, std: float, square: float) -> float:
    """The a at which the surrogate `g = a exp(-2 a |d|)` has `E[g^2] = square` (their theorem 5.1).

    `d = y - theta`, the distance from threshold, is `N(mean, std^2)`. SpikeInit's condition for gradients that keep
    their size from layer to layer is `square = (1 - (1 - p) kappa^2) / (sigma gain)^2`.
    """

    def power(a: float) -> float:
        # E[exp(-c |d|)] = exp(-m^2 / 2) / 2 (erfcx((c s - m) / sqrt 2) + erfcx((c s + m) / sqrt 2)), m = mean / std
        cs, m = 4 * a * std, mean / std
        sides = torch.special.erfcx(torch.tensor([cs - m, cs + m], dtype=torch.float64) / math.sqrt(2))
        return a**2 * math.exp(-(m**2) / 2) / 2 * float(sides.sum())

    return _root(power, square, 1e-6 / std, 1e6 / std)


def simulated_drive(neuron: Callable[[Tensor], Tensor], noise: Tensor, p: float, scale: float = 1.0) -> float:
    """The standard deviation of a random current at which simulated neurons spike with probability p per step.

    Args:
        neuron: current `[T, B, *N]` -> spikes.
        noise: standard normal numbers `[T, B, *N]`; the current is a multiple of them.
        p: wanted mean of the spikes in the second half of the steps.
        scale: size of the answer; it is searched within a factor of 1000.

    Raises:
        ValueError: a p that is not reached however strong the current.
    """

    def probability(drive: float) -> float:
        with torch.no_grad():
            return float(neuron(drive * noise)[len(noise) // 2 :].double().mean())

    high = 1e3 * scale
    if not 0 < p < (limit := probability(high)):
        raise ValueError(
            f"simulated neurons spike with a probability per step between 0 and {limit:.3g}, got p = {p}: ask for "
            "less (p is rate * dt)"
        )
    return _root(probability, p, 1e-3 * scale, high, steps=24)


@dataclass(frozen=True)
class PiecewiseExponential(Surrogate):
    """`beta exp(-2 beta |x|)`, the surrogate of SpikeInit; the time loop runs it on the reference engine."""

    def derivative(self, x: Tensor) -> Tensor:
        """See `Surrogate.derivative`."""
        return self.beta * (-2 * self.beta * x.abs()).exp()


def _scale(population: Population) -> float:
    """The current at which the threshold is one standard deviation of the free potential away."""
    return (population.neuron.threshold or 1.0) / math.sqrt(power_gain(population.neuron))


def _depression(kappa: float, p: float) -> float:
    """`-mu_y / sigma_y`: resets cut off the highest potentials only."""
    return kappa * _NORMAL.pdf(_NORMAL.inv_cdf(1 - p)) / (1 - kappa * (1 - p))


def _root(rising: Callable[[float], float], value: float, low: float, high: float, *, steps: int = 60) -> float:
    """Where a rising function takes a value, between two positive numbers, by bisection of the logarithm."""
    for _ in range(steps):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return math.sqrt(low * high)
