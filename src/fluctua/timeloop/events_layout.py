"""A fused layer's numbers as the kernels of `events_kernels.py` take them: flat arrays, padded to whole vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluctua.spikes.batch import SpikeBatch, flat
from fluctua.spikes.bits import words_of
from fluctua.timeloop import events_kernels as kernels
from fluctua.timeloop.contract import LoopParameters
from fluctua.timeloop.events_adaptive_kernels import Adapting
from fluctua.timeloop.surrogates import Surrogate

Array = NDArray[Any]


class Kind(NamedTuple):
    """What there is to do in a layer, numbers apart."""

    neurons: int
    initial: float
    exponential: bool
    spiking: bool
    hard: bool
    differentiable: bool
    surrogate: Surrogate

    @classmethod
    def of(cls, neurons: int, p: LoopParameters, initial: float) -> "Kind":
        """Of a population of so many neurons; an option without effect is off."""
        hard = p.spiking and p.reset == "zero"
        differentiable = p.spiking and p.differentiable_reset
        return cls(neurons, initial, p.decay_syn is not None, p.spiking, hard, differentiable, p.surrogate)


class Numbers(NamedTuple):
    """The tensors of a layer; see `events_layers.Layer`."""

    weight: Tensor | None
    bias: Tensor | None
    recurrent: Tensor | None
    recurrent_bias: Tensor | None
    decay_mem: Tensor
    decay_syn: Tensor | None
    threshold: Tensor | None
    decay_adapt: Tensor | None
    strength: Tensor | None
    coupling: Tensor | None

    @classmethod
    def of_all(cls, tensors: Sequence[Tensor | None]) -> "list[Numbers]":
        """Those of all layers, from one list."""
        n = len(cls._fields)
        return [cls(*tensors[k : k + n]) for k in range(0, len(tensors), n)]  # type: ignore[arg-type]


class Arriving(NamedTuple):
    """What arrives at a layer: spikes as words, values and starts, or a current as memory and two strides."""

    words: Array
    values: Array
    starts: Array
    current: Array
    step_stride: int
    sample_stride: int

    @classmethod
    def spikes(cls, batch: SpikeBatch, dtype: torch.dtype) -> "Arriving":
        """Spikes of a batch, with values of this type."""
        return cls(*batch.arrays(dtype), nothing(dtype), 0, 0)

    @classmethod
    def dense(cls, current: Tensor) -> "Arriving":
        """An input current `[T, B, n]`, in any layout."""
        x = current if current.stride(2) == 1 else current.contiguous()
        return cls(np.empty(0, np.uint64), nothing(x.dtype), np.empty(0, np.int64), flat(x), x.stride(0), x.stride(1))


@dataclass(frozen=True, eq=False)
class Padded:
    """A layer's numbers as flat arrays of `width` a row; what there is not has no element."""

    kind: Kind
    units: int
    weight: Array
    bias: Array
    recurrent: Array
    recurrent_bias: Array
    decay_mem: Array
    gain: Array
    decay_syn: Array
    threshold: Array
    adaptation: Adapting | None

    @classmethod
    def of(cls, kind: Kind, numbers: Numbers, dtype: torch.dtype) -> "Padded":
        """Copies in the kernels' layout: a weight has one row for each afferent."""
        width = kernels.width_of(kind.neurons, nothing(dtype).dtype)

        def row(values: Tensor | None, padding: float = 0.0) -> Array:
            out = torch.full((width,), padding, dtype=dtype)
            if values is not None:
                out[: kind.neurons] = values.detach()
            return out.numpy()

        def rows(matrix: Tensor | None) -> Array:
            if matrix is None:
                return nothing(dtype)
            out = torch.zeros(matrix.shape[1], width, dtype=dtype)
            out[:, : kind.neurons] = matrix.detach().t()
            return out.numpy().reshape(-1)

        weight, bias, recurrent, recurrent_bias, a, b, theta, rho, beta, c = numbers
        adaptation = Adapting(row(rho), row(beta), nothing(dtype) if c is None else row(c))
        return cls(
            kind,
            0 if weight is None else weight.shape[1],
            rows(weight),
            row(bias),
            rows(recurrent),
            row(recurrent_bias),
            row(a),
            row(1 - a),
            row(b),
            row(theta, torch.finfo(dtype).max),
            None if rho is None else adaptation,
        )

    @property
    def width(self) -> int:
        """Size of a row."""
        return int(self.decay_mem.size)

    @property
    def words(self) -> int:
        """Number of words that hold the spikes of one step."""
        return words_of(self.kind.neurons)

    def integrate(
        self,
        arriving: Arriving,
        steps: int,
        first: int,
        stop: int,
        potential: Array,
        drive: Array,
        levels: Array,
        words: Array,
    ) -> None:
        """Run the samples `first:stop`: see `events_kernels.integrate`."""
        k, a = self.kind, arriving
        kernels.integrate(
            *(a.words, a.values, a.starts, self.units, self.weight, self.bias),
            *(a.current, a.step_stride, a.sample_stride, self.recurrent, self.recurrent_bias),
            *(self.decay_mem, self.gain, self.decay_syn, self.threshold, self.adaptation),
            *(k.initial, k.exponential, k.spiking, k.hard),
            *(steps, k.neurons, first, stop, potential, drive, levels, words),
        )


def nothing(dtype: torch.dtype) -> Array:
    """An array without elements."""
    array: Array = torch.empty(0, dtype=dtype).numpy()
    return array
