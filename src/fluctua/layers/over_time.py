"""A stateless module over a whole sequence."""

from typing import Any

import torch
from torch import Tensor, nn

from fluctua.layers.fusion import Unfused, demand, demand_eager, demand_ordinary, demand_unmodified, plan
from fluctua.spikes.batch import MAX_DENSITY
from fluctua.timeloop.engines import wants

PIECE = 32
"""Number of frames that a convolution gets at a time, so that its data stay in cache."""

Window = int | tuple[int, ...]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class OverTime(nn.Module):
    """Apply a stateless module (convolution, pooling, normalisation, ...) to all time steps in one call.

    Time and batch are folded into one axis, `[T, B, ...] -> [T * B, ...]`, and unfolded behind the module, so a batch
    norm inside takes its statistics over batch and time. `nn.Linear` does not need it: it acts on the last axis.

    On the CPU a convolution of few spikes adds up only the weights of these, with the same result except for the order
    of summation. A weight that is NaN or infinite then shows only when its afferent spikes.

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
        """The module on `[T * B, ...]`; by events for a convolution without hooks, or piece by piece."""
        name = f"OverTime({type(self.module).__name__})"
        if type(self.module) in _CONVOLUTIONS and plan(name, lambda: _is_alone(self.module, x)):
            by_events = plan(name, lambda: _by_events(self.module, x))
            if by_events is not None:
                return by_events
            if len(x) > PIECE:
                return torch.cat([self.module(piece) for piece in x.split(PIECE)])  # type: ignore[no-untyped-call]
        if isinstance(self.module, nn.MaxPool2d):
            pooled = plan(name, lambda: _maxima(self.module, x))
            if pooled is not None:
                return pooled
        whole: Tensor = self.module(x)
        return whole


def _is_alone(module: nn.Module, x: Tensor) -> bool:
    demand_unmodified(module, *_CONVOLUTIONS)
    demand_eager(x)
    return True


def _maxima(module: Any, x: Tensor) -> Tensor:
    demand_unmodified(module, nn.MaxPool2d)
    options = (getattr(module, name) for name in ("stride", "padding", "dilation", "ceil_mode", "return_indices"))
    window = side_by_side(module.kernel_size, *options)
    demand(window is not None and x.ndim == 4, "its windows overlap, or leave gaps, or the input is no image")
    assert window is not None
    return maxima(x, window)


def _by_events(conv: nn.Module, x: Tensor) -> Tensor:
    """The convolution of frames `[F, channels, ...]` as a sum over their spikes."""
    demand(isinstance(conv, nn.Conv1d | nn.Conv2d) and conv.padding_mode == "zeros", "it does not pad with zeros")
    assert isinstance(conv, nn.Conv1d | nn.Conv2d)
    return convolved_by_events(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def convolved_by_events(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Window = 1,
    padding: Window | str = 0,
    dilation: Window = 1,
    groups: int = 1,
    *,
    pool: tuple[int, int] = (1, 1),
    max_density: float = MAX_DENSITY,
) -> Tensor:
    """As `torch.nn.functional.conv1d` or `conv2d` of frames `[F, channels, ...]`, a sum over their spikes.

    Of every `pool` rows and columns of the maps of images the maximum is kept.

    Raises:
        Unfused: an unsupported convolution, another engine, or too many spikes.
    """
    axes = weight.ndim - 2
    stride, dilation = _each(stride, axes), _each(dilation, axes)
    demand(not isinstance(padding, str) and {*dilation, groups} == {1}, "the convolution is not a plain window")
    demand(axes in (1, 2), f"it goes over {axes} axes")
    demand(wants("cpu"), "another engine was asked for")
    padding = _each(padding, axes)  # type: ignore[arg-type]
    fits = x.ndim == weight.ndim and x.shape[1] == weight.shape[1] and x.numel() > 0
    reaches = (n + 2 * pad >= k for n, pad, k in zip(x.shape[2:], padding, weight.shape[2:], strict=False))
    demand(fits and all(reaches), f"frames {tuple(x.shape)} do not fit the convolution, or are empty")
    demand_ordinary(x, x, weight, bias)
    if axes == 1:  # one row
        x, weight, stride, padding = x.unsqueeze(2), weight.unsqueeze(2), (1, *stride), (0, *padding)

    from fluctua.timeloop.events_conv import convolved, spikes_of

    spikes = spikes_of(x, max_density)
    if spikes is None:
        raise Unfused(f"more than {max_density:.0%} of the input is not zero")
    out = convolved(x, spikes, weight, bias, stride, padding, pool)  # type: ignore[arg-type]
    return out.squeeze(2) if axes == 1 else out


def side_by_side(
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[int, int] | None:
    """Rows and columns of the windows of `F.max_pool2d`, if these lie side by side and give nothing but the maxima."""
    rows, columns = size = _each(kernel_size, 2)
    plain = _each(padding, 2) == (0, 0) and _each(dilation, 2) == (1, 1) and not ceil_mode and not return_indices
    return (rows, columns) if plain and (not stride or _each(stride, 2) == size) else None


def maxima(frames: Tensor, window: tuple[int, int]) -> Tensor:
    """As `torch.nn.functional.max_pool2d` of frames `[F, channels, rows, columns]`.

    Raises:
        Unfused: another engine, no ordinary tensor, or nothing to pool.
    """
    demand_eager(frames)
    demand_ordinary(frames, frames)
    demand(wants("cpu") and frames.device.type == "cpu", "another engine was asked for, or another device")
    fits = all(n >= size for n, size in zip(frames.shape[2:], window, strict=True)) and frames.numel() > 0
    demand(
        fits and frames.dtype in (torch.float32, torch.float64), f"{frames.dtype} {tuple(frames.shape)} is not served"
    )

    from fluctua.timeloop.pooling import max_pooled  # numba is imported only when a network runs

    return max_pooled(frames, window)


def _each(value: Window, axes: int) -> tuple[int, ...]:
    """One number for each axis."""
    return (value,) * axes if isinstance(value, int) else tuple(value)
