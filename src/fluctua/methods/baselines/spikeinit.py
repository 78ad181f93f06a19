"""SpikeInit: weights for a wanted spike probability per step, resets included."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fluctua.methods.baselines.afferents import Afferents, SpikingBaseline, afferents_of, draw_weights
from fluctua.methods.baselines.delta_neuron import delta_neuron, power_gain
from fluctua.methods.baselines.spikeinit_theory import SpikeInitConstants, simulated_drive
from fluctua.methods.weights import writable, write
from fluctua.network.facts import Population
from fluctua.network.network import Network
from fluctua.network.preserve import preserved
from fluctua.network.replay import Replay
from fluctua.network.run import modules_of
from fluctua.neurons import LIF
from fluctua.neurons.surrogates import Surrogate


@dataclass(frozen=True)
class SpikeInit(SpikingBaseline):
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
        afferents = afferents_of(population, replay)
        if self.simulated:
            drive = self._simulated(population, afferents, generator)
        else:
            constants = self._constants(population, afferents)
            drive = constants.sigma_static if afferents.constant else constants.sigma * math.sqrt(self.p)
        draw_weights(population, drive / math.sqrt(afferents.total_power(population, self.p)), generator)

    def end(self, network: Network) -> None:
        """Give the neurons the method's surrogate, if asked."""
        slopes: dict[nn.Module, float] = {}
        with network.replay() as replay:
            for p in network.spiking if self.surrogate else ():
                slope = self._constants(p, afferents_of(p, replay)).slope
                slopes |= {cell: slope for cell in modules_of(p.module) if isinstance(cell, LIF)}
        for cell, slope in slopes.items():
            cell.surrogate = PiecewiseExponential(slope)  # type: ignore[assignment]

    def _constants(self, population: Population, afferents: Afferents) -> SpikeInitConstants:
        return SpikeInitConstants.of(delta_neuron(population.neuron, constant_input=afferents.constant), self.p)

    def _simulated(self, population: Population, afferents: Afferents, generator: torch.Generator) -> float:
        steps, _, *neurons = afferents.shape
        trials = math.ceil(self.samples / math.prod(neurons))
        noise = torch.randn(1 if afferents.constant else steps, trials, *neurons, generator=generator)
        noise = noise.expand(steps, *noise.shape[1:]).to(population.pathways[0].weight)
        for q in writable(population):
            write(q.weight, torch.zeros_like(q.weight))  # recurrent input is part of the noise
        with preserved(population.module):
            return simulated_drive(population.module, noise, self.p, _scale(population))


@dataclass(frozen=True)
class PiecewiseExponential(Surrogate):
    """`beta exp(-2 beta |x|)`, the surrogate of SpikeInit; runs on the reference engine."""

    def derivative(self, x: Tensor) -> Tensor:
        return self.beta * (-2 * self.beta * x.abs()).exp()


def _scale(population: Population) -> float:
    """The current at which the free potential has the threshold as its standard deviation."""
    return (population.neuron.threshold or 1.0) / math.sqrt(power_gain(population.neuron))
