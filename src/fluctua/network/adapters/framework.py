"""The form of an adapter: what fluctua must know about a framework. Facts only; the framework is never imported."""

import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import Tensor, nn

from fluctua.network.facts import Neuron, PopulationSpec
from fluctua.network.run import Layout, in_one_call

THRESHOLDS = ("threshold", "v_threshold", "spike_threshold")
"""Attributes in which neurons keep their threshold."""


@dataclass(frozen=True)
class Timing:
    """What a neuron's facts may depend on besides the module.

    Attributes:
        dt: the time step in seconds that the user gave, if any; for frameworks without a time step.
        steps: length of the trial, None before any pass. A perfect integrator needs it.
    """

    dt: float | None = None
    steps: int | None = None

    @property
    def unit(self) -> float:
        """The time step of kernels in a framework without one: the user's, else 1, so that time counts in steps."""
        return 1.0 if self.dt is None else self.dt

    @property
    def trial(self) -> int:
        """Steps of the trial; a small number before any pass, when only the kind of a module matters."""
        return self.steps or 2


FactsOf = Callable[[Any, Timing], Neuron | Mapping[str, PopulationSpec]]
State = Any
States = tuple[Any, ...]
"""The parts of a neuron's state in order, the potential first: tensors, or numbers shared by all neurons."""


@dataclass(frozen=True)
class Hearing:
    """How the spikes of a module's neurons in the last step add to their own current.

    Attributes:
        back: turns these spikes into a current `[B, *N]`: a module, or a weight `[N, N]`.
        incoming: the module's weight `[N, afferents]` for its input, or None.
        kept: whether the spikes are the last part of its state; otherwise a sequence starts without any.
        mask: 1 where a weight `back` has entries; None if it has all.
    """

    back: nn.Module | Tensor
    incoming: Tensor | None = None
    kept: bool = True
    mask: Tensor | None = None


