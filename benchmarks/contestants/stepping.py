"""How a library whose neurons go one time step at a time is run at its best.

There are two orders, and which is faster depends on the library: the whole network step by step, as tutorials do it
and as stays in cache, or layer by layer, with one matrix product for all steps. A sequence is taken apart by
`unbind`: the gradient of `x[t]` costs as much as the whole sequence, at every step.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from workloads import DECAY_MEM, Workload

from contestants.nets import Layer, Net, net
from contestants.steps import Step, gradient_step, spikes, training_step

Advance = Callable[[Tensor], Tensor]
"""One time step of a population, the current `[B, *N]` to its spikes; it remembers its state."""

Start = Callable[[], Advance]
"""A population at rest."""


def step_by_step(workload: Workload, start: Start, gain: float) -> Step:
    """The whole network, one time step after the other."""
    if workload.classes == 0:
        return layer_by_layer(workload, start, gain)
    network, x = net(workload, gain), spikes(workload)

    def outputs() -> list[Tensor]:
        cells = [start() for _ in network.layers]
        last: list[Tensor | None] = [None] * len(cells)
        record = []
        for z in x.unbind(0):
            for k, layer in enumerate(network.layers):
                last[k] = z = cells[k](_current(layer, layer.synapse(z), last[k]))
            record.append(network.readout(z))
        return record

    return _trained(workload, network, outputs)


def layer_by_layer(workload: Workload, start: Start, gain: float) -> Step:
    """Each layer over the whole sequence, then the next."""

    def over_time(current: Tensor, layer: Layer | None = None) -> Tensor:
        advance, z, record = start(), None, []
        for now in current.unbind(0):
            z = advance(now if layer is None else _current(layer, now, z))
            record.append(z)
        return torch.stack(record)

    if workload.classes == 0:
        return gradient_step(over_time, workload)
    network, x = net(workload, gain), spikes(workload)

    def outputs() -> tuple[Tensor, ...]:
        z = x
        for layer in network.layers:
            z = over_time(layer.synapse(z.flatten(0, 1)).unflatten(0, x.shape[:2]), layer)
        out: Tensor = network.readout(z.flatten(0, 1))
        return out.view(*x.shape[:2], -1).unbind(0)

    return _trained(workload, network, outputs)


def _current(layer: Layer, current: Tensor, last: Tensor | None) -> Tensor:
    """What reaches a population: from below, and from its own last spikes."""
    if layer.recurrent is None or last is None:
        return current
    back: Tensor = layer.recurrent(last)
    return current + back


def _trained(workload: Workload, network: Net, outputs: Callable[[], list[Tensor] | tuple[Tensor, ...]]) -> Step:
    """With a leaky readout behind the network's outputs."""

    def logits() -> Tensor:
        potential, record = torch.zeros(()), []
        for out in outputs():
            potential = torch.add(out, potential, alpha=DECAY_MEM)
            record.append(potential)
        return torch.stack(record).amax(0)

    return training_step(logits, network.parameters(), workload)
