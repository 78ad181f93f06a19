"""Neurons that adapt against their equations written out in NumPy, and the kernel of an adaptation current."""

import logging
import math
import re
from collections.abc import Callable
from itertools import product
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluctua.network.adapters.registry import specs_of
from fluctua.network.facts import Neuron
from fluctua.neurons import LIF, AdaptiveLIF, ArcTan, SuperSpike
from fluctua.neurons.leaky import State
from fluctua.neurons.steps import Reset
from fluctua.timeloop import engine

Array = NDArray[np.float64]
Kind = Literal["threshold", "current"]

DT = 2e-3
KINDS: list[Kind] = ["threshold", "current"]
RESETS: list[Reset] = ["zero", "subtract"]


@pytest.fixture(autouse=True)
def double_precision() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def neuron(kind: Kind = "threshold", synapse: bool = True, reset: Reset = "zero", **options: Any) -> AdaptiveLIF:
    """A population of three whose neurons all differ."""
    constants: dict[str, Any] = {
        "tau_adapt": torch.tensor([20e-3, 50e-3, 200e-3]),
        "beta": torch.tensor([3.0, 10.0, 30.0]),
        "coupling": torch.tensor([0.0, 1.0, -0.5]) if kind == "current" else 0.0,
        "threshold": torch.tensor([0.5, 1.0, 0.8]),
    }
    tau_syn = torch.tensor([10e-3, 4e-3, 8e-3]) if synapse else None
    return AdaptiveLIF(
        torch.tensor([20e-3, 10e-3, 15e-3]), tau_syn, DT, kind=kind, reset=reset, **(constants | options)
    )


