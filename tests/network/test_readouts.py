"""Laws of readouts: what is read by its potential has a readout's target, whatever its class says of spikes."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.layers import Recurrent
from fluctua.network import Network
from fluctua.neurons import LI, LIF
from shared.spikes import spikes

snn = pytest.importorskip("snntorch")
sj = pytest.importorskip("spikingjelly.activation_based.neuron")

Read = Callable[[Any, Any], Any]


class ReturnsPotential(sj.LIFNode):  # type: ignore[misc,name-defined]
    """As SpikingJelly's users write a readout."""

    v: Any

    def single_step_forward(self, x: Tensor) -> Any:
        self.v = self.v + (x - self.v) / self.tau
        return self.v


class Stepwise(nn.Module):
    """A hidden layer and an output layer, of which it returns what `read` takes, step by step or at the end."""

    def __init__(self, last: nn.Module, read: Read, threshold: float = 1.0, *, each: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.hidden = nn.Linear(40, 60), sj.LIFNode(v_threshold=threshold)
        self.fc2, self.last, self.read, self.each = nn.Linear(60, 5), last, read, each

    def forward(self, x: Tensor) -> Tensor:
        shown = []
        for now in x:
            out = self.last(self.fc2(self.hidden(self.fc1(now))))
            shown.append(self.read(self.last, out) if self.each else out)
        return torch.stack(shown) if self.each else self.read(self.last, out)


def of_v(neuron: Any, out: Any) -> Tensor:
    return neuron.v  # type: ignore[no-any-return]


def of_both(neuron: Any, out: Any) -> Tensor:
    return out + neuron.v  # type: ignore[no-any-return]


def of_spikes(neuron: Any, out: Any) -> Any:
    return out[0] if isinstance(out, tuple) else out


def of_mem(neuron: Any, out: Any) -> Tensor:
    return out[1]  # type: ignore[no-any-return]


def softmax_of_v(neuron: Any, out: Any) -> Tensor:
    return torch.softmax(neuron.v, 1)


def leaky(**options: Any) -> nn.Module:
    return snn.Leaky(beta=0.8, init_hidden=True, output=True, **options)  # type: ignore[no-any-return]


READOUTS: dict[str, Callable[[], nn.Module]] = {
    "infinite": lambda: Stepwise(sj.LIFNode(v_threshold=math.inf), of_v),
    "1e9": lambda: Stepwise(sj.LIFNode(v_threshold=1e9), of_v),
    "20000, its spikes returned": lambda: Stepwise(sj.LIFNode(v_threshold=20000.0), of_spikes),
    "its potential returned": lambda: Stepwise(sj.LIFNode(v_threshold=100.0), of_v),
    "its last potential returned": lambda: Stepwise(sj.LIFNode(), of_v, each=False),
    "a subclass that returns its potential": lambda: Stepwise(ReturnsPotential(), of_spikes),
    "its potential, through a function that needs it": lambda: Stepwise(ReturnsPotential(), softmax_of_v, each=False),
    "its membrane returned": lambda: Stepwise(leaky(), of_mem),
    "no reset": lambda: Stepwise(leaky(reset_mechanism="none"), of_mem),
}
SPIKING: dict[str, Callable[[], nn.Module]] = {
    "its spikes returned": lambda: Stepwise(sj.LIFNode(), of_spikes),
    "its spikes and its potential returned": lambda: Stepwise(sj.LIFNode(), of_both),
    "its spikes returned, never reset": lambda: Stepwise(leaky(reset_mechanism="none"), of_spikes),
    "a threshold as large as the others'": lambda: Stepwise(sj.LIFNode(v_threshold=2000.0), of_spikes, 2000.0),
}
BATCH = spikes(30, 8, 40, p=0.2)


@pytest.mark.parametrize("name", READOUTS)
def test_what_is_read_by_its_potential_has_the_readouts_target(name: str) -> None:
    model: Any = READOUTS[name]()
    report = fluctua.initialize(model, BATCH, readout=fluctua.Target(sigma=0.5), seed=0)
    assert report["last"].threshold is None
    assert "last: a readout" in " ".join(report.notes)
    assert float(potentials(model).std(correction=0)) == pytest.approx(0.5, rel=0.01)
    assert report["hidden"].threshold == 1.0


def potentials(model: Any) -> Tensor:
    """Of the output layer, by its own equations: after each step it has no reset but by spikes that it cannot have."""
    currents: list[Tensor] = []
    model.last.register_forward_pre_hook(lambda module, args: currents.append(args[0].detach()))
    model.hidden.reset()
    with torch.no_grad():
        model(BATCH)
    leak, gain = (0.5, 0.5) if hasattr(model.last, "v_threshold") else (0.8, 1.0)
    u, found = torch.zeros(8, 5), []
    for current in currents:
        u = leak * u + gain * current
        found.append(u)
    return torch.stack(found)


@pytest.mark.parametrize("name", SPIKING)
def test_what_is_read_by_its_spikes_is_none(name: str) -> None:
    populations = Network.of(SPIKING[name](), BATCH).populations
    assert [p.neuron.threshold is not None for p in populations] == [True, True]


def far() -> nn.Module:
    return nn.Sequential(nn.Linear(40, 20), LIF(), nn.Linear(20, 5), LIF(threshold=5000.0))


def test_an_empty_list_of_readouts_takes_what_can_spike_for_spiking() -> None:
    assert fluctua.inspect(far(), BATCH)["3"].threshold is None
    assert fluctua.inspect(far(), BATCH, readouts=[])["3"].threshold == 5000


@pytest.mark.parametrize("call", [fluctua.inspect, fluctua.initialize])
def test_a_readout_is_named(call: Any) -> None:
    model = nn.Sequential(nn.Linear(40, 20), LIF(), nn.Linear(20, 5), LIF())
    assert [p.threshold for p in call(model, BATCH)] == [1.0, 1.0]
    assert [p.threshold for p in call(model, BATCH, readouts=["3"])] == [1.0, None]


def test_a_readout_of_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no population 'li_out' for readouts=: the model has 1, 3"):
        fluctua.inspect(far(), BATCH, readouts=["li_out"])


def test_a_neuron_inside_the_network_is_no_readout_though_it_never_resets() -> None:
    layers = [nn.Linear(40, 20), snn.Leaky(beta=0.8, init_hidden=True, reset_mechanism="none")]
    populations = Network.of(nn.Sequential(*layers, nn.Linear(20, 5), leaky()), BATCH).populations
    assert [p.neuron.threshold for p in populations] == [1.0, 1.0]


def test_what_fires_by_its_bias_alone_is_no_readout() -> None:
    """A tiny current decides only if it changes what comes out."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 8), Recurrent(LIF(threshold=0.02), nn.Linear(8, 8)))
    network = Network.of(model, spikes(40, 4, 40))
    assert [p.neuron.threshold for p in network.populations] == [pytest.approx(0.02)]


def test_the_default_target_of_a_readout_is_that_of_what_it_is_trained_for() -> None:
    model = nn.Sequential(nn.Linear(40, 30), LIF(), nn.Linear(30, 2), LI())
    values = 3.0 + 0.5 * torch.randn(BATCH.shape[1], 2, generator=torch.Generator().manual_seed(0))
    wanted = {
        "x alone": (BATCH, 0.1),
        "classes": ((BATCH, torch.arange(BATCH.shape[1]) % 2), 0.1),
        "values": ((BATCH, values), 0.1 * float(values.std(correction=0))),
        "one value": ((BATCH, torch.ones(BATCH.shape[1])), 0.1),
    }
    for name, (batch, sigma) in wanted.items():
        report = fluctua.initialize(model, batch, seed=0)
        assert report["3"].sigma_u == pytest.approx(sigma, rel=0.01), name
    assert "only the spread of the values was used" in fluctua.initialize(model, (BATCH, values), seed=0).notes[0]
    report = fluctua.initialize(model, (BATCH, values), readout=fluctua.Target(sigma=0.5), seed=0)
    assert report["3"].sigma_u == pytest.approx(0.5, rel=0.01)


OUTPUTS: dict[str, Callable[[], nn.Module]] = {
    "spikes of all steps": lambda: Stepwise(sj.LIFNode(), of_spikes),
    "spikes beside the potential": lambda: Stepwise(leaky(), lambda neuron, out: torch.stack(out)),
    "counts": lambda: nn.Sequential(nn.Linear(40, 60), LIF(), nn.Linear(60, 5), LIF(), Summed()),
    "spikes pooled": lambda: nn.Sequential(nn.Linear(40, 60), LIF(), nn.Linear(60, 6), LIF(), nn.AvgPool1d(2)),
}
HIDDEN: dict[str, Callable[[], nn.Module]] = {
    "the only one": lambda: nn.Sequential(nn.Linear(40, 60), LIF()),
    "read by weights": lambda: nn.Sequential(nn.Linear(40, 60), LIF(), nn.Linear(60, 5), LIF(), nn.Linear(5, 2)),
    "heard by itself": lambda: nn.Sequential(
        nn.Linear(40, 60), LIF(), nn.Linear(60, 5), Recurrent(LIF(), nn.Linear(5, 5, bias=False))
    ),
}


class Summed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(0)


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_whose_spikes_are_returned_starts_quietly_unless_a_target_is_given(name: str) -> None:
    report = fluctua.initialize(OUTPUTS[name](), BATCH, seed=0)
    assert [p.xi for p in report] == pytest.approx([1.0, 3.0], rel=0.02)
    assert any("the model returns the spikes" in note for note in report.notes)
    report = fluctua.initialize(OUTPUTS[name](), BATCH, fluctua.Target(), seed=0)
    assert [p.xi for p in report] == pytest.approx([1.0, 1.0], rel=0.02)
    assert not any("the model returns the spikes" in note for note in report.notes)


@pytest.mark.parametrize("name", HIDDEN)
def test_spikes_that_feed_something_or_hear_no_population_are_those_of_no_output(name: str) -> None:
    report = fluctua.initialize(HIDDEN[name](), BATCH, seed=0)
    assert [p.xi for p in report] == pytest.approx([1.0] * len(report), rel=0.05)


def test_other_methods_know_no_outputs() -> None:
    report = fluctua.initialize(OUTPUTS["counts"](), BATCH, method="kaiming", seed=0)
    assert not any("the model returns the spikes" in note for note in report.notes)
