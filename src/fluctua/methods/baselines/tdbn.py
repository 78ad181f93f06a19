"""Threshold-dependent batch normalisation."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fluctua.methods.baselines.classic import Kaiming
from fluctua.methods.weights import affine, write
from fluctua.network.facts import Population
from fluctua.network.network import Network


class ThresholdBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm of the current into spiking neurons, `[T * B, C, ...]` (Zheng et al. 2021, arXiv 2011.05280).

    Wrap it for sequences `[T, B, C, ...]`: `OverTime(ThresholdBatchNorm(C))`. Statistics of a channel are taken over
    time, samples and space. It starts as `scale threshold (x - mean) / sd`. The paper keeps `scale threshold` as a
    constant factor on a gain that starts at 1; here, as in later code (Shi & Yu 2026), the gain itself starts at that
    value: the same function, learnt at another pace.

    Args:
        num_features: C.
        threshold: of the neurons behind it.
        scale: `alpha` of the paper: 1, or `1 / sqrt(branches)` if several outputs add up.
        eps: added to the variance.
        momentum: of the running statistics.
    """

    initial_gain = 1.0

    def __init__(
        self, num_features: int, threshold: float = 1.0, *, scale: float = 1.0, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__(num_features, eps, momentum)
        self.initial_gain = scale * threshold
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reset gain, offset and running statistics."""
        super().reset_parameters()
        nn.init.constant_(self.weight, self.initial_gain)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"ThresholdBatchNorm takes [T * B, C, ...], got the shape {tuple(input.shape)}")


@dataclass(frozen=True)
class TdBN(Kaiming):
    """Threshold-dependent batch normalisation (Zheng, Wu, Deng, Hu & Li 2021, arXiv 2011.05280).

    The norms before spiking populations get the gain `scale theta`, divided by `sqrt(branches)` if several signals add
    up behind them, and no offset. The weights are Kaiming's for ReLUs; the norm cancels their size. Recurrent weights
    pass no norm and do not count as a branch.

    A norm is part of a network, so it must already be there: build the network with
    `OverTime(ThresholdBatchNorm(C, theta))`, or any norm with a gain, between weights and neurons.

    Certain: normalisation over time, samples and space; gain, offset and the rule for branches. The paper's neurons
    have no synaptic current; for ours nothing needs translating, since the norm acts on the current.

    Attributes:
        gain: of the weights, whose size the norm cancels.
        scale: `alpha` of the paper.

    Raises:
        ValueError: a spiking population with weights but no norm.

    Example:
        >>> import fluctua
        >>> from fluctua.layers import OverTime
        >>> from fluctua.neurons import LI, LIF
        >>> model = nn.Sequential(nn.Linear(30, 20), OverTime(ThresholdBatchNorm(20)), LIF(), nn.Linear(20, 2), LI())
        >>> x = (torch.rand(100, 16, 30, generator=torch.Generator().manual_seed(0)) < 0.1).float()
        >>> report = fluctua.initialize(model, x, method=TdBN(), seed=0)
        >>> print(f"{model[0].weight.std():.2f}")
        0.26
    """

    gain: float = math.sqrt(2)
    scale: float = 1.0

    def begin(self, network: Network, generator: torch.Generator) -> None:
        gains = {norm: self.scale * gain for p in network.populations for norm, gain in _gains(p).items()}
        super().begin(network, generator)
        for norm, gain in gains.items():
            write(norm, torch.full_like(norm, gain))


def _gains(population: Population) -> dict[Tensor, float]:
    """The gain of every norm before a spiking population."""
    if population.neuron.threshold is None:
        return {}
    norms: dict[tuple[Tensor, ...], None] = {}  # those of all time steps together are one branch
    for q in population.pathways:
        if q.recurrent:
            continue
        gains = tuple(affine(q, "weight"))
        if not gains:
            raise ValueError(
                f"tdbn needs a normalisation layer between {q.name} and {population.name}: build the model with "
                "OverTime(ThresholdBatchNorm(C, threshold)) there"
            )
        norms[gains] = None
    branches = len(norms) + len(population.unweighted)
    return {gain: population.neuron.threshold / math.sqrt(branches) for gains in norms for gain in gains}
