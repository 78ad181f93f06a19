"""The budget solver: what it gives reproduces the target, and what it refuses cannot be had."""

import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fluctua.theory import (
    Afferent,
    Drive,
    InfeasibleTargetError,
    Normal,
    PspKernel,
    Target,
    crossing_rate,
    membrane_moments,
    solve,
)

Array = NDArray[np.float64]

LIF = PspKernel.exponential(20e-3, 10e-3, dt=2e-3)


def poisson(n: int, nu: float, kernel: PspKernel = LIF, share: float = 1.0) -> Afferent:
    return Afferent(Drive.poisson(n, nu, kernel), share)


def feasible(target: Target, afferents: list[Afferent], threshold: float | None = 1.0, kernel: PspKernel = LIF) -> bool:
    try:
        solve(target, threshold, kernel, afferents)
    except InfeasibleTargetError:
        return False
    return True


def assert_reproduced(
    target: Target, threshold: float | None, kernel: PspKernel, afferents: list[Afferent], laws: tuple[Normal, ...]
) -> None:
    """Moments and shares of the laws are those asked for."""
    drives = [a.drive for a in afferents]
    moments = membrane_moments(drives, [law.mean for law in laws], [law.mean_square for law in laws])
    sigma = target.sigma_u(threshold, kernel)
    np.testing.assert_allclose(moments.mu_u, target.mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(*np.broadcast_arrays(moments.sigma_u, sigma), rtol=1e-9)
    for afferent, law in zip(afferents, laws, strict=True):
        assert np.all(law.std >= 0)
        share = afferent.drive.power * law.mean_square / sigma**2
        np.testing.assert_allclose(share, afferent.share, rtol=1e-9)


def limit_named_by(error: pytest.ExceptionInfo[InfeasibleTargetError]) -> float:
    named = re.search(r"feasible mu_u here is (\S+)$", str(error.value))
    assert named is not None
    return float(named[1])


# -- whatever the population looks like --------------------------------------------------------------------------


@st.composite
def kernels(draw: st.DrawFn, neurons: int | None) -> PspKernel:
    def tau() -> float | list[float]:
        one = st.floats(1e-3, 0.1)
        return draw(one if neurons is None else st.lists(one, min_size=neurons, max_size=neurons))

    kind = draw(st.sampled_from(["exponential", "delta", "trial"]))
    dt = draw(st.floats(1e-4, 5e-3))
    if kind == "delta":
        return PspKernel.delta(tau(), dt)
    if kind == "trial":
        return PspKernel.delta(tau(), dt).over_trial(draw(st.integers(2, 100)))
    return PspKernel.exponential(tau(), tau(), dt)


@st.composite
def populations(draw: st.DrawFn) -> tuple[PspKernel, list[Afferent]]:
    """Any number of pathways, each with its own fan-in, rate, kernel and share; one or several kinds of neuron."""
    neurons = draw(st.none() | st.integers(1, 4))
    weights = draw(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=5))
    afferents = [
        poisson(draw(st.integers(1, 2000)), draw(st.floats(0.1, 200.0)), draw(kernels(neurons)), weight / sum(weights))
        for weight in weights
    ]
    return draw(kernels(neurons)), afferents


thresholds = st.floats(0.05, 50.0)
spreads = st.fixed_dictionaries({"xi": st.floats(0.2, 5.0)}) | st.fixed_dictionaries({"sigma": st.floats(0.01, 10.0)})


@given(populations(), thresholds, st.floats(-3.0, 0.999), spreads)
@settings(deadline=None)
def test_a_target_is_reproduced_or_refused_with_the_limit(
    population: tuple[PspKernel, list[Afferent]], threshold: float, mean: float, spread: dict[str, float]
) -> None:
    kernel, afferents = population
    target = Target(mean=mean * threshold, **spread)
    try:
        laws = solve(target, threshold, kernel, afferents)
    except InfeasibleTargetError as refused:
        named = re.search(r"feasible mu_u here is (\S+)$", str(refused))
        assert named is not None
        limit = float(named[1])
        assert 0 < limit / target.mean < 1
        laws = solve(Target(mean=limit, **spread), threshold, kernel, afferents)
        assert_reproduced(Target(mean=limit, **spread), threshold, kernel, afferents, laws)
        assert not feasible(Target(mean=1.01 * limit, **spread), afferents, threshold, kernel)
    else:
        assert_reproduced(target, threshold, kernel, afferents, laws)


