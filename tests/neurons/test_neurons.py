"""Laws of the leaky neurons as modules: the paper's equations, constants that are kept, learnt and shown."""

import copy
import io
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd import forward_ad

from fluctua.neurons import LI, LIF, ArcTan, SuperSpike
from fluctua.neurons.current_based import CurrentBased
from fluctua.neurons.leaky import LeakyNeuron
from fluctua.neurons.surrogates import Surrogate
from fluctua.timeloop import engine

Array = NDArray[np.float64]

T, B, N = 40, 4, 5
TAUS = torch.tensor([6e-3, 10e-3, 20e-3, 30e-3, 50e-3])


def drive(*shape: int, scale: float = 1.5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator) * scale).double()


def as_written(x: Array, a: float, b: float | None, theta: float, subtract: bool, start: float = 0.0) -> Array:
    """Output of one neuron for a current `[T]`, line by line as in the paper; the potential for `theta = inf`."""
    u, current, out = start, 0.0, np.zeros(len(x))
    for t, now in enumerate(x):
        out[t] = u if theta == np.inf else float(u > theta)
        v = a * u + (now if b is None else (1 - a) * current)
        u = v if u <= theta else v - theta if subtract else 0.0
        current = 0.0 if b is None else b * current + now
    return out


def outputs(x: Tensor, tau_mem: Tensor, tau_syn: Tensor | None, theta: float, subtract: bool, start: float) -> Array:
    a = np.exp(-2e-3 / tau_mem.double().expand(N).numpy())
    b = [None] * N if tau_syn is None else np.exp(-2e-3 / tau_syn.double().expand(N).numpy())
    out = np.zeros((T, B, N))
    for s, i in itertools.product(range(B), range(N)):
        out[:, s, i] = as_written(x[:, s, i].numpy(), a[i], b[i], theta, subtract, start)
    return out


# --- the dynamics ---


@pytest.mark.parametrize("name", ["reference", "auto"])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("tau_syn", [None, torch.tensor(10e-3), TAUS.flip(0)], ids=["delta", "one", "each"])
@pytest.mark.parametrize("tau_mem", [torch.tensor(20e-3), TAUS], ids=["one", "each"])
def test_lif_follows_the_paper(tau_mem: Tensor, tau_syn: Tensor | None, reset: Any, name: str) -> None:
    x = drive(T, B, N)
    lif = LIF(tau_mem, tau_syn, reset=reset, threshold=0.7).double()
    with engine(name):
        out = lif(x)
    expected = outputs(x, lif.tau_mem, lif.tau_syn, float(lif.threshold), reset == "subtract", 0.0)
    assert 0 < expected.mean() < 0.5
    np.testing.assert_array_equal(out.numpy(), expected)


@pytest.mark.parametrize("initial", [0.0, -1e-3, 0.5])
@pytest.mark.parametrize("tau_syn", [None, 10e-3])
def test_li_follows_the_paper_without_a_threshold(tau_syn: float | None, initial: float) -> None:
    x = drive(T, B, N)
    li = LI(TAUS, tau_syn, initial=initial).double()
    expected = outputs(x, li.tau_mem, li.tau_syn, np.inf, False, initial)
    np.testing.assert_allclose(li(x).numpy(), expected, rtol=1e-10, atol=1e-12)


def test_a_constant_current_charges_the_membrane_by_the_closed_form() -> None:
    tau, dt = 20e-3, 2e-3
    u = LI(tau, None, dt).double()(torch.ones(T, 1, 1).double()).flatten()
    a = math.exp(-dt / tau)
    k = torch.arange(T).double()
    torch.testing.assert_close(u, (1 - a**k) / (1 - a), rtol=1e-6, atol=0)  # tau is rounded to single precision


