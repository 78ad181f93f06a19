"""Is a batch fit to measure on?"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fluctua.network import Population
from fluctua.network.loop import StepLoop
from fluctua.network.preserve import Forward, plain_call
from fluctua.theory import Target


class BatchError(ValueError):
    """The batch cannot be used; the message says why."""


def check_batch(batch: Any, forward: Forward) -> None:
    """Refuse what no network can be initialised on.

    Raises:
        BatchError: not a floating-point tensor `[T, B, ...]` (unless `forward` knows what to do with it), empty,
            fewer than two time steps, NaN or infinite values, or nothing but zeros.
    """
    if forward is plain_call or isinstance(forward, StepLoop):
        _check_sequence(batch)
    tensors = list(_tensors(batch))
    for tensor in tensors:
        if not _finite(tensor):
            raise BatchError("the batch has NaN or infinite values: clean the data first")
    if tensors and not any(_active(tensor) for tensor in tensors):
        raise BatchError("the batch is all zero: there is nothing to measure, take one with activity")


def _check_sequence(batch: Any) -> None:
    if not isinstance(batch, Tensor):
        raise BatchError(
            f"the batch must be an input tensor [T, B, ...], got {type(batch).__name__}: pass the input alone, or "
            "forward=lambda model, batch: ..."
        )
    if not batch.is_floating_point():
        raise BatchError(f"the batch must be of floating point, got {batch.dtype}: call .float() on it")
    if batch.ndim < 3 or batch.numel() == 0 or batch.shape[0] < 2:
        raise BatchError(
            f"the batch must be a sequence [T, B, ...] of at least 2 steps and 1 sample, got {list(batch.shape)}"
        )


def check_unit(populations: tuple[Population, ...], target: Target) -> None:
    """Refuse a rate in Hz for neurons that count time in steps.

    Raises:
        ValueError: naming the way out.
    """
    unknown = [p.name for p in populations if p.neuron.in_steps]
    if target.rate is not None and unknown:
        raise ValueError(
            f"a rate of {target.rate:g} Hz means nothing to {unknown[0]}, whose neurons count time in steps: give "
            "dt=, the time step in seconds"
        )


def short_batch_warnings(populations: tuple[Population, ...]) -> list[str]:
    """A sentence for each spiking population whose potential has no time to settle within the batch."""
    return [
        f"the batch of {duration(p)} is short for the time constants of {p.name}: its potential settles only partly, "
        "and what is measured holds for trials of this length"
        for p in populations
        if p.neuron.threshold is not None and _settled(p) < 0.95
    ]


def duration(p: Population) -> str:
    """Length of the trial that a population was traced on, in words."""
    steps = p.steps or 0
    return f"{steps} steps" if p.neuron.in_steps else f"{steps * p.neuron.kernel.dt:g} s"


def _settled(p: Population) -> float:
    """The part of the stationary variance that is reached at the end of a trial."""
    kernel = p.neuron.kernel
    return float(((kernel.response(p.steps or 1) ** 2).sum(0) * kernel.dt / kernel.eps_hat).min())


def _finite(tensor: Tensor) -> bool:
    """A finite sum is proof, ten times cheaper than to look at every entry; one that overflows is none."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _active(tensor: Tensor) -> bool:
    """Whether any entry is not zero; likewise."""
    return bool(tensor.sum() != 0) or bool(tensor.any())


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        if batch.is_floating_point():
            yield batch
    elif isinstance(batch, dict):
        yield from _tensors(list(batch.values()))
    elif isinstance(batch, list | tuple):
        for item in batch:
            yield from _tensors(item)


def new_generator(seed: int | None, generator: torch.Generator | None) -> torch.Generator:
    """The generator of all draws: the one given, one from the seed, or one seeded by torch's own generator."""
    if generator is not None:
        if seed is not None:
            raise ValueError("give a seed or a generator, not both")
        return generator
    if seed is None:
        seed = int(torch.randint(2**62, ()).item())
    return torch.Generator().manual_seed(seed)
