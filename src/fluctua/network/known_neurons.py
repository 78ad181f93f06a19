"""What a user says of a model's neurons, where their modules do not say it themselves."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from fluctua.network.adapters.framework import Timing
from fluctua.network.adapters.registry import framework_of, members_of
from fluctua.network.facts import Member
from fluctua.network.layout import Layout
from fluctua.network.modules import modules_of
from fluctua.network.probe import ProbedNeuron, probe


@dataclass(frozen=True)
class Reading:
    """How the modules of a model are read.

    Attributes:
        dt: time step in seconds of neurons that count time in steps.
        neurons: what unknown neuron classes are like.
    """

    dt: float | None = None
    neurons: Mapping[type[nn.Module], ProbedNeuron] = field(default_factory=dict)

    def members(self, module: nn.Module, steps: int | None = None) -> Mapping[str, Member]:
        """The populations of a module by name, for a trial of so many steps; none where it is no neuron."""
        timing, named = Timing(self.dt, steps), self.named(module)
        if named is None:
            return members_of(module, timing)
        return {"": Member(probe(module, named, timing), module, (0,), layout=Layout(named.time))}

    def named(self, module: nn.Module) -> ProbedNeuron | None:
        """What the user says of a module, by its nearest base class; None of one that was not named."""
        return next((self.neurons[base] for base in type(module).__mro__ if base in self.neurons), None)

    def known(self, module: nn.Module) -> bool:
        """Whether a module is a neuron."""
        return self.named(module) is not None or framework_of(module) is not None


def neurons_of(model: nn.Module, reading: Reading) -> list[nn.Module]:
    """The neuron modules of a model; what such a module holds inside is its own affair."""
    found: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in modules_of(model):
        if module not in inside and reading.known(module):
            found.append(module)
            inside |= set(modules_of(module)) - {module}
    return found
