"""The budget solver: what it gives reproduces the target, and what it refuses cannot be had."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fluctua.theory import (
    Afferent,
    Drive,
    Exponential,
    Gamma,
    InfeasibleTargetError,
    LogNormal,
    Normal,
    PspKernel,
    Target,
    crossing_rate,
    membrane_moments,
    solve,
)
from fluctua.theory.laws import Family, HalfNormal, OneSided, Uniform, WeightLaw
from fluctua.theory.target import default_shares
from fluctua.theory.weights import check_feasible

Array = NDArray[np.float64]

LIF = PspKernel.exponential(20e-3, 10e-3, dt=2e-3)
LIF_DRIVE = Drive.poisson(100, 10.0, LIF)


def poisson(n: int, nu: float, kernel: PspKernel = LIF, share: float = 1.0) -> Afferent:
    return Afferent(Drive.poisson(n, nu, kernel), share)


def feasible(
    target: Target,
    afferents: Sequence[Afferent],
    threshold: float | None = 1.0,
    kernel: PspKernel = LIF,
    rest: float = 0.0,
) -> bool:
    try:
        solve(target, threshold, kernel, afferents, rest)
    except InfeasibleTargetError:
        return False
    return True


def pull(afferent: Afferent) -> Array:
    """1 where one-sided weights excite, -1 where they inhibit, 0 for weights of either sign."""
    return np.sign(afferent.sign * afferent.drive.mean) * isinstance(afferent.family, OneSided)


def total(values: Sequence[Array]) -> Array:
    return reduce(np.add, values)


def assert_reproduced(
    target: Target,
    threshold: float | None,
    kernel: PspKernel,
    afferents: Sequence[Afferent],
    laws: Sequence[WeightLaw],
    rest: float = 0.0,
) -> None:
    """Moments and shares of the laws are those asked for."""
    drives, means = [a.present for a in afferents], [law.mean for law in laws]
    moments = membrane_moments(drives, means, [law.mean_square for law in laws])
    sigma = target.sigma_u(threshold, kernel)
    size = abs(rest) + total([np.abs(d.mean * m) for d, m in zip(drives, means, strict=True)])
    assert np.all(np.abs(rest + moments.mu_u - target.mean) <= 1e-9 * size)
    np.testing.assert_allclose(moments.sigma_u, sigma, rtol=1e-9)

    pulls = [pull(a) for a in afferents]
    both = reduce(np.logical_or, [p > 0 for p in pulls]) & reduce(np.logical_or, [p < 0 for p in pulls])
    supplied = [d.power * law.mean_square / sigma**2 for d, law in zip(drives, laws, strict=True)]
    for a, law, p, got in zip(afferents, laws, pulls, supplied, strict=True):
        same = [(p == q) & (p != 0) for q in pulls]  # the side that it is on
        due = total([np.where(s, b.share, 0.0) for s, b in zip(same, afferents, strict=True)])
        side = total([np.where(s, g, 0.0) for s, g in zip(same, supplied, strict=True)])
        wanted = np.where(both & (p != 0), a.share * side / np.where(due > 0, due, 1.0), a.share)
        np.testing.assert_allclose(got, wanted, rtol=1e-9)
        assert (law.family, law.density) == (a.family, a.density)
        if isinstance(a.family, OneSided):
            assert np.all(a.sign * law.mean >= 0)
        else:
            assert np.all(law.mean * both == 0), "excitation and inhibition carry the mean alone"
    free_means = [law.mean for law in laws if not isinstance(law.family, OneSided)]
    assert all(np.array_equal(mean, free_means[0]) for mean in free_means)


REFUSAL = re.compile(r"the (largest|lowest|only) feasible mu_u here is (\S+)$")


def limit_named_by(error: Exception) -> tuple[str, float]:
    named = REFUSAL.search(str(error))
    assert named is not None, error
    return named[1], float(named[2])


# -- whatever the population looks like --------------------------------------------------------------------------


@st.composite
def kernels(draw: st.DrawFn, neurons: int | None) -> PspKernel:
    def tau() -> Array:
        values = draw(st.lists(st.floats(1e-3, 0.1), min_size=neurons or 1, max_size=neurons or 1))
        return np.asarray(values if neurons else values[0])

    kind = draw(st.sampled_from(["exponential", "delta", "trial"]))
    dt = draw(st.floats(1e-4, 5e-3))
    if kind == "delta":
        return PspKernel.delta(tau(), dt)
    if kind == "trial":
        return PspKernel.delta(tau(), dt).over_trial(draw(st.integers(2, 100)))
    return PspKernel.exponential(tau(), tau(), dt)


FREE: list[Family] = [Normal(), Uniform()]
SIDED: list[Family] = [Exponential(), LogNormal(0.7), LogNormal(), Gamma(0.5), Gamma(), HalfNormal()]


@st.composite
def populations(draw: st.DrawFn, families: Sequence[Family] = (*FREE, *SIDED)) -> tuple[PspKernel, list[Afferent]]:
    """Any number of pathways of any kind, sign, density and share, each with its own fan-in, rate and kernel."""
    neurons = draw(st.none() | st.integers(1, 4))
    weights = draw(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6))
    afferents = []
    for weight in weights:
        drive = Drive.poisson(draw(st.integers(1, 2000)), draw(st.floats(0.1, 200.0)), draw(kernels(neurons)))
        # Some kernels are negative, those of some neurons only, or do not move the mean.
        turns = [np.asarray(t) for t in (1.0, 1.0, 1.0, -1.0, 0.0)] + [np.resize([1.0, -1.0], drive.mean.shape)]
        turn = draw(st.sampled_from(turns))
        family = draw(st.sampled_from(families))
        sign = draw(st.sampled_from([1, -1])) if isinstance(family, OneSided) else 1
        density = draw(st.sampled_from([1.0, 0.3]))
        afferents.append(Afferent(Drive(turn * drive.mean, drive.power), weight / sum(weights), family, sign, density))
    return draw(kernels(neurons)), afferents


thresholds = st.floats(0.05, 50.0)
rests = st.just(0.0) | st.floats(-50.0, 60.0)
spreads = st.fixed_dictionaries({"xi": st.floats(0.2, 5.0)}) | st.fixed_dictionaries({"sigma": st.floats(0.01, 10.0)})


@given(populations(), thresholds, rests, st.floats(-3.0, 0.999), spreads)
@settings(deadline=None, max_examples=120)
def test_a_target_is_reproduced_or_refused_with_the_limit(
    population: tuple[PspKernel, list[Afferent]], threshold: float, rest: float, mean: float, spread: dict[str, float]
) -> None:
    kernel, afferents = population

    def at(mean: float) -> Target:
        return Target(mean=mean, **spread)

    target = at(mean * threshold)
    try:
        laws = solve(target, threshold, kernel, afferents, rest)
    except InfeasibleTargetError as refused:
        if "no mu_u is feasible here" in str(refused):
            assert not any(
                feasible(at(m), afferents, threshold, kernel, rest) for m in threshold - np.geomspace(1e-3, 1e3, 200)
            )
            return
        kind, limit = limit_named_by(refused)
        assert limit < target.mean if kind == "largest" else limit > target.mean or kind == "only"
        assert_reproduced(
            at(limit), threshold, kernel, afferents, solve(at(limit), threshold, kernel, afferents, rest), rest
        )
        # The name has three digits or more.
        step = 0.011 * abs(limit) + 1e-6 * (abs(rest) + threshold + float(at(limit).sigma_u(threshold, kernel).max()))
        for direction in {"largest": [1], "lowest": [-1], "only": [1, -1]}[kind]:
            assert not feasible(at(limit + direction * step), afferents, threshold, kernel, rest)
    else:
        assert_reproduced(target, threshold, kernel, afferents, laws, rest)


@given(populations(FREE), thresholds, st.floats(0.01, 0.99))
@settings(deadline=None)
def test_a_rate_is_reproduced(population: tuple[PspKernel, list[Afferent]], threshold: float, share: float) -> None:
    kernel, afferents = population
    rate = share * float(crossing_rate(0.0, kernel).min())
    laws = solve(Target(rate=rate), threshold, kernel, afferents)
    moments = membrane_moments([a.present for a in afferents], [w.mean for w in laws], [w.mean_square for w in laws])
    np.testing.assert_allclose(crossing_rate(moments.xi(threshold), kernel), rate, rtol=1e-6)


@given(populations(FREE), thresholds)
@settings(deadline=None)
def test_centred_weights_are_always_feasible(population: tuple[PspKernel, list[Afferent]], threshold: float) -> None:
    kernel, afferents = population
    laws = solve(Target(xi=2.0), threshold, kernel, afferents)
    assert all(np.all(law.mean == 0) and np.all(law.std > 0) for law in laws)


# -- signs, sparseness, rest -------------------------------------------------------------------------------------


def sided(mean: float, power: float, share: float, sign: int = 1, family: Family = SIDED[0]) -> Afferent:
    return Afferent(Drive(np.asarray(mean), np.asarray(power)), share, family, sign)


@given(populations(SIDED))
@settings(deadline=None)
def test_excitation_and_inhibition_reach_what_some_split_of_the_variance_reaches(
    population: tuple[PspKernel, list[Afferent]],
) -> None:
    """All splits between the two are tried; at `sigma_U = 1`, in the first neuron."""
    kernel, pathways = population
    afferents = [replace(a, drive=Drive(*(v.ravel()[0] for v in (a.drive.mean, a.drive.power)))) for a in pathways]
    pulls = [float(pull(a)) for a in afferents]
    assume({-1.0, 1.0} <= set(pulls))
    angle = np.linspace(0, np.pi / 2, 201)
    due = {p: sum(a.share for a, q in zip(afferents, pulls, strict=True) if p == q) for p in (1.0, -1.0)}
    reached = np.zeros_like(angle)
    for a, p in zip(afferents, pulls, strict=True):
        if p and isinstance(a.family, OneSided):
            variance = {1.0: np.cos(angle), -1.0: np.sin(angle)}[p] ** 2 * sum(due.values()) * a.share / due[p]
            reached += a.sign * a.present.mean * np.sqrt(variance / (a.family.kappa * a.present.power))
    for limit in (reached.min(), reached.max()):
        assert feasible(Target(mean=0.999 * limit, sigma=1.0), afferents, None, kernel)
        assert not feasible(Target(mean=1.001 * limit, sigma=1.0), afferents, None, kernel)


def test_weights_of_one_sign_have_one_mean() -> None:
    excitation = Afferent(Drive.poisson(100, 10.0, LIF), family=Exponential())
    # mu_U / sigma_U is that of exponential weights of any scale
    z = float(np.sqrt(100 * 10.0 / (2 * LIF.eps_hat)) * LIF.eps_bar)
    for target, only in [(Target(mean=0.3, sigma=0.2), 0.2 * z), (Target(xi=2.0), z / (2.0 + z))]:
        with pytest.raises(InfeasibleTargetError, match="their variance fixes their mean; the only feasible") as error:
            solve(target, 1.0, LIF, [excitation])
        kind, named = limit_named_by(error.value)
        assert named == pytest.approx(only, rel=1e-9)
        (law,) = solve(replace(target, mean=named), 1.0, LIF, [excitation])
        sigma = float(replace(target, mean=named).sigma_u(1.0, LIF))
        assert law.mean == pytest.approx(sigma / np.sqrt(2 * 100 * 10.0 * LIF.eps_hat))
        assert kind == "only"


def test_neurons_that_would_need_different_means_are_refused() -> None:
    drive = Drive(np.array([1.0, 2.0]), np.array([1.0, 1.0]))
    with pytest.raises(
        InfeasibleTargetError, match=r"no mu_u is feasible here: add a free-sign pathway or one of the other"
    ):
        solve(Target(mean=0.5), 1.0, LIF, [Afferent(drive, family=Exponential())])


@pytest.mark.parametrize("sign", [1, -1])
def test_weights_of_free_sign_make_up_for_those_of_one_sign(sign: int) -> None:
    n_free, n_sided = (200, 300), 40
    afferents = [poisson(n, 20.0, share=0.3) for n in n_free]
    afferents.append(Afferent(Drive.poisson(n_sided, 20.0, LIF), 0.4, Exponential(), sign))
    *free, one_sided = solve(Target(mean=0.2), 1.0, LIF, afferents)
    size = np.sqrt(0.4 * 0.8**2 / (2 * n_sided * 20.0 * LIF.eps_hat))
    assert one_sided.mean == pytest.approx(sign * size)
    common = (0.2 / (20.0 * LIF.eps_bar) - n_sided * sign * size) / sum(n_free)
    assert [float(law.mean) for law in free] == pytest.approx([common, common])


def test_a_negative_kernel_inhibits_as_negative_weights_do() -> None:
    excitation = sided(2.0, 1.0, 0.5)
    by_sign = solve(Target(mean=0.1), 1.0, LIF, [excitation, sided(3.0, 2.0, 0.5, sign=-1)])
    by_kernel = solve(Target(mean=0.1), 1.0, LIF, [excitation, sided(-3.0, 2.0, 0.5)])
    assert by_kernel[0].mean == by_sign[0].mean
    assert by_kernel[1].mean == -by_sign[1].mean > 0
    (double_negative,) = solve(Target(mean=0.5, sigma=0.25 * 2**0.5), None, LIF, [sided(-2.0, 1.0, 1.0, sign=-1)])
    assert double_negative.mean == pytest.approx(-0.25), "negative weights that excite"


@given(populations(), st.integers(-200, 90), st.integers(-80, 80))
@settings(deadline=None)
def test_potentials_are_counted_from_rest(population: tuple[PspKernel, list[Afferent]], mean: int, rest: int) -> None:
    kernel, afferents = population

    def solve_at(rest: int) -> tuple[WeightLaw, ...] | None:
        # In 64ths, so that the shift by whole numbers is free of rounding errors.
        target = Target(mean=mean / 64 + rest, sigma=2.0)
        feasible_here = feasible(target, afferents, 2.0 + rest, kernel, rest)
        return solve(target, 2.0 + rest, kernel, afferents, rest) if feasible_here else None

    laws, shifted = solve_at(0), solve_at(rest)
    assert (laws is None) == (shifted is None)
    for law, other in zip(laws or (), shifted or (), strict=True):
        np.testing.assert_array_equal(law.mean, other.mean)
        np.testing.assert_array_equal(law.std, other.std)


def test_each_neuron_has_its_own_rest() -> None:
    rest = np.array([-70.0, -60.0])
    drive = Drive(np.asarray(100.0), np.asarray(50.0))
    (law,) = solve(Target(mean=-65.0, xi=2.0), -50.0, LIF, [Afferent(drive)], rest)
    np.testing.assert_allclose(rest + drive.mean * law.mean, -65.0)
    np.testing.assert_allclose(drive.power * law.mean_square, (15.0 / 2.0) ** 2)


@pytest.mark.parametrize("family", [Normal(), Exponential()])
def test_sparse_pathways_have_the_fan_in_that_is_expected(family: Family) -> None:
    def pathways(n: int, density: float) -> list[Afferent]:
        return [
            replace(poisson(n, 20.0, share=0.6), family=family, density=density),
            Afferent(Drive.poisson(50, 20.0, LIF), 0.4, Exponential(), -1),
        ]

    sparse = solve(Target(mean=0.1), 1.0, LIF, pathways(1000, 0.1))
    dense = solve(Target(mean=0.1), 1.0, LIF, pathways(100, 1.0))
    for law, other in zip(sparse, dense, strict=True):
        assert law.mean == pytest.approx(float(other.mean))
        assert law.std == pytest.approx(float(other.std))
    assert [law.density for law in sparse] == [0.1, 1.0]


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
        (Target(mean=0.95), 1.0, [sided(1.0, 1.0, 0.5), sided(1.0, 1.0, 0.5, sign=-1)]),
        (Target(mean=-3.0, xi=5.0), 1.0, [sided(1.0, 1.0, 0.5), sided(1.0, 1.0, 0.5, sign=-1)]),
        (Target(mean=0.95), 1.0, [sided(1.0, 1.0, 0.5), poisson(20, 5.0, share=0.5)]),
    ],
    ids=[
        "positive",
        "negative",
        "sigma",
        "readout",
        "rate",
        "small share",
        "per neuron",
        "inhibitory kernel",
        "excitation alone",
        "inhibition alone",
        "free beside excitation",
    ],
)
def test_the_named_limit_is_the_limit(target: Target, threshold: float | None, afferents: list[Afferent]) -> None:
    with pytest.raises(InfeasibleTargetError) as error:
        solve(target, threshold, LIF, afferents)
    kind, limit = limit_named_by(error.value)
    assert kind == ("largest" if target.mean > 0 else "lowest")
    assert 0 < limit / target.mean < 1

    def at(mean: float) -> Target:
        spread = {"sigma": target.sigma, "rate": target.rate, "xi": None if target.sigma or target.rate else target.xi}
        return Target(mean=mean, **spread)

    assert_reproduced(at(limit), threshold, LIF, afferents, solve(at(limit), threshold, LIF, afferents))
    assert not feasible(at(1.01 * limit), afferents, threshold)


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
        assert limit_named_by(error.value)[1] == pytest.approx(limit, abs=0.006)


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


def test_a_mean_with_a_known_noise() -> None:
    """For potentials whose noise was measured: 2 per unit of mean, against a wanted 0.5."""
    check_feasible(Target(mean=0.2, sigma=0.5), 1.0, 2.0, 0.5)
    with pytest.raises(InfeasibleTargetError, match=r"the largest feasible mu_u here is 0\.25$"):
        check_feasible(Target(mean=0.3, sigma=0.5), 1.0, 2.0, 0.5)
    with pytest.raises(InfeasibleTargetError, match=r"the lowest feasible mu_u here is -60\.25$"):
        check_feasible(Target(mean=-60.3, sigma=0.5), -50.0, 2.0, 0.5, rest=-60.0)


def test_a_resting_potential_above_threshold_needs_inhibition() -> None:
    balanced = [sided(1.0, 0.1, 0.5), sided(1.0, 0.1, 0.5, sign=-1)]
    laws = solve(Target(mean=0.5), 1.0, LIF, balanced, rest=1.2)
    assert_reproduced(Target(mean=0.5), 1.0, LIF, balanced, laws, rest=1.2)
    with pytest.raises(
        InfeasibleTargetError, match=r"rests at 1\.2, above its threshold 1, .*no mu_u is feasible here"
    ):
        solve(Target(mean=0.5), 1.0, LIF, [sided(1.0, 0.1, 1.0)], rest=1.2)


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


NAN = float("nan")
REFUSALS: dict[str, tuple[Callable[[], object], str]] = {
    "sign zero": (lambda: sided(1.0, 1.0, 1.0, sign=0), r"must be 1 or -1, .* got 0 with Exponential\(\)"),
    "sign of a free family": (lambda: sided(1.0, 1.0, 1.0, -1, Normal()), r"one-sided .*: got -1 with Normal\(\)"),
    "no synapses": (lambda: Afferent(LIF_DRIVE, density=0.0), "density .* got 0"),
    "too many synapses": (lambda: Afferent(LIF_DRIVE, density=1.5), "density .* got 1.5"),
    "no power": (lambda: sided(1.0, 0.0, 1.0), "power above 0, got mean = 1.0 and power = 0.0: leave out"),
    "mean drive nan": (lambda: sided(NAN, 1.0, 1.0), "finite mean .* mean = nan"),
    "alpha one": (lambda: default_shares([False, True], 1.0), "alpha, .* between 0 and 1, got 1"),
    "alpha nan": (lambda: default_shares([False], NAN), "alpha, .* got nan"),
}


@pytest.mark.parametrize(("call", "message"), REFUSALS.values(), ids=list(REFUSALS))
def test_refusals(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
