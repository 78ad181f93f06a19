"""The free potential against plain loops, against neurons that cannot spike, and against its own transpose."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from fluctua.methods.balance import potential_adjoint
from fluctua.network.facts import free_potential
from fluctua.neurons import LI, LIF
from fluctua.theory import PspKernel
from fluctua.theory.state_space import StateSpaceKernel

DT = 2e-3
STEPS, BATCH, N = 60, 3, 4
TAUS_MEM, TAUS_SYN = np.array([5e-3, 12e-3, 20e-3, 80e-3]), np.array([3e-3, 12e-3, 10e-3, 7e-3])
CHANNEL = (N, 1, 1)  # time constants by channel of a feature map

KERNELS: dict[str, PspKernel] = {
    "exponential": PspKernel.exponential(20e-3, 10e-3, DT),
    "equal time constants": PspKernel.exponential(10e-3, 10e-3, DT),
    "delta": PspKernel.delta(20e-3, DT),
    "one pole at once": PspKernel.one_pole(0.3, 0.8, DT),
    "two poles at once": PspKernel.two_poles(-0.5, 0.9, 0.6, DT),
    "difference": PspKernel.difference(2.0, 0.9, 0.7, DT, delay=1),
    "integrator": PspKernel.integrator(0.1, DT, STEPS, delay=3),
    "longer delay than trial": PspKernel.one_pole(1.0, 0.5, DT, delay=STEPS + 1),
    "sampled": PspKernel.from_response([0.0, 0.5, 1.0, -0.3], DT),
    "sampled, longer than the trial": PspKernel.from_response(0.95 ** np.arange(2 * STEPS), DT),
    "sampled, by neuron": PspKernel.from_response(np.sin(np.arange(8.0 * N)).reshape(8, N), DT),
    "by neuron": PspKernel.exponential(TAUS_MEM, TAUS_SYN, DT),
    "delta, by neuron": PspKernel.delta(TAUS_MEM, DT),
    "some with a synapse, some without": PspKernel.two_poles(1.0, np.full(N, 0.9), np.array([0, 0.5, 0, 0.9]), DT),
    "without memory": StateSpaceKernel(dt=DT, matrix=np.array([[0.7]])),
    "without memory, by neuron": StateSpaceKernel(dt=DT, matrix=TAUS_MEM.reshape(N, 1, 1)),
    "by channel": PspKernel.exponential(TAUS_MEM.reshape(CHANNEL), 10e-3, DT),
    "sampled, by channel": PspKernel.from_response(np.cos(np.arange(8.0 * N)).reshape(8, *CHANNEL), DT),
}


def random_current(name: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    neurons = (N, 2, 3) if "channel" in name else (N,)
    return torch.randn(STEPS, BATCH, *neurons, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def convolution(current: Tensor, kernel: PspKernel) -> Tensor:
    """`U[t] = sum_k eps[k] I[t - k]`, term by term."""
    u = torch.zeros_like(current)
    for k, eps in enumerate(torch.as_tensor(kernel.response(len(current)))):
        u[k:] += eps * current[: len(current) - k]
    return u


@pytest.mark.parametrize("name", KERNELS)
def test_is_the_convolution_with_the_kernel(name: str) -> None:
    current = random_current(name)
    u = free_potential(current, KERNELS[name])
    torch.testing.assert_close(u, convolution(current, KERNELS[name]), rtol=1e-11, atol=1e-11)
    assert u.shape == current.shape
    assert "delay" in name or u.abs().max() > 0.1


@pytest.mark.parametrize("name", KERNELS)
def test_the_adjoint_is_the_transpose(name: str) -> None:
    x, y = random_current(name, seed=1), random_current(name, seed=2)
    there = (y * free_potential(x, KERNELS[name])).sum()
    back = (potential_adjoint(y, KERNELS[name]) * x).sum()
    torch.testing.assert_close(there, back, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", KERNELS)
def test_single_precision_is_enough(name: str) -> None:
    current = random_current(name)
    exact = free_potential(current, KERNELS[name])
    u = free_potential(current.float(), KERNELS[name])
    assert u.dtype == torch.float32
    # 60 steps of rounding, each by at most 6e-8 of values of about the largest.
    torch.testing.assert_close(u.double(), exact, rtol=0, atol=60 * 6e-8 * float(exact.abs().max().clamp_min(1)))


def leaky(current: list[float], tau_mem: float, tau_syn: float | None) -> list[float]:
    """The equations of the paper for one neuron without threshold."""
    a, b = math.exp(-DT / tau_mem), 0.0 if tau_syn is None else math.exp(-DT / tau_syn)
    u, i, us = 0.0, 0.0, []
    for x in current:
        us.append(u)
        if tau_syn is None:
            u = a * u + x
        else:
            u, i = a * u + (1 - a) * i, b * i + x
    return us


@pytest.mark.parametrize("delta", [False, True])
def test_follows_the_equations_neuron_by_neuron(delta: bool) -> None:
    current = random_current("by neuron")
    kernel = PspKernel.delta(TAUS_MEM, DT) if delta else PspKernel.exponential(TAUS_MEM, TAUS_SYN, DT)
    u = free_potential(current, kernel)
    for n in range(N):
        for sample in range(BATCH):
            expected = leaky(current[:, sample, n].tolist(), TAUS_MEM[n], None if delta else TAUS_SYN[n])
            np.testing.assert_allclose(u[:, sample, n], expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("tau_syn", [10e-3, 20e-3, None])
@pytest.mark.parametrize("neuron", [LI, lambda *taus: LIF(*taus, threshold=1e9)], ids=["LI", "LIF out of reach"])
def test_is_the_potential_of_a_neuron_that_does_not_spike(
    neuron: Callable[..., LI | LIF], tau_syn: float | None
) -> None:
    taus = torch.linspace(8e-3, 40e-3, N, dtype=torch.float64)
    current = random_current("by neuron")
    module = neuron(taus, tau_syn, DT).double()
    kernel = PspKernel.delta(taus, DT) if tau_syn is None else PspKernel.exponential(taus, tau_syn, DT)
    # The module keeps its constants in float32.
    torch.testing.assert_close(free_potential(current, kernel), module.simulate(current).potential, rtol=0, atol=1e-6)


def test_starts_from_rest_and_sees_no_future() -> None:
    current = random_current("exponential")
    for kernel, delay in ((KERNELS["exponential"], 2), (KERNELS["delta"], 1), (KERNELS["one pole at once"], 0)):
        u = free_potential(current, kernel)
        assert not u[:delay].any()
        assert u[delay].any()
        later = current.clone()
        later[30:] = 0
        torch.testing.assert_close(free_potential(later, kernel)[: 30 + delay], u[: 30 + delay], rtol=0, atol=0)


def test_adds_up() -> None:
    kernel = KERNELS["exponential"]
    x, y = random_current("", seed=1), random_current("", seed=2)
    together = free_potential(2 * x - y, kernel)
    torch.testing.assert_close(together, 2 * free_potential(x, kernel) - free_potential(y, kernel))


@pytest.mark.parametrize("name", ["exponential", "sampled"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_integrated_in_single_precision(name: str, dtype: torch.dtype) -> None:
    current = random_current(name).to(dtype)
    u = free_potential(current, KERNELS[name])
    torch.testing.assert_close(u, free_potential(current.float(), KERNELS[name]), rtol=0, atol=0)


def test_leaves_the_current_alone_and_carries_no_gradient() -> None:
    for name in ("exponential", "sampled"):
        current = random_current(name).requires_grad_()
        before = current.detach().clone()
        assert not free_potential(current, KERNELS[name]).requires_grad
        assert not potential_adjoint(current, KERNELS[name]).requires_grad
        assert torch.equal(current.detach(), before)


def test_the_continuous_limit_has_no_potential() -> None:
    with pytest.raises(ValueError, match="no time step to sample"):
        free_potential(random_current(""), PspKernel.continuous(20e-3, 10e-3))
