"""Laws of the way back: shares and correlations against samples of the potential, the gain against its operator."""

from itertools import pairwise

import numpy as np
import pytest

from fluctua.theory import PspKernel, crossing_rate
from fluctua.theory.surrogates import (
    ARCTAN,
    SIGMOID,
    SUPERSPIKE,
    TRIANGLE,
    SurrogateShape,
    balanced_beta,
    gradient_gain,
    participation_share,
    slope_correlation,
    threshold_density,
    white_gain,
)

SHAPES = {"superspike": SUPERSPIKE, "triangle": TRIANGLE, "sigmoid": SIGMOID, "arctan": ARCTAN}
SAMPLES = 1_000_000


def normal(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((2, SAMPLES))


@pytest.mark.parametrize("name", SHAPES)
def test_area_and_square_are_the_integrals_of_the_profile(name: str) -> None:
    shape, z = SHAPES[name], np.sinh(np.linspace(-16, 16, 2_000_001))  # far out, and dense in the middle
    assert np.trapezoid(shape.profile(z), z) == pytest.approx(shape.area, rel=1e-4)
    assert np.trapezoid(shape.profile(z) ** 2, z) == pytest.approx(shape.square, rel=1e-4)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("mu", "sigma", "theta"), [(0.0, 1.0, 1.0), (0.3, 0.4, 1.0), (-5.0, 10.0, 15.0)])
@pytest.mark.parametrize("sharpness", [0.5, 5.0])
def test_the_participation_share_is_that_of_samples(
    name: str, mu: float, sigma: float, theta: float, sharpness: float
) -> None:
    slope = SHAPES[name].slope(sharpness / sigma)
    x = slope(mu + sigma * normal()[0] - theta)
    error = x.std() / x.mean() * 2 + (x**2).std() / (x**2).mean()  # relative, of one sample
    assert participation_share(slope, mu, sigma, theta) == pytest.approx(
        x.mean() ** 2 / (x**2).mean(), rel=4 * error / np.sqrt(SAMPLES)
    )


