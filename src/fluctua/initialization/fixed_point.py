"""Measured initialisation of populations that hear themselves or each other: iterated until their state is their own.

What a recurrent weight brings depends on the spikes that it helps to cause. So the populations of a circuit start from
Poisson spikes at the rates that the theory predicts for their target; in each round all weights are set for the spikes
of the last one, and the circuit is run anew. Weights move only part of the way: a full step overshoots where recurrence
is strong. What is asked for is a state that reproduces itself, and the round that came closest to it is kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fluctua.diagnostics.window import population_mean, window_mask
from fluctua.initialization.drawing import write
from fluctua.initialization.measured import Aim, fresh, solve
from fluctua.initialization.passes import Passes
from fluctua.theory import Moments, crossing_rate
from fluctua.wiring import Population, potential_of

ROUNDS = 30
STEP = 0.6  # of the way to the weights that the last spikes ask for
ENOUGH = 0.03  # distance from the target at which to stop: of mu_u in theta, of sigma_u and rate in relative terms
BEARABLE = 0.1  # distance that is accepted when the rounds are over


class NoFixedPointError(ValueError):
    """A recurrent population has no steady state at its target, or none was found."""


@dataclass(frozen=True)
class _State:
    """How far one population is from where it should be."""

    mean: float  # distance of mu_u in thresholds
    spread: float  # sigma_u over its target, less 1
    rate: float  # likewise, where a rate was asked for, else 0

    @property
    def distance(self) -> float:
        return max(abs(self.mean), abs(self.spread), abs(self.rate))


def fit_circuit(
    populations: Sequence[Population], aims: Mapping[str, Aim], passes: Passes, generator: torch.Generator
) -> dict[str, Moments]:
    """Draw and scale the weights into and among the populations of one module.

    Args:
        populations: all of the module's.
        aims: of those to be brought somewhere, by name; the others stay as they are.
        passes: to run the network.
        generator: of the draws.

    Returns:
        The moments that were aimed at, by name.

    Raises:
        NoFixedPointError: no state within a tenth of the target was found.
        SilentInputError: no current reaches a population.
        InfeasibleTargetError: see `measured.fit`.
    """
    chosen = [p for p in populations if p.name in aims]
    values = {p.name: fresh(p, aims[p.name], generator) for p in chosen}
    wanted = {p.name: aims[p.name].moments(p) for p in chosen}
    scale = dict.fromkeys(wanted, 1.0)
    passes.assume(_predicted_spikes(populations, wanted, passes, generator))
    best, kept = np.inf, {}
    for turn in range(ROUNDS):
        for p in chosen:
            before = {w: w.detach().clone() for w in values[p.name]}
            solve(p, values[p.name], aims[p.name], passes)[1].write(scale[p.name])
            for w in before if turn else ():
                write(w, before[w] + STEP * (w.detach() - before[w]))
        spikes = passes.simulate(populations)
        passes.assume({name: s for name, s in spikes.items() if bool(s.any())})
        states = {p.name: _state(p, aims[p.name], wanted[p.name], scale[p.name], spikes, passes) for p in chosen}
        distance = max(state.distance for state in states.values())
        if distance < best:
            best, kept = distance, {w: w.detach().clone() for group in values.values() for w in group}
            nearest = states
        if distance < ENOUGH:
            break
        for name, state in states.items():
            if aims[name].target.rate is not None:
                scale[name] *= float(np.clip((1 + state.rate) ** -0.25, 0.8, 1.25))
    for w, value in kept.items():
        write(w, value)
    if best > BEARABLE:
        raise NoFixedPointError(_failure(nearest))
    return {name: Moments(m.mu_u, scale[name] * m.sigma_u) for name, m in wanted.items()}


def _predicted_spikes(
    populations: Sequence[Population], wanted: Mapping[str, Moments], passes: Passes, generator: torch.Generator
) -> dict[str, Tensor]:
    """Poisson spikes at the rates that the theory predicts at the target; of others, what they fire now."""
    spikes = passes.simulate(populations)
    for p in populations:
        if p.name in wanted and p.neuron.threshold is not None:
            xi = wanted[p.name].xi(p.neuron.threshold)
            probability = float(np.mean(crossing_rate(xi, p.neuron.kernel))) * p.neuron.kernel.dt
            uniform = torch.rand(spikes[p.name].shape, generator=generator)
            spikes[p.name] = (uniform < probability).to(spikes[p.name])
    return spikes


def _state(
    p: Population, aim: Aim, wanted: Moments, scale: float, spikes: Mapping[str, Tensor], passes: Passes
) -> _State:
    currents = passes.currents(p)
    mask = window_mask(next(c for c in currents if c is not None), aim.window)
    u = potential_of(p.neuron, currents)
    mean = population_mean(u, mask)
    sigma = torch.as_tensor(scale * wanted.sigma_u).to(u)
    spread = population_mean(((u - mean) / sigma) ** 2, mask) ** 0.5
    rate = 0.0
    if aim.target.rate is not None:
        rate = population_mean(spikes[p.name], mask) / p.neuron.kernel.dt / aim.target.rate - 1
    return _State((mean - aim.target.mean) / (p.neuron.threshold or 1.0), spread - 1, rate)


def _failure(states: Mapping[str, _State]) -> str:
    found = "; ".join(
        f"{name}: mu_u off by {state.mean:+.2f} theta, sigma_u by {state.spread:+.0%}" for name, state in states.items()
    )
    return (
        f"no state that reproduces itself was found within {ROUNDS} rounds; the nearest was {found}. Recurrence as "
        "strong as asked for has no steady state there: ask for a smaller recurrent share (a larger alpha), a smaller "
        "xi, or give a larger batch"
    )
