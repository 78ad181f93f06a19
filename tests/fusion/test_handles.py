"""Changes in place act as the model means them: on every name of a tensor."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.fusion import FuseError
from shared.fused_networks import INPUTS, SAMPLES, STEPS, SnnLoop, assert_each_alike, spikes, woken

BATCH = spikes(STEPS, SAMPLES, INPUTS)


class Loop(SnnLoop):
    """Two layers; subclasses say what happens between them and to the output."""

    def between(self, current: Tensor, before: Tensor) -> Tensor:
        return current

    def joined(self, steps: list[Tensor]) -> Any:
        return torch.stack(steps)

    def forward(self, x: Tensor) -> Any:
        mem1, mem2, out = self.lif1.reset_mem(), self.lif2.reset_mem(), []
        for step in x:
            current = self.fc1(step)
            spk1, mem1 = self.lif1(self.between(current, current), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            out.append(spk2)
        return self.joined(out)


class Shortcut(Loop):
    """As in residual networks."""

    def between(self, current: Tensor, before: Tensor) -> Tensor:
        other = self.fc1.bias + current
        other += before
        return other


class Alias(Loop):
    """The layer's answer is changed by a second name of it."""

    def between(self, current: Tensor, before: Tensor) -> Tensor:
        before.mul_(1.5)
        return current + before


class Rectified(Loop):
    def between(self, current: Tensor, before: Tensor) -> Tensor:
        nn.functional.relu(before, inplace=True)
        return current


class Summed(Loop):
    """An output that grows from a number."""

    def joined(self, steps: list[Tensor]) -> Any:
        out: Any = 0
        for step in steps:
            out += step
        return out


class SummedUp(Loop):
    """An output that grows from a tensor of the model's own."""

    def joined(self, steps: list[Tensor]) -> Any:
        out = torch.zeros(steps[0].shape, dtype=steps[0].dtype)
        for step in steps:
            out += step
        return out


class Counted(Loop):
    """A tensor of the model's own that changes between two uses."""

    def joined(self, steps: list[Tensor]) -> Any:
        now, out = torch.ones(steps[0].shape), torch.zeros(steps[0].shape)
        for step in steps:
            out = out + (step + now)
            now += 1
        return out


class Twice(SnnLoop):
    """The same is computed twice, and one of them changed."""

    def forward(self, x: Tensor) -> Any:
        mem1, out = self.lif1.reset_mem(), []
        currents = self.fc1(x)
        one = currents * 2
        one.clamp_(max=0.5)
        for current in currents * 2 + one:
            spk1, mem1 = self.lif1(current, mem1)
            out.append(spk1)
        return torch.stack(out)


class OfAll(SnnLoop):
    """All steps at once."""

    def forward(self, x: Tensor) -> Any:
        mem1, out = self.lif1.reset_mem(), []
        currents = self.fc1(x)
        currents += 0.1
        for current in currents:
            spk1, mem1 = self.lif1(current, mem1)
            out.append(spk1)
        return torch.stack(out)


class Masked(Loop):
    """Items that a mask chooses."""

    def between(self, current: Tensor, before: Tensor) -> Tensor:
        current[current < 0.2] = 0.1
        current[:, current[0] > 0.9] = 0.5  # another mask at every step
        return current


class Written(Loop):
    """Items by slice and number, from the tensor itself, other steps and weights."""

    def between(self, current: Tensor, before: Tensor) -> Tensor:
        bias = self.fc1.bias
        current = current.clone()
        current[:, 0] = before.mean(1)
        current[:, 5:7] = bias[:2]
        current[..., -1] = 2 * current[..., -2]
        return current


@pytest.mark.parametrize("kind", [Shortcut, Alias, Rectified, Summed, SummedUp, Counted, Twice, OfAll, Masked, Written])
def test_what_is_changed_in_place_is_that_everywhere(kind: type[nn.Module]) -> None:
    model: Any = woken(kind(), gain=4.0)
    fast = fluctua.fuse(model, BATCH)
    assert_each_alike(fast, model, BATCH, [model.fc1.weight])
    with torch.inference_mode():  # whose tensors do not count their changes
        torch.testing.assert_close(fast(BATCH), model(BATCH), rtol=1e-5, atol=1e-5)


class Viewed(Loop):
    """A view, which no name tells, sees the change too."""

    def between(self, current: Tensor, before: Tensor) -> Tensor:
        view = current.view(current.shape)
        before.mul_(2)
        return view


class Sliced(Loop):
    """It changes nothing at the rate that `fuse` is called with."""

    def between(self, current: Tensor, before: Tensor) -> Tensor:
        current[:, :3].clamp_(max=1e3)
        return current


class OfData(Loop):
    def between(self, current: Tensor, before: Tensor) -> Tensor:
        current.data.clamp_(max=1e3)
        return current


class OfInput(Loop):
    def forward(self, x: Tensor) -> Any:
        x += 0.1
        return super().forward(x)


class Drawn(Loop):
    def between(self, current: Tensor, before: Tensor) -> Tensor:
        return current.bernoulli_(0.5)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Viewed, r"changes a step in place \(mul_\), and a view of it"),
        (Sliced, r"changes a step in place \(clamp_\), and a view of it"),
        (OfData, r"changes a step in place \(clamp_\), and a view of it"),
        (OfInput, "the model changes a step in place"),
        (Drawn, "the model changes a step in place"),
    ],
)
def test_what_cannot_be_followed_is_refused(kind: type[nn.Module], words: str) -> None:
    model = woken(kind(), gain=4.0)
    before = BATCH.clone()
    with torch.no_grad(), pytest.raises(FuseError, match=words):
        fluctua.fuse(model, BATCH, forward=lambda model, x: model(x))
    assert torch.equal(BATCH, before)
