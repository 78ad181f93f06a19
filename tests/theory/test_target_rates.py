"""The level-crossing formula against SciPy's bivariate normal, and its limit of vanishing time steps."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import owens_t
from scipy.stats import multivariate_normal

from fluctua.theory import PspKernel, crossing_rate, xi_for_rate

DT = 2e-3
KERNELS = {
    "exponential": PspKernel.exponential(20e-3, 10e-3, DT),
    "fine steps": PspKernel.exponential(20e-3, 10e-3, 1e-4),
    "equal time constants": PspKernel.exponential(10e-3, 10e-3, DT),
    "delta": PspKernel.delta(20e-3, DT),
    "no memory": PspKernel.delta(1e-4, DT),
    "coarse steps": PspKernel.exponential(5e-3, 2e-3, 10e-3),
    "alternating": PspKernel.from_response([1.0, -0.7, 0.3], DT),
    "trial": PspKernel.integrator(0.1, DT, 50),
}
every_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=list(KERNELS))


@every_kernel
@pytest.mark.parametrize("xi", [-1.5, 0.0, 0.3, 1.0, 2.0, 3.0])
def test_it_is_a_bivariate_normal_probability(kernel: PspKernel, xi: float) -> None:
    rho = float(kernel.lag_one)
    accuracy = {"abseps": 1e-12, "releps": 1e-12, "maxpts": 10**6}
    below_then_above = {"x": [xi, np.inf], "lower_limit": [-np.inf, xi]}
    cdf: Any = multivariate_normal.cdf
    crossing = cdf(**below_then_above, mean=[0.0, 0.0], cov=[[1.0, rho], [rho, 1.0]], **accuracy)
    assert crossing_rate(xi, kernel) == pytest.approx(crossing / kernel.dt, rel=1e-6, abs=1e-7)


@every_kernel
def test_it_has_full_precision(kernel: PspKernel) -> None:
    xi = np.linspace(0, 8, 33)
    rho = kernel.lag_one
    exact = 2 * owens_t(xi, np.sqrt((1 - rho) / (1 + rho))) / kernel.dt
    np.testing.assert_allclose(crossing_rate(xi, kernel), exact, rtol=1e-12)


@given(xi=st.floats(-6, 6), rho=st.floats(-0.49, 0.49))
def test_as_many_crossings_upwards_whichever_side_the_mean_is_on(xi: float, rho: float) -> None:
    kernel = PspKernel.from_response([1.0, rho], DT)
    assert crossing_rate(xi, kernel) == pytest.approx(float(crossing_rate(-xi, kernel)))


@pytest.mark.parametrize("xi", [0.0, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("tau_syn", [2e-3, 10e-3, 20e-3])
def test_rice_formula_is_the_limit(xi: float, tau_syn: float) -> None:
    rice = np.exp(-(xi**2) / 2) / (2 * np.pi * np.sqrt(20e-3 * tau_syn))
    assert crossing_rate(xi, PspKernel.continuous(20e-3, tau_syn)) == pytest.approx(rice)
    errors = [abs(crossing_rate(xi, PspKernel.exponential(20e-3, tau_syn, dt)) / rice - 1) for dt in (2e-5, 1e-5, 1e-6)]
    assert errors[1] < 1e-4
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.02)  # second order in dt
    assert errors[2] < 1e-6


def test_crossings_of_a_delta_synapse_have_no_limit() -> None:
    rates = [float(crossing_rate(1.0, PspKernel.delta(20e-3, dt))) for dt in (1e-3, 1e-5, 1e-7)]
    assert rates[1] / rates[0] == pytest.approx(10, rel=0.05)  # as 1 / sqrt(dt)
    assert rates[2] / rates[1] == pytest.approx(10, rel=0.01)
    with pytest.raises(ValueError, match="delta synapse has no crossing rate"):
        crossing_rate(1.0, PspKernel.continuous(20e-3, None))


@pytest.mark.parametrize(("xi", "rate"), [(1.0, 6.8), (2.0, 1.5)])
def test_the_rates_that_the_design_quotes(xi: float, rate: float) -> None:
    assert crossing_rate(xi, PspKernel.continuous(20e-3, 10e-3)) == pytest.approx(rate, abs=0.05)


def test_uncorrelated_steps_cross_by_chance() -> None:
    kernel = PspKernel.from_response([2.0], DT)
    assert crossing_rate(0.0, kernel) == pytest.approx(0.25 / DT)


@every_kernel
def test_the_rate_falls_with_the_distance_from_threshold(kernel: PspKernel) -> None:
    rates = crossing_rate(np.linspace(0, 10, 200), kernel)
    assert np.all(np.diff(rates) < 0)
    assert np.all(rates > 0)


@given(share=st.floats(1e-9, 0.999), name=st.sampled_from(sorted(KERNELS)))
def test_xi_for_rate_inverts(share: float, name: str) -> None:
    kernel = KERNELS[name]
    rate = share * float(crossing_rate(0.0, kernel))
    xi = xi_for_rate(rate, kernel)
    assert xi > 0
    assert crossing_rate(xi, kernel) == pytest.approx(rate, rel=1e-9)


def test_xi_for_rate_inverts_the_continuous_limit() -> None:
    kernel = PspKernel.continuous(20e-3, 10e-3)
    assert crossing_rate(xi_for_rate(4.0, kernel), kernel) == pytest.approx(4.0, rel=1e-12)


def test_one_xi_per_neuron() -> None:
    tau_mem = np.array([[5e-3], [20e-3]])
    kernel = PspKernel.exponential(tau_mem, 10e-3, DT)
    xi = xi_for_rate(5.0, kernel)
    assert xi.shape == (2, 1)
    np.testing.assert_allclose(crossing_rate(xi, kernel), 5.0)
    assert xi[0, 0] == pytest.approx(float(xi_for_rate(5.0, PspKernel.exponential(5e-3, 10e-3, DT))))
    assert crossing_rate(np.zeros(3), kernel).shape == (2, 3)


@every_kernel
def test_a_rate_out_of_reach_is_refused_with_the_largest_possible(kernel: PspKernel) -> None:
    largest = float(crossing_rate(0.0, kernel))
    with pytest.raises(ValueError, match=f"between 0 and {largest:.4g} Hz".replace("+", r"\+")):
        xi_for_rate(1.001 * largest, kernel)
    xi_for_rate(0.999 * largest, kernel)


def test_the_slowest_neuron_sets_the_largest_rate() -> None:
    kernel = PspKernel.exponential([5e-3, 50e-3], 10e-3, DT)
    slow = float(crossing_rate(0.0, PspKernel.exponential(50e-3, 10e-3, DT)))
    with pytest.raises(ValueError, match=f"{slow:.4g} Hz"):
        xi_for_rate(1.01 * slow, kernel)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_is_positive(rate: float) -> None:
    with pytest.raises(ValueError, match="between 0 and"):
        xi_for_rate(rate, KERNELS["exponential"])
