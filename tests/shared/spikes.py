"""Batches of random spikes, and laws of when neurons spike that hold whatever the order in which sums are made."""

from collections.abc import Callable

import torch
from torch import Tensor


def spikes(*shape: int, p: float = 0.1, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Zeros and ones of this shape, each a one with probability `p`; the same at every call."""
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < p).to(dtype)


def assert_first_spikes_where(potential: Tensor, threshold: float, spikes: Tensor) -> None:
    """Each neuron `[T, ...]` first spikes where its free potential meets the threshold, but for one rounding a step."""
    tolerance = len(potential) * torch.finfo(potential.dtype).eps * float(potential.abs().max())
    first = _first(spikes != 0)
    assert bool((_first(potential >= threshold - tolerance) <= first).all()), "a spike below the threshold"
    assert bool((first <= _first(potential >= threshold + tolerance)).all()), "no spike above the threshold"


def assert_spikes_alike(simulate: Callable[[Tensor], Tensor], currents: Tensor, expected: Tensor) -> None:
    """Spikes `[T, ...]` of a simulation on these currents are as expected.

    The expected ones may come of sums in another order. So neurons are not compared from the step on in which a change
    of the currents as large as a few roundings a step changes their spikes; such are few.
    """
    change = 4 * len(currents) * torch.finfo(currents.dtype).eps
    more, less = simulate(currents * (1 + change)), simulate(currents * (1 - change))
    sure = (more != less).cumsum(0) == 0
    assert float(sure.double().mean()) > 0.9
    assert torch.equal(simulate(currents)[sure], expected[sure])


def _first(happens: Tensor) -> Tensor:
    """The step of the first True, the number of steps where there is none."""
    never = torch.ones_like(happens[:1])
    return torch.cat([happens, never]).int().argmax(0)
