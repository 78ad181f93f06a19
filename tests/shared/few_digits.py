"""Numbers whose sums are exact, for laws on bits that hold on any machine."""

import torch
from torch import Tensor, nn


def few_digits(numbers: Tensor, places: int = 8) -> Tensor:
    """The nearest multiples of `2^-places`.

    As long as their sums and products fit into the 24 digits of float32 nothing is rounded: what is added up does not
    depend on its order, so on no vector width, number of threads or library.
    """
    scale = float(2**places)
    return (numbers * scale).round() / scale


@torch.no_grad()
def with_few_digits(module: nn.Module, places: int = 8) -> None:
    """Take such numbers for all weights of a module."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            for parameter in layer.parameters(recurse=False):
                parameter.copy_(few_digits(parameter, places))
