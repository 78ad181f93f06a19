"""A stateless module over a whole sequence."""

import torch
from torch import Tensor, nn

from fluctua.layers.fusion import MAX_DENSITY, can_fuse, is_ordinary, is_unmodified, runs_eagerly
from fluctua.timeloop.contract import LoopParameters

PIECE = 32
"""Samples and steps that a convolution gets at a time, so that what it needs stays in cache."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class OverTime(nn.Module):
    """Apply a stateless module (convolution, pooling, normalisation, ...) to all time steps in one call.

    Time and batch are folded into one axis, `[T, B, ...] -> [T * B, ...]`, and unfolded behind the module, so a batch
    norm inside takes its statistics over batch and time. `nn.Linear` does not need it: it acts on the last axis.

    On the CPU a convolution of few spikes adds up the weights of these alone, with the same result but for the order in
    which they are added. A weight that is NaN or infinite shows up when its afferent spikes.

    Args:
        module: takes and returns one tensor `[batch, ...]`.

    Example:
        >>> OverTime(nn.Conv2d(2, 16, 3, padding=1))(torch.zeros(10, 4, 2, 8, 8)).shape
        torch.Size([10, 4, 16, 8, 8])
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
        """The module on `[T * B, ...]`; a convolution that nobody looks into by events, or a piece after the other."""
        if runs_eagerly(x) and is_unmodified(self.module, *_CONVOLUTIONS):
            by_events = _by_events(self.module, x) if isinstance(self.module, nn.Conv1d | nn.Conv2d) else None
            if by_events is not None:
                return by_events
            if len(x) > PIECE:
                return torch.cat([self.module(piece) for piece in x.split(PIECE)])  # type: ignore[no-untyped-call]
        whole: Tensor = self.module(x)
        return whole


def _by_events(conv: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor | None:
    """The convolution of frames `[F, channels, ...]` as a sum over their spikes, or None where that is not to be."""
    weight, stride, padding = conv.weight, conv.stride, conv.padding
    if isinstance(padding, str) or not _is_window(conv) or not _fits(conv, padding, x):
        return None
    if isinstance(conv, nn.Conv1d):  # one row
        x, weight, stride, padding = x.unsqueeze(2), weight.unsqueeze(2), (1, *stride), (0, *padding)

    from fluctua.timeloop.events_conv import convolved, spikes_of

    spikes = spikes_of(x, MAX_DENSITY)
    if spikes is None:
        return None
    out = convolved(x, spikes, weight, conv.bias, stride, padding)  # type: ignore[arg-type]
    return out.squeeze(2) if isinstance(conv, nn.Conv1d) else out


def _is_window(conv: nn.Conv1d | nn.Conv2d) -> bool:
    """Whether each output sees all channels through a window without holes, with zeros around the frame."""
    return {*conv.dilation, conv.groups} == {1} and conv.padding_mode == "zeros"


def _fits(conv: nn.Conv1d | nn.Conv2d, padding: tuple[int, ...], x: Tensor) -> bool:
    """Whether frames and weights are plain numbers of one type, none of them empty, and the cpu engine is wanted."""
    if x.ndim != len(padding) + 2 or x.shape[1] != conv.in_channels or x.numel() == 0:
        return False
    if any(n + 2 * pad < kernel for n, pad, kernel in zip(x.shape[2:], padding, conv.kernel_size, strict=True)):
        return False
    if not all(is_ordinary(t, x) for t in (x, conv.weight, conv.bias) if t is not None):
        return False
    return can_fuse(LoopParameters(x.new_zeros(()), None).dynamics, 1, x)
