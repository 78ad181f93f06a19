"""Laws of tracing circuits: every population and pathway inside is found, and its currents are the true ones."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import fluctua
from fluctua.layers import DaleLayer, Recurrent
from fluctua.network import Pathway, Population, WiringError, population_currents, trace
from fluctua.neurons import LIF
from fluctua.theory.laws import Exponential
from shared.circuit_loops import applied, free_potentials, late
from shared.circuit_networks import CASES, FLAT, Found, linear, made
from shared.spikes import spikes


def found(populations: tuple[Population, ...]) -> Found:
    return {p.name: {q.name: (q.sources, q.port, q.recurrent) for q in p.pathways} for p in populations}


@pytest.mark.parametrize("name", CASES)
def test_populations_and_pathways_are_exactly_those_there_are(name: str) -> None:
    model, x = made(name)
    populations = trace(model, x)
    assert found(populations) == CASES[name].feeds
    assert list(found(populations)) == list(CASES[name].feeds), "in the order in which they run"
    parameters = dict(model.named_parameters())
    for p in populations:
        assert not p.unweighted
        for q in p.pathways:
            assert q.weight is parameters[q.name]


@pytest.mark.parametrize("name", CASES)
def test_tracing_leaves_no_trace(name: str) -> None:
    model, x = made(name)
    before = copy.deepcopy(model.state_dict())
    flags = [p.requires_grad for p in model.parameters()]
    model.eval()
    out = model(x)
    trace(model, x)
    fluctua.inspect(model, x)
    assert torch.equal(model(x), out)
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any("forward" in vars(m) or m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("name", ["recurrent", "a stack of both", "feature maps"])
def test_steps_too_few_for_an_input_to_reach_a_spike_show_the_wiring_too(name: str, steps: int) -> None:
    model, x = made(name)
    assert found(trace(model, x[:steps])) == CASES[name].feeds


def test_the_facts_are_those_of_the_cells() -> None:
    cell = LIF(15e-3, 5e-3, 1e-3, threshold=0.7)
    (p,) = trace(Recurrent(cell, linear(20)), spikes(*FLAT))
    assert p.neuron.threshold == pytest.approx(0.7)
    impulse = torch.zeros(60, 1, 1)
    impulse[0] = 1.0
    never = LIF(15e-3, 5e-3, 1e-3, threshold=1e6)
    assert p.neuron.kernel.response(60) == pytest.approx(never.simulate(impulse).potential.flatten().numpy(), abs=1e-6)
    assert p.arguments == (0,)
    exc, inh = trace(DaleLayer(20, 8, 4), spikes(*FLAT))
    assert (exc.arguments, inh.arguments) == ((0, None), (1, None))
    assert exc.module is inh.module
    assert exc.emitter is not inh.emitter
    assert [float(k.eps_bar) > 0 for k in exc.neuron.kernels] == [True, False]


def test_laws_and_signs_are_those_of_the_synapses() -> None:
    for p in trace(DaleLayer(20, 8, 4, family=Exponential()), spikes(*FLAT)):
        assert [(type(q.family), q.sign) for q in p.pathways] == [(Exponential, 1)] * 3


def inner(model: nn.Module) -> Pathway:
    (pathway,) = (q for p in trace(model, spikes(*FLAT)) for q in p.pathways if q.recurrent)
    return pathway


def test_what_must_be_skipped_because_inside_is_named() -> None:
    def network(weight: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Linear(20, 8), Recurrent(LIF(), weight))

    assert inner(network(linear(8))).skipped_because is None
    assert inner(network(linear(8).requires_grad_(False))).skipped_because == "frozen (requires_grad=False)"
    normed = parametrizations.weight_norm(linear(8))
    assert str(inner(network(normed)).skipped_because).startswith("parametrised")
    *_, last = trace(*made("one weight in two circuits"))
    assert [q.skipped_because for q in last.pathways] == [None, "shared with 1, for which it was initialised"]


class Twice(nn.Module):
    """Calls one circuit two times."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.circuit = nn.Linear(20, 8), Recurrent(LIF(), linear(8))

    def forward(self, x: Tensor) -> Any:
        return self.circuit(self.circuit(self.first(x)))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Recurrent(LIF(), nn.Identity()), "the recurrent synapse weight into model has 0 layers with weights"),
        (Recurrent(LIF(), nn.Sequential(linear(20), linear(20))), "has 2 layers with weights, it needs one, such as"),
        (Twice(), "the neuron circuit was called 2 times"),
    ],
    ids=["no weight", "two weights", "two calls"],
)
def test_what_cannot_be_read_is_refused(model: nn.Module, message: str) -> None:
    with pytest.raises(WiringError, match=message):
        trace(model, spikes(*FLAT))


# -- the free potential ----------------------------------------------------------------------------------------


def flattened(model: nn.Module) -> list[nn.Module]:
    """The layers of nested sequences, in their order."""
    return [leaf for m in model for leaf in flattened(m)] if isinstance(model, nn.Sequential) else [model]


SEQUENTIAL = [name for name in CASES if name not in ("a residual net", "dropout beside the weight")]


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_inspect_sees_the_potential_that_the_actual_spikes_cause(name: str) -> None:
    model, x = made(name)
    model.eval()
    states, populations = fluctua.inspect(model, x), trace(model, x)
    potentials: list[Tensor] = []
    with torch.no_grad():
        for layer in flattened(model):
            potentials += free_potentials(layer, x)
            x = layer(x)
    assert len(potentials) == len(states)
    for state, u, p in zip(states, potentials, populations, strict=True):
        flat = u.flatten(0, 1).flatten(1)
        assert state.mu_u == pytest.approx(float(u.mean()), abs=1e-9)
        assert state.sigma_u == pytest.approx(float(u.std(correction=0)), rel=1e-9)
        assert state.sigma_across == pytest.approx(float(flat.mean(0).std(correction=0)), rel=1e-9)
        if p.neuron.threshold is not None:
            assert state.rate is not None
            assert 1 < state.rate < 300, "spikes there are, or recurrence would add nothing"


def test_recurrent_currents_of_unknown_spikes_are_nothing() -> None:
    model, x = made("Dale")
    assert isinstance(model, DaleLayer)
    for p, outside in zip(trace(model, x), (model.input_exc(x), model.input_inh(x)), strict=True):
        arguments = model.input_exc(x), model.input_inh(x)
        exc, inh = population_currents(p, arguments, {})
        assert exc is not None
        assert torch.equal(exc, outside)
        assert inh is None


def test_a_synapse_with_two_weights_adds_its_current_once() -> None:
    class Factored(nn.Module):
        """A weight of rank 2."""

        def __init__(self) -> None:
            super().__init__()
            self.u, self.v = nn.Parameter(torch.randn(8, 2)), nn.Parameter(torch.randn(2, 8))

        def forward(self, s: Tensor) -> Tensor:
            return s @ (self.u @ self.v).T

    torch.manual_seed(0)
    layer, x = Recurrent(LIF(), Factored()), 8 * spikes(40, 3, 8, p=0.3)
    (p,) = trace(layer, x)
    assert [q.name for q in p.pathways] == ["weight.u", "weight.v"]
    s = layer(x)
    (current,) = population_currents(p, (x,), {"model": s})
    torch.testing.assert_close(current, x + late(applied(layer.weight, s)))
    (state,) = fluctua.inspect(layer, x)
    (u,) = free_potentials(layer, x)
    assert state.sigma_u == pytest.approx(float(u.detach().std(correction=0)), rel=1e-4)
    assert [q.share for q in state.pathways] == [None, None]
