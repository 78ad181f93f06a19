"""Laws of `OverTime`: one call over the whole sequence does what a loop over its steps does."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fluctua.layers import OverTime

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
