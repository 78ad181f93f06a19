"""Laws of `OverTime`: one call over the whole sequence does what a loop over its steps does."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from fluctua.layers import OverTime
from fluctua.timeloop import engine, events_conv, pooling
from shared.spikes import spikes

T, B = 6, 3


def sequence(*shape: int) -> Tensor:
    return torch.randn(T, B, *shape, generator=torch.Generator().manual_seed(0)).double()


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(2, 4, 3, stride=2), (2, 11)),
    "conv2d": (lambda: nn.Conv2d(2, 4, 3, padding=1), (2, 6, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 3, 2, stride=2), (2, 3, 3)),
    "pooling": (lambda: nn.MaxPool2d(2), (2, 6, 6)),
    "layer norm": (lambda: nn.LayerNorm(5), (4, 5)),
    "linear": (lambda: nn.Linear(5, 3), (5,)),
    "flatten": (nn.Flatten, (2, 3, 4)),
    "several": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()), (2, 6, 6)),
}


@pytest.mark.parametrize("name", MODULES)
def test_one_call_is_a_loop_over_the_steps(name: str) -> None:
    make, shape = MODULES[name]
    torch.manual_seed(0)
    module = make().double()
    x = sequence(*shape)
    expected = torch.stack([module(step) for step in x])
    torch.testing.assert_close(OverTime(module)(x), expected)


@pytest.mark.parametrize("name", ["conv1d", "conv2d", "several", "linear"])
def test_gradients_are_those_of_the_loop(name: str) -> None:
    make, shape = MODULES[name]
    torch.manual_seed(0)
    module = make().double()
    looped = copy.deepcopy(module)
    x, y = sequence(*shape).requires_grad_(), sequence(*shape).requires_grad_()
    OverTime(module)(x).square().sum().backward()
    torch.stack([looped(step) for step in y]).square().sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(x.grad, y.grad)
    for p, q in zip(module.parameters(), looped.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


@pytest.mark.parametrize(
    ("module", "fused"),
    [
        (nn.MaxPool2d(2), True),
        (nn.MaxPool2d((3, 2), stride=(3, 2)), True),
        (nn.MaxPool2d(3, stride=1), False),
        (nn.MaxPool2d(2, padding=1), False),
        (nn.MaxPool2d(2, ceil_mode=True), False),
        (nn.MaxPool2d(2, dilation=2), False),
    ],
)
def test_windows_side_by_side_are_pooled_by_a_kernel_of_its_own(
    module: nn.MaxPool2d, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, own = [], pooling.max_pooled

    def seen(x: Tensor, window: tuple[int, int]) -> Tensor:
        calls.append(window)
        return own(x, window)

    monkeypatch.setattr(pooling, "max_pooled", seen)
    x = sequence(2, 7, 7).requires_grad_()
    ours, truth = OverTime(module)(x), module(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    assert torch.equal(ours, truth)
    upstream = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1)).double()
    (mine,), (true,) = (torch.autograd.grad(out, x, upstream) for out in (ours, truth))
    assert torch.equal(mine, true) if fused else torch.allclose(mine, true)
    assert bool(calls) == fused


def test_batch_norm_takes_its_statistics_over_batch_and_time() -> None:
    norm = nn.BatchNorm1d(4).double()
    x = 3 * sequence(4, 7) + 2
    y = OverTime(norm)(x)
    torch.testing.assert_close(y.mean((0, 1, 3)), torch.zeros(4).double())
    torch.testing.assert_close(y.var((0, 1, 3), correction=0), torch.ones(4).double(), rtol=1e-5, atol=0)  # eps
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, 0.1 * x.mean((0, 1, 3)))


def test_memory_in_another_order_makes_no_difference() -> None:
    layer, x = OverTime(nn.Conv1d(2, 4, 3).double()), sequence(2, 11)
    batch_first = x.transpose(0, 1).contiguous().transpose(0, 1)
    torch.testing.assert_close(layer(batch_first), layer(x))


def test_parameters_are_those_of_the_module() -> None:
    module = nn.Conv1d(2, 4, 3)
    layer = OverTime(module)
    assert dict(layer.named_parameters()).keys() == {"module.weight", "module.bias"}
    assert layer.state_dict()["module.weight"].data_ptr() == module.weight.data_ptr()


def test_what_is_no_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match=r"OverTime takes a sequence \[T, B, ...\], got the shape \(5,\)"):
        OverTime(nn.Identity())(torch.zeros(5))


def test_a_module_that_mixes_samples_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Flatten returned \(90,\) for 18 steps and samples: it must keep the first"):
        OverTime(nn.Flatten(0))(sequence(5))


# -- by events -------------------------------------------------------------------------------------------------


@pytest.fixture
def by_events(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes of the frames of each convolution that ran by events."""
    calls, original = list[torch.Size](), events_conv.convolved

    def counting(x: Tensor, *rest: Any) -> Tensor:
        calls.append(x.shape)
        return original(x, *rest)

    monkeypatch.setattr(events_conv, "convolved", counting)
    return calls


