"""Measured initialisation of populations that hear themselves or each other: until they reproduce their own state.

What a recurrent weight brings depends on the spikes that it helps to cause. So the populations of a circuit start from
Poisson spikes at the rates that the theory predicts at their target. In each round all weights go part of the way to
those that the spikes of the last round ask for, and the circuit answers with other spikes. Where strong inhibition
makes that slow, two knobs of every population are turned at the end: the size of its fluctuations and, where it takes
one, the shift of its mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluctua.diagnostics.window import population_mean
from fluctua.initialization.components import Rig, Solution
from fluctua.initialization.drawing import write
from fluctua.initialization.measured import Aim, fresh, solve
from fluctua.initialization.passes import Passes
from fluctua.initialization.root import find_root
from fluctua.theory import Moments, crossing_rate
from fluctua.theory.laws import OneSided
from fluctua.wiring import Population

Array = NDArray[np.float64]

ROUNDS = 6
SHORTEST = 0.2  # step that a round takes at least, in parts of the way to the weights that the last spikes ask for
CALLS = 8  # simulations of a round
ENOUGH = 0.03  # distance from the target at which to stop: of mu_u in theta, of sigma_u or rate in its logarithm
BEARABLE = 0.1  # distance that is accepted when all is done


class NoFixedPointError(ValueError):
    """A recurrent population has no steady state at its target, or none was found."""


@dataclass(frozen=True, eq=False)
class _Knobs:
    """Two numbers, zero at first, that move a population about the weights that were solved for."""

    population: Population
    aim: Aim
    rig: Rig
    solution: Solution
    base: dict[Tensor, Tensor]

    @property
    def count(self) -> int:
        return 1 if self.solution.gain is None else 2

    def turn(self, x: Array) -> None:
        """Multiply the fluctuations by `exp(x[0])` and move the mean by `x[1]`, from the base on."""
        start = self.solution.values()
        end = self.solution.values(grow=float(np.exp(x[0])), move=float(x[1]) if self.count == 2 else 0.0)
        signs = {q.weight: q.sign for q in self.population.pathways if isinstance(q.family, OneSided)}
        for w, base in self.base.items():
            value = base + end[w] - start[w]
            write(w, (signs[w] * value).clamp_min(0.0) * signs[w] if w in signs else value)

    def moments(self) -> tuple[float, float]:
        """`mu_u`, and `sigma_u` in units of the wanted one, with weights and assumed spikes as they are."""
        u = self.rig.potential()
        mean = population_mean(u, self.rig.mask)
        return mean, population_mean(((u - mean) / self.rig.sigma) ** 2, self.rig.mask) ** 0.5

    def residuals(self, spikes: Tensor) -> Array:
        """How far the population is from its target, with the weights and spikes as they are."""
        aim, neuron = self.aim, self.population.neuron
        mean, size = self.moments()
        if aim.target.rate is not None:
            size = population_mean(spikes, self.rig.mask) / neuron.kernel.dt / aim.target.rate
        distance = (mean - aim.target.mean) / (neuron.threshold or 1.0)
        return np.array([np.log(max(size, 1e-6)), distance if self.count == 2 else 0.0])

    def rate_gain(self) -> float:
        """By which factor the theory expects the rate to change on the way from the present state to the wanted one."""
        theta, kernel = self.population.neuron.threshold, self.population.neuron.kernel
        if theta is None:
            return 1.0
        mean, size = self.moments()
        sigma = float(self.rig.sigma.double().square().mean().sqrt())
        now, then = (
            float(np.mean(crossing_rate((theta - mu) / max(s, 1e-6), kernel)))
            for mu, s in ((mean, size * sigma), (self.aim.target.mean, sigma))
        )
        return float(np.clip(then / max(now, 1e-9), 0.5, 2.0))


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
    passes.assume(_predicted_spikes(populations, wanted, passes, generator))
    best = np.inf
    kept: dict[Tensor, Tensor] = {}
    step, base = 1.0, dict[Tensor, Tensor]()
    for _ in range(ROUNDS):
        knobs = []
        for p in chosen:
            rig, solution = solve(p, values[p.name], aims[p.name], passes)
            start = {w: torch.lerp(base.get(w, v), v, step) for w, v in solution.values().items()}
            knobs.append(_Knobs(p, aims[p.name], rig, solution, start))
        distance = _turn_together(knobs, populations, passes)
        base = {w: w.detach().clone() for k in knobs for w in k.base}
        if distance < best:
            best, kept = distance, base
        if best <= ENOUGH:
            break
        step = max(0.7 * step, SHORTEST)
        for k in knobs:
            passes.scale(k.population.name, k.rate_gain())
    for w, value in kept.items():
        write(w, value)
    if best > BEARABLE:
        raise NoFixedPointError(
            f"{' and '.join(p.name for p in chosen)} found no state that reproduces itself: the nearest was off by "
            f"{best:.0%} in sigma_u, or so much of theta in mu_u. Recurrence as strong as asked for has no "
            "steady state there: ask for a smaller recurrent share (a larger alpha), a smaller xi, or give a larger "
            "batch"
        )
    return wanted


def _turn_together(knobs: Sequence[_Knobs], populations: Sequence[Population], passes: Passes) -> float:
    """Turn the knobs of all populations alike until they are on average where they should be; the largest distance.

    Turned one by one they would work against each other: the populations of a circuit answer together.
    """
    each: dict[bytes, Array] = {}

    def measure(x: Array) -> Array:
        for k in knobs:
            k.turn(x)
        spikes = passes.simulate(populations)
        passes.assume({name: s for name, s in spikes.items() if bool(s.any())})
        each[x.tobytes()] = residuals = np.stack([k.residuals(spikes[k.population.name]) for k in knobs])
        return np.asarray(residuals.mean(0)[: len(x)])

    x, _ = find_root(measure, np.zeros(max(k.count for k in knobs)), enough=ENOUGH / 2, calls=CALLS)
    measure(x)
    return float(np.abs(each[x.tobytes()]).max())


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
