"""The form of an adapter: what fluctua must know of a framework. Facts only; the framework is never imported."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from fluctua.network.facts import Neuron, PopulationSpec
from fluctua.network.run import Layout


@dataclass(frozen=True)
class Timing:
    """What a neuron's facts may depend on besides the module.

    Attributes:
        dt: the time step in seconds that the user gave, if any; for frameworks that have none of their own.
        steps: length of the trial, None while no pass has told. A perfect integrator needs it.
    """

    dt: float | None = None
    steps: int | None = None

    @property
    def unit(self) -> float:
        """The time step of kernels of a framework without any: the user's, else 1, so that time counts in steps."""
        return 1.0 if self.dt is None else self.dt

    @property
    def trial(self) -> int:
        """Steps of the trial; a small number while they are not known, when only the kind of a module matters."""
        return self.steps or 2


# The note of a perfect integrator.
DRIFTS = "integrates without leak: its sigma_U grows along the trial and meets the target on average over it"

FactsOf = Callable[[Any, Timing], Neuron | Mapping[str, PopulationSpec]]
State = Any
States = tuple[Any, ...]
"""The parts of a neuron's state in order, the potential first: tensors, or numbers that all neurons share."""


class Stepping:
    """How one step of a neuron module is taken, and where its state is: here for one that keeps it in attributes.

    A subclass for a framework says what differs.
    """

    def names(self, module: Any) -> tuple[str, ...]:
        """The parts of its state, the potential first.

        Raises:
            UnsupportedNeuronError: its step is more than one of a neuron, such as a sum over the spikes of others.
        """
        raise NotImplementedError

    def options(self, module: Any) -> tuple[str, ...]:
        """Attributes that decide what a step is, though they are kept as tensors; they stay as they are."""
        return ()

    def constant(self, name: str, tensor: Tensor) -> Tensor:
        """What the module keeps by this name, as it broadcasts to the population's shape `[*N]`."""
        return tensor

    def neurons(self, module: Any) -> int:
        """How many a step is followed with, where the module cares; else a number that has no reason to be named."""
        return 3

    def call(self, module: Any, x: Tensor) -> Tensor:
        """The output of a step with the current `x` of any shape, which leaves the next state in its attributes."""
        output: Tensor = type(module).forward(module, x)
        return output

    def step(self, module: Any, x: Tensor, state: States) -> tuple[Tensor, States]:
        """Output of a step, and the state after it."""
        for name, value in zip(self.names(module), state, strict=True):
            setattr(module, name, value)
        output = self.call(module, x)
        return output, self.held(module)

    def held(self, module: Any) -> States:
        """What its attributes are now."""
        return tuple(getattr(module, name) for name in self.names(module))

    def rest(self, module: Any, x: Tensor) -> States:
        """The state before the first step `x` of a trial."""
        return (0.0,) * len(self.names(module))

    def given(self, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> States | None:
        """The state that a caller passes behind the current; None where he passes none."""
        return None

    def kept(self, module: Any, x: Tensor) -> States | None:
        """The state that the module itself goes on from, for a step `x`; None where it is at rest."""
        found = self.held(module)
        return found if all(isinstance(part, Tensor) and part.shape == x.shape for part in found) else None

    def keep(self, module: Any, state: States) -> None:
        """Leave the state in the module, as its own step does."""
        for name, value in zip(self.names(module), state, strict=True):
            if name in module._buffers:  # past checks that take longer than the step
                module._buffers[name] = value
            else:
                setattr(module, name, value)

    def carried(self, module: Any, name: str, part: Tensor) -> Tensor:
        """What goes on to the next sequence of a part of the state behind the last step."""
        return part

    def answer(self, module: Any, output: Tensor, state: States) -> Any:
        """What a call returns."""
        return output

    def watched(self, module: Any) -> str | None:
        """What else a call of it leaves behind, so that it has to run as it is; None if nothing."""
        return None


def no_state(module: Any) -> None:
    """Of neurons that keep nothing between calls."""


@dataclass(frozen=True, eq=False)
class Sharpness:
    """The parameter that sets how sharp the surrogate of a neuron module is, or how wide.

    Attributes:
        name: as its framework calls it.
        value: of the parameter.
        put: gives the module, and no other, a surrogate with another value.
    """

    name: str
    value: float
    put: Callable[[float], None]


def no_sharpness(module: Any) -> Sharpness | None:
    """Of neurons whose surrogate has no parameter."""
    return None


def plain_step(model: nn.Module, x: Tensor, state: State) -> tuple[Any, State]:
    """One time step of a model that keeps its state itself: input `[B, ...]`, no explicit state."""
    return model(x), None


@dataclass(frozen=True)
class Framework:
    """One framework.

    Attributes:
        package: its name, as users import it.
        tested: the version that the facts were checked against.
        facts: full name of a neuron class -> function that reads its facts from a module, None where they follow from
            its own step, by `stepping`. It returns a `Neuron`, or
            for a module that holds several populations, or synapses of its own, a `PopulationSpec` for each by name (""
            where there is one). A subclass is served by the entry of its nearest base class.
        layout: how a neuron module is called.
        refused: full name of a class that is known and cannot be served -> why not, and the way out.
        timed: whether its neurons know the time step in seconds; otherwise facts use `Timing.unit`.
        transposed: full names of synapse classes whose weight is `[in, out]`.
        reset: brings one module to rest, as the framework does before a trial.
        stateful: full names of classes besides neurons that keep something between calls, and are reset likewise.
        stepping: how one step of a neuron is taken, from which the facts of a subclass are read that overrides the
            dynamics of a known class; None where that is not known, and such a class is taken for its base.
        step: one time step of a model that is written for single steps: `(model, x [B, ...], state) -> output, state`.
        sharpness: finds the parameter of a neuron module's surrogate that sets how sharp that is.
        prepare: makes a neuron module that torch's hooks do not see fit to be observed; None where they see all. What
            it sets in the module is taken back at the end.
    """

    package: str
    tested: str
    facts: Mapping[str, FactsOf | None]
    layout: Callable[[Any], Layout]
    refused: Mapping[str, str] = field(default_factory=dict)
    timed: bool = False
    transposed: frozenset[str] = frozenset()
    reset: Callable[[Any], None] = no_state
    stateful: frozenset[str] = frozenset()
    stepping: Stepping | None = None
    step: Callable[[nn.Module, Tensor, State], tuple[Any, State]] = plain_step
    sharpness: Callable[[Any], Sharpness | None] = no_sharpness
    prepare: Callable[[Any], None] | None = None


def changes(kind: type, base: type) -> bool:
    """Whether a user's class has methods in the place of those of a framework's class, building and printing apart."""
    home = base.__module__.partition(".")[0]
    between = [k for k in kind.__mro__[: kind.__mro__.index(base)] if k.__module__.partition(".")[0] != home]
    names = {name for above in between for name, value in vars(above).items() if callable(value)}
    return any(hasattr(base, name) for name in names if not name.startswith("__") and name != "extra_repr")
