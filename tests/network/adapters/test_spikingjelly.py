"""Peculiar to SpikingJelly: step modes, thresholds by channel, what readouts return."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fluctua
from fluctua.network.facts import UnsupportedNeuronError
from shared.frameworks.cases import INPUT, member
from shared.frameworks.spikingjelly import flat, layer, lif, neuron


def test_a_threshold_is_read_as_it_is_now() -> None:
    node = neuron.LIFNode()
    node.v_threshold = 3.0
    assert member(node).neuron.threshold == 3.0


def test_a_threshold_of_each_channel_counts_by_its_mean() -> None:
    node = neuron.ActivationAwareIFNode(torch.tensor([1.0, 2.0, 3.0]), v_offset=torch.tensor([0.5, 0.5, 0.5]))
    assert member(node).neuron.threshold == 1.5


@pytest.mark.parametrize(("mode", "time"), [("s", "step"), ("m", "first")], ids=["single step", "multi step"])
def test_the_step_mode_says_where_time_is(mode: str, time: str) -> None:
    assert member(neuron.LIFNode(step_mode=mode)).layout.time == time


@pytest.mark.parametrize("decode", [None, "max-mem"])
def test_readouts_return_the_potentials_of_all_steps(decode: str | None) -> None:
    node = neuron.NonSpikingLIFNode(decode=decode)
    layout, output = member(node).layout, node(torch.randn(5, 2, 3))
    potentials = layout.spikes(node, output)
    assert potentials.shape == ((5 if decode is None else 1), 2, 3)
    answer = layout.answer(node, output, potentials + 1)
    assert torch.equal(torch.stack(list(answer)), torch.stack(list(output)) + 1)


def test_a_network_of_one_step_runs_over_time_by_itself() -> None:
    """The first line of the documentation: no forward, no names, no rates."""
    model = nn.Sequential(layer.Linear(48, 64), lif(), layer.Linear(64, 10), lif())
    report = fluctua.inspect(model, flat())
    assert {p.name: {q.name: q.sources for q in p.pathways} for p in report} == {
        "1": {"0.weight": INPUT},
        "3": {"2.weight": ("1",)},
    }


def test_a_network_with_a_node_that_is_refused_is_left_as_it_is() -> None:
    model = nn.Sequential(layer.Linear(48, 64), lif(), layer.Linear(64, 10), neuron.KLIFNode())
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(UnsupportedNeuronError, match=r"KLIFNode .* rectifies its potential"):
        fluctua.initialize(model, flat(), seed=0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


# -- subclasses with dynamics of their own -----------------------------------------------------------------------


class OwnCharge(neuron.SimpleLIFNode):  # type: ignore[misc]
    v: torch.Tensor

    def __init__(self) -> None:
        super().__init__(tau=2.0, decay_input=True)

    def neuronal_charge(self, x: torch.Tensor) -> None:
        self.v = 0.9 * self.v + x


class LearntLeak(neuron.SimpleIFNode):  # type: ignore[misc]
    v: torch.Tensor

    def __init__(self) -> None:
        super().__init__(v_threshold=0.7)
        self.w = nn.Parameter(torch.tensor(2.2))

    def neuronal_charge(self, x: torch.Tensor) -> None:
        self.v = self.v * self.w.sigmoid() + x


class OwnStep(neuron.LIFNode):  # type: ignore[misc]
    def single_step_functional_forward(self, inputs: Any, states: Any, **options: Any) -> Any:
        v = 0.9 * states[0] + inputs[0]
        spike = self.surrogate_function(v - self.v_threshold)
        return (spike,), ((1 - spike) * v, *states[1:])


class OwnNode(neuron.SimpleBaseNode):  # type: ignore[misc]
    v: torch.Tensor

    def neuronal_charge(self, x: torch.Tensor) -> None:
        self.v = 0.9 * self.v + x


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("kind", [OwnCharge, LearntLeak, OwnStep, OwnNode])
def test_a_subclass_is_read_as_what_it_does(kind: Any, mode: str) -> None:
    node = kind()
    node.step_mode = mode
    facts = member(node).neuron
    node.v_threshold, x = 1e9, torch.zeros(12, 1, 1)
    x[0] = 1.0
    measured = []
    node.step_mode = "s"
    for now in x:
        node(now)
        measured.append(float(node.v))
    np.testing.assert_allclose(facts.kernel.response(12), measured, rtol=1e-6)
    assert facts.threshold == pytest.approx(0.7 if kind is LearntLeak else 1.0)
    assert facts.note is not None
    assert "its own step" in facts.note


def test_a_network_of_subclasses_is_brought_to_its_state() -> None:
    model = nn.Sequential(layer.Linear(48, 64), OwnStep(), layer.Linear(64, 10), OwnCharge())
    for name, population in zip(("1", "3"), fluctua.initialize(model, flat(), seed=0), strict=True):
        assert population.name == name
        assert population.sigma_u == pytest.approx(1.0, rel=0.02)


def test_a_subclass_that_only_sets_options_is_its_base() -> None:
    class Tuned(neuron.LIFNode):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(tau=4.0)

    assert member(Tuned()).neuron.note is None


def test_a_subclass_that_cannot_be_followed_says_why() -> None:
    class Pooled(neuron.SimpleBaseNode):  # type: ignore[misc]
        v: torch.Tensor

        def neuronal_charge(self, x: torch.Tensor) -> None:
            self.v = 0.9 * self.v + x - x.mean()

    with pytest.raises(UnsupportedNeuronError, match=r"Pooled has dynamics of its own, .*mean.*ProbedNeuron"):
        member(Pooled())
