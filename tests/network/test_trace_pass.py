"""Laws of gains and offsets outside of layers: whatever they are made of, they scale or shift, and that counts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.network import Network
from fluctua.neurons import LIF
from shared.spikes import spikes

snn = pytest.importorskip("snntorch")

STEPS, UNITS = 30, 24
BATCH = spikes(STEPS, 16, 40, p=0.2)

Change = Callable[[Tensor, Tensor, int], Any]


class Changed(nn.Module):
    """A layer whose current is changed by a parameter of the model on its way to a neuron."""

    def __init__(self, change: Change, *shape: int, value: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.neuron = nn.Linear(40, UNITS, bias=False), snn.Leaky(beta=0.9)
        self.change, self.p = change, nn.Parameter(torch.full(shape, value))

    def forward(self, x: Tensor) -> Tensor:
        mem, found = self.neuron.init_leaky(), []
        for t in range(STEPS):
            spk, mem = self.neuron(self.change(self.fc(x[t]), self.p, t), mem)
            found.append(spk)
        return torch.stack(found)


def potential(model: Any) -> Tensor:
    """`[T, B, N]`, by the equation of a Leaky that never fires."""
    u, found = torch.zeros(16, UNITS), []
    with torch.no_grad():
        for t in range(STEPS):
            u = 0.9 * u + model.change(model.fc(BATCH[t]), model.p, t)
            found.append(u)
    return torch.stack(found)


GAINS: dict[str, tuple[Change, tuple[int, ...]]] = {
    "used directly": (lambda h, p, t: h * p, (1, UNITS)),
    "behind an index": (lambda h, p, t: h * p[t], (STEPS, 1)),
    "behind exp": (lambda h, p, t: h * p.exp(), (1, UNITS)),
    "behind view": (lambda h, p, t: h * p.view(-1), (1, UNITS)),
    "behind several": (lambda h, p, t: h / (1 + torch.sigmoid(p[t]).reshape(1, -1)), (STEPS, UNITS)),
}


@pytest.mark.parametrize("name", GAINS)
def test_a_gain_is_no_weight_whatever_it_is_a_function_of(name: str) -> None:
    change, shape = GAINS[name]
    model = Changed(change, *shape, value=0.7)
    report = fluctua.initialize(model, BATCH, seed=0)
    assert bool((model.p == 0.7).all())
    assert [q.name for q in report["neuron"].pathways] == ["fc.weight"]
    u = potential(model)
    assert float(u.std(correction=0)) == pytest.approx(1.0, rel=0.01)
    assert float(u.mean()) == pytest.approx(0.0, abs=0.01)


OFFSETS: dict[str, tuple[Change, tuple[int, ...]]] = {
    "a bias": (lambda h, p, t: h + p, (UNITS,)),
    "behind an index": (lambda h, p, t: h + p[t], (STEPS, UNITS)),
    "taken away": (lambda h, p, t: h - p.exp() / 40, (1, UNITS)),
}


@pytest.mark.parametrize("name", OFFSETS)
def test_an_offset_stays_and_its_effect_counts(name: str) -> None:
    change, shape = OFFSETS[name]
    model = Changed(change, *shape, value=0.03)
    fluctua.initialize(model, BATCH, seed=0)
    assert bool((model.p == 0.03).all())
    u = potential(model)
    assert float(u.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(u.std(correction=0)) == pytest.approx(1.0, rel=0.02)


RAW: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "receptive fields": lambda x, p: torch.exp(-0.5 * ((x - p) / 0.4) ** 2),
    "a gain behind a view": lambda x, p: x * p.view(1, -1).exp(),
    "a gain and a constant": lambda x, p: 2 * x * p + 0.1,
}


@pytest.mark.parametrize("name", RAW)
def test_parameters_on_raw_data_that_no_weight_follows_are_no_weights(name: str) -> None:
    """An encoder of neurons without weights stays as it is, and what hears it is set."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fields = nn.Parameter(torch.linspace(0.1, 0.9, 40).reshape(1, 40))
            self.first, self.fc, self.neuron = LIF(), nn.Linear(40, UNITS), LIF()

        def forward(self, x: Tensor) -> Any:
            return self.neuron(self.fc(self.first(10 * RAW[name](x, self.fields))))

    model = Encoder()
    before = model.fields.detach().clone()
    report = fluctua.initialize(model, BATCH, fluctua.Target(), seed=0)
    assert torch.equal(model.fields, before)
    assert "first was skipped: no weight matrix feeds it" in report.notes
    assert [q.name for q in report["neuron"].pathways] == ["fc.weight"]
    assert report["neuron"].sigma_u == pytest.approx(1.0, rel=0.01)


def test_a_weight_that_makes_an_offset_of_raw_input_is_one_more_pathway() -> None:
    model = Changed(lambda h, p, t: h + BATCH[t] @ p, 40, UNITS)
    (population,) = Network.of(model, BATCH).populations
    assert {q.name: q.sources for q in population.pathways} == {"fc.weight": ("input",), "p": ("input",)}
