"""Laws of neurons whose thresholds differ: each is as far from its own as was asked for."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.layers import OverTime
from fluctua.methods import Poisson
from fluctua.neurons import LI, LIF
from fluctua.theory import Target
from fluctua.theory.target import InfeasibleTargetError
from shared.spikes import spikes

N = 24
BATCH = spikes(80, 16, 40, p=0.2)


def thresholds(n: int = N) -> Tensor:
    return torch.linspace(0.1, 2.0, n)


def potential(current: Tensor) -> Tensor:
    """Of LIF neurons with their usual constants that never fire, by their equations: `[T, B, *N]`."""
    a, b = math.exp(-2e-3 / 20e-3), math.exp(-2e-3 / 10e-3)
    u = i = torch.zeros_like(current[0])
    found = []
    for x in current.detach():
        found.append(u)
        u, i = a * u + (1 - a) * i, b * i + x
    return torch.stack(found)


def distances(u: Tensor, theta: Tensor) -> Tensor:
    """xi of each neuron, or map: potential `[T, B, N, ...]`, thresholds `[N]`."""
    by_unit = u.transpose(0, 2).flatten(1)
    return (theta - by_unit.mean(1)) / by_unit.std(1, correction=0)


@pytest.mark.parametrize("norm", [False, True])
def test_every_neuron_has_the_wanted_distance_from_its_own_threshold(norm: bool) -> None:
    torch.manual_seed(0)
    first = [nn.Linear(40, N), *([OverTime(nn.BatchNorm1d(N))] if norm else [])]
    model = nn.Sequential(*first, LIF(threshold=thresholds()), nn.Linear(N, 3), LI())
    report = fluctua.initialize(model, BATCH, Target(xi=1.5), seed=0)
    u = potential(model[: len(first)](BATCH))
    torch.testing.assert_close(distances(u, thresholds()), torch.full((N,), 1.5), rtol=0.1 if norm else 0.02, atol=0)
    assert report[0].xi == pytest.approx(1.5, rel=0.02)
    assert report[0].saturated == 0


def test_maps_have_the_wanted_distance_from_their_own_threshold() -> None:
    torch.manual_seed(0)
    theta = thresholds(6)
    conv = OverTime(nn.Conv1d(2, 6, 5))
    model = nn.Sequential(conv, LIF(threshold=theta[:, None]), nn.Flatten(2), nn.Linear(6 * 16, 3), LI())
    x = spikes(60, 16, 2, 20, p=0.2)
    report = fluctua.initialize(model, x, seed=0)
    torch.testing.assert_close(distances(potential(conv(x)), theta), torch.ones(6), rtol=0.02, atol=0)
    assert report["1"].xi == pytest.approx(1.0, rel=0.02)


def test_a_rate_is_met_by_neurons_of_any_threshold() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, N), LIF(threshold=thresholds()), nn.Linear(N, 3), LI())
    fluctua.initialize(model, BATCH, Target(rate=8.0), seed=0)
    rates = model[1](model[0](BATCH)).detach().mean((0, 1)) / 2e-3
    assert float(rates.min()) > 4
    assert float(rates.max()) < 12


def test_the_formula_of_the_paper_gives_each_row_its_own_size() -> None:
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(400, N), LIF(threshold=thresholds()), nn.Linear(N, 3), LI())
    fluctua.initialize(model, spikes(80, 4, 400, p=0.1), method=Poisson(nu=50.0), seed=0)
    sizes = model[0].weight.detach().std(1) / thresholds()
    assert float(sizes.std() / sizes.mean()) < 0.1  # of 400 entries each


def test_a_mean_above_the_lowest_threshold_is_refused() -> None:
    model = nn.Sequential(nn.Linear(40, N), LIF(threshold=thresholds()), nn.Linear(N, 3), LI())
    with pytest.raises(InfeasibleTargetError, match=r"0\.5 is not below the threshold 0\.1"):
        fluctua.initialize(model, BATCH, Target(mean=0.5), seed=0)


def test_thresholds_of_snntorch_are_those_of_its_neurons() -> None:
    snn = pytest.importorskip("snntorch")
    torch.manual_seed(0)
    theta = torch.rand(N) + 0.05
    hidden = snn.Leaky(beta=0.9, threshold=theta, learn_threshold=True, init_hidden=True)
    out = snn.Leaky(beta=0.9, init_hidden=True, output=True)
    model = nn.Sequential(nn.Linear(40, N), hidden, nn.Linear(N, 3), out)
    fluctua.initialize(model, BATCH, seed=0)
    u, found = torch.zeros(16, N), []
    for x in model[0](BATCH).detach():
        u = 0.9 * u + x
        found.append(u)
    torch.testing.assert_close(distances(torch.stack(found), theta), torch.ones(N), rtol=0.02, atol=0)


@pytest.mark.parametrize("name", ["v_threshold", "tau"])
def test_constants_that_users_of_spikingjelly_learn_are_read(name: str) -> None:
    sj = pytest.importorskip("spikingjelly.activation_based.neuron")

    class Learnt(sj.LIFNode):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__(tau=2.0, v_threshold=2.0)
            delattr(self, name)
            setattr(self, name, nn.Parameter(torch.tensor([2.0])))

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, N), Learnt(), nn.Linear(N, 3), sj.LIFNode())
    report = fluctua.initialize(model, BATCH, seed=0)
    assert report["1"].threshold == 2.0
    u, found = torch.zeros(16, N), []
    for x in model[0](BATCH).detach():
        u = u + (x - u) / 2
        found.append(u)
    assert float(torch.stack(found).std(correction=0)) == pytest.approx(2.0, rel=0.01)


def test_a_rate_counts_spikes_of_any_size() -> None:
    snn = pytest.importorskip("snntorch")
    torch.manual_seed(0)
    hidden = snn.Leaky(beta=0.9, graded_spikes_factor=0.25, init_hidden=True)
    out = snn.Leaky(beta=0.9, init_hidden=True, output=True)
    model = nn.Sequential(nn.Linear(40, N), hidden, nn.Linear(N, 3), out)
    report = fluctua.initialize(model, BATCH, Target(rate=30.0), dt=1e-3, seed=0)
    hidden.reset_mem()
    fired = torch.stack([hidden(x) != 0 for x in model[0](BATCH).detach()])
    assert float(fired.float().mean()) / 1e-3 == pytest.approx(30, rel=0.05)
    assert report["1"].rate == pytest.approx(30, rel=0.05)
