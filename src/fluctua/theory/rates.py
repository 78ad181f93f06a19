"""xi <-> firing rate: how often a Gaussian potential crosses a threshold `xi` standard deviations above its mean.

In discrete time this is the probability that a bivariate normal pair with the kernel's lag-one correlation rho
starts below and ends above threshold, divided by dt; with Owen's T function (Owen 1956) it reads ::

    P(U_t < theta <= U_{t+1}) = 1/pi  int_0^phi exp(-xi^2 / (2 cos^2 s)) ds,     cos(2 phi) = rho

For dt -> 0 and a differentiable kernel it becomes Rice's formula,
`exp(-xi^2 / 2) / (2 pi) sqrt(-R''(0) / R(0))`, with `1 / (tau_mem tau_syn)` under the root for an exponential synapse.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fluctua.theory.psp import ContinuousKernel, PspKernel

Array = NDArray[np.float64]

# The integrand is analytic: 32 nodes give full double precision for every xi of interest (tested against SciPy).
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)


def crossing_rate(xi: ArrayLike, kernel: PspKernel) -> Array:
    """Up-crossings of the threshold per second (Hz) of the free potential of a neuron with that PSP kernel.

    Without the reset this is the predicted firing rate of a fluctuation-driven neuron. Shapes broadcast.

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
        ValueError: a rate that is not positive, or at least the largest one possible, that at xi = 0.

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