def test_neurons_do_not_hear_each_other() -> None:
    x = drive(T, B, N)
    together = LIF(TAUS, TAUS / 2).double()(x)
    for i in range(N):
        alone = LIF(float(TAUS[i]), float(TAUS[i] / 2)).double()
        assert torch.equal(alone(x[..., i : i + 1]), together[..., i : i + 1])


@pytest.mark.parametrize("shape", [(T, B), (T, B, N), (T, B, 2, 3, 4)])
@pytest.mark.parametrize("neuron", [LIF, LI])
def test_output_has_the_shape_of_the_current(neuron: Callable[[], LeakyNeuron], shape: tuple[int, ...]) -> None:
    assert neuron()(torch.zeros(shape)).shape == shape


def test_a_sequence_can_be_cut_and_carried_on() -> None:
    x = drive(T, B, N)
    for neuron in (LIF().double(), LI(initial=0.2).double()):
        whole = neuron.simulate(x)
        first = neuron.simulate(x[:17])
        second = neuron.simulate(x[17:], first.state)
        torch.testing.assert_close(torch.cat([first.output, second.output]), whole.output)
        torch.testing.assert_close(second.state.potential, whole.state.potential)


def test_two_calls_are_two_trials() -> None:
    lif, x = LIF(), drive(T, B, N).float()
    assert torch.equal(lif(x), lif(x))


# --- gradients ---


def test_the_gradient_of_a_time_constant_is_the_slope_of_the_loss() -> None:
    x = drive(T, B, N)

    def loss(log_tau_mem: Tensor, log_tau_syn: Tensor) -> Tensor:
        li = LI(TAUS, 10e-3, learn_tau=True).double()
        values = {"log_tau_mem": log_tau_mem, "log_tau_syn": log_tau_syn}
        return torch.func.functional_call(li, values, x).square().sum()  # type: ignore[no-any-return]

    taus = (TAUS.double().log().requires_grad_(), torch.tensor(10e-3).double().log().requires_grad_())
    assert torch.autograd.gradcheck(loss, taus)


def test_learnt_time_constants_train_and_stay_positive() -> None:
    lif = LIF(learn_tau=True)
    assert {name for name, _ in lif.named_parameters()} == {"log_tau_mem", "log_tau_syn"}
    x = drive(T, B, N).float()
    optimiser = torch.optim.SGD(lif.parameters(), lr=10.0)  # a step that would bring tau itself far below zero
    before = lif.tau_mem.detach().clone()
    for _ in range(3):
        optimiser.zero_grad()
        lif(x).mean().backward()
        optimiser.step()
    assert not torch.equal(lif.tau_mem, before)
    assert lif.tau_mem > 0
    assert lif.tau_syn is not None
    assert lif.tau_syn > 0


def test_other_time_constants_are_no_parameters_but_saved() -> None:
    lif = LIF(TAUS, TAUS, threshold=TAUS * 50)
    assert list(lif.parameters()) == []
    saved = io.BytesIO()
    torch.save(lif.state_dict(), saved)
    saved.seek(0)
    other = LIF(torch.ones(N), torch.ones(N), threshold=torch.ones(N))
    x = drive(T, B, N).float()
    assert not torch.equal(other(x), lif(x))
    other.load_state_dict(torch.load(saved))
    assert torch.equal(other(x), lif(x))


def test_a_checkpoint_has_the_surrogate_that_was_saved() -> None:
    built, sharper = LIF().state_dict(), LIF()
    sharper.surrogate = SuperSpike(100.0)
    saved = sharper.state_dict()
    for state, beta in ((built, 20.0), (saved, 100.0)):
        sharper.load_state_dict(state)
        assert sharper.surrogate == SuperSpike(beta)


def test_a_step_without_gradients_takes_none_from_those_after() -> None:
    readout, x = LI(learn_tau=True), torch.randn(2, 3, dtype=torch.float64)
    step, state = readout.stepper(), readout.initial_state(x[None])
    with torch.no_grad():
        step(x, state)
    for _ in range(3):
        y, state = step(x, state)
    assert y.requires_grad


