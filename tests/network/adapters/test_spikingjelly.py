"""Peculiar to SpikingJelly: step modes, thresholds by channel, what readouts return."""

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
