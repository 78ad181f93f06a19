"""The budget solver: from a target and the pathways into a population to the law of each pathway's weights.

Weights grow in proportion to the wanted `sigma_U`, so the solver works in units of it: the wanted mean is
`z = (mu_U - rest) / sigma_U`, and a pathway with the share a has `E[w^2] = a / drive.power`. For one-sided weights
this equals `kappa E[w]^2`. Their share thus fixes their size, and with it their *lift* `drive.mean E[w]`, the part of
z that they supply.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fluctua.theory.laws import Family, Normal, OneSided, WeightLaw, check_density
from fluctua.theory.psp import Array, PspKernel
from fluctua.theory.target import Drive, InfeasibleTargetError, Target


@dataclass(frozen=True, eq=False)
class Afferent:
    """A pathway as the solver sees it.

    A pathway of one-sided weights excites where `sign * drive.mean` is positive and inhibits where it is negative: an
    inhibitory synapse has negative weights, or a negative PSP kernel.

    Attributes:
        drive: what its spikes do to U per unit of weight, if every possible synapse is present.
        share: the part of the variance of U that it supplies; the shares of a population add up to 1.
        family: the shape of its weight distribution.
        sign: of the weights of a one-sided family, 1 or -1.
        density: the fraction of all possible synapses that is present.

    Example:
        >>> kernel = PspKernel.exponential(tau_mem=20e-3, tau_syn=10e-3, dt=2e-3)
        >>> sparse = Afferent(Drive.poisson(n=700, nu=15.8, kernel=kernel), density=0.1)
        >>> print(f"{sparse.present.power:.2f} of {sparse.drive.power:.2f}")
        2.25 of 22.51
    """

    drive: Drive
    share: float = 1.0
    family: Family = field(default_factory=Normal)
    sign: int = 1
    density: float = 1.0

    def __post_init__(self) -> None:
        check_density(self.density)
        if self.sign not in (1, -1) or (self.sign == -1 and not isinstance(self.family, OneSided)):
            raise ValueError(
                "the sign of a pathway's weights must be 1 or -1, and -1 goes only with a one-sided family such as "
                f"Exponential(): got {self.sign} with {self.family}"
            )
        mean, power = self.drive.mean, self.drive.power
        if not (np.all(np.isfinite(mean)) and np.all((power > 0) & np.isfinite(power))):
            raise ValueError(
                "the drive of a pathway needs a finite mean and a finite power above 0, got "
                f"mean = {mean} and power = {power}: leave out pathways whose afferents never fire"
            )

    @property
    def present(self) -> Drive:
        """Drive through the synapses that are present: the theory's `n` is the expected fan-in."""
        return Drive(self.density * self.drive.mean, self.density * self.drive.power)


def solve(
    target: Target,
    threshold: ArrayLike | None,
    kernel: PspKernel,
    afferents: Sequence[Afferent],
    rest: ArrayLike = 0.0,
    where: str = "",
) -> tuple[WeightLaw, ...]:
    """Weight laws that put the population's free potential at `target`.

    Each pathway supplies its share of the variance, `E[w_p^2] = share_p sigma_U^2 / drive_p.power`. The mean of U comes

    - from the free-sign weights, which share one mean: `(mu_U - rest - lift of the one-sided) / sum_p drive_p.mean`;
    - or, if some one-sided pathways excite and others inhibit, from the balance of these two. Together they supply
      the sum of their shares. How much of it is excitation follows from `mu_U`; within excitation and within inhibition
      the variance is divided in proportion to the shares. Free-sign weights then have mean 0.

    If all pathways are one-sided and all excite, or all inhibit, only one mean is feasible. The paper's formulas
    (section 2, its recurrent `alpha`, Dale's law) are special cases. Under `fluctua.theory.membrane_moments` the
    results reproduce the target exactly.

    Args:
        target: the wanted state.
        threshold: of the population's neurons, `[]` or `[*N]`.
        kernel: of the population's neurons, for a target given as a rate.
        afferents: at least one, with shares that add up to 1.
        rest: U without any input, `[]` or `[*N]`: `mu_U = rest + sum_p drive_p.mean E[w_p]`.
        where: names the population in error messages, such as " for 3".

    Returns:
        A law for each afferent; its numbers are `[]`, or `[*N]` where drives, `rest` or `sigma_U` differ by neuron.

    Raises:
        InfeasibleTargetError: no weights reach the target; names the nearest feasible `mu_u`.
        ValueError: no afferents, or shares that are not positive or do not add up to 1.

    Example:
        >>> kernel = PspKernel.exponential(tau_mem=20e-3, tau_syn=10e-3, dt=2e-3)
        >>> drive = Drive.poisson(n=700, nu=15.8, kernel=kernel)
        >>> (law,) = solve(Target(xi=1.0), threshold=1.0, kernel=kernel, afferents=[Afferent(drive)])
        >>> print(f"N({law.mean:g}, {law.std:.3f}^2)")
        N(0, 0.211^2)
    """
    shares = [a.share for a in afferents]
    if not shares or not all(share > 0 for share in shares) or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"the shares of a population's pathways must be positive and add up to 1, got {shares}")
    sigma, rest, budget = target.sigma_u(threshold, kernel), np.asarray(rest, float), _Budget(afferents)
    _check_reach(target, threshold, sigma, rest, *budget.reach(), where)
    means = budget.means((target.mean - rest) / sigma)
    return tuple(_law(a, sigma * mean, sigma) for a, mean in zip(afferents, means, strict=True))


