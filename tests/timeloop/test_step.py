"""Neurons one step at a time, and what every neuron must bear: copies, other number types, and no gradient."""

import copy
import io
import pickle
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fluctua.neurons import LI, LIF, AdaptiveLIF, ExcInhLIF
from fluctua.timeloop import engine
from fluctua.timeloop.contract import step_of
from shared.leaky_populations import LoopParameters

STEPS, BATCH, NEURONS = 60, 3, 4

Build = Callable[..., nn.Module]


def taus(*milliseconds: float) -> Tensor:
    return torch.tensor(milliseconds) * 1e-3


def lif(**options: Any) -> nn.Module:
    return LIF(taus(20, 10, 15, 30), taus(10, 5, 4, 20), **options)


def delta(**options: Any) -> nn.Module:
    return LIF(taus(20, 10, 15, 30), None, reset="subtract", differentiable_reset=True, **options)


def readout(**options: Any) -> nn.Module:
    return LI(taus(20, 10, 15, 30), initial=0.3, **options)


def threshold(**options: Any) -> nn.Module:
    return AdaptiveLIF(taus(20, 10, 15, 30), tau_adapt=taus(20, 50, 100, 200), beta=10.0, **options)


def current(**options: Any) -> nn.Module:
    return AdaptiveLIF(
        taus(20, 10, 15, 30), None, kind="current", coupling=0.5, beta=taus(1e3, 5e3, 1e4, 2e4), **options
    )


def exc_inh(**options: Any) -> nn.Module:
    return ExcInhLIF(taus(20, 10, 15, 30), 10e-3, taus(20, 30, 10, 15), **options)


BUILDS: list[Build] = [lif, delta, readout, threshold, current, exc_inh]
every_neuron = pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.__name__)