def drawn(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def input_current(synapse: bool = True, steps: int = 150) -> Tensor:
    return 0.3 + drawn(steps, 4, 3, scale=1.0 if synapse else 0.3)


def truth(n: AdaptiveLIF, x: Array) -> tuple[Array, Array, Array]:
    """Spikes, potential and final adaptation, by the equations of the docstring."""
    a, rho = np.exp(-DT / n.tau_mem.numpy()), np.exp(-DT / n.tau_adapt.numpy())
    b = None if n.tau_syn is None else np.exp(-DT / n.tau_syn.numpy())
    theta, beta = n.threshold.numpy(), n.beta.numpy()
    u, i, w = np.zeros_like(x[0]), np.zeros_like(x[0]), np.zeros_like(x[0])
    outs, us = [], []
    for x_t in x:
        theta_t = theta + w if n.kind == "threshold" else theta
        out = (u > theta_t).astype(float)
        outs.append(out)
        us.append(u)
        v = a * u + ((1 - a) * i if b is not None else x_t)
        if n.kind == "threshold":
            w = rho * w + (1 - rho) * beta * out
        else:
            assert n.coupling is not None
            w = rho * w + (1 - rho) * (n.coupling.numpy() * u + beta * out)
            v = v - (1 - a) * w
        u = v * (1 - out) if n.reset == "zero" else v - theta_t * out
        if b is not None:
            i = b * i + x_t
    return np.stack(outs), np.stack(us), w


@pytest.mark.parametrize(("kind", "synapse", "reset"), list(product(KINDS, [True, False], RESETS)))
def test_follows_the_equations(kind: Kind, synapse: bool, reset: Reset) -> None:
    n, x = neuron(kind, synapse, reset), input_current(synapse)
    result = n.simulate(x)
    spikes, potential, adaptation = truth(n, x.numpy())
    np.testing.assert_array_equal(result.output, spikes)
    np.testing.assert_allclose(result.potential, potential, rtol=0, atol=1e-12)
    assert result.state.adaptation is not None
    np.testing.assert_allclose(result.state.adaptation, adaptation, rtol=0, atol=1e-12)
    assert 0.01 < spikes.mean(axis=(0, 1)).min() < spikes.mean(axis=(0, 1)).max() < 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_without_strength_it_is_a_lif(kind: Kind) -> None:
    n, x = neuron(kind, beta=0.0, coupling=0.0), input_current()
    lif = LIF(n.tau_mem, n.tau_syn, DT, threshold=n.threshold)
    assert torch.equal(n(x), lif(x))
    assert n(x).mean() > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_the_stronger_the_adaptation_the_fewer_the_spikes(kind: Kind) -> None:
    x = input_current()
    counts = [float(neuron(kind, beta=beta, coupling=0.0)(x).sum()) for beta in (0.0, 5.0, 50.0)]
    assert counts[0] > 1.2 * counts[1] > 1.2**2 * counts[2] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_regular_firing_settles_at_strength_times_rate(kind: Kind) -> None:
    n = neuron(kind, beta=0.5, coupling=0.0, tau_adapt=100e-3)
    result = n.simulate(torch.full((600, 1, 3), 3.0))
    rate = result.output[300:].mean(0) / DT
    adaptation = result.state.adaptation
    assert adaptation is not None
    # Between two spikes w decays by no more than exp(-interval / tau) below its mean, or lies as much above.
    interval = float((1 / rate).max())
    torch.testing.assert_close(adaptation, 0.5 * rate * DT, rtol=interval / 100e-3, atol=0)
    assert interval < 20e-3


@pytest.mark.parametrize(("kind", "reset"), list(product(KINDS, RESETS)))
def test_pieces_make_the_whole(kind: Kind, reset: Reset) -> None:
    n, x = neuron(kind, reset=reset), input_current()
    whole = n.simulate(x)
    first = n.simulate(x[:40])
    second = n.simulate(x[40:], first.state)
    assert torch.equal(torch.cat([first.output, second.output]), whole.output)
    for mine, theirs in zip(second.state, whole.state, strict=True):
        assert torch.equal(mine, theirs)  # type: ignore[arg-type]


# -- gradients -------------------------------------------------------------------------------------------------


def learning(kind: Kind, synapse: bool, **options: Any) -> AdaptiveLIF:
    return neuron(kind, synapse, learn_tau=True, learn_adaptation=True, **options)


def soft_spike(x: Tensor, beta: float = 20.0) -> Tensor:
    """A step in forward, and in backward the derivative of its soft twin: SuperSpike's."""
    soft = x / (1 + beta * x.abs())
    return (x > 0).to(x.dtype) - soft.detach() + soft


def loss_by_autograd(n: AdaptiveLIF, x: Tensor, weights: Tensor) -> Tensor:
    """A loss on the spikes, with the equations written out and torch's own derivatives."""
    a, rho = torch.exp(-DT / n.tau_mem), torch.exp(-DT / n.tau_adapt)
    b = None if n.tau_syn is None else torch.exp(-DT / n.tau_syn)
    u = i = w = torch.zeros_like(x[0])
    loss = x.new_zeros(())
    for x_t, weight in zip(x, weights, strict=True):
        theta = n.threshold + w if n.kind == "threshold" else n.threshold
        out = soft_spike(u - theta)
        loss = loss + (out * weight).sum()
        reset = out if n.differentiable_reset else out.detach()
        v = a * u + ((1 - a) * i if b is not None else x_t)
        coupling = 0 if n.coupling is None else n.coupling
        w = rho * w + (1 - rho) * (coupling * u + n.beta * out)
        if n.kind == "current":
            v = v - (1 - a) * w
        u = v * (1 - reset) if n.reset == "zero" else v - theta * reset
        i = i if b is None else b * i + x_t
    return loss


@pytest.mark.parametrize(
    ("kind", "synapse", "reset", "differentiable"),
    [
        ("threshold", True, "zero", False),
        ("threshold", False, "subtract", True),
        ("current", True, "subtract", False),
        ("current", False, "zero", True),
    ],
)
def test_gradients_are_those_of_the_equations(kind: Kind, synapse: bool, reset: Reset, differentiable: bool) -> None:
    n = learning(kind, synapse, reset=reset, differentiable_reset=differentiable)
    x, weights = input_current(synapse, 60).requires_grad_(), drawn(60, 4, 3, seed=1)
    inputs = [x, *n.parameters()]
    ours = torch.autograd.grad((n(x) * weights).sum(), inputs)
    theirs = torch.autograd.grad(loss_by_autograd(n, x, weights), inputs)
    for mine, true in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, true, rtol=0, atol=1e-9 * float(true.abs().max()))
        assert true.abs().min() > 0 or true is theirs[0]
    assert len(inputs) == 3 + synapse + 1 + (kind == "current")


