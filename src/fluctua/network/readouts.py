"""Which populations are read by their potential, even if their class spikes."""

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
    """The populations of a module of the user's own class, as readouts if the module returns its potential.

    It does if a current far too small for a spike, in the shape of `like`, changes its output.
    """
    (spec, *others), same = specs.values(), True
    if others or spec.neuron.threshold is None or not math.isfinite(spec.neuron.threshold):
        return specs
    small = torch.full_like(like, 1e-6 * (spec.neuron.threshold - spec.neuron.rest))
    with preserved(module), torch.no_grad(), suppress(Exception):  # foreign code may need more arguments
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
    """The populations, without threshold if their use shows that their potential is read."""
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
            yield replace(p, neuron=_as_readout(p.neuron, f"{reason}; readouts=[] treats it as spiking"))
        else:
            yield p


def _why_read_out(p: Population, theta: float, lowest: float) -> str | None:
    """Why the last population of a model is treated as a readout, None if it is not."""
    if theta >= NEVER or theta >= FAR * max(lowest, 1.0):
        return f"its threshold of {theta:g} cannot be reached"
    if p.shown == {"potential"}:
        return "the model returns its potential, not its spikes"
    if not p.neuron.resets and p.shown != {"spikes"}:
        return "no spike resets it and nothing receives its spikes"
    return None
