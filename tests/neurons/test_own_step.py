"""Neurons from one step: their loops against the step in a Python loop, on every engine, and what they refuse."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.layers import FusedSequential, Recurrent
from fluctua.neurons import LI, LIF, SigmoidDerivative, from_step, spike
from fluctua.neurons.own_step import StepNeuron
from fluctua.timeloop import engine
from fluctua.timeloop.derivation import Kind, plan_of
from shared.fused_calls import fused_calls

DTYPE = torch.float64
Constants = Mapping[str, Tensor]
State = tuple[Tensor, ...]


def drawn(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def resonate_and_fire(x: Tensor, state: State, c: Constants) -> tuple[Tensor, State]:
    u, v = state
    u, v = c["decay"] * (c["cos"] * u - c["sin"] * v) + x, c["decay"] * (c["sin"] * u + c["cos"] * v)
    out = spike(u - c["theta"])
    return out, (u - c["theta"] * out.detach(), v)


def quadratic(x: Tensor, state: State, c: Constants) -> tuple[Tensor, State]:
    (u,) = state
    u = u + c["rate"] * u * (u - c["critical"]) + x
    out = spike(u - c["theta"], SigmoidDerivative(beta=5.0))
    return out, (torch.where(out.detach() > 0, c["reset"], u).clamp(-3, 3),)


def coupled(x: tuple[Tensor, Tensor], state: State, c: Constants) -> tuple[Tensor, State]:
    """Two inputs, of which the second shunts; an output that is no spike."""
    exc, shunt = x
    (u,) = state
    u = u * torch.exp(-c["leak"] * (1 + shunt.abs())) + exc
    return torch.sigmoid(u), (u,)


def resonators(**changed: Any) -> StepNeuron:
    angle = 2 * math.pi * 40 * 1e-3
    constants = {"decay": 0.95, "cos": math.cos(angle), "sin": math.sin(angle), "theta": 1.0, **changed}
    return from_step(resonate_and_fire, constants=constants, threshold="theta", rest=(0.0, 0.0))


def trained(value: float, n: int = 5) -> nn.Parameter:
    return nn.Parameter(value + 0.05 * drawn(n))


NEURONS: dict[str, Callable[[], StepNeuron]] = {
    "resonate and fire": resonators,
    "resonate and fire, trained": lambda: resonators(decay=trained(0.9), theta=nn.Parameter(torch.tensor(0.8))),
    "quadratic": lambda: from_step(
        quadratic,
        constants={"rate": trained(0.1), "critical": 1.0, "theta": 2.0, "reset": -0.5},
        threshold="theta",
        rest=(0.1,),
    ),
    "two inputs, no spikes": lambda: from_step(
        coupled, constants={"leak": nn.Parameter(torch.tensor(0.2))}, threshold=None, inputs=2
    ),
}


def everything(name: str, neuron: StepNeuron, currents: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Output, potential and final state, and the gradients of a loss on all that has one."""
    x = [current.clone().requires_grad_() for current in currents]
    with engine(name):
        result = neuron.simulate(*x)
    loss = (result.output * drawn(*result.output.shape, seed=7)).sum() + sum(s.sin().sum() for s in result.state)
    gradients = torch.autograd.grad(loss, [*x, *neuron.parameters()])
    return [result.output, result.potential, *result.state], list(gradients)


