"""Which share of the variance of a population's potential each of its pathways supplies."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fluctua.network.facts import Population
from fluctua.network.network import Network
from fluctua.network.potential import currents_from_outside, response
from fluctua.network.replay import currents_while_silent
from fluctua.state.measure import OUTSIDE, Parts, variance


def shares(p: Population, parts: Parts, outside: Parts | None = None) -> Parts:
    """The shares of a population's pathways, by their names, of what all bring if each is taken alone.

    Args:
        p: the population. The shares are unknown, and left out, where it has a single pathway, two weights in one
            module, or several pathways from outside without `outside`.
        parts: the variance of what comes from outside, and of each recurrent pathway.
        outside: the variance of each pathway from outside, and of what arrives without a weight: `outer_parts`.
    """
    names = {q.name for q in p.pathways}
    if len(names) < 2 or len({q.synapse for q in p.pathways}) < len(names):
        return {}
    found = {name: part for name, part in parts.items() if name != OUTSIDE}
    if outside is not None:
        found |= outside
    elif needs_passes(p):
        return {}
    else:
        found |= {q.name: parts[OUTSIDE] for q in p.pathways if not q.inside}
    total = sum(found.values())
    return {name: found[name] / total for name in names} if total > 0 else {}


def needs_passes(p: Population) -> bool:
    """Whether what comes from outside is made of parts that only passes of the model can tell apart."""
    outer = {q.name for q in p.pathways if not q.inside}
    return len({q.name for q in p.pathways}) > 1 and (len(outer) > 1 or bool(p.unweighted))


def outer_parts(
    network: Network, answers: Mapping[nn.Module, list[Any]], masks: Mapping[str, Tensor]
) -> dict[str, Parts]:
    """The variance that each pathway from outside supplies, of the populations that need passes to know.

    In each pass the neurons answer what they gave before, and of the modules that feed a population all but one put
    out nothing; weights are not touched. One pass serves all populations at a time.

    Args:
        network: a model on a batch.
        answers: what each neuron module has returned, call by call.
        masks: window `[T, B]` of each population, by name.
    """
    chosen = _separable([p for p in network.populations if needs_passes(p)])
    turns = _turns(chosen)
    rests: dict[str, Tensor] = {}
    found: dict[str, Parts] = {}
    for turn in (None, *sorted(set(turns.values()))) if turns else ():
        silent = [m for m, t in turns.items() if t != turn]
        arrived = currents_while_silent(network, answers, chosen, silent)
        for p in chosen:
            u = response(p.neuron, currents_from_outside(p, arrived[p.name]))
            if turn is None:
                rests[p.name] = u if bool(u.any()) else torch.zeros(())
                found[p.name] = {OUTSIDE: variance(u, masks[p.name])}
            for q in p.pathways:
                if not q.inside and turns[q.synapse] == turn:
                    found[p.name][q.name] = variance(u - rests[p.name].to(u), masks[p.name])
    return found


def _separable(populations: list[Population]) -> list[Population]:
    """Without those that have a norm behind several pathways, or a pathway through a module that feeds another."""
    feeding = {q.synapse for p in populations for q in p.pathways}

    def separable(p: Population) -> bool:
        norms = [q.norm for q in p.pathways if q.norm is not None]
        return len(norms) == len(set(norms)) and not any(m in feeding for q in p.pathways for m in q.through)

    return [p for p in populations if separable(p)]


def _turns(populations: list[Population]) -> dict[nn.Module, int]:
    """In which pass each module may speak, so that in no pass two of one population do."""
    turns: dict[nn.Module, int] = {}
    beside: dict[nn.Module, set[nn.Module]] = {}
    for p in populations:
        outer = {q.synapse for q in p.pathways if not q.inside}
        for m in outer:
            beside.setdefault(m, set()).update(outer)
    for m, others in beside.items():
        taken = {turns[other] for other in others if other in turns}
        turns[m] = next(t for t in range(len(others)) if t not in taken)
    return turns
