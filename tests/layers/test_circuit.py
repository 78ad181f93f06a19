"""Populations that hear each other equal a loop written by hand."""

import copy
import io
import pickle
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fluctua.layers import DaleLayer, Recurrent
from fluctua.layers.circuit import Circuit, Synapse
from fluctua.neurons import LI, LIF, AdaptiveLIF, ExcInhLIF
from fluctua.neurons.leaky import Firing
from shared.circuit_loops import ByHand, populations_of, recurrent_by_hand
from shared.fused_calls import fused_calls
from shared.spikes import spikes

CELLS: dict[str, Callable[[], nn.Module]] = {
    "exponential": LIF,
    "delta": lambda: LIF(20e-3, None),
    "soft, differentiable reset": lambda: LIF(reset="subtract", differentiable_reset=True),
    "trained time constants": lambda: LIF(learn_tau=True),
    "many time constants": lambda: LIF(torch.linspace(10e-3, 30e-3, 12), threshold=torch.linspace(0.8, 1.2, 12)),
    "adaptive threshold": AdaptiveLIF,
    "adaptation current": lambda: AdaptiveLIF(kind="current", coupling=0.5, beta=60.0, learn_adaptation=True),
    "exc/inh": ExcInhLIF,
}


def drawn(*shape: int, scale: float = 3.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def recurrent(cell: nn.Module, n: int = 12, *, bias: bool = True) -> Recurrent:
    torch.manual_seed(0)
    return Recurrent(cell, nn.Linear(n, n, bias=bias)).double()


# -- the loop --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CELLS)
def test_recurrence_equals_a_loop_by_hand_with_its_gradients(name: str) -> None:
    layer, current = recurrent(CELLS[name]()), drawn(60, 3, 12).requires_grad_()
    out, expected = layer(current), recurrent_by_hand(layer.cell, layer.weight, current)
    torch.testing.assert_close(out, expected, rtol=0, atol=0)
    assert 0.005 < float(out.detach().mean()) < 0.5
    inputs = [current, *layer.parameters()]
    assert len(inputs) > 2
    upstream = drawn(*out.shape, scale=1.0, seed=1)
    ours, truth = (torch.autograd.grad(o, inputs, upstream) for o in (out, expected))
    for mine, true in zip(ours, truth, strict=True):
        torch.testing.assert_close(mine, true, rtol=0, atol=1e-10 * float(true.abs().max()))
        assert true.abs().max() > 0


def test_the_recurrent_weight_matters_to_loop_and_gradient() -> None:
    """So that the law above is none of feed-forward neurons alone."""
    layer, current = recurrent(LIF()), drawn(60, 3, 12)
    assert not torch.equal(layer(current), layer.cell(current))
    layer(current).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in layer.weight.parameters())


@pytest.mark.parametrize(
    ("weight", "shape"),
    [
        (nn.Conv1d(4, 4, 5, padding=2, bias=False), (4, 9)),
        (nn.Conv2d(2, 2, 3, padding=1), (2, 5, 4)),
        (nn.Sequential(nn.Conv1d(4, 2, 1), nn.ConvTranspose1d(2, 4, 1)), (4, 9)),
    ],
)
def test_a_feature_map_hears_its_neighbours(weight: nn.Module, shape: tuple[int, ...]) -> None:
    layer, current = Recurrent(LIF(), weight).double(), drawn(50, 3, *shape)
    out = layer(current)
    assert out.shape == current.shape
    assert torch.equal(out, recurrent_by_hand(layer.cell, weight, current))
    assert not torch.equal(out, layer.cell(current))


def test_the_first_step_hears_nothing_not_even_a_bias() -> None:
    layer, current = recurrent(LIF(20e-3, None)), drawn(2, 3, 12, scale=0.0)
    with torch.no_grad():
        for p in layer.weight.parameters():
            p.fill_(5.0)
    assert layer(drawn(3, 3, 12, scale=0.0))[2].all(), "a bias of step 1 lifts U over theta in step 2"
    assert not layer(current).any()
    assert torch.equal(layer(current[:1]), layer.cell(current[:1]))


def test_the_current_over_a_sequence_is_what_the_loop_adds() -> None:
    layer, heard = recurrent(LIF()), list[Tensor]()
    handle = layer.weight.register_forward_hook(lambda module, args, output: heard.append(output))
    out = layer(drawn(30, 3, 12))
    handle.remove()
    (synapse,) = layer.synapses
    current = synapse.current(out)
    assert current.shape == out.shape
    assert not current[0].any()
    torch.testing.assert_close(current[1:], torch.stack(heard), rtol=1e-12, atol=1e-12)
    assert len(heard) == 29, "the weight runs once a step"
    assert not synapse.current(out[:1]).any()


