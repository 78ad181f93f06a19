"""Sequences that are cut into segments: the same spikes and gradients, in memory that does not grow with the cut."""

import gc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fluctua.timeloop import LoopParameters, State, cpu_memory, engine, run, segments
from loop_populations import (
    ADAPTIVE,
    LIF,
    READOUTS,
    SHAPE,
    assert_same_gradients,
    assert_same_results,
    drawn,
    everything,
    leaf,
    named,
)


@pytest.mark.parametrize("name", ["cpu", "reference"])
@pytest.mark.parametrize("p", [LIF, READOUTS[0], ADAPTIVE[5]], ids=named)
def test_segments_give_the_gradients_of_the_whole(p: LoopParameters, name: str) -> None:
    whole, gradients = everything(name, p, drawn(SHAPE))
    for recompute in (True, False):
        with segments(7, recompute=recompute):
            result, again = everything(name, p, drawn(SHAPE))
        assert_same_results(result, whole)
        assert_same_gradients(again, gradients, 1e-12)


def test_segments_are_computed_again_by_the_engine_they_were_computed_by() -> None:
    x = leaf(drawn(SHAPE))
    with segments(7), engine("reference"):
        output = run(x, LIF).output
    with engine("cpu"):
        output.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None


def test_truncated_gradients_are_those_of_segments_that_start_from_a_constant_state() -> None:
    x, weights = leaf(drawn(SHAPE)), drawn(SHAPE, seed=1)
    with segments(10, truncate=True):
        (run(x, LIF).output * weights).sum().backward()  # type: ignore[no-untyped-call]
    y, state = leaf(drawn(SHAPE)), None
    for piece, weight in zip(y.split(10), weights.split(10), strict=True):  # type: ignore[no-untyped-call]
        result = run(piece, LIF, state)
        (result.output * weight).sum().backward()  # type: ignore[no-untyped-call]
        state = State(result.state.potential.detach(), result.state.current.detach())
    torch.testing.assert_close(x.grad, y.grad, rtol=0, atol=0)
    z = leaf(drawn(SHAPE))
    (run(z, LIF).output * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert z.grad is not None
    assert x.grad is not None
    assert not torch.equal(z.grad[:10], x.grad[:10])  # the bias
    torch.testing.assert_close(z.grad[20:], x.grad[20:], rtol=0, atol=1e-12)  # which the last segment is free of


def kept(loss: Callable[[], Tensor]) -> int:
    """Bytes of the pool that live between forward and backward."""
    gc.collect()
    before = cpu_memory.pool.lent
    value = loss()
    between = cpu_memory.pool.lent - before
    value.backward()  # type: ignore[no-untyped-call]
    return between


def test_ten_thousand_steps_keep_no_more_than_their_states() -> None:
    steps, batch, neurons = 10_000, 4, 16
    x = torch.randn(steps, batch, neurons, generator=torch.Generator().manual_seed(0), requires_grad=True)
    half = torch.tensor(0.5)
    p = LoopParameters(torch.tensor(0.9), torch.tensor(0.8), half)

    def loss() -> Tensor:
        return run(x, p).output.mean()

    whole = kept(loss)
    assert whole >= steps * batch * neurons * 4  # the potential
    assert x.grad is not None
    gradient = x.grad.clone()
    x.grad = None
    with segments(200):
        cut = kept(loss)
    assert cut == 0
    torch.testing.assert_close(x.grad, gradient, rtol=1e-6, atol=0)


@pytest.mark.parametrize("length", [0, -3])
def test_a_segment_has_a_step(length: int) -> None:
    with pytest.raises(ValueError, match=f"1 step or more, got {length}"), segments(length):
        pass
