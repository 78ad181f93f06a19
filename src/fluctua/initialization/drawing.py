"""Drawing weights and writing them."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers in the shape of `like`, drawn on the CPU in float32: the same on every device."""
    return torch.randn(like.shape, generator=generator, dtype=torch.float32).to(like)


def write(parameter: Tensor, value: Tensor) -> None:
    """Overwrite a parameter in place."""
    with torch.no_grad():
        parameter.copy_(value)


def by_row(value: NDArray[np.floating[Any]], weight: Tensor) -> Tensor:
    """A number for all rows of `weight`, or one for each, broadcast against it.

    A value per neuron `[*N]` becomes one per row, the mean over the neurons that share it; where the first axis of
    `[*N]` is not that of the rows, all rows get the mean.
    """
    rows = value.reshape(value.shape[0] if value.ndim else 1, -1).mean(1)
    if len(rows) not in (1, weight.shape[0]):
        rows = rows.mean(keepdims=True)
    return torch.as_tensor(rows).to(weight).reshape(-1, *[1] * (weight.ndim - 1))
