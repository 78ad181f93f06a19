"""What a fused loop of a neuron computes and keeps, derived from the neuron's step."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from fluctua.timeloop.contract import Dynamics
from fluctua.timeloop.expressions import Expression, Value, cheapest_records, replaced
from fluctua.timeloop.steps import Step
from fluctua.timeloop.tracing import Traced, traced


class Kind(NamedTuple):
    """What there is to do, numbers apart.

    `wanted` are the numbers of the constants whose gradients are asked for, `trains` says whether a backward pass may
    follow, `compact` whether the distance from threshold is kept in bfloat16 for it, `recurrent` whether what a neuron
    hears of others is part of its input, which is then nowhere else.
    """

    device: Literal["cpu", "gpu"]
    step: Step | str
    inputs: int
    states: int
    constants: int
    wanted: tuple[int, ...]
    trains: bool
    compact: bool
    recurrent: bool = False

    @classmethod
    def of(
        cls,
        device: Literal["cpu", "gpu"],
        dynamics: Dynamics,
        trains: bool,
        *,
        compact: bool = False,
        recurrent: bool = False,
    ) -> "Kind":
        """The kind of a population, on a device."""
        wanted = tuple(k for k, c in enumerate(dynamics.constants) if trains and c.requires_grad)
        sizes = dynamics.inputs, dynamics.states, len(dynamics.constants)
        return cls(device, dynamics.step, *sizes, wanted, trains, compact and trains and dynamics.spiking, recurrent)


@dataclass(frozen=True, eq=False)
class Plan:
    """What the way back reads of each step, and so what the way forth records.

    Attributes:
        traced: the step.
        gradients: with respect to inputs, state and the constants that are wanted.
        read: values of the step, in single or double precision.
        own: those of them that nobody else keeps.
        compact: whether the distance from threshold is read too, in bfloat16.
    """

    traced: Traced
    gradients: tuple[Value, ...]
    read: tuple[Expression, ...]
    own: tuple[Expression, ...]
    compact: bool

    @property
    def separate(self) -> bool:
        """Whether the potential is not the output itself."""
        return self.traced.output is not self.traced.potential

    @property
    def halves(self) -> tuple[Value, ...]:
        """What is recorded in bfloat16."""
        return (self.traced.distance,) if self.compact and self.traced.distance is not None else ()

    @classmethod
    def of(cls, kind: Kind) -> "Plan":
        """The cheapest; potential and inputs are there anyway."""
        t = traced(kind.step, kind.inputs, kind.states, kind.constants)
        roots = t.roots(kind.wanted)
        if not kind.trains:
            return cls(t, tuple(roots), (), (), False)
        half, inputs = t.leaf("half", 0), [t.leaf("input", k) for k in range(kind.inputs)]
        compact = kind.compact and isinstance(t.distance, Expression)
        if compact and isinstance(t.distance, Expression):
            known: dict[Expression, Value] = {t.distance: half}
            if t.distance.op == "sub" and t.distance.args[0] is t.potential:
                known[t.potential] = t.graph("add", half, t.distance.args[1])
            roots = replaced(t.graph, roots, known)
        costs = {t.potential: 1.0 if compact else 0.5, **dict.fromkeys([] if kind.recurrent else inputs, 0.6)}
        read = cheapest_records(roots, lambda e: costs.get(e, 1.0))
        own = tuple(e for e in read if e not in costs)
        return cls(t, tuple(roots), read, own, compact)


@lru_cache(maxsize=256)
def plan_of(kind: Kind) -> Plan:
    """The plan of a kind."""
    return Plan.of(kind)
