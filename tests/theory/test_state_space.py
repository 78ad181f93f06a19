"""Laws of kernels in state space: their closed forms are the sums over their responses, written out step by step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fluctua.theory import PspKernel
from fluctua.theory.state_space import StateSpaceKernel

Array = NDArray[np.float64]

DT = 2e-3
LONG = 1500  # steps after which the slowest system drawn here has died away
seeds = st.integers(0, 10_000)


def drawn(seed: int, neurons: int, readout: bool, direct: bool) -> StateSpaceKernel:
    """A stable system of three states, not symmetric and not triangular."""
    rng = np.random.default_rng(seed)
    transition = rng.standard_normal((neurons, 3, 3))
    transition *= 0.95 / np.abs(np.linalg.eigvals(transition)).max(-1)[:, None, None]
    jump, first = rng.standard_normal((neurons, 3, 1)), np.eye(4)[:1].repeat(neurons, 0)
    if readout:
        first[:, :3] = rng.standard_normal((neurons, 3))
    if direct:
        first[:, 3] = rng.standard_normal(neurons)
    return StateSpaceKernel(dt=DT, matrix=np.concatenate([first[:, None], np.concatenate([transition, jump], -1)], -2))


def simulated(kernel: StateSpaceKernel, x: Array) -> Array:
    """`u` over time for an input `[T]`, by the two equations, neuron for neuron."""
    readout, direct, transitions, jumps = kernel.parts
    u = np.zeros((len(x), len(jumps)))
    for n, (transition, jump) in enumerate(zip(transitions, jumps, strict=True)):
        s: Array = np.zeros(3)
        for t, now in enumerate(x):
            u[t, n] = readout[n] @ s + direct[n] * now
            s = transition @ s + jump * now
    return u


@given(seed=seeds, readout=st.booleans(), direct=st.booleans())
def test_the_response_and_its_sums_are_those_of_the_equations(seed: int, readout: bool, direct: bool) -> None:
    kernel = drawn(seed, 2, readout, direct)
    impulse = np.zeros(LONG)
    impulse[0] = 1.0
    eps = simulated(kernel, impulse)
    np.testing.assert_allclose(kernel.response(LONG), eps, rtol=1e-9, atol=1e-12)
    assert kernel.response(0).shape == (0, 2)
    power = (eps**2).sum(0)
    np.testing.assert_allclose(kernel.eps_bar, eps.sum(0) * DT, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(kernel.eps_hat, power * DT, rtol=1e-7)
    np.testing.assert_allclose(kernel.lag_one, (eps[:-1] * eps[1:]).sum(0) / power, rtol=1e-7, atol=1e-9)


@given(seed=seeds, readout=st.booleans(), direct=st.booleans(), factor=st.sampled_from([-2.0, 0.5, 3.0]))
def test_scaling_scales_the_response_and_the_matrix_gives_the_kernel_back(
    seed: int, readout: bool, direct: bool, factor: float
) -> None:
    kernel = drawn(seed, 2, readout, direct)
    expected = factor * kernel.response(30)
    np.testing.assert_allclose(kernel.scaled(factor).response(30), expected, rtol=1e-12, atol=1e-12)
    matrix, delay = kernel.scaled(factor).system()
    assert delay == 0
    back = StateSpaceKernel(dt=DT, matrix=matrix)
    np.testing.assert_allclose(back.response(30), expected, rtol=1e-12, atol=1e-12)
    assert back.dt == DT


KERNELS = {
    "two poles": PspKernel.two_poles(1.5, 0.9, 0.6, DT, delay=3),
    "one pole": PspKernel.one_pole(2.0, 0.8, DT, delay=1),
    "neurons of two poles": PspKernel.exponential(np.array([10e-3, 20e-3, 30e-3]), 5e-3, DT),
    "neurons of one pole": PspKernel.delta(np.array([10e-3, 20e-3, 30e-3]), DT),
}


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_is_its_state_space_delayed(name: str) -> None:
    kernel = KERNELS[name]
    system = kernel.system()
    assert system is not None
    matrix, after = system
    eps = StateSpaceKernel(dt=DT, matrix=matrix).response(50 - after)
    expected = np.concatenate([np.zeros((after, *eps.shape[1:])), eps])
    np.testing.assert_allclose(kernel.response(50), expected, rtol=1e-12, atol=1e-15)


def test_one_neuron_needs_no_axis_of_neurons() -> None:
    several = drawn(0, 2, readout=True, direct=True)
    matrix, _ = several.system()
    one = StateSpaceKernel(dt=DT, matrix=matrix[0])
    for name in ("eps_bar", "eps_hat", "lag_one"):
        assert getattr(one, name) == pytest.approx(getattr(several, name)[0], rel=1e-9)
