"""Neurons with an excitatory and an inhibitory current against their equations written out in NumPy."""

import logging
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fluctua.network.adapters.registry import specs_of
from fluctua.network.facts import Neuron
from fluctua.neurons import LIF, ExcInhLIF
from fluctua.neurons.exc_inh import ExcInhState
from fluctua.neurons.steps import Reset
from fluctua.timeloop import engine

Array = NDArray[np.float64]

DT = 2e-3
RESETS: list[Reset] = ["zero", "subtract"]


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def neuron(**options: Any) -> ExcInhLIF:
    """A population of three whose neurons all differ."""
    constants: dict[str, Any] = {
        "tau_mem": torch.tensor([20e-3, 10e-3, 15e-3]),
        "tau_exc": torch.tensor([10e-3, 4e-3, 8e-3]),
        "tau_inh": torch.tensor([20e-3, 15e-3, 30e-3]),
        "threshold": torch.tensor([0.5, 1.0, 0.8]),
    }
    return ExcInhLIF(dt=DT, **(constants | options))


def currents(steps: int = 150, batch: int = 4) -> tuple[Tensor, Tensor]:
    """Input through non-negative weights; excitation prevails."""
    draws = torch.rand(2, steps, batch, 3, generator=torch.Generator().manual_seed(0))
    return 2 * draws[0].square(), 0.4 * draws[1].square()


def truth(n: ExcInhLIF, exc: Array, inh: Array) -> tuple[Array, Array]:
    """Spikes and potential, by the equations of the docstring."""
    a, b_e, b_i = (np.exp(-DT / tau.numpy()) for tau in (n.tau_mem, n.tau_exc, n.tau_inh))
    theta = n.threshold.numpy()
    u, i_e, i_i = (np.zeros_like(exc[0]) for _ in range(3))
    outs, us = [], []
    for x_e, x_i in zip(exc, inh, strict=True):
        out = (u > theta).astype(float)
        outs.append(out)
        us.append(u)
        v = a * u + (1 - a) * (i_e - i_i)
        u = v * (1 - out) if n.reset == "zero" else v - theta * out
        i_e, i_i = b_e * i_e + x_e, b_i * i_i + x_i
    return np.stack(outs), np.stack(us)


@pytest.mark.parametrize(("name", "reset"), list(product(["cpu", "reference"], RESETS)))
def test_follows_the_equations(name: str, reset: Reset) -> None:
    n, (exc, inh) = neuron(reset=reset), currents()
    with engine(name):
        result = n.simulate(exc, inh)
    spikes, potential = truth(n, exc.numpy(), inh.numpy())
    np.testing.assert_array_equal(result.output, spikes)
    np.testing.assert_allclose(result.potential, potential, rtol=0, atol=1e-12)
    assert 0.01 < spikes.mean((0, 1)).min() < spikes.mean((0, 1)).max() < 0.4


def test_without_inhibition_it_is_a_lif() -> None:
    n, (exc, _) = neuron(), currents()
    lif = LIF(n.tau_mem, n.tau_exc, DT, threshold=n.threshold)
    assert torch.equal(n(exc), lif(exc))
    assert torch.equal(n(exc, torch.zeros_like(exc)), n(exc))
    assert n(exc).mean() > 0.05


def test_inhibition_silences() -> None:
    n, (exc, inh) = neuron(), currents()
    counts = [float(n(exc, strength * inh).sum()) for strength in (0.0, 1.0, 2.0, 20.0)]
    assert counts[0] > counts[1] > counts[2] > counts[3] == 0


def test_pieces_make_the_whole() -> None:
    n, (exc, inh) = neuron(), currents()
    whole, first = n.simulate(exc, inh), n.simulate(exc[:40], inh[:40])
    second = n.simulate(exc[40:], inh[40:], first.state)
    assert torch.equal(torch.cat([first.output, second.output]), whole.output)
    for mine, theirs in zip(second.state, whole.state, strict=True):
        assert torch.equal(mine, theirs)


def test_what_inhibits_dies_away_when_no_more_comes() -> None:
    n, (exc, inh) = neuron(), currents()
    silenced = n.simulate(exc[:50], 20 * inh[:50]).state
    later = n.simulate(torch.zeros(10, 4, 3), None, silenced).state
    torch.testing.assert_close(later.inhibition, silenced.inhibition * torch.exp(-10 * DT / n.tau_inh))


# -- gradients -------------------------------------------------------------------------------------------------


def gradients(name: str, n: ExcInhLIF) -> list[Tensor]:
    """Of a loss on all that is differentiable, with respect to both currents, the state and the constants."""
    exc, inh = (x.requires_grad_() for x in currents())
    draws = torch.randn(4, *exc.shape, generator=torch.Generator().manual_seed(1))
    state = ExcInhState(*((0.3 * draw[0]).requires_grad_() for draw in draws[1:]))
    with engine(name):
        result = n.simulate(exc, inh, state)
    loss = (result.output * draws[0]).sum() + sum(part.square().sum() for part in result.state)
    return list(torch.autograd.grad(loss, [exc, inh, *state, *n.parameters()]))


