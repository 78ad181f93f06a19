"""The initial states that the studies compare: those of `networks.states`, and variants of the method."""

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor, nn

import fluctua
from fluctua.homeostasis import prime
from fluctua.homeostasis.bounds import paper_bounds
from fluctua.lab import networks
from fluctua.lab.networks import READOUT, bring_up
from fluctua.methods import Measured
from fluctua.state import Report
from fluctua.theory import Target

UNBALANCED, PRIMED = "measured-unbalanced", "poisson-primed"

LABELS: Mapping[str, str] = MappingProxyType(
    {**networks.LABELS, UNBALANCED: "measured", PRIMED: "Poisson formula + priming"}
)
"""All methods of the studies, as they are called in print."""


def start(
    model: nn.Module,
    x: Tensor,
    method: str,
    *,
    target: Target,
    seed: int,
    bounds: str,
    alpha: float = 0.9,
    nu: float | None = None,
) -> Report:
    """Bring a network into its initial state on a batch `[T, B, ...]`, by one of `LABELS`.

    `bounds` names those of the paper that priming goes by, see `paper_bounds`; `alpha` is the feed-forward share of
    the variance, `nu` the rate of all afferents in Hz for the formula of the paper, None to measure it.
    """
    if method == UNBALANCED:
        unbalanced = Measured(balance=False, alpha=alpha)
        return fluctua.initialize(model, x, target, method=unbalanced, readout=READOUT, seed=seed)
    if method == PRIMED:
        bring_up(model, x, "poisson", target=target, alpha=alpha, nu=nu, seed=seed)
        return prime(model, x, paper_bounds(bounds), seed=seed).report
    return bring_up(model, x, method, target=target, alpha=alpha, nu=nu, seed=seed)
