"""What the baselines need to know about the input of a population."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fluctua.methods.baselines.baseline import Baseline
from fluctua.methods.baselines.classic import draw_kaiming
from fluctua.methods.components import SilentInputError
from fluctua.methods.weights import normal, of_entries, writable, write
from fluctua.network.facts import INPUT, Population
from fluctua.network.network import Group, Network
from fluctua.network.replay import Replay
from fluctua.theory.membrane import Moments
from fluctua.theory.target import Target


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
        """Sum of mean squares over the afferents of one neuron; `spiking` for each afferent from a population."""
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

    def solve(
        self, group: Group, targets: Mapping[str, Target], replay: Replay, generator: torch.Generator
    ) -> dict[str, Moments]:
        spiking = tuple(p for p in group if p.neuron.threshold is not None)
        return super().solve(spiking, targets, replay, generator)


def draw_weights(population: Population, std: float, generator: torch.Generator) -> None:
    """Normal weights with the same standard deviation for all pathways of a population."""
    for q in writable(population):
        write(q.weight, of_entries(q, std * normal(q.weight, generator)))


def afferents_of(population: Population, replay: Replay) -> Afferents:
    """Measure the input of a population."""
    from_data = {q.name for q in population.pathways if q.sources == (INPUT,)}
    inputs = {name: x for name, x in replay.heard(population).items() if name in from_data}
    shape = replay.current(population).shape
    power = {name: float(x.double().square().mean()) for name, x in inputs.items()}
    constant = len(power) == len(population.pathways) and all(_constant(x, shape[0]) for x in inputs.values())
    return Afferents(shape, power, constant)


def _constant(x: Tensor, steps: int) -> bool:
    """Whether an input `[T, B, ...]` or `[T * B, ...]` is the same at all steps."""
    x = x.reshape(steps, -1)
    return bool((x[1:] == x[:-1]).all())
