"""Measured initialisation: weights scaled by the free potential that they cause on a real batch (design 2.3).

U is linear in the weights of a population's pathways. So a handful of *components* of U is measured, one per pathway
and one for the mean, and their factors follow from a quadratic equation, exactly: no assumption on rates, stationarity,
independence or binary spikes, and whatever lies between weight and neuron is accounted for.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluctua.diagnostics.window import Window, population_mean, window_mask
from fluctua.initialization.balance import balanced, mean_activity
from fluctua.initialization.drawing import by_row, normal, write
from fluctua.initialization.passes import Passes
from fluctua.theory import InfeasibleTargetError, Moments, Target
from fluctua.theory.weights import check_feasible
from fluctua.wiring import Pathway, Population, free_potential


class SilentInputError(ValueError):
    """Nothing reaches a population, so no weights can bring it anywhere."""


@dataclass(frozen=True, eq=False)
class _Part:
    """Values of some parameters that cause one component of U, up to a factor. All other parameters are zero in it."""

    values: dict[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class _Solution:
    """The one-parameter family of weights whose potential has the wanted mean, and how its variance grows.

    For the fluctuations multiplied by k, the mean square distance of U from the wanted mean, in units of `sigma_u^2`,
    is `k^2 square + 2 k cross + constant`.
    """

    fluctuations: _Part
    shift: _Part
    shift_fixed: float
    shift_per_k: float
    square: float
    cross: float
    constant: float

    def write(self, scale: float) -> None:
        """Write the weights that bring U to `scale` times the wanted `sigma_u`."""
        free = scale**2 - self.constant
        k = float((-self.cross + np.sqrt(self.cross**2 + self.square * max(free, 0.0))) / self.square)
        c = self.shift_fixed + k * self.shift_per_k
        for p in self.fluctuations.values.keys() | self.shift.values.keys():
            fluctuation, shift = self.fluctuations.values.get(p), self.shift.values.get(p)
            value = torch.zeros_like(p) if fluctuation is None else k * fluctuation
            write(p, value if shift is None else value + c * shift)


def fit(
    population: Population, target: Target, passes: Passes, *, balance: bool, window: Window, generator: torch.Generator
) -> Moments:
    """Draw and scale the weights into one population so that its free potential has the target's moments.

    A target given as a rate starts from the level-crossing formula and is then corrected by the rate that the neurons
    really have, resets included.

    Returns:
        The moments that were aimed at.

    Raises:
        SilentInputError: no current reaches the population.
        InfeasibleTargetError: the wanted mean, or what cannot be changed, brings more fluctuation than wanted, or the
            wanted rate cannot be reached.
    """
    free = [q for q in population.pathways if q.left_alone is None]
    sigma = target.sigma_u(population.neuron.threshold, population.neuron.kernel)
    carriers = [q for q in free if q.norm is None]  # where the weight itself sets the scale of the current
    for q in free:
        _prepare(q, _relative_scale(q, population, sigma), generator)
    current = passes.current(population, [q.weight for q in carriers])
    if not bool((current != 0).any()):
        raise SilentInputError(_silence(population, current.shape[0]))
    mask = window_mask(current, window)
    activity = mean_activity(current, mask, population.neuron.kernel, [q.weight for q in carriers]) if balance else []
    for q, r in zip(carriers, activity, strict=bool(activity)):
        write(q.weight, balanced(q.weight, r))
    rig = _Rig(population, passes, mask, torch.as_tensor(sigma).to(current))
    solution = rig.solve(_fluctuations(free), _mean_part(free, carriers, activity), target)
    scale = 1.0 if target.rate is None else _scale_for_rate(rig, solution, target.rate)
    solution.write(scale)
    return Moments(np.asarray(target.mean), scale * sigma)


def _prepare(q: Pathway, scale: Tensor, generator: torch.Generator) -> None:
    """Fresh normal weights of about the right size, no bias, a neutral norm."""
    write(q.weight, normal(q.weight, generator) * scale / np.sqrt(q.fan_in))
    for parameter, value in ((q.bias, 0.0), (_affine(q, "bias"), 0.0), (_affine(q, "weight"), 1.0)):
        if parameter is not None and parameter.requires_grad:
            write(parameter, torch.full_like(parameter, value))


def _relative_scale(q: Pathway, population: Population, sigma: NDArray[np.float64]) -> Tensor:
    """Each row's part in a population whose neurons differ: `sigma_u / sqrt(eps_hat)`, one by one, of mean 1."""
    scale = np.asarray(sigma / np.sqrt(population.neuron.kernel.eps_hat))
    return by_row(scale / scale.mean(), q.weight)


def _fluctuations(free: list[Pathway]) -> list[_Part]:
    """The parts that make U fluctuate: the weight of each pathway, or the gain of the norm behind one or several."""
    gains = [(q.weight, _affine(q, "weight")) for q in free]
    parameters = [weight if gain is None else gain for weight, gain in gains]
    return [_Part({p: p.detach().clone()}) for p in dict.fromkeys(parameters)]


def _mean_part(free: list[Pathway], carriers: list[Pathway], activity: list[Tensor]) -> _Part:
    """The part that shifts the mean of U: a bias where there is one, else the weights.

    A bias shifts without noise. Weights do it with the least noise along the mean activity, every neuron by the same;
    where that was not measured, all by the same amount as in the paper.
    """
    for q in free:
        bias = q.bias if q.norm is None else _affine(q, "bias")
        if bias is not None and bias.requires_grad:
            return _Part({bias: torch.ones_like(bias)})
    if not activity:
        return _Part({q.weight: torch.ones_like(q.weight) for q in carriers})
    norm = sum((r.flatten(1).square().sum(1) for r in activity), torch.zeros(())).clamp_min(1e-30)
    return _Part({q.weight: r / norm.reshape(-1, *[1] * (r.ndim - 1)) for q, r in zip(carriers, activity, strict=True)})


