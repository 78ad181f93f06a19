"""SpikeInit: weights for a wanted spike probability per step, resets included."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist

import torch
from torch import Tensor, nn

from fluctua.methods.baselines import spiking
from fluctua.methods.weights import writable, write
from fluctua.network.adapters.registry import KnownNeurons, over_time
from fluctua.network.facts import Population
from fluctua.network.network import Network
from fluctua.network.preserve import preserved
from fluctua.network.replay import Replay
from fluctua.network.run import modules_of, plain_call
from fluctua.neurons import LIF
from fluctua.neurons.surrogates import Surrogate


@dataclass(frozen=True)
class SpikeInit(spiking.SpikingBaseline):
    """SpikeInit (Shi & Yu, "Training Deep Spiking Neural Networks without Normalization", ICML 2026).

    `w ~ N(0, sigma^2 / n)`, with the sigma at which a neuron that receives white Gaussian current of variance
    `sigma^2 p` spikes with probability p per step, and so passes p on to the next layer; see `SpikeInitConstants`.

    Certain (the authors' code, xyshi2000/SpikeInit): all equations; p = 0.1 by default; weights of a first layer whose
    input is constant in time are sized by the rate of neurons under constant drive. Translated here: the neuron (see
    `delta_neuron`). For weights from the data, their measured mean square replaces p, or the 1 that the code assumes
    for constant input. Pathways into one population share its variance. Left out: the adaptive surrogate (ASLIF), and
    residual branches and classifiers that start at zero.

    Attributes:
        p: spike probability per step; for a rate in Hz, `rate * dt`.
        surrogate: whether every `LIF` also gets the method's surrogate, shaped so that gradients keep their size over
            depth. Off by default, so that methods are compared by their weights alone.
        simulated: find sigma by simulating the neurons on random current, the authors' variant for neurons without a
            theory. It needs no translation of synaptic current and reset. Certain: bisection of sigma. Reconstructed:
            p is counted over the second half of a trial of the batch's length (theirs: over the last of 4 steps), and
            one set of random numbers serves the whole bisection.
        samples: minimal number of neurons to simulate, over all trials.

    Raises:
        ValueError: a p out of reach, naming the limit.
        SilentInputError: the data do not reach a population.

    Example:
        >>> import fluctua
        >>> from fluctua.neurons import LI, LIF
        >>> model = nn.Sequential(nn.Linear(30, 20), LIF(), nn.Linear(20, 2), LI())
        >>> x = (torch.rand(100, 16, 30, generator=torch.Generator().manual_seed(0)) < 0.1).float()
        >>> report = fluctua.initialize(model, x, method=SpikeInit(p=0.05), seed=0)
        >>> print(f"{model[0].weight.std():.2f}")
        1.13
    """

    p: float = 0.1
    surrogate: bool = False
    simulated: bool = False
    samples: int = 4096

    def fill(self, population: Population, replay: Replay, generator: torch.Generator) -> None:
        afferents = spiking.afferents_of(population, replay)
        if self.simulated:
            drive = self._simulated(population, afferents, generator)
        else:
            constants = self._constants(population, afferents)
            drive = constants.sigma_static if afferents.constant else constants.sigma * math.sqrt(self.p)
        spiking.draw_weights(population, drive / math.sqrt(afferents.total_power(population, self.p)), generator)

    def end(self, network: Network) -> None:
        """Give the neurons the method's surrogate, if asked."""
        slopes: dict[nn.Module, float] = {}
        with network.replay() as replay:
            for p in network.spiking if self.surrogate else ():
                slope = self._constants(p, spiking.afferents_of(p, replay)).slope
                slopes |= {cell: slope for cell in modules_of(p.module) if isinstance(cell, LIF)}
        for cell, slope in slopes.items():
            cell.surrogate = PiecewiseExponential(slope)  # type: ignore[assignment]

    def _constants(self, population: Population, afferents: spiking.Afferents) -> "SpikeInitConstants":
        return SpikeInitConstants.of(spiking.delta_neuron(population.neuron, constant_input=afferents.constant), self.p)

    def _simulated(self, population: Population, afferents: spiking.Afferents, generator: torch.Generator) -> float:
        steps, _, *neurons = afferents.shape
        trials = population.layout.samples or math.ceil(self.samples / math.prod(neurons))
        noise = torch.randn(1 if afferents.constant else steps, trials, *neurons, generator=generator)
        noise = noise.expand(steps, *noise.shape[1:]).to(population.pathways[0].weight)
        for q in writable(population):
            write(q.weight, torch.zeros_like(q.weight))  # recurrent input is part of the noise
        with preserved(population.module):
            return simulated_drive(partial(_spikes, population), noise, self.p, _scale(population))


def _spikes(population: Population, current: Tensor) -> Tensor:
    """What a population alone makes of a current `[T, B, *N]`, from rest."""
    module, layout = population.module, population.layout
    called = current if layout.stepwise else layout.as_called(current)
    known = KnownNeurons()
    output = (over_time(module, called, known, 0) if known.found_in(module) else plain_call)(module, called)
    spikes = layout.spikes(module, output)
    return spikes if layout.stepwise else layout.as_sequence(spikes)


@dataclass(frozen=True)
class PiecewiseExponential(Surrogate):
    """`beta exp(-2 beta |x|)`, the surrogate of SpikeInit; runs on the reference engine."""

    def derivative(self, x: Tensor) -> Tensor:
        return self.beta * (-2 * self.beta * x.abs()).exp()


def _scale(population: Population) -> float:
    """The current at which the free potential has the threshold as its standard deviation."""
    return (population.neuron.threshold or 1.0) / math.sqrt(spiking.power_gain(population.neuron))


_NORMAL = NormalDist()


@dataclass(frozen=True)
class SpikeInitConstants:
    """The results of SpikeInit for a neuron and a spike probability p.

    The steady state (their theorem 4.1) of `y[t] = kappa y[t-1] 1(y[t-1] < theta) + x[t]` with white Gaussian x of
    variance `sigma_x^2`, and y taken to be Gaussian too, `a = (theta - mu_y) / sigma_y`, is ::

        mu_y               = kappa (mu_y Phi(a) - sigma_y phi(a))
        mu_y^2 + sigma_y^2 = kappa^2 ((mu_y^2 + sigma_y^2) Phi(a) - sigma_y (theta + mu_y) phi(a)) + sigma_x^2

    They search for the `sigma_x = gain sigma sqrt(p)` with `P(y > theta) = p`. But p fixes `a`, and the rest follows.

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
    def of(cls, neuron: spiking.DeltaNeuron, p: float = 0.1) -> "SpikeInitConstants":
        """Solve for a neuron.

        Raises:
            ValueError: this neuron cannot reach p, however strong its input.
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
        sigma_static = root(lambda s: static_rate(s, kappa, theta), p, 1e-6 * theta, 1e3 * theta) / neuron.gain
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

    A neuron that needs k steps to threshold, `x (1 - kappa^k) / (1 - kappa) >= theta`, spikes once in k steps.
    """
    k = torch.arange(1, 20_000, dtype=torch.float64)  # neurons that need longer count as silent
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

    return root(power, square, 1e-6 / std, 1e6 / std)


def simulated_drive(neuron: Callable[[Tensor], Tensor], noise: Tensor, p: float, scale: float = 1.0) -> float:
    """The standard deviation of a random current at which simulated neurons spike with probability p per step.

    Args:
        neuron: current `[T, B, *N]` -> spikes.
        noise: standard normal numbers `[T, B, *N]`; the current is a multiple of them.
        p: wanted mean of the spikes in the second half of the steps.
        scale: size of the answer; it is searched within a factor of 1000.

    Raises:
        ValueError: the neurons do not reach p, however strong the current.
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
    return root(probability, p, 1e-3 * scale, high, steps=24)


def _depression(kappa: float, p: float) -> float:
    """`-mu_y / sigma_y`: resets remove only the highest potentials."""
    return kappa * _NORMAL.pdf(_NORMAL.inv_cdf(1 - p)) / (1 - kappa * (1 - p))


def root(rising: Callable[[float], float], value: float, low: float, high: float, *, steps: int = 60) -> float:
    """Where a rising function has a value, between two positive numbers; by bisection of the logarithm."""
    for _ in range(steps):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return math.sqrt(low * high)
