"""Populations without weights that gave no spike, such as those behind attention or pooling alone.

Weights that read them cannot be measured on the batch. They are set for assumed spikes: Poisson, at the rate that the
theory predicts at the target.
"""

import numpy as np
import torch
from torch import Tensor

from fluctua.network.facts import Population
from fluctua.network.replay import Replay
from fluctua.theory.membrane import Moments
from fluctua.theory.target import crossing_rate


def mute_sources(population: Population, replay: Replay) -> dict[str, tuple[Population, Tensor]]:
    """The silent populations that feed a population, by name, with their output: zeros."""
    known = {p.name: p for p in replay.populations}

    def heard(p: Population) -> list[Population]:
        return [known[name] for name in sorted(p.heard & known.keys()) if name != p.name]

    def mute(p: Population, above: frozenset[str] = frozenset()) -> bool:
        emitted = replay.kept(p)
        if emitted is None or bool(emitted.any()) or p.neuron.theta is None or p.name in above:
            return False
        sources = heard(p)
        cut_off = len(sources) == len(p.heard) and all(mute(s, above | {p.name}) for s in sources)
        return not p.pathways or cut_off

    found = ((p, replay.kept(p)) for p in heard(population) if mute(p))
    return {p.name: (p, emitted) for p, emitted in found if emitted is not None}


def poisson_spikes(population: Population, wanted: Moments, like: Tensor, generator: torch.Generator) -> Tensor:
    """Poisson spikes of the population's size, in the shape of `like`, at the rate that the theory predicts."""
    assert population.neuron.theta is not None
    rate = crossing_rate(wanted.xi(population.neuron.theta), population.neuron.kernel)
    probability = float(np.mean(rate)) * population.neuron.kernel.dt
    fired = (torch.rand(like.shape, generator=generator) < probability).to(like)
    return fired * torch.as_tensor(population.neuron.size).to(fired)
