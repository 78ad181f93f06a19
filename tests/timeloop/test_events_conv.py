"""A convolution by events is torch's own, with all its gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d

from fluctua.timeloop.events_conv import convolved, spikes_of

# Sums in another order: rounding of a sum of some hundred products of order 1.
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-12}


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def frames(*shape: int, density: float, graded: bool = False, dtype: torch.dtype = torch.float64) -> Tensor:
    x = (torch.rand(*shape, generator=torch.Generator().manual_seed(0)) < density).to(dtype)
    return x * drawn(*shape, seed=1, dtype=dtype) if graded else x


def by_events(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    pad: tuple[int, int],
    pool: tuple[int, int] = (1, 1),
) -> Tensor:
    spikes = spikes_of(x, 1.0)
    assert spikes is not None
    return convolved(x, spikes, weight, bias, stride, pad, pool)


def assert_same(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    pool: tuple[int, int] = (1, 1),
) -> None:
    """Output and gradients are those of the dense convolution, and of the maxima of its windows."""
    inputs = [t.requires_grad_() for t in (x, weight, bias) if t is not None]
    truth = max_pool2d(conv2d(x, weight, bias, stride, padding), pool)
    ours = by_events(x, weight, bias, stride, padding, pool)
    assert ours.stride() == truth.stride()
    upstream = drawn(*truth.shape, seed=2, dtype=truth.dtype)
    expected = truth, *torch.autograd.grad(truth, inputs, upstream)
    found = ours, *torch.autograd.grad(ours, inputs, upstream)
    for mine, true in zip(found, expected, strict=True):
        scale = max(1.0, float(true.detach().abs().max()))
        torch.testing.assert_close(mine, true, rtol=0, atol=scale * TOLERANCES[x.dtype])


sizes = st.integers(1, 9)
pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))


@given(
    n=st.integers(1, 40),  # more than a block takes
    channels=st.sampled_from([1, 2, 5]),
    outputs=st.sampled_from([1, 7, 8, 16, 17, 33]),
    frame=st.tuples(sizes, sizes),
    kernel=pairs,
    stride=pairs,
    padding=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    density=st.sampled_from([0.0, 0.1, 0.6]),
    graded=st.booleans(),
    biased=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_shape_gives_what_a_dense_convolution_gives(
    n: int,
    channels: int,
    outputs: int,
    frame: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    density: float,
    graded: bool,
    biased: bool,
    dtype: torch.dtype,
) -> None:
    kernel = min(kernel[0], frame[0] + 2 * padding[0]), min(kernel[1], frame[1] + 2 * padding[1])
    x = frames(n, channels, *frame, density=density, graded=graded, dtype=dtype)
    weight = drawn(outputs, channels, *kernel, seed=3, dtype=dtype)
    assert_same(x, weight, drawn(outputs, seed=4, dtype=dtype) if biased else None, stride, padding)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pool", [(2, 2), (3, 2), (1, 4), (7, 9)])
def test_maxima_are_kept_of_windows_that_cover_the_maps_or_not(
    pool: tuple[int, int], dtype: torch.dtype, last: bool
) -> None:
    x = frames(40, 3, 9, 11, density=0.2, graded=True, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    assert_same(x, drawn(17, 3, 3, 3, seed=3, dtype=dtype), drawn(17, seed=4, dtype=dtype), pool=pool)


def test_of_equal_numbers_the_first_is_the_largest_and_nan_is_larger_than_all() -> None:
    x, weight = torch.zeros(2, 1, 4, 4), torch.ones(1, 1, 1, 1, requires_grad=True)
    x[0, 0, 1, 1:3], x[1, 0, 2, 3] = 1.0, float("nan")
    x.requires_grad_()
    truth, ours = max_pool2d(conv2d(x, weight), 2), by_events(x, weight, None, (1, 1), (0, 0), (2, 2))
    torch.testing.assert_close(ours, truth, rtol=0, atol=0, equal_nan=True)
    upstream = torch.arange(1.0, 9.0).view(2, 1, 2, 2)
    (mine,), (true,) = (torch.autograd.grad(out, x, upstream) for out in (ours, truth))
    assert torch.equal(mine, true)


def test_a_frame_of_many_words_and_places() -> None:
    assert_same(frames(3, 4, 34, 33, density=0.05), drawn(20, 4, 3, 3, seed=3), None, padding=(1, 1))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (3, 0, 1, 2)])
def test_memory_in_any_order(order: tuple[int, ...]) -> None:
    x, weight = frames(5, 3, 6, 7, density=0.3), drawn(4, 3, 3, 3, seed=3)
    back = tuple(order.index(axis) for axis in range(4))
    assert_same(x.permute(order).contiguous().permute(back), weight.permute(order).contiguous().permute(back), None)


def test_more_spikes_than_that_are_skipped_because() -> None:
    x = frames(10, 2, 8, 8, density=0.3)
    density = float(x.mean())
    assert spikes_of(x, density - 0.01) is None
    assert spikes_of(x, density + 0.01) is not None


def test_a_fixed_number_of_threads_gives_the_same_numbers_every_time() -> None:
    x, weight, found = frames(70, 2, 8, 8, density=0.2), drawn(16, 2, 3, 3, seed=3).requires_grad_(), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3, 3):
            torch.set_num_threads(threads)
            out = by_events(x, weight, None, (1, 1), (1, 1))
            found.append((out.detach(), *torch.autograd.grad(out.square().sum(), weight)))
    finally:
        torch.set_num_threads(before)
    alone, first, second = found
    assert torch.equal(alone[0], first[0])
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    torch.testing.assert_close(first[1], alone[1], rtol=1e-12, atol=1e-12)


def test_each_gradient_may_be_asked_for_alone() -> None:
    x, weight, bias = frames(6, 2, 5, 5, density=0.3), drawn(3, 2, 3, 3, seed=3), drawn(3, seed=4)
    for tensor in (x, weight, bias):
        for other in (x, weight, bias):
            other.requires_grad_(other is tensor)
        ours = torch.autograd.grad(by_events(x, weight, bias, (1, 1), (1, 1)).square().sum(), tensor)
        truth = torch.autograd.grad(conv2d(x, weight, bias, 1, 1).square().sum(), tensor)
        torch.testing.assert_close(ours, truth, rtol=0, atol=1e-10)


def test_what_is_kept_for_backward_are_bits() -> None:
    kept = list[Tensor]()
    x, weight = frames(64, 2, 8, 8, density=0.2).requires_grad_(), drawn(16, 2, 3, 3, seed=3).requires_grad_()

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        by_events(x, weight, None, (1, 1), (1, 1))
    assert sum(tensor.numel() for tensor in kept) == weight.numel()


def test_a_weight_changed_between_forward_and_backward_is_noticed() -> None:
    x, weight = frames(6, 2, 5, 5, density=0.3), drawn(3, 2, 3, 3, seed=3).requires_grad_()
    out = by_events(x, weight, None, (1, 1), (0, 0))
    with torch.no_grad():
        weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()  # type: ignore[no-untyped-call]


def test_a_second_derivative_is_refused() -> None:
    x, weight = frames(6, 2, 5, 5, density=0.3).requires_grad_(), drawn(3, 2, 3, 3, seed=3).requires_grad_()
    for tensor in (x, weight):
        out = by_events(x, weight, None, (1, 1), (0, 0))
        (gradient,) = torch.autograd.grad(out.square().sum(), tensor, create_graph=True)
        with pytest.raises(RuntimeError, match=r"a convolution of spikes can be differentiated only once"):
            torch.autograd.grad(gradient.square().sum(), tensor)
