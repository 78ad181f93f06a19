"""Initial states of a network, by the name of the method that brings it there."""

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor, nn

import fluctua
from fluctua.methods.baselines import baseline
from fluctua.state import Report
from fluctua.theory import Target

METHODS = ("kaiming", "poisson", "measured")
"""Those that the demo compares."""

LABELS: Mapping[str, str] = MappingProxyType(
    {
        "measured": "measured + balanced",
        "poisson": "Poisson formula (paper)",
        "kaiming": "Kaiming",
        "kaiming-relu": "Kaiming for ReLUs",
        "xavier": "Xavier",
        "torch": "PyTorch's default",
        "ding": "Ding et al.",
        "micheli": "Micheli et al.",
        "spikeinit": "SpikeInit",
        "spikeinit-sim": "SpikeInit, simulated",
        "tdbn": "tdBN",
        "lsuv": "LSUV",
        "ei-init": "E-I Init",
        "kaiming-folded": "Kaiming, absolute values",
    }
)
"""All of them, as they are called in print."""

# A readout that starts at a tenth of a unit leaves the softmax undecided: on Randman, 3 x 128, the first epoch then
# ends at 75 % instead of 45 % validation accuracy (docs/training.md).
READOUT = Target(sigma=0.1)


def bring_up(
    model: nn.Module,
    x: Tensor,
    method: str,
    *,
    target: Target,
    seed: int,
    nu: float | None = None,
    alpha: float = 0.9,
) -> Report:
    """Initialise a network on a batch `[T, B, ...]` by one of `LABELS`.

    Args:
        model: overwritten.
        x: the batch.
        method: its name.
        target: for "measured" and "poisson".
        seed: of the draws.
        nu: for "poisson", the rate of all afferents in Hz; default: the mean rate of the batch.
        alpha: for "measured" and "poisson", the share of the variance that feed-forward pathways supply.
    """
    if method == "measured":
        return fluctua.initialize(model, x, target, readout=READOUT, alpha=alpha, seed=seed)
    if method == "poisson":
        return fluctua.initialize(model, x, target, method="poisson", nu=nu, readout=READOUT, alpha=alpha, seed=seed)
    baseline(method)(model, x, seed=seed)
    return fluctua.inspect(model, x)
