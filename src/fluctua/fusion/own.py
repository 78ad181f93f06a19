"""fluctua's own neurons in a fused model. They take whole sequences, and know their dynamics themselves."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fluctua.fusion.handles import reals
from fluctua.fusion.population import Population
from fluctua.layers.circuit import Circuit, Recurrent
from fluctua.layers.dale import DaleLayer
from fluctua.layers.fused_sequential import FusedSequential
from fluctua.layers.fusion import FUSED, SPIKING, dynamics_of
from fluctua.layers.over_time import OverTime
from fluctua.network.adapters.framework import Hearing, States, Stepping
from fluctua.network.adapters.own import FRAMEWORK
from fluctua.network.run import modules_of, named_modules_of
from fluctua.network.stepping import NeuronStep
from fluctua.neurons.leaky import Neuron
from fluctua.timeloop.contract import Dynamics
from fluctua.timeloop.followed import Followed
from fluctua.timeloop.tracing import traced

_LAYERS = Circuit, DaleLayer, FusedSequential, Neuron, OverTime


class _Whole(Stepping):
    """Nothing is kept between two calls."""

    def names(self, module: Any) -> tuple[str, ...]:
        return ()

    def hearing(self, module: Any) -> Hearing | None:
        """Of `Recurrent`: from the second step on."""
        if not isinstance(module, Recurrent):
            return None
        back: Any = module.weight
        return Hearing(back.weight if type(back) is nn.Linear and back.bias is None else back, kept=False)

    def rest(self, module: Any, x: Tensor) -> States:
        return dynamics_of(_cell(module), x)[1]

    def kept(self, module: Any, x: Tensor) -> None:
        return None


@dataclass(frozen=True, eq=False)
class _Step(NeuronStep):
    """Its own step."""

    cell: Any

    def dynamics(self) -> Dynamics:
        found: Dynamics = self.cell.dynamics()
        return found


class OwnPopulation(Population):
    """A neuron of fluctua, or a `Recurrent` of one."""

    def follow(self) -> NeuronStep:
        """See `Population.follow`.

        Raises:
            ValueError: it runs as it is.
        """
        dynamics = _cell(self.module).dynamics()
        if dynamics.inputs != 1:
            raise ValueError(f"it takes {dynamics.inputs} currents")
        if isinstance(self.module, Recurrent) and not self.module.spikes_unobserved:
            raise ValueError("a hook sees the spikes that it hears")
        known = traced(dynamics.step, 1, dynamics.states, len(dynamics.constants))
        return _Step(self.stepping, Followed.of(known), dynamics.states, (), (), _cell(self.module))

    def types(self, x: Tensor, state: States) -> tuple[torch.dtype, ...]:
        return ()


def own_populations(model: nn.Module) -> Iterator[OwnPopulation]:
    """fluctua's own neurons in a model, but for those inside other layers of fluctua, which fuse by themselves."""
    framework, inside = replace(FRAMEWORK, stepping=_Whole()), own_layers(model)[1]
    for name, module in named_modules_of(model):
        recurrent = type(module) is Recurrent and type(module.cell) in SPIKING
        if module not in inside and (recurrent or type(module) in FUSED):
            yield OwnPopulation(name, module, framework)


def own_layers(model: nn.Module) -> tuple[list[nn.Module], set[nn.Module]]:
    """The layers of fluctua in a model that work on whole sequences, and all modules inside them."""
    layers = [m for m in modules_of(model) if isinstance(m, _LAYERS)]
    inside = {m for layer in layers for m in modules_of(layer) if m is not layer}
    return [layer for layer in layers if layer not in inside], inside


def as_it_is(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """What a module returns by its own code, with tensors in the place of handles."""
    return type(module).forward(module, *reals(args), **reals(kwargs))


def _cell(module: Any) -> Any:
    return module.cell if isinstance(module, Recurrent) else module
