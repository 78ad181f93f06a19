"""Laws of weights that are a function of what is learnt: this is shifted as a whole until the target is met."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

import fluctua
from fluctua.methods.components import SilentInputError
from fluctua.neurons import LI, LIF
from shared.free import free_potentials, sigma
from shared.functions import Function
from shared.spikes import spikes

N, UNITS = 40, 24
BATCH = spikes(80, 16, N, p=0.2)

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"exp": torch.exp, "softplus": F.softplus, "sigmoid": torch.sigmoid}


class Layer(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor], bias: bool) -> None:
        super().__init__()
        self.raw, self.function = nn.Parameter(0.3 * torch.randn(UNITS, N)), function
        self.bias = nn.Parameter(torch.zeros(UNITS)) if bias else None

    def forward(self, x: Tensor) -> Any:
        return F.linear(x, self.function(self.raw), self.bias)


def parametrised(function: Callable[[Tensor], Tensor]) -> nn.Module:
    return parametrize.register_parametrization(nn.Linear(N, UNITS), "weight", Function(function))


def network(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(layer, LIF(), nn.Linear(UNITS, 3), LI())


@pytest.mark.parametrize("make", [lambda f: Layer(f, bias=True), parametrised], ids=["own", "parametrised"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_shift_brings_the_fluctuations_and_a_bias_the_mean(
    name: str, make: Callable[[Callable[[Tensor], Tensor]], nn.Module]
) -> None:
    torch.manual_seed(0)
    layer = make(FUNCTIONS[name])
    model = network(layer)
    raw = next(p for p in layer.parameters() if p.ndim == 2)
    before = raw.detach().clone()
    report = fluctua.initialize(model, BATCH, seed=0)
    u = free_potentials(model, BATCH)["1"]
    assert sigma(u) == pytest.approx(1.0, rel=0.03)
    assert float(u.mean()) == pytest.approx(0.0, abs=0.03)
    shift = raw.detach() - before
    assert float(shift.std()) < 1e-5
    assert float(shift.abs().max()) > 0.1
    assert any("shifted as a whole" in note for note in report.notes)


def test_without_a_bias_the_variance_is_met_and_the_mean_is_told() -> None:
    torch.manual_seed(0)
    model = network(Layer(torch.exp, bias=False))
    report = fluctua.initialize(model, BATCH, seed=0)
    assert sigma(free_potentials(model, BATCH)["1"]) == pytest.approx(1.0, rel=0.03)
    assert any(w.startswith("mu_U misses its target") for w in report.warnings)


def test_baselines_leave_them() -> None:
    torch.manual_seed(0)
    model = network(layer := Layer(torch.exp, bias=True))
    before = layer.raw.detach().clone()
    fluctua.initialize(model, BATCH, seed=0, method="kaiming")
    assert torch.equal(layer.raw, before)


def test_silence_before_them_is_told() -> None:
    model = nn.Sequential(nn.Linear(N, N), LIF(), Layer(torch.exp, bias=True), LIF())
    with torch.no_grad():
        for p in model[0].parameters():
            p.zero_().requires_grad_(False)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(SilentInputError, match="no spike reaches 3 "):
        fluctua.initialize(model, BATCH, seed=0)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
