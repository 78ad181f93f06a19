"""Blocks that deep networks are stacked from. Each takes and returns spikes `[T, B, ...]`."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from fluctua.layers.circuit import Recurrent
from fluctua.layers.over_time import OverTime
from fluctua.theory.laws import Gamma

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


class OneToOne(nn.Conv1d):
    """A synapse from each neuron to its counterpart: spikes `[T, B, C, ...]` -> current of the same shape.

    Weights start nearly equal and positive, so that spikes are passed on unchanged; `fluctua.initialize` finds their
    size. Training may change all that.

    Args:
        n: neurons C, or channels of a map, which have one weight each.
    """

    family = Gamma(1e4)  # nearly all within 2 % of their mean

    def __init__(self, n: int) -> None:
        super().__init__(n, n, 1, groups=n, bias=False)

    def reset_parameters(self) -> None:
        """All weights 1."""
        nn.init.ones_(self.weight)

    def forward(self, spikes: Tensor) -> Tensor:
        """Spikes `[T, B, C, ...]` -> current of the same shape."""
        return super().forward(spikes.reshape(-1, self.in_channels, spikes[0, 0, 0].numel())).reshape(spikes.shape)

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return str(self.in_channels)


class ResidualBlock(nn.Module):
    """Two pathways into one population: `cell(body(x) + skip(x))`.

    For `fluctua.initialize` a skip with weights is one more feed-forward pathway, which supplies as much of the
    variance as that of the body (the paper's rule). `OneToOne` passes spikes on unchanged through any number of blocks;
    random weights, such as those of an `nn.Linear`, mix them anew in every block. An `nn.Identity` is fixed and weak.

    Args:
        body: from spikes to current, with neurons of its own, such as `nn.Sequential(linear, LIF(), linear)`.
        skip: from spikes to current, without neurons.
        cell: the neurons at the end.

    Example:
        >>> from fluctua.neurons import LIF
        >>> body = nn.Sequential(nn.Linear(64, 64), LIF(), nn.Linear(64, 64))
        >>> ResidualBlock(body, OneToOne(64), LIF())(torch.zeros(50, 8, 64)).shape
        torch.Size([50, 8, 64])
    """

    def __init__(self, body: nn.Module, skip: nn.Module, cell: nn.Module) -> None:
        super().__init__()
        self.body, self.skip, self.cell = body, skip, cell

    def forward(self, spikes: Tensor) -> Tensor:
        """Spikes `[T, B, ...]` -> spikes.

        Raises:
            ValueError: the two ways end in different shapes.
        """
        through, past = self.body(spikes), self.skip(spikes)
        if through.shape != past.shape:
            raise ValueError(
                f"the body gives a current of shape {tuple(through.shape)} and the skip one of {tuple(past.shape)}: "
                "they must have the same shape to add up"
            )
        output: Tensor = self.cell(through + past)
        return output
