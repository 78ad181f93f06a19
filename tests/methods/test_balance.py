"""Laws of balance: every neuron has the same mean where the signal bears it, and the signal is never cancelled."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.layers import OverTime
from fluctua.methods import Measured
from fluctua.methods.balance import Balance, _compact, project_
from fluctua.neurons import LIF
from fluctua.theory.target import InfeasibleTargetError
from shared.spikes import spikes


def potential(net: Any, x: Tensor) -> Tensor:
    """The free potential `[T, B, N]` of LIF neurons behind a layer, by their equations."""
    a, b = math.exp(-2e-3 / 20e-3), math.exp(-2e-3 / 10e-3)
    with torch.no_grad():
        layer = net[0].module if isinstance(net[0], OverTime) else net[0]
        currents = layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    u = i = torch.zeros_like(currents[0])
    found = []
    for current in currents:
        found.append(u)
        u, i = a * u + (1 - a) * i, b * i + current
    return torch.stack(found).flatten(2)


def started(net: Any, x: Tensor, balance: Balance = "auto") -> Tensor:
    """The free potential after initialisation."""
    fluctua.initialize(net, x, method=Measured(balance=balance), seed=0)
    return potential(net, x)


def linear(n: int, bias: bool = False, units: int = 40) -> Any:
    return nn.Sequential(nn.Linear(n, units, bias=bias), LIF())


class _Gain(nn.Module):
    """Scales each unit by a constant of its own."""

    def __init__(self, gains: Tensor) -> None:
        super().__init__()
        self.register_buffer("gains", gains)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.get_buffer("gains")


@pytest.mark.parametrize("differing", [False, True])
@pytest.mark.parametrize("stepwise", [False, True])
def test_a_large_linear_layer_is_balanced_without_the_gradient_of_its_weight(
    differing: bool, stepwise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shows in the gradient of its output whether all rows have the same mean activity."""
    gains = torch.linspace(1, 2, 40) if differing else torch.ones(40)
    layers: list[nn.Module] = [nn.Linear(50, 40), _Gain(gains)]
    neuron = pytest.importorskip("snntorch").Leaky(0.9, init_hidden=True) if stepwise else LIF()
    x, found = spikes(30, 8, 50), []
    for large in (2**40, 1):
        monkeypatch.setattr("fluctua.methods.balance.LARGE", large)
        net = nn.Sequential(*layers, neuron)
        fluctua.initialize(net, x, seed=0)
        found.append(next(net.parameters()).detach().clone())
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def directions(weight: Tensor) -> int:
    values = torch.linalg.svdvals(weight.detach().flatten(1))
    return int((values > 1e-3 * values[0]).sum())


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_large_weight_is_projected_as_a_small_one(alike: bool, axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean activities that are alike in all rows are kept as one row, in the precision of the weight."""
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 50, generator=rng).transpose(0, axis).contiguous()
    r = torch.rand(1 if alike else 40, 50, generator=rng).expand(40, 50).transpose(0, axis).contiguous()
    small, large = weight.clone(), weight.clone()
    along = project_(small, r, axis)
    monkeypatch.setattr("fluctua.methods.balance.LARGE", 1)
    compact = _compact(r, axis)
    assert (compact.stride(axis) == 0) == alike
    torch.testing.assert_close(project_(large, compact, axis), along, rtol=0, atol=1e-6)
    torch.testing.assert_close(large, small, rtol=0, atol=1e-6)
    torch.testing.assert_close((large * r).sum(1 - axis), torch.zeros(40), rtol=0, atol=1e-5)


@pytest.mark.parametrize("n", [5, 9, 25, 100, 700])
def test_of_independent_inputs_one_direction_goes_and_nothing_else_is_lost(n: int) -> None:
    net, x = linear(n, bias=True), spikes(60, 8, n)
    u = started(net, x)
    assert abs(float(u.std(correction=0)) - 1) < 1e-3
    assert float(u.mean((0, 1)).abs().max()) < 1e-3
    assert directions(net[0].weight) == min(n - 1, 40)
    assert not net[0].bias.any()


@pytest.mark.parametrize("n", [1, 2])
def test_of_few_inputs_none_is_cancelled_and_biases_take_the_means_out(n: int) -> None:
    net, x = linear(n, bias=True), spikes(60, 8, n)
    u = started(net, x)
    assert abs(float(u.std(correction=0)) - 1) < 1e-3
    assert float(u.mean((0, 1)).abs().max()) < 1e-3
    assert directions(net[0].weight) == n
    assert float(net[0].weight.detach().abs().max()) < 10


@pytest.mark.parametrize("n", [1, 2])
def test_without_biases_the_mean_over_neurons_is_met(n: int) -> None:
    net, x = linear(n), spikes(60, 8, n)
    u = started(net, x)
    assert abs(float(u.std(correction=0)) - 1) < 1e-3
    assert abs(float(u.mean())) < 1e-3
    assert directions(net[0].weight) == n


@pytest.mark.parametrize("maps", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("kind", ["1x1", "3x3", "depthwise"])
def test_convolutions_of_few_maps_keep_their_signal(maps: int, kind: str) -> None:
    groups, size = (maps if kind == "depthwise" else 1), (1 if kind == "1x1" else 3)
    net: Any = nn.Sequential(OverTime(nn.Conv2d(maps, 16, size, groups=groups, bias=False)), LIF())
    u = started(net, spikes(40, 4, maps, 6, 6, p=0.2))
    assert abs(float(u.std(correction=0)) - 1) < 1e-3
    assert abs(float(u.mean())) < 1e-3
    assert float(net[0].module.weight.detach().abs().max()) < 10


def common(n: int) -> Tensor:
    """Inputs that go up and down together: what tells the samples apart lies along their mean."""
    loudness = torch.tensor([0.02, 0.05, 0.1, 0.2, 0.4, 0.6]).reshape(1, -1, 1)
    return (torch.rand(60, 6, n, generator=torch.Generator().manual_seed(0)) < loudness).float()


def across_samples(u: Tensor) -> float:
    """Part of the variance that tells samples apart by their means."""
    return float(u.mean(0).var(0, correction=0).mean() / u.var(correction=0))


def test_what_all_inputs_have_in_common_is_kept_where_they_are_few() -> None:
    left, projected = (started(linear(21), common(21), balance) for balance in ("auto", True))
    assert across_samples(left) > 0.2
    assert across_samples(projected) < 0.8 * across_samples(left)


def test_of_many_inputs_it_is_noise() -> None:
    u = started(linear(400), common(400))
    assert float(u.mean((0, 1)).abs().max()) < 1e-3


def test_where_the_signal_bears_it_auto_is_the_projection_bit_by_bit() -> None:
    x, weights = spikes(60, 8, 100), list[Tensor]()
    for balance in ("auto", True):
        net = linear(100, bias=True)
        started(net, x, balance)
        weights.append(net[0].weight.detach())
    assert torch.equal(*weights)


@pytest.mark.parametrize("n", [1, 30])
def test_a_constant_input_of_one_sample_is_not_blown_up(n: int) -> None:
    net, x = linear(n, bias=True), torch.rand(1, 1, n, generator=torch.Generator().manual_seed(0)).expand(40, 1, n)
    u = started(net, x)
    assert abs(float(u.std(correction=0)) - 1) < 1e-3
    assert float(net[0].weight.detach().abs().max()) < 10


def test_a_single_weight_keeps_its_signal_and_misses_the_mean() -> None:
    """All that one weight can do is to set the size of U."""
    net, x = linear(1, units=1), spikes(60, 8, 1, p=0.3)
    u = started(net, x)
    assert abs(float(u.square().mean()) - 1) < 1e-3
    assert float(u.std()) > 0.3


def test_what_balance_would_cancel_is_refused_when_asked_for() -> None:
    net = linear(1, bias=True)
    before = net[0].weight.detach().clone()
    with pytest.raises(
        InfeasibleTargetError, match=r"balance=True removes everything that 1 receives through 0\.weight"
    ):
        started(net, spikes(60, 8, 1), True)
    assert torch.equal(net[0].weight, before)


class Branch(nn.Module):
    """Coherent inputs that add to what others have brought: all of their signal lies along their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(100, 40, bias=False), nn.Linear(25, 40, bias=False)
        self.trunk, self.sum = LIF(), LIF()

    def forward(self, x: Tensor) -> Tensor:
        u = self.first(x[..., :100])
        self.trunk(u)
        spikes: Tensor = self.sum(u + self.second(x[..., 100:]))
        return spikes


def test_what_others_bring_does_not_hide_that_the_signal_of_a_branch_would_be_cancelled() -> None:
    net, x = Branch(), torch.cat([spikes(60, 8, 100), spikes(60, 8, 1).expand(60, 8, 25)], 2)
    fluctua.initialize(net, x, seed=0)
    weight = net.second.weight.detach()
    assert float(weight.sum(1).abs().mean()) > 0.1 * float(weight.norm(dim=1).mean())


@pytest.mark.parametrize("bias", [False, True])
def test_few_inputs_and_thresholds_of_every_size_are_on_target(bias: bool) -> None:
    """What is taken out of the mean by chance is no more than each neuron bears."""
    thresholds = torch.linspace(0.01, 1.0, 60)
    net: Any = nn.Sequential(nn.Linear(1, 60, bias=bias), LIF(threshold=thresholds))
    x = torch.full((60, 1, 1), 0.5) if bias else spikes(60, 8, 1)
    u = started(net, x)
    wanted = float(thresholds.square().mean().sqrt())
    assert float(u.std(correction=0)) == pytest.approx(wanted, rel=0.05)
