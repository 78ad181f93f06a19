"""Populations without weights that gave no spike, such as those behind attention or pooling alone.

Weights that read them cannot be measured on the batch. They are set for assumed spikes: Poisson, at the rate that the
theory predicts at the target.
"""

from collections.abc import Container

import numpy as np
import torch
from torch import Tensor

from fluctua.network.facts import INPUT, Population, response
from fluctua.network.replay import Replay
from fluctua.network.trace_pass import is_plain
from fluctua.theory.target import Moments, crossing_rate


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


def silence(population: Population, replay: Replay, steps: int, part: Container[Tensor] = ()) -> str:
    """Why a population cannot be initialised on a batch of `steps` steps: a part, by default all, has no effect."""
    length = f"{steps} steps" if population.neuron.in_steps else f"{steps * population.neuron.kernel.dt:g} s"
    silent = [q for q in population.pathways if q.weight in part] or population.pathways
    heard, currents = replay.heard(population), replay.currents(population)
    arriving = [q.name for q in silent if q.name in heard and bool(heard[q.name].any())]
    late = any(bool(c.any()) for c in currents if c is not None) and not response(population.neuron, currents).any()
    if arriving and not late:
        return (
            f"{' and '.join(arriving)} cannot make the potential of {population.name} fluctuate, though input arrives: "
            "something in between blocks it, or all neurons get the same input at every step; leave the population out "
            "with populations="
        )
    sources = sorted({s for q in silent for s in q.sources})
    known = {p.name: p for p in replay.populations}
    skipped = [q for name in sources if name in known for q in known[name].pathways if q.skipped_because]
    left = [f"{q.name} was left as it is ({q.skipped_because})" for q in skipped if not q.normed]
    left += [f"{name} was left as it is" for name in sources if name not in known and name != INPUT]
    unknown = list(dict.fromkeys(type(m).__name__ for q in silent for m in q.through if not is_plain(m)))
    if unknown:
        return (
            f"nothing reaches {population.name} through {' and '.join(unknown)}, which may be a neuron that fluctua "
            f"does not know: describe it with neurons={{{unknown[0]}: fluctua.network.ProbedNeuron(...)}}"
        )
    way = (
        "Give it weights with which it fires, or choose others by populations="
        if left
        else "Activity needs time in every layer (12 to 20 ms with 20/10 ms time constants): use a longer "
        "batch, a smaller xi, or method='poisson', which needs no activity"
    )
    gave = ", for ".join([f"{' and '.join(sources)} gave none in time", *left])
    return f"no spike reaches {population.name} within the trial of {length}: {gave}. {way}"
