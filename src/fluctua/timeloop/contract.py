"""What a time loop gets and what it gives.

A neuron is a function of one step, written in torch; `steps.py` has fluctua's own. Every loop runs or is derived from
that function, so nothing else states its equations.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from fluctua.timeloop.steps import LeakyStep, Reset, Step, Tensors
from fluctua.timeloop.surrogates import SuperSpike, Surrogate

_SUPERSPIKE = SuperSpike()

Function = TypeVar("Function", bound=Callable[..., Any])


def constant_when_compiled(function: Function) -> Function:
    """Let `torch.compile` call the function when it compiles and take the result for a constant."""
    # What `torch.compiler.assume_constant_result` does, which would import the whole compiler here.
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def name_of(dtype: torch.dtype) -> str:
    """The name of a type, as numba, NumPy and Triton have it."""
    return str(dtype).removeprefix("torch.")


_NAMED: dict[str, Step] = {}  # for operators of torch, which take texts


def step_for(kind: type, *options: Any) -> Step | str:
    """A step of this kind, or in code of `torch.compile`, which keeps no objects, its name."""
    return _name(kind, *options) if torch.compiler.is_compiling() else kind(*options)


@constant_when_compiled
def _name(kind: type, *options: Any) -> str:
    step = kind(*options)
    _NAMED[repr(step)] = step
    return repr(step)


def step_of(step: Step | str) -> Step:
    """The step of this name; a step itself as it is."""
    return _NAMED[step] if isinstance(step, str) else step


class Form(NamedTuple):
    """All of a neuron that can be traced: its step, and how many inputs, parts of the state and constants it has."""

    step: Step | str
    inputs: int
    states: int
    constants: int


@dataclass(frozen=True)
class Dynamics:
    """A neuron, to the loops.

    Attributes:
        step: one step of it, or in code of `torch.compile` its name.
        constants: of the step; each broadcasts to the population's shape `[*N]` and may require a gradient.
        states: number of parts of the state, the potential first.
        inputs: number of input currents.
        spiking: whether its output is spikes; the potential then has no gradient.
    """

    step: Step | str
    constants: Tensors
    states: int
    inputs: int = 1
    spiking: bool = True

    @property
    def form(self) -> Form:
        """It, numbers apart."""
        return Form(self.step, self.inputs, self.states, len(self.constants))

    def to(self, like: Tensor) -> "Dynamics":
        """The same in the type and on the device of a tensor, so that no engine has to think of it."""
        return replace(self, constants=tuple(constant.to(like) for constant in self.constants))


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
    def dynamics(self) -> Dynamics:
        """The step and its constants."""
        _, exponential, adapts = self._has
        kind: Literal["threshold", "current"] | None = None
        adaptation: tuple[Tensor | None, ...] = ()
        if adapts and self.adaptation is not None:
            adaptation = self.adaptation.decay, self.adaptation.strength, self.adaptation.coupling
            kind = "threshold" if self.adaptation.coupling is None else "current"
        reset = self.reset if self.spiking else None
        firing = reset, self.spiking and self.differentiable_reset, self.surrogate
        step = step_for(LeakyStep, exponential, *firing, kind)
        constants = (self.decay_mem, self.decay_syn, self.threshold, *adaptation)
        there = tuple(c for c in constants if c is not None)
        return Dynamics(step, there, 1 + exponential + adapts, spiking=self.spiking)

    def parts(self, state: "State") -> Tensors:
        """The state as the step has it."""
        there = [part for part, has in zip(state, self._has, strict=True) if has]
        if any(part is None for part in there):
            raise ValueError("the state of a population that adapts needs an adaptation, got None")
        return tuple(there)  # type: ignore[arg-type]

    def after(self, parts: Tensors, before: "State") -> "State":
        """Back from there; what the step does not have is as it was before."""
        new = list(parts)
        return State(*(new.pop(0) if has else old for old, has in zip(before, self._has, strict=True)))  # type: ignore[arg-type]

    @property
    def _has(self) -> tuple[bool, bool, bool]:
        """Which parts of a `State` the step has."""
        return True, self.decay_syn is not None, self.spiking and self.adaptation is not None


class State(NamedTuple):
    """State between two steps: potential `U`, synaptic current `I` and, where it adapts, `w`, each `[B, *N]`."""

    potential: Tensor
    current: Tensor
    adaptation: Tensor | None = None


class LoopResult(NamedTuple):
    """What a time loop returns.

    Attributes:
        output: `[T, B, *N]`, spikes (0 or 1), or the potential of a population without threshold.
        potential: `[T, B, *N]`, `U[t]` before the reset of step t; no gradient flows through it where the
            population spikes.
        state: the state after the last step, to continue from: a `State`, or a tuple of its parts as the step has them.
    """

    output: Tensor
    potential: Tensor
    state: Any


class Engine(Protocol):
    """One implementation of the loop."""

    name: str

    def unsupported(self, inputs: Tensors, dynamics: Dynamics, neurons: torch.Size | None = None) -> str | None:
        """Why this engine does not support a request, or None where it does; `neurons` as in `engines.choose`."""
        ...

    def run(self, inputs: Tensors, dynamics: Dynamics, state: Tensors) -> LoopResult:
        """Integrate the inputs, each `[T, B, *N]`, from `state` on."""
        ...
