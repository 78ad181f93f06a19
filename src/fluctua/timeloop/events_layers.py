"""Fused layers: weights and the neurons behind them in one operation, spikes handed from layer to layer as bits.

The input current is never in memory as a whole: samples pass through all layers a few at a time, so that what they
need stays in the core's cache. Forward keeps the bits of the spikes alone; backward integrates again, which takes less
time than to write the potentials to memory and to read them back, and then runs the adjoint loop.

Samples are split over threads, each with a gradient of the weights of its own; these are summed in a fixed order, so
a fixed number of threads gives the same numbers every time.
"""

from collections.abc import Collection, Sequence
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
from fluctua.timeloop.limits import Maybe, apply
from fluctua.timeloop.threads import Blocks, over_samples

_CACHE = 1 << 19  # bytes of a block's potentials: half of L2
_RECURRENT_BLOCK = 32  # samples: each step back multiplies by the recurrent weight, which must pay to load it


@dataclass(frozen=True, eq=False)
class Layer:
    """Neurons and what feeds them. Tensors are plain, on the CPU, all float32 or all float64.

    Attributes:
        sections: size n of the population, or of two that are run as one; both get the same inputs.
        dynamics: of all of them, with constants of one element or `[n]`.
        weight: `[n, afferents]` to the first input, or None where the input current itself is given.
        bias: `[n]`, or None.
        recurrent: `[n, n]`, through which neurons hear the spikes of the step before, of two sections those of the
            first alone, or None.
        recurrent_bias: `[n]`, from the second step on, or None.
        initial: state before the first step, the potential first; parts that are not named begin at zero.
        recurrent_second: `[n, second]`, from the second section, which speaks to the second input, or None.
    """

    sections: tuple[int, ...]
    dynamics: Dynamics
    weight: Maybe = None
    bias: Maybe = None
    recurrent: Maybe = None
    recurrent_bias: Maybe = None
    initial: tuple[float, ...] = ()
    recurrent_second: Maybe = None

    @property
    def kind(self) -> Kind:
        """What there is to do, numbers apart."""
        recurrent = self.recurrent is not None or self.recurrent_second is not None
        initial = *self.initial, *[0.0] * (self.dynamics.states - len(self.initial))
        return Kind(self.dynamics.form, self.sections, recurrent, initial)

    @property
    def tensors(self) -> tuple[Maybe, ...]:
        """Weight and bias of each path that spikes take to it, then the constants."""
        recurrent = self.recurrent, self.recurrent_bias, self.recurrent_second, None
        return self.weight, self.bias, *recurrent, *self.dynamics.constants


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
    results = apply(operation, [x, *(t for layer in layers for t in layer.tensors)])
    return results[: len(layers[-1].sections)]


@dataclass(frozen=True, eq=False)
class _Layers:
    """See `limits.Operation`: of the input, then of all tensors of the layers."""

    kinds: Sequence[Kind]
    spikes: SpikeBatch | None
    shape: torch.Size
    called = "fused layers"

    @property
    def differentiable(self) -> Collection[int]:
        return range(len(self.kinds[-1].sections))

    def forth(self, tensors: Sequence[Any]) -> tuple[Tensor, ...]:
        x, *others = tensors
        return _integrate(_padded(self.kinds, others, x.dtype), self.spikes, x)

    def kept(self, tensors: Sequence[Any], results: Sequence[Tensor]) -> Sequence[Maybe]:
        x, *others = tensors
        return x if self.spikes is None else None, *others, *results[len(self.differentiable) :]

    def back(self, kept: Sequence[Any], grads: Sequence[Maybe], wanted: Sequence[bool]) -> Sequence[Maybe]:
        (current, *others), words = kept[: len(wanted)], kept[len(wanted) :]
        g_outputs = grads[: len(self.differentiable)]
        like = next(g for g in g_outputs if g is not None)
        layers = _padded(self.kinds, others, like.dtype)
        arriving = _all_arriving(self.spikes, like if current is None else current, words)
        g_input = torch.empty(self.shape, dtype=like.dtype) if wanted[0] else None
        block = _block(layers, self.shape[0], least=_RECURRENT_BLOCK)
        split, asked = _split(self.kinds, others), _split(self.kinds, wanted[1:])
        return g_input, *adjoint(split, layers, arriving, g_outputs, asked, g_input, block)


def _split(kinds: Sequence[Kind], values: Sequence[Any]) -> list[list[Any]]:
    """What belongs to the tensors of each layer, from one list."""
    left = iter(values)
    return [list(islice(left, PATHS + kind.form.constants)) for kind in kinds]


def _padded(kinds: Sequence[Kind], tensors: Sequence[Maybe], dtype: torch.dtype) -> list[Padded]:
    return [Padded.of(kind, own, dtype) for kind, own in zip(kinds, _split(kinds, tensors), strict=True)]


def _integrate(layers: Sequence[Padded], spikes: SpikeBatch | None, x: Tensor) -> tuple[Tensor, ...]:
    """The output of each section, and the spikes of all populations that spike, as bits."""
    steps, samples = x.shape[:2]
    last = layers[-1]
    words = [torch.empty(samples, steps, layer.kind.words, dtype=torch.int64) for layer in layers if layer.kind.spiking]
    potential = None if last.kind.spiking else x.new_empty(steps, samples, last.kind.sections[0])
    arriving = _all_arriving(spikes, x, words)
    leaving = [*(spiking.words for spiking in arriving[1:]), np.empty(0, np.uint64)]

    def work(blocks: Blocks) -> None:
        scratch: Tensor | None = None
        for first, stop in blocks:
            for layer, source, target in zip(layers, arriving, leaving, strict=False):
                if potential is None or layer is not last:
                    layer.integrate(source, steps, first, stop, target)
                    continue
                if scratch is None:
                    scratch = x.new_empty(stop - first, steps, layer.width)
                record = (scratch.numpy().reshape(-1),)
                layer.integrate(source, steps, first, stop, target, record)
                there = torch.from_numpy(potential.numpy())  # to be written in any thread, in inference mode too
                there[:, first:stop] = scratch[: stop - first, :, : there.shape[2]].transpose(0, 1)

    over_samples(work, samples, _block(layers, steps, least=1))
    return *([potential] if potential is not None else _dense(last.kind, words[-1], x.dtype)), *words


def _dense(kind: Kind, words: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """The spikes of each section."""
    parts = words.split([words_of(n) for n in kind.sections], 2)  # type: ignore[no-untyped-call]
    return [SpikeBatch(w.contiguous(), n).dense(dtype) for w, n in zip(parts, kind.sections, strict=True)]


def _all_arriving(spikes: SpikeBatch | None, x: Tensor, words: Sequence[Tensor]) -> list[Arriving]:
    """What arrives at each layer, and what leaves the last if it spikes."""
    first = Arriving.dense(x) if spikes is None else Arriving.spikes(spikes, x.dtype)
    return [first, *(Arriving.spikes(SpikeBatch(w, 0), x.dtype) for w in words)]


def _block(layers: Sequence[Padded], steps: int, least: int) -> int:
    """How many samples go through the layers at a time, with recurrence at least so many."""
    size = max(layer.width for layer in layers) * steps * layers[0].constants.itemsize
    return max(1, _CACHE // size, least if any(layer.kind.recurrent for layer in layers) else 1)
