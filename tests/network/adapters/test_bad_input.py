"""Laws of models that are not as one would like them: each is initialised, or refused in one sentence that says why."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.network import ProbedNeuron, WiringError
from fluctua.network.errors import UnsupportedNeuronError
from fluctua.neurons import LIF
from shared.frameworks.cases import needed
from shared.spikes import spikes

snntorch = needed("snntorch")

T, B, N, HIDDEN = 60, 16, 20, 32


def batch() -> Tensor:
    return spikes(T, B, N)


def leaky() -> Any:
    return snntorch.Leaky(0.9, init_hidden=True)


def linear(n: int = HIDDEN) -> nn.Linear:
    return nn.Linear(n, HIDDEN)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(linear(N), leaky(), nn.Dropout(0.5), linear(), leaky())


class Stranger(nn.Module):
    """A neuron that fluctua does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.restart()

    def restart(self) -> None:
        self.v: Any = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.v = 0.9 * self.v + x
        spikes: Tensor = (self.v > 1).to(x) + self.v - self.v.detach()  # straight through
        self.v = self.v * (self.v <= 1)
        return spikes


class Net(nn.Module):
    """Two weights and two neurons; how they act on one step is `step`."""

    def __init__(self, first: nn.Module | None = None, second: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = linear(N), linear()
        self.first, self.second = first or leaky(), second or leaky()

    def forward(self, x: Tensor) -> Any:
        return self.second(self.b(self.first(self.a(x))))


def on_target(report: fluctua.Report) -> bool:
    return all(p.sigma_u == pytest.approx(p.target_sigma_u, rel=0.05) for p in report if p.target_sigma_u is not None)


# -- mixed frameworks ---------------------------------------------------------------------------------------------


def test_neurons_of_two_frameworks_that_are_called_step_by_step_go_together() -> None:
    spikingjelly = needed("spikingjelly.activation_based.neuron")
    report = fluctua.initialize(Net(second=spikingjelly.LIFNode()), batch(), seed=0)
    assert {p.name: [q.sources for q in p.pathways] for p in report} == {"first": [("input",)], "second": [("first",)]}
    assert on_target(report)


def test_a_loop_over_the_steps_of_one_framework_goes_with_a_sequence_neuron_of_another() -> None:
    class Mixed(Net):
        def forward(self, x: Tensor) -> Any:
            return self.second(self.b(torch.stack([self.first(self.a(now)) for now in x])))

    report = fluctua.initialize(Mixed(second=LIF(dt=1e-3)), batch(), seed=0)
    assert [p.name for p in report] == ["first", "second"]
    assert on_target(report)


def test_a_sequence_neuron_in_a_model_for_single_steps_is_refused() -> None:
    with pytest.raises(WiringError, match="called once with the whole sequence"):
        fluctua.initialize(Net(second=LIF(dt=1e-3)), batch(), seed=0)


# -- reuse --------------------------------------------------------------------------------------------------------


class CalledTwice(Net):
    def forward(self, x: Tensor) -> Any:
        return self.first(self.b(self.first(self.a(x))))


class CalledTwiceInALoop(CalledTwice):
    def forward(self, x: Tensor) -> Any:
        return torch.stack([super(CalledTwiceInALoop, self).forward(now) for now in x])


@pytest.mark.parametrize("model", [CalledTwice, CalledTwiceInALoop])
def test_a_neuron_that_is_called_twice_in_a_step_is_refused(model: type[Net]) -> None:
    with pytest.raises(WiringError, match="a module of its own"):
        fluctua.initialize(model(), batch(), seed=0)


def test_shared_weights_are_set_for_the_first_population_that_they_feed() -> None:
    class Shared(Net):
        def forward(self, x: Tensor) -> Any:
            return self.second(self.b(self.get_submodule("third")(self.b(self.first(self.a(x))))))

    model = Shared()
    model.add_module("third", leaky())
    report = fluctua.initialize(model, batch(), seed=0)
    assert on_target(report)
    assert report["second"].target_sigma_u is None
    assert "b.weight was skipped: shared with third, for which it was initialised" in report.notes


# -- modes and machinery ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_the_mode_of_a_model_is_kept_and_counts(training: bool) -> None:
    """The weight behind the dropout makes the same sigma_U with and without it."""
    model = network().train(training)
    report = fluctua.initialize(model, batch(), seed=0)
    assert on_target(report)
    assert all(module.training == training for module in model.modules())


@pytest.mark.parametrize("in_place", [True, False], ids=["model.compile()", "torch.compile(model)"])
def test_a_compiled_model_is_initialised_as_the_model_itself(in_place: bool) -> None:
    model, plain = network(), network()
    compiled: Any = model
    if in_place:
        model.compile()
    else:
        compiled = torch.compile(model)
    fluctua.initialize(compiled, batch(), seed=0)
    fluctua.initialize(plain, batch(), seed=0)
    for weight, expected in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(weight, expected)


def test_a_neuron_that_is_never_reached_is_no_population_and_its_weight_is_named() -> None:
    model, lonely = Net(), linear()
    model.add_module("third", leaky())
    model.add_module("c", lonely)
    before = lonely.weight.clone()
    report = fluctua.initialize(model, batch(), seed=0)
    assert [p.name for p in report] == ["first", "second"]
    assert torch.equal(lonely.weight, before)
    assert any(note.startswith("c feeds no known neuron") for note in report.notes)


def test_a_frozen_layer_is_skipped_because_and_the_rest_reaches_its_target() -> None:
    model = network()
    weight = model.get_parameter("0.weight").requires_grad_(False)
    before = weight.clone()
    report = fluctua.initialize(model, batch(), seed=0)
    assert torch.equal(weight, before)
    assert not weight.requires_grad
    assert "0.weight was skipped: frozen (requires_grad=False)" in report.notes
    assert on_target(report)


# -- unknown neurons ----------------------------------------------------------------------------------------------


def test_a_model_of_unknown_neurons_says_how_to_name_them() -> None:
    with pytest.raises(WiringError, match=r"Stranger\) is known; name yours with neurons="):
        fluctua.initialize(Net(Stranger(), Stranger()), batch(), seed=0)


def test_an_unknown_neuron_among_known_ones_leaves_its_weight_alone_and_says_so() -> None:
    report = fluctua.initialize(Net(Stranger()), batch(), seed=0)
    assert [p.name for p in report] == ["second"]
    assert any(re.match(r"a was skipped: it acts on .* through .*neurons=", note) for note in report.notes)


def test_a_named_neuron_among_known_ones_is_one_of_them() -> None:
    model = Net(Stranger())
    report = fluctua.initialize(model, batch(), seed=0, neurons={Stranger: ProbedNeuron(1.0, "v", reset="restart")})
    assert [p.name for p in report] == ["first", "second"]
    assert on_target(report)


def test_a_wrong_description_of_a_neuron_says_what_to_check() -> None:
    with pytest.raises(UnsupportedNeuronError, match=r"has no attribute 'mem'.*check time=, membrane="):
        fluctua.initialize(
            Net(Stranger()), batch(), seed=0, neurons={Stranger: ProbedNeuron(1.0, "mem", reset="restart")}
        )


# -- batches ------------------------------------------------------------------------------------------------------


def test_a_batch_that_the_model_cannot_run_on_says_what_it_said_and_the_way_out() -> None:
    with pytest.raises(WiringError, match=r"cannot be run over time: .*cannot be multiplied.*give forward="):
        fluctua.initialize(network(), batch().transpose(0, 2), seed=0)