def test_an_exc_inh_neuron_is_excited_by_its_recurrence() -> None:
    layer, current = recurrent(ExcInhLIF()), drawn(60, 3, 12)
    by_port = layer.cell(*(c.clamp_min(0) for c in (current, -current)))
    assert by_port.any(), "the cell itself takes two currents"
    assert torch.equal(layer(current), recurrent_by_hand(layer.cell, layer.weight, current))


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many layers ran in each fused operation."""
    return fused_calls(monkeypatch)


def test_a_hook_on_the_tap_sees_the_spikes_of_the_fused_loop(fused: list[int]) -> None:
    layer, current, seen = recurrent(LIF()), drawn(60, 3, 12).requires_grad_(), list[Tensor]()
    layer.spikes["cell"].register_forward_hook(lambda module, args, output: seen.append(output))
    out = layer(current)
    assert fused == [1]
    assert torch.equal(seen[0], out)
    expected = recurrent_by_hand(layer.cell, layer.weight, current)
    assert torch.equal(out, expected)
    (mine,), (true,) = (torch.autograd.grad(spikes.sum(), current) for spikes in (seen[0], expected))
    torch.testing.assert_close(mine, true, rtol=0, atol=1e-10 * float(true.abs().max()))


def test_a_hook_on_the_tap_may_change_the_spikes_that_come_out(fused: list[int]) -> None:
    layer, current = recurrent(LIF()), drawn(60, 3, 12)
    plain = layer(current)
    layer.spikes["cell"].register_forward_hook(lambda module, args, output: 2 * output)
    assert torch.equal(layer(current), 2 * plain)
    assert fused == [1, 1]


class OwnRecurrent(Recurrent):
    pass


LOOKERS: dict[str, tuple[Callable[[Recurrent], Any], list[int]]] = {
    "hook on the neurons": (lambda layer: layer.cell.register_forward_hook(lambda *_: None), [1]),
    "hook on the weight": (lambda layer: layer.weight.register_forward_hook(lambda *_: None), []),
    "hook before the weight": (lambda layer: layer.weight.register_forward_pre_hook(lambda *_: None), []),
}


@pytest.mark.parametrize("name", LOOKERS)
def test_only_who_looks_between_the_steps_makes_it_step(name: str, fused: list[int]) -> None:
    look, expected = LOOKERS[name]
    layer, current = recurrent(LIF()), drawn(60, 3, 12)
    look(layer)
    assert torch.equal(layer(current), recurrent_by_hand(layer.cell, layer.weight, current))
    assert fused == expected


def test_a_subclass_is_stepped_through(fused: list[int]) -> None:
    layer, current = OwnRecurrent(LIF(), nn.Linear(12, 12)).double(), drawn(60, 3, 12)
    assert torch.equal(layer(current), recurrent_by_hand(layer.cell, layer.weight, current))
    assert fused == []


# -- circuits of one's own -------------------------------------------------------------------------------------


class FusedSequential(Circuit):
    """A excites B, B inhibits A; B has two inputs from outside and is what comes out."""

    def __init__(self, inputs: Sequence[tuple[str, int]] | None = None, synapses: Sequence[Synapse] = ()) -> None:
        super().__init__()
        self.a, self.b = ExcInhLIF(), ExcInhLIF()
        self.forth, self.back = nn.Linear(5, 3), nn.Linear(3, 5)
        self.outside, self.more = inputs, synapses
        self.tap()

    @property
    def cells(self) -> Mapping[str, nn.Module]:
        return {"a": self.a, "b": self.b}

    @property
    def synapses(self) -> Sequence[Synapse]:
        return [Synapse(self.forth, "a", "b"), Synapse(self.back, "b", "a", 1), *self.more]

    @property
    def inputs(self) -> Sequence[tuple[str, int]]:
        return [("b", 1), ("a", 0), ("b", 0)] if self.outside is None else self.outside

    @property
    def output(self) -> str:
        return "b"


def test_any_circuit_of_populations_and_ports_equals_a_loop_by_hand() -> None:
    torch.manual_seed(0)
    circuit = FusedSequential().double()
    b_inh, a_exc, b_exc = drawn(60, 4, 3), drawn(60, 4, 5, seed=1), drawn(60, 4, 3, seed=2)
    seen = populations_of(circuit, b_inh, a_exc, b_exc)
    a, b = ByHand(circuit.a), ByHand(circuit.b)
    s_a: Tensor | None = None
    s_b: Tensor | None = None
    for t in range(60):
        into_b = b_exc[t] if s_a is None else b_exc[t] + circuit.forth(s_a)
        into_a: Tensor | None = None if s_b is None else circuit.back(s_b)
        s_a, s_b = a.step(a_exc[t], into_a), b.step(into_b, b_inh[t])
        assert torch.equal(seen["a"][t], s_a)
        assert torch.equal(seen["b"][t], s_b)
    assert torch.equal(circuit(b_inh, a_exc, b_exc), seen["b"])
    assert seen["a"].any()
    assert seen["b"].any()


def chain(**options: Any) -> Callable[[], Tensor]:
    return lambda: FusedSequential(**options)(torch.ones(3, 2, 5), torch.ones(3, 2, 3))


BOTH = [("a", 0), ("b", 0)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recurrent(LI(0.1), nn.Linear(5, 5)), "needs a spiking neuron of fluctua.neurons, got LI"),
        (lambda: Recurrent(nn.ReLU(), nn.Linear(5, 5)), "needs a spiking neuron of fluctua.neurons, got ReLU"),
        (lambda: Recurrent(LIF(), nn.Linear(5, 4))(torch.ones(3, 2, 5)), r"a current of shape \(4,\) to neurons of"),
        (lambda: Recurrent(LIF(), nn.Linear(5, 1))(torch.ones(3, 2, 5)), r"a current of shape \(1,\) to neurons of"),
        (lambda: Recurrent(LIF(), nn.Linear(4, 5))(torch.ones(3, 2, 5)), r"cannot take spikes of shape \(5,\)"),
        (lambda: Recurrent(LIF(), nn.Linear(5, 5))(torch.ones(3, 5)), r"takes currents \[T, B, ...\].*\(3, 5\)"),
        (lambda: Recurrent(LIF(), nn.Linear(5, 5))(torch.ones(0, 2, 5)), r"takes currents \[T, B, ...\].*\(0, 2, 5\)"),
        (lambda: Recurrent(LIF(), nn.Linear(5, 5))(*torch.ones(2, 3, 2, 5)), "takes 1 currents.*got 2"),
        (lambda: FusedSequential(BOTH)(torch.ones(3, 2, 5), torch.ones(4, 2, 3)), "of one length"),
        (chain(inputs=[("a", 0), ("a", 1)]), "b receives no current from outside"),
        (chain(inputs=BOTH, synapses=[Synapse(nn.Linear(3, 3), "b", "b", 2)]), "to port 2 of b: there is a with 2"),
        (chain(inputs=BOTH, synapses=[Synapse(nn.Linear(3, 3), "c", "b")]), "no synapse can lead from c"),
        (chain(inputs=BOTH, synapses=[Synapse(nn.Linear(3, 3), "b", "c")]), "to port 0 of c"),
    ],
)
def test_what_does_not_fit_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# -- life of a module ------------------------------------------------------------------------------------------

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "recurrent": lambda: Recurrent(LIF(), nn.Linear(6, 6)),
    "adaptive": lambda: Recurrent(AdaptiveLIF(learn_tau=True), nn.Linear(6, 6, bias=False)),
    "feature map": lambda: Recurrent(LIF(), nn.Conv1d(3, 3, 3, padding=1)),
    "Dale": lambda: DaleLayer(6, 8),
}


def filled(name: str, seed: int = 0) -> nn.Module:
    """A layer with weights of its own, large enough for spikes."""
    torch.manual_seed(seed)
    layer = LAYERS[name]()
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(3)
    return layer


def sequence(name: str) -> Tensor:
    shape = (40, 2, 3, 2) if name == "feature map" else (40, 2, 6)
    return 4 * spikes(*shape, p=0.5)


@pytest.mark.parametrize("name", LAYERS)
def test_copies_and_saved_weights_give_the_same_spikes(name: str) -> None:
    layer, other, x = filled(name), filled(name, seed=1), sequence(name)
    out = layer(x)
    assert 0 < float(out.detach().mean()) < 1
    assert not torch.equal(other(x), out)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for twin in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), out)
        assert list(twin.state_dict()) == list(layer.state_dict())
        twin_weights = {p.data_ptr() for p in twin.parameters()}
        assert twin_weights.isdisjoint(p.data_ptr() for p in layer.parameters())


@pytest.mark.parametrize("name", LAYERS)
def test_without_gradients_the_spikes_are_the_same(name: str) -> None:
    layer, x = filled(name), sequence(name)
    with torch.no_grad():
        out = layer(x)
    assert not out.requires_grad
    assert torch.equal(out, layer(x))
    with torch.inference_mode():
        assert torch.equal(layer(x), out)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_spikes_come_in_the_type_of_the_current(name: str, dtype: torch.dtype) -> None:
    layer, x = filled(name).to(dtype), sequence(name).to(dtype)
    out = layer(x)
    assert out.dtype == dtype
    assert set(out.unique().tolist()) == {0.0, 1.0}
    out.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == dtype and bool(p.grad.isfinite().all()) for p in weights(layer))


def weights(layer: nn.Module) -> list[nn.Parameter]:
    return [p for p in layer.parameters() if p.ndim > 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_integrated_in_single(dtype: torch.dtype) -> None:
    layer, x = filled("recurrent"), sequence("recurrent").to(dtype)
    assert isinstance(layer, Recurrent)
    assert isinstance(layer.cell, Firing)
    layer.weight.to(dtype)
    population, last = ByHand(layer.cell), None
    for t, out in enumerate(layer(x)):
        current = x[t] if last is None else x[t] + layer.weight(last)
        last = population.step(current.float()).to(dtype)
        assert torch.equal(out, last), f"step {t}"


def test_stochastic_synapses_draw_once_a_step() -> None:
    layer = Recurrent(LIF(), nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5)))
    draws: Counter[str] = Counter()
    layer.weight.register_forward_hook(lambda module, args, output: draws.update(["drawn"]))
    torch.manual_seed(3)
    first = layer(sequence("recurrent"))
    torch.manual_seed(3)
    assert torch.equal(layer(sequence("recurrent")), first)
    assert draws["drawn"] == 2 * 39
