"""Max pooling of maps by windows that lie side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fluctua.simd.threads import over_each_block
from fluctua.spikes.batch import flat
from fluctua.timeloop import events_conv_kernels as kernels
from fluctua.timeloop.contract import Maybe, Operation, apply
from fluctua.timeloop.cpu_loop import pool

_BLOCK = 32  # frames
ORDERS = torch.contiguous_format, torch.channels_last  # of memory, by whether the channels come last


def max_pooled(x: Tensor, window: tuple[int, int]) -> Tensor:
    """`torch.nn.functional.max_pool2d(x, window)` of frames `[F, channels, rows, columns]`, float32 or float64."""
    last = channels_last(x)
    return apply(_Maxima(window, tuple(x.shape[1:]), last), (x.contiguous(memory_format=ORDERS[last]),))[0]  # type: ignore[arg-type]


def channels_last(frames: Tensor) -> bool:
    """Whether channels come last in memory."""
    return frames.is_contiguous(memory_format=torch.channels_last) and not frames.is_contiguous()


def maps(like: Tensor, frames: int, channels: int, rows: int, columns: int, *, last: bool) -> Tensor:
    """A map `[channels, rows, columns]` for each frame, uninitialised, with channels `last` in memory or not."""
    if last:
        return pool.empty((frames, rows, columns, channels), like.dtype).movedim(3, 1)
    return pool.empty((frames, channels, rows, columns), like.dtype)


@dataclass(frozen=True, eq=False)
class _Maxima(Operation):
    """See `contract.Operation`: of frames, each of this shape, in this order in memory."""

    window: tuple[int, int]
    shape: tuple[int, int, int]
    last: bool
    called = "MaxPool2DWithIndices"  # as torch's own, for whoever reads a graph

    def forth(self, tensors: Sequence[Any]) -> Sequence[Tensor]:
        (x,), (channels, rows, columns), (high, wide), last = tensors, self.shape, self.window, self.last
        out, where = (maps(x, len(x), channels, rows // high, columns // wide, last=last) for _ in range(2))
        given, filled = (self.shape, self.window, flat(x)), (flat(out), flat(where), last)
        over_each_block(lambda first, stop: kernels.keep_largest(*given, first, stop, *filled), len(x), _BLOCK)
        return [out, where]

    def kept(self, tensors: Sequence[Any], results: Sequence[Tensor]) -> Sequence[Tensor]:
        return results[1:]

    def back(self, kept: Sequence[Tensor], grads: Sequence[Any], wanted: Sequence[bool]) -> Sequence[Maybe]:
        g = grads[0].contiguous(memory_format=ORDERS[self.last])
        out = maps(g, len(g), *self.shape, last=self.last)
        given, whole = (self.shape, self.window, flat(g), flat(kept[0])), flat(out)
        frame = whole.size // len(g)

        def unpool(first: int, stop: int) -> None:
            kernels.unpool(*given, first, stop, whole[first * frame :], self.last)

        over_each_block(unpool, len(g), _BLOCK)
        return [out]
