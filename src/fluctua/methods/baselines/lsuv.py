"""LSUV: the current into every population is measured and scaled to unit variance."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fluctua.methods.baselines.baseline import Baseline
from fluctua.methods.baselines.classic import draw_kaiming
from fluctua.methods.components import SilentInputError
from fluctua.methods.weights import writable, write
from fluctua.network.facts import Population
from fluctua.network.network import Network
from fluctua.network.replay import Replay


@dataclass(frozen=True)
class LSUV(Baseline):
    """Layer-sequential unit variance, Mishkin & Matas 2016 (arXiv 1511.06422).

    Orthonormal weights (Saxe et al. 2014), then layer by layer, from the first to the last, `w <- w / sd` until the
    measured variance of the layer's output on a batch is within `tolerance` of 1, readouts included.

    Certain: algorithm, default tolerance and number of iterations. Reconstructed, since no version for spiking networks
    exists: the output of a layer is the current into its neurons (the method knows nothing of synapses and membranes).
    Its variance is taken over time, samples and neurons. Pathways that add up, recurrent ones included, are one layer.
    A current whose size a normalisation layer sets is left alone.

    Attributes:
        tolerance: largest distance of the variance from 1.
        iterations: maximal number of times that a layer is measured and scaled.

    Raises:
        SilentInputError: a population that no current reaches.

    Example:
        >>> import fluctua
        >>> from fluctua.neurons import LI, LIF
        >>> model = nn.Sequential(nn.Linear(30, 20), LIF(), nn.Linear(20, 2), LI())
        >>> x = (torch.rand(100, 16, 30, generator=torch.Generator().manual_seed(0)) < 0.1).float()
        >>> report = fluctua.initialize(model, x, method=LSUV(), seed=0)
        >>> print(f"{model[0].weight.std():.2f}")
        0.59
    """

    tolerance: float = 0.1
    iterations: int = 10

    def begin(self, network: Network, generator: torch.Generator) -> None:
        """Kaiming weights for layers that feed another layer; `fill` draws all others again."""
        draw_kaiming(network, generator)

    def fill(self, population: Population, replay: Replay, generator: torch.Generator) -> None:
        for q in writable(population):
            write(q.weight, orthonormal(q.weight, generator))
        scaled = [q.weight for q in writable(population) if not q.norms]
        for _ in range(self.iterations if scaled else 0):
            variance = _variance(population, replay)
            if abs(variance - 1) < self.tolerance:
                break
            for weight in scaled:
                write(weight, weight / math.sqrt(variance))


def orthonormal(like: Tensor, generator: torch.Generator) -> Tensor:
    """A weight with orthonormal rows, or columns if it has more rows than columns, drawn on the CPU."""
    return nn.init.orthogonal_(torch.empty(like.shape), generator=generator).to(like)


def _variance(population: Population, replay: Replay) -> float:
    if any(q.recurrent for q in population.pathways):
        replay.assume(replay.simulate([population]))
    variance = float(replay.current(population).double().var())
    if not variance > 0:
        raise SilentInputError(
            f"no current reaches {population.name} on this batch, so lsuv cannot scale it: the layer before may be "
            "silent; take a batch with more activity"
        )
    return variance