@pytest.mark.parametrize(("kind", "synapse"), list(product(KINDS, [True, False])))
def test_the_free_neuron_passes_gradcheck(kind: Kind, synapse: bool) -> None:
    n = learning(kind, synapse, threshold=1e6)
    names = [name for name, _ in n.named_parameters()]
    rest = [drawn(2, 3, scale=0.3, seed=k).requires_grad_() for k in (1, 2, 3)]

    def end(x: Tensor, u: Tensor, i: Tensor, w: Tensor, *constants: Tensor) -> tuple[Tensor, ...]:
        arguments = (x, State(u, i, w))
        call = torch.func.functional_call(Simulated(n), dict(zip(prefixed(names), constants, strict=True)), arguments)
        return tuple(call)

    x = drawn(6, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(end, (x, *rest, *(p.detach().requires_grad_() for p in n.parameters())))


class Simulated(torch.nn.Module):
    """A neuron whose call returns its final state."""

    def __init__(self, inner: AdaptiveLIF) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, state: State) -> State:
        return self.inner.simulate(x, state).state  # type: ignore[no-any-return]


def prefixed(names: list[str]) -> list[str]:
    return [f"inner.{name}" for name in names]


def test_the_fused_engine_serves_it_and_does_not_step_aside(caplog: pytest.LogCaptureFixture) -> None:
    n, x = neuron(), input_current()
    with engine("reference"):
        spikes = n(x)
    with engine("cpu"), caplog.at_level(logging.INFO, "fluctua"):
        assert torch.equal(n(x), spikes)
    assert "falls back" not in caplog.text


# -- kernel ----------------------------------------------------------------------------------------------------


def facts(n: AdaptiveLIF) -> Neuron:
    return specs_of(n)[""].neuron


def impulse_response(n: AdaptiveLIF, steps: int) -> Array:
    impulse = torch.zeros(steps, 1, 3)
    impulse[0] = 1.0
    potential: Array = n.simulate(impulse).potential[:, 0].numpy()
    return potential


COUPLINGS = [0.0, 1.0, -0.9, 20.0, torch.tensor([0.0, 5.0, -0.5])]


@pytest.mark.parametrize("synapse", [True, False])
@pytest.mark.parametrize("coupling", COUPLINGS, ids=str)
def test_the_kernel_is_the_impulse_response_of_the_free_neuron(coupling: float | Tensor, synapse: bool) -> None:
    n = neuron("current", synapse, coupling=coupling, threshold=1e6)
    kernel = facts(n).kernel
    np.testing.assert_allclose(kernel.response(400), impulse_response(n, 400), rtol=1e-9, atol=1e-12)
    eps = kernel.response(30_000)  # of 1e-30 and less in the end: the slowest decays in 2 s
    np.testing.assert_allclose(kernel.eps_bar, eps.sum(0) * DT, rtol=1e-9)
    np.testing.assert_allclose(kernel.eps_hat, (eps**2).sum(0) * DT, rtol=1e-9)
    np.testing.assert_allclose(kernel.lag_one, (eps[1:] * eps[:-1]).sum(0) / (eps**2).sum(0), rtol=1e-9)
    assert facts(n).threshold == 1e6


@pytest.mark.parametrize("synapse", [True, False])
def test_the_kernel_of_a_threshold_that_adapts_is_that_of_the_lif(synapse: bool) -> None:
    n = neuron("threshold", synapse, threshold=1e6)
    kernel = facts(n).kernel
    lif = specs_of(LIF(n.tau_mem, n.tau_syn, DT))[""].neuron
    np.testing.assert_array_equal(kernel.eps_hat, lif.kernel.eps_hat)
    np.testing.assert_allclose(kernel.response(100), impulse_response(n, 100), rtol=1e-9, atol=1e-12)


def pulled(coupling: float, tau_mem: Any = 20e-3, tau_adapt: Any = 50e-3) -> Any:
    """Kernel of a membrane with an adaptation current that follows it."""
    return facts(AdaptiveLIF(tau_mem, 10e-3, DT, tau_adapt=tau_adapt, kind="current", coupling=coupling)).kernel


def test_a_coupling_divides_the_mean_and_may_make_the_potential_swing() -> None:
    assert pulled(20.0).eps_bar == pytest.approx(float(pulled(0.0).eps_bar) / 21, rel=1e-6)
    assert pulled(1e-6).response(200).min() >= 0
    assert pulled(20.0).response(200).min() < -0.2 * pulled(20.0).response(200).max()


def test_a_scaled_or_cut_kernel_of_an_adaptation_current() -> None:
    kernel = pulled(2.0, torch.tensor([[10e-3], [20e-3]]), torch.tensor([20e-3, 50e-3, 80e-3]))
    assert kernel.eps_hat.shape == (2, 3)
    np.testing.assert_allclose(kernel.scaled(-2).response(50), -2 * kernel.response(50))
    np.testing.assert_allclose(kernel.scaled(-2).eps_hat, 4 * kernel.eps_hat)
    np.testing.assert_allclose(kernel.scaled(-2).lag_one, kernel.lag_one)
    eps = kernel.response(40)
    np.testing.assert_allclose(kernel.over_trial(40).eps_hat, (eps**2).cumsum(0).mean(0) * DT)


