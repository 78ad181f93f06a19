"""Where a user wants the free membrane potential to be."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fluctua.theory.psp import PspKernel
from fluctua.theory.rates import xi_for_rate

Array = NDArray[np.float64]


class InfeasibleTargetError(ValueError):
    """No weights reach this target; the message names the largest feasible `mu_u`.

    Example:
        >>> kernel = PspKernel.exponential(tau_mem=20e-3, tau_syn=10e-3, dt=2e-3)
        >>> Target(mean=1.2).sigma_u(threshold=1.0, kernel=kernel)
        Traceback (most recent call last):
        fluctua.theory.target.InfeasibleTargetError: a mean potential of 1.2 is not below the threshold 1: ...
    """


@dataclass(frozen=True)
class Target:
    """The wanted state of a population: mean of U, and its spread in one of three ways (default: `xi=1`).

    Attributes:
        mean: `mu_U`, in the units of the threshold.
        xi: distance of the mean from threshold in standard deviations, `xi = (theta - mu_U) / sigma_U`; the paper
            recommends 1 to 3.
        sigma: `sigma_U` itself.
        rate: a firing rate in Hz, turned into xi by the level-crossing formula of `theory.rates`. The formula ignores
            the reset: it holds for xi of 1 and more; the measured method goes on from it to the neurons' true rate.

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
            if not 0 < value < np.inf:
                raise ValueError(f"a target's {name} must be a positive number, got {value}")
        if not np.isfinite(self.mean):
            raise ValueError(f"a target's mean must be a finite number, got {self.mean}")

    def sigma_u(self, threshold: float | None, kernel: PspKernel) -> Array:
        """`sigma_U` for a neuron with that threshold and kernel; shape `[]`, or `[*N]` where it differs by neuron.

        Raises:
            InfeasibleTargetError: the mean is not below threshold.
            ValueError: xi or a rate for a readout, which has no threshold.
        """
        if self.sigma is not None:
            return np.asarray(self.sigma)
        if threshold is None:
            raise ValueError("a readout has no threshold, so xi and rate say nothing about it: give Target(sigma=...)")
        if not self.mean < threshold:
            raise InfeasibleTargetError(
                f"a mean potential of {self.mean:g} is not below the threshold {threshold:g}: the fluctuation-driven "
                f"regime needs mu_u < {threshold:g}"
            )
        xi = xi_for_rate(self.rate, kernel) if self.rate is not None else np.asarray(self.xi)
        return np.asarray((threshold - self.mean) / xi)
