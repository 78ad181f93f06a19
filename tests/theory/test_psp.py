"""The closed forms of PSP kernels against sums over their responses, and what they tend to as dt -> 0."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fluctua.theory import PspKernel
from fluctua.theory.psp import decay, number

Array = NDArray[np.float64]

DT = 2e-3
LONG = 2500  # steps after which every decay used here has died away

decays = st.floats(0.0, 0.98)
gains = st.floats(0.1, 10.0) | st.floats(-10.0, -0.1)
delays = st.integers(0, 3)
taus = st.floats(0.3, 60.0)  # in time steps
steps_of_time = st.floats(1e-5, 1e-2)


def assert_sums_match(kernel: PspKernel, eps: Array) -> None:
    """The kernel's closed forms are the sums over `eps`."""
    power = (eps**2).sum(0)
    np.testing.assert_allclose(kernel.eps_bar, eps.sum(0) * kernel.dt, rtol=1e-9)
    np.testing.assert_allclose(kernel.eps_hat, power * kernel.dt, rtol=1e-9)
    np.testing.assert_allclose(kernel.lag_one, (eps[:-1] * eps[1:]).sum(0) / power, rtol=1e-9, atol=1e-12)


def delayed(eps: Array, delay: int) -> Array:
    return np.concatenate([np.zeros((delay, *eps.shape[1:])), eps])[: len(eps)]


@given(gain=gains, a=decays, delay=delays)
def test_one_pole(gain: float, a: float, delay: int) -> None:
    kernel = PspKernel.one_pole(gain, a, DT, delay=delay)
    eps = delayed(gain * a ** np.arange(LONG, dtype=float), delay)
    np.testing.assert_allclose(kernel.response(LONG), eps, rtol=1e-9, atol=1e-12)
    assert_sums_match(kernel, eps)


@given(gain=gains, a=decays, b=decays, delay=delays, equal=st.booleans())
@settings(deadline=None)
def test_two_poles(gain: float, a: float, b: float, delay: int, equal: bool) -> None:
    b = a if equal else b
    kernel = PspKernel.two_poles(gain, a, b, DT, delay=delay)
    k = np.arange(LONG)
    eps = delayed(gain * np.convolve(a**k, b**k)[:LONG], delay)
    np.testing.assert_allclose(kernel.response(LONG), eps, rtol=1e-9, atol=1e-12)
    assert_sums_match(kernel, eps)


@given(gain=gains, a=decays, b=decays, delay=delays)
def test_difference(gain: float, a: float, b: float, delay: int) -> None:
    assume(abs(a - b) > 1e-3)  # otherwise this difference, not the kernel, loses the digits
    kernel = PspKernel.difference(gain, a, b, DT, delay=delay)
    k = np.arange(LONG)
    eps = delayed(gain * (a**k - b**k), delay)
    np.testing.assert_allclose(kernel.response(LONG), eps, rtol=1e-9, atol=1e-12)
    assert_sums_match(kernel, eps)


@pytest.mark.parametrize(("a", "b"), [(0.9, 0.7), (0.7, 0.9), (0.8, 0.8), (0.9, 0.0)])
def test_textbook_sums_of_two_poles(a: float, b: float) -> None:
    g = 0.3
    kernel = PspKernel.two_poles(g, a, b, DT)
    assert kernel.eps_bar == pytest.approx(DT * g / ((1 - a) * (1 - b)))
    assert kernel.eps_hat == pytest.approx(DT * g**2 * (1 + a * b) / ((1 - a**2) * (1 - b**2) * (1 - a * b)))
    k = np.arange(50)
    shape = (k + 1) * a**k if a == b else (a ** (k + 1) - b ** (k + 1)) / (a - b)
    np.testing.assert_allclose(kernel.response(50), g * shape, rtol=1e-12)


def test_textbook_sums_of_a_difference() -> None:
    g, a, b = 0.3, 0.9, 0.7
    kernel = PspKernel.difference(g, a, b, DT)
    assert kernel.eps_bar == pytest.approx(DT * g * (1 / (1 - a) - 1 / (1 - b)))
    assert kernel.eps_hat == pytest.approx(DT * g**2 * (1 / (1 - a**2) - 2 / (1 - a * b) + 1 / (1 - b**2)))


def test_nothing_is_singular_where_the_two_time_constants_meet() -> None:
    meeting = PspKernel.two_poles(1.0, 0.9, 0.9, DT)
    for near in (0.9 - 1e-12, 0.9 + 1e-12):
        kernel = PspKernel.two_poles(1.0, 0.9, near, DT)
        for quantity in ("eps_bar", "eps_hat", "lag_one"):
            assert getattr(kernel, quantity) == pytest.approx(getattr(meeting, quantity), rel=1e-9)


