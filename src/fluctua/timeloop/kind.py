"""What there is to do in a time loop, numbers apart: which equations, and what backward needs of a forward pass."""

from collections.abc import Sequence
from typing import NamedTuple

from fluctua.timeloop.contract import LoopParameters
from fluctua.timeloop.surrogates import shape_of

NONE, THRESHOLD, CURRENT = range(3)  # what adapts


class Kind(NamedTuple):
    """What there is to do, numbers apart; an option without effect is off, which saves compiling.

    `shape`, `slope` and `height` are the surrogate's; `trains` says whether a backward pass may follow, `learns`
    whether one that needs the gradients of constants, `compact` whether the potential is kept in bfloat16 for it.
    """

    exponential: bool
    spiking: bool
    hard: bool
    differentiable: bool
    adapts: int
    shape: int
    slope: float
    height: float
    trains: bool
    learns: bool
    compact: bool

    @classmethod
    def of(cls, p: LoopParameters, trains: bool, compact: bool = False) -> "Kind":
        """The kind of a population."""
        spiking, adaptation = p.spiking, p.adaptation if p.spiking else None
        adapts = NONE if adaptation is None else THRESHOLD if adaptation.coupling is None else CURRENT
        surrogate = shape_of(p.surrogate) if spiking else (0, 0.0, 0.0)
        learns = trains and any(c is not None and c.requires_grad for c in p.constants)
        hard, differentiable = spiking and p.reset == "zero", spiking and p.differentiable_reset
        exponential, compact = p.decay_syn is not None, compact and spiking and trains
        return cls(exponential, spiking, hard, differentiable, adapts, *surrogate, trains, learns, compact)

    @classmethod
    def unpacked(cls, numbers: Sequence[float]) -> "Kind":
        """Back from the numbers that `packed` makes of it."""
        kinds = (bool, bool, bool, bool, int, int, float, float, bool, bool, bool)
        return cls(*(kind(number) for kind, number in zip(kinds, numbers, strict=True)))

    @property
    def packed(self) -> list[float]:
        """As numbers, which is what an operator of torch takes."""
        return [float(value) for value in self]

    @property
    def equations(self) -> tuple[bool, bool, bool, int]:
        """What a kernel needs to know of the forward loop."""
        return self.exponential, self.spiking, self.hard, self.adapts

    @property
    def needs_drive(self) -> bool:
        """Whether the adjoint needs what entered the potential."""
        return self.trains and ((self.learns and self.exponential) or self.is_lost)

    @property
    def needs_adaptation(self) -> bool:
        """Whether the adjoint needs the adaptation of each step."""
        return self.trains and bool(self.adapts) and (self.learns or self.adapts == THRESHOLD or self.is_lost)

    @property
    def is_lost(self) -> bool:
        """Whether a gradient flows to what a reset takes away."""
        return self.hard and self.differentiable
