"""Fused layers: weights and the neurons behind them in one operation, spikes handed from layer to layer as bits.

The input current is never in memory as a whole: samples pass through all layers a few at a time, so that what they
need stays in the core's cache. Forward keeps the bits of the spikes alone; backward integrates again, which takes less
time than to write the potentials to memory and to read them back, and then runs the adjoint loop.

Samples are split over threads, each with a gradient of the weights of its own; these are summed in a fixed order, so
a fixed number of threads gives the same numbers every time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fluctua.spikes.batch import SpikeBatch
from fluctua.spikes.bits import words_of
from fluctua.timeloop.contract import Dynamics
from fluctua.timeloop.events_adjoint import adjoint
from fluctua.timeloop.events_layout import PATHS, Arriving, Kind, Padded
from fluctua.timeloop.limits import Maybe, Operation, apply
from fluctua.timeloop.threads import Blocks, over_samples

_CACHE = 1 << 19  # bytes of a block's potentials: half of L2
_RECURRENT_BLOCK = 32  # samples: each step back multiplies by the recurrent weight, which must pay to load it


@dataclass(frozen=True, eq=False)
class Layer:
    """Neurons and what feeds them. Tensors are plain, on the CPU, all float32 or all float64.

    Attributes:
        sections: size n of the population, or of two that are run as one.
        dynamics: of all of them, with constants of one element or `[n]`.
        weight: `[n, afferents]` to the first input, or None where the input current itself is given.
        bias: `[n]`, or None.
        recurrent: `[n, n]`, through which neurons hear the spikes of the step before, or None; those of a second
            section reach the second input.
        recurrent_bias: `[n]`, from the second step on, or None.
        initial: state before the first step, the potential first; parts that are not named begin at zero.
    """

    sections: tuple[int, ...]
    dynamics: Dynamics
    weight: Maybe = None
    bias: Maybe = None
    recurrent: Maybe = None
    recurrent_bias: Maybe = None
    initial: tuple[float, ...] = ()

    @property
    def kind(self) -> Kind:
        """What there is to do, numbers apart."""
        initial = *self.initial, *[0.0] * (self.dynamics.states - len(self.initial))
        return Kind(self.dynamics.form, sum(self.sections), self.sections[0], self.recurrent is not None, initial)

    @property
    def tensors(self) -> tuple[Maybe, ...]:
        """Weight and bias of each path that spikes take to it, then the constants."""
        return self.weight, self.bias, self.recurrent, self.recurrent_bias, *self.dynamics.constants


def run_layers(x: Tensor, layers: Sequence[Layer], spikes: SpikeBatch | None = None) -> tuple[Tensor, ...]:
    """Run layers one behind the other.

    Args:
        x: `[T, B, N]`: what arrives at the first layer, or its input current where it has no weight. Beside `spikes`
            only its gradient matters.
        layers: all but the last spike, and have one section.
        spikes: the same as `x`, for a first layer with a weight.

    Returns:
        Spikes of each section of the last layer `[T, B, n]`, or the potential of a readout.
    """
    operation = _Layers(tuple(layer.kind for layer in layers), spikes, x.shape)
    output, *_ = apply(operation, [x, *(t for layer in layers for t in layer.tensors)])
    sections = layers[-1].sections
    return (output,) if len(sections) == 1 else tuple(output.split(sections, 2))  # type: ignore[no-untyped-call]


@dataclass(frozen=True, eq=False)
class _Layers(Operation):
    """See `limits.Operation`: of the input, then of all tensors of the layers."""

    kinds: Sequence[Kind]
    spikes: SpikeBatch | None
    shape: torch.Size
    called = "fused layers"

    def forth(self, tensors: Sequence[Any]) -> Sequence[Tensor]:
        x, *others = tensors
        return _integrate(self._padded(others, x.dtype), self.spikes, x)

    def kept(self, tensors: Sequence[Any], results: Sequence[Tensor]) -> Sequence[Maybe]:
        x, *others = tensors
        return x if self.spikes is None else None, *others, *results[1:]

    def back(self, kept: Sequence[Any], grads: Sequence[Any], wanted: Sequence[bool]) -> Sequence[Maybe]:
        (current, *others), words, g = kept[: len(wanted)], kept[len(wanted) :], grads[0]
        layers = self._padded(others, g.dtype)
        arriving = _all_arriving(self.spikes, g if current is None else current, words)
        g_input = torch.empty(self.shape, dtype=g.dtype) if wanted[0] else None
        block = _block(layers, self.shape[0], least=_RECURRENT_BLOCK)
        return g_input, *adjoint(layers, arriving, g, self._split(wanted[1:]), g_input, block)

    def _split(self, values: Sequence[Any]) -> list[list[Any]]:
        """What belongs to the tensors of each layer, from one list."""
        left = iter(values)
        return [list(islice(left, PATHS + kind.form.constants)) for kind in self.kinds]

    def _padded(self, tensors: Sequence[Maybe], dtype: torch.dtype) -> list[Padded]:
        return [Padded.of(kind, own, dtype) for kind, own in zip(self.kinds, self._split(tensors), strict=True)]


def _integrate(layers: Sequence[Padded], spikes: SpikeBatch | None, x: Tensor) -> list[Tensor]:
    """The output, and the spikes of all populations that spike, as bits."""
    steps, samples = x.shape[:2]
    last, fire = layers[-1].kind, [layer.kind for layer in layers if layer.kind.spiking]
    words = [torch.empty(samples, steps, words_of(kind.size), dtype=torch.int64) for kind in fire]
    potential = None if last.spiking else x.new_empty(steps, samples, last.size)
    arriving = _all_arriving(spikes, x, words)
    leaving = [*(spiking.words for spiking in arriving[1:]), np.empty(0, np.uint64)]

    def work(blocks: Blocks) -> None:
        for first, stop in blocks:
            times = steps, first, stop
            for layer, source, target in zip(layers, arriving, leaving, strict=False):
                if layer.kind.spiking or potential is None:
                    layer.integrate(source, times, target)
                    continue
                scratch = np.empty((steps, stop - first, layer.width), layer.dtype)
                layer.integrate(source, times, target, (scratch.reshape(-1),))
                potential.numpy()[:, first:stop] = scratch[..., : last.size]

    over_samples(work, samples, _block(layers, steps, least=1))
    return [SpikeBatch(words[-1], last.size).dense(x.dtype) if potential is None else potential, *words]


def _all_arriving(spikes: SpikeBatch | None, x: Tensor, words: Sequence[Tensor]) -> list[Arriving]:
    """What arrives at each layer, and what leaves the last if it spikes."""
    first = Arriving.dense(x) if spikes is None else Arriving.spikes(spikes, x.dtype)
    return [first, *(Arriving.spikes(SpikeBatch(w, 0), x.dtype) for w in words)]


def _block(layers: Sequence[Padded], steps: int, least: int) -> int:
    """How many samples go through the layers at a time, with recurrence at least so many."""
    size = max(layer.width for layer in layers) * steps * layers[0].constants.itemsize
    return max(1, _CACHE // size, least if any(layer.kind.recurrent for layer in layers) else 1)