def test_the_state_before_the_first_step_takes_part_in_forward_mode() -> None:
    readout, x = LI(), torch.randn(12, 2, 17)
    with forward_ad.dual_level():
        state = readout.initial_state(x)
        ones = torch.ones_like(state.potential)
        state = state._replace(potential=forward_ad.make_dual(state.potential, ones))  # type: ignore[no-untyped-call]
        output = readout.simulate(x, state).output
        tangent = forward_ad.unpack_dual(output).tangent  # type: ignore[no-untyped-call]
        decay = torch.exp(torch.tensor(-readout.dt / float(readout.tau_mem)))
        torch.testing.assert_close(tangent, (decay ** torch.arange(12.0))[:, None, None].expand(12, 2, 17))


def test_a_default_device_elsewhere_does_not_matter() -> None:
    lif, x = LIF(), torch.randn(50, 4, 17)
    spikes = lif(x)
    with torch.device("meta"):
        assert torch.equal(lif(x), spikes)


class Box(Surrogate):
    def __init__(self, beta: float, width: float) -> None:
        super().__init__(beta)
        object.__setattr__(self, "width", width)  # no field of a dataclass

    def derivative(self, x: Tensor) -> Tensor:
        return (x.abs() < float(vars(self)["width"])).to(x.dtype)


def flat(size: float) -> Surrogate:
    class Flat(Surrogate):
        def derivative(self, x: Tensor) -> Tensor:
            return torch.ones_like(x) * size

    return Flat(1.0)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", [lambda size: Box(1.0, size), flat], ids=["box", "flat"])
def test_surrogates_that_differ_in_anything_have_gradients_of_their_own(kind: Any, compiled: bool) -> None:
    x = 3 * torch.randn(9, 2, 5, generator=torch.Generator().manual_seed(0))
    for size in (0.5, 2.0):
        found: list[Tensor] = []
        for name in ("auto", "reference"):
            torch._dynamo.reset()
            lif: Any = LIF(surrogate=kind(size))
            lif = torch.compile(lif, backend="eager") if compiled and name == "auto" else lif
            with engine(name):
                given = x.clone().requires_grad_()
                found += torch.autograd.grad(lif(given).sum(), given)
        torch.testing.assert_close(*found)
    assert Box(1.0, 0.5) == Box(1.0, 0.5) != Box(1.0, 2.0)


@pytest.mark.parametrize("surrogate", [SuperSpike(20.0), ArcTan(3.0)])
def test_the_gradient_of_a_spike_is_the_surrogate_at_its_distance_from_threshold(surrogate: Any) -> None:
    lif = LIF(20e-3, None, surrogate=surrogate).double()
    x = torch.linspace(-1, 3, 9).double().reshape(1, 9, 1).repeat(2, 1, 1).requires_grad_()
    lif(x)[1].sum().backward()  # U[1] = x[0]
    assert x.grad is not None
    torch.testing.assert_close(x.grad[0], surrogate.derivative(x.detach()[0] - 1.0))
    assert not x.grad[1].any()


# --- the module ---


@pytest.mark.parametrize("neuron", [LIF(TAUS, None), LI(initial=0.1), LIF(learn_tau=True)])
def test_a_copy_is_the_same_neuron_and_its_own(neuron: LeakyNeuron) -> None:
    x, twin = drive(T, B, N).float(), copy.deepcopy(neuron)
    before = neuron(x)
    assert torch.equal(twin(x), before)
    with torch.no_grad():
        twin.log_tau_mem.fill_(math.log(1e-3))
    assert not torch.equal(twin(x), before)
    assert torch.equal(neuron(x), before)