@given(populations(), thresholds, st.floats(0.01, 0.99))
@settings(deadline=None)
def test_a_rate_is_reproduced(population: tuple[PspKernel, list[Afferent]], threshold: float, share: float) -> None:
    kernel, afferents = population
    rate = share * float(crossing_rate(0.0, kernel).min())
    laws = solve(Target(rate=rate), threshold, kernel, afferents)
    drives = [a.drive for a in afferents]
    moments = membrane_moments(drives, [law.mean for law in laws], [law.mean_square for law in laws])
    np.testing.assert_allclose(crossing_rate(moments.xi(threshold), kernel), rate, rtol=1e-6)


@given(populations(), thresholds)
@settings(deadline=None)
def test_centred_weights_are_always_feasible(population: tuple[PspKernel, list[Afferent]], threshold: float) -> None:
    kernel, afferents = population
    laws = solve(Target(xi=2.0), threshold, kernel, afferents)
    assert all(np.all(law.mean == 0) and np.all(law.std > 0) for law in laws)


# -- the paper ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mu_u", [0.0, 0.5, -0.3])
def test_one_pathway_is_the_formula_of_the_paper(mu_u: float) -> None:
    n, nu, xi = 700, 15.8, 1.5
    (law,) = solve(Target(mean=mu_u, xi=xi), 1.0, LIF, [poisson(n, nu)])
    mu_w = mu_u / (n * nu * LIF.eps_bar)
    assert law.mean == pytest.approx(mu_w)
    assert law.std == pytest.approx(np.sqrt(((1 - mu_u) / xi) ** 2 / (n * nu * LIF.eps_hat) - mu_w**2))


@pytest.mark.parametrize(("n_ff", "n_rec", "alpha", "mu_u"), [([700], [128], 0.9, 0.0), ([300, 100], [50], 0.8, 0.4)])
def test_recurrence_is_the_alpha_of_the_paper(n_ff: list[int], n_rec: list[int], alpha: float, mu_u: float) -> None:
    nu, xi = 15.8, 1.0
    shares = [alpha / len(n_ff)] * len(n_ff) + [(1 - alpha) / len(n_rec)] * len(n_rec)
    fan_ins = n_ff + n_rec
    laws = solve(Target(mean=mu_u), 1.0, LIF, [poisson(n, nu, share=s) for n, s in zip(fan_ins, shares, strict=True)])
    mu_w = mu_u / (sum(fan_ins) * nu * LIF.eps_bar)
    for n, share, law in zip(fan_ins, shares, laws, strict=True):
        assert law.mean == pytest.approx(mu_w)
        assert law.std**2 == pytest.approx(share * ((1 - mu_u) / xi) ** 2 / (n * nu * LIF.eps_hat) - mu_w**2)


@pytest.mark.parametrize(
    ("n", "nu", "limits"),
    [(700, 15.8, (0.96, 0.93, 0.90)), (128, 15.8, (0.92, 0.85, 0.79)), (20, 5.0, (0.71, 0.55, 0.45))],
)
def test_the_largest_means_that_the_paper_can_have(n: int, nu: float, limits: tuple[float, ...]) -> None:
    for xi, limit in zip((1.0, 2.0, 3.0), limits, strict=True):
        assert feasible(Target(mean=limit - 0.006, xi=xi), [poisson(n, nu)])
        assert not feasible(Target(mean=limit + 0.006, xi=xi), [poisson(n, nu)])
        with pytest.raises(InfeasibleTargetError) as error:
            solve(Target(mean=0.99, xi=xi), 1.0, LIF, [poisson(n, nu)])
        assert limit_named_by(error) == pytest.approx(limit, abs=0.006)