class Stepping:
    """How one step of a neuron module is taken, and where its state is; by default in attributes.

    A subclass overrides what differs in a framework.

    Attributes:
        mean: the name under which a call leaves the mean of its output, if it does.
    """

    mean: str | None = None

    def names(self, module: Any) -> tuple[str, ...]:
        """The parts of its state, the potential first.

        Raises:
            UnsupportedNeuronError: its step is more than a neuron's, such as a sum over the spikes of others.
        """
        raise NotImplementedError

    def options(self, module: Any) -> tuple[str, ...]:
        """Attributes that are tensors but select what a step does; they stay as they are."""
        return ()

    def constant(self, name: str, tensor: Tensor) -> Tensor:
        """A constant of the module, shaped to broadcast to the population's shape `[*N]`."""
        return tensor

    def simplify(self, module: Any) -> str | None:
        """Remove from a module what its facts ignore, and return a note on that for the user."""
        return None

    def neurons(self, module: Any) -> int:
        """Number of neurons to follow a step with, if the module needs a certain one; else an arbitrary number."""
        return 3

    def hearing(self, module: Any) -> Hearing | None:
        """Its recurrence, if any. Its step is followed without it, and called with the total current."""
        return None

    def call(self, module: Any, x: Tensor) -> Tensor:
        """Take a step with the current `x` of any shape; returns its output; attributes keep the next state."""
        output: Tensor = type(module).forward(module, x)
        return output

    def step(self, module: Any, x: Tensor, state: States) -> tuple[Tensor, States]:
        """Output of a step, and the state after it."""
        for name, value in zip(self.names(module), state, strict=True):
            setattr(module, name, value)
        output = self.call(module, x)
        return output, self.held(module)

    def held(self, module: Any) -> States:
        """The state in its attributes now."""
        return tuple(getattr(module, name) for name in self.names(module))

    def rest(self, module: Any, x: Tensor) -> States:
        """The state before the first step `x` of a trial."""
        return (0.0,) * len(self.names(module))

    def given(self, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> States | None:
        """The state that the caller passes after the current; None if none."""
        return None

    def kept(self, module: Any, x: Tensor) -> States | None:
        """The state from which the module itself continues with a step `x`; None at rest."""
        found = self.held(module)
        return found if all(isinstance(part, Tensor) and part.shape == x.shape for part in found) else None

    def begins_with(self, module: Any, x: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> States:
        """The state from which a call with a step `x` continues: the one that it is given, its own, or that at rest."""
        self.names(module)  # refuses what is more than a neuron
        given = self.given(module, args, kwargs)
        found = self.kept(module, x) if given is None else given
        return self.rest(module, x) if found is None else found

    def left_by(self, module: Any, output: Any) -> States:
        """The state after a call."""
        if all(hasattr(module, name) for name in self.names(module)):
            return self.held(module)
        return self.given(module, tuple(output[1:]), {}) or ()

    def places(self, module: Any) -> tuple[tuple[dict[str, Any], str], ...]:
        """Where each part of the state is kept: a dictionary, and the name in it; past checks that take long."""
        own, buffers = vars(module), module._buffers
        return tuple((buffers if name in buffers else own, name) for name in self.names(module))

    def keep(self, module: Any, state: States) -> None:
        """Leave the state in the module, as its own step does."""
        for (place, name), value in zip(self.places(module), state, strict=True):
            place[name] = value

    def carried(self, module: Any, name: str, part: Tensor) -> Tensor:
        """What the next sequence receives of a part of the state after the last step."""
        return part

    def answer(self, module: Any, output: Tensor, state: States) -> Any:
        """What a call returns."""
        return output

    def watched(self, module: Any) -> str | None:
        """What else a call leaves behind, so that the module must run as it is; None if nothing."""
        return None


@dataclass(frozen=True, eq=False)
class Sharpness:
    """The parameter that sets how sharp, or how wide, the surrogate of a neuron module is.

    Attributes:
        name: its name in the framework.
        value: its value.
        put: gives this module, and no other, a surrogate with another value.
    """

    name: str
    value: float
    put: Callable[[float], None]


@dataclass(frozen=True)
class Framework:
    """One framework.

    Attributes:
        package: its name, as users import it.
        tested: the version that the facts were checked against.
        facts: full name of a neuron class -> function that reads its facts from a module, or None if they follow from
            its own step, by `stepping`. The function returns a `Neuron`, or for a module with several populations or
            its own synapses a `PopulationSpec` for each, by name ("" if there is one). A subclass uses the entry of its
            nearest base class.
        layout: how a neuron module is called.
        refused: full name of a known class that cannot be served -> why not, and what to do instead.
        timed: whether its neurons know the time step in seconds; otherwise facts use `Timing.unit`.
        transposed: full names of synapse classes whose weight is `[in, out]`.
        reset: brings one module to rest, as the framework does before a trial.
        stateful: full names of classes other than neurons that keep state between calls and are reset likewise.
        stepping: how one step of a neuron is taken. Facts are read from it, also for a subclass that overrides the
            dynamics of a known class. None if it is not known: such a class is then treated as its base.
        step: one time step of a model that is written for single steps: `(model, x [B, ...], state) -> output, state`;
            by default of one that keeps its state itself.
        sharpness: finds the parameter of a neuron module's surrogate that sets its sharpness.
        prepare: makes a neuron module observable if torch's hooks do not see it; undone at the end. None if they always
            do.
    """

    package: str
    tested: str
    facts: Mapping[str, FactsOf | None]
    layout: Callable[[Any], Layout] = in_one_call
    refused: Mapping[str, str] = field(default_factory=dict)
    timed: bool = False
    transposed: frozenset[str] = frozenset()
    reset: Callable[[Any], None] = lambda module: None
    stateful: frozenset[str] = frozenset()
    stepping: Stepping | None = None
    step: Callable[[nn.Module, Tensor, State], tuple[Any, State]] = lambda model, x, state: (model(x), None)
    sharpness: Callable[[Any], Sharpness | None] = lambda module: None
    prepare: Callable[[Any], None] | None = None


def changes(kind: type, base: type) -> bool:
    """Whether a user's class overrides methods of a framework's class, other than for building and printing."""
    home = base.__module__.partition(".")[0]
    between = [k for k in kind.__mro__[: kind.__mro__.index(base)] if k.__module__.partition(".")[0] != home]
    names = {name for above in between for name, value in vars(above).items() if callable(value)}
    return any(hasattr(base, name) for name in names if not name.startswith("__") and name != "extra_repr")


@cache
def check_version(package: str, tested: str) -> None:
    """Warn once about a version other than the tested one, if the framework is installed as a package."""
    from importlib.metadata import PackageNotFoundError, version  # takes long to import, and fluctua's own need none

    with suppress(PackageNotFoundError):
        found = version(package)
        if found.split(".")[:2] != tested.split(".")[:2]:
            warnings.warn(
                f"{package} {found} is not a version that fluctua was tested with ({tested}): check the report's mu_U "
                "and sigma_U before you rely on them",
                stacklevel=2,
            )