def test_a_constant_given_as_a_tensor_is_copied() -> None:
    taus, theta = TAUS.clone(), torch.tensor(1.0)
    lif = LIF(taus, threshold=theta)
    taus.fill_(1.0)
    theta.fill_(9.0)
    torch.testing.assert_close(lif.tau_mem, TAUS)
    assert float(lif.threshold) == 1.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_comes_back_as_it_came(dtype: torch.dtype) -> None:
    x = drive(T, B, N).to(dtype)
    for neuron in (LIF(), LI()):
        out = neuron(x)
        assert out.dtype == dtype
        torch.testing.assert_close(out, neuron(x.float()).to(dtype))


def test_spiking_says_whether_it_spikes() -> None:
    assert LIF.spiking
    assert not LI.spiking


def test_a_model_prints_its_constants() -> None:
    model = nn.Sequential(LIF(TAUS, None, threshold=0.5, reset="subtract"), LI(0.2, 5e-3, 1e-3, initial=-1e-3))
    shown = str(model)
    assert "LIF(tau_mem=0.006..0.05, delta synapse, dt=0.002, threshold=0.5, reset='subtract', SuperSpike" in shown
    assert "LI(tau_mem=0.2, tau_syn=0.005, dt=0.001, initial=-0.001)" in shown


# --- refusals ---

REFUSALS: list[tuple[Callable[[], object], str]] = [
    (lambda: LIF(dt=0.0), "the time step dt must be a positive number of seconds, got 0.0"),
    (lambda: LIF(dt=math.nan), "dt must be a positive number of seconds, got nan"),
    (lambda: LI(dt=math.inf), "dt must be a positive number of seconds, got inf"),
    (lambda: LIF(-20e-3), "tau_mem must be a positive number of seconds, got -0.02"),
    (lambda: LIF(math.inf), "tau_mem must be a positive number of seconds, got inf"),
    (lambda: LIF(torch.tensor([20e-3, 0.0])), "tau_mem must be a positive number of seconds"),
    (lambda: LI(0.1, math.nan), "tau_syn must be a positive number of seconds, got nan"),
    (lambda: LIF(threshold=0.0), "a threshold must be positive and finite, got 0.0"),
    (lambda: LIF(threshold=torch.tensor([1.0, math.inf])), "a threshold must be positive and finite"),
    (lambda: LIF(reset="soft"), "unknown reset 'soft': choose 'zero' or 'subtract'"),  # type: ignore[arg-type]
    (
        lambda: CurrentBased(0.9, 1.0, 1e-3, threshold=1.0, reset="soft"),  # type: ignore[arg-type]
        "unknown reset 'soft': choose 'zero' or 'subtract'",
    ),
    (lambda: SuperSpike(-1.0), "a surrogate needs a finite steepness beta > 0, got -1.0"),
    (lambda: SuperSpike(math.inf), "a surrogate needs a finite steepness beta > 0, got inf"),
    (lambda: LIF(tau_mem=torch.zeros(0)), "tau_mem must be a positive number of seconds, got tensor([])"),
    (lambda: LI(initial=math.nan), "initial must be a finite potential, got nan"),
    (lambda: LIF()(torch.zeros(T, B, N).long()), "a time loop takes a floating-point current, got torch.int64"),
    (lambda: LIF()(torch.zeros(0, B, N)), "with T >= 1 steps, got the shape (0, 4, 5)"),
]


@pytest.mark.parametrize(("call", "sentence"), REFUSALS, ids=[sentence for _, sentence in REFUSALS])
def test_bad_input_is_refused_in_a_sentence(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the sentence is compared below
        call()
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_model_without_values_is_shown() -> None:
    assert "tau_mem=meta" in repr(LIF().to("meta"))


def test_neurons_may_be_made_without_memory_and_filled_later() -> None:
    with torch.device("meta"):
        empty = nn.Sequential(LIF(learn_tau=True), LI())
    made = nn.Sequential(LIF(learn_tau=True), LI())
    empty = empty.to_empty(device="cpu")
    empty.load_state_dict(made.state_dict())
    x = drive(T, B, N).float()
    assert torch.equal(empty(x), made(x))
