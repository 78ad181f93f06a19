"""Pathways -> mean and standard deviation of the free membrane potential."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fluctua.theory.psp import Array, PspKernel


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
