"""The free membrane potential: its moments, its target and firing rate, and the shares of the pathways.

xi <-> firing rate: how often a Gaussian potential crosses a threshold `xi` standard deviations above its mean.

In discrete time this is the probability that a bivariate normal pair with the kernel's lag-one correlation rho
starts below and ends above threshold, divided by dt; with Owen's T function (Owen 1956) it reads ::

    P(U_t < theta <= U_{t+1}) = 1/pi  int_0^phi exp(-xi^2 / (2 cos^2 s)) ds,     cos(2 phi) = rho

For dt -> 0 and a differentiable kernel it becomes Rice's formula,
`exp(-xi^2 / 2) / (2 pi) sqrt(-R''(0) / R(0))`, with `1 / (tau_mem tau_syn)` under the root for an exponential synapse.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fluctua.theory.psp import Array, ContinuousKernel, PspKernel, number

# The integrand is analytic: 32 nodes give full double precision for every xi of interest (tested against SciPy).
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)

_LARGEST = 1e15  # for a target: it and its inverse can be squared in single precision


class InfeasibleTargetError(ValueError):
    """No weights reach this target; the message names the nearest feasible `mu_u`, if there is one.

    Example:
        >>> kernel = PspKernel.exponential(tau_mem=20e-3, tau_syn=10e-3, dt=2e-3)
        >>> Target(mean=1.2).sigma_u(threshold=1.0, kernel=kernel)
        Traceback (most recent call last):
        fluctua.theory.target.InfeasibleTargetError: a mean potential of 1.2 is not below the threshold 1: ...
    """


@dataclass(frozen=True)
class Target:
    """The wanted state of a population: mean of U, and its spread given in one of three ways (default: `xi=1`).

    Attributes:
        mean: `mu_U`, in the units of the threshold.
        xi: distance of the mean from threshold in standard deviations, `xi = (theta - mu_U) / sigma_U`; the paper
            recommends 1 to 3.
        sigma: `sigma_U` itself.
        rate: a firing rate in Hz, turned into xi by the level-crossing formula, `crossing_rate`. The formula ignores
            the reset, so it holds for xi of 1 and more; the measured method then corrects it to the neurons' true rate.

    Example:
        >>> kernel = PspKernel.exponential(tau_mem=20e-3, tau_syn=10e-3, dt=2e-3)
        >>> for target in Target(), Target(mean=-0.5, xi=2.0), Target(sigma=0.1), Target(rate=5.0):
        ...     print(f"{target.sigma_u(threshold=1.0, kernel=kernel):.2f}")
        1.00
        0.75
        0.10
        0.79
    """

    mean: float = 0.0
    xi: float | None = None
    sigma: float | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name in ("xi", "sigma", "rate") if (value := getattr(self, name)) is not None}
        if len(given) > 1:
            raise ValueError(f"a target takes one of xi, sigma and rate, got {' and '.join(given)}: drop all but one")
        if not given:
            object.__setattr__(self, "xi", 1.0)
        for name, value in given.items():
            if not 1 / _LARGEST <= number(value) <= _LARGEST:
                raise ValueError(f"a target's {name} must be a positive number, got {value!r}: take 1e-15 to 1e15")
        if not abs(number(self.mean)) <= _LARGEST:
            raise ValueError(f"a target's mean must be a finite number, got {self.mean!r}: take -1e15 to 1e15")

    def sigma_u(self, threshold: ArrayLike | None, kernel: PspKernel) -> Array:
        """`sigma_U` for neurons with this threshold and kernel; `[]`, or `[*N]` where either differs between neurons.

        Raises:
            InfeasibleTargetError: the mean is not below threshold.
            ValueError: xi or a rate for a readout, which has no threshold.
        """
        if self.sigma is not None:
            return np.asarray(self.sigma)
        if threshold is None:
            raise ValueError("a readout has no threshold, so xi and rate say nothing about it: give Target(sigma=...)")
        threshold = np.asarray(threshold, float)
        if np.isnan(lowest := threshold.min()):
            raise ValueError(f"a threshold must be a number, got {threshold}")
        if not self.mean < lowest:
            raise InfeasibleTargetError(
                f"a mean potential of {self.mean:g} is not below the threshold {lowest:g}: the fluctuation-driven "
                f"regime needs mu_u < {lowest:g}"
            )
        xi = xi_for_rate(self.rate, kernel) if self.rate is not None else np.asarray(self.xi)
        return np.asarray((threshold - self.mean) / xi)


def default_shares(recurrent: Sequence[bool], alpha: float = 0.9) -> tuple[float, ...]:
    """The paper's shares: feed-forward pathways supply `alpha` of the variance in equal parts, recurrent ones the rest.

    Args:
        recurrent: for each pathway, whether it leads from a population back to itself.
        alpha: share of the feed-forward pathways; if all pathways are of one kind, they supply everything.

    Raises:
        ValueError: `alpha` is not between 0 and 1.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha, the feed-forward share of the variance, must lie between 0 and 1, got {alpha}")
    n, n_rec = len(recurrent), sum(recurrent)
    if n_rec in (0, n):
        return tuple(1 / n for _ in recurrent)
    return tuple((1 - alpha) / n_rec if r else alpha / (n - n_rec) for r in recurrent)


