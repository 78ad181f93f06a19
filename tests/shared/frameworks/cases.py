"""What a framework brings to the contract of adapters: its neurons and networks, and how it runs them itself."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.network.adapters.framework import Framework, Timing
from fluctua.network.adapters.registry import specs_of
from fluctua.network.facts import PopulationSpec

FAR = 1e9  # a threshold out of reach
INPUT = ("input",)

Wiring = Mapping[str, Mapping[str, tuple[str, ...]]]  # population -> weight -> where it comes from
Calls = list[Tensor]  # of a neuron module, call by call
Seen = Mapping[str, tuple[Tensor, Tensor]]  # population -> its spikes and its free potential


@dataclass(frozen=True)
class NeuronCase:
    """A neuron as its framework's users make it.

    Attributes:
        make: makes it; the inputs are as many as the kernels that fluctua tells.
        impulse: the size of an impulse to which it answers linearly.
        settle: time steps in which it comes to rest.
        dtype: that the framework computes in.
        either_sign: whether it spikes where the potential is as far below zero as the threshold is above.
    """

    make: Callable[[], Any]
    impulse: float = 1.0
    settle: int = 0
    dtype: torch.dtype = torch.float64
    either_sign: bool = False


@dataclass(frozen=True)
class NetworkCase:
    """A network as its framework's users write it.

    Attributes:
        make: makes it.
        batch: makes its input.
        run: all time steps of it from rest, as the user runs them.
        wiring: the weights into each population, and where they come from.
        options: of `fluctua.initialize`.
        slack: of sigma_U, relative; where neurons hear themselves it is met less closely.
    """

    make: Callable[[], Any]
    batch: Callable[[], Tensor]
    run: Callable[[Any, Tensor], Any]
    wiring: Wiring
    options: Mapping[str, Any] = field(default_factory=dict)
    slack: float = 0.05

    def model(self) -> Any:
        """The same weights at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.make()

    def initialised(self, *arguments: Any, **options: Any) -> tuple[Any, fluctua.Report]:
        model = self.model()
        return model, fluctua.initialize(model, self.batch(), *arguments, seed=0, **{**self.options, **options})


@dataclass(frozen=True)
class Recurrence:
    """A neuron with weights for its own spikes, the same without, and currents on which they spike.

    Attributes:
        make: returns both.
        currents: `[T, B, *N]`.
        inner: for each synapse within the neuron the attribute of its weight in its module, and where it comes from.
    """

    make: Callable[[], tuple[Any, Any]]
    currents: Callable[[], Tensor]
    inner: tuple[tuple[str | None, str | int], ...] = ((None, ""),)


@dataclass(frozen=True)
class FrameworkCases:
    """One framework.

    Attributes:
        adapter: what fluctua says of it.
        neurons: of every class and option that has facts of its own.
        run: output and potential `[T, B, *N]` of a neuron on a current for each of its inputs, by the framework itself,
            after a reset by the adapter.
        free: the same potential of a neuron whose threshold is out of reach.
        classes: all that the framework offers as a neuron.
        elsewhere: neurons of classes that the framework's own tests are about.
        lacking: full names of classes that are not in the package as it is here.
        networks: as its users write them.
        observe: runs a network; for each population its spikes, and its potential over threshold were it not to spike.
        fewer: some steps and samples of a batch of `kept`, as another run may have had them.
        memory: what neurons keep beside parameters and buffers, in a form that can be compared.
        width: neurons in a neuron module of the table.
        refused: neurons that cannot be served, and the words that say why and what to do.
        recurrences: neurons with synapses of their own.
        noted: neurons of which facts hold in part, and the words that say so; None where there is nothing to say.
        live: functions that make a neuron, what changes its learnt constants, and the first steps of its kernel then.
        alike: pairs of networks that are the same, one stepped and one given whole sequences.
        kept: a network whose neurons or layers keep something between runs.
        rated: a network, a firing rate in Hz that it can have, and a time step where its neurons have none.
    """

    adapter: Framework
    neurons: Mapping[str, NeuronCase]
    run: Callable[..., tuple[Tensor, Tensor]]
    free: Callable[..., Tensor]
    classes: Callable[[], Iterable[type]]
    networks: Mapping[str, NetworkCase]
    observe: Callable[[Any, NetworkCase], Seen]
    kept: str
    rated: tuple[str, float, float | None]
    width: int = 1
    memory: Callable[[Any], Any] = lambda model: None
    fewer: Callable[[Tensor], Tensor] = lambda x: x[:5, :3]
    refused: Mapping[str, tuple[Callable[[], Any], str]] = field(default_factory=dict)
    recurrences: Mapping[str, Recurrence] = field(default_factory=dict)
    noted: Mapping[str, tuple[Callable[[], Any], str | None]] = field(default_factory=dict)
    live: Mapping[str, Callable[[], tuple[Any, Callable[[], Any], list[float]]]] = field(default_factory=dict)
    alike: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    elsewhere: Iterable[Callable[[], Any]] = ()
    lacking: frozenset[str] = frozenset()


def needed(module: str) -> Any:
    """A module of a framework. Where that is not installed the tests that need it are skipped, and say so."""
    package = module.partition(".")[0]
    return pytest.importorskip(module, reason=f"needs {package}: `make frameworks` installs it")


def member(module: nn.Module, steps: int | None = None, dt: float | None = None) -> PopulationSpec:
    """All that fluctua says of a neuron."""
    (found,) = specs_of(module, Timing(dt=dt, steps=steps)).values()
    return found


def class_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def named_classes(adapter: Framework) -> set[type]:
    """The classes that an adapter serves or refuses, as far as the package here has their modules."""
    names = (name.rpartition(".") for name in (*adapter.facts, *adapter.refused))
    return {getattr(import_module(module), kind) for module, _, kind in names if find_spec(module.rpartition(".")[0])}


def chain(*names: str) -> Wiring:
    """Populations of which each hears the one before by the weight in front of it: weight, population, ..."""
    sources = ["input", *names[1::2]]
    return {
        population: {weight if weight.endswith(("weight", "weights")) else f"{weight}.weight": (source,)}
        for weight, population, source in zip(names[::2], names[1::2], sources, strict=False)
    }


def by_hooks(free_potential: Callable[[Any, Calls, Calls], Tensor]) -> Callable[[Any, NetworkCase], Seen]:
    """Observes neurons that are modules: what they were called with and put out, and their free potential on that."""

    def observe(model: Any, case: NetworkCase) -> Seen:
        neurons = {name: m for name, m in nn.Module.named_modules(model) if name in case.wiring}
        currents: dict[str, Calls] = {name: [] for name in neurons}
        outputs: dict[str, Calls] = {name: [] for name in neurons}

        def noting(name: str) -> Any:
            def note(module: nn.Module, args: Any, output: Any) -> None:
                currents[name].append(args[0].detach().clone())
                outputs[name].append(first_tensor(output).detach().clone())

            return note

        handles = [neuron.register_forward_hook(noting(name)) for name, neuron in neurons.items()]
        torch.manual_seed(1)  # what is dropped is what was dropped then, seed + 1: other few samples have other means
        with torch.no_grad():
            case.run(model, case.batch())
            for handle in handles:
                handle.remove()
            return {
                name: (torch.stack(outputs[name]), free_potential(neuron, currents[name], outputs[name]))
                for name, neuron in neurons.items()
            }

    return observe


def first_tensor(output: Any) -> Tensor:
    """A neuron's spikes, which come first of all that it returns."""
    return output if isinstance(output, Tensor) else first_tensor(output[0])
