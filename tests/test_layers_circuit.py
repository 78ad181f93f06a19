"""Recurrent circuits equal a loop written by hand, and are found by trace and inspect."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.layers import DaleLayer, Recurrent, keep_signs
from fluctua.layers.dale import DaleError
from fluctua.neurons import LI, LIF, AdaptiveLIF
from fluctua.theory.laws import Exponential, Gamma, HalfNormal, LogNormal, OneSided
from fluctua.wiring import free_potential, trace


def spikes(*shape: int, p: float = 0.1, seed: int = 0) -> Tensor:
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < p).float()


def by_hand(cell: LIF, weight: nn.Module, current: Tensor) -> Tensor:
    """One step after the other, the spikes of the last one added to the current."""
    state, last, outputs = cell.initial_state(current), None, []
    for x in current.unbind(0):
        last, state = cell.step(x if last is None else x + weight(last), state)
        outputs.append(last)
    return torch.stack(outputs)


CELLS: dict[str, Callable[[], LIF]] = {
    "exponential": LIF,
    "delta": lambda: LIF(20e-3, None),
    "soft reset": lambda: LIF(reset="subtract"),
    "adaptive": AdaptiveLIF,
    "many time constants": lambda: LIF(torch.linspace(10e-3, 30e-3, 12)),
}


@pytest.mark.parametrize("name", CELLS)
def test_recurrent_equals_a_loop_by_hand_with_its_gradients(name: str) -> None:
    torch.manual_seed(0)
    layer = Recurrent(CELLS[name](), nn.Linear(12, 12)).double()
    current = (3 * torch.randn(40, 3, 12, dtype=torch.float64)).requires_grad_()
    out = layer(current)
    assert 0 < float(out.mean()) < 1
    expected = by_hand(layer.cell, layer.weight, current)  # type: ignore[arg-type]
    assert torch.equal(out, expected)
    upstream = torch.randn(out.shape, dtype=torch.float64)
    inputs = [current, *layer.weight.parameters()]
    for mine, theirs in zip(
        torch.autograd.grad(out, inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True
    ):
        assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-12)


def test_a_feature_map_hears_its_neighbours() -> None:
    torch.manual_seed(0)
    layer = Recurrent(LIF(), nn.Conv1d(4, 4, 5, padding=2, bias=False))
    current = 3 * torch.randn(40, 3, 4, 9)
    assert torch.equal(layer(current), by_hand(layer.cell, layer.weight, current))  # type: ignore[arg-type]


def test_the_current_of_a_whole_sequence_comes_one_step_late() -> None:
    layer = Recurrent(LIF(), nn.Linear(5, 5))
    (synapse,) = layer.synapses
    s = spikes(20, 3, 5)
    current = synapse.current(s)
    assert bool((current[0] == 0).all())
    for t in range(1, 20):
        assert torch.allclose(current[t], layer.weight(s[t - 1]), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recurrent(LI(0.1), nn.Linear(5, 5)), "needs a spiking neuron"),
        (lambda: Recurrent(LIF(), nn.Linear(5, 4))(torch.ones(3, 2, 5)), "gives a current of shape"),
        (lambda: Recurrent(LIF(), nn.Linear(4, 5))(torch.ones(3, 2, 5)), "cannot take spikes of shape"),
        (lambda: Recurrent(LIF(), nn.Linear(5, 5))(torch.ones(3, 5)), r"takes currents \[T, B, ...\]"),
        (lambda: Recurrent(LIF(), nn.Linear(5, 5))(torch.ones(3, 2, 5), torch.ones(3, 2, 5)), "takes 1 currents"),
        (lambda: DaleLayer(5, 0), "at least"),
    ],
)
def test_what_does_not_fit_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make", [lambda: Recurrent(LIF(), nn.Linear(6, 6)), lambda: DaleLayer(6, 8)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_copies_types_and_state_dicts(make: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = make().to(dtype if dtype == torch.float64 else torch.float32)
    twin, other = copy.deepcopy(layer), make().to(dtype if dtype == torch.float64 else torch.float32)
    other.load_state_dict(layer.state_dict())
    x = spikes(30, 2, 6, p=0.4).to(dtype if dtype == torch.float64 else torch.float32)
    with torch.no_grad():
        out = layer(x)
    assert torch.equal(out, twin(x))
    assert torch.equal(out, other(x))
    if dtype in (torch.float16, torch.bfloat16):
        low = make().to(dtype)
        assert low(x.to(dtype)).dtype == dtype


def test_dale_layer_equals_a_loop_by_hand() -> None:
    torch.manual_seed(0)
    layer = DaleLayer(20, 12, 3).double()
    x = spikes(60, 4, 20, p=0.3).double()
    c = layer.circuit
    for w in (layer.input_exc.weight, layer.input_inh.weight):
        w.data.mul_(15)
    assert c.exc_exc is not None
    assert c.exc_inh is not None
    a, b_e, b_i = (torch.exp(torch.tensor(-2e-3 / tau, dtype=torch.float64)) for tau in (20e-3, 10e-3, 20e-3))
    state = {k: [torch.zeros(4, n, dtype=torch.float64) for _ in range(3)] for k, n in (("exc", 12), ("inh", 3))}
    last = {"exc": torch.zeros(4, 12, dtype=torch.float64), "inh": torch.zeros(4, 3, dtype=torch.float64)}
    ways = {
        "exc": (layer.input_exc.weight, c.exc_exc.weight, c.inh_exc.weight),
        "inh": (layer.input_inh.weight, c.exc_inh.weight, c.inh_inh.weight),
    }
    outputs = []
    for t in range(60):
        new = {}
        for k, (w_x, w_e, w_i) in ways.items():
            u, i_e, i_i = state[k]
            out = (u > 1).double()
            exc, inh = x[t] @ w_x.T + last["exc"] @ w_e.T, last["inh"] @ w_i.T
            state[k] = [(a * u + (1 - a) * (i_e - i_i)) * (1 - out), b_e * i_e + exc, b_i * i_i + inh]
            new[k] = out
        last = new
        outputs.append(last["exc"])
    expected = torch.stack(outputs)
    assert float(expected.mean()) > 0.01
    assert torch.equal(layer(x), expected)


def test_wrong_signs_are_refused_and_kept_out_by_the_optimiser_hook() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(DaleLayer(40, 40, 10), nn.Linear(40, 4), LI(0.1))
    x = spikes(250, 16, 40, p=0.05)
    fluctua.initialize(model, x, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=10.0)
    handle = keep_signs(optimizer, model)
    model(x).square().sum().backward()
    optimizer.step()
    dale = model[0]
    signed = [w for name, w in dale.named_parameters() if w.ndim == 2]
    assert len(signed) == 6
    assert all(bool((w >= 0).all()) for w in signed)
    assert any(bool((w == 0).any()) for w in signed), "a step this long must have met zero"
    model(x)
    handle.remove()
    for bad in (-0.1, float("nan")):
        with torch.no_grad():
            signed[0][0, 0] = bad
        with pytest.raises(DaleError, match="breaks Dale's law"):
            model(x)


@pytest.mark.parametrize("family", [Exponential(), LogNormal(1.0), Gamma(2.0), HalfNormal()])
def test_initialised_weights_have_their_sign(family: OneSided) -> None:
    torch.manual_seed(0)
    layer = DaleLayer(40, 40, 10, family=family)
    report = fluctua.initialize(layer, spikes(250, 16, 40, p=0.05), seed=0)
    assert all(bool((w >= 0).all()) for w in layer.parameters() if w.ndim == 2)
    assert [p.mu_u for p in report] == pytest.approx([0.0, 0.0], abs=0.1)
    assert [p.sigma_u for p in report] == pytest.approx([1.0, 1.0], rel=0.1)


def test_without_recurrent_excitation() -> None:
    layer = DaleLayer(40, 40, 10, recurrent_excitation=False)
    report = fluctua.initialize(layer, spikes(250, 16, 40, p=0.05), seed=0)
    assert [len(p.pathways) for p in report] == [2, 2]
    assert [p.sigma_u for p in report] == pytest.approx([1.0, 1.0], rel=0.1)


def test_trace_finds_populations_and_pathways() -> None:
    model = nn.Sequential(
        nn.Linear(20, 12, bias=False),
        Recurrent(LIF(), nn.Linear(12, 12)),
        DaleLayer(12, 8, 4),
        nn.Linear(8, 3),
        LI(0.1),
    )
    found = {
        p.name: {q.name: (q.sources, q.port, q.recurrent) for q in p.pathways} for p in trace(model, spikes(20, 3, 20))
    }
    exc, inh = "2.circuit.exc", "2.circuit.inh"
    assert found == {
        "1": {"0.weight": (("input",), 0, False), "1.weight.weight": (("1",), 0, True)},
        exc: {
            "2.input_exc.weight": (("1",), 0, False),
            "2.circuit.exc_exc.weight": ((exc,), 0, True),
            "2.circuit.inh_exc.weight": ((inh,), 1, True),
        },
        inh: {
            "2.input_inh.weight": (("1",), 0, False),
            "2.circuit.exc_inh.weight": ((exc,), 0, True),
            "2.circuit.inh_inh.weight": ((inh,), 1, True),
        },
        "4": {"3.weight": ((exc,), 0, False)},
    }


def test_inspect_measures_the_free_potential_that_the_real_spikes_cause() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 12, bias=False), Recurrent(LIF(), nn.Linear(12, 12, bias=False)))
    x = spikes(120, 6, 20, p=0.2)
    fluctua.initialize(model, x, seed=0)
    (population,) = trace(model, x)
    state = fluctua.inspect(model, x)["1"]
    feed, recurrent = model[0], model[1]
    assert isinstance(recurrent, Recurrent)
    with torch.no_grad():
        outside = feed(x)
        fired = recurrent(outside)
        u = free_potential(outside + recurrent.synapses[0].current(fired), population.neuron.kernel)
    assert state.mu_u == pytest.approx(float(u.mean()), abs=1e-5)
    assert state.sigma_u == pytest.approx(float(u.std(correction=0)), rel=1e-4)
    assert state.rate == pytest.approx(float(fired.mean()) / 2e-3, rel=1e-5)
