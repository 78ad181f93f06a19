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
from fluctua.theory import InfeasibleTargetError, Target
from fluctua.theory.weights import check_feasible
from fluctua.wiring import Pathway, Population, free_potential


class SilentInputError(ValueError):
    """Nothing reaches a population, so no weights can bring it anywhere."""


@dataclass(frozen=True, eq=False)
class _Part:
    """Values of some parameters that cause one component of U, up to a factor. All other parameters are zero in it."""

    values: dict[Tensor, Tensor]


def fit(
    population: Population, target: Target, passes: Passes, *, balance: bool, window: Window, generator: torch.Generator
) -> None:
    """Draw and scale the weights into one population so that its free potential has the target's moments.

    Raises:
        SilentInputError: no current reaches the population.
        InfeasibleTargetError: the wanted mean, or what cannot be changed, brings more fluctuation than wanted.
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
    if balance:
        for q, r in zip(carriers, activity, strict=True):
            write(q.weight, balanced(q.weight, r))
    rig = _Rig(population, passes, mask, torch.as_tensor(sigma).to(current))
    rig.solve(_fluctuations(free), _mean_part(free, carriers, activity), target)


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
    parameters = [q.weight if q.norm is None else q.norm.weight for q in free]
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
    """Measures components of one population's free potential and puts them together."""

    population: Population
    passes: Passes
    mask: Tensor
    sigma: Tensor

    def solve(self, fluctuations: list[_Part], mean_part: _Part, target: Target) -> None:
        """Write `k_p` times each fluctuation plus `c` times the mean part, such that the moments are the target's."""
        touched = {p for part in (*fluctuations, mean_part) for p in part.values}
        rest = self._rest(touched)
        signals = [self._component(part, touched, rest) for part in fluctuations]
        sizes = [self._inner(u, u) ** 0.5 for u in signals]
        if min(sizes) < 1e-12:
            raise SilentInputError(_silence(self.population, self.mask.shape[0]))
        share = 1 / len(signals)
        factors = [share**0.5 / size for size in sizes]  # equal shares of the variance, before cross terms
        shape = sum((k * u for k, u in zip(factors, signals, strict=True)), torch.zeros(()).to(self.sigma))
        offset = rest - target.mean if rest is not None else torch.full_like(shape, -target.mean)
        del signals
        c_fixed, c_per_k = 0.0, 0.0
        if abs(self._mean(offset)) > 1e-9 or abs(self._mean(shape / self.sigma)) > 0.01:
            shift = self._component(mean_part, touched, rest)
            gain = self._mean(shift)
            if abs(gain) < 1e-12:
                raise SilentInputError(_silence(self.population, self.mask.shape[0]))
            c_fixed, c_per_k = -self._mean(offset) / gain, -self._mean(shape) / gain
            offset, shape = offset + c_fixed * shift, shape + c_per_k * shift
        k = self._positive_root(
            self._inner(shape, shape), self._inner(shape, offset), self._inner(offset, offset), target
        )
        c = c_fixed + k * c_per_k
        totals: dict[Tensor, Tensor] = {p: torch.zeros_like(p) for p in touched}
        for factor, part in zip(factors, fluctuations, strict=True):
            for p, value in part.values.items():
                totals[p] = totals[p] + k * factor * value
        for p, value in mean_part.values.items():
            totals[p] = totals[p] + c * value
        for p, value in totals.items():
            write(p, value)

    def _rest(self, touched: Iterable[Tensor]) -> Tensor | None:
        """The component that no part can change, or None where there is none by the wiring."""
        population = self.population
        fixed = any(q.left_alone for q in population.pathways) or population.unweighted
        frozen = any(b is not None and not b.requires_grad for q in population.pathways for b in (q.bias,))
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

    def _positive_root(self, square: float, cross: float, constant: float, target: Target) -> float:
        """`k > 0` with `k^2 square + 2 k cross + constant = 1`."""
        if constant > 1:
            sigma = float(self.sigma.double().square().mean().sqrt())
            if not any(q.left_alone for q in self.population.pathways) and not self.population.unweighted:
                check_feasible(
                    target, self.population.neuron.threshold, constant**0.5 * sigma / abs(target.mean), sigma
                )
            raise InfeasibleTargetError(
                f"what {self.population.name} gets through frozen, shared or missing weights alone makes U fluctuate by "
                f"{constant**0.5 * sigma:.3g}, more than the wanted sigma_u = {sigma:.3g}: unfreeze it or ask for more"
            )
        return float((-cross + np.sqrt(cross**2 + square * (1 - constant))) / square)


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
