"""What a fused loop computes and keeps, derived from the neuron's step; and its forward and backward passes."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.grad import conv1d_weight, conv2d_weight

from fluctua.timeloop.contract import Dynamics, Form, Maybe, Operation, Step, constant_when_compiled
from fluctua.timeloop.emitting import Pass, Passed
from fluctua.timeloop.expressions import Expression, Value, cheapest_records, replaced
from fluctua.timeloop.tracing import Traced, traced, untraceable

Device = Literal["cpu", "gpu"]


class Kind(NamedTuple):
    """The kind of a loop, without its numbers.

    `wanted` are the indices of the constants whose gradients are needed, `trains` says whether a backward pass may
    follow, `compact` whether it gets the distance from threshold in bfloat16. Recurrent input is stored nowhere else;
    `recurrent` is the number of units, the first ones, that reach the first input with it; the others reach the last.
    """

    device: Device
    form: Form
    wanted: tuple[int, ...]
    trains: bool
    compact: bool
    recurrent: int = 0

    @classmethod
    def of(cls, device: Device, dynamics: Dynamics, trains: bool, compact: bool = False, recurrent: int = 0) -> "Kind":
        """The kind of a population, on a device."""
        wanted = tuple(k for k, c in enumerate(dynamics.constants) if trains and c.requires_grad)
        return cls(device, dynamics.form, wanted, trains, compact and trains and dynamics.spiking, recurrent)

    def parts(self, tensors: Sequence[Any]) -> list[list[Any]]:
        """Inputs, state, constants, and the recurrent weight and bias, if any."""
        left, (_, *counts) = iter(tensors), self.form
        return [*(list(islice(left, count)) for count in counts), list(left)]


@dataclass(frozen=True, eq=False)
class Plan:
    """What backward reads of each step, and so what forward records.

    Attributes:
        traced: the step.
        forth: the forward pass; it writes the output, the potential unless it is the output, and the records.
        back: the backward pass.
        places: where its arrays come from: the inputs, the potential or the records.
    """

    traced: Traced
    forth: Pass
    back: Pass
    places: tuple[int, ...]

    @classmethod
    def of(cls, kind: Kind) -> "Plan":
        """The cheapest plan; potential and inputs are stored anyway."""
        t, n = traced(*kind.form), kind.form.inputs
        roots, read, inputs = t.roots(kind.wanted), tuple[Expression, ...](), t.leaves("input", n)
        halves, written = tuple[Expression, ...](), tuple[Value, ...]()
        if kind.compact and isinstance(t.distance, Expression):
            halves, written = t.leaves("half", 1), (t.distance,)
            known: dict[Expression, Value] = {t.distance: halves[0]}
            if t.distance.op == "sub" and t.distance.args[0] is t.potential:
                known[t.potential] = t.graph("add", halves[0], t.distance.args[1])
            roots = replaced(t.graph, roots, known)
        costs = {t.potential: 1.0 if halves else 0.5, **dict.fromkeys(() if kind.recurrent else inputs, 0.6)}
        if kind.trains:
            read = cheapest_records(roots, lambda e: costs.get(e, 1.0))
        own = tuple(e for e in read if e not in costs)
        there = [*([None] * n if kind.recurrent else inputs), t.potential, *own, *halves]
        outputs = (t.output, t.potential) if t.separate else (t.output,)
        read = *read, *halves
        forth, back = Pass.onward(t, (*outputs, *own, *written), len(halves)), Pass.back(t, roots, read, n)
        return cls(t, forth, back, tuple(there.index(e) for e in read))

    @property
    def first(self) -> int:
        """The number of the results of a loop in front of the state."""
        return 1 + self.traced.separate


plan_of = lru_cache(maxsize=256)(Plan.of)
"""The plan of a kind."""


@dataclass(frozen=True)
class Loop(Operation):
    """A fused loop: what there is to do, and the shape of an input."""

    kind: Kind
    shape: torch.Size

    @property
    def called(self) -> str:
        return f"the fused {'recurrent' if self.kind.recurrent else 'time'} loop"

    @property
    def differentiable(self) -> Collection[int]:
        first = plan_of(self.kind).first
        return {0, *range(first, first + self.kind.form.states)}

    def forth(self, tensors: Sequence[Any]) -> list[Tensor]:
        """Output, potential unless it is the output, final state, and what is recorded for the way back.

        Args:
            tensors: inputs `[T, B, *N]`, state `[B, *N]` and constants; of a recurrent kind weight and bias.
        """
        kind, plan = self.kind, plan_of(self.kind)
        inputs, state, constants, heard = kind.parts(tensors)
        passed: Passed = _run(kind, plan.forth, inputs, state, constants, *heard)
        written = passed.written
        return [*written[: plan.first], *(part.clone() for part in passed.state), *written[plan.first :]]

    def kept(self, tensors: Sequence[Any], results: Sequence[Tensor]) -> list[Maybe]:
        plan, (inputs, _, constants, heard) = plan_of(self.kind), self.kind.parts(tensors)
        there = [*inputs, results[plan.first - 1], *results[plan.first + self.kind.form.states :]]
        by_weight = [heard[0], results[0] if heard[0].requires_grad else None] if heard else []
        return [*by_weight, *constants, *(there[k] for k in plan.places)]

    def back(self, kept: Sequence[Any], grads: Sequence[Any], wanted: Sequence[bool]) -> list[Maybe]:
        """See `Operation.back`; what costs little is there though it is not wanted."""
        kind, plan, shape = self.kind, plan_of(self.kind), self.shape
        *_, for_heard = kind.parts(wanted)
        weight, output, *saved = kept if kind.recurrent else (None, None, *kept)
        constants, read = saved[: kind.form.constants], saved[kind.form.constants :]
        g_output, like = grads[0], constants[0]
        g_output = like.new_zeros(()).expand(shape) if g_output is None else g_output
        g_state = grads[plan.first : plan.first + kind.form.states]
        ends = [like.new_zeros(shape[1:]) if g is None else g for g in g_state]
        through = [weight] if kind.recurrent else []
        passed: Passed = _run(kind, plan.back, [g_output, *read], ends, constants, *through)
        found: list[Maybe] = [*passed.written, *(part.clone() for part in passed.state)]
        found += by_constant(over_samples(passed.sums), constants, kind.wanted)
        if kind.recurrent:
            by_input = [passed.written[k][1:].flatten(0, 1) for k in (0, kind.form.inputs - 1)]
            fired = output[:-1].flatten(0, 1) if for_heard[0] else None
            found.append(None if fired is None else _by_weight(weight, fired, by_input, kind.recurrent))
            found.append(by_input[0].sum(0) if for_heard[1] else None)
        return found


def _by_weight(weight: Tensor, fired: Tensor, by_input: Sequence[Tensor], split: int) -> Tensor:
    """The gradient of a recurrent weight, from spikes `[..., *N]` and the gradient of each input that they reach."""
    if weight.ndim == 2:
        return torch.cat([g.T @ own for g, own in zip(by_input, fired.tensor_split([split], 1), strict=True)], 1)
    of_weight = conv1d_weight if weight.ndim == 3 else conv2d_weight
    return of_weight(fired, weight.shape, by_input[0], padding=[k // 2 for k in weight.shape[2:]])  # type: ignore[no-untyped-call,no-any-return,arg-type]


def adjoint_of(t: Traced, wanted: Sequence[int], writes: int) -> Pass:
    """The backward pass if nothing is stored anyway, so that only its number of records counts."""
    roots = t.roots(wanted)
    return Pass.back(t, roots, cheapest_records(roots, lambda e: 1.0), writes)


def over_samples(sums: Tensor) -> Tensor:
    """The sum of `[W, B, *N]` over samples, in double precision."""
    # By NumPy: the order in which torch sums depends on the number of threads.
    return sums.sum(1, dtype=torch.float64) if sums.is_cuda else torch.from_numpy(sums.numpy().sum(1, dtype=np.float64))


def by_constant(sums: Tensor, constants: Sequence[Tensor], wanted: Sequence[int]) -> list[Maybe]:
    """Gradients with respect to all constants, from those of the wanted ones for each neuron `[W, *N]`."""
    found: list[Maybe] = [None] * len(constants)
    for k, total in zip(wanted, sums, strict=True):
        padded = (1,) * (total.ndim - constants[k].ndim) + constants[k].shape
        shared = tuple(axis for axis, size in enumerate(padded) if size == 1)
        summed = total.sum(shared) if total.is_cuda else torch.from_numpy(np.asarray(total.numpy().sum(shared)))
        found[k] = summed.to(constants[k].dtype).reshape(constants[k].shape)
    return found


def gives_spikes(dynamics: Dynamics) -> bool:
    """Whether the output of a neuron is 0 or 1, by a threshold; False if its step cannot be traced."""
    return untraceable(*dynamics.form) is None and traced(*dynamics.form).fired is not None


@constant_when_compiled
def has_potential(step: Step | str, inputs: int, states: int, constants: int) -> bool:
    """Whether the potential of a neuron is not its output itself."""
    return traced(step, inputs, states, constants).separate


def _run(kind: Kind, way: Pass, *tensors: Any) -> Passed:
    """A pass, by the module that runs it, imported when first needed; if recurrent, with weight and bias at the end."""
    run = import_module(_ENGINES[kind.device]).run
    passed: Passed = run(way, *tensors, split=kind.recurrent) if kind.recurrent else run(way, *tensors)
    return passed


_ENGINES = {"cpu": "fluctua.timeloop.cpu_loop", "gpu": "fluctua.timeloop.gpu_loop"}
