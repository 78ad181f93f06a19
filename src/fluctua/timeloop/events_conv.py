"""A convolution of spikes: it adds up only the weights of spikes.

The gradient wrt a weight is a sum over the same spikes; that wrt the input is dense, since a surrogate is zero nowhere.
For backward the spikes are kept as bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from fluctua.spikes.batch import SpikeBatch, flat
from fluctua.timeloop import events_conv_kernels as kernels
from fluctua.timeloop.contract import Maybe, Operation, apply
from fluctua.timeloop.cpu_loop import Array, padded, pool
from fluctua.timeloop.threads import Blocks, added, over_samples

_BLOCK = 32  # frames that a thread takes at a time; a dense product on them stays in the cache


class Window(NamedTuple):
    """The geometry of a convolution: shapes of weight and frame, stride and padding, rows before columns."""

    weight: tuple[int, int, int, int]
    frame: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the output of a frame: outputs, rows and columns."""
        sizes = zip(self.frame, self.padding, self.weight[2:], self.stride, strict=True)
        rows, columns = ((n + 2 * pad - kernel) // stride + 1 for n, pad, kernel, stride in sizes)
        return self.weight[0], rows, columns

    @property
    def taps(self) -> int:
        """Maximal number of kernel columns that a spike reaches."""
        return -(-self.weight[3] // self.stride[1])

    @property
    def geometry(self) -> tuple[int, ...]:
        """The geometry as the kernels take it."""
        _, channels, high, _ = self.weight
        return channels, *self.frame, high, self.taps, *self.stride, *self.padding, *self.shape

    def rows(self, weight: Tensor) -> Array:
        """The weight as the kernels take it; columns that a phase lacks are zero."""
        outputs, channels, high, wide = self.weight
        along, taps = self.stride[1], self.taps
        whole = nn.functional.pad(weight.detach(), (0, taps * along - wide))
        return padded(whole.view(outputs, channels, high, taps, along).flip(3).permute(1, 2, 4, 3, 0))

    def weight_of(self, rows: Array) -> Tensor:
        """The inverse of `rows`."""
        outputs, channels, high, wide = self.weight
        along, taps = self.stride[1], self.taps
        whole = torch.from_numpy(rows).view(channels, high, along, taps, -1)[..., :outputs]
        return whole.permute(4, 0, 1, 3, 2).flip(3).reshape(outputs, channels, high, taps * along)[..., :wide]


def spikes_of(x: Tensor, max_density: float) -> SpikeBatch | None:
    """The spikes of frames `[F, channels, rows, columns]`, or None if more than `max_density` of them is not zero."""
    return SpikeBatch.from_dense(x.detach().movedim(1, 3).reshape(len(x), 1, -1), max_density)


def convolved(
    x: Tensor,
    spikes: SpikeBatch,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """`torch.nn.functional.conv2d(x, weight, bias, stride, padding)` of spikes.

    Args:
        x: frames `[F, channels, rows, columns]`; given `spikes`, only its shape, type and gradient matter.
        spikes: the same, see `spikes_of`.
        weight: `[outputs, channels, kernel rows, kernel columns]`, of the type of `x`, float32 or float64.
        bias: `[outputs]`, or None.
        stride: rows and columns from one place to the next.
        padding: rows and columns of zeros on each side.

    Returns:
        `[F, outputs, rows, columns]`, in the memory format of `x`.
    """
    window = Window(tuple(weight.shape), tuple(x.shape[2:]), stride, padding)  # type: ignore[arg-type]
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return apply(_Convolution(window, spikes, last), (x, weight, bias))[0]


@dataclass(frozen=True, eq=False)
class _Convolution(Operation):
    """See `limits.Operation`: of frames, weight and bias; `last` says whether channels come last in memory."""

    window: Window
    spikes: SpikeBatch
    last: bool
    called = "a convolution of spikes"

    def forth(self, tensors: Sequence[Any]) -> Sequence[Tensor]:
        return [_gathered(self.window, self.spikes, self.last, *tensors[1:])]

    def kept(self, tensors: Sequence[Any], results: Sequence[Tensor]) -> Sequence[Tensor]:
        return [tensors[1]]

    def back(self, kept: Sequence[Tensor], grads: Sequence[Any], wanted: Sequence[bool]) -> Sequence[Maybe]:
        (g,), (weight,) = grads, kept
        g = g.contiguous(memory_format=torch.channels_last if self.last else torch.contiguous_format)
        return (
            _spread(self.window, weight, self.last, g) if wanted[0] else None,
            _scattered(self.window, self.spikes, self.last, g) if wanted[1] else None,
            g.sum((0, 2, 3)) if wanted[2] else None,
        )


def _gathered(window: Window, spikes: SpikeBatch, last: bool, weight: Tensor, bias: Tensor | None) -> Tensor:
    frames, dtype = spikes.shape[0], weight.dtype
    outputs, *places = window.shape
    shape = (frames, *places, outputs) if last else (frames, outputs, *places)
    out = pool.empty(shape, dtype)
    rows = window.rows(weight)
    offset = padded(weight.new_zeros(len(weight)) if bias is None else bias.detach())
    arrays, memory = spikes.arrays(dtype), flat(out)

    def work(blocks: Blocks) -> None:
        for first, stop in blocks:
            kernels.gather(*arrays, window.geometry, rows, offset, first, stop, memory, last)

    over_samples(work, frames, _BLOCK)
    return out.movedim(3, 1) if last else out


def _scattered(window: Window, spikes: SpikeBatch, last: bool, g: Tensor) -> Tensor:
    """Gradient with respect to the weight."""
    arrays, memory = spikes.arrays(g.dtype), flat(g)
    size = window.rows(g.new_empty(window.weight)).size

    def work(blocks: Blocks) -> list[Array]:
        total: Array = torch.zeros(size, dtype=g.dtype).numpy()  # aligned to cache lines
        for first, stop in blocks:
            kernels.scatter(*arrays, window.geometry, memory, last, first, stop, total)
        return [total]

    return window.weight_of(*added(over_samples(work, len(g), _BLOCK)))


def _spread(window: Window, weight: Tensor, last: bool, g: Tensor) -> Tensor:
    """Gradient with respect to the input, in pieces that stay in the cache, where torch would reorder everything."""
    frame = window.weight[1], *window.frame
    if last:  # torch takes the memory order of the gradient from the input
        like = torch.empty((len(g), *frame), dtype=g.dtype, memory_format=torch.channels_last)
        back = torch.ops.aten.convolution_backward
        places = window.stride, window.padding, (1, 1), False, (0, 0), 1, (True, False, False)
        found: Tensor = back(g, like, weight, None, *places)[0]
        return found
    out = pool.empty((len(g), *frame), g.dtype)
    for to, piece in zip(out.split(_BLOCK), g.split(_BLOCK), strict=True):  # type: ignore[no-untyped-call]
        shape = len(piece), *frame
        to.copy_(conv2d_input(shape, weight, piece, window.stride, window.padding))  # type: ignore[no-untyped-call]
    return out
