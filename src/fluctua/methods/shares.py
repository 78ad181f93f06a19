"""Which share of a population's variance each of its pathways is to supply."""

from collections.abc import Sequence

from fluctua.network import Pathway, Population
from fluctua.theory.laws import OneSided
from fluctua.theory.weights import default_shares


def excites(q: Pathway, population: Population) -> int:
    """1 where all weights of a pathway excite, -1 where all inhibit, 0 where they may take either sign."""
    if not isinstance(q.family, OneSided):
        return 0
    return q.sign if population.neuron.kernels[q.port].eps_bar.mean() > 0 else -q.sign


def shares(pathways: Sequence[Pathway], population: Population, alpha: float) -> list[float]:
    """Shares that add up to 1: the paper's `alpha` within excitation, inhibition and weights of either sign alike.

    Pathways of one kind together supply as much as there are of them. Between excitation and inhibition that is only
    a start: how they divide their part between them follows from the wanted mean.
    """
    kinds = [excites(q, population) for q in pathways]
    found = [0.0] * len(pathways)
    for kind in set(kinds):
        members = [k for k, other in enumerate(kinds) if other == kind]
        within = default_shares([pathways[k].recurrent for k in members], alpha)
        for k, share in zip(members, within, strict=True):
            found[k] = share * len(members) / len(pathways)
    return found
