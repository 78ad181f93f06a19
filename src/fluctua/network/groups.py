"""Which populations hear each other, and must be brought into their state together."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fluctua.network.facts import Population

Group = tuple[Population, ...]


def groups(populations: Sequence[Population]) -> list[Group]:
    """The populations, each with those that it hears and is heard by, or that are in one module with it.

    The groups follow each other so that each hears only itself and those before it.
    """
    reach = _reach(populations)
    remaining, ordered = list(range(len(populations))), list[Group]()
    while remaining:
        ready = next(i for i in remaining if not any(reach[j, i] and not reach[i, j] for j in remaining))
        group = [j for j in remaining if j == ready or (reach[ready, j] and reach[j, ready])]
        ordered.append(tuple(populations[j] for j in group))
        remaining = [j for j in remaining if j not in group]
    return ordered


def hears_itself(group: Group) -> bool:
    """Whether spikes of the group come back to it."""
    names = {p.name for p in group}
    return any(q.recurrent for p in group for q in p.pathways) or any(names & set(p.unweighted) for p in group)


def with_recurrence(populations: Sequence[Population]) -> list[Population]:
    """The populations, their pathways marked as recurrent where they come from the population's own group."""
    marked = {p.name: {member.name for member in group} for group in groups(populations) for p in group}
    loops = _reach(populations).diagonal()
    return [
        replace(
            p,
            pathways=tuple(
                replace(q, recurrent=q.recurrent or (bool(loop) and not marked[p.name].isdisjoint(q.sources)))
                for q in p.pathways
            ),
        )
        for p, loop in zip(populations, loops, strict=True)
    ]


def _reach(populations: Sequence[Population]) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Whether spikes of one population get to another, over any number of others."""
    index = {p.name: i for i, p in enumerate(populations)}
    reach = np.zeros((len(populations), len(populations)), dtype=bool)
    for i, p in enumerate(populations):
        for source in {s for q in p.pathways for s in q.sources} | set(p.unweighted):
            if source in index:
                reach[index[source], i] = True
        for j, other in enumerate(populations):
            reach[i, j] |= i != j and other.module is p.module
    for k in range(len(populations)):
        reach |= np.outer(reach[:, k], reach[k])
    return reach
