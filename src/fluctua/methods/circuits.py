"""Measured initialisation of recurrent populations, until they reproduce their own state.

The input from a recurrent weight depends on the spikes that it helps to cause. So the populations of a circuit start
from Poisson spikes at the rates that the theory predicts at their target, and continue in rounds. Each round solves for
weights as if the spikes stayed as they are, and moves all populations part of the way there: this corrects the shares
of the pathways, the balance of the neurons, and the distance of one population relative to the others. The circuit
then answers with other spikes, strong inhibition with very different ones. So all populations are next adjusted
together until their state is the wanted one, by two numbers: the size of the fluctuations and, where weights can set
one, the shift of the mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fluctua.methods.components import FreePotential, Solution
from fluctua.methods.mute import poisson_spikes
from fluctua.methods.population import Goal, fresh, missed_share, solve
from fluctua.methods.root import find_root
from fluctua.methods.weights import write, write_all
from fluctua.network.facts import Population
from fluctua.network.replay import Replay
from fluctua.state.measure import population_mean
from fluctua.theory.laws import OneSided
from fluctua.theory.psp import Array
from fluctua.theory.target import InfeasibleTargetError, Moments, Target

ROUNDS = 6
SLOWER = 0.7  # each round covers this fraction of the step of the one before,
SHORTEST = 0.2  # but at least this fraction of the way to the weights that the last spikes call for
CALLS = 7  # simulations per round
ENOUGH = 0.05  # distance from the target at which to stop: of mu_u in theta, of sigma_u or rate in its logarithm
BEARABLE = 0.1  # distance that is accepted in the end


class NoFixedPointError(ValueError):
    """A recurrent population has no steady state at its target, or none was found."""


@dataclass(frozen=True, eq=False)
class _Distance:
    """Distance from the target: `off` of sigma_u or rate in its logarithm and mu_u in theta; `size` of sigma_u."""

    off: Array
    size: float


@dataclass(frozen=True, eq=False)
class _Adjustment:
    """Two numbers, zero at first, that move a population around the weights `base`, by a solution near them.

    `goal` is the final goal, whatever the solution was solved for.
    """

    goal: Goal
    potential: FreePotential
    solution: Solution
    base: dict[Tensor, Tensor]

    @cached_property
    def sigma(self) -> Tensor:
        """The wanted `sigma_u`."""
        return torch.as_tensor(self.goal.moments(self.population).sigma_u).to(self.potential.sigma)

    @property
    def population(self) -> Population:
        return self.potential.population

    @property
    def count(self) -> int:
        return 1 if self.solution.gain is None else 2

    def turn(self, x: Array) -> None:
        """Multiply the fluctuations by `exp(x[0])` and move the mean by `x[1]`."""
        start = self.solution.values()
        end = self.solution.values(grow=float(np.exp(x[0])), move=float(x[1]) if self.count == 2 else 0.0)
        signs = {q.weight: q.sign for q in self.population.pathways if isinstance(q.family, OneSided)}
        for w, base in self.base.items():
            value = base + end[w] - start[w]
            write(w, (signs[w] * value).clamp_min(0.0) * signs[w] if w in signs else value)

    def distance(self, spikes: Tensor) -> _Distance:
        """Distance of the population from its target, with the present weights and spikes."""
        theta, dt, target = self.population.neuron.threshold or 1.0, self.population.neuron.kernel.dt, self.goal.target
        u = self.potential.potential()
        mean = population_mean(u, self.potential.mask)
        size = population_mean(((u - mean) / self.sigma) ** 2, self.potential.mask) ** 0.5
        counts = self.population.neuron.counted(spikes)
        reached = size if target.rate is None else population_mean(counts, self.potential.mask) / dt / target.rate
        off = np.log(max(reached, 1e-6)), (mean - target.mean) / theta if self.count == 2 else 0.0
        return _Distance(np.array(off), float(np.log(max(size, 1e-6))))

    def closer(self, own: _Distance, common: Array) -> Goal:
        """The next goal to solve for: the wanted state, except for the small error common to all populations."""
        theta = self.population.neuron.threshold or 1.0
        tolerated = np.clip(common, -ENOUGH, ENOUGH)
        size = np.exp(own.size - own.off[0] + tolerated[0])
        sigma = float(self.sigma.double().square().mean().sqrt())
        return replace(
            self.goal, target=Target(self.goal.target.mean + theta * tolerated[1], sigma=float(size * sigma))
        )

    def reached(self, own: _Distance) -> Moments:
        """The moments aimed at; for a rate, with the `sigma_u` that produces it."""
        wanted = self.goal.moments(self.population)
        return wanted if self.goal.target.rate is None else Moments(wanted.mu_u, wanted.sigma_u * np.exp(own.size))


def fit_circuit(
    populations: Sequence[Population], goals: Mapping[str, Goal], replay: Replay, generator: torch.Generator
) -> dict[str, Moments]:
    """Draw and scale the weights into and between the populations of one module, where they have a goal.

    Returns the moments that were aimed at, by name.
    """
    chosen = [p for p in populations if p.name in goals]
    values = {p.name: fresh(p, goals[p.name], generator) for p in chosen}
    wanted = {p.name: goals[p.name].moments(p) for p in chosen}
    spikes = _predicted_spikes(populations, wanted, replay, generator)
    asked, step = dict(goals), 1.0
    base: dict[Tensor, Tensor] = {}
    nearest, kept = np.inf, base
    for _ in range(ROUNDS):
        replay.assume(spikes)
        try:
            solved = []
            for p in chosen:
                write_all(values[p.name])
                solved.append(solve(p, asked[p.name], replay))
        except InfeasibleTargetError:
            if not kept:
                raise
            break
        adjustments = []
        for potential, solution in solved:  # a step on the way from the weights before, if any, to the solution
            near = {w: torch.lerp(base.get(w, value), value, step) for w, value in solution.values().items()}
            adjustments.append(_Adjustment(goals[potential.population.name], potential, solution, near))
        distances, fired = _adjust_together(adjustments, populations, replay)
        base = {w: w.detach().clone() for k in adjustments for w in k.base}
        off = max(float(np.abs(d.off).max()) for d in distances)
        off = max(off, *(missed_share(k.potential, k.goal) for k in adjustments))
        if off < nearest:
            nearest, kept = off, base
            reached = {k.population.name: k.reached(d) for k, d in zip(adjustments, distances, strict=True)}
        if nearest <= ENOUGH:
            break
        common = np.mean([d.off for d in distances], 0)
        asked = {k.population.name: k.closer(d, common) for k, d in zip(adjustments, distances, strict=True)}
        spikes |= {name: s for name, s in fired.items() if bool(s.any())}
        step = max(SLOWER * step, SHORTEST)
    write_all(kept)
    if nearest > BEARABLE:
        raise NoFixedPointError(
            f"{' and '.join(p.name for p in chosen)} found no state that reproduces itself: the nearest missed by "
            f"{nearest:.0%} in sigma_u, in mu_u (of theta) or in a pathway's share of the variance. Recurrence this "
            "strong may have no steady state there: ask for a smaller recurrent share (a larger alpha) or a "
            "smaller xi, or give a larger batch"
        )
    return reached


def _adjust_together(
    adjustments: Sequence[_Adjustment], populations: Sequence[Population], replay: Replay
) -> tuple[list[_Distance], dict[str, Tensor]]:
    """Turn the adjustments of all populations alike until they are on average where they should be."""
    last: tuple[Array, list[_Distance], dict[str, Tensor]] | None = None

    def measure(x: Array) -> Array:
        nonlocal last
        for k in adjustments:
            k.turn(x)
        spikes = replay.simulate(populations)
        replay.assume(spikes)
        distances = [k.distance(spikes[k.population.name]) for k in adjustments]
        last = x, distances, spikes
        return np.asarray(np.mean([d.off for d in distances], 0)[: len(x)])

    x, _ = find_root(measure, np.zeros(max(k.count for k in adjustments)), enough=ENOUGH / 2, calls=CALLS)
    if last is None or last[0] is not x:
        measure(x)
    assert last is not None
    return last[1:]


def _predicted_spikes(
    populations: Sequence[Population], wanted: Mapping[str, Moments], replay: Replay, generator: torch.Generator
) -> dict[str, Tensor]:
    """Poisson spikes at the rates predicted for the targets; for other populations, their present spikes."""
    spikes = replay.simulate(populations)
    for p in populations:
        if p.name in wanted and p.neuron.theta is not None:
            spikes[p.name] = poisson_spikes(p, wanted[p.name], spikes[p.name], generator)
    return spikes
