"""Max pooling is torch's own, bit for bit, with its gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import max_pool2d

from fluctua.timeloop.pooling import max_pooled

sizes = st.integers(1, 12)


@given(
    frames=st.integers(1, 40),  # more than a block takes
    channels=st.sampled_from([1, 2, 7, 16, 17, 40]),
    frame=st.tuples(sizes, sizes),
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    last=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_maxima_and_their_gradient_are_those_of_torch(
    frames: int,
    channels: int,
    frame: tuple[int, int],
    window: tuple[int, int],
    dtype: torch.dtype,
    last: bool,
    seed: int,
) -> None:
    window = min(window[0], frame[0]), min(window[1], frame[1])
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-3, 4, (frames, channels, *frame), generator=generator).to(dtype)  # many are equal
    x[torch.rand(x.shape, generator=generator) < 0.05] = float("nan")
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    x.requires_grad_()
    truth, ours = max_pool2d(x, window), max_pooled(x, window)
    upstream = torch.randn(truth.shape, generator=generator, dtype=dtype)
    pairs = [(ours, truth), *((torch.autograd.grad(out, x, upstream)[0] for out in (ours, truth)),)]
    for mine, true in pairs:
        torch.testing.assert_close(mine, true, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_threads_gives_the_same_numbers(threads: int) -> None:
    x = torch.randn(100, 5, 6, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        out = max_pooled(x, (2, 3))
        (ours,) = torch.autograd.grad(out.square().sum(), x)
    finally:
        torch.set_num_threads(before)
    truth = max_pool2d(x, (2, 3))
    assert torch.equal(out, truth)
    assert torch.equal(ours, torch.autograd.grad(truth.square().sum(), x)[0])


def test_a_view_of_more_frames_and_a_gradient_that_is_expanded_are_taken_as_they_are() -> None:
    x = torch.randn(8, 9, 6, 20, generator=torch.Generator().manual_seed(0))[::2, 1:, :, 3:10].requires_grad_()
    truth, ours = max_pool2d(x, 2), max_pooled(x, (2, 2))
    assert torch.equal(ours, truth)
    upstream = torch.ones(1, 1, 1, 1).expand(truth.shape)
    (mine,), (true,) = (torch.autograd.grad(out, x, upstream) for out in (ours, truth))
    assert torch.equal(mine, true)