@pytest.mark.parametrize("engine_name", ["cpu", "gpu"])
@pytest.mark.parametrize("name", NEURONS)
def test_the_derived_loop_is_the_step_in_a_loop(
    name: str, engine_name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if engine_name == "gpu":
        pytest.importorskip("triton")
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    caplog.set_level(logging.INFO, "fluctua.timeloop")
    neuron = NEURONS[name]().double()
    inputs = neuron.dynamics().inputs
    currents = [drawn(40, 3, 5, scale=0.6, seed=k) for k in range(inputs)]
    (ours, gradients), (truth, true) = (everything(e, neuron, currents) for e in (engine_name, "reference"))
    assert "falls back" not in caplog.text
    exact = name != "two inputs, no spikes"  # exp and sigmoid are rounded otherwise than torch's
    for mine, theirs in zip(ours, truth, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0 if exact else 1e-13)
    for mine, theirs in zip(gradients, true, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10 * float(theirs.abs().max()))
    assert float(truth[0].abs().mean()) > 0


def test_one_step_after_the_other_gives_the_same() -> None:
    neuron, x = resonators().double(), drawn(30, 2, 4)
    advance, state, outputs = neuron.stepper(), neuron.initial_state(x), []
    for now in x:
        out, state = advance(now, state)
        outputs.append(out)
    result = neuron.simulate(x)
    assert torch.equal(torch.stack(outputs), result.output)
    assert all(torch.equal(a, b) for a, b in zip(state, result.state, strict=True))
    again = neuron.simulate(x, state=result.state)
    whole = neuron.simulate(torch.cat([x, x]))
    assert torch.equal(torch.cat([result.output, again.output]), whole.output)


def test_a_number_of_the_step_needs_no_kernel_of_its_own() -> None:
    def halved(x: Tensor, state: State, c: Constants) -> tuple[Tensor, State]:
        return spike(state[0] - c["theta"]), (0.5 * state[0] + 0.3 * x,)

    def by_another(x: Tensor, state: State, c: Constants) -> tuple[Tensor, State]:
        return spike(state[0] - c["theta"]), (0.5 * state[0] + 0.7 * x,)

    from fluctua.timeloop.cpu_loop import through

    kernels = []
    for step in (halved, by_another):
        dynamics = from_step(step, constants={"theta": 1.0}, threshold="theta").dynamics()
        kernels.append(through(plan_of(Kind.of("cpu", dynamics, trains=False)).forth, "float32", True))
    assert kernels[0].call is kernels[1].call
    assert kernels[0].numbers != kernels[1].numbers


def test_a_deep_network_of_them_is_brought_to_its_state() -> None:
    x = (torch.rand(200, 16, 50, generator=torch.Generator().manual_seed(0)) < 0.05).float()
    modules = [nn.Linear(50, 40), resonators(), nn.Linear(40, 30), resonators(), nn.Linear(30, 3), LI()]
    model = nn.Sequential(*modules)
    report = fluctua.initialize(model, x, seed=0)
    for k, name in ((1, "1"), (3, "3")):
        free = resonators(theta=1e9)  # the same neurons, which never spike
        current = modules[k - 1](x if k == 1 else modules[1](modules[0](x)))
        potential = free.simulate(current).potential
        assert report[name].sigma_u == pytest.approx(float(potential.std()), rel=0.02)
        assert float(potential.std()) == pytest.approx(1.0, rel=0.03)
        assert report[name].rate > 1


def test_its_parameters_and_buffers_are_those_of_a_module() -> None:
    neuron = resonators(decay=nn.Parameter(torch.tensor(0.9)))
    assert set(neuron.state_dict()) == {"decay", "cos", "sin", "theta"}
    assert [name for name, _ in neuron.named_parameters()] == ["decay"]
    assert "resonate_and_fire" in repr(neuron)


def test_what_is_not_neuron_by_neuron_runs_step_by_step_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    def shared(x: Tensor, state: State, c: Constants) -> tuple[Tensor, State]:
        return spike(state[0] - c["theta"]), (0.9 * state[0] + x - 0.1 * x.mean(),)

    neuron = from_step(shared, constants={"theta": 1.0}, threshold="theta")
    with caplog.at_level(logging.INFO, "fluctua.timeloop"):
        assert neuron(torch.ones(5, 2, 3)).shape == (5, 2, 3)
    assert "mean" in caplog.text
    with pytest.raises(fluctua.network.errors.UnsupportedNeuronError, match="mean"):
        fluctua.initialize(nn.Sequential(nn.Linear(4, 3), neuron), torch.rand(20, 2, 4))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: from_step(quadratic, constants={"rate": 1.0}), r"'threshold' is not among the constants \['rate'\]"),
        (lambda: from_step(quadratic, constants={"theta": 1.0}, threshold="theta", rest=()), "one state variable"),
        (lambda: from_step(quadratic, constants={}, threshold=None), "needs at least one constant"),
        (lambda: from_step(quadratic, constants={"dt": 1.0}, threshold=None), "cannot be called 'dt'"),
        (lambda: resonators()(torch.zeros(3, 2, 4), torch.zeros(3, 2, 4)), "takes 1 input currents, got 2"),
    ],
)
def test_mistakes_are_named(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_a_lif_of_ones_own_is_the_lif() -> None:
    def lif(x: Tensor, state: State, c: Constants) -> tuple[Tensor, State]:
        u, i = state
        out = spike(u - c["theta"])
        v = (c["a"] * u + (1 - c["a"]) * i) * (1 - out.detach())
        return out, (v, c["b"] * i + x)

    own = LIF().double()
    constants = dict(zip(("a", "b", "theta"), own.dynamics().constants, strict=True))
    mine = from_step(lif, constants=constants, threshold="theta", rest=(0.0, 0.0), dt=own.dt).double()
    x = drawn(60, 3, 4, scale=3.0)
    assert torch.equal(mine(x), own(x))


def test_it_runs_together_with_the_weight_in_front(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fused_calls(monkeypatch)
    torch.manual_seed(0)
    modules = [nn.Linear(30, 70), resonators(decay=trained(0.9, 70)), nn.Linear(70, 20), resonators()]
    x = (torch.rand(50, 5, 30, dtype=DTYPE) < 0.1).double()
    fused, plain = (kind(*modules).double() for kind in (FusedSequential, nn.Sequential))
    with torch.no_grad():
        for k in (0, 2):
            modules[k].weight.mul_(3)  # type: ignore[operator]
    ours = fused(x)
    with engine("reference"):
        truth = plain(x)
    assert calls == [2]
    torch.testing.assert_close(ours, truth, rtol=0, atol=0)
    assert 0.01 < float(truth.detach().mean()) < 0.5
    upstream = drawn(*truth.shape)
    mine, true = (torch.autograd.grad(out, list(fused.parameters()), upstream) for out in (ours, truth))
    for got, expected in zip(mine, true, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", ["linear", "map"])
def test_it_may_hear_itself(kind: str) -> None:
    torch.manual_seed(0)
    weight: nn.Module = nn.Linear(12, 12) if kind == "linear" else nn.Conv1d(4, 4, 3, padding=1, bias=False)
    layer = Recurrent(resonators(theta=nn.Parameter(torch.tensor(0.7))), weight).double()
    x = drawn(40, 3, *((12,) if kind == "linear" else (4, 9)), scale=0.5).requires_grad_()
    ours, truth = layer(x), layer.proceed(x)[0]["cell"]
    assert ours.grad_fn is not None
    assert "Fused" in ours.grad_fn.name()
    assert torch.equal(ours, truth)
    assert 0.02 < float(truth.detach().mean()) < 0.6
    inputs, upstream = [x, *layer.parameters()], drawn(*truth.shape)
    mine, true = (torch.autograd.grad(out, inputs, upstream) for out in (ours, truth))
    for got, expected in zip(mine, true, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))
