"""A stateless module over a whole sequence."""

import torch
from torch import Tensor, nn

from fluctua.layers.fusion import bare, undisturbed

PIECE = 32
"""Samples and steps that a convolution gets at a time, so that what it needs stays in cache."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class OverTime(nn.Module):
    """Apply a stateless module (convolution, pooling, normalisation, ...) to all time steps in one call.

    Time and batch are folded into one axis, `[T, B, ...] -> [T * B, ...]`, and unfolded behind the module, so a batch
    norm inside takes its statistics over batch and time. `nn.Linear` does not need it: it acts on the last axis.

    Args:
        module: takes and returns one tensor `[batch, ...]`.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """`[T, B, ...] -> [T, B, ...]`.

        Raises:
            ValueError: no sequence, or a module that does not keep the axis of time and batch.
        """
        if x.ndim < 2:
            raise ValueError(f"OverTime takes a sequence [T, B, ...], got the shape {tuple(x.shape)}")
        out = self._applied(x.flatten(0, 1))
        if out.shape[:1] != (x.shape[0] * x.shape[1],):
            raise ValueError(
                f"{type(self.module).__name__} returned {tuple(out.shape)} for {x.shape[0] * x.shape[1]} steps and "
                "samples: it must keep the first axis as it is"
            )
        return out.reshape(*x.shape[:2], *out.shape[1:])

    def _applied(self, x: Tensor) -> Tensor:
        """The module on `[T * B, ...]`; a convolution that nobody looks into takes a piece after the other."""
        if len(x) <= PIECE or not undisturbed(x) or not bare(self.module, *_CONVOLUTIONS):
            whole: Tensor = self.module(x)
            return whole
        return torch.cat([self.module(piece) for piece in x.split(PIECE)])  # type: ignore[no-untyped-call]
