"""Networks of SpikingJelly after one call, simulated by SpikingJelly itself."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.network.facts import UnsupportedNeuronError
from shared.simulated_networks import Calls, assert_nothing_but_weights_changed, assert_wired_and_in_the_wanted_state
from shared.spikingjelly_networks import CASES, INPUT, layer, lif, neuron

FAR = 1e9  # a threshold out of reach


def free_potential(node: Any, calls: Calls) -> Tensor:
    """Of a node that is called the same way and cannot spike, `[T, B, *N]`."""
    if hasattr(node, "decode"):
        return torch.stack(node(calls[0]))
    threshold, node.v_threshold = node.v_threshold, FAR
    node.reset()
    steps = calls if node.step_mode == "s" else [x.unsqueeze(0) for x in calls[0]]
    after = []
    for x in steps:
        node(x)
        after.append(node.v)
    node.v_threshold = threshold
    return torch.stack(after)


def threshold(node: Any) -> float:
    return float(getattr(node, "v_threshold", 1.0))


def memories(model: nn.Module) -> Any:
    """Where SpikingJelly keeps states; they are neither buffers nor in the state_dict."""
    return {name: dict(module._memories) for name, module in model.named_modules() if hasattr(module, "_memories")}


@pytest.mark.parametrize("name", CASES)
def test_every_population_is_in_the_wanted_state(name: str) -> None:
    assert_wired_and_in_the_wanted_state(CASES[name], free_potential, threshold)


@pytest.mark.parametrize("name", CASES)
def test_nothing_but_the_weights_is_changed(name: str) -> None:
    assert_nothing_but_weights_changed(CASES[name], memories)


def test_what_ran_before_does_not_matter() -> None:
    """Not even with another batch size, of which the container of a recurrence keeps its last output."""
    case = CASES["feedback, step by step"]
    fresh, used = case.model(), case.model()
    case.run(used, case.batch()[:7, :3])
    reports = [fluctua.initialize(model, case.batch(), seed=0) for model in (fresh, used)]
    assert str(reports[0]) == str(reports[1])
    weights = [model.get_parameter("0.rc.weight") for model in (fresh, used)]
    assert torch.equal(*weights)


def test_a_network_of_one_step_runs_over_time_by_itself() -> None:
    """The first line of the documentation: no forward, no names, no rates."""
    model = nn.Sequential(layer.Linear(48, 64), lif(), layer.Linear(64, 10), lif())
    report = fluctua.inspect(model, CASES["deep, step by step"].batch())
    assert {p.name: {q.name: q.sources for q in p.pathways} for p in report} == {
        "1": {"0.weight": INPUT},
        "3": {"2.weight": ("1",)},
    }


def test_a_network_with_a_node_that_is_refused_is_left_as_it_is() -> None:
    model = nn.Sequential(layer.Linear(48, 64), lif(), layer.Linear(64, 10), neuron.KLIFNode())
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(UnsupportedNeuronError, match=r"KLIFNode .* rectifies its potential"):
        fluctua.initialize(model, CASES["deep, step by step"].batch(), seed=0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_rate_in_hertz_is_met_where_the_step_is_known() -> None:
    case = CASES["readout"]
    model = case.model()
    report = fluctua.initialize(model, case.batch(), fluctua.Target(rate=20.0), dt=2e-3, seed=0)
    spikes: list[Tensor] = []
    model.get_submodule("1").register_forward_hook(lambda node, args, output: spikes.append(output.detach()))
    case.run(model, case.batch())
    rate = float(spikes[0].mean()) / 2e-3
    assert rate == pytest.approx(20.0, rel=0.05)
    assert report["1"].rate == pytest.approx(rate)
