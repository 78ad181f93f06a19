"""Existing weights, brought to a target by scale and offset alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fluctua.hardware import Grid, rounded_to
from fluctua.methods.components import Component, FreePotential, MeanShift, Solution
from fluctua.methods.measured import scale_for_rate
from fluctua.methods.method import READOUT, Method, Reached, Targets, initialize
from fluctua.methods.population import adjustable, offsets_of
from fluctua.methods.weights import affine, by_row, writable, write_all
from fluctua.network.errors import Axis
from fluctua.network.facts import Pathway, Population
from fluctua.network.network import Group, hears_itself
from fluctua.network.probe import ProbedNeuron
from fluctua.network.replay import Replay
from fluctua.network.run import Forward
from fluctua.state.measure import Window, neuron_mean, population_mean, product_mean, variance
from fluctua.state.report import Report
from fluctua.theory.psp import Array
from fluctua.theory.target import InfeasibleTargetError, Moments, Target

__all__ = ["rescale"]


_ROUNDS = 16  # in which a recurrent population responds to its new weights, and goes half the way to the next
_ENOUGH = 0.02  # relative change of weights at which to stop


def rescale(
    model: nn.Module,
    batch: Any,
    target: Target | Report | None = None,
    *,
    readout: Target | None = READOUT,
    per_neuron: bool = True,
    grid: Grid | None = None,
    window: Window = "trial",
    forward: Forward | None = None,
    time: Axis = 0,
    steps: int | None = None,
    dt: float | None = None,
    neurons: Mapping[type[nn.Module], ProbedNeuron] | None = None,
) -> Report:
    """Bring a network to its target by scale and offset alone, in place: the pattern of its weights stays.

    For weights that are worth keeping: of a trained ANN, of a network trained with another time step, time constant or
    threshold, or quantised and pruned weights. The weights and the bias of each neuron are multiplied by one positive
    factor, and a number is added to the bias. Without biases there is no offset: the factor alone then brings the
    distance from threshold to xi, or sigma_U to its target, and the mean stays the same in units of sigma_U; all
    neurons of a population in a circuit then share the factor. If a norm sets the size of the current, its gain and
    offset are changed instead.

    Args:
        model: any model of known neurons.
        batch: input as in training: see `fluctua.initialize`.
        target: the wanted state of every spiking population (default: mean 0, xi = 1); or the report of a network with
            the same populations, such as this one before it was pruned: each population gets back its mean and sigma_U.
        readout: the same for populations without threshold; a report's state takes precedence; None leaves them alone.
        per_neuron: give each neuron (in a convolution: each map) its own factor and offset, so that all have the
            same mean and fluctuations and none is silent; if False, all neurons of a population share one of each.
        grid: round the weights to this grid; if its scale is free, the scale is brought to the target.
        window: over which moments are taken: see `fluctua.inspect`.
        forward: runs all time steps: see `fluctua.initialize`, and so are the rest.
        time: axis of the batch that is time.
        steps: how many steps a static input is shown for.
        dt: time step in seconds for neurons that count time in steps.
        neurons: facts about unknown neuron classes.

    Raises:
        SilentInputError: a population that no activity reaches.
        KeyError: a report without one of the populations.
        InfeasibleTargetError: a mean so far below threshold that no factor brings it to xi, without a bias to move it;
            or fixed weights that bring more fluctuation than wanted.

    After any error the model is as it was; the other errors are those of `fluctua.initialize`.

    Example:
        >>> from fluctua.neurons import LI, LIF
        >>> model = nn.Sequential(nn.Linear(30, 20), LIF(), nn.Linear(20, 2), LI())
        >>> before = model[0].weight.clone()
        >>> report = rescale(model, (torch.rand(100, 16, 30) < 0.1).float())
        >>> print(f"{report['1'].sigma_u:.2f}", bool(((model[0].weight / before).std(1) < 1e-4).all()))
        1.00 True
    """
    before = target if isinstance(target, Report) else None
    return initialize(
        model,
        batch,
        Target() if target is None or isinstance(target, Report) else target,
        method=Rescaling(per_neuron, window, grid, readout is not None, before),
        readout=readout or READOUT,
        seed=0,  # for dropout only
        forward=forward,
        time=time,
        steps=steps,
        dt=dt,
        neurons=neurons,
    )


@dataclass(frozen=True)
class Rescaling(Method):
    """The method of `rescale`; its fields are the arguments of that."""

    aims: ClassVar[bool] = True

    per_neuron: bool = True
    window: Window = "trial"
    grid: Grid | None = None
    readouts: bool = True
    before: Report | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.grid, Grid | None):
            raise ValueError(f"grid must be a Grid, such as Grid(bits=8), or None, got {self.grid!r}")

    def serves(self, population: Population) -> bool:
        """See `Method.serves`: also where norms alone may be set."""
        return bool(adjustable(population))

    def solve(self, group: Group, targets: Targets, replay: Replay, generator: torch.Generator) -> Reached:
        chosen = [p for p in group if p.name in targets and (self.readouts or p.neuron.threshold is not None)]
        if self.before is not None:
            states = [self.before[p.name] for p in chosen]
            targets = {p.name: Target(mean=p.mu_u, sigma=p.sigma_u) for p in states}
        if not hears_itself(group):
            return {p.name: self._fit(p, targets[p.name], replay) for p in chosen}
        parameters = list(dict.fromkeys(t for p in chosen for q in writable(p) for t in (*_scaled(q), q.weight)))
        nearest, kept, reached = np.inf, [p.detach().clone() for p in parameters], dict[str, Moments]()
        for _ in range(_ROUNDS):
            before = [p.detach().clone() for p in parameters]
            replay.assume(replay.simulate(group))
            wanted = {p.name: self._fit(p, targets[p.name], replay) for p in chosen}
            sizes = [
                max(float(p.detach().norm()), float(old.norm()), 1e-12)
                for p, old in zip(parameters, before, strict=True)
            ]
            off = max(
                float((p - old).detach().norm()) / size for p, old, size in zip(parameters, before, sizes, strict=True)
            )
            if off < nearest:  # the spikes of these weights call for the least change
                nearest, kept, reached = off, before, wanted
            if off < _ENOUGH:
                break
            write_all({p: torch.lerp(old, p.detach(), 0.5) for p, old in zip(parameters, before, strict=True)})
        write_all(dict(zip(parameters, kept, strict=True)))
        return reached

    def _fit(self, population: Population, target: Target, replay: Replay) -> Moments:
        moments = self._scale(population, target, replay, self.per_neuron)
        if self.grid is not None:
            for q in writable(population):
                rounded_to(self.grid, q)
            if self.grid.scale is None:  # one scale for the whole weight
                moments = self._scale(population, target, replay, rows=False)
        return moments

    def _scale(self, population: Population, target: Target, replay: Replay, rows: bool) -> Moments:
        """Write the weights of one population, for its present input; returns its new moments."""
        sigma = target.sigma_u(population.neuron.theta, population.neuron.kernel)
        potential = _Potential.of(population, replay, replay.currents(population), sigma, self.window)
        values = {p: p.detach().clone() for q in adjustable(population) for p in _scaled(q)}
        offsets = next((found for q in adjustable(population) if (found := offsets_of(q))), [])
        if not offsets:
            solution = _without_offset(potential, values, target, rows)
        else:
            values = _alike(potential, values, offsets) if rows else values
            shift = MeanShift(Component({p: torch.ones_like(p) for p in offsets}), self.per_neuron, bounded=False)
            solution = potential.solve([Component(values)], shift, target)
        solution.write(1.0 if target.rate is None else scale_for_rate(potential, solution, target.rate))
        u, mask = potential.potential(), potential.mask
        return Moments(np.asarray(population_mean(u, mask)), np.asarray(variance(u, mask) ** 0.5))


def _scaled(q: Pathway) -> list[Tensor]:
    """The parameters of a pathway that its factor multiplies: gain and offset of its norms, or weight and bias."""
    gains = [p for p in affine(q, "weight") if p.requires_grad]
    found = [*gains, *affine(q, "bias")] if gains else [q.weight, q.bias]
    return [p for p in found if p is not None and p.requires_grad]


class _Potential(FreePotential):
    """A free potential whose neurons are all scaled by the same factor, even if they differ."""

    def _in_size(self, part: Component, u: Tensor, among: list[Component]) -> tuple[Component, Tensor]:
        if not (spread := self._variance(u)) > 1e-24:
            raise self.silent(part.values)
        size = (part.share / spread) ** 0.5
        for value in part.values.values():
            value.mul_(size)
        return part, u.mul_(size)

    def parts(self, values: dict[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The part that nothing can change, a number if there is only rest, and what the values cause."""
        rest = self._rest(values)
        return rest, self._signal(Component(values), values, rest)


