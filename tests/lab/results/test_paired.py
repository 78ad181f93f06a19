"""Laws of paired differences: they are the textbook's, and an interval covers the truth as often as it says."""

import math

import numpy as np
import pytest

pytest.importorskip("scipy")

from fluctua.lab.results.paired import bootstrapped, paired


def by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def test_what_both_seeds_share_cancels() -> None:
    luck = np.random.default_rng(0).normal(0, 10, 8)
    ours, theirs = by_seed(*(luck + 1)), by_seed(*luck)
    found = paired(ours, theirs)
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))


def test_only_seeds_that_both_have_count() -> None:
    found = paired({0: 1.0, 1: 2.0, 7: 9.0}, {1: 1.0, 7: 9.0, 8: 0.0})
    assert found is not None
    assert (found.mean, found.n, found.more, found.less) == (0.5, 2, 1, 0)
    assert paired({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize(("more", "less", "p"), [(10, 0, 2 / 2**10), (5, 5, 1.0), (9, 1, 22 / 2**10), (0, 0, 1.0)])
def test_the_sign_test_counts_coins(more: int, less: int, p: float) -> None:
    differences = [0.1] * more + [-0.1] * less + [0.0] * 2  # ties tell nothing
    found = paired(by_seed(*differences), by_seed(*[0.0] * len(differences)))
    assert found is not None
    assert (found.more, found.less) == (more, less)
    assert found.p == pytest.approx(p)


def test_few_seeds_have_no_interval_and_others_one_within_their_values() -> None:
    values = np.random.default_rng(1).random(10).tolist()
    assert all(math.isnan(end) for end in bootstrapped(values[:4]))
    low, high = bootstrapped(values)
    assert min(values) <= low < np.mean(values) < high <= max(values)
    assert bootstrapped(values) == (low, high)


def test_the_interval_of_ten_seeds_covers_the_truth_in_nine_of_ten_cases() -> None:
    draws = np.random.default_rng(2).normal(3.0, 2.0, (120, 10))
    covered = np.mean([low < 3.0 < high for low, high in map(bootstrapped, draws.tolist())])
    # Percentiles of ten values are known to cover some 90 %, not 95; three standard errors of 120 cases are 8 %.
    assert 0.82 < covered < 0.98
