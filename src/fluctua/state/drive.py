"""The input currents of a few neurons that represent their population in a trial."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fluctua.network.facts import Population, population_currents

UNITS = 2048  # neurons, each in one sample, that represent all


@dataclass(frozen=True, eq=False)
class Drive:
    """Input currents of some neurons of a population in a trial.

    Attributes:
        currents: `[T, K]` for each input: K neurons, each in one sample.
        units: `[K]`, the index of each neuron.
        neurons: the shape `[*N]` of the whole population.
    """

    currents: tuple[Tensor, ...]
    units: Tensor
    neurons: tuple[int, ...]

    @staticmethod
    def of(p: Population, arguments: tuple[Tensor, ...], spikes: Mapping[str, Tensor]) -> "Drive":
        """From the arguments of its module, and the spikes `[T, B, *N]` of the sources of recurrent pathways."""
        currents = population_currents(p, arguments, spikes)
        first = next(c for c in currents if c is not None)
        count = first[0].numel()
        chosen = torch.arange(count)
        if count > UNITS:
            chosen = torch.randint(count, (UNITS,), generator=torch.Generator().manual_seed(0))
        picked = [None if c is None else c.detach().flatten(1)[:, chosen.to(c.device)].double().cpu() for c in currents]
        parts = tuple(torch.zeros(len(first), len(chosen)).double() if c is None else c for c in picked)
        return Drive(parts, chosen % first[0, 0].numel(), tuple(first.shape[2:]))

    def of_units(self, value: Tensor) -> Tensor:
        """Values for the K neurons, from a constant that broadcasts to `[*N]`."""
        try:
            return value.detach().cpu().double().expand(self.neurons).reshape(-1)[self.units]
        except RuntimeError as error:
            raise ValueError(
                f"a constant of the shape {[*value.shape]} does not fit neurons of the shape {[*self.neurons]}"
            ) from error
