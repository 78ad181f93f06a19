"""A layer under Dale's law gives the same as one fused operation as step by step, whoever looks at it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import fluctua
from fluctua.layers import DaleLayer, FusedSequential
from fluctua.layers.dale import DaleCircuit, DaleError
from fluctua.network.run import hooked
from fluctua.neurons import LI, ArcTan, ExcInhLIF, SigmoidDerivative, SuperSpike
from fluctua.spikes import SpikeBatch
from fluctua.timeloop import engine, events_layers
from shared.spikes import spikes

DTYPE = torch.float64


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What reached each fused operation that ran."""
    calls, original = list[str](), events_layers.run_layers

    def counting(x: Tensor, layers: Any, events: Any = None) -> tuple[Tensor, ...]:
        calls.append("current" if events is None else "events")
        return original(x, layers, events)

    monkeypatch.setattr(events_layers, "run_layers", counting)
    return calls


def layer(n_in: int = 20, n_exc: int = 12, n_inh: int = 3, **options: Any) -> DaleLayer:
    """In double precision, with an input strong enough for spikes and inhibition strong enough to be heard."""
    torch.manual_seed(0)
    dale = DaleLayer(n_in, n_exc, n_inh, **options).double()
    with torch.no_grad():
        for w in (dale.input_exc.weight, dale.input_inh.weight):
            w.mul_(18)
        for w in (dale.circuit.inh_exc.weight, dale.circuit.inh_inh.weight):
            w.mul_(0.3)
    return dale


def both(dale: DaleLayer, x: Tensor) -> dict[str, Tensor]:
    """Spikes of both populations, as hooks on their taps see them."""
    seen: dict[str, Tensor] = {}

    def seeing(name: str) -> Callable[..., None]:
        return lambda module, args, output: seen.update({name: output})

    with hooked([tap.register_forward_hook(seeing(name)) for name, tap in dale.circuit.spikes.items()]):
        out = dale(x)
    assert torch.equal(out, seen["exc"])
    return {name: seen[name] for name in ("exc", "inh")}


