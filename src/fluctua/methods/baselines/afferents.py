"""What the rivals need to know of a network: its spiking populations, and what reaches them from the data."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fluctua.methods.baselines.classic import draw_kaiming
from fluctua.methods.components import SilentInputError
from fluctua.methods.drawing import normal, of_entries, write
from fluctua.network import INPUT, Pathway, Population, trace
from fluctua.network.batch import check_batch
from fluctua.network.loop import running_of
from fluctua.network.preserve import Forward
from fluctua.network.replay import Passes


@dataclass(frozen=True, eq=False)
class Afferents:
    """What reaches one population.

    Attributes:
        shape: of its input current, `[T, B, *N]`.
        power: mean square of what each pathway from the data gets, by the pathway's name.
        constant: whether all that reaches it comes from the data and is the same at every time step.
    """

    shape: torch.Size
    power: dict[str, float]
    constant: bool

    def total_power(self, population: Population, spiking: float) -> float:
        """Sum over the afferents of one neuron of their mean square: `spiking` for each of another population.

        Raises:
            SilentInputError: the data leave the population without any input.
        """
        total = sum(q.fan_in * self.power.get(q.name, spiking) for q in population.pathways)
        if not total > 0:
            raise SilentInputError(
                f"no activity of this batch reaches {population.name}, so its weights cannot be sized: take a batch "
                "with activity"
            )
        return total


def spiking_populations(
    rival: str, model: nn.Module, batch: Any, forward: Forward, generator: torch.Generator, *, data: bool
) -> Iterator[tuple[Population, Afferents]]:
    """Populations whose weights are to be written, one after the other; what is not theirs gets Kaiming weights.

    The rivals' theories are about spiking neurons. Readouts, and layers that lead to another layer, have no place in
    them and get what the code of SpikeInit gives its classifiers, Kaiming weights of gain 1. Biases are zero.

    Args and errors: see `populations_of`; the generator is for the Kaiming weights.
    """
    forward = running_of(model, batch, forward)
    found = populations_of(rival, model, batch, forward, data=data)
    draw_kaiming(model, generator)
    passes = Passes(model, batch, forward, found)
    for population in found:
        if population.neuron.threshold is not None and free(population):
            yield population, _afferents(population, passes)
        passes.done(population)


def populations_of(rival: str, model: nn.Module, batch: Any, forward: Forward, *, data: bool) -> tuple[Population, ...]:
    """All populations in the order in which they run.

    Args:
        rival: name of the method, for messages.
        model: to be initialised.
        batch: input `[T, B, ...]`.
        forward: runs all time steps.
        data: whether the batch is measured; else it only serves to find the wiring.

    Raises:
        ValueError: no batch.
        BatchError: a batch that cannot be measured.
        WiringError: no spiking neuron found, or a model that cannot be traced.
    """
    if batch is None:
        raise ValueError(f"{rival} has to see which neurons a weight feeds: pass a batch [T, B, ...]")
    if data:
        check_batch(batch, forward)
    return trace(model, batch, forward)


def free(population: Population) -> list[Pathway]:
    """The pathways whose weights may be written."""
    return [q for q in population.pathways if q.skipped_because is None]


def draw_weights(population: Population, std: float, generator: torch.Generator) -> None:
    """Normal weights of one standard deviation for all pathways of a population."""
    for q in free(population):
        write(q.weight, of_entries(q, std * normal(q.weight, generator)))


def _afferents(population: Population, passes: Passes) -> Afferents:
    from_data = {q.name for q in population.pathways if q.sources == (INPUT,)}
    inputs = {name: x for name, x in passes.heard(population).items() if name in from_data}
    shape = passes.current(population).shape
    power = {name: float(x.double().square().mean()) for name, x in inputs.items()}
    constant = len(power) == len(population.pathways) and all(_constant(x, shape[0]) for x in inputs.values())
    return Afferents(shape, power, constant)


def _constant(x: Tensor, steps: int) -> bool:
    """Whether an input `[T, B, ...]` or `[T * B, ...]` is the same at all steps."""
    x = x.reshape(steps, -1)
    return bool((x[1:] == x[:-1]).all())
