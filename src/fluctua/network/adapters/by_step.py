"""The population of a neuron module, read from its own step, with the weights that the module itself owns."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import linear

from fluctua.network.adapters.framework import Framework, Hearing, Timing
from fluctua.network.facts import Neuron, Pathway, PopulationSpec, one_step_late
from fluctua.network.linear import linear_module


def by_step(framework: Framework, note: str | None, module: Any, timing: Timing) -> Mapping[str, PopulationSpec]:
    """The population that one step of a module defines, with the module's recurrence.

    Raises:
        UnsupportedNeuronError: see `linear_neuron`.
    """
    assert framework.stepping is not None
    timing = replace(timing, dt=float(module.dt)) if framework.timed else timing
    neuron, hearing = linear_module(module, framework.stepping, timing), framework.stepping.hearing(module)
    if note is not None and neuron.threshold is None:
        note = "a readout: its step gives no spikes"
    neuron = replace(neuron, note="; ".join(filter(None, (note, neuron.note))) or None)
    if hearing is None:
        return {"": PopulationSpec(neuron, module, (0,))}
    if hearing.incoming is None:
        return {"": PopulationSpec(neuron, module, (0,), (_from_itself(module, hearing),))}
    return called_with_input(neuron, module, hearing.incoming, _from_itself(module, hearing))


def called_with_input(neuron: Neuron, module: Any, weight: Tensor, *others: Pathway) -> Mapping[str, PopulationSpec]:
    """The population of a module that has its own weight for its input."""
    name = _name_of(module, weight)

    def current(x: Tensor) -> Tensor:
        w = getattr(module, name)
        return linear(x.to(w), w)

    incoming = Pathway("", module, name, (), inner=current, argument=0)
    return {"": PopulationSpec(neuron, module, (None,), (incoming, *others))}


def _from_itself(module: Any, hearing: Hearing) -> Pathway:
    back, mask, kept = hearing.back, hearing.mask, hearing.kept
    if isinstance(back, nn.Module):
        return Pathway("", back, "", ("",), inner=_over_time(back, kept))
    name = _name_of(module, back)

    def current(spikes: Tensor) -> Tensor:
        w = getattr(module, name)
        return linear(spikes.to(w), w if mask is None else w * mask)

    return Pathway("", module, name, ("",), inner=_over_time(current, kept), mask=mask)


def _over_time(current: Callable[[Tensor], Tensor], kept: bool) -> Callable[[Tensor], Tensor]:
    """Spikes `[T, B, *N]` -> the current `[T, B, *N]` that they cause; `kept`: with a bias in the first step too."""

    def heard(spikes: Tensor) -> Tensor:
        return current(spikes.flatten(0, 1)).reshape(spikes.shape)

    return lambda spikes: heard(one_step_late(spikes)) if kept else one_step_late(heard(spikes))


def _name_of(module: nn.Module, weight: Tensor) -> str:
    return next(name for name, parameter in module._parameters.items() if parameter is weight)
