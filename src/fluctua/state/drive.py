"""What neurons hear in a trial, of a few that stand for all."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fluctua.network.facts import Population, population_currents

UNITS = 2048  # neurons of samples that stand for all


@dataclass(frozen=True, eq=False)
class Drive:
    """What some neurons of a population hear in a trial.

    Attributes:
        currents: `[T, K]` of K neurons of some samples, for each input.
        units: `[K]`, which of the neurons each is.
        neurons: the shape `[*N]` of all of them.
    """

    currents: tuple[Tensor, ...]
    units: Tensor
    neurons: tuple[int, ...]

    @staticmethod
    def of(p: Population, arguments: tuple[Tensor, ...], spikes: Mapping[str, Tensor]) -> "Drive":
        """From what its module is called with, and the spikes `[T, B, *N]` that recurrent pathways start from."""
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
        """A constant that broadcasts to `[*N]`, for the K neurons."""
        try:
            return value.detach().cpu().double().expand(self.neurons).reshape(-1)[self.units]
        except RuntimeError as error:
            raise ValueError(
                f"a constant of the shape {[*value.shape]} is not one of neurons {[*self.neurons]}"
            ) from error
