"""Which modules of a model are neurons, and what these are like.

Classes are known by name, so the framework they come from need not be importable here, and nothing is imported that
the user has not imported; a subclass is served by the entry of its nearest base class. What no framework knows the user
describes.
"""

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import TYPE_CHECKING

from torch import nn

from fluctua.network.adapters.framework import FactsOf, Framework, Timing
from fluctua.network.facts import Neuron, PopulationSpec, UnsupportedNeuronError
from fluctua.network.run import Layout, modules_of

if TYPE_CHECKING:
    from fluctua.network.probe import ProbedNeuron

ADAPTERS: Mapping[str, str] = MappingProxyType(
    {
        "fluctua": "fluctua.network.adapters.own",
        "norse": "fluctua.network.adapters.norse",
        "rockpool": "fluctua.network.adapters.rockpool",
        "sinabs": "fluctua.network.adapters.sinabs",
        "snntorch": "fluctua.network.adapters.snntorch",
        "spikingjelly": "fluctua.network.adapters.spikingjelly",
        "stork": "fluctua.network.adapters.stork",
    }
)
"""The module that knows a package's neurons; it is imported when a class of the package is met."""

Specs = Mapping[str, PopulationSpec]


@dataclass(frozen=True)
class KnownNeurons:
    """The neuron classes of all frameworks, and those that the user has described.

    Attributes:
        dt: time step in seconds of neurons that count time in steps.
        described: what classes are like that no framework knows.
        readouts: names of populations that the user calls readouts; None where he leaves it to what is seen.
    """

    dt: float | None = None
    described: Mapping[type[nn.Module], "ProbedNeuron"] = field(default_factory=dict)
    readouts: Collection[str] | None = None

    def specs(self, module: nn.Module, steps: int | None = None) -> Specs:
        """The populations of a module by name, for a trial of so many steps; none where it is no neuron."""
        timing, description = Timing(self.dt, steps), self.description(module)
        if description is None:
            return specs_of(module, timing)
        from fluctua.network.probe import probe

        return {"": PopulationSpec(probe(module, description, timing), module, (0,), layout=Layout(description.time))}

    def description(self, module: nn.Module) -> "ProbedNeuron | None":
        """What the user says of a module, by its nearest base class; None of one that was not described."""
        return next((self.described[base] for base in type(module).__mro__ if base in self.described), None)

    def is_derived(self, module: nn.Module) -> bool:
        """Whether it is of a class of the user's own that a framework's class stands for."""
        found = None if self.description(module) else framework_of(module)
        return found is not None and _name(type(module)) not in found.facts

    def found_in(self, model: nn.Module) -> list[nn.Module]:
        """The neuron modules of a model; what such a module holds inside is its own affair."""
        found: list[nn.Module] = []
        inside: set[nn.Module] = set()
        for module in modules_of(model):
            if module not in inside and (self.description(module) or framework_of(module)):
                found.append(module)
                inside |= set(modules_of(module)) - {module}
        return found

    def reset(self, model: nn.Module) -> None:
        """Bring a model to rest, as the framework of each module does before a trial."""
        for module in modules_of(model):
            description, framework = self.description(module), resetting_framework(module)
            if description is not None:
                description.bring_to_rest(module)
            elif framework is not None:
                framework.reset(module)


@cache
def framework_named(package: str) -> Framework | None:
    """What is known of the neurons of a package; None where there is no adapter for it."""
    if package not in ADAPTERS:
        return None
    found: Framework = import_module(ADAPTERS[package]).FRAMEWORK
    return found


def _frameworks_of(module: nn.Module) -> list[Framework]:
    """Those of the packages that the classes of a module come from."""
    packages = dict.fromkeys(base.__module__.partition(".")[0] for base in type(module).__mro__)
    return [framework for package in packages if (framework := framework_named(package)) is not None]


def framework_of(module: nn.Module) -> Framework | None:
    """The framework that knows a module as a neuron, or refuses it; None where no one does."""
    found = _entry(module)
    return None if found is None else found[0]


def resetting_framework(module: nn.Module) -> Framework | None:
    """The framework that brings a module to rest before a trial: a neuron, or whatever else keeps something."""
    found = framework_of(module)
    if found is not None:
        return found
    names = _names(module)
    return next((f for f in _frameworks_of(module) if not names.isdisjoint(f.stateful)), None)


def specs_of(module: nn.Module, timing: Timing = Timing()) -> Specs:  # noqa: B008 - frozen
    """The populations of a module by name, "" for the one of a plain neuron; none where it is no known neuron.

    Raises:
        UnsupportedNeuronError: a class that is known and cannot be served.
    """
    found = _entry(module)
    if found is None:
        return {}
    framework, entry = found
    if isinstance(entry, str):
        raise UnsupportedNeuronError(f"{type(module).__name__} of {framework.package} cannot be initialised: {entry}")
    _check_version(framework)
    facts = entry(module, timing)
    layout = framework.layout(module)
    if isinstance(facts, Neuron):
        facts = {"": PopulationSpec(facts, module, tuple(range(len(facts.kernels))))}
    in_steps = not framework.timed and timing.dt is None
    return {
        name: replace(spec, neuron=replace(spec.neuron, in_steps=in_steps), layout=layout)
        for name, spec in facts.items()
    }


def prepare(module: nn.Module) -> None:
    """Make a neuron module fit to be observed by torch's hooks."""
    framework = framework_of(module)
    if framework is not None and framework.prepare is not None:
        framework.prepare(module)


def transposed(synapse: nn.Module) -> int:
    """Axis of a weight that counts output units: 1 if it multiplies from the right or convolves backwards, else 0."""
    if isinstance(synapse, nn.modules.conv._ConvTransposeNd):
        return 1
    names = _names(synapse)
    return int(any(not names.isdisjoint(framework.transposed) for framework in _frameworks_of(synapse)))


def _names(module: nn.Module) -> set[str]:
    return {_name(base) for base in type(module).__mro__}


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _entry(module: nn.Module) -> tuple[Framework, FactsOf | str] | None:
    for base in type(module).__mro__:
        name = _name(base)
        for framework in _frameworks_of(module):
            if name in framework.facts:
                return framework, framework.facts[name]
            if name in framework.refused:
                return framework, framework.refused[name]
    return None


def _check_version(framework: Framework) -> None:
    found = _installed(framework.package) if framework.tested else None
    if found is not None and not _alike(found, framework.tested):
        _warn_of_version(framework.package, found, framework.tested)


@cache
def _installed(package: str) -> str | None:
    """The version of a package; None where it was not installed as one."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _alike(found: str, tested: str) -> bool:
    return found.split(".")[:2] == tested.split(".")[:2]


@cache
def _warn_of_version(package: str, found: str, tested: str) -> None:
    warnings.warn(
        f"{package} {found} is not a version that fluctua was tested with ({tested}): check the report's mu_U and "
        "sigma_U before you rely on them",
        stacklevel=2,
    )