# -- the edge of what is feasible --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "threshold", "afferents"),
    [
        (Target(mean=0.99), 1.0, [poisson(20, 5.0)]),
        (Target(mean=-40.0, xi=3.0), 1.0, [poisson(2, 5.0)]),
        (Target(mean=0.5, sigma=0.1), 1.0, [poisson(20, 5.0)]),
        (Target(mean=-0.5, sigma=0.1), None, [poisson(20, 5.0)]),
        (Target(mean=9.9, rate=2.0), 10.0, [poisson(20, 5.0)]),
        (Target(mean=0.95), 1.0, [poisson(700, 15.8, share=0.98), poisson(100, 15.8, share=0.02)]),
        (Target(mean=0.9), 1.0, [Afferent(Drive(np.array([2.0, 1.0, 3.0]), np.array([1.0, 1.0, 5.0])))]),
        (Target(mean=0.95), 1.0, [Afferent(Drive(np.asarray(-1.0), np.asarray(0.1)))]),  # a kernel of negative gain
    ],
    ids=["positive", "negative", "sigma", "readout", "rate", "small share", "per neuron", "inhibitory kernel"],
)
def test_the_named_limit_is_the_limit(target: Target, threshold: float | None, afferents: list[Afferent]) -> None:
    with pytest.raises(InfeasibleTargetError, match="largest" if target.mean > 0 else "lowest") as error:
        solve(target, threshold, LIF, afferents)
    limit = limit_named_by(error)
    assert 0 < limit / target.mean < 1

    def at(mean: float) -> Target:
        spread = {"sigma": target.sigma, "rate": target.rate, "xi": None if target.sigma or target.rate else target.xi}
        return Target(mean=mean, **spread)

    assert_reproduced(at(limit), threshold, LIF, afferents, solve(at(limit), threshold, LIF, afferents))
    assert not feasible(at(1.01 * limit), afferents, threshold)


def test_a_mean_at_the_very_limit_leaves_no_spread() -> None:
    drive = Drive(np.asarray(2.0), np.asarray(1.0))
    (law,) = solve(Target(mean=0.6, sigma=0.3), None, LIF, [Afferent(drive)])
    assert law.mean == pytest.approx(0.3)
    assert law.std == pytest.approx(0.0, abs=1e-7)


def test_input_that_cannot_move_the_mean() -> None:
    """A kernel that swings back: its spikes make U fluctuate around rest and nothing else."""
    kernel = PspKernel.from_response([1.0, -1.0], 1e-3)
    afferents = [poisson(100, 5.0, kernel)]
    (law,) = solve(Target(xi=2.0), 1.0, kernel, afferents)
    assert law.mean == 0
    assert law.std == pytest.approx(0.5 / np.sqrt(100 * 5.0 * 2e-3))
    with pytest.raises(InfeasibleTargetError, match=r"mu_u = 0\.1 .* cannot move the mean .* feasible mu_u here is 0"):
        solve(Target(mean=0.1), 1.0, kernel, afferents)


def test_a_negative_mean_costs_little_where_xi_is_small() -> None:
    """The wanted spread grows with the distance from threshold, so that any negative mean may be had."""
    assert feasible(Target(mean=-1000.0, xi=1.0), [poisson(700, 15.8)])


@pytest.mark.parametrize("mean", [1.0, 1.5])
def test_a_mean_above_threshold_is_refused(mean: float) -> None:
    with pytest.raises(InfeasibleTargetError, match=r"not below the threshold 1: .* mu_u < 1"):
        solve(Target(mean=mean), 1.0, LIF, [poisson(700, 15.8)])


@pytest.mark.parametrize("shares", [[], [0.9], [0.6, 0.6], [1.5, -0.5], [1.0, 0.0], [float("nan")]], ids=str)
def test_shares_add_up_to_one(shares: list[float]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"must be positive and add up to 1, got {shares}")):
        solve(Target(), 1.0, LIF, [poisson(10, 5.0, share=share) for share in shares])


# -- laws and targets --------------------------------------------------------------------------------------------


def test_mean_square_of_a_normal_law() -> None:
    law = Normal(np.asarray(0.3), np.asarray(0.4))
    assert law.mean_square == pytest.approx(0.25)
    drawn = np.random.default_rng(0).normal(law.mean, law.std, 200_000)
    assert (drawn**2).mean() == pytest.approx(0.25, abs=5 * (drawn**2).std() / np.sqrt(200_000))


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
        with pytest.raises(ValueError, match="readout has no threshold .* Target\\(sigma=...\\)"):
            target.sigma_u(None, LIF)


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
    "rate too high": (lambda: Target(rate=500.0).sigma_u(1.0, LIF), "got 500.0 Hz"),
}


@pytest.mark.parametrize(("call", "message"), REFUSALS.values(), ids=list(REFUSALS))
def test_targets_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_an_infeasible_target_is_a_value_error() -> None:
    assert issubclass(InfeasibleTargetError, ValueError)
