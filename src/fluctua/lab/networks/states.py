"""The initial states that the experiments compare, by the name of the method."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

import fluctua
from fluctua.methods.method import method_of
from fluctua.state import Report
from fluctua.theory import Target

METHODS = ("kaiming", "poisson", "measured")
"""The methods that the demo compares."""

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
"""All methods, with their printed names."""

# A readout with sigma_U = 0.1 leaves the softmax undecided: on Randman, 3 x 128, the first epoch then
# ends at 75 % instead of 45 % validation accuracy (docs/training.md).
READOUT = Target(sigma=0.1)


def bring_up(
    model: nn.Module, x: Tensor, method: str, *, target: Target, seed: int, nu: float | None = None, alpha: float = 0.9
) -> Report:
    """Initialise a network on a batch `[T, B, ...]` by one of `LABELS`.

    Args:
        model: the network; overwritten.
        x: the batch.
        method: its name.
        target: for methods that have one.
        seed: for the draws.
        nu: for "poisson", the rate of all afferents in Hz; default: the mean rate of the batch.
        alpha: for "measured" and "poisson", the share of the variance that feed-forward pathways supply.
    """
    options: dict[str, Any] = {"alpha": alpha} if method in ("measured", "poisson") else {}
    chosen = method_of(method, **options, **({"nu": nu} if method == "poisson" else {}))
    return fluctua.initialize(model, x, target if chosen.aims else None, method=chosen, readout=READOUT, seed=seed)