@given(tau_mem=taus, tau_syn=taus, dt=steps_of_time)
@settings(deadline=None)
def test_exponential_synapse(tau_mem: float, tau_syn: float, dt: float) -> None:
    """The kernel of the paper's LIF, stepped as its neuron is."""
    kernel = PspKernel.exponential(tau_mem * dt, tau_syn * dt, dt)
    a, b = np.exp(-1 / tau_mem), np.exp(-1 / tau_syn)
    eps, u, i = np.zeros(LONG), 0.0, 0.0
    for t in range(LONG):
        eps[t] = u
        u, i = a * u + (1 - a) * i, b * i + (t == 0)
    np.testing.assert_allclose(kernel.response(LONG), eps, rtol=1e-9, atol=1e-12)
    assert_sums_match(kernel, eps)


@given(tau_mem=taus, dt=steps_of_time)
def test_delta_synapse(tau_mem: float, dt: float) -> None:
    kernel = PspKernel.delta(tau_mem * dt, dt)
    eps = delayed(np.exp(-np.arange(LONG) / tau_mem), 1)
    np.testing.assert_allclose(kernel.response(LONG), eps, rtol=1e-9, atol=1e-12)
    assert_sums_match(kernel, eps)


@given(tau_mem=taus, tau_syn=taus, dt=steps_of_time, factor=st.floats(0.1, 10.0))
def test_only_ratios_of_times_matter(tau_mem: float, tau_syn: float, dt: float, factor: float) -> None:
    kernel = PspKernel.exponential(tau_mem * dt, tau_syn * dt, dt)
    slower = PspKernel.exponential(factor * tau_mem * dt, factor * tau_syn * dt, factor * dt)
    assert slower.eps_bar == pytest.approx(factor * kernel.eps_bar)
    assert slower.eps_hat == pytest.approx(factor * kernel.eps_hat)
    assert slower.lag_one == pytest.approx(float(kernel.lag_one))


@given(tau_mem=taus, tau_syn=taus)
def test_the_mean_potential_forgets_the_membrane(tau_mem: float, tau_syn: float) -> None:
    kernel = PspKernel.exponential(tau_mem * DT, tau_syn * DT, DT)
    assert kernel.eps_bar == pytest.approx(DT / (1 - np.exp(-1 / tau_syn)))
    assert 0 < kernel.eps_hat < kernel.eps_bar
    assert 0 < kernel.lag_one < 1


@pytest.mark.parametrize("shape", [(3,), (3, 1), (2, 3, 1, 1)])
def test_time_constants_per_neuron(shape: tuple[int, ...]) -> None:
    tau_mem = np.random.default_rng(0).uniform(5e-3, 50e-3, shape)
    kernel = PspKernel.exponential(tau_mem, 10e-3, DT)
    singles = [PspKernel.exponential(tau, 10e-3, DT) for tau in tau_mem.flat]
    for quantity in ("eps_bar", "eps_hat", "lag_one"):
        values = getattr(kernel, quantity)
        assert values.shape == shape
        np.testing.assert_allclose(values.ravel(), [getattr(single, quantity) for single in singles], rtol=1e-12)
    response = kernel.response(40)
    assert response.shape == (40, *shape)
    np.testing.assert_allclose(response.reshape(40, -1).T, [single.response(40) for single in singles], rtol=1e-12)


def test_membrane_and_synapse_broadcast() -> None:
    kernel = PspKernel.exponential(np.array([[10e-3], [20e-3]]), np.array([2e-3, 5e-3, 8e-3]), DT)
    assert kernel.eps_hat.shape == (2, 3)
    assert kernel.eps_hat[1, 2] == pytest.approx(float(PspKernel.exponential(20e-3, 8e-3, DT).eps_hat))


KERNELS = {
    "exponential": PspKernel.exponential(20e-3, 10e-3, DT),
    "delta": PspKernel.delta(20e-3, DT),
    "difference": PspKernel.difference(0.7, 0.95, 0.6, DT, delay=1),
    "per neuron": PspKernel.exponential(np.array([10e-3, 20e-3, 40e-3]), np.array([10e-3, 3e-3, 5e-3]), DT),
    "sampled": PspKernel.from_response([0.0, 1.0, 0.5, -0.2], DT),
}
every_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=list(KERNELS))


