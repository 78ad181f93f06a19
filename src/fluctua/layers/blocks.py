"""Blocks that deep networks are stacked from. Each takes and returns spikes `[T, B, ...]`."""

from torch import Tensor, nn

from fluctua.theory.laws import Gamma


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
