"""Drawing weights and writing them."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluctua.network import Pathway
from fluctua.theory.laws import WeightLaw

Array = NDArray[np.float64]


def draw(law: WeightLaw, like: Tensor, generator: torch.Generator | None, rows: int = 0) -> Tensor:
    """Weights from the law in the shape of `like`, whose axis `rows` counts output units, drawn on the CPU.

    So they are the same on every device.

    One number of `generator` (default: torch's own) seeds the NumPy generator that they come from.
    """
    rng = np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator, device="cpu")))
    mean, std = (_rows(value, like.shape[rows]) for value in (law.mean, law.std))
    by_row = like.transpose(0, rows).shape
    return torch.as_tensor(WeightLaw(law.family, mean, std, law.density).draw(rng, by_row)).transpose(0, rows).to(like)


def of_entries(q: Pathway, value: Tensor) -> Tensor:
    """A value for the weight of a pathway, zero where that has no entries."""
    return value if q.mask is None else value * q.mask.to(value)


def normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers in the shape of `like`, drawn on the CPU in float32: the same on every device."""
    return torch.randn(like.shape, generator=generator, dtype=torch.float32).to(like)


def write(parameter: Tensor, value: Tensor) -> None:
    """Overwrite a parameter in place."""
    with torch.no_grad():
        parameter.copy_(value)


def by_row(value: Array, weight: Tensor, rows: int = 0) -> Tensor:
    """A number for all rows of `weight`, which its axis `rows` counts, or one for each, broadcast against it.

    A value per neuron `[*N]` becomes one per row, the mean over the neurons that share it; where the first axis of
    `[*N]` is not that of the rows, all rows get the mean.
    """
    found = torch.as_tensor(_rows(value, weight.shape[rows])).to(weight)
    return found.reshape(-1, *[1] * (weight.ndim - 1)).transpose(0, rows)


def _rows(value: Array, size: int) -> Array:
    """As `by_row` for so many rows, of the shape `[]` or `[rows]`."""
    rows = value.reshape(value.shape[0] if value.ndim else 1, -1).mean(1)
    return rows if len(rows) == size else np.asarray(rows.mean())
