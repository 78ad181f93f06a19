"""Laws of populations whose potential is not linear in their weights: the target is met by going on from there."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

import fluctua
from fluctua.layers import OverTime
from fluctua.neurons import LI, LIF
from fluctua.theory import Target
from shared.free import free_potentials, sigma
from shared.spikes import spikes

N, UNITS = 40, 24
BATCH = spikes(80, 16, N, p=0.2)

Weights = Callable[[Tensor], Any]


def rounded(bits: int) -> Weights:
    """To steps that the largest weight sets: of QAT."""

    def of(w: Tensor) -> Any:
        step = w.abs().max() / (2 ** (bits - 1) - 1)
        return (w / step).round() * step

    return of


def ternary(w: Tensor) -> Any:
    kept = (w.abs() > 0.7 * w.abs().mean()).to(w)
    return (w.abs() * kept).sum() / kept.sum() * w.sign() * kept


class Layer(nn.Module):
    """A function of the weights, and one of the current, straight-through if asked for."""

    def __init__(
        self, weights: Weights, *, current: Weights = lambda u: u, bias: bool = False, through: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.2 * torch.randn(UNITS, N))
        self.bias = nn.Parameter(torch.zeros(UNITS)) if bias else None
        self.weights, self.current, self.through = weights, current, through

    def forward(self, x: Tensor) -> Any:
        w = self.weights(self.weight)
        if self.through:
            w = self.weight + (w - self.weight).detach()
        return self.current(F.linear(x, w, self.bias))


def network(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(layer, LIF(), nn.Linear(UNITS, 3), LI())


MET: dict[str, Callable[[], nn.Module]] = {
    "8 bits": lambda: Layer(rounded(8)),
    "4 bits": lambda: Layer(rounded(4)),
    "2 bits": lambda: Layer(rounded(2)),
    "ternary": lambda: Layer(ternary),
    "sign, and the mean size": lambda: Layer(lambda w: w.sign() * w.abs().mean()),
    "sizes and a bias": lambda: Layer(torch.abs, bias=True, through=False),
    "squares and a bias": lambda: Layer(torch.square, bias=True, through=False),
    "a current of one sign, and a bias behind": lambda: nn.Sequential(
        nn.Linear(N, UNITS), nn.ReLU(), nn.Linear(UNITS, UNITS), nn.MaxPool1d(2), nn.Linear(UNITS // 2, UNITS)
    ),
}


@pytest.mark.parametrize("target", [Target(), Target(xi=2.0)], ids=["xi=1", "xi=2"])
@pytest.mark.parametrize("name", MET)
def test_the_target_is_met(name: str, target: Target) -> None:
    torch.manual_seed(0)
    model = network(MET[name]())
    fluctua.initialize(model, BATCH, target, seed=0)
    u, wanted = free_potentials(model, BATCH)["1"], 1 / (target.xi or 1.0)
    assert sigma(u) == pytest.approx(wanted, rel=0.03)
    assert float(u.mean()) == pytest.approx(0.0, abs=0.03 * wanted)


ABOVE: dict[str, tuple[Weights, Weights, str]] = {
    "no negative weights": (torch.abs, lambda u: u, "0.weight"),
    "no negative current": (lambda w: w, torch.relu, "Relu"),
}


@pytest.mark.parametrize("name", ABOVE)
def test_where_a_mean_cannot_be_had_the_variance_is_and_the_cause_is_told(name: str) -> None:
    weights, current, cause = ABOVE[name]
    torch.manual_seed(0)
    model = network(Layer(weights, current=current, through=False))
    if cause == "Relu":
        model = nn.Sequential(nn.Linear(N, UNITS, bias=False), nn.ReLU(), *list(model)[1:])
    report = fluctua.initialize(model, BATCH, seed=0)
    (u,) = free_potentials(model, BATCH).values()
    assert sigma(u) == pytest.approx(1.0, rel=0.03)
    assert float(u.mean()) > 0.1
    assert any(w.startswith("mu_U misses its target") for w in report.warnings)
    ending = f"misses its target because its potential is not linear in its weights: {cause}"
    assert any(note.endswith(ending) for note in report.notes)


def test_behind_a_norm_and_a_rectifier_the_variance_is_had() -> None:
    """There an offset does not only move the mean."""
    torch.manual_seed(0)
    norm = OverTime(nn.BatchNorm1d(UNITS))
    model = nn.Sequential(nn.Linear(N, UNITS, bias=False), norm, nn.ReLU(), LIF(), nn.Linear(UNITS, 3), LI())
    report = fluctua.initialize(model, BATCH, seed=0)
    assert report["3"].sigma_u == pytest.approx(1.0, rel=0.03)


def test_what_keeps_the_potential_within_bounds_is_told() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(N, UNITS), nn.Hardtanh(-0.1, 0.1), LIF())
    report = fluctua.initialize(model, BATCH, seed=0)
    assert report["2"].sigma_u == pytest.approx(sigma(free_potentials(model, BATCH)["2"]), rel=1e-3)
    assert any(w.startswith("sigma_U misses its target") for w in report.warnings)
    assert "2 misses its target because its potential is not linear in its weights: Hardtanh" in report.notes
    assert float(next(model.parameters()).detach().abs().max()) < 100


def test_a_scale_that_is_met_at_once_is_left_as_it_is() -> None:
    """The largest of several grows with them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(N, 2 * UNITS, bias=False), nn.MaxPool1d(2), LIF(), nn.Linear(UNITS, 3), LI())
    fluctua.initialize(model, BATCH, Target(sigma=0.5), seed=0)
    assert sigma(free_potentials(model, BATCH)["2"]) == pytest.approx(0.5, rel=0.02)


class Bounded(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return torch.tanh(w)


def parametrised(function: nn.Module) -> nn.Module:
    layer = nn.Linear(N, UNITS, bias=False)
    parametrize.register_parametrization(layer, "weight", function)
    return network(layer)


def test_what_a_parametrised_weight_is_computed_from_is_iterated() -> None:
    torch.manual_seed(0)
    model = parametrised(Bounded())
    report = fluctua.initialize(model, BATCH, seed=0)
    assert [q.name for q in report["1"].pathways] == ["0.parametrizations.weight.original"]
    assert sigma(free_potentials(model, BATCH)["1"]) == pytest.approx(1.0, rel=0.03)


class Catenary(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w.cosh()


def test_weights_that_no_size_and_no_shift_brings_near_nothing_stay_as_they_are() -> None:
    torch.manual_seed(0)
    model = parametrised(Catenary())
    before = model.get_parameter("0.parametrizations.weight.original").detach().clone()
    report = fluctua.initialize(model, BATCH, seed=0)
    assert torch.equal(model.get_parameter("0.parametrizations.weight.original"), before)
    assert any("0.weight was skipped: parametrised" in note for note in report.notes)
