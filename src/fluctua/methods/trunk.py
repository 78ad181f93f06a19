"""Populations that read the same trunk: each finds there what all branches before have added.

Branches that add to the potential (membrane shortcuts: MS-ResNet, Spikingformer, spike-driven transformers) leave the
signal on the trunk as it is, so the variance that readers find can only grow along the trunk. If every reader were
brought to the same variance, no branch could add any. So it grows from reader to reader by the same factor, by `GROWTH`
in all, centred on the targets. Every sigma_u is then within 8 % of its target, and all branches add alike. If
thresholds differ, the growing variances are fitted to what the readers want (isotonic regression).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import exp, log, sqrt

import numpy as np

from fluctua.methods.population import Place
from fluctua.methods.weights import writable
from fluctua.network.facts import Population
from fluctua.theory.psp import Array
from fluctua.theory.target import Moments, Target

GROWTH = 1.36
"""Growth of the variance along a trunk whose readers want the same."""
LEAST = 0.5
"""Fraction of a branch's intended addition that it adds in any case."""


def trunks(populations: Sequence[Population]) -> list[list[Population]]:
    """Groups of populations that read the same trunk, each in order."""
    root = {p.name: p.name for p in populations}

    def origin(name: str) -> str:
        return name if root[name] == name else origin(root[name])

    for p in populations:
        for q in p.pathways:
            if q.trunk in root:
                root[origin(p.name)] = origin(q.trunk)
    readers: dict[str, list[Population]] = {}
    for p in populations:
        readers.setdefault(origin(p.name), []).append(p)
    return [found for found in readers.values() if len(found) > 1]


def place_of(population: Population, among: Sequence[Population], variance: Callable[[Population], float]) -> Place:
    """The place of a population on the trunk that it reads, if any, among all in the order in which they run.

    `variance` gives the variance that a population with a threshold, or this one, wants.
    """
    readers = next((found for found in trunks(among) if population in found), [])
    stations: list[list[Population]] = []  # readers between two additions
    for p in readers:
        if writable(p) or not stations:
            stations.append([])
        stations[-1].append(p)
    if len(stations) < 2:
        return Place()
    known = [p for p in readers if p.neuron.threshold is not None or p is population]
    wanted = {p: log(variance(p) / float(np.mean(p.neuron.kernel.eps_hat))) for p in known}
    mean = sum(wanted.values()) / len(wanted)
    steps = [[wanted.get(p, mean) for p in station] for station in stations]
    growth = log(GROWTH) / (len(stations) - 1)
    place = next(k for k, station in enumerate(stations) if population in station)
    rising = _isotonic([sum(step) / len(step) - k * growth for k, step in enumerate(steps)])
    part = exp(rising[place] + place * growth - wanted[population])
    return Place(part, LEAST * sqrt(1 - exp(-growth)) if place else 0.0)


def told_of_trunks(
    populations: Sequence[Population], targets: Mapping[str, Target], reached: Mapping[str, Moments]
) -> Iterator[tuple[str, bool]]:
    """A sentence on each trunk whose readers could not all get their target, and whether they are far off."""
    for readers in trunks(populations):
        parts = {
            p.name: _size(reached[p.name].sigma_u) / _size(targets[p.name].sigma_u(p.neuron.theta, p.neuron.kernel))
            for p in readers
            if p.name in reached and targets[p.name].rate is None
        }
        far = any(abs(part - 1) > 0.1 for part in parts.values())
        if any(abs(part - 1) > 1e-3 for part in parts.values()):
            listed = [f"{name} {part:.2f}" for name, part in parts.items()] if far else list(parts)
            why = "; no trunk brings them closer, since its variance cannot fall" if far else ""
            yield (
                f"{', '.join(listed)} read one trunk, to which every branch adds, so that sigma_u rises along it: from "
                f"{min(parts.values()):.2f} to {max(parts.values()):.2f} of the target{why}",
                far,
            )


def _size(sigma: Array) -> float:
    return float(np.sqrt(np.mean(sigma**2)))


def _isotonic(values: list[float]) -> list[float]:
    """The numbers nearest to `values`, in the mean square, that do not fall from one to the next."""
    blocks: list[list[float]] = []
    for value in values:
        blocks.append([value])
        while len(blocks) > 1 and np.mean(blocks[-2]) >= np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    return [float(np.mean(block)) for block in blocks for _ in block]
