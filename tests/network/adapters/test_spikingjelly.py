"""Peculiar to SpikingJelly: step modes, thresholds by channel, what readouts return."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.methods.components import SilentInputError
from fluctua.network.errors import UnsupportedNeuronError
from shared.frameworks.cases import INPUT, member
from shared.frameworks.spikingjelly import flat, functional, layer, lif, neuron


def test_a_threshold_is_read_as_it_is_now() -> None:
    node = neuron.LIFNode()
    node.v_threshold = 3.0
    assert member(node).neuron.threshold == 3.0


def test_a_threshold_of_each_channel_counts_by_its_mean() -> None:
    node = neuron.ActivationAwareIFNode(torch.tensor([1.0, 2.0, 3.0]), v_offset=torch.tensor([0.5, 0.5, 0.5]))
    assert member(node).neuron.threshold == 1.5


@pytest.mark.parametrize("act", [torch.relu, torch.tanh, torch.sigmoid])
def test_what_an_analog_neuron_emits_has_no_part_in_its_kernel(act: Callable[[Tensor], Tensor]) -> None:
    """A function of the potential, which a threshold resets as it does that of a LIF neuron."""
    nodes = neuron.LIAFNode(act, threshold_related=False, tau=3.0), neuron.LIFNode(tau=3.0)
    analog, plain = (member(node).neuron for node in nodes)
    assert analog.threshold == plain.threshold == 1.0
    assert analog.rest == plain.rest
    np.testing.assert_allclose(analog.kernel.response(9), plain.kernel.response(9), atol=1e-12)


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


def test_a_network_of_nodes_that_are_refused_is_left_as_it_is() -> None:
    model = nn.Sequential(layer.Linear(48, 64), neuron.KLIFNode(), layer.Linear(64, 10), neuron.KLIFNode())
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


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        (OwnCharge, "m"),
        (LearntLeak, "m"),
        (OwnNode, "m"),
        *((k, "s") for k in (OwnCharge, LearntLeak, OwnStep, OwnNode)),
    ],
)
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


def test_a_single_step_that_whole_sequences_pass_over_is_refused() -> None:
    node = OwnStep(step_mode="m")
    x = torch.full((3, 2, 4), 0.1)
    assert torch.equal(node(x), neuron.LIFNode(step_mode="m")(x))
    torch.testing.assert_close(node.v, torch.full((2, 4), 0.1 * (1 - 0.5**3)))
    with pytest.raises(UnsupportedNeuronError, match=r"OwnStep .* runs the sequences of LIFNode .* set step_mode s"):
        member(node)


def test_a_network_of_subclasses_is_brought_to_its_state() -> None:
    model = nn.Sequential(layer.Linear(48, 64), OwnStep(), layer.Linear(64, 10), OwnCharge())
    for name, population in zip(("1", "3"), fluctua.initialize(model, flat(), fluctua.Target(), seed=0), strict=True):
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

    with pytest.raises(UnsupportedNeuronError, match=r"Pooled cannot be read from its own step: .*mean.*ProbedNeuron"):
        member(Pooled())


def simulated(model: nn.Module, name: str, run: Callable[[], object]) -> Tensor:
    """The potential `[T, B, N]` of a node with its threshold out of reach, on what it hears when the model is run."""
    heard: list[Tensor] = []
    node = model.get_submodule(name)
    handle = node.register_forward_pre_hook(lambda module, args: heard.append(args[0].detach().clone()))
    functional.reset_net(model)
    with torch.no_grad():
        run()
    handle.remove()
    functional.reset_net(model)
    free = copy.deepcopy(node)
    free.v_threshold, free.step_mode = 1e9, "s"  # type: ignore[assignment]
    potentials = []
    for x in torch.stack(heard) if node.step_mode == "s" else torch.cat(heard):
        free(x)
        potentials.append(free.v.clone())  # type: ignore[operator]
    return torch.stack(potentials)


@pytest.mark.parametrize("method", ["measured", "kaiming"])
@pytest.mark.parametrize("mode", ["s", "m"])
def test_a_node_that_is_refused_stays_as_it_is_and_what_it_feeds_reaches_its_target(mode: str, method: str) -> None:
    torch.manual_seed(0)
    last = [layer.Linear(64, 32), lif(), layer.Linear(32, 10), neuron.KLIFNode()]
    model = nn.Sequential(layer.Linear(48, 64), lif(), layer.Linear(64, 64), neuron.KLIFNode(), *last)
    functional.set_step_mode(model, mode)
    with torch.no_grad():
        model.get_parameter("2.weight").mul_(10)  # else it is silent
    kept = {name: model.get_parameter(name).detach().clone() for name in ("2.weight", "2.bias", "6.weight", "6.bias")}
    report = fluctua.initialize(model, flat(), seed=0, method=method)
    assert [(p.name, [q.sources for q in p.pathways]) for p in report] == [("1", [INPUT]), ("5", [("3",)])]
    assert all(torch.equal(value, model.get_parameter(name)) for name, value in kept.items())
    for name, fed in (("3", "2.weight"), ("7", "6.weight")):
        assert any(
            note.startswith(f"{name} was left as it is, fed by {fed} as before: KLIFNode") for note in report.notes
        )
    assert not any("feeds no known neuron" in note for note in report.notes)
    for p in report:
        u = simulated(model, p.name, lambda: model(flat()) if mode == "m" else [model(x) for x in flat()])
        assert p.sigma_u == pytest.approx(float(u.std(correction=0)), rel=1e-3)
        if method == "measured":
            assert (p.mu_u, p.sigma_u) == pytest.approx((0.0, 1.0), abs=0.02)


def test_of_a_node_that_is_refused_and_silent_the_message_says_that_it_was_left() -> None:
    model = nn.Sequential(layer.Linear(48, 64), neuron.KLIFNode(), layer.Linear(64, 10), lif())
    for parameter in model[0].parameters():
        nn.init.zeros_(parameter)
    with pytest.raises(
        SilentInputError, match=r"no spike reaches 3 .*: 1 gave none.*1 was left as it is, fed by 0.weight"
    ) as refusal:
        fluctua.initialize(model, flat(), seed=0)
    assert "Activity needs time" not in str(refusal.value)


def test_a_node_that_is_refused_cannot_be_chosen() -> None:
    model = nn.Sequential(layer.Linear(48, 64), lif(), layer.Linear(64, 10), neuron.KLIFNode())
    assert fluctua.initialize(model, flat(), seed=0, populations=["1"])["1"].sigma_u == pytest.approx(1.0, rel=0.02)
    with pytest.raises(UnsupportedNeuronError, match=r"KLIFNode .* rectifies its potential"):
        fluctua.initialize(model, flat(), seed=0, populations=["3"])


@pytest.mark.parametrize("mode", ["s", "m"])
def test_images_shown_for_some_steps_are_as_the_loop_of_a_user_shows_them(mode: str) -> None:
    images = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = nn.Sequential(layer.Conv2d(1, 4, 3), lif(), layer.Flatten(), layer.Linear(144, 10), lif())
    functional.set_step_mode(model, mode)

    def mine() -> object:
        return model(images.expand(12, *images.shape)) if mode == "m" else [model(images) for _ in range(12)]

    report = fluctua.initialize(model, images, fluctua.Target(), time=None, steps=12, seed=0)
    assert report.ran.startswith("T = 12 steps x B = 16 samples, ")
    for p in report:
        u = simulated(model, p.name, mine)
        assert (float(u.mean()), float(u.std(correction=0))) == pytest.approx((p.mu_u, p.sigma_u), abs=1e-3)
        assert (p.mu_u, p.sigma_u) == pytest.approx((0.0, 1.0), abs=0.02)


def test_potentials_that_a_neuron_stores_are_no_part_of_its_step() -> None:
    nodes = [neuron.IFNode(store_v_seq=True), neuron.IFNode()]
    reports = []
    for node in nodes:
        torch.manual_seed(0)
        model = nn.Sequential(layer.Linear(48, 64), node)
        functional.set_step_mode(model, "m")
        reports.append(fluctua.initialize(model, flat(), seed=0))
    assert reports[0]["1"].sigma_u == reports[1]["1"].sigma_u == pytest.approx(1.0, rel=1e-3)