@dataclass(frozen=True, eq=False)
class _Rig:
    """Measures components of one population's free potential."""

    population: Population
    passes: Passes
    mask: Tensor
    sigma: Tensor

    def solve(self, fluctuations: list[_Part], mean_part: _Part, target: Target) -> _Solution:
        """Equal shares of the variance from each fluctuation, and as much of the mean part as the mean needs."""
        touched = {p for part in (*fluctuations, mean_part) for p in part.values}
        rest = self._rest(touched)
        signals = [self._component(part, touched, rest) for part in fluctuations]
        sizes = [self._inner(u, u) ** 0.5 for u in signals]
        if min(sizes) < 1e-12:
            raise SilentInputError(_silence(self.population, self.mask.shape[0]))
        factors = [len(signals) ** -0.5 / size for size in sizes]
        together = _Part(
            {p: k * v for k, part in zip(factors, fluctuations, strict=True) for p, v in part.values.items()}
        )
        shape = sum((k * u for k, u in zip(factors, signals, strict=True)), torch.zeros(()).to(self.sigma))
        offset = (torch.zeros_like(shape) if rest is None else rest) - target.mean
        fixed = per_k = 0.0
        if abs(self._mean(offset)) > 1e-9 or abs(self._mean(shape / self.sigma)) > 0.01:
            shift = self._component(mean_part, touched, rest)
            gain = self._mean(shift)
            if abs(gain) < 1e-12:
                raise SilentInputError(_silence(self.population, self.mask.shape[0]))
            fixed, per_k = -self._mean(offset) / gain, -self._mean(shape) / gain
            offset, shape = offset + fixed * shift, shape + per_k * shift
        square, cross, constant = self._inner(shape, shape), self._inner(shape, offset), self._inner(offset, offset)
        if constant > 1:
            self._refuse(target, constant**0.5)
        return _Solution(together, mean_part, fixed, per_k, square, cross, constant)

    def rate(self) -> float:
        """Firing rate in Hz with the weights as they are."""
        with torch.no_grad():
            spikes = self.population.module(self.passes.current(self.population))
        return population_mean(spikes, self.mask) / self.population.neuron.kernel.dt

    def _rest(self, touched: Iterable[Tensor]) -> Tensor | None:
        """The component that no part can change, or None where there is none by the wiring."""
        population = self.population
        fixed = any(q.left_alone for q in population.pathways) or population.unweighted
        frozen = any(q.bias is not None and not q.bias.requires_grad for q in population.pathways)
        return self._potential(touched, None) if fixed or frozen else None

    def _component(self, part: _Part, touched: Iterable[Tensor], rest: Tensor | None) -> Tensor:
        u = self._potential(touched, part)
        return u if rest is None else u - rest

    def _potential(self, touched: Iterable[Tensor], part: _Part | None) -> Tensor:
        values = {} if part is None else part.values
        for p in touched:
            write(p, values.get(p, torch.zeros_like(p)))
        return free_potential(self.passes.current(self.population), self.population.neuron.kernel)

    def _mean(self, u: Tensor) -> float:
        return population_mean(u, self.mask)

    def _inner(self, u: Tensor, v: Tensor) -> float:
        """Mean of `u v` over window and neurons, in units of `sigma_u^2`."""
        return population_mean(u * v / self.sigma**2, self.mask)

    def _refuse(self, target: Target, noise: float) -> None:
        """The part of U that does not scale is too large already: `noise` times `sigma_u`."""
        p = self.population
        sigma = float(self.sigma.double().square().mean().sqrt())
        if not any(q.left_alone for q in p.pathways) and not p.unweighted:
            check_feasible(target, p.neuron.threshold, noise * sigma / abs(target.mean), sigma)
        raise InfeasibleTargetError(
            f"what {p.name} gets through frozen, shared or missing weights alone makes U fluctuate by "
            f"{noise * sigma:.3g}, more than the wanted sigma_u = {sigma:.3g}: unfreeze them or ask for more"
        )


def _scale_for_rate(rig: _Rig, solution: _Solution, rate: float) -> float:
    """The factor of `sigma_u` at which the neurons fire at `rate` (Hz), by bisection of its logarithm.

    Raises:
        InfeasibleTargetError: even eight times the fluctuations of the formula do not bring that rate.
    """
    low: float = max(1 / 8, solution.constant**0.5)
    high = 8.0
    solution.write(high)
    if (largest := rig.rate()) < rate:
        raise InfeasibleTargetError(
            f"{rig.population.name} cannot fire at {rate:g} Hz on this batch: it reaches {largest:.3g} Hz at most"
        )
    for _ in range(14):  # the rate is then known to the spike
        middle = float((low * high) ** 0.5)
        solution.write(middle)
        reached = rig.rate()
        if abs(reached - rate) < 0.01 * rate:
            return middle
        low, high = (middle, high) if reached < rate else (low, middle)
    return high


def _affine(q: Pathway, name: str) -> Tensor | None:
    parameter = getattr(q.norm, name, None)
    return parameter if isinstance(parameter, Tensor) else None


def _silence(population: Population, steps: int) -> str:
    dt = population.neuron.kernel.dt
    sources = sorted({s for q in population.pathways for s in q.sources})
    return (
        f"no spike reaches {population.name} within the trial of {steps * dt:g} s: {' and '.join(sources)} gave none "
        "in time. Activity needs time in every layer (some 12 ms with 20/10 ms time constants): use a longer batch, a "
        "smaller xi, or method='poisson', which needs no activity"
    )
