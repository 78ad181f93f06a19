"""The numbers of an excitatory and an inhibitory population as the kernels of `events_exc_inh_kernels.py` take them."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fluctua.spikes.bits import words_of
from fluctua.timeloop import events_exc_inh_kernels as kernels
from fluctua.timeloop.events_layout import Array, Arriving, nothing
from fluctua.timeloop.surrogates import Surrogate


class Kind(NamedTuple):
    """What there is to do, numbers apart."""

    exc: int
    inh: int
    hard: bool
    differentiable: bool
    surrogate: Surrogate

    @property
    def width(self) -> int:
        """Size of a row, in which each population takes whole words."""
        return 64 * (words_of(self.exc) + words_of(self.inh))

    def parts(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The columns of the excitatory and of the inhibitory population in rows `[..., width]`."""
        return rows[..., : self.exc], rows.narrow(-1, 64 * words_of(self.exc), self.inh)


class Numbers(NamedTuple):
    """Tensors of the two populations, n neurons in all, the excitatory ones first.

    Attributes:
        weight: `[n, afferents]`, all of which excite, or None where the input current itself is given.
        from_exc: `[n, exc]`, from the spikes of the step before, or None.
        from_inh: `[n, inh]`, likewise; these inhibit.
        decay_mem: `[n]`, as all that follow.
        decay_exc: of the excitatory current.
        decay_inh: of the inhibitory current.
        threshold: has no gradient.
    """

    weight: Tensor | None
    from_exc: Tensor | None
    from_inh: Tensor
    decay_mem: Tensor
    decay_exc: Tensor
    decay_inh: Tensor
    threshold: Tensor


@dataclass(frozen=True, eq=False)
class Padded:
    """Numbers as flat arrays of `kind.width` a row; what there is not has no element."""

    kind: Kind
    units: int
    weight: Array
    from_exc: Array
    from_inh: Array
    decay_mem: Array
    gain: Array
    decay_exc: Array
    decay_inh: Array
    threshold: Array

    @classmethod
    def of(cls, kind: Kind, numbers: Numbers, dtype: torch.dtype) -> "Padded":
        """Copies in the kernels' layout: a weight has one row for each afferent."""

        def rows(values: Tensor | None, padding: float = 0.0) -> Array:
            if values is None:
                return nothing(dtype)
            out = torch.full((*values.shape[1:], kind.width), padding, dtype=dtype)
            exc, inh = kind.parts(out)
            exc.copy_(values.detach()[: kind.exc].t())
            inh.copy_(values.detach()[kind.exc :].t())
            return out.numpy().reshape(-1)

        weight, from_exc, from_inh, a, b_exc, b_inh, theta = numbers
        return cls(
            kind,
            0 if weight is None else weight.shape[1],
            rows(weight),
            rows(from_exc),
            rows(from_inh),
            rows(a),
            rows(1 - a),
            rows(b_exc),
            rows(b_inh),
            rows(theta, torch.finfo(dtype).max),
        )

    def integrate(
        self, arriving: Arriving, steps: int, first: int, stop: int, states: tuple[Array, ...], words: tuple[Array, ...]
    ) -> None:
        """Run the samples `first:stop`: see `events_exc_inh_kernels.integrate`."""
        k, a = self.kind, arriving
        kernels.integrate(
            *(a.words, a.values, a.starts, self.units, self.weight, a.current, a.step_stride, a.sample_stride),
            *(k.exc, k.inh, self.from_exc, self.from_inh),
            *(self.decay_mem, self.gain, self.decay_exc, self.decay_inh, self.threshold, k.hard),
            *(steps, first, stop, *states, *words),
        )
