"""What tests of fused models share: a network as snnTorch's tutorials write it, data, and passes that compare."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shared.spikes import spikes as random_spikes

STEPS, SAMPLES, INPUTS = 12, 5, 10


spikes = partial(random_spikes, p=0.3)


def woken(model: nn.Module, gain: float) -> nn.Module:
    """Weights that make all layers spike."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("weight") and p.ndim > 1:
                fan_in = p[0].numel() if "rockpool" not in type(model).__module__ else len(p)
                p.copy_(torch.randn(p.shape, generator=generator) * gain / fan_in**0.5)
    return model


class SnnLoop(nn.Module):
    """State taken and returned, a loop over time, records of spikes and potentials."""

    lif1: Any
    lif2: Any

    def __init__(self, second: Callable[[], nn.Module] | None = None, **options: Any) -> None:
        super().__init__()
        snn = pytest.importorskip("snntorch")
        self.fc1, self.lif1 = nn.Linear(INPUTS, 16), snn.Leaky(beta=0.9, **options)
        self.fc2, self.lif2 = nn.Linear(16, 4), (second or (lambda: snn.Leaky(beta=0.8, **options)))()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, state2 = self.lif1.reset_mem(), self.lif2.reset_mem()
        state2 = state2 if isinstance(state2, tuple) else (state2,)
        spk_rec, mem_rec = [], []
        for step in range(x.size(0)):
            spk1, mem1 = self.lif1(self.fc1(x[step]), mem1)
            spk2, *state2 = self.lif2(self.fc2(spk1), *state2)
            spk_rec.append(spk2)
            mem_rec.append(state2[-1])
        return torch.stack(spk_rec, dim=0), torch.stack(mem_rec, dim=0)


def rested(model: nn.Module) -> None:
    """As users bring a model to rest between batches."""
    for module in nn.Module.modules(model):  # rockpool has a method of its own
        for name in ("reset_mem", "reset_states", "reset_state", "reset"):
            if hasattr(type(module), name):
                getattr(module, name)()
                break


def tensors(output: Any) -> list[Tensor]:
    found = output.values() if isinstance(output, dict) else output if isinstance(output, list | tuple) else [output]
    return [t for item in found for t in ([item] if isinstance(item, Tensor) else tensors(item))]


def loss_of(output: Any) -> Tensor:
    """Of all outputs, each with a weight of its own."""
    parts = [t for t in tensors(output) if t.requires_grad]
    return torch.stack([(t * torch.linspace(0.5, 1, t.numel()).view_as(t)).sum() for t in parts]).sum()


def passed(call: Callable[[Tensor], Any], model: nn.Module, x: Tensor) -> "Passed":
    rested(model)
    output = call(x)
    parameters = [p for p in nn.Module.parameters(model) if p.requires_grad]
    gradients = torch.autograd.grad(loss_of(output), parameters, allow_unused=True)
    return [t.detach() + 0 for t in tensors(output)], list(gradients)


Passed = tuple[list[Tensor], list[Tensor | None]]


def assert_same_passes(ours: Passed, theirs: Passed, *, may_lack_zeros: bool = False) -> None:
    """Outputs and gradients are alike; `may_lack_zeros`: of a gradient that is zero there may be none instead."""
    (mine, gradients), (truth, their_gradients) = ours, theirs
    assert any(t.any() for t in truth)
    for a, b in zip(mine, truth, strict=True):  # sums in another order: a rounding of single precision
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))
    largest = max(float(h.abs().max()) for h in their_gradients if h is not None)
    for g, h in zip(gradients, their_gradients, strict=True):
        if h is not None and (h.any() or not may_lack_zeros):
            assert g is not None
            torch.testing.assert_close(g, h, rtol=1e-3, atol=1e-5 * largest)


def assert_each_alike(fast: nn.Module, model: Any, x: Tensor, parameters: Iterable[nn.Parameter]) -> None:
    """The first output, and the gradient of each parameter by its own size, are alike; the model's gradients stay."""
    passes, parameters = [], list(parameters)
    for each in (fast, model):
        model.zero_grad()
        output = next(iter(tensors(each(x))))
        output.square().sum().backward()  # type: ignore[no-untyped-call]
        passes.append([output.detach(), *(torch.clone(p.grad) for p in parameters if p.grad is not None)])
    for ours, theirs in zip(*passes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))
    assert len(passes[1]) == 1 + len(parameters)
    assert all(part.any() for part in passes[1])


FRAMES = spikes(STEPS, SAMPLES, 2, 8, 8)
TIME_FIRST, BATCH_FIRST = spikes(STEPS, SAMPLES, INPUTS), spikes(SAMPLES, STEPS, INPUTS)
