"""Weights that are a function of what is learnt, such as its exponential or softplus: all are shifted by one number."""

import numpy as np
import torch

from fluctua.methods.components import FreePotential, SilentInputError
from fluctua.methods.mute import silence
from fluctua.methods.population import Goal, offsets_of, shiftable
from fluctua.methods.root import find_crossing
from fluctua.methods.weights import write
from fluctua.network.facts import Population
from fluctua.network.replay import Replay
from fluctua.state.measure import window_mask
from fluctua.theory.membrane import Moments


def fit_shifted(population: Population, goal: Goal, replay: Replay) -> Moments:
    """Shift what is learnt until U fluctuates as wanted, while a bias keeps the mean, if there is one.

    Raises:
        SilentInputError: no current reaches the population.
    """
    wanted, pathways = goal.moments(population), shiftable(population)
    like = next(c for c in replay.currents(population) if c is not None)
    sigma, mask = torch.as_tensor(wanted.sigma_u).to(like), window_mask(like, goal.window)
    potential = FreePotential(population, replay, mask, sigma)
    start = {q.weight: q.weight.detach().clone() for q in pathways}

    def moments(bias: float) -> tuple[float, float]:
        for b in (b for q in pathways for b in offsets_of(q)):
            write(b, torch.full_like(b, bias))
        return potential.moments()

    def distance(shift: float) -> float:
        for weight, value in start.items():
            write(weight, value + shift)
        mean, size = moments(0.0)
        if not size > 0:
            raise SilentInputError(silence(population, replay, len(like)))
        if gain := moments(1.0)[0] - mean:
            size = moments((goal.target.mean - mean) / gain)[1]
        return float(np.log(max(size, 1e-9)))

    seen = find_crossing(distance, 0.0, -0.1, enough=0.01, calls=12)
    distance(min(seen, key=lambda shift: abs(seen[shift])))
    return wanted