def check_feasible(
    target: Target, threshold: float | None, sigma_per_mean: float, sigma: float, rest: float = 0.0, where: str = ""
) -> None:
    """Refuse a mean that by itself brings more fluctuation than wanted.

    Weights with a mean pass on the noise of their input: a mean of `rest + 1` brings `sigma_per_mean`. `where`, such as
    " for 3", names the population in the message.

    Raises:
        InfeasibleTargetError: names the largest feasible `mu_u`, or the lowest, where the wanted one is too low. Unless
            `sigma_u` was given outright, it shrinks as the mean nears threshold.
    """
    reach = np.asarray(1 / sigma_per_mean)
    _check_reach(target, threshold, np.asarray(sigma), np.asarray(rest), -reach, reach, where)


@dataclass(frozen=True, eq=False)
class _Side:
    """All excitation, or all inhibition, through one-sided weights at their own shares."""

    exists: NDArray[np.bool_]
    spread: Array  # standard deviation that it supplies; 1 if there is no such pathway
    lift: Array  # absolute value of its part of z

    @property
    def gain(self) -> Array:
        """Lift per standard deviation."""
        return self.lift / self.spread


class _Budget:
    """What the pathways can do per unit of `sigma_U`; every number is `[]` or `[*N]`."""

    def __init__(self, afferents: Sequence[Afferent]) -> None:
        self._afferents = afferents
        self._lifts = [a.present.mean * _fixed_mean(a) for a in afferents]
        self._excitation, self._inhibition = self._side(1), self._side(-1)
        self._balanced = self._excitation.exists & self._inhibition.exists
        self._radius = np.hypot(self._excitation.spread, self._inhibition.spread)
        free = [a for a in afferents if not isinstance(a.family, OneSided)]
        self._free_drive = _sum(a.present.mean for a in free)
        self._free_mean = reduce(np.minimum, [np.sqrt(_mean_square(a)) for a in free]) if free else np.asarray(0.0)

    def _side(self, sign: int) -> _Side:
        lifts = [np.maximum(sign * lift, 0.0) for lift in self._lifts]
        variance = _sum(np.where(lift > 0, a.share, 0.0) for a, lift in zip(self._afferents, lifts, strict=True))
        return _Side(variance > 0, np.where(variance > 0, np.sqrt(variance), 1.0), _sum(lifts))

    def reach(self) -> tuple[Array, Array]:
        """The lowest and the largest feasible z: one side supplies everything, or a free-sign pathway has no spread."""
        fixed, free = self._excitation.lift - self._inhibition.lift, np.abs(self._free_drive) * self._free_mean
        low = np.where(self._balanced, -self._inhibition.gain * self._radius, fixed - free)
        high = np.where(self._balanced, self._excitation.gain * self._radius, fixed + free)
        return low, high

    def means(self, z: Array) -> list[Array]:
        """Mean weight of each pathway, for a feasible z."""
        scale_e, scale_i = self._scales(z)
        missing = np.where(self._balanced, 0.0, z - self._excitation.lift + self._inhibition.lift)
        common = missing / np.where(self._free_drive == 0, 1.0, self._free_drive)
        return [
            _fixed_mean(a) * np.where(lift > 0, scale_e, np.where(lift < 0, scale_i, 1.0))
            if isinstance(a.family, OneSided)
            else common
            for a, lift in zip(self._afferents, self._lifts, strict=True)
        ]

    def _scales(self, z: Array) -> tuple[Array, Array]:
        """Factors of all excitatory and of all inhibitory weights; 1 unless there are both.

        The standard deviations u, v that the two supply lie on the circle `u^2 + v^2 = radius^2` and on the line
        `gain_e u - gain_i v = z`. These intersect twice; u and v are both positive at the upper intersection.
        """
        e, i = (np.where(self._balanced, side.gain, 1.0) for side in (self._excitation, self._inhibition))
        length = np.hypot(e, i)
        foot = z / length
        along = np.sqrt(np.maximum(self._radius**2 - foot**2, 0.0))
        u, v = (e * foot + i * along) / length, (e * along - i * foot) / length
        # At the limit of feasibility one of them may miss zero by a rounding error.
        scale_e, scale_i = np.maximum(u, 0.0) / self._excitation.spread, np.maximum(v, 0.0) / self._inhibition.spread
        return np.where(self._balanced, scale_e, 1.0), np.where(self._balanced, scale_i, 1.0)


