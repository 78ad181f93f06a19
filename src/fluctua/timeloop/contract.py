"""The arguments and results of a time loop.

A neuron is a function of one step, written in torch; `neurons/steps.py` has fluctua's own. Every loop runs it or is
derived from it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from fluctua._deprecated import old_names

Tensors = tuple[Tensor, ...]

Step = Callable[[Tensors, Tensors, Tensors], tuple[Tensor, Tensors]]
"""A neuron: `(inputs, state, constants) -> (output, state after)`, neuron by neuron. Equal steps are one neuron."""

Function = TypeVar("Function", bound=Callable[..., Any])


def constant_when_compiled(function: Function) -> Function:
    """Let `torch.compile` call the function when it compiles and treat the result as a constant."""
    # What `torch.compiler.assume_constant_result` does, which would import the whole compiler here.
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def name_of(dtype: torch.dtype) -> str:
    """The name of a type, as numba, NumPy and Triton name it."""
    return str(dtype).removeprefix("torch.")


_NAMED: dict[str, Step] = {}  # for operators of torch, which take strings


def step_for(kind: type, *options: Any) -> Step | str:
    """A step of this kind; its name under `torch.compile`, which keeps no objects."""
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
    """The traceable part of a neuron: its step, and its numbers of inputs, parts of the state and constants."""

    step: Step | str
    inputs: int
    states: int
    constants: int


@dataclass(frozen=True)
class Dynamics:
    """A neuron as the loops see it.

    Attributes:
        step: one step of it; its name under `torch.compile`.
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
        """The neuron without its numbers."""
        return Form(self.step, self.inputs, self.states, len(self.constants))

    def to(self, like: Tensor) -> "Dynamics":
        """The same in the type and on the device of a tensor, so that engines need not convert."""
        return replace(self, constants=tuple(constant.to(like) for constant in self.constants))


class LoopResult(NamedTuple):
    """What a time loop returns.

    Attributes:
        output: `[T, B, *N]`, spikes (0 or 1), or the potential of a population without threshold.
        potential: `[T, B, *N]`, `U[t]` before the reset of step t; no gradient flows through it if the
            population spikes.
        state: the state after the last step, to continue from: its parts as in the step, or as in the module.
    """

    output: Tensor
    potential: Tensor
    state: Any


class Engine(Protocol):
    """One implementation of the loop."""

    name: str

    def unsupported(self, inputs: Tensors, dynamics: Dynamics, neurons: torch.Size | None = None) -> str | None:
        """Why this engine does not support a request, or None if it does; `neurons` as in `engines.choose`."""
        ...

    def run(self, inputs: Tensors, dynamics: Dynamics, state: Tensors) -> LoopResult:
        """Integrate the inputs, each `[T, B, *N]`, from `state` on."""
        ...


__getattr__ = old_names(__name__)
