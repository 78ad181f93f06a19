"""Laws of sources that no weight can make fire: what hears them is set for the spikes that they may give one day."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.methods.components import SilentInputError
from fluctua.methods.mute import poisson_spikes
from fluctua.network import Network
from fluctua.neurons import LI, LIF
from fluctua.theory.target import Moments
from shared.free import free_potentials, sigma
from shared.spikes import spikes

N = 40
BATCH = spikes(60, 12, N, p=0.15)


class Pooled(nn.Module):
    """A neuron that gets a mean of spikes and no weight, and a layer that hears it; both beside another way."""

    def __init__(self, size: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.first, self.mute = nn.Linear(N, N, bias=False), LIF(), LIF()
        self.deep, self.deaf, self.past = nn.Linear(N, N, bias=False), LIF(), nn.Linear(N, N, bias=False)
        self.deeper, self.last = nn.Linear(N, N, bias=False), LIF()
        self.head, self.out, self.size = nn.Linear(N, 3), LI(), size

    def forward(self, x: Tensor) -> Any:
        one = self.first(self.stem(x))
        pooled = self.mute(
            self.size * one.unflatten(-1, (-1, 4)).mean(-1, keepdim=True).expand(-1, -1, -1, 4).flatten(2)
        )
        return self.out(self.head(self.last(self.deeper(self.deaf(self.deep(pooled))) + self.past(one))))


def test_what_hears_a_mute_source_is_set_for_the_spikes_that_it_does_not_give() -> None:
    model = Pooled()
    report = fluctua.initialize(model, BATCH, seed=0)
    assert report["mute"].rate == report["deaf"].rate == report["deaf"].sigma_u == 0
    assert sigma(free_potentials(model, BATCH)["last"]) > 0.5
    said = [w for w in report.warnings if "no weight can change that" in w]
    assert [w.partition(" on this batch")[0] for w in said] == [
        "no spike of mute reaches deaf",
        "no spike of deaf reaches last",
    ]
    # Spikes at the rate that the theory predicts at xi = 1 bring the layer to its target.
    probability = (report["first"].rate_predicted or 0.0) * 2e-3
    with torch.no_grad():
        u = free_potentials(nn.Sequential(model.deep, LIF()), spikes(200, 12, N, p=probability, seed=1))["1"]
    assert sigma(u) == pytest.approx(1.0, rel=0.2)


def test_the_spikes_that_it_may_give_are_drawn_from_the_seed() -> None:
    weights = []
    for k in range(2):
        model = Pooled()
        torch.manual_seed(k)
        fluctua.initialize(model, BATCH, seed=0)
        weights.append(model.deep.weight)
    assert torch.equal(*weights)


def test_predicted_spikes_are_as_large_as_those_of_the_neuron() -> None:
    snn = pytest.importorskip("snntorch")
    model = nn.Sequential(nn.Linear(N, N), snn.Leaky(beta=0.9, graded_spikes_factor=0.25, init_hidden=True))
    (population,) = Network.of(model, BATCH).populations
    wanted = Moments(np.zeros(()), np.ones(()))
    predicted = poisson_spikes(population, wanted, BATCH, torch.Generator().manual_seed(0))
    assert set(predicted.flatten().tolist()) == {0.0, 0.25}


def test_one_that_fires_is_measured() -> None:
    model = Pooled(size=30.0)
    report = fluctua.initialize(model, BATCH, seed=0)
    assert not any("no weight can change" in w for w in report.warnings)
    assert sigma(free_potentials(model, BATCH)["deaf"]) == pytest.approx(1.0, rel=0.01)


def test_silence_that_longer_trials_would_end_is_refused() -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(6) for layer in (nn.Linear(N, N, bias=False), LIF())]
    with pytest.raises(SilentInputError, match="Activity needs time"):
        fluctua.initialize(nn.Sequential(*layers), BATCH[:8], seed=0)
