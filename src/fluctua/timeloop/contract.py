"""What a time loop takes and returns, and how torch sees it: one operation, with a backward without a derivative.

A neuron is a function of one step, written in torch; `neurons/steps.py` has fluctua's own. Every loop runs it or is
derived from it.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from fluctua._deprecated import old_names

Tensors = tuple[Tensor, ...]
Maybe = Tensor | None

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


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


_NAMED: dict[str, Step] = {}  # for operators of torch, which take strings


def step_for(kind: type, *options: Any) -> Step | str:
    """A step of this kind; its name under `torch.compile`, which keeps no objects."""
    return _name(kind, *options) if torch.compiler.is_compiling() else kind(*options)


@constant_when_compiled
def _name(kind: type, *options: Any) -> str:
    step = kind(*options)
    name = repr(step)
    while _NAMED.setdefault(name, step) != step:  # another class of the same name
        name += "'"
    return name


def step_of(step: Step | str) -> Step:
    """The step of this name; a step itself as it is."""
    return _NAMED[step] if isinstance(step, str) else step


class Form(NamedTuple):
    """The traceable part of a neuron: its step, and its numbers of inputs, parts of the state and constants."""

    step: Step | str
    inputs: int
    states: int
    constants: int


def passed_on(inputs: Tensors, state: Tensors, constants: Tensors) -> tuple[Tensor, Tensors]:
    """The step of a population that is its input current."""
    return inputs[0], state


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

    @property
    def name(self) -> str:
        """For choosing it."""
        ...

    def unsupported(self, inputs: Tensors, dynamics: Dynamics, neurons: torch.Size | None = None) -> str | None:
        """Why this engine does not support a request, or None if it does; `neurons` as in `engines.choose`."""
        ...

    def run(self, inputs: Tensors, dynamics: Dynamics, state: Tensors) -> LoopResult:
        """Integrate the inputs, each `[T, B, *N]`, from `state` on."""
        ...


class Operation(ABC):
    """An operation to be fused, with everything it knows besides tensors."""

    @property
    @abstractmethod
    def called(self) -> str:
        """Its name, in messages."""

    @property
    def differentiable(self) -> Collection[int]:
        """Numbers of the results that have a gradient."""
        return (0,)

    @abstractmethod
    def forth(self, tensors: Sequence[Any]) -> Sequence[Tensor]:
        """The results, and what backward may need."""

    @abstractmethod
    def kept(self, tensors: Sequence[Any], results: Sequence[Tensor]) -> Sequence[Maybe]:
        """What backward needs."""

    @abstractmethod
    def back(self, kept: Sequence[Any], grads: Sequence[Any], wanted: Sequence[bool]) -> Sequence[Maybe]:
        """Gradients with respect to all tensors, those not wanted do not matter."""


def apply(operation: Operation, tensors: Sequence[Maybe]) -> tuple[Tensor, ...]:
    """The results of an operation, as a node of autograd's graph."""
    results: tuple[Tensor, ...] = _Fused.apply(operation, _Anchor.apply(*tensors), *tensors)  # type: ignore[no-untyped-call]
    return results


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(operation: Operation, tied: Tensor, *tensors: Maybe) -> tuple[Tensor, ...]:
        return tuple(operation.forth(tensors))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.operation, tied, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(t for k, t in enumerate(output) if k not in ctx.operation.differentiable))
        ctx.save_for_backward(tied, *ctx.operation.kept(tensors, output))

    @staticmethod
    def backward(ctx: Any, *grads: Maybe) -> tuple[Maybe, ...]:
        tied, *kept = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        if all(g is None for g in grads):
            return tuple([None] * (2 + len(wanted)))
        with torch.no_grad():
            found = ctx.operation.back(kept, grads, wanted)
        gradients: Sequence[Maybe] = [g if asked else None for g, asked in zip(found, wanted, strict=True)]
        if torch.is_grad_enabled():  # create_graph: they must not pass for constants
            gradients = _Once.apply(ctx.operation.called, 1 + len(grads), tied, *grads, *gradients)  # type: ignore[no-untyped-call]
        return None, None, *gradients


def refuse_second_derivative(what: str) -> None:
    """Say that a fused operation has a first derivative only.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(
        f"{what} can be differentiated only once; for second derivatives run the network "
        "within `with fluctua.timeloop.engine('reference'):`"
    )


class _Anchor(torch.autograd.Function):
    """An empty tensor that depends on all of these in autograd's graph, in place of tensors that are not kept."""

    @staticmethod
    def forward(ctx: Any, *tensors: Maybe) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.tensors = len(tensors)
        return next(t for t in tensors if t is not None).new_empty(0)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[None, ...]:
        return tuple([None] * ctx.tensors)


class _Once(torch.autograd.Function):
    """Passes gradients on and refuses to differentiate them by the first `n_of` tensors, which they depend on.

    Torch's `once_differentiable` accepts constant gradients, and treats a derivative wrt unsaved tensors as zero.
    """

    @staticmethod
    def forward(ctx: Any, what: str, n_of: int, *tensors: Maybe) -> tuple[Maybe, ...]:
        ctx.what = what
        return tuple(g if g is None else g.view_as(g) for g in tensors[n_of:])

    @staticmethod
    def backward(ctx: Any, *_: Any) -> None:
        refuse_second_derivative(ctx.what)


__getattr__ = old_names(__name__)
