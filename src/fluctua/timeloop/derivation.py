"""What a fused loop of a neuron computes and keeps, derived from the neuron's step; and both ways through it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fluctua.timeloop.contract import Dynamics
from fluctua.timeloop.expressions import Expression, Value, cheapest_records, replaced
from fluctua.timeloop.steps import Step
from fluctua.timeloop.tracing import Traced, traced

Maybe = Tensor | None


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
        kind: what there is to do.
        traced: the step.
        gradients: with respect to inputs, state and the constants that are wanted.
        read: values of the step, in single or double precision.
        own: those of them that nobody else keeps.
        halves: what is recorded in bfloat16, and read.
        separate: whether the potential is not the output itself.
        places: of what is read, among the inputs, the potential and what is recorded.
    """

    kind: Kind
    traced: Traced
    gradients: tuple[Value, ...]
    read: tuple[Expression, ...]
    own: tuple[Expression, ...]
    halves: tuple[Value, ...]
    separate: bool
    places: tuple[int, ...]

    @classmethod
    def of(cls, kind: Kind) -> "Plan":
        """The cheapest; potential and inputs are there anyway."""
        t = traced(kind.step, kind.inputs, kind.states, kind.constants)
        roots, separate = t.roots(kind.wanted), t.output is not t.potential
        if not kind.trains:
            return cls(kind, t, tuple(roots), (), (), (), separate, ())
        half, inputs, halves = t.leaf("half", 0), [t.leaf("input", k) for k in range(kind.inputs)], tuple[Value, ...]()
        if kind.compact and isinstance(t.distance, Expression):
            halves = (t.distance,)
            known: dict[Expression, Value] = {t.distance: half}
            if t.distance.op == "sub" and t.distance.args[0] is t.potential:
                known[t.potential] = t.graph("add", half, t.distance.args[1])
            roots = replaced(t.graph, roots, known)
        costs = {t.potential: 1.0 if halves else 0.5, **dict.fromkeys([] if kind.recurrent else inputs, 0.6)}
        read = cheapest_records(roots, lambda e: costs.get(e, 1.0))
        own = tuple(e for e in read if e not in costs)
        there = [*inputs, t.potential, *own]
        return cls(kind, t, tuple(roots), read, own, halves, separate, tuple(there.index(e) for e in read))


@lru_cache(maxsize=256)
def plan_of(kind: Kind) -> Plan:
    """The plan of a kind."""
    return Plan.of(kind)


def integrate(tensors: Sequence[Tensor], kind: Kind) -> list[Tensor]:
    """The way forth.

    Args:
        tensors: inputs `[T, B, *N]`, state `[B, *N]` and constants.
        kind: what there is to do.

    Returns:
        Output, potential unless it is the output, final state, and what is recorded for the way back.
    """
    n, end = kind.inputs, kind.inputs + kind.states
    results: list[Tensor] = _passes(kind).integrate(tensors[:n], tensors[n:end], tensors[end:], plan_of(kind))
    return results


def adjoint(
    g_output: Maybe,
    g_state: Sequence[Maybe],
    saved: Sequence[Tensor],
    shape: torch.Size,
    wants_inputs: bool,
    kind: Kind,
) -> list[Maybe]:
    """The way back.

    Args:
        g_output: gradient with respect to the output, None for zero.
        g_state: with respect to the final state, likewise.
        saved: constants, then what `to_be_saved` gave.
        shape: of an input.
        wants_inputs: whether gradients with respect to the inputs are asked for.
        kind: of the way forth.

    Returns:
        Gradients with respect to inputs, state and constants.
    """
    n = kind.constants + len(plan_of(kind).read)
    constants, read, halves = saved[: kind.constants], saved[kind.constants : n], saved[n:]
    like = constants[0]
    g_output = like.new_zeros(()).expand(shape) if g_output is None else g_output
    ends = [like.new_zeros(shape[1:]) if g is None else g for g in g_state]
    found: list[Maybe] = _passes(kind).adjoint(g_output, ends, constants, read, halves, wants_inputs, plan_of(kind))
    return found


def to_be_saved(tensors: Sequence[Tensor], results: Sequence[Tensor], kind: Kind) -> list[Tensor]:
    """Constants, and what the plan reads on the way back, of the arguments and results of `integrate`."""
    plan, n = plan_of(kind), kind.inputs
    first = 1 + plan.separate + kind.states
    there = [*tensors[:n], results[int(plan.separate)], *results[first:]]
    halves = results[first + len(plan.own) :]
    return [*tensors[n + kind.states :], *(there[k] for k in plan.places), *halves]


def _passes(kind: Kind) -> Any:
    """The module with both ways, which is imported when it is first needed."""
    return import_module(_PASSES[kind.device])


_PASSES = {"cpu": "fluctua.timeloop.cpu_loop", "gpu": "fluctua.timeloop.gpu_loop"}
