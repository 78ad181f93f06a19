"""Two methods on the same seeds: the mean of their differences, its interval, and how often each was ahead."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, bootstrap  # type: ignore[attr-defined]

_FEWEST = 5  # fewer seeds say nothing about the spread of the differences
_RESAMPLES = 9999


@dataclass(frozen=True)
class Paired:
    """The differences between one method and another, one for each seed that both have.

    Attributes:
        mean: of the differences.
        low: lower end of the 95 % interval of the mean, by bootstrap; NaN for fewer than five seeds.
        high: upper end.
        n: number of seeds.
        more: number of seeds with a difference above 0.
        less: number of seeds with a difference below 0.
        p: of the two-sided sign test: probability of counts this uneven if both are ahead equally often.
    """

    mean: float
    low: float
    high: float
    n: int
    more: int
    less: int
    p: float


def paired(values: Mapping[int, float], others: Mapping[int, float]) -> Paired | None:
    """Compare the numbers of one method with those of another, by seed; None if no seed has both.

    Example:
        >>> ours, theirs = {0: 0.9, 1: 0.8, 2: 0.9, 3: 0.7, 4: 0.8}, {0: 0.6, 1: 0.7, 2: 0.5, 3: 0.6, 4: 0.7}
        >>> found = paired(ours, theirs)
        >>> print(f"{found.mean:.2f}", found.more, found.less, f"{found.p:.4f}")
        0.20 5 0 0.0625
    """
    differences = [values[seed] - others[seed] for seed in sorted(values.keys() & others.keys())]
    if not differences:
        return None
    more, less = (sum(sign * d > 0 for d in differences) for sign in (1, -1))
    p = float(binomtest(more, more + less).pvalue) if more + less else 1.0
    return Paired(float(np.mean(differences)), *bootstrapped(differences), len(differences), more, less, p)


def bootstrapped(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a mean by percentiles of resampled means; the same at every call, and within the values."""
    if len(values) < _FEWEST:
        return math.nan, math.nan
    found = bootstrap(
        (np.asarray(values),), np.mean, n_resamples=_RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(found.low), float(found.high)
