"""How a surrogate passes the gradient on: the share of neurons that take part, and the gain of a layer.

The gradient passes a population through the surrogate derivative `phi'(U - theta)` of its neurons, and a layer of
weights through their transpose. The participation share says how many neurons take part, the gain how much of the
gradient is left.

Example:
    >>> print(f"{participation_share(SIGMOID.slope(3.5)):.2f}")
    0.40
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fluctua.theory.psp import Array

Slope = Callable[[Array], Array]
"""The surrogate derivative at distances from threshold."""

_REACH = 12.0  # standard deviations, beyond which a normal number has no weight
_NODES = 100  # on either side of the threshold
_SAME = 1e-4  # relative to the standard deviation: smaller differences do not matter
_ITERATIONS = 200


@dataclass(frozen=True)
class SurrogateShape:
    """A surrogate except for its sharpness `beta`, which scales the distance x: `beta^grows profile(beta x)`.

    Attributes:
        profile: the derivative at beta = 1.
        area: its integral.
        square: the integral of its square.
        grows: 0 where the height stays as beta grows, 1 where the area does.
    """

    profile: Slope
    area: float
    square: float
    grows: int

    def slope(self, beta: float) -> Slope:
        """The derivative at a sharpness."""
        return lambda x: beta**self.grows * self.profile(beta * np.asarray(x, float))

    def mean(self, beta: float, density: float) -> float:
        """`E[phi']` in the limit of a sharp surrogate, for a potential with this density at threshold."""
        return float(density * self.area * beta ** (self.grows - 1))

    def mean_square(self, beta: float, density: float) -> float:
        """`E[phi'^2]` in the same limit."""
        return float(density * self.square * beta ** (2 * self.grows - 1))


def _logistic(z: Array) -> Array:
    s = 1 / (1 + np.exp(-np.clip(np.abs(z), 0, 700)))
    return np.asarray(s * (1 - s))


SUPERSPIKE = SurrogateShape(lambda z: (np.abs(z) + 1) ** -2.0, 2.0, 2 / 3, 0)
TRIANGLE = SurrogateShape(lambda z: np.maximum(1 - np.abs(z), 0.0), 1.0, 2 / 3, 0)
SIGMOID = SurrogateShape(_logistic, 1.0, 1 / 6, 1)
ARCTAN = SurrogateShape(lambda z: 0.5 / (1 + (0.5 * np.pi * z) ** 2), 1.0, 1 / 4, 1)


def threshold_density(mu_u: float, sigma_u: float, threshold: float) -> float:
    """The density of a Gaussian potential at threshold."""
    return float(np.exp(-0.5 * ((threshold - mu_u) / sigma_u) ** 2) / (np.sqrt(2 * np.pi) * sigma_u))


def participation_share(slope: Slope, mu_u: float = 0.0, sigma_u: float = 1.0, threshold: float = 1.0) -> float:
    """`P = <phi'>^2 / <phi'^2>` of a surrogate on a Gaussian potential, between 0 and 1.

    This is the share of neurons and steps that carry the gradient: 1 where all contribute alike, and `p` where a part
    `p` contributes alike and the rest nothing. It ignores resets, which take the potential away from threshold.

    Example:
        >>> for beta in (2.5, 20.0):
        ...     print(f"{participation_share(SUPERSPIKE.slope(beta)):.2f}")
        0.39
        0.07
    """
    mean, square = (float(_gaussian_mean(f, mu_u, sigma_u, threshold)) for f in (slope, lambda x: slope(x) ** 2))
    return mean**2 / square if square > 0 else 0.0


def _gaussian_mean(of: Slope, mu_u: ArrayLike, sigma_u: float, threshold: float) -> Array:
    """Mean of a function of the distance from threshold, for potentials with means of any shape."""
    mean = np.asarray(mu_u, float)[..., None]
    z, weight = _grid((threshold - mean) / sigma_u)
    return np.asarray((of(mean + sigma_u * z - threshold) * weight).sum(-1))


def _grid(edge: Array) -> tuple[Array, Array]:
    """Nodes and weights for a standard normal number: two grids that meet at `edge`, where they are dense."""
    start, u = np.clip(edge, -_REACH, _REACH), (np.arange(_NODES) + 0.5) / _NODES
    z = np.concatenate([start + (far - start) * u**5 for far in (-_REACH, _REACH)], -1)
    steps = np.concatenate([np.abs(far - start) * u**4 for far in (-_REACH, _REACH)], -1)
    weight = np.exp(-0.5 * z**2) * steps
    return z, weight / weight.sum(-1, keepdims=True)


def slope_correlation(slope: Slope, rho: ArrayLike, mu_u: float, sigma_u: float, threshold: float) -> Array:
    """`R = E[phi'(U) phi'(U')]` of two Gaussian potentials with correlation `rho`, in the shape of `rho`.

    Given their common part, which is `|rho|` of their variance, the two are independent.
    """
    of = np.vectorize(lambda r: _product_mean(slope, float(r), mu_u, sigma_u, threshold), otypes=[float])
    return np.asarray(of(rho))


def _product_mean(slope: Slope, rho: float, mu_u: float, sigma_u: float, threshold: float) -> float:
    own, common = sigma_u * np.sqrt(max(1 - abs(rho), 0.0)), sigma_u * np.sqrt(abs(rho))
    if own < _SAME * sigma_u and rho > 0:
        return float(_gaussian_mean(lambda x: slope(x) ** 2, mu_u, sigma_u, threshold))
    z, weight = _grid(np.asarray((threshold - mu_u) / max(common, _SAME * sigma_u))[None])
    own = max(own, _SAME * sigma_u)
    near = _gaussian_mean(slope, mu_u + common * z, own, threshold)
    other = near if rho >= 0 else _gaussian_mean(slope, mu_u - common * z, own, threshold)
    return float((near * other * weight).sum())


def gradient_gain(power: float, kernel: ArrayLike, correlation: ArrayLike) -> float:
    """Growth of the gradient with respect to spikes from the output of a layer to that of the layer before.

    U is linear in the spikes of the layer before. If the reset is treated as a constant, the covariance D of the
    gradient over time lags becomes `power A * (R D)`, with the autocorrelation A of the kernel and R of the surrogate
    derivative. So the square of the gain is the largest eigenvalue of `power sqrt(R) A sqrt(R)`.

    Args:
        power: `n_out E[w^2]`: sum of squares of the weights that leave a unit, averaged over units.
        kernel: `eps[k]`, the response of U to a spike through a weight of 1, `[K]`.
        correlation: `E[phi'(U[t]) phi'(U[t + k])]` for the lags k = 0, 1, ... of a trial, `[T]`.

    Example:
        >>> from fluctua import PspKernel
        >>> eps = PspKernel.exponential(20e-3, 10e-3, 2e-3).response(100)
        >>> white = np.r_[0.2, np.zeros(99)]  # a derivative that is independent at every step
        >>> print(f"{gradient_gain(10.0, eps, white):.3f} = {np.sqrt(10 * 0.2 * eps @ eps):.3f}")
        1.427 = 1.427
    """
    eps, half = np.asarray(kernel, float), np.asarray(correlation, float)
    lags, size = len(half), 4 * max(len(eps), len(half))
    root = np.sqrt(np.clip(np.r_[half[:0:-1], half], 0.0, None))
    spectrum = np.abs(np.fft.rfft(eps, size)) ** 2  # of the autocorrelation A
    if not (power > 0 and root.any() and eps.any()):
        return 0.0
    vector, value = root / np.linalg.norm(root), 0.0
    for _ in range(_ITERATIONS):
        image = root * np.fft.irfft(spectrum * np.fft.rfft(root * vector, size), size)[: 2 * lags - 1]
        before, value = value, float(np.linalg.norm(image))
        vector = image / value
        if abs(value - before) <= 1e-6 * value:
            break
    return float(np.sqrt(power * value))


def white_gain(sigma_u: float, nu: float, dt: float, mean_square: float) -> float:
    """The gain if the surrogate derivative is independent at every step: `sigma_U sqrt(E[phi'^2] / (nu dt))`.

    It assumes layers of equal width, with the weights that give `sigma_U` at the presynaptic rate `nu` (Hz).
    """
    return float(sigma_u * np.sqrt(mean_square / (nu * dt)))


def balanced_beta(sigma_u: float, tau_mem: float, tau_syn: float, dt: float) -> float:
    """The sharpness of SuperSpike at which the gradient keeps its size, in the white limit and at Rice's rate.

    `beta* = (2 sqrt(2 pi) / 3) sigma_U sqrt(tau_mem tau_syn) / dt`. It does not depend on xi: rate and density at
    threshold fall alike with xi.

    Example:
        >>> print(f"{balanced_beta(1.0, 20e-3, 10e-3, 2e-3):.1f}")
        11.8
    """
    return float(2 * np.sqrt(2 * np.pi) / 3 * sigma_u * np.sqrt(tau_mem * tau_syn) / dt)