@dataclass(frozen=True)
class _Growth:
    """Moments of U = rest + k part, where k scales weights: one of each for all neurons, or for each.

    A part that never moves counts as one that moves as much as the others.
    """

    level: Array  # mean of the rest
    noise: Array  # its variance
    mean: Array  # of the part
    sigma: Array  # its standard deviation
    cross: Array  # covariance of both

    @classmethod
    def of(cls, rest: Tensor, part: Tensor, mask: Tensor, rows: bool) -> "_Growth":
        """Measure two parts `[T, B, *N]`, over all neurons or over those of each row."""

        def mean(x: Tensor) -> Array:
            if not rows:
                return np.asarray(population_mean(x, mask))
            return np.asarray(neuron_mean(x, mask).reshape(x.shape[2], -1).mean(1).cpu().numpy())

        def product(x: Tensor, y: Tensor) -> Array:
            return mean(x * y) if rows else np.asarray(product_mean(x, y, mask))

        moved, level, noise, cross = mean(part), np.asarray(rest.cpu()), np.zeros(()), np.zeros(())
        sigma = np.maximum(product(part, part) - moved**2, 0.0) ** 0.5
        if rest.ndim:
            level = mean(rest)
            noise, cross = np.maximum(product(rest, rest) - level**2, 0.0), product(rest, part) - level * moved
        still = sigma <= 1e-6 * max(sigma.max(), 1e-30)
        return cls(level, noise, moved, np.where(still, sigma.mean(), sigma), np.where(still, 0.0, cross))

    def factors(self, room: float, xi: float | None) -> Array:
        """The k that brings U to xi standard deviations below `room`; without xi, that makes these as large as `room`.

        It is at most twice what the fluctuations of the part alone ask for, and NaN where the rest is there already.
        """
        away, mean, z = (room, 0.0, 1.0) if xi is None else (room - self.level, self.mean, xi)
        left, half = away**2 - z**2 * self.noise, z**2 * self.cross + away * mean
        below = half + np.sqrt(np.maximum(half**2 + (z**2 * self.sigma**2 - mean**2) * left, 0.0))
        k = left / np.maximum(below, z * self.sigma * left / (2 * np.abs(away) + 1e-30))
        return np.where((left > 0) & (away > 0), k, np.nan)


