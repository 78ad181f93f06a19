"""The rivals: initialisers that know nothing of time constants, time steps or firing rates."""

import math

import torch
from torch import nn

from fluctua.initialization.drawing import normal, write


def kaiming(model: nn.Module, *, gain: float = 1.0, seed: int | None = None) -> None:
    """`N(0, gain^2 / fan_in)` for every weight of two or more dimensions, zero for every bias, in place.

    He et al. 2015; `gain=1` is what the paper compares itself with, `gain=sqrt(2)` the choice for ReLUs.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            write(parameter, normal(parameter, generator) * gain / math.sqrt(parameter[0].numel()))
        elif name.rsplit(".", 1)[-1] == "bias":
            write(parameter, torch.zeros_like(parameter))
