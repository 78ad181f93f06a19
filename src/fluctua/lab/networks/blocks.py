"""Blocks of convolutions and their neurons. Each takes and returns spikes `[T, B, ...]`."""

from collections.abc import Callable, Sequence

from torch import nn

from fluctua.layers import OverTime, Recurrent

Cell = Callable[[], nn.Module]
"""Makes a population of neurons, such as `lambda: LIF(20e-3, 10e-3, 2e-3)`, or `LIF` itself."""


def conv_block(
    n_in: int, filters: Sequence[int], cell: Cell, *, kernel: int = 3, padding: int = 2, pool: int = 2
) -> nn.Sequential:
    """Convolutions of an image `[T, B, n_in, H, W]`, each with its neurons, and a pooling at the end.

    Args:
        n_in: channels.
        filters: of each convolution.
        cell: makes the neurons.
        kernel: rows and columns of a filter.
        padding: on each side of the image (the paper: 2, so that maps grow by 2 for a kernel of 3).
        pool: rows and columns of a max-pooling window.

    Example:
        >>> from fluctua.neurons import LIF
        >>> conv_block(2, [8, 8], LIF)(torch.zeros(5, 1, 2, 12, 12)).shape
        torch.Size([5, 1, 8, 8, 8])
    """
    layers: list[nn.Module] = []
    for before, after in zip([n_in, *filters], filters, strict=False):
        layers += [OverTime(nn.Conv2d(before, after, kernel, padding=padding, bias=False)), cell()]
    return nn.Sequential(*layers, OverTime(nn.MaxPool2d(pool)))


def recurrent_conv_block(
    n_in: int, n_out: int, cell: Cell, *, kernel: int, stride: int = 1, padding: int = 0, recurrent_kernel: int = 5
) -> nn.Sequential:
    """A convolution of `[T, B, n_in, L]`, and neurons that receive their neighbours' spikes one step later.

    Args:
        n_in: channels.
        n_out: filters.
        cell: makes the neurons.
        kernel: length of a filter.
        stride: between its positions.
        padding: on each side.
        recurrent_kernel: length of the recurrent filters, odd.

    Example:
        >>> from fluctua.neurons import LIF
        >>> recurrent_conv_block(1, 16, LIF, kernel=21, stride=10, padding=10)(torch.zeros(20, 2, 1, 700)).shape
        torch.Size([20, 2, 16, 70])
    """
    if recurrent_kernel % 2 == 0:
        raise ValueError(f"recurrent_kernel={recurrent_kernel} has no middle, so maps would shrink: take an odd one")
    back = nn.Conv1d(n_out, n_out, recurrent_kernel, padding=recurrent_kernel // 2, bias=False)
    forth = nn.Conv1d(n_in, n_out, kernel, stride=stride, padding=padding, bias=False)
    return nn.Sequential(OverTime(forth), Recurrent(cell(), back))