def inputs(neuron: nn.Module, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """The currents `[T, B, N]` of one call."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, STEPS, BATCH, NEURONS, generator=generator, dtype=torch.float64).to(dtype)
    return (2 * x[0], 0.5 * x[1]) if isinstance(neuron, ExcInhLIF) else (2 * x[0],)


def simulate(neuron: Any, currents: tuple[Tensor, ...]) -> Any:
    return neuron.simulate(*currents)


def stepped(neuron: Any, currents: tuple[Tensor, ...]) -> tuple[Tensor, Any]:
    """Output and final state, one step after the other."""
    advance, state, outputs = neuron.stepper(), neuron.initial_state(currents[0]), []
    for step in zip(*currents, strict=True):
        output, state = advance(*step, state)
        outputs.append(output)
    return torch.stack(outputs), state


def assert_same_state(mine: tuple[Tensor | None, ...], theirs: tuple[Tensor | None, ...]) -> None:
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


# -- steps -----------------------------------------------------------------------------------------------------


@every_neuron
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_steps_make_the_sequence(build: Build, dtype: torch.dtype) -> None:
    neuron = build()
    currents = inputs(neuron, dtype)
    output, state = stepped(neuron, currents)
    whole = simulate(neuron, currents)
    assert output.dtype == dtype
    assert torch.equal(output, whole.output)
    assert_same_state(state, whole.state)
    assert output.abs().mean() > 0.03


@every_neuron
def test_steps_of_a_module_in_double_precision_follow_the_current(build: Build) -> None:
    neuron = build().double()
    for dtype in (torch.float32, torch.float64):
        currents = inputs(neuron, dtype)
        output, state = stepped(neuron, currents)
        assert output.dtype == state[0].dtype == dtype
        assert torch.equal(output, neuron(*currents))


def test_one_stepper_serves_currents_of_any_type_in_turn() -> None:
    neuron = LIF().double()
    advance = neuron.stepper()
    for dtype in (torch.float32, torch.float64, torch.float16, torch.float32):
        x = inputs(neuron, dtype)[0]
        state = neuron.initial_state(x)
        for x_t, spikes in zip(x, neuron(x), strict=True):
            output, state = advance(x_t, state)
            assert torch.equal(output, spikes)


@every_neuron
@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_steps_have_the_gradients_of_the_sequence(build: Build, name: str) -> None:
    neuron = build(learn_tau=True).double()
    gradients = []
    with engine(name):
        for run in (stepped, simulate):
            currents = tuple(x.requires_grad_() for x in inputs(neuron, torch.float64))
            result: Any = run(neuron, currents)
            state = result[-1]
            weights = torch.linspace(-1, 2, STEPS, dtype=torch.float64).reshape(-1, 1, 1)
            loss = (result[0] * weights).sum() + state[0].square().sum()
            gradients.append(torch.autograd.grad(loss, [*currents, *neuron.parameters()]))
    for mine, true in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, true, rtol=0, atol=1e-9 * float(true.abs().max()))
        assert true.abs().max() > 0


@every_neuron
def test_one_step(build: Build) -> None:
    neuron: Any = build()
    currents = inputs(neuron)
    state = simulate(neuron, tuple(x[:20] for x in currents)).state
    output, after = neuron.step(*(x[20] for x in currents), state)
    whole = simulate(neuron, tuple(x[:21] for x in currents))
    assert torch.equal(output, whole.output[20])
    assert_same_state(after, whole.state)


def test_no_inhibition_in_a_step() -> None:
    neuron = ExcInhLIF()
    (x, _) = inputs(neuron)
    advance, state = neuron.stepper(), neuron.initial_state(x)
    for x_t, spikes in zip(x, neuron(x), strict=True):
        output, state = advance(x_t, None, state)
        assert torch.equal(output, spikes)


def test_the_constants_of_a_stepper_are_evaluated_once() -> None:
    neuron = LIF(learn_tau=True)
    x = torch.ones(2, 1, 1)
    advance = neuron.stepper()
    state = neuron.simulate(torch.ones(3, 1, 1)).state
    _, before = advance(x[0], state)
    with torch.no_grad():
        neuron.log_tau_mem.add_(1.0)
    assert torch.equal(advance(x[0], state)[1].potential, before.potential)
    assert not torch.equal(neuron.step(x[0], state)[1].potential, before.potential)


@pytest.mark.parametrize(("synapse", "spiking"), list(product([True, False], [True, False])))
def test_the_raw_step_gives_output_potential_and_state(synapse: bool, spiking: bool) -> None:
    a, b, theta = 0.9, 0.7, 0.4
    x, u, i = (torch.tensor([[v, -v]], dtype=torch.float64, requires_grad=True) for v in (0.3, 0.5, 0.8))
    p = LoopParameters(
        torch.tensor(a, dtype=torch.float64),
        torch.tensor(b, dtype=torch.float64) if synapse else None,
        torch.tensor(theta, dtype=torch.float64) if spiking else None,
    )
    parts = (u, i) if synapse else (u,)
    output, after = step_of(p.dynamics.step)((x,), parts, p.dynamics.constants)
    v = [a * 0.5 + (0.1 * 0.8 if synapse else 0.3), -a * 0.5 - (0.1 * 0.8 if synapse else 0.3)]
    expected = [0.0, v[1]] if spiking else v
    assert output.tolist() == ([[1.0, 0.0]] if spiking else [[0.5, -0.5]])
    torch.testing.assert_close(after[0].detach(), torch.tensor([expected], dtype=torch.float64))
    if synapse:
        torch.testing.assert_close(after[1], b * i + x)


# -- what every neuron must bear -------------------------------------------------------------------------------


@every_neuron
@pytest.mark.parametrize("learn_tau", [False, True])
def test_a_state_dict_holds_all_constants(build: Build, learn_tau: bool) -> None:
    neuron, other = build(learn_tau=learn_tau), build(learn_tau=learn_tau)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.mul_(1.1)
    currents = inputs(neuron)
    assert not torch.equal(simulate(other, currents).potential, simulate(neuron, currents).potential)
    file = io.BytesIO()
    torch.save(neuron.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(*currents), neuron(*currents))
    assert_same_state(simulate(other, currents).state, simulate(neuron, currents).state)


@every_neuron
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_copy_behaves_identically_and_is_its_own(build: Build, copied: Callable[[nn.Module], nn.Module]) -> None:
    neuron = build(learn_tau=True)
    twin, currents = copied(neuron), inputs(neuron)
    before = simulate(neuron, currents)
    assert torch.equal(simulate(twin, currents).potential, before.potential)
    assert repr(twin) == repr(neuron)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    assert not torch.equal(simulate(twin, currents).potential, before.potential)
    assert torch.equal(simulate(neuron, currents).potential, before.potential)


@every_neuron
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_single(build: Build, dtype: torch.dtype) -> None:
    neuron = build()
    half = inputs(neuron, dtype)
    single = simulate(neuron, tuple(x.float() for x in half))
    result = simulate(neuron, half)
    assert neuron(*half).dtype == dtype
    assert torch.equal(result.output, single.output.to(dtype))
    assert torch.equal(result.potential, single.potential)
    assert_same_state(result.state, single.state)


@every_neuron
def test_in_double_precision_it_is_the_same_neuron(build: Build) -> None:
    neuron = build()
    single = simulate(neuron, inputs(neuron))
    double = simulate(neuron.double(), inputs(neuron, torch.float64))
    assert double.potential.dtype == double.output.dtype == torch.float64
    # Up to the first spike that comes a step apart, errors are those of rounding.
    alike = (double.output == single.output).cumprod(0).bool() if hasattr(neuron, "threshold") else True
    error = (double.potential - single.potential).abs().where(torch.as_tensor(alike), 0.0)
    assert error.max() < 1e-5 * double.potential.abs().max()
    assert torch.as_tensor(alike).float().mean() > 0.9


@every_neuron
def test_without_gradients_nothing_is_kept(build: Build) -> None:
    neuron = build(learn_tau=True)
    currents = tuple(x.requires_grad_() for x in inputs(neuron))
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.no_grad():
            output, _ = stepped(neuron, currents)
            assert not kept
            assert torch.equal(neuron(*currents), output)
            assert not kept
        assert torch.equal(neuron(*currents).detach(), output)
        assert kept
    assert not output.requires_grad
