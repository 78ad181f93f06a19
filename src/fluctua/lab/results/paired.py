"""Two methods on the same seeds: the mean of their differences, its interval, and how often which was ahead."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, bootstrap  # type: ignore[attr-defined]

_FEWEST = 5  # differences of fewer seeds say nothing about their spread
_RESAMPLES = 9999


@dataclass(frozen=True)
class Paired:
    """The differences between one method and another, one for each seed that both have.

    Attributes:
        mean: of the differences.
        low: where the 95 % interval of the mean begins, by bootstrap; NaN for fewer than five seeds.
        high: where it ends.
        n: seeds.
        more: seeds with a difference above 0.
        less: those with one below.
        p: of the two-sided sign test: how likely so uneven a count is where both are equally often ahead.
    """

    mean: float
    low: float
    high: float
    n: int
    more: int
    less: int
    p: float


def paired(values: Mapping[int, float], others: Mapping[int, float]) -> Paired | None:
    """Compare the numbers of one method with those of another, by seed; None where no seed has both.

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
