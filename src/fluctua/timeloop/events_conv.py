"""A convolution of spikes: it adds up only the weights of spikes.

The gradient wrt a weight is a sum over the same spikes; that wrt the input is dense, since a surrogate is zero nowhere.
For backward the spikes are kept as bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fluctua.simd.threads import Blocks, added, over_each_block, over_samples
from fluctua.spikes.batch import SpikeBatch, flat
from fluctua.timeloop import events_conv_kernels as kernels
from fluctua.timeloop.contract import Maybe, Operation, apply
from fluctua.timeloop.cpu_loop import Array, padded
from fluctua.timeloop.pooling import ORDERS, channels_last, maps

_BLOCK = 32  # frames that a thread takes at a time; a dense product on them stays in the cache


class Window(NamedTuple):
    """The geometry of a convolution: shapes of weight and frame, stride and padding, rows before columns.

    Of every `pool` rows and columns of the result the maximum is kept.
    """

    weight: tuple[int, int, int, int]
    frame: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    pool: tuple[int, int] = (1, 1)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the output of a frame, before the maxima are taken: outputs, rows and columns."""
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
    pool: tuple[int, int] = (1, 1),
) -> Tensor:
    """`max_pool2d(conv2d(x, weight, bias, stride, padding), pool)` of `torch.nn.functional`, of spikes.

    Args:
        x: frames `[F, channels, rows, columns]`; given `spikes`, only its shape, type and gradient matter.
        spikes: the same, see `spikes_of`.
        weight: `[outputs, channels, kernel rows, kernel columns]`, of the type of `x`, float32 or float64.
        bias: `[outputs]`, or None.
        stride: rows and columns from one place to the next.
        padding: rows and columns of zeros on each side.
        pool: rows and columns of which the maximum is kept; it fits into the result of the convolution.

    Returns:
        `[F, outputs, rows, columns]`, in the memory format of `x`.
    """
    window = Window(tuple(weight.shape), tuple(x.shape[2:]), stride, padding, pool)  # type: ignore[arg-type]
    return apply(_Convolution(window, spikes, channels_last(x)), (x, weight, bias))[0]


@dataclass(frozen=True, eq=False)
class _Convolution(Operation):
    """See `contract.Operation`: of frames, weight and bias; `last` says whether channels come last in memory."""

    window: Window
    spikes: SpikeBatch
    last: bool
    called = "a convolution of spikes"

    def forth(self, tensors: Sequence[Any]) -> Sequence[Tensor]:
        _, weight, bias = tensors
        window = self.window
        sizes = window.shape[0], *(n // each for n, each in zip(window.shape[1:], window.pool, strict=True))
        out = maps(weight, self.spikes.shape[0], *sizes, last=self.last)
        where = weight.new_empty(0) if window.pool == (1, 1) else maps(weight, len(out), *sizes, last=self.last)
        arrays, numbers = self.spikes.arrays(weight.dtype), (flat(out), flat(where), self.last)
        offset = padded(weight.new_zeros(len(weight)) if bias is None else bias.detach())
        given = *arrays, window.geometry, window.pool, window.rows(weight), offset

        over_each_block(lambda first, stop: kernels.gather(*given, first, stop, *numbers), len(out), _BLOCK)
        return [out, where]

    def kept(self, tensors: Sequence[Any], results: Sequence[Tensor]) -> Sequence[Tensor]:
        return [tensors[1], results[1]]

    def back(self, kept: Sequence[Tensor], grads: Sequence[Any], wanted: Sequence[bool]) -> Sequence[Maybe]:
        (g, *_), (weight, where), window, last = grads, kept, self.window, self.last
        order = ORDERS[last]
        g = g.contiguous(memory_format=order)
        arrays, size = self.spikes.arrays(g.dtype), window.rows(weight).size
        g_x = maps(weight, len(g), window.weight[1], *window.frame, last=last) if wanted[0] else None

        def before_pooling(first: int, stop: int) -> Tensor:
            if window.pool == (1, 1):
                of_maps: Tensor = g[first:stop]
                return of_maps
            whole = torch.empty((stop - first, *window.shape), dtype=g.dtype, device="cpu", memory_format=order)
            kernels.unpool(window.shape, window.pool, flat(g), flat(where), first, stop, flat(whole), last)
            return whole

        def work(blocks: Blocks) -> list[Array]:
            total: Array = torch.zeros(size, dtype=g.dtype, device="cpu").numpy()  # aligned to cache lines
            for first, stop in blocks:
                piece = before_pooling(first, stop)
                if wanted[1]:
                    kernels.scatter(*arrays, window.geometry, flat(piece), last, first, stop, total)
                if g_x is not None:
                    g_x[first:stop] = _spread(window, weight, piece, order)
            return [total]

        (total,) = added(over_samples(work, len(g), _BLOCK))
        return g_x, window.weight_of(total) if wanted[1] else None, g.sum((0, 2, 3)) if wanted[2] else None


def _spread(window: Window, weight: Tensor, g: Tensor, order: torch.memory_format) -> Tensor:
    """Gradient with respect to the input of a few frames, which stay in the cache."""
    like = torch.empty((len(g), window.weight[1], *window.frame), dtype=g.dtype, memory_format=order)
    back = torch.ops.aten.convolution_backward  # takes the memory order of the result from `like`
    places = window.stride, window.padding, (1, 1), False, (0, 0), 1, (True, False, False)
    found: Tensor = back(g, like, weight, None, *places)[0]
    return found