def _without_offset(potential: "_Potential", values: dict[Tensor, Tensor], target: Target, rows: bool) -> Solution:
    """The factor alone: it brings sigma_U to a target given as sigma, else the mean to xi from threshold."""
    p, wanted = potential.population, float(potential.sigma.double().mean())
    theta = p.neuron.threshold or 0.0
    room, xi = (wanted, None) if target.sigma is not None else (theta, (theta - target.mean) / wanted)
    parts = potential.parts(values)
    growth = _Growth.of(*parts, potential.mask, rows=False)
    if not growth.sigma > 1e-12:
        raise potential.silent()
    if xi is not None and growth.mean + xi * growth.sigma <= 0:
        raise InfeasibleTargetError(
            f"{p.name} has a mean potential of {growth.mean / growth.sigma:.2f} sigma_u from rest, so no factor of its "
            f"weights brings it to xi = {xi:.3g} from threshold: give {p.pathways[0].name} a bias, or let "
            "fluctua.initialize draw new weights"
        )
    factor = growth.factors(room, xi)
    if np.isnan(factor):
        raise InfeasibleTargetError(
            f"without the weights that may be scaled {p.name} has a mean potential of {growth.level:.3g} and sigma_u = "
            f"{growth.noise**0.5:.3g}, nearer to its threshold than the target: unfreeze more of it or ask for less"
        )
    if rows and not any(q.recurrent for q in p.pathways):  # neurons of a circuit would respond to each other's factors
        each = _Growth.of(*parts, potential.mask, rows=True).factors(room, xi)
        factor = np.where(np.isnan(each), factor, each)
    axes = {q.weight: q.rows for q in writable(p)}
    scaled = Component({q: by_row(factor, q, axes.get(q, 0)) * value for q, value in values.items()})
    none = np.zeros(())
    return Solution(scaled, Component({}), none, none, 1.0, 0.0, 0.0, 0.0, None)


def _alike(potential: "_Potential", values: dict[Tensor, Tensor], offsets: list[Tensor]) -> dict[Tensor, Tensor]:
    """The values with a factor for each row, with which all neurons fluctuate alike, and without the offset."""
    values = values | {p: torch.zeros_like(p) for p in offsets}
    growth = _Growth.of(*potential.parts(values), potential.mask, rows=True)
    wanted = float(potential.sigma.double().mean())
    factor = growth.factors(wanted, None)
    factor = np.where(np.isnan(factor), wanted / growth.sigma, factor)
    axes = {q.weight: q.rows for q in writable(potential.population)}
    return {p: by_row(factor, p, axes.get(p, 0)) * value for p, value in values.items()}