@pytest.mark.parametrize(("tau_mem", "tau_adapt"), [(20e-3, 200e-3), (3e-3, 4e-3), (50e-3, 10e-3)])
def test_the_limit_of_stability_is_where_the_potential_begins_to_grow(tau_mem: float, tau_adapt: float) -> None:
    a, rho = math.exp(-DT / tau_mem), math.exp(-DT / tau_adapt)
    upper = (1 + a) * (1 + rho) / ((1 - a) * (1 - rho))

    def step(u: float, w: float, coupling: float) -> tuple[float, float]:
        w = rho * w + (1 - rho) * coupling * u
        return a * u - (1 - a) * w, w

    def growth(coupling: float) -> float:
        """What the state is multiplied by per step, in the long run."""
        columns = [step(1.0, 0.0, coupling), step(0.0, 1.0, coupling)]
        return float(np.abs(np.linalg.eigvals(np.array(columns).T)).max())

    for limit, inside, outside in ((-1.0, 0.01, -0.01), (upper, -0.01 * upper, 0.01 * upper)):
        assert growth(limit + inside) < 1 < growth(limit + outside)
        assert growth(limit) == pytest.approx(1)
        AdaptiveLIF(tau_mem, None, DT, tau_adapt=tau_adapt, kind="current", coupling=limit + inside)
        with pytest.raises(ValueError, match=r"between -1 and .* got ") as refusal:
            AdaptiveLIF(tau_mem, None, DT, tau_adapt=tau_adapt, kind="current", coupling=limit + outside)
        named = [float(number) for number in re.findall(r"and ([\d.]+),.* got (\S+)", str(refusal.value))[0]]
        assert named == pytest.approx([upper, limit + outside], rel=1e-4)


def test_a_coupling_that_training_made_unstable_is_refused_when_its_kernel_is_asked_for() -> None:
    n = AdaptiveLIF(kind="current", coupling=0.5, learn_adaptation=True)
    with torch.no_grad():
        assert n.coupling is not None
        n.coupling.fill_(-1.5)
    with pytest.raises(ValueError, match=r"1 of 1 neurons are unstable: .* grows by up to 1\.0\d* a step"):
        facts(n)


# -- mistakes --------------------------------------------------------------------------------------------------

REFUSALS: dict[str, tuple[Callable[[], object], str]] = {
    "tau_adapt": (lambda: AdaptiveLIF(tau_adapt=0.0), "tau_adapt must be .* got 0"),
    "beta": (lambda: AdaptiveLIF(beta=float("nan")), "beta must be finite, got nan"),
    "coupling": (lambda: AdaptiveLIF(kind="current", coupling=float("inf")), "coupling must be finite, got inf"),
    "one coupling": (
        lambda: AdaptiveLIF(kind="current", coupling=torch.tensor([0.0, -2.0])),
        r"between -1 and .* got -2",
    ),
    "coupling of a threshold": (lambda: AdaptiveLIF(coupling=0.5), "coupling=0.5: use kind='current'"),
    "kind": (lambda: AdaptiveLIF(kind="both"), "unknown kind of adaptation 'both'"),  # type: ignore[arg-type]
    "threshold": (lambda: AdaptiveLIF(threshold=0.0), "threshold"),
    "state": (
        lambda: neuron().simulate(torch.zeros(4, 2, 3), LIF().initial_state(torch.zeros(4, 2, 3))),
        "needs an adaptation",
    ),
    "state of a step": (
        lambda: neuron().step(torch.zeros(2, 3), LIF().initial_state(torch.zeros(4, 2, 3))),
        "needs an adaptation",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSALS.values(), ids=list(REFUSALS))
def test_refusals(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_it_prints_its_constants() -> None:
    text = repr(neuron("current", surrogate=ArcTan()))
    for part in ("kind='current'", "tau_adapt=0.02..0.2", "beta=3..30", "coupling=-0.5..1", "ArcTan(beta=2.0)"):
        assert part in text
    assert "coupling" not in repr(neuron("threshold"))
    assert isinstance(neuron().surrogate, SuperSpike)