@pytest.mark.parametrize(("reset", "differentiable"), list(product(RESETS, [False, True])))
def test_the_fused_engine_serves_it_with_the_gradients_of_the_reference(
    reset: Reset, differentiable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    n = neuron(reset=reset, differentiable_reset=differentiable, learn_tau=True)
    with caplog.at_level(logging.INFO, "fluctua"):
        ours = gradients("cpu", n)
    assert "falls back" not in caplog.text
    for mine, true in zip(ours, gradients("reference", n), strict=True):
        torch.testing.assert_close(mine, true, rtol=0, atol=1e-9 * float(true.abs().max()))
        assert true.abs().max() > 0
    assert len(ours) == 2 + 3 + 3


class Simulated(nn.Module):
    """A neuron whose call returns its final state."""

    def __init__(self, inner: ExcInhLIF) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, exc: Tensor, inh: Tensor, state: ExcInhState) -> ExcInhState:
        return self.inner.simulate(exc, inh, state).state  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_the_free_neuron_passes_gradcheck(name: str) -> None:
    model = Simulated(neuron(threshold=1e6, learn_tau=True))
    names = [name for name, _ in model.named_parameters()]

    def end(exc: Tensor, inh: Tensor, u: Tensor, i_e: Tensor, i_i: Tensor, *taus: Tensor) -> tuple[Tensor, ...]:
        arguments = (exc, inh, ExcInhState(u, i_e, i_i))
        return tuple(torch.func.functional_call(model, dict(zip(names, taus, strict=True)), arguments))

    inputs = [x.requires_grad_() for x in (*currents(6, 2), *torch.rand(3, 2, 3), *model.parameters())]
    with engine(name):
        assert torch.autograd.gradcheck(end, [x.detach().requires_grad_() for x in inputs])


# -- facts -----------------------------------------------------------------------------------------------------


def facts(n: ExcInhLIF) -> Neuron:
    return specs_of(n)[""].neuron


def test_each_port_has_the_impulse_response_as_its_kernel() -> None:
    n = neuron(threshold=1e6)
    impulse = torch.zeros(200, 1, 3)
    impulse[0] = 1.0
    nothing = torch.zeros_like(impulse)
    neuron_facts = facts(n)
    assert len(neuron_facts.kernels) == 2
    for kernel, (exc, inh) in zip(neuron_facts.kernels, [(impulse, nothing), (nothing, impulse)], strict=True):
        np.testing.assert_allclose(kernel.response(200), n.simulate(exc, inh).potential[:, 0], rtol=1e-9, atol=1e-14)
    assert neuron_facts.kernel is neuron_facts.kernels[0]
    assert (neuron_facts.kernels[0].eps_bar > 0).all()
    assert (neuron_facts.kernels[1].eps_bar < 0).all()
    assert (neuron_facts.kernels[1].eps_hat > 0).all()
    assert neuron_facts.threshold == 1e6
    assert neuron_facts.rest == 0


def test_the_free_potential_is_the_sum_over_the_ports() -> None:
    n, (exc, inh) = neuron(threshold=1e6), currents(80, 1)
    kernels = facts(n).kernels
    ports = [(kernel.response(80), x[:, 0].numpy()) for kernel, x in zip(kernels, (exc, inh), strict=True)]
    potential = n.simulate(exc, inh).potential[:, 0]
    for j in range(3):
        filtered = sum(np.convolve(eps[:, j], x[:, j])[:80] for eps, x in ports)
        np.testing.assert_allclose(potential[:, j], filtered, rtol=1e-9, atol=1e-12)


# -- mistakes --------------------------------------------------------------------------------------------------

REFUSALS: dict[str, tuple[Callable[[], object], str]] = {
    "tau_exc": (lambda: ExcInhLIF(tau_exc=-1.0), "tau_exc must be .* got -1"),
    "tau_inh": (lambda: ExcInhLIF(tau_inh=float("inf")), "tau_inh must be .* got inf"),
    "tau_mem": (lambda: ExcInhLIF(tau_mem=torch.tensor([1.0, 0.0])), "tau_mem must be"),
    "dt": (lambda: ExcInhLIF(dt=0.0), "time step dt .* got 0"),
    "threshold": (lambda: ExcInhLIF(threshold=-1.0), "threshold"),
    "reset": (lambda: ExcInhLIF(reset="hard"), "unknown reset 'hard'"),  # type: ignore[arg-type]
    "shapes": (
        lambda: ExcInhLIF()(torch.zeros(5, 2, 3), torch.zeros(5, 2, 4)),
        r"one shape, got \[\(5, 2, 3\), \(5, 2, 4\)\]",
    ),
    "no batch": (lambda: ExcInhLIF()(torch.zeros(5)), r"\[T, B, \.\.\.\]"),
    "state": (
        lambda: ExcInhLIF().simulate(*currents(), ExcInhState(*torch.zeros(3, 4, 2))),
        r"one step of the current, \(4, 3\)",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSALS.values(), ids=list(REFUSALS))
def test_refusals(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_it_prints_its_constants() -> None:
    for part in ("tau_mem=0.01..0.02", "tau_exc=0.004..0.01", "tau_inh=0.015..0.03", "dt=0.002", "threshold=0.5..1"):
        assert part in repr(neuron())
