"""Over which part of a trial moments are taken, and how."""

from typing import Literal

import torch
from torch import Tensor

Window = Literal["trial", "arrival"]


def window_mask(current: Tensor, window: Window) -> Tensor:
    """1 where a time step of a sample counts, else 0: `[T, B]` for a current `[T, B, *N]`.

    "trial" counts all steps; "arrival" those of each sample from the first on in which any current reaches the
    population: activity needs 12 to 20 ms a layer to come through (20/10 ms time constants), and before that a deep
    population is at rest whatever its weights.
    """
    if window == "trial":
        return current.new_ones(current.shape[:2])
    if window != "arrival":
        raise ValueError(f"unknown window {window!r}: choose 'trial' or 'arrival'")
    arrived = (by_neuron(current) != 0).any(-1).cumsum(0) > 0
    return arrived.to(current.dtype)


def by_neuron(x: Tensor) -> Tensor:
    """`[T, B, *N]` -> `[T, B, N]`."""
    return x.reshape(*x.shape[:2], -1)


def neuron_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of `x` `[T, B, *N]` over the window, per neuron `[N]` (float64); 0, the state of rest, if that is empty."""
    total = mask.flatten().to(x.dtype) @ by_neuron(x).flatten(0, 1)
    return total.double() / mask.sum(dtype=torch.float64).clamp_min(1)


def population_mean(x: Tensor, mask: Tensor) -> float:
    """Mean of `x` `[T, B, *N]` over window and neurons."""
    return float(neuron_mean(x, mask).mean())


def product_mean(u: Tensor, v: Tensor, mask: Tensor) -> float:
    """Mean of `u v`, both `[T, B, *N]`, over window and neurons, without the product in memory."""
    rows, columns = (by_neuron(x).flatten(0, 1) for x in (u, v))
    products = torch.bmm(rows.unsqueeze(1), columns.unsqueeze(2)).flatten()  # one for each step and sample
    total = mask.flatten().double() @ products.double()
    return float(total / mask.sum(dtype=torch.float64).clamp_min(1)) / rows.shape[1]


def first_event(x: Tensor) -> Tensor:
    """First step in which anything of `x` `[T, B, *N]` is not zero, per sample `[B]`; T where nothing ever is."""
    active = (by_neuron(x) != 0).any(-1)
    return torch.where(active.any(0), active.to(torch.uint8).argmax(0), x.shape[0])
