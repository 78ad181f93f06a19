"""LSUV: the current into every population is measured and scaled to unit variance."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from fluctua.methods.baselines.afferents import free, populations_of
from fluctua.methods.baselines.classic import draw_kaiming
from fluctua.methods.components import SilentInputError
from fluctua.methods.drawing import write
from fluctua.network import Population
from fluctua.network.batch import new_generator
from fluctua.network.loop import running_of
from fluctua.network.preserve import Forward, plain_call
from fluctua.network.replay import Passes


def lsuv(
    model: nn.Module,
    batch: Any = None,
    *,
    seed: int | None = None,
    forward: Forward = plain_call,
    tolerance: float = 0.1,
    iterations: int = 10,
) -> None:
    """Layer-sequential unit variance, Mishkin & Matas 2016 (arXiv 1511.06422), in place.

    Orthonormal weights (Saxe et al. 2014), then layer by layer, from the first to the last, `w <- w / sd` until the
    measured variance of the layer's output on a batch is within `tolerance` of 1, readouts included.

    Certain: algorithm and default tolerance and number of iterations. Reconstructed, as there is no version for
    spiking networks: the output of a layer is the current that its neurons get (the method knows nothing of synapses
    and membranes), its variance is taken over time, samples and neurons, and pathways that add up are one layer,
    recurrent ones included. A current that a normalisation layer sets is left as it is.

    Args:
        model: of known neurons.
        batch: input `[T, B, ...]`.
        seed: of the draws.
        forward: runs all time steps.
        tolerance: largest distance of the variance from 1.
        iterations: how often a layer is measured and scaled at most.

    Raises:
        ValueError: no batch.
        BatchError: a batch that cannot be measured.
        SilentInputError: a population that no current reaches.
        WiringError: no spiking neuron found, or a model that cannot be traced.
    """
    generator = new_generator(seed, None)
    forward = running_of(model, batch, forward)
    found = populations_of("lsuv", model, batch, forward, data=True)
    draw_kaiming(model, generator)  # for layers that lead to another layer; all others are drawn again
    passes = Passes(model, batch, forward, found)
    for population in found:
        for q in free(population):
            write(q.weight, orthonormal(q.weight, generator))
        scaled = [q.weight for q in free(population) if q.norm is None]
        for _ in range(iterations if scaled else 0):
            variance = _variance(population, passes)
            if abs(variance - 1) < tolerance:
                break
            for weight in scaled:
                write(weight, weight / math.sqrt(variance))
        passes.done(population)


def orthonormal(like: Tensor, generator: torch.Generator) -> Tensor:
    """A weight with orthonormal rows, or columns if it has more rows than columns, drawn on the CPU."""
    return nn.init.orthogonal_(torch.empty(like.shape), generator=generator).to(like)


def _variance(population: Population, passes: Passes) -> float:
    if any(q.recurrent for q in population.pathways):
        passes.assume(passes.simulate([population]))
    variance = float(passes.current(population).double().var())
    if not variance > 0:
        raise SilentInputError(
            f"no current reaches {population.name} on this batch, so lsuv cannot scale it: the layer before may be "
            "silent; take a batch with more activity"
        )
    return variance
