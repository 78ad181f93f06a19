"""Measured initialisation: weights scaled by the free potential that they cause on a real batch."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from fluctua.methods.balance import Balance
from fluctua.methods.components import FreePotential, SilentInputError, Solution
from fluctua.methods.method import Method, Reached, Targets
from fluctua.methods.mute import mute_sources, poisson_spikes
from fluctua.methods.population import Goal, adjustable, bent_by, fresh, offsets_of, shiftable, solve
from fluctua.methods.root import find_crossing, find_root
from fluctua.methods.weights import write, write_all
from fluctua.network.facts import Population
from fluctua.network.network import Group, hears_itself
from fluctua.network.replay import Replay
from fluctua.state.measure import Window
from fluctua.theory.laws import Family, Normal
from fluctua.theory.psp import Array
from fluctua.theory.target import InfeasibleTargetError, Moments, Target

_NEAR = 0.01  # distance from the target at which to stop: of sigma_u in its logarithm, of mu_u in sigma_u
_CALLS = 12  # potentials that are measured on the way


@dataclass(frozen=True)
class Measured(Method):
    """Scale the weights of each population by the free potential that they cause on the batch.

    It holds its target at any depth, and whatever lies between weight and neuron is accounted for.

    Attributes:
        balance: give every neuron the same mean potential, so that none is silent or saturated. "auto" removes
            differences by projecting the weights where they have many inputs, else by the biases, and leaves them where
            the signal would be lost (`docs/theory.md`, section 5). True always projects, False never balances.
        window: measure over the whole "trial", or in each sample from the "arrival" of activity at a population on.
            Networks that are deep for the length of the trial need the latter.
        alpha: share of the variance that feed-forward pathways supply in a population with recurrence.
        law: law of the weights that may take either sign; synapses under Dale's law have their own.

    Example:
        >>> import fluctua
        >>> from fluctua.neurons import LI, LIF
        >>> model = torch.nn.Sequential(torch.nn.Linear(30, 20), LIF(), torch.nn.Linear(20, 2), LI())
        >>> x = (torch.rand(100, 16, 30, generator=torch.Generator().manual_seed(0)) < 0.1).float()
        >>> report = fluctua.initialize(model, x, method=Measured(balance=False), seed=0)
        >>> print(f"{report['1'].sigma_u:.2f}")
        1.00
    """

    aims: ClassVar[bool] = True

    balance: Balance = "auto"
    window: Window = "trial"
    alpha: float = 0.9
    law: Family = Normal()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        if self.balance not in (True, False, "auto"):
            raise ValueError(f'balance must be True, False or "auto", got {self.balance!r}')

    def solve(self, group: Group, targets: Targets, replay: Replay, generator: torch.Generator) -> Reached:
        goals = {p.name: self._goal(p, targets[p.name], replay) for p in group if p.name in targets}
        if goals and hears_itself(group):
            from fluctua.methods.circuits import fit_circuit  # only recurrence needs it

            return fit_circuit(group, goals, replay, generator)
        return {p.name: fit(p, goals[p.name], replay, generator) for p in group if p.name in goals}

    def serves(self, population: Population) -> bool:
        """See `Method.serves`: also where norms alone may be set, or weights shifted."""
        return bool(adjustable(population) or shiftable(population))

    def _goal(self, p: Population, target: Target, replay: Replay) -> Goal:
        goal = Goal(target, self.balance, self.window, self.alpha, self.law)
        if not any(q.trunk for other in replay.populations for q in other.pathways):
            return goal
        from fluctua.methods.trunk import place_of  # only membrane shortcuts need it

        place = place_of(p, replay.populations, lambda other: float(np.mean(goal.moments(other).sigma_u ** 2)))
        return replace(goal, place=place)


def fit(population: Population, goal: Goal, replay: Replay, generator: torch.Generator) -> Moments:
    """Draw and scale the weights into one population so that its free potential has the target's moments.

    A target given as a rate starts from the level-crossing formula and is then corrected by the measured rate, resets
    included. Sources that are silent whatever their weights are assumed to fire at their predicted rate.

    Returns:
        The moments that were aimed at.

    Raises:
        SilentInputError: no current reaches the population.
        InfeasibleTargetError: the wanted mean, or a fixed part of U, brings more fluctuation than wanted, or the
            wanted rate cannot be reached.
    """
    try:
        return _fit(population, goal, replay, generator)
    except SilentInputError:
        mute = mute_sources(population, replay)
        if not mute:
            raise
    theirs = Goal(Target()) if population.neuron.theta is None else goal  # a readout's tells nothing of rates
    spikes = {name: poisson_spikes(p, theirs.moments(p), silence, generator) for name, (p, silence) in mute.items()}
    with replay.pretending(population, spikes):
        return _fit(population, goal, replay, generator)


def _fit(population: Population, goal: Goal, replay: Replay, generator: torch.Generator) -> Moments:
    if not adjustable(population):
        return _shift(population, goal, replay)
    write_all(fresh(population, goal, generator, in_place=True))
    scale, once = 1.0, goal.target.rate is None and not bent_by(population)
    potential, solution = solve(population, goal, replay, once=once)
    if goal.target.rate is not None:
        scale = scale_for_rate(potential, solution, goal.target.rate) * goal.place.part**0.5
    solution.write(scale)
    if bent_by(population) and goal.target.rate is None:
        _iterate(potential, solution, goal)
    wanted = goal.moments(population)
    return Moments(wanted.mu_u, scale * wanted.sigma_u)


def _shift(population: Population, goal: Goal, replay: Replay) -> Moments:
    """Shift weights that are a function of what is learnt, such as its exponential or softplus, by one number for all.

    A bias keeps the mean, if there is one.
    """
    wanted, pathways = goal.moments(population), shiftable(population)
    potential = FreePotential.of(population, replay, replay.currents(population), wanted.sigma_u, goal.window)
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
            raise potential.silent()
        if gain := moments(1.0)[0] - mean:
            size = moments((goal.target.mean - mean) / gain)[1]
        return float(np.log(max(size, 1e-9)))

    distance(find_crossing(distance, 0.0, -0.1, enough=_NEAR, calls=_CALLS)[0])
    return wanted


def _iterate(potential: FreePotential, solution: Solution, goal: Goal) -> None:
    """Correct a solution, exact where U is linear in the weights, by the moments that the weights really produce.

    If both moments cannot be had, such as the mean of a current without negative parts, the variance comes first.
    """
    unit = float(potential.sigma.double().square().mean().sqrt())

    def measure(x: Array) -> Array:
        solution.write(grow=float(np.exp(x[0])), move=float(x[1]) * unit if len(x) == 2 else 0.0)
        mean, size = potential.moments()
        return np.array([np.log(max(size, 1e-9)), (mean - goal.target.mean) / unit][: len(x)])

    best, off = find_root(measure, np.zeros(1 if solution.gain is None else 2), enough=_NEAR, calls=_CALLS)
    if off <= _NEAR and not best.any():
        return  # the weights are those of the solution
    weights = {q.name: q.weight for q in potential.population.pathways}
    by_bias = solution.gain is not None and not {*weights.values()} & solution.shift.values.keys()
    by_bias = by_bias and weights.keys() >= {*bent_by(potential.population)}  # nothing bends what it adds

    def levelled(x: float) -> float:
        off = measure(np.array([x, *best[1:]]))
        slope = 1.0
        for _ in range(2 * by_bias):  # the mean is linear in it
            if abs(start := off[1]) <= _NEAR:
                break
            best[1] -= (step := start / slope)
            off = measure(np.array([x, *best[1:]]))
            slope = (start - off[1]) / step or 1.0
        return float(off[0])

    if off > _NEAR:
        nearest, left, _ = find_crossing(levelled, float(best[0]), -0.1, enough=_NEAR, calls=_CALLS)
        best[0] = nearest if abs(left) <= _NEAR else best[0]
    levelled(best[0])


def scale_for_rate(potential: FreePotential, solution: Solution, rate: float) -> float:
    """The factor of `sigma_u` at which the neurons fire at `rate` (Hz), by bisection of its logarithm.

    Raises:
        InfeasibleTargetError: even eight times the fluctuations of the formula do not give that rate.
    """
    low: float = max(1 / 8, solution.constant**0.5)
    high = 8.0
    solution.write(high)
    if (largest := potential.rate()) < rate:
        raise InfeasibleTargetError(
            f"{potential.population.name} cannot fire at {rate:g} Hz on this batch: it reaches {largest:.3g} Hz at most"
        )
    for _ in range(14):  # the rate is then known to the spike
        middle = float((low * high) ** 0.5)
        solution.write(middle)
        reached = potential.rate()
        if abs(reached - rate) < 0.01 * rate:
            return middle
        low, high = (middle, high) if reached < rate else (low, middle)
    return high
