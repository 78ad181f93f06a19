"""The budget solver: a wanted state and the pathways that must supply it -> the law of each pathway's weights."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from fluctua.theory.membrane import Drive
from fluctua.theory.psp import PspKernel
from fluctua.theory.target import InfeasibleTargetError, Target

Array = NDArray[np.float64]


class WeightLaw(ABC):
    """Distribution of the weights of one pathway, seen through its first two moments (`[]`, or `[*N]` per neuron)."""

    mean: Array

    @property
    @abstractmethod
    def mean_square(self) -> Array:
        """`E[w^2]`."""


@dataclass(frozen=True, eq=False)
class Normal(WeightLaw):
    """Weights of either sign, `N(mean, std^2)`."""

    mean: Array
    std: Array

    @property
    def mean_square(self) -> Array:
        """`mean^2 + std^2`."""
        return self.mean**2 + self.std**2


@dataclass(frozen=True, eq=False)
class Afferent:
    """A pathway as the solver sees it.

    Attributes:
        drive: what its spikes do to U per unit of weight.
        share: the part of the variance of U that it supplies; the shares of a population add up to 1.
    """

    drive: Drive
    share: float = 1.0


def solve(
    target: Target, threshold: float | None, kernel: PspKernel, afferents: Sequence[Afferent]
) -> tuple[Normal, ...]:
    """Weight laws that put the population's free potential at `target`.

    All pathways have the same mean weight `mu_U / sum_p drive_p.mean`, and each supplies its share of the variance,
    `E[w_p^2] = share_p sigma_U^2 / drive_p.power` (paper, section 2 and its recurrent `alpha`). The results reproduce
    the target exactly under `theory.membrane.membrane_moments`.

    Args:
        target: the wanted state.
        threshold: of the population's neurons.
        kernel: of the population's neurons, for a target given as a rate.
        afferents: at least one, with shares that add up to 1.

    Raises:
        InfeasibleTargetError: the mean weight alone brings more variance than a pathway's share allows.
        ValueError: no afferents, or shares that are not positive or do not add up to 1.
    """
    shares = [a.share for a in afferents]
    if not shares or not all(share > 0 for share in shares) or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"the shares of a population's pathways must be positive and add up to 1, got {shares}")
    sigma = target.sigma_u(threshold, kernel)
    mean_drive = sum((a.drive.mean for a in afferents), np.asarray(0.0))
    if target.mean and not np.all(mean_drive):
        raise InfeasibleTargetError(
            f"mu_u = {target.mean:g} is out of reach: these pathways cannot move the mean of U at all, whatever their "
            "weights; the only feasible mu_u here is 0"
        )
    mean = target.mean / mean_drive if target.mean else np.zeros_like(mean_drive)
    variances = [a.share * sigma**2 / a.drive.power - mean**2 for a in afferents]
    if min(v.min() for v in variances) < 0:
        noise = reduce(np.maximum, (np.sqrt(a.drive.power / a.share) for a in afferents)) / np.abs(mean_drive)
        noise, sigma = np.broadcast_arrays(noise, sigma)
        worst = np.argmax(noise / sigma)  # the neuron whose limit is the tightest
        check_feasible(target, threshold, float(noise.flat[worst]), float(sigma.flat[worst]))
    # A target at the limit of feasibility may miss zero by a rounding error.
    return tuple(Normal(mean, np.sqrt(np.maximum(v, 0.0))) for v in variances)


def check_feasible(target: Target, threshold: float | None, sigma_per_mean: float, sigma: float) -> None:
    """Refuse a mean that by itself brings more fluctuation than wanted.

    Weights with a mean carry the noise of their input along: a mean of 1 brings `sigma_per_mean`.

    Raises:
        InfeasibleTargetError: naming the largest feasible `mu_u` (lowest, where it is negative); unless `sigma_u` was
            given outright it shrinks as the mean nears threshold.
    """
    noise = sigma_per_mean * abs(target.mean)
    if noise <= sigma * (1 + 1e-9):
        return
    sign = 1 if target.mean > 0 else -1
    if target.sigma is not None or threshold is None:
        limit = sign * sigma / sigma_per_mean
    else:
        xi = (threshold - target.mean) / sigma
        limit = sign * threshold / (xi * sigma_per_mean + sign)
    raise InfeasibleTargetError(
        f"mu_u = {target.mean:g} is out of reach: weights with that mean make U fluctuate by {noise:.3g} on their own, "
        f"more than the wanted sigma_u = {sigma:.3g}; the {'largest' if sign > 0 else 'lowest'} feasible mu_u here is "
        f"{_three_digits(limit):.3g}"
    )


def _three_digits(value: float) -> float:
    """`value` rounded towards zero: a limit that a message names must itself be feasible."""
    if value == 0:
        return value
    digit = 10.0 ** (math.floor(math.log10(abs(value))) - 2)
    return math.trunc(value / digit) * digit
