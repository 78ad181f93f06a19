"""What a model may do and hold: modules called by keyword, frozen parameters, generators of other devices."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fluctua
from fluctua.hardware import Grid, quantize
from fluctua.layers import DaleLayer, OverTime
from fluctua.neurons import LIF
from shared.spikes import spikes


class ByKeyword(nn.Module):
    def __init__(self, *, named: bool) -> None:
        super().__init__()
        self.fc, self.lif, self.named = nn.Linear(30, 20), LIF(), named

    def forward(self, x: Tensor) -> Tensor:
        current: Tensor = self.fc(input=x) if self.named else self.fc(x)
        spiking: Tensor = self.lif(current)
        return spiking


@pytest.mark.parametrize("method", ["measured", "poisson", "spikeinit", "lsuv"])
def test_a_layer_may_be_called_by_keyword(method: str) -> None:
    torch.manual_seed(0)
    named = ByKeyword(named=True)
    plain = ByKeyword(named=False)
    plain.load_state_dict(named.state_dict())
    for model in (named, plain):
        fluctua.initialize(model, spikes(60, 8, 30), method=method, seed=0)
    torch.testing.assert_close(named.fc.weight, plain.fc.weight, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", ["ding", "torch", "kaiming", "measured"])
def test_what_is_frozen_stays_as_it_is(method: str) -> None:
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(30, 20), LIF(), nn.Linear(20, 20), LIF())
    frozen = {"0.bias": model[0].bias, "2.weight": model[2].weight}
    before = {name: p.requires_grad_(False).clone() for name, p in frozen.items()}
    fluctua.initialize(model, spikes(60, 8, 30, p=0.3), method=method, seed=0)
    for name, p in frozen.items():
        assert torch.equal(p, before[name]), name


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm])
@pytest.mark.parametrize("call", [fluctua.initialize, fluctua.rescale], ids=lambda call: call.__name__)
def test_a_frozen_norm_stays_as_it_is(norm: Any, call: Any) -> None:
    """It sets the size of what it makes while it trains; in eval mode, with statistics that stay, the weight does."""
    neurons = [pytest.importorskip("snntorch").Leaky(beta=0.9, init_hidden=True) for _ in range(2)]
    layers = nn.Linear(30, 20), norm(20).requires_grad_(False), neurons[0], nn.Linear(20, 20), neurons[1]
    model: Any = nn.Sequential(*layers)
    model[1].bias.fill_(0.1)
    before = [p.clone() for p in model[1].parameters()]
    report = call(model, spikes(60, 8, 30, p=0.3))
    assert "0.weight was skipped: a frozen norm behind it sets its size" in report.notes
    assert all(torch.equal(a, b) for a, b in zip(before, model[1].parameters(), strict=True))
    if norm is nn.BatchNorm1d:
        model[1].eval()
        assert call(model, spikes(60, 8, 30, p=0.3))["2"].sigma_u == pytest.approx(1.0, rel=1e-2)
        assert all(torch.equal(a, b) for a, b in zip(before, model[1].parameters(), strict=True))


@pytest.mark.parametrize(
    "norm",
    [
        OverTime(nn.BatchNorm1d(20, affine=False)),
        OverTime(nn.BatchNorm1d(20, affine=False, track_running_stats=False)).eval(),
        nn.LayerNorm(20, elementwise_affine=False),
    ],
    ids=["batch", "batch by batch", "layer"],
)
@pytest.mark.parametrize("call", [fluctua.initialize, fluctua.rescale], ids=lambda call: call.__name__)
def test_weights_before_a_norm_without_gain_are_not_shrunk_until_its_epsilon_counts(norm: nn.Module, call: Any) -> None:
    model: Any = nn.Sequential(nn.Linear(30, 20), deepcopy(norm), LIF(), nn.Linear(20, 20), LIF())
    before, x = model[0].weight.clone(), spikes(60, 8, 30, p=0.3)
    report = call(model, x, fluctua.Target())
    assert "0.weight was skipped: a norm without gain behind it sets its size" in report.notes
    assert torch.equal(model[0].weight, before)
    assert report["4"].sigma_u == pytest.approx(1.0, rel=1e-2)
    if norm.training and isinstance(norm, OverTime):
        model[1].eval()  # now its statistics stay
        assert call(model, x, fluctua.Target())["2"].sigma_u == pytest.approx(1.0, rel=1e-2)


class Standardised(nn.Module):
    """Only its gain sets the size of what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.gain = nn.Parameter(torch.randn(20, 30)), nn.Parameter(torch.ones(20))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight / self.weight.norm(dim=1, keepdim=True)) * self.gain


def test_a_gain_before_a_norm_whose_statistics_stay_brings_the_target() -> None:
    model = nn.Sequential(Standardised(), OverTime(nn.BatchNorm1d(20, affine=False)).eval(), LIF())
    report = fluctua.initialize(model, spikes(60, 8, 30, p=0.3), fluctua.Target())
    assert report["2"].sigma_u == pytest.approx(1.0, rel=1e-2)


def test_a_model_on_the_cpu_leaves_the_seeds_of_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    x = spikes(60, 8, 30)
    for use in (fluctua.initialize, fluctua.inspect):
        use(nn.Sequential(nn.Linear(30, 20), nn.Dropout(0.1), LIF()), x)
    fluctua.initialize(nn.Sequential(nn.Linear(30, 20), LIF()), x, method="torch", seed=0)
    assert not seeds


class OfSizes(nn.Module):
    """Weights that act by their size, so either sign may be stored."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(20, 30, generator=torch.Generator().manual_seed(0)))
        self.register_buffer("signs", torch.where(torch.arange(30) < 24, 1.0, -1.0))

    def forward(self, x: Tensor) -> Tensor:
        signs: Any = self.signs
        return F.linear(x, self.weight.abs() * signs)


def test_weights_that_act_by_their_size_keep_it_on_a_grid() -> None:
    model: Any = nn.Sequential(OfSizes(), LIF())
    x = spikes(60, 8, 30)
    fluctua.initialize(model, x, seed=0)
    model[0].weight.data *= torch.where(torch.rand(20, 30, generator=torch.Generator().manual_seed(1)) < 0.5, -1.0, 1.0)
    before = model[0].weight.detach().clone()
    quantize(model, x, Grid(8))
    step = before.abs().max() / 127  # of the widest grid that the fit may choose
    assert float((model[0].weight - before).detach().abs().median()) < float(step)


def test_thresholds_of_both_populations_of_a_circuit_are_rounded() -> None:
    x = spikes(60, 8, 30)
    model: Any = nn.Sequential(DaleLayer(30, 20, 5))
    fluctua.initialize(model, x, seed=0)
    told = quantize(model, x, Grid(3), thresholds=True)[0].notes
    cells: Any = model[0].circuit
    assert float(cells.exc.threshold) != 1.0
    assert float(cells.inh.threshold) != 1.0
    assert sum("threshold" in note for note in told) == 2


def test_ei_init_without_a_weight_in_front_is_refused_in_a_sentence() -> None:
    circuit: Any = DaleLayer(30, n_exc=20, n_inh=5).circuit
    currents = torch.rand(60, 8, 20), torch.rand(60, 8, 5)
    with pytest.raises(ValueError, match="ei-init needs a weight in front of"):
        fluctua.initialize(circuit, currents, forward=lambda m, b: m(*b), method="ei-init")
