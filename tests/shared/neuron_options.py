"""Leaky neurons by their options, every pair of which is tested together."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fluctua.neurons import LIF, AdaptiveLIF, ArcTan, ExcInhLIF, SigmoidDerivative, SuperSpike
from fluctua.neurons.surrogates import Surrogate

SURROGATES: dict[str, Callable[[], Surrogate]] = {
    "superspike": SuperSpike,
    "sigmoid": SigmoidDerivative,
    "arctan": ArcTan,
}

FIRING: dict[str, list[Any]] = {
    "soft": [False, True],
    "differentiable": [False, True],
    "surrogate": list(SURROGATES),
}
"""The options of what happens at a spike: a reset by subtraction, its gradient, and that of the spike."""


def leaky(
    *,
    delta: bool = False,
    adaptation: str | None = None,
    learnt: str | None = None,
    soft: bool = False,
    differentiable: bool = False,
    surrogate: str = "superspike",
    size: int | None = None,
    beta: float = 100.0,
    coupling: float = 0.5,
) -> LIF:
    """A leaky neuron.

    Args:
        delta: its synapse has no time constant.
        adaptation: "threshold" or "current", or none.
        learnt: its "time constants", or "all" of its constants.
        soft: it is reset by subtraction.
        differentiable: the gradient flows through the reset.
        surrogate: a name in `SURROGATES`.
        size: of a population whose neurons each have their own constants, or None if they share them.
        beta: strength of the adaptation, where neurons share it.
        coupling: of the adaptation current to the potential.
    """
    tau: Tensor | float = 20e-3 if size is None else torch.linspace(10e-3, 30e-3, size)
    synapse = None if delta else tau if size is not None and adaptation else 10e-3
    options: dict[str, Any] = {
        "threshold": 1.0 if size is None else torch.linspace(0.8, 1.2, size),
        "reset": "subtract" if soft else "zero",
        "differentiable_reset": differentiable,
        "surrogate": SURROGATES[surrogate](),
        "learn_tau": learnt is not None,
    }
    if adaptation is None:
        return LIF(tau, synapse, **options)
    if isinstance(tau, Tensor):
        options |= {"tau_adapt": 5 * tau, "beta": 4e3 * tau}
    else:
        options |= {"beta": beta}
    if adaptation == "current":
        options |= {"kind": "current", "coupling": coupling}
    return AdaptiveLIF(tau, synapse, **options, learn_adaptation=learnt == "all")


def two_synapses(*, learnt: bool, soft: bool, differentiable: bool, surrogate: str) -> ExcInhLIF:
    """A neuron with a synapse for excitation and one for inhibition, by the options of `leaky`."""
    return ExcInhLIF(
        learn_tau=learnt,
        reset="subtract" if soft else "zero",
        differentiable_reset=differentiable,
        surrogate=SURROGATES[surrogate](),
    )
