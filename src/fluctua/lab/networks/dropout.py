"""Dropout for sequences of spikes."""

from torch import Tensor, nn
from torch.nn.functional import dropout


class DropUnits(nn.Module):
    """Dropout of whole units of `[T, B, ...]`: in each sample a unit is either dropped or kept for all steps.

    Kept units are scaled by `1 / (1 - p)`, so that means stay. `nn.Dropout` draws a mask for every step and so drops
    single spikes: each unit still shows in each sample, and drawing T times as many numbers takes two thirds of the
    forward pass of 256 neurons (700 units, 350 steps).

    Args:
        p: probability that a unit is dropped.

    Raises:
        ValueError: a probability outside [0, 1).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"the probability of dropping a unit must be in [0, 1), got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """`[T, B, ...]` -> the same shape; unchanged in evaluation."""
        if not self.training or self.p == 0:
            return x
        return x * dropout(x.new_ones(x.shape[1:]), self.p)

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return f"p={self.p:g}"
