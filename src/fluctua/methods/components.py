"""The free potential of one population as a sum of components, and the factors that bring it to its target.

U is linear in the weights of a population's pathways. So a few *components* are measured, one per pathway and one for
the mean, and a quadratic equation gives their factors exactly. Nothing is assumed about rates, stationarity,
independence or binary spikes, and everything between weight and neuron is accounted for.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from fluctua.methods.weights import by_row, write, write_all
from fluctua.network.facts import Population, potential_of
from fluctua.network.replay import Replay
from fluctua.state.measure import Window, neuron_mean, population_mean, product_mean, variance, window_mask
from fluctua.theory.psp import Array
from fluctua.theory.target import InfeasibleTargetError, Target
from fluctua.theory.weights import check_feasible


class SilentInputError(ValueError):
    """Nothing reaches a population, so no weights can bring it to its target."""


@dataclass(frozen=True, eq=False)
class Component:
    """Parameter values that cause one component of U, up to a factor, while all other parameters are zero.

    Attributes:
        values: by parameter; they may be large, so scaling them overwrites them. They may lie in the parameters' own
            memory if no other component is measured.
        share: of the population's variance.
    """

    values: dict[Tensor, Tensor]
    share: float = 1.0

    def apart(self) -> None:
        """Give the values memory of their own."""
        self.values.update({p: v.clone() for p, v in self.values.items() if v.data_ptr() == p.data_ptr()})


@dataclass(frozen=True, eq=False)
class MeanShift:
    """What moves the mean of U: by one factor for all neurons, or by one for each (`per_neuron`).

    If `bounded`, a neuron with its own factor must not reverse the sign of its weights, nor lose them.
    """

    part: Component
    per_neuron: bool = False
    bounded: bool = True


@dataclass(frozen=True, eq=False)
class Reach:
    """The units that each parameter acts on if branches are concatenated: `by[p]` along `axis` of U `[T, B, *N]`."""

    axis: int
    by: dict[Tensor, Tensor]

    def of(self, parameters: Iterable[Tensor]) -> Tensor:
        """The units that any of them acts on."""
        return torch.stack([self.by[p] for p in parameters if p in self.by]).any(0)


@dataclass(frozen=True, eq=False)
class Solution:
    """The one-parameter family of weights whose potential has the wanted mean, and how its variance grows.

    With the fluctuations multiplied by k, the mean square distance of U from the wanted mean, in units of `sigma_u^2`,
    is `k^2 square + 2 k cross + constant`, and the shift is multiplied by `fixed + k per_k`, `[]` or `[*N]`.
    `lift` is the mean of the fluctuating part in units of its own standard deviation. `gain` is how far the shift moves
    the mean of U, None if no shift was needed. k is at least `least`. See `MeanShift` for `bounded`.
    """

    fluctuations: Component
    shift: Component
    fixed: Array
    per_k: Array
    square: float
    cross: float
    constant: float
    lift: float
    gain: float | None
    least: float = 0.0
    bounded: bool = True
    rows: Mapping[Tensor, int] = field(default_factory=dict)

    def discriminant(self, scale: float = 1.0) -> float:
        """Of the quadratic equation for k; negative if the part that does not grow with k is already too large."""
        return self.cross**2 + self.square * (scale**2 - self.constant)

    def values(self, *, grow: float = 1.0, move: float = 0.0) -> dict[Tensor, Tensor]:
        """The weights that bring U to the wanted `sigma_u`, by parameter.

        `grow` multiplies the fluctuations further at the same mean; `move` shifts the mean.
        """
        size, factor = self.factors(1.0, grow, move)
        values = {p: size * fluctuation for p, fluctuation in self.fluctuations.values.items()}
        for p, shift in self.shift.values.items():
            values[p] = values.get(p, torch.zeros_like(p)) + by_row(factor, p, self.rows.get(p, 0)) * shift
        return values

    def factors(self, scale: float, grow: float = 1.0, move: float = 0.0) -> tuple[float, Array]:
        """Factors of fluctuations and shift that bring U to `scale` times the wanted `sigma_u`; see `values`."""
        k = max(float((-self.cross + np.sqrt(max(self.discriminant(scale), 0.0))) / self.square), self.least)
        factor = np.asarray(self.fixed + k * self.per_k) + (grow - 1) * k * self.per_k
        if self.gain is not None:
            factor = factor + move / self.gain
        if factor.ndim and self.bounded:
            factor = np.clip(factor, *sorted((factor.mean() / 4, factor.mean() * 4)))
        return grow * k, factor

    def write(self, scale: float = 1.0, *, grow: float = 1.0, move: float = 0.0) -> None:
        """Write these `values`, for `scale` times the wanted `sigma_u`, without holding them all in memory."""
        (size, factor), parts, shifts = self.factors(scale, grow, move), self.fluctuations.values, self.shift.values
        with torch.no_grad():
            for p in {**parts, **shifts}:
                p.copy_(parts[p]).mul_(size) if p in parts else p.zero_()
                if p in shifts and factor.any():
                    p.add_(by_row(factor, p, self.rows.get(p, 0)) * shifts[p])


@dataclass(frozen=True, eq=False)
class FreePotential:
    """One population's free potential, measured as a sum of components.

    Attributes:
        population: the population.
        replay: for running the network.
        mask: `[T, B]`, the window.
        sigma: wanted `sigma_u`, `[]` or `[*N]`.
        reach: the units that parameters act on, if not all; None if all. Moments are then taken over the units that any
            of them acts on, and shares for each unit.
    """

    population: Population
    replay: Replay
    mask: Tensor
    sigma: Tensor
    reach: Reach | None = None

    @classmethod
    def of(
        cls, population: Population, replay: Replay, currents: Sequence[Tensor | None], sigma: Array, window: Window
    ) -> Self:
        """For a population that receives these currents, wants this `sigma_u` and is measured within this window."""
        first = next(c for c in currents if c is not None)
        potential = cls(population, replay, window_mask(first, window), torch.as_tensor(sigma).to(first))
        if not any(c.count_nonzero() for c in currents if c is not None):
            raise potential.silent()
        return potential

    def reaching(self, parts: dict[Tensor, Component]) -> "FreePotential":
        """The same, with the units that each of these parts acts on, unless all act on all units."""
        touched = {p for part in parts.values() for p in part.values}
        rest = self._rest(touched)
        seen = {p: self._signal(part, touched, rest).abs() for p, part in parts.items()}
        for axis in (2, 3) if self.replay.current(self.population).ndim == 4 else (2,):
            by = {p: u.transpose(0, axis).flatten(1).amax(1) for p, u in seen.items()}
            acting = {p: most > 1e-6 * most.max() for p, most in by.items()}
            if not all(bool(units.all()) for units in acting.values()):
                return replace(self, reach=Reach(axis, acting))
        return self

    def solve(
        self, fluctuations: list[Component], shift: MeanShift | None, target: Target, least: float = 0.0
    ) -> Solution:
        """Give each fluctuation its share of the variance, and the shift the size that the mean needs.

        Without a shift U keeps its mean, and the mean square distance from the wanted mean is `sigma_u^2`. With an
        empty shift U keeps its mean, and its variance is `sigma_u^2`. If the fluctuations have a `least` size, the
        fixed part of U may bring more than the wanted variance.

        Raises:
            SilentInputError: a part has no effect.
            InfeasibleTargetError: the shift, or the fixed part of U, brings more fluctuation than wanted.
        """
        moved = Component({}) if shift is None else shift.part
        touched = {p for part in (*fluctuations, moved) for p in part.values}
        if self._fixed:
            fluctuations[0].apart()
        rest = self._rest(touched)
        parts, signals = [], []
        for part in fluctuations:
            scaled, u = self._in_size(part, self._signal(part, touched, rest), fluctuations)
            parts.append(scaled)
            signals.append(u)
        together = Component({p: v for part in parts for p, v in part.values.items()})
        shape = sum(signals[1:], signals[0])
        square, mean = self._inner(shape, shape), population_mean(*self._in_sigma(shape))
        lift = mean / max(square - mean**2, 1e-24) ** 0.5
        offset = rest - target.mean
        per_neuron, bounded = shift is not None and shift.per_neuron, shift is None or shift.bounded
        if not offset.ndim and not offset and abs(mean) <= 0.01 and not per_neuron:
            none = np.zeros(())
            return Solution(together, moved, none, none, square, 0.0, 0.0, lift, None, least)
        offset = offset + torch.zeros_like(shape)
        fixed = per_k = np.zeros(())
        gain = None
        if shift is not None and not moved.values:
            offset, shape = offset - self._mean(offset), shape - self._mean(shape)
        elif shift is not None and (abs(self._mean(offset)) > 1e-9 or abs(mean) > 0.01 or per_neuron):
            together.apart()
            moving = self._signal(shift.part, touched, rest)
            fixed, per_k = self._factors(moving, offset, shape, shift)
            gain = self._mean(moving)
            once, by_k = (torch.as_tensor(factor).to(moving) for factor in (fixed, per_k))
            offset, shape = offset + once * moving, shape + by_k * moving
        square, cross, constant = self._inner(shape, shape), self._inner(shape, offset), self._inner(offset, offset)
        facts = square, cross, constant, lift, gain, least, bounded, self._rows
        solution = Solution(together, moved, fixed, per_k, *facts)
        if solution.discriminant() < 0 and not least:
            self._refuse(target, constant**0.5)
        return solution

    @property
    def _rows(self) -> dict[Tensor, int]:
        return {q.weight: q.rows for q in self.population.pathways if not q.skipped_because}

    def in_proportion(self, parts: list[Component]) -> Component:
        """Several parts as one, each with its share."""
        if len(parts) == 1:
            return parts[0]
        touched = {p for part in parts for p in part.values}
        rest = self.potential(touched)
        scaled = (self._in_size(part, self._signal(part, touched, rest), parts)[0].values for part in parts)
        return Component({p: v for values in scaled for p, v in values.items()})

    def levelled(self, parts: list[Component]) -> Component:
        """Several parts, each moving the mean of other units, as one that moves all by the same amount."""
        touched, values = {p for part in parts for p in part.values}, dict[Tensor, Tensor]()
        rest = self.potential(touched)
        for part in parts:
            move = self._limited(part)._mean(self._signal(part, touched, rest))
            values |= {p: v / move for p, v in part.values.items()}
        return Component(values)

    def moments(self) -> tuple[float, float]:
        """Mean of U with the present weights, and its standard deviation in units of `sigma_u`."""
        u = self.potential()
        return self._mean(u), max(self._variance(u), 0.0) ** 0.5

    def variances(self, parts: list[Component]) -> list[float]:
        """The variance of U, in units of `sigma_u^2`, that each part supplies with its present parameters."""
        now = {p: p.detach().clone() for part in parts for p in part.values}
        rest = self.potential(now)
        signals = (self._signal(Component({p: now[p] for p in part.values}), now, rest) for part in parts)
        found = [self._variance(u) for u in signals]
        write_all(now)
        return found

    def rate(self) -> float:
        """Firing rate in Hz with the present weights."""
        spikes = self.replay.simulate([self.population])[self.population.name]
        return population_mean(self.population.neuron.counted(spikes), self.mask) / self.population.neuron.kernel.dt

    def potential(self, touched: Iterable[Tensor] = (), part: Component | None = None) -> Tensor:
        """Free potential, after `touched` parameters are set to their values in the part, or else to zero."""
        values = {} if part is None else part.values
        for p in touched:
            nothing = torch.full((), self._nothing.get(p, 0.0), dtype=p.dtype, device=p.device)
            write(p, values.get(p, nothing.expand_as(p)))
        return potential_of(self.population.neuron, self.replay.currents(self.population))

    def _factors(self, moving: Tensor, offset: Tensor, shape: Tensor, shift: MeanShift) -> tuple[Array, Array]:
        """Factors of the shift, fixed and per k, that cancel the mean of `offset + k shape`."""
        if shift.per_neuron:
            gain, fixed, per_k = (self._of_rows(u, shift) for u in (moving, offset, shape))
        else:
            gain, fixed, per_k = (np.asarray(self._mean(u)) for u in (moving, offset, shape))
        if not np.all(np.abs(gain) > 1e-12):
            raise self.silent(shift.part.values)
        return -fixed / gain, -per_k / gain

    def _of_rows(self, u: Tensor, shift: MeanShift) -> Array:
        """Means of neurons, averaged over those that share a row of what shifts: see `by_row`."""
        values = neuron_mean(u, self.mask).double().cpu().numpy().reshape(u.shape[2:])
        apart = all(p.shape[self._rows.get(p, 0)] == len(values) for p in shift.part.values)
        return np.asarray(values.mean(tuple(range(apart, values.ndim)), keepdims=True))

    def _limited(self, part: Component) -> "FreePotential":
        """The same over the units that a part acts on."""
        if self.reach is None:
            return self
        return replace(self, reach=Reach(self.reach.axis, {p: self.reach.of(part.values) for p in part.values}))

    def _in_size(self, part: Component, u: Tensor, among: list[Component]) -> tuple[Component, Tensor]:
        """A part and its component, scaled to its share of the variance among the others.

        If neurons differ in kernel or threshold, each gets its own scale, as far as it has its own row of the weight.
        """
        factor, units = torch.ones((), dtype=torch.float64), u.shape[2]
        rows = dict.fromkeys(part.values, 0) | self._rows
        own = self.population.neuron.kernel.eps_hat.ndim or self.sigma.ndim
        each = all(p.shape[rows[p]] == units for p in part.values)
        share = self.shares_of(part, among)
        if own and each:
            square = neuron_mean((u / self.sigma) ** 2, self.mask).double().cpu().reshape(units, -1).mean(1)
            factor = square.clamp_min(1e-24).rsqrt()
        if each and self.reach is not None and self.reach.axis == 2:
            factor = factor * share.clamp_min(1e-24).sqrt()
        if factor.ndim:
            u = factor.to(u).reshape(-1, *[1] * (u.ndim - 3)) * u
        spread = self._limited(part)._variance(u) if bool((share > 0).any()) else 0.0
        if not spread > 1e-24:
            raise self.silent(part.values)
        size = (float(share[share > 0].mean()) / spread) ** 0.5
        for p, v in part.values.items():
            v.mul_(by_row(factor.numpy(), p, rows[p]).to(v) * size)
        return part, u.mul_(size)

    def shares_of(self, part: Component, among: list[Component]) -> Tensor:
        """The share of a part for every unit, of what acts on it; one number where all parts act on all."""
        if self.reach is None:
            return torch.tensor(part.share, dtype=torch.float64)
        acting = {id(other): self.reach.of(other.values).double().cpu() for other in among}
        total = sum((other.share * acting[id(other)] for other in among), torch.zeros(()))
        return part.share * acting[id(part)] / total.clamp_min(1e-24)

    def _rest(self, touched: Iterable[Tensor]) -> Tensor:
        """The component that no part can change; a number if the wiring leaves only the resting potential."""
        if self._fixed:
            return self.potential(touched)
        return torch.full((), self.population.neuron.rest, dtype=self.sigma.dtype, device=self.sigma.device)

    @property
    def _fixed(self) -> bool:
        """Whether more than pathways that are written adds to U."""
        p = self.population
        frozen = any(q.bias is not None and not q.bias.requires_grad for q in p.pathways)
        frozen = frozen or any("Norm" in o for q in p.pathways if not q.norms for o in q.via)  # with an offset
        return frozen or bool(p.unweighted) or p.offset or any(q.skipped_because for q in p.pathways)

    def _signal(self, part: Component, touched: Iterable[Tensor], rest: Tensor) -> Tensor:
        u = self.potential(touched, part)
        return u.sub_(rest) if rest.any() else u

    @cached_property
    def _nothing(self) -> dict[Tensor, float]:
        """What stands for zero in weights that may be divided by their largest entry."""
        return {q.weight: 1e-9 for q in self.population.pathways if not q.linear}

    @cached_property
    def _units(self) -> Tensor:
        assert self.reach is not None
        return self.reach.of(self.reach.by).nonzero().flatten()

    def _seen(self, u: Tensor) -> Tensor:
        """U of the units that count."""
        return u if self.reach is None else u.index_select(self.reach.axis, self._units)

    def _in_sigma(self, *signals: Tensor) -> tuple[Any, ...]:
        """Signals of the units that count, with the window and the unit of U."""
        if self.reach is None:
            return *signals, self.mask, self.sigma
        return *(self._seen(u / self.sigma) for u in signals), self.mask

    def _mean(self, u: Tensor) -> float:
        return population_mean(self._seen(u), self.mask)

    def _inner(self, u: Tensor, v: Tensor) -> float:
        """Mean of `u v` over window and neurons, in units of `sigma_u^2`."""
        return product_mean(*self._in_sigma(u, v))

    def _variance(self, u: Tensor) -> float:
        """Over window and neurons, in units of `sigma_u^2`."""
        return variance(*self._in_sigma(u))

    def silent(self, part: Container[Tensor] = ()) -> SilentInputError:
        """Why nothing arrives, or why a part has no effect."""
        from fluctua.methods.mute import silence  # on the way out

        return SilentInputError(silence(self.population, self.replay, len(self.mask), part))

    def _refuse(self, target: Target, noise: float) -> None:
        """Refuse a target: the part of U that does not scale is already `noise` times `sigma_u`."""
        p = self.population
        sigma = float(self.sigma.double().square().mean().sqrt())
        distance = abs(target.mean - p.neuron.rest)
        if distance and not any(q.skipped_because for q in p.pathways) and not p.unweighted:
            check_feasible(target, p.neuron.threshold, noise * sigma / distance, sigma, p.neuron.rest, f" for {p.name}")
        fixed, wanted = _told_apart(noise * sigma, sigma)
        raise InfeasibleTargetError(
            f"the input of {p.name} through frozen, shared or missing weights alone makes U fluctuate by {fixed}, more "
            f"than the wanted sigma_u = {wanted}: unfreeze them or ask for more"
        )


def _told_apart(more: float, less: float) -> tuple[str, str]:
    """Two numbers in as few digits as show which is larger."""
    pairs = ((f"{more:.{digits}g}", f"{less:.{digits}g}") for digits in range(3, 18))
    return next((pair for pair in pairs if pair[0] != pair[1]), (repr(more), repr(less)))
