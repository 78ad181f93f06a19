"""The base class of all baselines."""

import math
from collections.abc import Mapping

import torch

from fluctua.methods.method import Method
from fluctua.network.facts import Population
from fluctua.network.network import Group
from fluctua.network.replay import Replay
from fluctua.theory.membrane import Moments
from fluctua.theory.psp import number
from fluctua.theory.target import Target


class Baseline(Method):
    """A method without a target, which sets one population after another, or the whole model at once."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, bool) and not 0 < number(value) < math.inf:
                raise ValueError(f"{name} of {type(self).__name__} must be a positive number, got {value!r}")

    def solve(
        self, group: Group, targets: Mapping[str, Target], replay: Replay, generator: torch.Generator
    ) -> dict[str, Moments]:
        for population in group:
            if population.name in targets:
                self.fill(population, replay, generator)
        return {}

    def fill(self, population: Population, replay: Replay, generator: torch.Generator) -> None:
        """Draw and write the weights into a population; by default `begin` has done everything."""
