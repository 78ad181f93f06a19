"""Convolutional networks: along the channels of a cochlea, and on images.

A filter sees many places of every sample, so few samples suffice to measure its statistics: initialised on 8 samples,
networks with 8 filters in the first layer have sigma_U within 6 % of its target in every hidden layer on 64 others
(CIFAR-10, N-MNIST, spoken digits).
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from torch import nn

from fluctua.lab.networks.architecture import Architecture
from fluctua.lab.networks.blocks import Cell, conv_block, recurrent_conv_block
from fluctua.lab.networks.dropout import DropUnits
from fluctua.layers import OverTime, ResidualBlock
from fluctua.layers.blocks import OneToOne


@dataclass(frozen=True, kw_only=True)
class AudioConv(Architecture):
    """Recurrent convolutions along the channels of spike trains `[T, B, N]`, and an optional fully connected layer.

    Attributes:
        filters: of each convolution; likewise `kernels` and `strides`.
        padding: on each side.
        recurrent_kernel: length of the recurrent filters.
        dense: neurons of a last layer that is fully connected; 0 for none.
        dropout: probability that a neuron of the last map is dropped in a sample.
    """

    measured_on: ClassVar[int] = 8

    shape: tuple[int, ...] = (700,)
    filters: tuple[int, ...]
    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    padding: int = 0
    recurrent_kernel: int = 5
    dense: int = 0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not len(self.filters) == len(self.kernels) == len(self.strides) > 0:
            raise ValueError(
                f"{len(self.filters)} filters, {len(self.kernels)} kernels and {len(self.strides)} strides do not make "
                "layers: give one of each for every layer"
            )

    def hidden(self, shape: tuple[int, ...], dt: float) -> tuple[list[nn.Module], int]:
        cell, n_in, (length,) = self.cells(dt), 1, shape
        layers: list[nn.Module] = [nn.Unflatten(2, (1, length))]
        for n_out, kernel, stride in zip(self.filters, self.kernels, self.strides, strict=True):
            sizes = {"kernel": kernel, "stride": stride, "padding": self.padding}
            layers.append(recurrent_conv_block(n_in, n_out, cell, **sizes, recurrent_kernel=self.recurrent_kernel))
            n_in, length = n_out, (length + 2 * self.padding - kernel) // stride + 1
            _check_map(length, shape)
        layers += [nn.Flatten(2), *([DropUnits(self.dropout)] if self.dropout else [])]
        if not self.dense:
            return layers, n_in * length
        return [*layers, nn.Linear(n_in * length, self.dense, bias=False), cell()], self.dense

    def with_width(self, width: int) -> Self:
        return replace(self, filters=_scaled(self.filters, width, self.filters[0]))


@dataclass(frozen=True, kw_only=True)
class ImageConv(Architecture):
    """Blocks of convolutions on images `[T, B, C, H, W]`, each with pooling at its end.

    Attributes:
        blocks: filters of each convolution in each block.
        kernel: rows and columns of a filter.
        padding: on each side of a map.
        pool: rows and columns of a max-pooling window.
    """

    measured_on: ClassVar[int] = 8

    blocks: tuple[tuple[int, ...], ...]
    kernel: int = 3
    padding: int = 2
    pool: int = 2

    def hidden(self, shape: tuple[int, ...], dt: float) -> tuple[list[nn.Module], int]:
        cell, n_in, *size = self.cells(dt), *shape
        layers: list[nn.Module] = []
        for filters in self.blocks:
            sizes = {"kernel": self.kernel, "padding": self.padding, "pool": self.pool}
            layers.append(conv_block(n_in, filters, cell, **sizes))
            growth = len(filters) * (2 * self.padding - self.kernel + 1)
            n_in, size = filters[-1], [(n + growth) // self.pool for n in size]
            _check_map(min(size), shape)
        return [*layers, nn.Flatten(2)], n_in * size[0] * size[1]

    def with_width(self, width: int) -> Self:
        first = self.blocks[0][0]
        return replace(self, blocks=tuple(_scaled(filters, width, first) for filters in self.blocks))


@dataclass(frozen=True, kw_only=True)
class ResidualConv(Architecture):
    """A convolution with pooling, and `depth` residual blocks of two convolutions, with one-to-one skips.

    Attributes:
        width: filters of every convolution.
        depth: blocks.
    """

    measured_on: ClassVar[int] = 8

    shape: tuple[int, ...] = (2, 34, 34)
    width: int = 16
    depth: int = 4

    def hidden(self, shape: tuple[int, ...], dt: float) -> tuple[list[nn.Module], int]:
        n_in, *size = shape
        stem = conv_block(n_in, [self.width], self.cells(dt), padding=1, pool=4)
        size = [n // 4 for n in size]
        _check_map(min(size), shape)
        blocks = [self._block(self.cells(dt)) for _ in range(self.depth)]
        return [stem, *blocks, nn.Flatten(2)], self.width * size[0] * size[1]

    def _block(self, cell: Cell) -> ResidualBlock:
        first, second = (OverTime(nn.Conv2d(self.width, self.width, 3, padding=1, bias=False)) for _ in range(2))
        return ResidualBlock(nn.Sequential(first, cell(), second), OneToOne(self.width), cell())


def _scaled(filters: tuple[int, ...], width: int, first: int) -> tuple[int, ...]:
    return tuple(max(1, round(n * width / first)) for n in filters)


def _check_map(size: int, shape: tuple[int, ...]) -> None:
    if size < 1:
        raise ValueError(f"data of the shape {shape} are too small, nothing is left after a layer: use larger ones")
