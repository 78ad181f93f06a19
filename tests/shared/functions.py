"""A function of tensors as a module."""

from collections.abc import Callable

from torch import Tensor, nn


class Function(nn.Module):
    """What any function gives, without parameters."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)