@pytest.mark.parametrize("shape", SHAPES.values())
def test_the_share_falls_with_sharpness_from_all_to_none_and_knows_no_height(shape: SurrogateShape) -> None:
    shares = [participation_share(shape.slope(beta)) for beta in (1e-3, 0.3, 1.0, 3.0, 10.0, 1e4)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == pytest.approx(1.0, abs=1e-2)
    assert shares[-1] < 1e-3
    assert participation_share(lambda x: 7 * shape.slope(3.0)(x)) == pytest.approx(shares[3])


@pytest.mark.parametrize("shape", SHAPES.values())
def test_the_closed_forms_are_the_limit_of_sharp_surrogates(shape: SurrogateShape) -> None:
    density, beta = threshold_density(0.2, 0.7, 1.0), 3e3
    slope = shape.slope(beta)
    x = np.array([participation_share(slope, 0.2, 0.7, 1.0), slope_correlation(slope, 1.0, 0.2, 0.7, 1.0)])
    square = shape.mean_square(beta, density)
    assert x == pytest.approx([shape.mean(beta, density) ** 2 / square, square], rel=0.02)


@pytest.mark.parametrize("beta", [2.5, 20.0])
@pytest.mark.parametrize("rho", [0.99, 0.6, 0.0, -0.5, -0.99])
def test_the_correlation_of_slopes_is_that_of_samples(beta: float, rho: float) -> None:
    slope, (u, other) = SUPERSPIKE.slope(beta), normal()
    product = slope(0.1 + 0.9 * u - 1) * slope(0.1 + 0.9 * (rho * u + np.sqrt(1 - rho**2) * other) - 1)
    error = 5 * product.std() / np.sqrt(SAMPLES) + 0.01 * product.mean()
    assert float(slope_correlation(slope, rho, 0.1, 0.9, 1.0)) == pytest.approx(product.mean(), abs=error)


def test_the_correlation_of_slopes_has_the_shape_of_its_lags() -> None:
    slope = SIGMOID.slope(4.0)
    found = slope_correlation(slope, [[1.0, 0.5], [0.0, -0.5]], 0.0, 1.0, 1.0)
    assert found.shape == (2, 2)
    assert (np.diff(found.ravel()) < 0).all()


def operator_gain(power: float, eps: np.ndarray, correlation: np.ndarray) -> float:
    """By the eigenvalues of the matrix itself."""
    lags = np.arange(1 - len(correlation), len(correlation))
    wide = np.correlate(eps, eps, "full")
    autocorrelation = np.pad(wide, 2 * len(lags))  # zero further out
    a = autocorrelation[len(autocorrelation) // 2 + lags[:, None] - lags]
    root = np.sqrt(correlation[np.abs(lags)])
    return float(np.sqrt(power * np.linalg.eigvalsh(root[:, None] * a * root)[-1]))


@pytest.mark.parametrize("beta", [2.0, 20.0])
def test_the_gain_is_the_largest_eigenvalue_over_the_lags(beta: float) -> None:
    eps = PspKernel.exponential(20e-3, 10e-3, 4e-3).response(60)
    rho = np.correlate(eps, eps, "full")[59:]
    correlation = slope_correlation(SUPERSPIKE.slope(beta), rho / rho[0], 0.0, 1.0, 1.0)[:40]
    assert gradient_gain(30.0, eps, correlation) == pytest.approx(operator_gain(30.0, eps, correlation), rel=1e-3)


def test_the_gain_squared_is_proportional_to_the_power_of_the_weights_and_to_the_mean_square_slope() -> None:
    eps, correlation = PspKernel.delta(20e-3, 2e-3).response(100), 0.1 + 0.2 * 0.9 ** np.arange(50)
    one = gradient_gain(5.0, eps, correlation)
    assert gradient_gain(20.0, eps, correlation) == pytest.approx(2 * one)
    assert gradient_gain(5.0, eps, 9 * correlation) == pytest.approx(3 * one)
    assert gradient_gain(0.0, eps, correlation) == gradient_gain(5.0, eps, 0 * correlation) == 0


def test_the_white_limit_is_the_gain_of_slopes_that_are_new_at_every_step() -> None:
    kernel, nu, square = PspKernel.exponential(20e-3, 10e-3, 2e-3), 7.0, 0.03
    sigma = 0.8
    power = sigma**2 / (nu * float(kernel.eps_hat))  # of the weights that give sigma_U at the rate nu
    white = np.r_[square, np.zeros(199)]
    assert white_gain(sigma, nu, 2e-3, square) == pytest.approx(
        gradient_gain(power, kernel.response(400), white), rel=1e-3
    )


@pytest.mark.parametrize("xi", [0.7, 1.0, 2.0])
def test_at_the_balanced_beta_the_white_gain_is_one_whatever_xi(xi: float) -> None:
    dt, sigma = 1e-5, 1.3  # so small that the rate is Rice's
    beta = balanced_beta(sigma, 20e-3, 10e-3, dt)
    nu = float(crossing_rate(xi, PspKernel.continuous(20e-3, 10e-3)))
    square = SUPERSPIKE.mean_square(beta, threshold_density(0.0, sigma, xi * sigma))
    assert white_gain(sigma, nu, dt, square) == pytest.approx(1.0, rel=1e-6)


# --- what unit and origin of the potential, and what type the numbers have, are no part of the answer ---


@pytest.mark.parametrize("rho", [1.0, 0.99, 0.5, 0.0, -0.5])
@pytest.mark.parametrize("unit", [1e-3, 50.0])
def test_unit_and_origin_of_the_potential_change_nothing_but_the_unit_of_the_slope(rho: float, unit: float) -> None:
    one = SUPERSPIKE.slope(20.0)
    same = SUPERSPIKE.slope(20.0 / unit)  # the profile of this shape is not scaled by its sharpness
    found = slope_correlation(same, rho, -3.0 * unit, 0.5 * unit, -2.2 * unit)
    assert found == pytest.approx(slope_correlation(one, rho, 0.2, 0.5, 1.0), rel=1e-9)
    share = participation_share(same, -3.0 * unit, 0.5 * unit, -2.2 * unit)
    assert share == pytest.approx(participation_share(one, 0.2, 0.5, 1.0), rel=1e-9)


def test_the_grid_is_fine_enough_for_sharp_surrogates() -> None:
    """Against SciPy, which divides the line until it is sure."""
    integrate = pytest.importorskip("scipy.integrate")
    slope = SUPERSPIKE.slope(200.0)

    def moment(power: int) -> float:
        def f(u: float) -> float:
            return float(slope(np.asarray(u - 1.0))) ** power * float(np.exp(-0.5 * u**2) / np.sqrt(2 * np.pi))

        parts = [-12.0, 0.9, 0.99, 1.0, 1.01, 1.1, 12.0]
        return sum(float(integrate.quad(f, a, b, epsabs=0, limit=200)[0]) for a, b in pairwise(parts))

    assert participation_share(slope) == pytest.approx(moment(1) ** 2 / moment(2), rel=1e-5)
    assert slope_correlation(slope, 0.0, 0.0, 1.0, 1.0) == pytest.approx(moment(1) ** 2, rel=1e-5)


def test_without_further_words_the_potential_is_standard_and_its_threshold_one() -> None:
    slope = SUPERSPIKE.slope(3.0)
    assert participation_share(slope) == participation_share(slope, 0.0, 1.0, 1.0)


def test_a_slope_that_is_nowhere_carries_nothing() -> None:
    assert participation_share(lambda x: 0.0 * np.asarray(x)) == 0.0


def test_the_gain_of_a_weak_layer_is_found_as_precisely_as_that_of_a_strong_one() -> None:
    eps, correlation = PspKernel.exponential(20e-3, 10e-3, 2e-3).response(60), 0.1 + 0.2 * 0.9 ** np.arange(50)
    one = gradient_gain(1.0, eps, correlation)
    for factor in (1e-5, 1e5):
        assert gradient_gain(1.0, eps * factor, correlation) == pytest.approx(one * factor, rel=1e-9)


def test_a_negative_correlation_counts_as_none() -> None:
    eps, correlation = np.array([1.0, 0.5]), np.array([1.0, 0.2, -1e-9])
    assert gradient_gain(1.0, eps, correlation) == gradient_gain(1.0, eps, np.maximum(correlation, 0.0)) > 0