@every_kernel
@pytest.mark.parametrize("steps", [3, 17, 300])
def test_over_trial_averages_a_trial_from_rest(kernel: PspKernel, steps: int) -> None:
    """White input of unit mean and variance from step 0 on: moments of step t are sums up to lag t."""
    eps = kernel.response(steps)
    mean = eps.cumsum(0).mean(0)
    variance = (eps**2).cumsum(0).mean(0)
    covariance = (eps[:-1] * eps[1:]).cumsum(0).sum(0) / steps  # of step t with t + 1
    trial = kernel.over_trial(steps)
    np.testing.assert_allclose(trial.eps_bar, mean * DT, rtol=1e-12)
    np.testing.assert_allclose(trial.eps_hat, variance * DT, rtol=1e-12)
    np.testing.assert_allclose(trial.lag_one, covariance / variance, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(trial.response(steps), eps)


@every_kernel
def test_a_long_trial_is_stationary(kernel: PspKernel) -> None:
    for quantity in ("eps_bar", "eps_hat", "lag_one"):
        short, long = (
            np.abs(getattr(kernel.over_trial(n), quantity) / getattr(kernel, quantity) - 1) for n in (3000, 6000)
        )
        assert np.all(short < 0.02)
        np.testing.assert_allclose(long, short / 2, rtol=0.02, atol=1e-12)  # what the start takes away goes as 1 / T


@pytest.mark.parametrize("factor", [-1.0, 0.3, -2.5])
@every_kernel
def test_a_scaled_kernel_has_scaled_sums_and_the_same_correlation(kernel: PspKernel, factor: float) -> None:
    for plain, scaled in (
        (kernel, kernel.scaled(factor)),
        (kernel.over_trial(50), kernel.over_trial(50).scaled(factor)),
    ):
        np.testing.assert_allclose(scaled.response(40), factor * plain.response(40), rtol=1e-12)
        np.testing.assert_allclose(scaled.eps_bar, factor * plain.eps_bar, rtol=1e-12)
        np.testing.assert_allclose(scaled.eps_hat, factor**2 * plain.eps_hat, rtol=1e-12)
        np.testing.assert_allclose(scaled.lag_one, plain.lag_one, rtol=1e-12)


def test_a_scaled_limit_is_the_limit_of_scaled_kernels() -> None:
    for tau_syn in (10e-3, None):
        limit = PspKernel.continuous(20e-3, tau_syn).scaled(-3.0).scaled(0.5)
        kernel = PspKernel.delta(20e-3, 1e-6) if tau_syn is None else PspKernel.exponential(20e-3, tau_syn, 1e-6)
        for quantity in ("eps_bar", "eps_hat"):
            assert getattr(kernel.scaled(-1.5), quantity) == pytest.approx(float(getattr(limit, quantity)), rel=1e-3)
        assert limit.lag_one == 1


@pytest.mark.parametrize(("gain", "steps"), [(1.0, 1), (0.5, 100), (-2.0, 7)])
def test_integrator(gain: float, steps: int) -> None:
    kernel = PspKernel.integrator(gain, DT, steps)
    np.testing.assert_array_equal(kernel.response(5), np.full(5, gain))
    assert kernel.eps_bar == pytest.approx(DT * gain * (steps + 1) / 2)
    assert kernel.eps_hat == pytest.approx(DT * gain**2 * (steps + 1) / 2)
    assert kernel.lag_one == pytest.approx((steps - 1) / (steps + 1))


def test_an_integrator_is_the_limit_of_a_slow_leak() -> None:
    leaky = PspKernel.one_pole(1.0, 1 - 1e-9, DT).over_trial(200)
    perfect = PspKernel.integrator(1.0, DT, 200)
    assert leaky.eps_bar == pytest.approx(float(perfect.eps_bar), rel=1e-6)
    assert leaky.eps_hat == pytest.approx(float(perfect.eps_hat), rel=1e-6)


@every_kernel
def test_sampling_a_kernel_loses_nothing(kernel: PspKernel) -> None:
    sampled = PspKernel.from_response(kernel.response(LONG), DT)
    for quantity in ("eps_bar", "eps_hat", "lag_one"):
        np.testing.assert_allclose(getattr(sampled, quantity), getattr(kernel, quantity), rtol=1e-9, atol=1e-15)
    np.testing.assert_array_equal(sampled.response(20), kernel.response(20))
    np.testing.assert_allclose(sampled.over_trial(50).eps_hat, kernel.over_trial(50).eps_hat, rtol=1e-12)


def test_a_sampled_kernel_is_zero_after_its_end() -> None:
    np.testing.assert_array_equal(PspKernel.from_response([1.0, 2.0], DT).response(4), [1.0, 2.0, 0.0, 0.0])
    assert PspKernel.from_response([3.0], DT).lag_one == 0


@pytest.mark.parametrize("quantity", ["eps_bar", "eps_hat"])
@pytest.mark.parametrize("tau_syn", [10e-3, 20e-3, 3e-3, None])
def test_the_continuous_limit_is_reached_to_first_order(quantity: str, tau_syn: float | None) -> None:
    limit = getattr(PspKernel.continuous(20e-3, tau_syn), quantity)

    def error(dt: float) -> float:
        kernel = PspKernel.delta(20e-3, dt) if tau_syn is None else PspKernel.exponential(20e-3, tau_syn, dt)
        return float(getattr(kernel, quantity) / limit - 1)

    assert 0 < error(1e-5) < 0.01
    assert error(2e-5) / error(1e-5) == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize(("dt", "excess"), [(0.5e-3, 0.05), (1e-3, 0.11), (2e-3, 0.22), (4e-3, 0.49), (10e-3, 1.68)])
def test_the_time_step_matters_as_much_as_we_say(dt: float, excess: float) -> None:
    ratio = PspKernel.exponential(20e-3, 10e-3, dt).eps_hat / PspKernel.continuous(20e-3, 10e-3).eps_hat
    assert ratio - 1 == pytest.approx(excess, abs=0.006)


def test_continuous_limits() -> None:
    exponential, delta = PspKernel.continuous(20e-3, 10e-3), PspKernel.continuous(20e-3, None)
    assert exponential.eps_bar == 10e-3
    assert exponential.eps_hat == pytest.approx(10e-3**2 / (2 * 30e-3))
    assert delta.eps_bar == 20e-3
    assert delta.eps_hat == 10e-3
    assert exponential.lag_one == delta.lag_one == 1


REFUSALS: dict[str, tuple[Callable[[], object], str]] = {
    "dt zero": (lambda: PspKernel.exponential(20e-3, 10e-3, 0.0), "time step dt .* got 0"),
    "dt infinite": (lambda: PspKernel.delta(20e-3, float("inf")), "time step dt"),
    "dt nan": (lambda: PspKernel.one_pole(1.0, 0.9, float("nan")), "time step dt"),
    "dt of samples": (lambda: PspKernel.from_response([1.0], -1e-3), "time step dt"),
    "tau_mem negative": (lambda: PspKernel.exponential(-1.0, 10e-3, DT), "tau_mem .* got -1"),
    "tau_syn zero": (lambda: PspKernel.exponential(20e-3, [10e-3, 0.0], DT), "tau_syn"),
    "tau_mem nan": (lambda: PspKernel.delta(float("nan"), DT), "tau_mem .* nan"),
    "tau infinite": (lambda: decay(float("inf"), DT), "tau .* inf"),
    "continuous tau": (lambda: PspKernel.continuous(20e-3, 0.0), "time constant .* got 0"),
    "continuous tau_mem": (lambda: PspKernel.continuous(-1.0, None), "time constant .* got -1"),
    "a of 1": (lambda: PspKernel.one_pole(1.0, 1.0, DT), "decay a .* PspKernel.integrator"),
    "b above 1": (lambda: PspKernel.two_poles(1.0, 0.9, 1.1, DT), r"decay b .* 1\.1"),
    "a negative": (lambda: PspKernel.difference(1.0, -0.1, 0.5, DT), "decay a .* -0.1"),
    "a nan": (lambda: PspKernel.one_pole(1.0, float("nan"), DT), "decay a"),
    "gain nan": (lambda: PspKernel.one_pole(float("nan"), 0.9, DT), "gain"),
    "gain infinite": (lambda: PspKernel.integrator(float("inf"), DT, 10), "gain"),
    "delay negative": (lambda: PspKernel.one_pole(1.0, 0.9, DT, delay=-1), "delay .* -1"),
    "no samples": (lambda: PspKernel.from_response([], DT), "at least one sample"),
    "a number": (lambda: PspKernel.from_response(1.0, DT), "at least one sample"),
    "nan sample": (lambda: PspKernel.from_response([1.0, float("nan")], DT), "finite"),
    "zero samples": (lambda: PspKernel.from_response([0.0, 0.0], DT), "not all zero"),
    "no trial": (lambda: PspKernel.delta(20e-3, DT).over_trial(0).eps_bar, "trial of 0 steps"),
    "negative trial": (lambda: PspKernel.delta(20e-3, DT).over_trial(-2).lag_one, "trial of -2 steps"),
    "trial within the delay": (lambda: PspKernel.exponential(20e-3, 10e-3, DT).over_trial(2).eps_hat, "2 steps"),
    "trial of an integrator": (lambda: PspKernel.integrator(1.0, DT, 0).eps_hat, "trial of 0 steps"),
    "scaled by zero": (lambda: PspKernel.delta(20e-3, DT).scaled(0.0), "other than 0, got 0"),
    "scaled by nan": (lambda: PspKernel.from_response([1.0], DT).scaled(float("nan")), "finite .* nan"),
    "limit scaled by infinity": (lambda: PspKernel.continuous(20e-3, None).scaled(float("inf")), "finite .* inf"),
    "continuous response": (lambda: PspKernel.continuous(20e-3, 10e-3).response(10), "no time step"),
    "continuous trial": (lambda: PspKernel.continuous(20e-3, 10e-3).over_trial(10), "no time step"),
}


@pytest.mark.parametrize(("call", "message"), REFUSALS.values(), ids=list(REFUSALS))
def test_refusals(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_the_theory_works_without_torch() -> None:
    code = """
import sys
sys.modules["torch"] = None
from fluctua.theory import Afferent, Drive, PspKernel, Target, crossing_rate, membrane_moments, solve
import fluctua
assert fluctua.PspKernel is PspKernel
kernel = PspKernel.exponential(20e-3, 10e-3, dt=2e-3)
drive = Drive.poisson(700, 15.8, kernel)
(law,) = solve(Target(rate=5.0), 1.0, kernel, [Afferent(drive)])
xi = membrane_moments([drive], [law.mean], [law.mean_square]).xi(1.0)
assert abs(crossing_rate(xi, kernel) - 5.0) < 1e-6
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- the updates of loops written by hand: what one of them shows after a single input at t = 0 ---


def by_hand(update: str, alpha: float, beta: float, steps: int) -> list[float]:
    v = i = 0.0
    shown = []
    for t in range(steps):
        x, before = float(t == 0), v
        match update:
            case "leaky" | "eprop":
                v = beta * v + x
            case "leaky-mean":
                v = beta * v + (1 - beta) * x
            case "synaptic":
                i = alpha * i + x
                v = beta * v + i
            case "synaptic-mean":
                i = alpha * i + x
                v = beta * v + (1 - beta) * i
            case "spytorch":
                i, v = alpha * i + x, beta * v + i
            case "stork":
                i, v = alpha * i + x, beta * v + (1 - beta) * i
        shown.append(before if update in ("eprop", "spytorch", "stork") else v)
    return shown


UPDATES = ["leaky", "leaky-mean", "synaptic", "synaptic-mean", "eprop", "spytorch", "stork"]


@pytest.mark.parametrize("update", UPDATES)
def test_a_common_update_by_name_is_the_loop_that_it_stands_for(update: str) -> None:
    alpha, beta = (0.8, 0.9) if update in ("synaptic", "synaptic-mean", "spytorch", "stork") else (0.0, 0.9)
    kernel = PspKernel.by_update(update, beta=beta, alpha=alpha)
    np.testing.assert_allclose(kernel.response(40), by_hand(update, alpha, beta, 40), rtol=1e-12, atol=1e-15)
    assert kernel.dt == 1e-3
    assert PspKernel.by_update(update, beta=beta, dt=2e-3).dt == 2e-3
    np.testing.assert_allclose(
        PspKernel.by_update(update, beta=beta).response(9), by_hand(update, 0.0, beta, 9), rtol=1e-12, atol=1e-15
    )


def test_an_update_of_no_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=f"unknown update 'lif': choose one of {', '.join(UPDATES)}$"):
        PspKernel.by_update("lif", beta=0.9)


@pytest.mark.parametrize("value", ["1", b"1", True, None, [1.0, 2.0], 1j, object()])
def test_what_is_no_number_lies_in_no_range(value: object) -> None:
    assert np.isnan(number(value))


def test_numbers_of_any_kind_are_taken() -> None:
    assert [number(one) for one in (2, 2.0, np.float32(2), np.array(2))] == [2.0] * 4


@pytest.mark.parametrize("delay", [0, 2])
def test_a_perfect_integrator_holds_what_it_gets_from_its_delay_on(delay: int) -> None:
    eps = PspKernel.integrator(0.5, DT, steps=8, delay=delay).response(8)
    np.testing.assert_array_equal(eps, delayed(np.full(8, 0.5), delay))


def test_the_limit_has_no_time_step() -> None:
    assert PspKernel.continuous(20e-3, 10e-3).dt == 0.0


def test_small_integers_are_numbers_like_others() -> None:
    """Which would overflow if they were squared as they come."""
    values = np.array([100, 100, 50], np.int8)
    kernel, same = (PspKernel.from_response(v, DT) for v in (values, values.astype(float)))
    assert kernel.eps_hat == same.eps_hat
    assert kernel.lag_one == same.lag_one
