"""Measured initialisation of populations that hear themselves or each other: until they reproduce their own state.

What a recurrent weight brings depends on the spikes that it helps to cause. So the populations of a circuit start from
Poisson spikes at the rates that the theory predicts at their target, and go on in rounds. In each, weights are solved
for as if the spikes were to stay as they are, and all go part of the way there: that sets right the shares of the
pathways, the balance of the neurons and what one population lacks against the others. The circuit answers with other
spikes, strong inhibition with very different ones. So two knobs are then turned for all populations together until
their state is the wanted one: the size of the fluctuations and, where weights take one, the shift of the mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluctua.methods.components import Rig, Solution
from fluctua.methods.drawing import write
from fluctua.methods.measured import Aim, fresh, missed_share, solve
from fluctua.methods.root import find_root
from fluctua.network import Population
from fluctua.network.replay import Passes
from fluctua.state.window import population_mean
from fluctua.theory import InfeasibleTargetError, Target, crossing_rate
from fluctua.theory.laws import OneSided
from fluctua.theory.membrane import Moments

Array = NDArray[np.float64]

ROUNDS = 6
SLOWER = 0.7  # each round goes that part as far as the one before,
SHORTEST = 0.2  # but at least so far, in parts of the way to the weights that the last spikes ask for
CALLS = 7  # simulations of a round
ENOUGH = 0.05  # distance from the target at which to stop: of mu_u in theta, of sigma_u or rate in its logarithm
BEARABLE = 0.1  # distance that is accepted when all is done


class NoFixedPointError(ValueError):
    """A recurrent population has no steady state at its target, or none was found."""


@dataclass(frozen=True, eq=False)
class _Distance:
    """From the target: `off` of sigma_u or rate in its logarithm and of mu_u in theta; `size` of sigma_u always."""

    off: Array
    size: float


@dataclass(frozen=True, eq=False)
class _Knobs:
    """Two numbers, zero at first, that move a population about its weights `base`, along with a solution near them.

    `sigma` is the wanted `sigma_u`; `aim` what is wanted in the end, whatever the solution is for.
    """

    aim: Aim
    sigma: Tensor
    rig: Rig
    solution: Solution
    base: dict[Tensor, Tensor]

    @staticmethod
    def about(before: dict[Tensor, Tensor], step: float, aim: Aim, rig: Rig, solution: Solution) -> "_Knobs":
        """Knobs about the weights that lie a `step` on the way from those before, if any, to the solution."""
        base = {w: torch.lerp(before.get(w, value), value, step) for w, value in solution.values().items()}
        sigma = torch.as_tensor(aim.moments(rig.population).sigma_u).to(rig.sigma)
        return _Knobs(aim, sigma, rig, solution, base)

    @property
    def population(self) -> Population:
        return self.rig.population

    @property
    def name(self) -> str:
        return self.population.name

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
        """How far the population is from its target, with the weights and spikes as they are."""
        theta, dt, target = self.population.neuron.threshold or 1.0, self.population.neuron.kernel.dt, self.aim.target
        u = self.rig.potential()
        mean = population_mean(u, self.rig.mask)
        size = population_mean(((u - mean) / self.sigma) ** 2, self.rig.mask) ** 0.5
        reached = size if target.rate is None else population_mean(spikes, self.rig.mask) / dt / target.rate
        off = np.log(max(reached, 1e-6)), (mean - target.mean) / theta if self.count == 2 else 0.0
        return _Distance(np.array(off), float(np.log(max(size, 1e-6))))

    def closer(self, own: _Distance, common: Array) -> Aim:
        """What to solve for next: the wanted state, but for the little that all populations are off in common."""
        theta = self.population.neuron.threshold or 1.0
        tolerated = np.clip(common, -ENOUGH, ENOUGH)
        size = np.exp(own.size - own.off[0] + tolerated[0])
        sigma = float(self.sigma.double().square().mean().sqrt())
        return replace(self.aim, target=Target(self.aim.target.mean + theta * tolerated[1], sigma=float(size * sigma)))

    def reached(self, own: _Distance) -> Moments:
        """The moments aimed at; where that is a rate, with the `sigma_u` that brings it."""
        wanted = self.aim.moments(self.population)
        return wanted if self.aim.target.rate is None else Moments(wanted.mu_u, wanted.sigma_u * np.exp(own.size))


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
    spikes = _predicted_spikes(populations, wanted, passes, generator)
    asked, step = dict(aims), 1.0
    base: dict[Tensor, Tensor] = {}
    nearest, kept = np.inf, base
    for _ in range(ROUNDS):
        passes.assume(spikes)
        try:
            solved = [solve(p, values[p.name], asked[p.name], passes) for p in chosen]
        except InfeasibleTargetError:
            if not kept:
                raise
            break
        knobs = [_Knobs.about(base, step, aims[rig.population.name], rig, solution) for rig, solution in solved]
        distances, fired = _turn_together(knobs, populations, passes)
        base = {w: w.detach().clone() for k in knobs for w in k.base}
        off = max(float(np.abs(d.off).max()) for d in distances)
        off = max(off, *(missed_share(k.rig, k.aim) for k in knobs))
        if off < nearest:
            nearest, kept = off, base
            reached = {k.name: k.reached(d) for k, d in zip(knobs, distances, strict=True)}
        if nearest <= ENOUGH:
            break
        common = np.mean([d.off for d in distances], 0)
        asked = {k.name: k.closer(d, common) for k, d in zip(knobs, distances, strict=True)}
        spikes |= {name: s for name, s in fired.items() if bool(s.any())}
        step = max(SLOWER * step, SHORTEST)
    for w, value in kept.items():
        write(w, value)
    if nearest > BEARABLE:
        raise NoFixedPointError(
            f"{' and '.join(p.name for p in chosen)} found no state that reproduces itself: the nearest was off by "
            f"{nearest:.0%} in sigma_u, in mu_u (of theta) or in a pathway's share of the variance. Recurrence as "
            "strong as asked for has no steady state there: ask for a smaller recurrent share (a larger alpha), a "
            "smaller xi, or give a larger batch"
        )
    return reached


def _turn_together(
    knobs: Sequence[_Knobs], populations: Sequence[Population], passes: Passes
) -> tuple[list[_Distance], dict[str, Tensor]]:
    """Turn the knobs of all populations alike until they are on average where they should be.

    Turned one by one they would work against each other: the populations of a circuit answer together.

    Returns:
        The distance of each from its target, and the spikes of all by name.
    """
    last: tuple[Array, list[_Distance], dict[str, Tensor]] | None = None

    def measure(x: Array) -> Array:
        nonlocal last
        for k in knobs:
            k.turn(x)
        spikes = passes.simulate(populations)
        passes.assume(spikes)
        distances = [k.distance(spikes[k.name]) for k in knobs]
        last = x, distances, spikes
        return np.asarray(np.mean([d.off for d in distances], 0)[: len(x)])

    x, _ = find_root(measure, np.zeros(max(k.count for k in knobs)), enough=ENOUGH / 2, calls=CALLS)
    if last is None or last[0] is not x:
        measure(x)
    assert last is not None
    return last[1:]


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
