"""Weight laws: their numbers against SciPy's distributions, their draws against their numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from fluctua.theory import Exponential, Gamma, LogNormal, Normal, Relay
from fluctua.theory.laws import Family, HalfNormal, OneSided, Uniform, WeightLaw

Array = NDArray[np.float64]

stats: Any = scipy.stats  # which makes its distributions at run time

# Each family beside the distribution that it is named for.
FREE: dict[Family, Any] = {
    Normal(): stats.norm(),
    Uniform(): stats.uniform(-np.sqrt(3), 2 * np.sqrt(3)),
}
SIDED: dict[OneSided, Any] = {
    Exponential(): stats.expon(),
    LogNormal(): stats.lognorm(1.0),
    LogNormal(0.4): stats.lognorm(0.4),
    Gamma(): stats.gamma(2.0),
    Gamma(0.5): stats.gamma(0.5),
    HalfNormal(): stats.halfnorm(),
}
ALL: dict[Family, Any] = dict([*FREE.items(), *SIDED.items()])


def law(family: Family, mean: float | Array, density: float = 1.0) -> WeightLaw:
    """Of that mean, and a std of 0.7 where it is free."""
    means = np.asarray(mean, float)
    std = np.abs(means) * family.spread if isinstance(family, OneSided) else np.full_like(means, 0.7)
    return WeightLaw(family, means, std, density)


def assert_mean(samples: Array, expected: float) -> None:
    """Within five standard errors, by the scatter of the samples."""
    assert abs(samples.mean() - expected) <= 5 * samples.std() / np.sqrt(samples.size)


@pytest.mark.parametrize("family", SIDED, ids=str)
def test_kappa_is_mean_square_over_squared_mean(family: OneSided) -> None:
    truth = SIDED[family]
    assert family.kappa == pytest.approx(truth.moment(2) / truth.mean() ** 2, rel=1e-12)
    assert family.spread == pytest.approx(truth.std() / truth.mean(), rel=1e-12)


@pytest.mark.parametrize("family", ALL, ids=str)
def test_standard_numbers_are_the_distribution_less_its_mean_over_its_std(family: Family) -> None:
    truth = ALL[family]
    drawn = family.standard(np.random.default_rng(0), (100, 400))
    assert drawn.shape == (100, 400)
    assert_mean(drawn, 0.0)
    assert_mean(drawn**2, 1.0)
    assert stats.kstest(drawn.ravel() * truth.std() + truth.mean(), truth.cdf).pvalue > 1e-4


@pytest.mark.parametrize("density", [1.0, 0.2])
@pytest.mark.parametrize("mean", [0.3, -0.3])
@pytest.mark.parametrize("family", ALL, ids=str)
def test_drawn_weights_have_the_moments_sign_and_sparseness_of_the_law(
    family: Family, mean: float, density: float
) -> None:
    wanted = law(family, mean, density)
    weights = wanted.draw(np.random.default_rng(1), (200, 20, 10))
    present = weights[weights != 0]
    assert_mean((weights != 0).astype(float), density)
    assert_mean(present, mean)
    assert_mean(present**2, float(wanted.mean_square))
    assert_mean((present - mean) ** 2, float(wanted.std) ** 2)
    if isinstance(family, OneSided):
        assert np.all(weights * np.sign(mean) >= 0)
        truth = SIDED[family]
        assert stats.kstest(present / mean * truth.mean(), truth.cdf).pvalue > 1e-4, "inhibition is excitation mirrored"
    else:
        assert {1.0, -1.0} <= set(np.sign(present))


def test_small_weights_of_one_sign_are_not_turned_by_rounding() -> None:
    """Half of the weights of this law are below 1e-30 of their mean, and mean + std * standard ends below zero."""
    wanted = law(Gamma(0.01), -0.3)
    standard = wanted.family.standard(np.random.default_rng(0), (1000, 10))
    assert (0.3 + wanted.std * standard).min() < 0
    drawn = wanted.draw(np.random.default_rng(0), (1000, 10))
    assert drawn.max() <= 0
    assert (drawn > -1e-12).mean() > 0.5


@pytest.mark.parametrize("family", [Normal(), Exponential()], ids=str)
def test_every_neuron_has_a_row_of_its_own_law(family: Family) -> None:
    means = np.array([0.1, 1.0, 5.0])
    wanted = law(family, means)
    weights = wanted.draw(np.random.default_rng(0), (3, 100, 50))
    for row, mean, square in zip(weights, means, wanted.mean_square, strict=True):
        assert_mean(row, mean)
        assert_mean(row**2, square)


@pytest.mark.parametrize("family", ALL, ids=str)
def test_the_same_seed_gives_the_same_weights(family: Family) -> None:
    first, again, other = (law(family, 0.5, 0.5).draw(np.random.default_rng(s), (20, 20)) for s in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("family", SIDED, ids=str)
def test_no_weight_at_all_is_a_law_too(family: OneSided) -> None:
    assert not law(family, 0.0).draw(np.random.default_rng(0), (5, 5)).any()


HALF, NAN = np.asarray(0.5), float("nan")
REFUSALS: dict[str, tuple[Callable[[], object], str]] = {
    "log-normal of no width": (lambda: LogNormal(0.0), "LogNormal needs a positive number s, got 0"),
    "gamma of negative shape": (lambda: Gamma(-1.0), "Gamma needs a positive number shape, got -1"),
    "gamma of no shape": (lambda: Gamma(NAN), "Gamma needs a positive number shape, got nan"),
    "density zero": (lambda: law(Normal(), 0.0, 0.0), "density .* above 0 and at most at 1, got 0"),
    "density above one": (lambda: law(Normal(), 0.0, 1.1), "density .* got 1.1"),
    "density nan": (lambda: law(Normal(), 0.0, NAN), "density .* got nan"),
    "negative std": (lambda: WeightLaw(Normal(), HALF, -HALF), "std of 0 or more, got 0.5 and -0.5"),
    "mean nan": (lambda: law(Normal(), NAN), "finite mean .* got nan"),
    "free spread of one sign": (
        lambda: WeightLaw(Exponential(), -HALF, HALF / 2),
        r"spread from their mean: Exponential\(\) of mean -0.5 needs the std 0.5, got 0.25",
    ),
    "another spread, of tiny weights": (
        lambda: WeightLaw(Exponential(), np.asarray(1e-10), np.asarray(5e-10)),
        "weights of one sign have their spread from their mean",
    ),
    "rows": (
        lambda: law(Normal(), np.zeros(3)).draw(np.random.default_rng(0), (4, 3)),
        r"the law has the shape \(3,\), the weights \(4, 3\)",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSALS.values(), ids=list(REFUSALS))
def test_refusals(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# --- relays ---


@pytest.mark.parametrize("shape", [(80, 80), (24, 24, 3), (16, 16, 5, 3)])
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_a_relay_has_its_share_of_the_variance_in_the_identity_and_balanced_rows(
    shape: tuple[int, ...], share: float
) -> None:
    n, rng = shape[0], np.random.default_rng(0)
    middle = tuple(k // 2 for k in shape[2:])
    weights = Relay(share).standard(rng, shape)
    rest = np.sqrt(1 - share) * Normal().standard(np.random.default_rng(0), shape)
    relay = weights - rest  # the same draws
    assert np.square(relay).mean() == pytest.approx(share)
    assert np.square(weights).mean() == pytest.approx(1.0, abs=5 / np.sqrt(weights.size))
    assert relay.reshape(n, -1).sum(1) == pytest.approx(np.zeros(n), abs=1e-9)
    tap = relay[(slice(None), slice(None), *middle)]
    assert tap == pytest.approx((np.eye(n) - 1 / n) * tap[0, 0] / (1 - 1 / n), abs=1e-9)
    relay[(slice(None), slice(None), *middle)] = 0
    assert np.abs(relay).max() < 1e-9


@pytest.mark.parametrize("shape", [(20, 30), (7,), (1, 1), (30, 20, 3)])
def test_weights_that_are_not_square_are_as_in_the_rest(shape: tuple[int, ...]) -> None:
    drawn = Relay(0.9, Uniform()).standard(np.random.default_rng(0), shape)
    assert (drawn == Uniform().standard(np.random.default_rng(0), shape)).all()


@pytest.mark.parametrize("bad", [{"share": 0.0}, {"share": 1.0}, {"share": -1.0}, {"rest": Exponential()}])
def test_a_relay_of_nothing_or_of_one_sign_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Relay needs a share between 0 and 1"):
        Relay(**bad)
