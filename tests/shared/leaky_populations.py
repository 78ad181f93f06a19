"""Leaky populations by their constants per step, of any shape: what `LIF`, `LI` and `AdaptiveLIF` run."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fluctua.neurons.leaky import State
from fluctua.neurons.steps import LeakyStep, Reset
from fluctua.neurons.surrogates import SuperSpike, Surrogate
from fluctua.timeloop.contract import Dynamics, LoopResult, Tensors, step_for
from fluctua.timeloop.engines import integrate, widened


@dataclass(frozen=True)
class Adaptation:
    """How a population that spikes adapts: `rho`, `beta`, and `c` where `w` is a current."""

    decay: Tensor
    strength: Tensor
    coupling: Tensor | None = None


@dataclass(frozen=True)
class LoopParameters:
    """Constants and options of one population; see `LeakyStep`. Without threshold it is a readout."""

    decay_mem: Tensor
    decay_syn: Tensor | None
    threshold: Tensor | None = None
    reset: Reset = "zero"
    differentiable_reset: bool = False
    surrogate: Surrogate = field(default_factory=SuperSpike)
    adaptation: Adaptation | None = None

    @property
    def spiking(self) -> bool:
        return self.threshold is not None

    @property
    def dynamics(self) -> Dynamics:
        """The step and its constants."""
        q, kind, of_w = self.adaptation, None, []
        if q is not None:
            kind, of_w = "threshold" if q.coupling is None else "current", [q.decay, q.strength, q.coupling]
        reset = self.reset if self.spiking else None
        firing: Any = reset, self.spiking and self.differentiable_reset, self.surrogate, kind
        constants = [c for c in (self.decay_mem, self.decay_syn, self.threshold, *of_w) if c is not None]
        step = step_for(LeakyStep, self.decay_syn is not None, *firing)
        return Dynamics(step, tuple(constants), sum(self._has), spiking=self.spiking)

    def parts(self, state: State) -> Tensors:
        """The state as the step has it."""
        return tuple(part for part, has in zip(state, self._has, strict=True) if has and part is not None)

    @property
    def _has(self) -> tuple[bool, bool, bool]:
        return True, self.decay_syn is not None, self.adaptation is not None


def run(current: Tensor, p: LoopParameters, state: State | None = None) -> LoopResult:
    """The loop over a current, from a state on, or from zero."""
    if state is None:
        rest = widened(current).new_zeros(current.shape[1:])
        state = State(rest, rest, None if p.adaptation is None else rest)
    result = integrate((current,), p.dynamics, p.parts(state))
    new = dict(zip([name for name, has in zip(State._fields, p._has, strict=True) if has], result.state, strict=True))
    return result._replace(state=state._replace(**new))
