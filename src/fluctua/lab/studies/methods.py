"""The initial states that the studies compare: those of `networks.states`, and variants of the method."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import Tensor, nn

import fluctua
from fluctua.homeostasis import prime
from fluctua.homeostasis.bounds import paper_bounds
from fluctua.lab import networks
from fluctua.lab.networks import READOUT
from fluctua.methods.method import method_of
from fluctua.neurons import LIF
from fluctua.state import Report
from fluctua.theory import PspKernel, Target
from fluctua.theory.laws import Relay


@dataclass(frozen=True, kw_only=True)
class Start:
    """One initial state.

    Attributes:
        label: its printed name.
        method: its name in `fluctua.initialize`.
        options: fields of the method.
        further: other arguments of `fluctua.initialize`.
        readout: target of the readout.
        primed: whether the network is trained on the paper's activity bounds before the task.
        continuous: whether the weights use kernels in continuous time, as in a formula on paper.
    """

    label: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    further: Mapping[str, Any] = field(default_factory=dict)
    readout: Target = READOUT
    primed: bool = False
    continuous: bool = False


UNBALANCED, FULL, PRIMED = "measured-unbalanced", "measured-full", "poisson-primed"
PER_LAYER, CONTINUOUS, LOUD = "poisson-per-layer", "poisson-continuous", "measured-loud"
SHARE, POISSON_SHARE, RELAY = "measured-share", "poisson-share", "measured-relay"
_SHARE: Mapping[str, Any] = MappingProxyType({"surrogate": "share"})

STARTS: Mapping[str, Start] = MappingProxyType(
    {name: Start(label=label, method=name) for name, label in networks.LABELS.items()}
    | {
        UNBALANCED: Start(label="measured", method="measured", options={"balance": False}),
        FULL: Start(label="measured + balanced throughout", method="measured", options={"balance": True}),
        PRIMED: Start(label="Poisson formula + priming", method="poisson", primed=True),
        PER_LAYER: Start(label="Poisson formula, rates measured", method="poisson", options={"nu": "per-layer"}),
        CONTINUOUS: Start(label="Poisson formula, continuous kernel", method="poisson", continuous=True),
        SHARE: Start(label="measured + balanced, gradient by share", method="measured", further=_SHARE),
        POISSON_SHARE: Start(label="Poisson formula, gradient by share", method="poisson", further=_SHARE),
        RELAY: Start(label="relays, gradient by share", method="measured", options={"law": Relay()}, further=_SHARE),
        LOUD: Start(label="measured + balanced, loud readout", method="measured", readout=Target(sigma=1.0)),
    }
)
"""All initial states by name; for a new one add a line here, and its name to a study."""

LABELS: Mapping[str, str] = MappingProxyType({name: one.label for name, one in STARTS.items()})
"""All of them, with their printed names."""

BASELINES = ("kaiming", "torch", "lsuv", "spikeinit")
COMPARED = (*BASELINES, "poisson", PRIMED, UNBALANCED, "measured", SHARE)
"""What every study compares: baselines, the paper, the two steps from it to the default, and the default with
surrogates that pass the gradient on."""


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
    **options: Any,
) -> Report:
    """Bring a network into its initial state on a batch `[T, B, ...]`, by one of `STARTS`.

    `bounds` names the paper's bounds for priming, see `paper_bounds`; `alpha` is the feed-forward share of the
    variance; `nu` is the rate of all afferents in Hz for the paper's formula, None to measure it; `options` are further
    fields of methods that have them.
    """
    one = STARTS[method]
    chosen = method_of(one.method)
    has = {f.name for f in fields(chosen)}  # type: ignore[arg-type]
    given = {"alpha": alpha, "nu": nu} | options | dict(one.options)
    chosen = replace(chosen, **{name: value for name, value in given.items() if name in has})  # type: ignore[type-var]
    if one.continuous:
        target = Target(xi=(target.xi or 1.0) / _excess(model))
    report = fluctua.initialize(
        model, x, target if chosen.aims else None, method=chosen, readout=one.readout, seed=seed, **one.further
    )
    return prime(model, x, paper_bounds(bounds), seed=seed).report if one.primed else report


def _excess(model: nn.Module) -> float:
    """Factor by which kernels in continuous time make weights too large, for a mean of 0: square sums shrink."""
    cell = next(module for module in model.modules() if isinstance(module, LIF))
    assert cell.tau_syn is not None
    tau_mem, tau_syn = float(cell.tau_mem.mean()), float(cell.tau_syn.mean())
    discrete, continuous = PspKernel.exponential(tau_mem, tau_syn, cell.dt), PspKernel.continuous(tau_mem, tau_syn)
    return float(np.sqrt(discrete.eps_hat / continuous.eps_hat))
