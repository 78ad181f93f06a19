"""Targets: three ways to say how far U is to swing, and what is refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fluctua.theory import InfeasibleTargetError, PspKernel, Target, crossing_rate
from fluctua.theory.target import default_shares

LIF = PspKernel.exponential(20e-3, 10e-3, dt=2e-3)


def test_xi_of_one_is_the_default() -> None:
    assert Target().xi == 1.0
    assert Target().sigma_u(1.0, LIF) == 1.0
    assert Target(sigma=0.5).xi is None
    assert Target(rate=5.0).xi is None


@pytest.mark.parametrize("threshold", [1.0, 0.3, 20.0])
def test_three_ways_to_say_the_same(threshold: float) -> None:
    xi = 1.7
    by_xi = Target(mean=0.1, xi=xi).sigma_u(threshold, LIF)
    assert by_xi == pytest.approx((threshold - 0.1) / xi)
    assert Target(mean=0.1, sigma=float(by_xi)).sigma_u(threshold, LIF) == by_xi
    rate = float(crossing_rate(xi, LIF))
    assert Target(mean=0.1, rate=rate).sigma_u(threshold, LIF) == pytest.approx(float(by_xi), rel=1e-9)


def test_a_rate_asks_each_neuron_for_its_own_spread() -> None:
    kernel = PspKernel.exponential([10e-3, 20e-3], 10e-3, dt=2e-3)
    sigma = Target(rate=3.0).sigma_u(1.0, kernel)
    np.testing.assert_allclose(crossing_rate(1 / sigma, kernel), 3.0)
    assert sigma[0] < sigma[1]


def test_a_readout_takes_a_sigma() -> None:
    assert Target(sigma=0.2).sigma_u(None, LIF) == 0.2
    for target in (Target(), Target(xi=2.0), Target(rate=5.0)):
        with pytest.raises(ValueError, match=r"readout has no threshold, .* Target\(sigma=\.\.\.\)"):
            target.sigma_u(None, LIF)


ANYTHING: Any = "1"
INFINITE, NAN = float("inf"), float("nan")
REFUSALS: dict[str, tuple[Callable[[], object], str]] = {
    "xi and sigma": (lambda: Target(xi=1.0, sigma=0.5), "got xi and sigma: drop all but one"),
    "all three": (lambda: Target(xi=1.0, sigma=0.5, rate=3.0), "got xi and sigma and rate"),
    "xi zero": (lambda: Target(xi=0.0), "target's xi .* got 0"),
    "xi negative": (lambda: Target(xi=-1.0), "target's xi .* got -1"),
    "xi nan": (lambda: Target(xi=NAN), "target's xi .* nan"),
    "sigma infinite": (lambda: Target(sigma=INFINITE), "target's sigma .* inf"),
    "rate zero": (lambda: Target(rate=0.0), "target's rate .* got 0"),
    "mean nan": (lambda: Target(mean=NAN), "target's mean .* nan"),
    "mean infinite": (lambda: Target(mean=-INFINITE), "target's mean .* -inf"),
    "xi beyond what can be squared": (lambda: Target(xi=1e300), "got 1e.300: take 1e-15 to 1e15"),
    "mean beyond what can be squared": (lambda: Target(mean=-1e300), "got -1e.300: take -1e15 to 1e15"),
    "xi a text": (lambda: Target(xi=ANYTHING), "target's xi .* got '1'"),
    "mean a text": (lambda: Target(mean=ANYTHING), "target's mean .* got '1'"),
    "threshold nan": (lambda: Target().sigma_u(NAN, LIF), "a threshold must be a number, got nan"),
    "rate too high": (lambda: Target(rate=500.0).sigma_u(1.0, LIF), "got 500.0 Hz"),
}


@pytest.mark.parametrize(("call", "message"), REFUSALS.values(), ids=list(REFUSALS))
def test_refusals(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_an_infeasible_target_is_a_value_error() -> None:
    assert issubclass(InfeasibleTargetError, ValueError)


def test_the_shares_of_the_paper_are_the_default() -> None:
    assert default_shares([False, True]) == pytest.approx((0.9, 0.1))


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 1.1, NAN])
def test_a_share_that_leaves_nothing_for_others_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        default_shares([False, True], alpha)


def test_small_integers_are_numbers_like_others() -> None:
    """Whose square would overflow if it were taken as they come."""
    assert crossing_rate(np.int8(12), LIF) == crossing_rate(12.0, LIF)
    assert crossing_rate(np.int8(12), PspKernel.continuous(20e-3, 10e-3)) == crossing_rate(
        12.0, PspKernel.continuous(20e-3, 10e-3)
    )
