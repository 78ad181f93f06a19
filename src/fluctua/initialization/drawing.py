"""Drawing weights and writing them."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluctua.theory import WeightLaw

Array = NDArray[np.float64]


def draw(law: WeightLaw, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Weights from the law in the shape of `like` `[rows, ...]`, drawn on the CPU: the same on every device.

    One number of `generator` (default: torch's own) seeds the NumPy generator that they come from.
    """
    rng = np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator, device="cpu")))
    mean, std = (_rows(value, like) for value in (law.mean, law.std))
    return torch.as_tensor(WeightLaw(law.family, mean, std, law.density).draw(rng, like.shape)).to(like)


def normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers in the shape of `like`, drawn on the CPU in float32: the same on every device."""
    return torch.randn(like.shape, generator=generator, dtype=torch.float32).to(like)


def write(parameter: Tensor, value: Tensor) -> None:
    """Overwrite a parameter in place."""
    with torch.no_grad():
        parameter.copy_(value)


def by_row(value: Array, weight: Tensor) -> Tensor:
    """A number for all rows of `weight`, or one for each, broadcast against it.

    A value per neuron `[*N]` becomes one per row, the mean over the neurons that share it; where the first axis of
    `[*N]` is not that of the rows, all rows get the mean.
    """
    return torch.as_tensor(_rows(value, weight)).to(weight).reshape(-1, *[1] * (weight.ndim - 1))


def _rows(value: Array, weight: Tensor) -> Array:
    """As `by_row`, of the shape `[]` or `[rows]`."""
    rows = value.reshape(value.shape[0] if value.ndim else 1, -1).mean(1)
    return rows if len(rows) == weight.shape[0] else np.asarray(rows.mean())
