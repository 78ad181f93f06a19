"""Networks of a neuron that runs one step per call, as hand-written simulators have it. No framework is needed."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fluctua.network import ProbedNeuron
from fluctua.neurons import SuperSpike
from fluctua.neurons.surrogates import spike
from shared.spikes import spikes

A, B = 0.9, 0.8  # decays per step of membrane and synapse
WIDTH = 40


class Kept(NamedTuple):
    """State between two steps."""

    current: Tensor
    potential: Tensor


class StepNeuron(nn.Module):
    """`i = B i + x; v = A v + i`, a spike subtracts the threshold at once. Its state is passed on by the caller."""

    def __init__(self, threshold: float = 1.0) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor, state: Kept | None = None) -> tuple[Tensor, Kept]:
        current, potential = state or Kept(torch.zeros_like(x), torch.zeros_like(x))
        current = B * current + x
        potential = A * potential + current
        out = spike(potential - self.threshold, SuperSpike())
        return out, Kept(current, potential - self.threshold * out)


class KeepingNeuron(StepNeuron):
    """The same, with its state in the module."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Kept | None = None

    def reset(self) -> None:
        self.kept = None

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        out, self.kept = super().forward(x, self.kept)
        return out


NEURONS: dict[type[nn.Module], ProbedNeuron] = {
    StepNeuron: ProbedNeuron("threshold", lambda module, output: output[1].potential, passes_state=True),
    KeepingNeuron: ProbedNeuron("threshold", "kept.potential", reset="reset"),
}


def linear(n: int, m: int = WIDTH) -> nn.Linear:
    return nn.Linear(n, m, bias=False)


class Looping(nn.Module):
    """Three layers in a loop over time. The second hears itself, and the third by `back`, where asked for."""

    def __init__(self, *, recurrent: bool = False, feedback: bool = False) -> None:
        super().__init__()
        self.one, self.two, self.three = linear(50), linear(WIDTH), linear(WIDTH)
        self.first, self.second, self.third = StepNeuron(), StepNeuron(), StepNeuron()
        if recurrent:
            self.again = linear(WIDTH)
        if feedback:
            self.back = linear(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        states: list[Kept | None] = [None] * 3
        b = c = x.new_zeros(x.shape[1], WIDTH)
        record = []
        for now in x:
            a, states[0] = self.first(self.one(now), states[0])
            current = self.two(a)
            if hasattr(self, "again"):
                current = current + self.again(b)
            if hasattr(self, "back"):
                current = current + self.back(c)
            b, states[1] = self.second(current, states[1])
            c, states[2] = self.third(self.three(b), states[2])
            record.append(c)
        return torch.stack(record)


class SameNeuronTwice(nn.Module):
    """One neuron module for two layers, in a loop over time."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.neuron = linear(50), linear(WIDTH), StepNeuron()

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.neuron(self.two(self.neuron(self.one(now))[0]))[0] for now in x])


def stack(depth: int) -> nn.Sequential:
    """Written for one time step: the caller loops."""
    layers: list[nn.Module] = []
    for k in range(depth):
        layers += [linear(50 if k == 0 else WIDTH), KeepingNeuron()]
    return nn.Sequential(*layers)


def trains(steps: int = 50, samples: int = 24) -> Tensor:
    return spikes(steps, samples, 50)


def free_potential_of(neuron: nn.Module, currents: list[Tensor]) -> Tensor:
    """By the neuron's own equations with its threshold out of reach: currents step by step -> `[T, B, N]`."""
    state: Kept | None = None
    potentials = []
    unreachable = StepNeuron(threshold=1e9)
    for x in currents:
        _, state = unreachable(x, state)
        potentials.append(state.potential)
    return torch.stack(potentials)
