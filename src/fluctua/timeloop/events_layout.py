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
from fluctua.timeloop.events_kernels import Adapting, Inhibition
from fluctua.timeloop.surrogates import Surrogate

Array = NDArray[Any]


class Options(NamedTuple):
    """What there is to do in a layer, numbers apart; `sizes` of two populations where the second inhibits."""

    sizes: tuple[int, ...]
    initial: float
    exponential: bool
    spiking: bool
    hard: bool
    differentiable: bool
    surrogate: Surrogate

    @classmethod
    def of(cls, p: LoopParameters, *sizes: int, initial: float = 0.0, exponential: bool = True) -> "Options":
        """Of so many neurons; an option without effect is off."""
        hard = p.spiking and p.reset == "zero"
        return cls(sizes, initial, exponential, p.spiking, hard, p.spiking and p.differentiable_reset, p.surrogate)

    @property
    def places(self) -> list[tuple[int, int]]:
        """First unit and size of each population: the second begins at a word of its own."""
        return list(zip((0, 64 * words_of(self.sizes[0])), self.sizes, strict=False))

    @property
    def words(self) -> int:
        """Number of words that hold the spikes of one step."""
        return sum(map(words_of, self.sizes))

    def parts(self, rows: Tensor) -> list[Tensor]:
        """The columns of each population in rows `[..., width]`."""
        return [rows.narrow(-1, at, n) for at, n in self.places]


class Numbers(NamedTuple):
    """The tensors of a layer of n neurons in all: see `events_layers.Layer` and `events_layers.run_exc_inh`.

    `decay_slow` is that of the adaptation, or of the inhibitory current.
    """

    weight: Tensor | None
    bias: Tensor | None
    recurrent: Tensor | None
    recurrent_bias: Tensor | None
    inhibitory: Tensor | None
    decay_mem: Tensor
    decay_syn: Tensor | None
    threshold: Tensor | None
    decay_slow: Tensor | None
    strength: Tensor | None = None
    coupling: Tensor | None = None

    @classmethod
    def of_all(cls, tensors: Sequence[Tensor | None]) -> "list[Numbers]":
        """Those of all layers, from one list."""
        n = len(cls._fields)
        return [cls(*tensors[k : k + n]) for k in range(0, len(tensors), n)]  # type: ignore[arg-type]


class Incoming(NamedTuple):
    """What arrives at a layer: spikes as words, values and starts, of `units`, or a current: memory, two strides."""

    words: Array
    values: Array
    starts: Array
    units: int
    current: Array
    step_stride: int = 0
    sample_stride: int = 0

    @classmethod
    def spikes(cls, batch: SpikeBatch, dtype: torch.dtype) -> "Incoming":
        """Spikes of a batch, with values of this type."""
        return cls(*batch.arrays(dtype), batch.units, nothing(dtype))

    @classmethod
    def dense(cls, current: Tensor) -> "Incoming":
        """An input current `[T, B, n]`, in any layout."""
        x = current if current.stride(2) == 1 else current.contiguous()
        none = nothing(x.dtype)
        return cls(np.empty(0, np.uint64), none, np.empty(0, np.int64), 0, flat(x), x.stride(0), x.stride(1))


@dataclass(frozen=True, eq=False)
class Padded:
    """A layer's numbers as flat arrays of `width` a row; what there is not has no element.

    `membrane` is decay and gain of the membrane, decay of the synapse, and threshold.
    """

    options: Options
    weight: Array
    bias: Array
    recurrent: Array
    recurrent_bias: Array
    membrane: tuple[Array, Array, Array, Array]
    adaptation: Adapting | None
    inhibition: Inhibition | None

    @classmethod
    def of(cls, options: Options, numbers: Numbers, dtype: torch.dtype) -> "Padded":
        """Copies in the kernels' layout: a weight has one row for each afferent."""
        n, item = sum(options.sizes), nothing(dtype).dtype
        width = kernels.width_of(n, item) if len(options.sizes) == 1 else 64 * options.words

        def rows(values: Tensor | None, padding: float = 0.0) -> Array:
            """Of a matrix `[n, afferents]`, of constants `[n]` or of one that all neurons share."""
            if values is None:
                return nothing(dtype)
            values = values.detach() if values.ndim == 2 else values.detach().reshape(-1).expand(n)
            out = torch.full((*values.shape[1:], width), padding, dtype=dtype)
            for part, own in zip(options.parts(out), values.split(options.sizes), strict=True):  # type: ignore[no-untyped-call]
                part.copy_(own.t())
            return out.numpy().reshape(-1)

        def row(values: Tensor | None, padding: float = 0.0) -> Array:
            return np.full(width, padding, item) if values is None else rows(values, padding)

        weight, bias, recurrent, recurrent_bias, inhibitory, a, b, theta, slow, strength, coupling = numbers
        inhibition = None if inhibitory is None else Inhibition(row(slow), rows(inhibitory), *options.places[1])
        return cls(
            options,
            rows(weight),
            row(bias),
            rows(recurrent),
            row(recurrent_bias),
            (row(a), row(1 - a), row(b), row(theta, torch.finfo(dtype).max)),
            None if strength is None else Adapting(row(slow), row(strength), rows(coupling)),
            inhibition,
        )

    @property
    def width(self) -> int:
        """Size of a row."""
        return int(self.membrane[0].size)

    @property
    def dtype(self) -> Any:
        """Of the numbers."""
        return self.membrane[0].dtype

    def integrate(
        self, incoming: Incoming, steps: int, first: int, stop: int, records: Sequence[Array], words: Array
    ) -> None:
        """Run the samples `first:stop`: see `events_kernels.integrate`; the records are the three before `words`."""
        o = self.options
        kernels.integrate(
            *(*incoming, self.weight, self.bias, self.recurrent, self.recurrent_bias, *self.membrane),
            *(self.adaptation, self.inhibition, o.initial, o.exponential, o.spiking, o.hard),
            *(steps, o.sizes[0], first, stop, *records, words),
        )


def nothing(dtype: torch.dtype) -> Array:
    """An array without elements."""
    array: Array = torch.empty(0, dtype=dtype).numpy()
    return array
