"""Which populations are read by their potential, whatever their class says of spikes."""

import math
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor, nn

from fluctua.network.adapters.registry import KnownNeurons, Specs
from fluctua.network.facts import FAR, Neuron, Population
from fluctua.network.preserve import preserved
from fluctua.network.trace_pass import NEVER


def as_returned(module: nn.Module, specs: Specs, like: Tensor, known: KnownNeurons) -> Specs:
    """The populations of a module of the user's own class, without threshold where it returns its potential.

    That is, where a current far too small for a spike, of the shape of `like`, changes what it gives.
    """
    (spec, *others), same = specs.values(), True
    if others or spec.neuron.threshold is None or not math.isfinite(spec.neuron.threshold):
        return specs
    small = torch.full_like(like, 1e-6 * (spec.neuron.threshold - spec.neuron.rest))
    with preserved(module), torch.no_grad(), suppress(Exception):  # of a stranger's code, which may want more arguments
        answers = []
        for current in (small, torch.zeros_like(small)):
            known.reset(module)
            answers.append(spec.layout.spikes(module, module(current)).clone())
        same = torch.equal(*answers)
    neuron = spec.neuron if same else _as_readout(spec.neuron, "it returns its potential, not its spikes")
    return {name: replace(spec, neuron=neuron) for name in specs}


def _as_readout(neuron: Neuron, reason: str) -> Neuron:
    note = f"a readout: {reason}"
    return replace(neuron, threshold=None, note=f"{note}; {neuron.note}" if neuron.note else note)


def with_readouts(found: list[Population], named: Collection[str] | None) -> Iterator[Population]:
    """The populations, without threshold where what they do shows that they are read by their potential."""
    named = None if named is None else list(named)
    if unknown := sorted(set(named or ()) - {p.name for p in found}):
        raise ValueError(
            f"no population {unknown[0]!r} for readouts=: the model has {', '.join(p.name for p in found)}"
        )
    for p in found:
        theta = p.neuron.threshold
        others = [q.neuron.threshold for q in found if q is not p and q.neuron.threshold is not None]
        heard = any(p.name in other.heard for other in found if other is not p)
        if theta is None or p.name in (named or ()):
            yield replace(p, neuron=replace(p.neuron, threshold=None))
        elif not math.isfinite(theta):
            yield replace(p, neuron=_as_readout(p.neuron, f"its threshold of {theta:g} cannot be reached"))
        elif named != [] and not heard and (reason := _why_read_out(p, theta, min(others, default=1.0))):
            yield replace(p, neuron=_as_readout(p.neuron, f"{reason}; readouts=[] takes it for spiking"))
        else:
            yield p


def _why_read_out(p: Population, theta: float, lowest: float) -> str | None:
    """Why the last population of a model is taken for a readout, None if it is not."""
    if theta >= NEVER or theta >= FAR * max(lowest, 1.0):
        return f"its threshold of {theta:g} cannot be reached"
    if p.shown == {"potential"}:
        return "the model returns its potential, not its spikes"
    if not p.neuron.resets and p.shown != {"spikes"}:
        return "no spike resets it and nothing hears it"
    return None
