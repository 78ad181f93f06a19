"""What a fused pass leaves behind is what the model itself would leave, also when it is read late."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.fusion import FuseError
from fluctua.fusion.model import FusedModel
from shared.fused_networks import INPUTS, SAMPLES, STEPS, SnnLoop, spikes, woken

BATCH = spikes(STEPS, SAMPLES, INPUTS)


def states(model: nn.Module) -> list[Tensor]:
    """The potentials that the neurons of a model keep."""
    return [torch.as_tensor(m.mem).detach().clone() for m in model.modules() if hasattr(m, "mem")]


def left_by(model: SnnLoop, batch: Tensor) -> list[Tensor]:
    """The potentials that the model itself leaves."""
    model(batch)
    return states(model)


def trained(fast: FusedModel, batch: Tensor) -> None:
    """A step of training that changes all weights a lot."""
    optimiser = torch.optim.SGD(fast.parameters(), lr=10.0)
    fast(batch)[0].sum().backward()
    optimiser.step()


@pytest.mark.parametrize("rate", [0.05, 0.9], ids=["events", "dense"])
def test_states_read_after_the_optimisers_step_are_those_of_the_pass(rate: float) -> None:
    model: Any = woken(SnnLoop(), gain=4.0)
    batch = spikes(STEPS, SAMPLES, INPUTS, p=rate)
    fast = fluctua.fuse(model, batch)
    truth = left_by(model, batch)
    trained(fast, batch)
    for mine, own in zip(states(model), truth, strict=True):
        torch.testing.assert_close(mine, own, rtol=1e-5, atol=1e-5)


def test_a_state_keeps_its_history_while_the_weights_are_those_of_the_pass() -> None:
    model: Any = woken(SnnLoop(), gain=4.0)
    fast = fluctua.fuse(model, BATCH)
    gradients = []
    for each in (model, fast):
        model.zero_grad()
        each(BATCH)
        (model.lif1.mem * torch.arange(SAMPLES)[:, None]).sum().backward()
        gradients.append(model.fc1.weight.grad.clone())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5 * float(gradients[0].abs().max()))
    assert gradients[0].any()


class KeepsCurrent(SnnLoop):
    """It keeps a tensor that no neuron has computed."""

    current: Any = None

    def forward(self, x: Tensor) -> Any:
        self.current = self.fc1(x[0])
        return super().forward(x)


def test_what_cannot_be_computed_any_more_is_refused() -> None:
    model: Any = woken(KeepsCurrent(), gain=4.0)
    fast = fluctua.fuse(model, BATCH)
    truth = torch.nn.functional.linear(BATCH[0], model.fc1.weight, model.fc1.bias)
    fast(BATCH)
    torch.testing.assert_close(model.current + 0, truth, rtol=1e-5, atol=1e-5)
    trained(fast, BATCH)
    with pytest.raises(FuseError, match="weights have changed since then: read it before"):
        _ = model.current + 0


class KeepsSpikes(SnnLoop):
    """It keeps spikes that it does not return."""

    last: Any = None

    def forward(self, x: Tensor) -> Any:
        mem1, mem2, out = self.lif1.reset_mem(), self.lif2.reset_mem(), []
        for t in range(len(x)):
            spk1, mem1 = self.lif1(self.fc1(x[t]), mem1)
            self.last, mem2 = self.lif2(self.fc2(spk1), mem2)
            out.append(spk1)
        return torch.stack(out)


@pytest.mark.parametrize("changed", ["fc1", "fc2"])
def test_spikes_that_are_read_late_need_the_weights_that_they_are_computed_with(changed: str) -> None:
    model: Any = woken(KeepsSpikes(), gain=4.0)
    fast = fluctua.fuse(model, BATCH)
    model(BATCH)
    truth = model.last.detach().clone()
    fast(BATCH)
    assert torch.equal(model.last + 0, truth)
    assert truth.any()
    fast(BATCH)
    with torch.no_grad():
        getattr(model, changed).weight.mul_(-1.0)
    if changed == "fc1":  # whose spikes were computed, as the model returns them
        assert torch.equal(model.last + 0, truth)
    else:
        with pytest.raises(FuseError, match="weights have changed since then"):
            _ = model.last + 0


@pytest.mark.parametrize("change", [nn.Module.double, nn.Module.half, nn.Module.bfloat16])
def test_a_model_changes_its_type_after_a_fused_pass(change: Callable[[nn.Module], nn.Module]) -> None:
    model: Any = woken(SnnLoop(), gain=4.0)
    fluctua.fuse(model, BATCH)(BATCH)
    dtype = change(nn.Linear(1, 1)).weight.dtype
    change(model)
    assert {each.dtype for each in states(model)} == {dtype}


@pytest.mark.parametrize("grad", [True, False])
def test_a_model_that_has_run_is_fused(grad: bool) -> None:
    model: Any = woken(SnnLoop(), gain=4.0)
    with torch.set_grad_enabled(grad):
        model(BATCH)
    before = states(model)
    fast = fluctua.fuse(model, BATCH)
    for now, then in zip(states(model), before, strict=True):
        assert torch.equal(now, then)
    trained(fast, BATCH)
    fluctua.fuse(model, BATCH)


def test_sinabs_draws_states_for_a_batch_of_another_size() -> None:
    layers = pytest.importorskip("sinabs.layers")
    model: Any = nn.Sequential(nn.Linear(INPUTS, 24), layers.LIF(tau_mem=20.0, norm_input=False)).double()
    x = BATCH.double().movedim(0, 1)
    fast = fluctua.fuse(model, x, time=1)
    found = []
    for each in (model, fast):
        model[1].reset_states()
        each(x)
        torch.manual_seed(0)
        found.append((each(x[:3]), model[1].v_mem.clone()))
    for own, mine in zip(*found, strict=True):
        torch.testing.assert_close(mine, own, rtol=1e-9, atol=1e-9)
    assert found[0][0].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_gives_the_types_and_spikes_of_the_model(dtype: torch.dtype) -> None:
    model: Any = woken(SnnLoop(), gain=4.0)
    fast = fluctua.fuse(model, BATCH)
    with torch.autocast("cpu", dtype=dtype):
        own, mine = model(BATCH), fast(BATCH)
    for a, b in zip(own, mine, strict=True):
        assert a.dtype == b.dtype == torch.float32
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5)
    assert own[0].any()