def crossing_rate(xi: ArrayLike, kernel: PspKernel) -> Array:
    """Up-crossings of the threshold per second (Hz) of the free potential of a neuron with that PSP kernel.

    This predicts the firing rate of a fluctuation-driven neuron, ignoring its reset. Shapes broadcast.

    Raises:
        ValueError: the continuous limit of a delta synapse, whose potential crosses infinitely often.

    Example:
        >>> kernel = PspKernel.exponential(tau_mem=20e-3, tau_syn=10e-3, dt=2e-3)
        >>> crossing_rate([1.0, 2.0, 3.0], kernel).round(2)
        array([6.79, 1.51, 0.12])
    """
    xi = np.asarray(xi, float)
    if isinstance(kernel, ContinuousKernel):
        if not np.isfinite(kernel.curvature):
            raise ValueError(
                "the continuous limit of a delta synapse has no crossing rate: give the kernel a time step"
            )
        return np.asarray(np.exp(-(xi**2) / 2) * np.sqrt(kernel.curvature) / (2 * np.pi))
    rho = kernel.lag_one
    phi = np.arctan(np.sqrt((1 - rho) / (1 + rho)))
    xi, phi = np.broadcast_arrays(xi, phi)
    s = 0.5 * phi[..., None] * (_NODES + 1)
    integrand = np.exp(-(xi[..., None] ** 2) / (2 * np.cos(s) ** 2))
    return np.asarray((integrand @ _WEIGHTS) * 0.5 * phi / (np.pi * kernel.dt))


def xi_for_rate(rate: float, kernel: PspKernel) -> Array:
    """The `xi > 0` at which `crossing_rate` is `rate` (Hz); one per neuron where the kernel has several.

    Raises:
        ValueError: a rate that is not between 0 and that at xi = 0, the largest possible.

    Example:
        >>> kernel = PspKernel.exponential(tau_mem=20e-3, tau_syn=10e-3, dt=2e-3)
        >>> print(f"{xi_for_rate(5.0, kernel):.2f}")
        1.27
    """
    largest = crossing_rate(0.0, kernel)
    if not 0 < rate < largest.min():
        raise ValueError(
            f"a fluctuation-driven rate must lie between 0 and {largest.min():.4g} Hz for this neuron "
            f"(its crossing rate at xi = 0), got {rate} Hz"
        )
    low, high = np.zeros_like(largest), np.full_like(largest, 40.0)
    for _ in range(60):  # bisection: the rate falls monotonically with xi, and 60 halvings exhaust a double
        middle = 0.5 * (low + high)
        too_fast = crossing_rate(middle, kernel) > rate
        low, high = np.where(too_fast, middle, low), np.where(too_fast, high, middle)
    return np.asarray(0.5 * (low + high))


@dataclass(frozen=True, eq=False)
class Drive:
    """What the afferents of one pathway do to U, per unit of weight; each `[]`, or `[*N]` for one value per neuron.

    With independent weights `w`, the pathway adds `mean E[w]` to `mu_U` and `power E[w^2]` to `sigma_U^2`.

    Attributes:
        mean: `sum_j <f_j>` over the afferents j, `f_j` being their filtered spike trains.
        power: `sum_j Var f_j` in time.

    Example:
        >>> kernel = PspKernel.exponential(tau_mem=20e-3, tau_syn=10e-3, dt=2e-3)
        >>> drive = Drive.poisson(n=700, nu=15.8, kernel=kernel)
        >>> print(f"{drive.mean:.1f} {drive.power:.2f}")
        122.0 22.51
    """

    mean: Array
    power: Array

    @staticmethod
    def poisson(n: float, nu: ArrayLike, kernel: PspKernel) -> "Drive":
        """`n` independent Poisson spike trains of rate `nu` (Hz): `n nu eps_bar`, `n nu eps_hat` (paper, eq. 6-7)."""
        rate = np.asarray(nu, float)
        if not n > 0 or not np.all((rate > 0) & np.isfinite(rate)):
            raise ValueError(f"a pathway needs a fan-in and a rate above zero, got n = {n} and nu = {rate} Hz")
        return Drive(n * rate * kernel.eps_bar, n * rate * kernel.eps_hat)


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and standard deviation of the free membrane potential, `[]` or `[*N]`."""

    mu_u: Array
    sigma_u: Array

    def xi(self, threshold: ArrayLike) -> Array:
        """Distance of the mean from threshold in standard deviations."""
        return np.asarray((np.asarray(threshold) - self.mu_u) / self.sigma_u)


def membrane_moments(drives: Sequence[Drive], mean: Sequence[ArrayLike], mean_square: Sequence[ArrayLike]) -> Moments:
    """`mu_U = sum_p drive_p.mean E[w_p]`, `sigma_U^2 = sum_p drive_p.power E[w_p^2]` (paper, eq. 6-7).

    Args:
        drives: one per pathway p.
        mean: `E[w_p]` of each.
        mean_square: `E[w_p^2]` of each.

    Example:
        >>> kernel = PspKernel.exponential(tau_mem=20e-3, tau_syn=10e-3, dt=2e-3)
        >>> drive = Drive.poisson(n=700, nu=15.8, kernel=kernel)
        >>> u = membrane_moments([drive], mean=[0.0], mean_square=[0.2**2])
        >>> print(f"sigma_U = {u.sigma_u:.2f}, xi = {u.xi(threshold=1.0):.2f}")
        sigma_U = 0.95, xi = 1.05
    """
    mu = sum((d.mean * np.asarray(m) for d, m in zip(drives, mean, strict=True)), np.asarray(0.0))
    variance = sum((d.power * np.asarray(q) for d, q in zip(drives, mean_square, strict=True)), np.asarray(0.0))
    return Moments(mu, np.sqrt(variance))
