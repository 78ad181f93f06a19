"""What users give besides a model and a batch: names, values, tensors of other kinds; what makes no sense is told."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fluctua
from fluctua.homeostasis import prime
from fluctua.network import WiringError
from fluctua.network.errors import BatchError
from fluctua.neurons import LI, LIF
from shared.spikes import spikes

X = spikes(60, 8, 30, p=0.2)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(30, 20), LIF(), nn.Linear(20, 4), LI())


@pytest.mark.parametrize("argument", ["populations", "readouts"])
def test_a_string_is_no_list_of_names(argument: str) -> None:
    """Its letters could be names: "13" was read as 1 and 3."""
    words = rf"{argument}= takes a list of names, got the string '13': write {argument}=\['13'\]"
    options: dict[str, Any] = {argument: "13"}
    with pytest.raises(ValueError, match=words):
        fluctua.initialize(model(), X, **options)


def test_values_that_are_no_numbers_are_told_of_as_such() -> None:
    with pytest.raises(BatchError, match="the values that came with the batch are all NaN or infinite"):
        fluctua.initialize(model(), (X, torch.full((8, 1), torch.nan)))
    some = torch.tensor([torch.nan, 1.0, 5.0, 3.0, -1.0, -3.0, torch.nan, 1.0])
    report = fluctua.initialize(model(), (X, some), seed=0)  # those that are missing
    assert report["3"].sigma_u == pytest.approx(0.1 * float(some[some.isfinite()].std(correction=0)), rel=1e-3)


def primed(net: nn.Module, x: Any) -> Any:
    return prime(net, x, epochs=2, seed=0)


CALLS: list[Callable[[nn.Module, Any], Any]] = [fluctua.initialize, fluctua.inspect, fluctua.diagnose, primed]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_a_batch_made_in_inference_mode_is_as_good_as_any(call: Callable[[nn.Module, Any], Any]) -> None:
    with torch.inference_mode():
        x = X.clone()
    call(net := model(), x)
    call(twin := model(), X)
    if call is primed:
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("call", [fluctua.initialize, fluctua.inspect, fluctua.rescale], ids=lambda call: call.__name__)
def test_a_model_built_in_inference_mode_is_refused(call: Callable[[nn.Module, Any], Any]) -> None:
    with torch.inference_mode():
        net = model()
    with pytest.raises(WiringError, match=r"the model was built under torch\.inference_mode\(\)"):
        call(net, X)