def gradients(spikes: dict[str, Tensor], inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """Of a random sum of all spikes; zeros where nothing depends on an input, as in the loop's first steps."""
    generator = torch.Generator().manual_seed(1)
    total = torch.stack([(torch.randn(s.shape, dtype=s.dtype, generator=generator) * s).sum() for s in spikes.values()])
    return torch.autograd.grad(total.sum(), inputs, allow_unused=True, materialize_grads=True)


def assert_close(ours: tuple[Tensor, ...], truth: tuple[Tensor, ...], tolerance: float = 1e-9) -> None:
    for mine, expected in zip(ours, truth, strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=tolerance * float(expected.detach().abs().max()))


def assert_same(dale: DaleLayer, x: Tensor) -> dict[str, Tensor]:
    """Spikes and all gradients are those of the loop over steps in plain torch; returns the spikes."""
    x = x.detach().requires_grad_()
    inputs = [x, *dale.parameters()]
    with engine("reference"):
        truth = both(dale, x)
    ours = both(dale, x)
    for name, true in truth.items():
        assert torch.equal(ours[name], true)
    assert_close(gradients(ours, inputs), gradients(truth, inputs))
    return ours


def heterogeneous() -> DaleLayer:
    """Time constants and thresholds of each neuron, of E learnt neuron by neuron, of I learnt as one."""
    dale, generator = layer(), torch.Generator().manual_seed(2)

    def between(low: float, high: float, n: int) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    taus = between(10e-3, 30e-3, 12), between(5e-3, 15e-3, 12), between(10e-3, 30e-3, 12)
    dale.circuit.exc = ExcInhLIF(*taus, threshold=between(0.5, 1.5, 12), learn_tau=True).double()
    dale.circuit.inh = ExcInhLIF(15e-3, 8e-3, 12e-3, threshold=torch.tensor([0.8]), learn_tau=True).double()
    return dale


LAYERS: dict[str, Callable[[], DaleLayer]] = {
    "default": layer,
    "no recurrent excitation": lambda: layer(recurrent_excitation=False),
    "learnt time constants": lambda: layer(learn_tau=True, tau_inh=12e-3, dt=1e-3),
    "soft reset": lambda: layer(reset="subtract", threshold=4.0),
    "differentiable reset": lambda: layer(differentiable_reset=True),
    "differentiable soft reset": lambda: layer(
        reset="subtract", threshold=4.0, differentiable_reset=True, learn_tau=True
    ),
    "sigmoid": lambda: layer(surrogate=SigmoidDerivative(5.0)),
    "arctangent": lambda: layer(surrogate=ArcTan(3.0)),
    "heterogeneous": heterogeneous,
}

INPUTS: dict[str, Callable[[], Tensor]] = {
    "events": lambda: spikes(60, 4, 20, p=0.15).double(),
    "current": lambda: spikes(60, 4, 20, p=0.6).double() * 0.3,
}


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("name", LAYERS)
def test_spikes_and_gradients_are_those_of_the_loop(name: str, kind: str, fused: list[str]) -> None:
    dale = LAYERS[name]()
    for train in assert_same(dale, INPUTS[kind]()).values():
        assert 0.01 < float(train.detach().mean()) < 0.5
    assert fused == [kind]


@pytest.mark.parametrize(
    "wrap",
    [lambda d: d, lambda d: FusedSequential(d, nn.Linear(12, 3), LI(), nn.Identity()).double()],
    ids=["alone", "chain"],
)
def test_a_spike_batch_gives_what_the_dense_tensor_gives(
    wrap: Callable[[DaleLayer], nn.Module], fused: list[str]
) -> None:
    model, x = wrap(layer()), INPUTS["events"]()
    events = SpikeBatch.from_dense(x)
    dense, sparse = model(x), model(events)
    assert fused == ["events", "events"]
    assert torch.equal(dense, sparse)
    weights = list(model.parameters())
    for mine, true in zip(*(torch.autograd.grad(out.sum(), weights) for out in (sparse, dense)), strict=True):
        assert torch.equal(mine, true)


def test_a_spike_batch_is_made_dense_for_who_steps_or_looks(fused: list[str]) -> None:
    dale, x = layer(), INPUTS["events"]()
    expected, events, seen = dale(x), SpikeBatch.from_dense(x), list[Tensor]()
    handle = dale.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    assert torch.equal(FusedSequential(dale)(events), expected)
    assert torch.equal(seen[0], x)
    handle.remove()
    dale.input_exc.register_forward_hook(nothing)
    assert torch.equal(dale(events), expected)
    with engine("reference"):
        assert torch.equal(dale(events), expected)
    assert fused == ["events", "events", "current"]


def test_graded_events_count_for_what_they_are(fused: list[str]) -> None:
    x = spikes(60, 3, 20, p=0.15).double()
    x = x * (0.5 + torch.rand(x.shape, dtype=DTYPE, generator=torch.Generator().manual_seed(3)))
    assert assert_same(layer(), x)["exc"].detach().mean() > 0.01
    assert fused == ["events"]


@given(
    steps=st.integers(4, 12),
    samples=st.integers(1, 40),  # more than a block takes
    sizes=st.tuples(
        st.sampled_from([1, 3, 63, 64, 65, 130]), st.sampled_from([1, 64, 70]), st.sampled_from([1, 5, 65])
    ),
    seed=st.integers(0, 1000),
    recurrent=st.booleans(),
    p=st.sampled_from([0.2, 0.8]),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_any_shape_gives_what_the_loop_gives(
    steps: int, samples: int, sizes: tuple[int, int, int], seed: int, recurrent: bool, p: float
) -> None:
    x = spikes(steps, samples, sizes[0], p=p, seed=seed).double()
    assert_same(layer(*sizes, recurrent_excitation=recurrent, tau_mem=4e-3, tau_exc=2e-3, learn_tau=True), x)


@pytest.mark.parametrize("kind", INPUTS)
def test_in_single_precision_it_is_as_close_as_rounding_allows(kind: str) -> None:
    dale, x = layer(20, 130, 70).float(), INPUTS[kind]().float()
    inputs: list[Tensor] = list(dale.parameters())
    with engine("reference"):
        truth = both(dale, x)
    ours = both(dale, x)
    # A sum that is rounded in another order moves a potential by some 1e-7. Of 48,000 potentials, spread over a range
    # of about 1, less than 0.01 are expected to lie so close to threshold.
    assert all(torch.equal(ours[name], true) for name, true in truth.items())
    assert_close(gradients(ours, inputs), gradients(truth, inputs), tolerance=1e-5)


def test_the_circuit_alone_takes_currents(fused: list[str]) -> None:
    dale, x = layer(), INPUTS["events"]()
    currents = [way(x).detach().requires_grad_() for way in (dale.input_exc, dale.input_inh)]
    with engine("reference"):
        truth = dale.circuit.simulate(*currents)
    ours = dale.circuit.simulate(*currents)
    assert fused == ["current"]
    for name, true in truth.items():
        assert torch.equal(ours[name], true)
    inputs = [*currents, *dale.circuit.parameters()]
    assert_close(gradients(ours, inputs), gradients(truth, inputs))


def test_in_one_step_nothing_is_heard(fused: list[str]) -> None:
    dale = layer(learn_tau=True)
    out = dale(spikes(1, 3, 20, p=0.2).double())
    assert not out.any()
    out.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in dale.parameters())
    assert fused == ["events"]


# -- who asks for steps gets steps -----------------------------------------------------------------------------


class Doubled(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return 2 * w


class OwnSurrogate(SuperSpike):
    pass


class OwnCell(ExcInhLIF):
    pass


class OwnCircuit(DaleCircuit):
    pass


def nothing(*_: Any) -> None:
    """A hook that only looks."""


def own_circuit(dale: DaleLayer) -> None:
    circuit = dale.circuit
    dale.circuit = OwnCircuit(12, 3, (circuit.exc, circuit.inh), None, True).double()


ALTERATIONS: dict[str, tuple[Callable[[DaleLayer], object], list[str]]] = {
    "hook on a tap": (lambda d: d.circuit.spikes["inh"].register_forward_hook(nothing), ["events"]),
    "hook on neurons": (lambda d: d.circuit.exc.register_forward_hook(nothing), ["events"]),
    "hook on the layer": (lambda d: d.register_forward_hook(nothing), ["events"]),
    "hook on the circuit": (lambda d: d.circuit.register_forward_pre_hook(nothing), ["current"]),
    "hook on an input weight": (lambda d: d.input_inh.register_forward_hook(nothing), ["current"]),
    "parametrised input weight": (
        lambda d: nn.utils.parametrize.register_parametrization(d.input_exc, "weight", Doubled()), ["current"]
    ),
    "hook on a recurrent weight": (lambda d: d.circuit.exc_inh.register_forward_hook(nothing), []),  # type: ignore[union-attr]
    "backward hook": (lambda d: d.circuit.inh_inh.register_full_backward_pre_hook(nothing), []),
    "parametrised recurrent weight": (lambda d: parametrizations.weight_norm(d.circuit.inh_exc), []),
    "another circuit": (own_circuit, []),
    "other neurons": (lambda d: setattr(d.circuit, "exc", OwnCell().double()), []),
    "own surrogate": (lambda d: setattr(d.circuit.exc, "surrogate", OwnSurrogate()), []),
    "two surrogates": (lambda d: setattr(d.circuit.exc, "surrogate", ArcTan()), []),
    "two resets": (lambda d: setattr(d.circuit.inh, "reset", "subtract"), []),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Full backward hook")  # in the first step no input requires a gradient
@pytest.mark.parametrize("name", ALTERATIONS)
def test_what_cannot_be_fused_is_stepped_through(name: str, fused: list[str]) -> None:
    alter, expected = ALTERATIONS[name]
    dale = layer()
    alter(dale)
    dale(INPUTS["events"]())
    assert fused == expected
    assert_same(dale, INPUTS["events"]())


def test_a_threshold_may_be_learnt(fused: list[str]) -> None:
    dale, x = layer(), INPUTS["events"]()
    theta = dale.circuit.exc.threshold.requires_grad_()
    ours = torch.autograd.grad(dale(x).sum(), theta)
    with engine("reference"):
        truth = torch.autograd.grad(dale(x).sum(), theta)
    assert fused == ["events"]
    torch.testing.assert_close(ours, truth, rtol=1e-10, atol=0)


def test_transformations_and_half_precision_are_stepped_through(fused: list[str]) -> None:
    dale, x = layer(), INPUTS["events"]()
    weights = dict(dale.named_parameters())
    found, total = torch.func.grad_and_value(lambda w: torch.func.functional_call(dale, w, (x,)).sum())(weights)
    with torch.autocast("cpu"):
        layer().float()(x.float())
    layer().bfloat16()(x.bfloat16())
    assert fused == []
    out = dale(x).sum()
    assert fused == ["events"]
    out.backward()
    assert torch.equal(out, total)
    assert_close(tuple(w.grad for w in weights.values() if w.grad is not None), tuple(found.values()))


# -- what others see -------------------------------------------------------------------------------------------


def test_a_hook_on_a_tap_may_change_the_spikes() -> None:
    dale, x = layer(), INPUTS["events"]()
    plain = dale(x)
    dale.circuit.spikes["exc"].register_forward_hook(lambda module, args, output: 2 * output)
    assert torch.equal(dale(x), 2 * plain)


def test_initialised_weights_are_those_of_the_loop(fused: list[str]) -> None:
    x = spikes(150, 8, 40, p=0.05).double()
    ours, truth = layer(40, 40, 10), layer(40, 40, 10)
    fluctua.initialize(ours, x, seed=0)
    assert len(fused) > 1
    with engine("reference"):
        fluctua.initialize(truth, x, seed=0)
    # Both search for a steady state from the same numbers but for rounding, 1e-16, which the search amplifies.
    for mine, expected in zip(ours.parameters(), truth.parameters(), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-12)


def test_wrong_signs_are_still_refused() -> None:
    dale = layer()
    with torch.no_grad():
        dale.circuit.inh_exc.weight[0, 0] = -1.0
    with pytest.raises(DaleError, match=r"a weight of -1 breaks Dale's law"):
        dale(INPUTS["events"]())


def test_input_that_does_not_fit_is_refused_as_ever() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        layer()(spikes(5, 2, 19).double())
    with pytest.raises(ValueError, match=r"currents .* of one length"):
        layer().circuit(torch.zeros(5, 2, 12, dtype=DTYPE), torch.zeros(4, 2, 3, dtype=DTYPE))
    with pytest.raises(ValueError, match=r"cannot take spikes of shape \(11,\)"):
        layer().circuit(torch.zeros(5, 2, 11, dtype=DTYPE), torch.zeros(5, 2, 3, dtype=DTYPE))


# -- torch -----------------------------------------------------------------------------------------------------


def test_the_number_of_threads_does_not_matter() -> None:
    dale, x, results = layer(learn_tau=True), spikes(30, 37, 20, p=0.2).double(), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3, 3):
            torch.set_num_threads(threads)
            train = both(dale, x)
            results.append((train["exc"].detach(), gradients(train, list(dale.parameters()))))
    finally:
        torch.set_num_threads(before)
    alone, first, second = results
    assert torch.equal(alone[0], first[0])
    assert all(torch.equal(one, other) for one, other in zip(first[1], second[1], strict=True))
    assert_close(first[1], alone[1], tolerance=1e-12)


def test_any_layout_of_memory_gives_the_same() -> None:
    dale, x = layer(), INPUTS["events"]()
    out = dale(x)
    assert torch.equal(dale(x.transpose(0, 1).contiguous().transpose(0, 1)), out)
    assert torch.equal(dale(x.permute(2, 0, 1).contiguous().permute(1, 2, 0)), out)
    current = [way(x).permute(2, 1, 0).contiguous().permute(2, 1, 0) for way in (dale.input_exc, dale.input_inh)]
    assert torch.equal(dale.circuit(*current), out)


def test_each_gradient_may_be_asked_for_alone() -> None:
    dale, x = layer(learn_tau=True), INPUTS["events"]()
    dale(x).sum().backward()
    whole = {name: p.grad for name, p in dale.named_parameters()}
    dale.zero_grad()
    for name, p in dale.named_parameters():
        for other in dale.parameters():
            other.requires_grad_(other is p)
        expected = whole[name]
        assert expected is not None
        assert_close(torch.autograd.grad(dale(x).sum(), p), (expected,), tolerance=1e-12)
    with torch.no_grad():
        assert not dale(x).requires_grad


def test_a_nan_silences_its_sample_alone() -> None:
    dale, x = layer(), INPUTS["events"]()
    broken = x.clone()
    broken[3, 1, 5] = float("nan")
    out = dale(broken)
    assert torch.equal(out[:, [0, 2, 3]], dale(x)[:, [0, 2, 3]])
    assert float(out[5:, 1].detach().sum()) == 0


def test_an_empty_batch_goes_through() -> None:
    assert layer()(spikes(5, 0, 20).double()).shape == (5, 0, 12)


def test_a_second_derivative_is_refused() -> None:
    dale, x = layer(), INPUTS["events"]()
    weight = dale.input_exc.weight
    (gradient,) = torch.autograd.grad(dale(x).sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match=r"differentiated only once.*engine\('reference'\)"):
        torch.autograd.backward(gradient.sum())