def trains(*shape: int, density: float = 0.1) -> Tensor:
    return spikes(T, B, *shape, p=density, seed=1, dtype=torch.float64)


CONVOLUTIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "2d": (lambda: nn.Conv2d(2, 4, 3, padding=1), (2, 8, 7)),
    "2d, stride": (lambda: nn.Conv2d(2, 4, (3, 2), stride=(2, 3), padding=(0, 2), bias=False), (2, 8, 7)),
    "1d": (lambda: nn.Conv1d(2, 4, 5, padding=2), (2, 30)),
    "1d, stride": (lambda: nn.Conv1d(2, 4, 7, stride=3, bias=False), (2, 30)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_few_spikes_are_added_up_to_what_a_loop_over_the_steps_gives(name: str, by_events: list[torch.Size]) -> None:
    make, shape = CONVOLUTIONS[name]
    torch.manual_seed(0)
    module = make().double()
    x = trains(*shape).requires_grad_()
    out, expected = OverTime(module)(x), torch.stack([module(step) for step in x])
    torch.testing.assert_close(out, expected)
    inputs = [x, *module.parameters()]
    upstream = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(2))
    ours, truth = (torch.autograd.grad(o, inputs, upstream) for o in (out, expected))
    for mine, true in zip(ours, truth, strict=True):
        torch.testing.assert_close(mine, true)
    assert len(by_events) == 1


def hooked() -> nn.Module:
    module = nn.Conv2d(2, 4, 3)
    module.register_forward_hook(lambda *_: None)
    return module


ASIDE: dict[str, Callable[[], nn.Module]] = {
    "a hook": hooked,
    "holes": lambda: nn.Conv2d(2, 4, 3, dilation=2),
    "groups": lambda: nn.Conv2d(2, 4, 3, groups=2),
    "other padding": lambda: nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"),
    "padding by name": lambda: nn.Conv2d(2, 4, 3, padding="same"),
    "a parametrised weight": lambda: parametrizations.weight_norm(nn.Conv2d(2, 4, 3)),
    "not a convolution": lambda: nn.ConvTranspose2d(2, 4, 3),
}


@pytest.mark.parametrize("name", ASIDE)
def test_what_is_no_plain_convolution_runs_as_it_stands(name: str, by_events: list[torch.Size]) -> None:
    torch.manual_seed(0)
    module, x = ASIDE[name]().double(), trains(2, 8, 7)
    torch.testing.assert_close(OverTime(module)(x), torch.stack([module(step) for step in x]))
    assert by_events == []


def test_many_spikes_other_engines_and_transformations_take_the_convolution_as_it_stands(
    by_events: list[torch.Size],
) -> None:
    torch.manual_seed(0)
    layer, x = OverTime(nn.Conv2d(2, 4, 3).double()), trains(2, 8, 7)
    layer(trains(2, 8, 7, density=0.6))
    with engine("reference"):
        layer(x)
    weights = dict(layer.named_parameters())
    torch.func.grad(lambda w: torch.func.functional_call(layer, w, (x,)).sum())(weights)
    with torch.autocast("cpu"):
        layer.float()(x.float())
    layer.bfloat16()(x.bfloat16())
    assert by_events == []
    layer.double()(x)
    assert by_events == [torch.Size([T * B, 2, 8, 7])]


def test_no_events_at_all_leave_the_bias(by_events: list[torch.Size]) -> None:
    module = nn.Conv2d(2, 4, 3).double()
    assert module.bias is not None
    out = OverTime(module)(trains(2, 8, 7, density=0.0))
    assert torch.equal(out, module.bias[:, None, None].expand(out.shape))
    assert len(by_events) == 1


@pytest.mark.parametrize("shape", [(2, 2, 7), (3, 8, 7), (2, 8)])
def test_frames_that_do_not_fit_are_refused_as_by_the_convolution(shape: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError, match=r"[Kk]ernel size|expected input|Expected"):
        OverTime(nn.Conv2d(2, 4, 3).double())(trains(*shape))