def _mean_square(a: Afferent) -> Array:
    """`E[w^2]` per unit of `sigma_U^2` at the pathway's own share."""
    return np.asarray(a.share / a.present.power)


def _fixed_mean(a: Afferent) -> Array:
    """`E[w]` per unit of `sigma_U` as far as the share determines it."""
    return a.sign * np.sqrt(_mean_square(a) / a.family.kappa) if isinstance(a.family, OneSided) else np.asarray(0.0)


def _law(a: Afferent, mean: Array, sigma: Array) -> WeightLaw:
    if isinstance(a.family, OneSided):
        return WeightLaw(a.family, mean, np.abs(mean) * a.family.spread, a.density)
    variance = _mean_square(a) * sigma**2 - mean**2
    # A target at the limit of feasibility may miss zero by a rounding error.
    return WeightLaw(a.family, mean, np.sqrt(np.maximum(variance, 0.0)), a.density)


def _sum(values: Iterable[Array]) -> Array:
    return np.asarray(sum(values, np.asarray(0.0)))


@dataclass(frozen=True, eq=False)
class _Reach:
    """The feasible `mu_U`: those with `low <= z <= high` for every neuron, `sigma_U` being `start + slope mu_U`."""

    low: Array
    high: Array
    rest: Array
    start: Array
    slope: Array

    def has(self, mu: float) -> NDArray[np.bool_]:
        """Whether the mean is feasible for each neuron, up to rounding errors."""
        sigma, distance, width = self.start + self.slope * mu, mu - self.rest, self.high - self.low
        # Tolerance: 1e-10 of each limit, and of the width between the two if there is any.
        sizes = (np.minimum(np.abs(limit), np.where(width > 0, width, np.inf)) for limit in (self.low, self.high))
        below, above = (1e-10 * size for size in sizes)
        within = ((self.low - below) * sigma <= distance) & (distance <= (self.high + above) * sigma)
        return np.asarray((sigma > 0) & within)

    def limits(self) -> tuple[float, float]:
        """The lowest and the largest `mu_U` feasible for all neurons, infinite where there is no limit."""
        upper = np.broadcast_arrays(1 - self.high * self.slope, self.rest + self.high * self.start)
        lower = np.broadcast_arrays(1 - self.low * self.slope, self.rest + self.low * self.start)
        # As inequalities `c mu_U <= d`; c turns negative where the spread grows faster than the distance from rest.
        c, d = (np.concatenate([u.ravel(), -v.ravel()]) for u, v in zip(upper, lower, strict=True))
        below, above = c < 0, c > 0
        return float(np.max(d[below] / c[below], initial=-np.inf)), float(np.min(d[above] / c[above], initial=np.inf))


def _check_reach(
    target: Target, threshold: ArrayLike | None, sigma: Array, rest: Array, low: Array, high: Array, where: str
) -> None:
    """Refuse a mean without `low <= z <= high` for every neuron."""
    if target.sigma is not None or threshold is None:
        start, slope = sigma, np.asarray(0.0)
    else:
        slope = -sigma / (np.asarray(threshold) - target.mean)  # -1 / xi
        start = -slope * np.asarray(threshold)
    reach = _Reach(low, high, rest, start, slope)
    if (within := reach.has(target.mean)).all():
        return
    if np.any(low < high):
        wanted = np.broadcast_to(sigma, within.shape)[~within].flat[0]
        why = f"the weights that give this mean make U fluctuate by more than the wanted sigma_u = {wanted:.3g}"
    elif np.any(high):
        why = "where all weights excite, or all inhibit, their variance fixes their mean"
    else:
        why = "these pathways cannot move the mean of U at all, whatever their weights"
    if threshold is not None and np.all(rest > np.asarray(threshold)):
        why = f"without input it rests at {np.min(rest):.3g}, above its threshold {np.max(threshold):g}, and {why}"
    raise InfeasibleTargetError(f"mu_u = {target.mean:g} is out of reach{where}: {why}; {_way_out(reach, target.mean)}")


def _way_out(reach: _Reach, mean: float) -> str:
    """Name the feasible mean nearest to `mean`, in as few digits as keep it feasible."""
    lowest, largest = reach.limits()
    limit, kind = (largest, "largest") if mean > largest else (lowest, "lowest")
    if math.isclose(lowest, largest, rel_tol=1e-9):
        kind = "only"
    near = 0.01 * np.min(np.abs(limit - reach.rest))
    for digits in range(3, 18) if math.isfinite(limit) else ():
        named = float(text := f"{limit:.{digits}g}")
        if abs(named - limit) <= near and reach.has(named).all():
            return f"the {kind} feasible mu_u here is {text}"
    return "no mu_u is feasible here: add a free-sign pathway or one of the other sign, or ask for more fluctuation"
