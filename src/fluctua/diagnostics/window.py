"""Over which part of a trial moments are taken, and how."""

from typing import Literal

import torch
from torch import Tensor

Window = Literal["trial", "arrival"]


def window_mask(current: Tensor, window: Window) -> Tensor:
    """1 where a time step of a sample counts, else 0: `[T, B]` for a current `[T, B, *N]`.

    "trial" counts all steps; "arrival" those from the first on in which any current reaches the population in any
    sample: activity needs some 12 ms a layer to come through (20/10 ms time constants), and before that a deep
    population is at rest whatever its weights.
    """
    if window == "trial":
        return current.new_ones(current.shape[:2])
    if window != "arrival":
        raise ValueError(f"unknown window {window!r}: choose 'trial' or 'arrival'")
    arrived = (current.flatten(1) != 0).any(-1).cumsum(0) > 0
    return arrived.to(current.dtype)[:, None].expand(current.shape[:2])


def neuron_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of `x` `[T, B, *N]` over the window, per neuron `[N]` (float64)."""
    weights = mask.flatten().double()
    return weights.to(x.dtype) @ x.flatten(2).flatten(0, 1) / weights.sum()


def population_mean(x: Tensor, mask: Tensor) -> float:
    """Mean of `x` `[T, B, *N]` over window and neurons."""
    return float(neuron_mean(x, mask).double().mean())


def first_event(x: Tensor) -> Tensor:
    """First step in which anything of `x` `[T, B, *N]` is not zero, per sample `[B]`; T where nothing ever is."""
    active = (x.flatten(2) != 0).any(-1)
    return torch.where(active.any(0), active.to(torch.uint8).argmax(0), x.shape[0])
