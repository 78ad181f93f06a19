"""What a time loop gets and what it gives. `reference.py` is the definition in code of what is said here.

Dynamics, with time step index t, threshold theta, `a = exp(-dt/tau_mem)` and `b = exp(-dt/tau_syn)`
(Rossbroich, Gygax & Zenke 2022; the released code of the paper)::

    out[t] = H(U[t] - theta)                       spikes; for a readout out[t] = U[t]
    V[t]   = a U[t] + (1 - a) I[t]                 exponential synapse
    V[t]   = a U[t] + x[t]                         delta synapse
    U[t+1] = V[t] (1 - out[t])                     reset "zero"
    U[t+1] = V[t] - theta out[t]                   reset "subtract"
    I[t+1] = b I[t] + x[t]

A population may adapt, with a variable w in units of the potential and `rho = exp(-dt/tau_adapt)`::

    w[t+1] = rho w[t] + (1 - rho) beta out[t]              its threshold is theta + w[t] instead of theta,
    w[t+1] = rho w[t] + (1 - rho) (c U[t] + beta out[t])   or V[t] loses (1 - a) w[t+1] before the reset
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from fluctua.timeloop.surrogates import ArcTan, SigmoidDerivative, SuperSpike, Surrogate

Reset = Literal["zero", "subtract"]

_SUPERSPIKE = SuperSpike()


@dataclass(frozen=True)
class Adaptation:
    """How a population that spikes adapts. Tensors broadcast to `[*N]` and may require a gradient.

    Attributes:
        decay: `rho`, per step.
        strength: `beta`, what `w` tends to while the neuron fires at every step.
        coupling: `c`, the pull of the potential on a `w` that is a current, or None where `w` raises the threshold.
    """

    decay: Tensor
    strength: Tensor
    coupling: Tensor | None = None


@dataclass(frozen=True)
class LoopParameters:
    """Constants of one population. Tensors broadcast to the population's shape `[*N]`.

    Attributes:
        decay_mem: `a`, per step; may require a gradient.
        decay_syn: `b`, per step, or None for a delta synapse; may require a gradient.
        threshold: `theta`, or None for a population that never spikes (a readout, or a free potential).
        reset: what a spike does to the potential.
        differentiable_reset: whether the gradient also flows through the reset.
        surrogate: derivative used for the spike function in backward.
        adaptation: how it adapts, or None; a population without threshold does not.
    """

    decay_mem: Tensor
    decay_syn: Tensor | None
    threshold: Tensor | None = None
    reset: Reset = "zero"
    differentiable_reset: bool = False
    surrogate: Surrogate = field(default_factory=lambda: _SUPERSPIKE)  # torch.compile takes no instance as a default
    adaptation: Adaptation | None = None

    @property
    def spiking(self) -> bool:
        """Whether the population has a threshold at all."""
        return self.threshold is not None

    @property
    def constants(self) -> tuple[Tensor | None, ...]:
        """All six, None for one that the population does not have; a readout does not adapt."""
        q = self.adaptation if self.spiking else None
        adaptation = (None, None, None) if q is None else (q.decay, q.strength, q.coupling)
        return self.decay_mem, self.decay_syn, self.threshold, *adaptation

    def to(self, like: Tensor) -> "LoopParameters":
        """The same in the type and on the device of a tensor, so that no engine has to think of it."""

        def converted(constant: Tensor | None) -> Tensor | None:
            return None if constant is None else constant.to(like)

        q = self.adaptation
        return replace(
            self,
            decay_mem=self.decay_mem.to(like),
            decay_syn=converted(self.decay_syn),
            threshold=converted(self.threshold),
            adaptation=q and Adaptation(q.decay.to(like), q.strength.to(like), converted(q.coupling)),
        )

    @property
    def learnable(self) -> bool:
        """Whether a time constant needs a gradient."""
        return self.decay_mem.requires_grad or (self.decay_syn is not None and self.decay_syn.requires_grad)


class State(NamedTuple):
    """State between two steps: potential `U`, synaptic current `I` and, where it adapts, `w`, each `[B, *N]`."""

    potential: Tensor
    current: Tensor
    adaptation: Tensor | None = None


class LoopResult(NamedTuple):
    """What an engine returns.

    Attributes:
        output: `[T, B, *N]`, spikes (0 or 1), or the potential of a population without threshold.
        potential: `[T, B, *N]`, `U[t]` before the reset of step t; no gradient flows through it where the
            population spikes.
        state: the state after the last step, to go on from.
    """

    output: Tensor
    potential: Tensor
    state: State


class Engine(Protocol):
    """One implementation of the loop."""

    name: str

    def unsupported(self, current: Tensor, parameters: LoopParameters) -> str | None:
        """Why this engine does not support the request, or None where it does."""
        ...

    def run(self, current: Tensor, parameters: LoopParameters, state: State) -> LoopResult:
        """Integrate `current` `[T, B, *N]` from `state` on."""
        ...


# Shape, slope and height of the surrogates that the fused engines know, from their steepness beta.
SHAPES: dict[type[Surrogate], Callable[[float], tuple[str, float, float]]] = {
    SuperSpike: lambda beta: ("rational", beta, 1.0),
    SigmoidDerivative: lambda beta: ("logistic", beta, beta),
    ArcTan: lambda beta: ("lorentzian", math.pi / 2 * beta, beta / 2),
}
