"""One traced step of a neuron module of any framework: what it does, and the tensors that it reads."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fluctua.network.adapters.framework import Stepping
from fluctua.network.preserve import preserved
from fluctua.network.run import modules_of
from fluctua.timeloop.contract import Dynamics, Tensors
from fluctua.timeloop.expressions import Expression, walk
from fluctua.timeloop.followed import Followed
from fluctua.timeloop.hoisting import constants_of, hoisted
from fluctua.timeloop.tracing import trace


class Slot(NamedTuple):
    """Where a module keeps a tensor: a parameter, a buffer, an attribute, or an item of a named tuple in one."""

    module: nn.Module
    kind: str
    name: str
    path: tuple[str, ...] = ()

    @property
    def tensor(self) -> Tensor:
        """The tensor there now."""
        found = self._holder[self.name]
        for name in self.path:
            found = getattr(found, name)
        assert isinstance(found, Tensor)
        return found

    def put(self, value: Tensor | float) -> None:
        """Replace it."""
        self._holder[self.name] = _replaced(self._holder.get(self.name), self.path, value)

    @property
    def _holder(self) -> dict[str, Any]:
        attributes = vars(self.module)
        found: dict[str, Any] = attributes[self.kind] if self.kind else attributes
        return found


def _replaced(value: Any, path: Sequence[str], new: Tensor | float) -> Any:
    if not path:
        return new
    return value._replace(**{path[0]: _replaced(getattr(value, path[0]), path[1:], new)})


def slots_of(module: nn.Module, states: Sequence[str]) -> list[Slot]:
    """Where a module keeps numerical tensors that are not its state."""
    return [
        slot
        for m in modules_of(module)
        for kind in ("_parameters", "_buffers", "")
        for name, value in (vars(m)[kind] if kind else vars(m)).items()
        if name not in states
        for slot in _slots(m, kind, name, value)
    ]


def _slots(module: nn.Module, kind: str, name: str, value: Any, path: tuple[str, ...] = ()) -> Iterator[Slot]:
    if isinstance(value, Tensor) and value.is_floating_point():
        yield Slot(module, kind, name, path)
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        for field, item in zip(value._fields, value, strict=True):
            yield from _slots(module, kind, name, item, (*path, field))


@dataclass(frozen=True, eq=False)
class NeuronStep:
    """The step of a neuron module.

    Attributes:
        stepping: how its framework takes a step.
        step: the function.
        states: number of parts of the state.
        slots: where the module keeps what the step reads.
        constants: of the step, in terms of these.
    """

    stepping: Stepping
    step: Followed
    states: int
    slots: Sequence[Slot]
    constants: Sequence[Expression]

    def dynamics(self) -> Dynamics:
        """The step with the tensors that the module has now.

        Raises:
            ValueError: these have several types or devices.
        """
        given = [self.stepping.constant(slot.name, slot.tensor) for slot in self.slots]
        if len({(t.dtype, t.device) for t in given}) > 1:
            given = [t.to(given[0]) for t in given]
        constants = constants_of(self.constants, given or [torch.zeros(())])
        return Dynamics(self.step, constants, self.states, spiking=self.step.traced.fired is not None)

    def widen(self) -> None:
        """Convert what the module keeps outside parameters and buffers to float64."""
        for slot in self.slots:
            if not slot.kind:
                slot.put(slot.tensor.double())


def followed(module: nn.Module, stepping: Stepping, *, as_numbers: bool = False) -> NeuronStep:
    """Follow one step of a neuron module, which stays as it is.

    Constants of one entry are those of the step, or `as_numbers` a part of it, on which compiled code may insist.

    Raises:
        ValueError: it does what no loop over neurons can do.
        UnsupportedNeuronError: its framework does not say how a step is taken.
    """
    names, hearing = stepping.names(module), stepping.hearing(module)
    unheard = int(hearing is not None and hearing.kept)  # the spikes of the step before, the last part of the state
    states = len(names) - unheard
    slots = slots_of(module, (*names, *stepping.options(module)))
    numbers = [slot for slot in slots if as_numbers and slot.tensor.numel() == 1]
    slots = [slot for slot in slots if slot not in numbers]

    def step(inputs: Tensors, state: Tensors, constants: Tensors) -> tuple[Tensor, Tensors]:
        for slot, constant in zip(slots, constants, strict=False):
            slot.put(constant)
        output, after = stepping.step(module, inputs[0], (*state, *[torch.zeros_like(inputs[0])] * unheard))
        return output, after[: len(state)]

    vars(step)["neurons"] = stepping.neurons(module)
    with preserved(module):
        if hearing is not None and isinstance(hearing.back, nn.Module):
            vars(hearing.back)["forward"] = torch.zeros_like  # neurons receive nothing from their own spikes
        for m in modules_of(module):
            for name, value in m._buffers.items():  # an option kept as a tensor
                if value is not None and value.numel() == 1 and not value.is_floating_point():
                    m._buffers[name] = value.item()  # type: ignore[assignment]
        for slot in numbers:
            slot.put(slot.tensor.item())
        traced = trace(step, 1, states, max(1, len(slots)))
    traced, constants = hoisted(traced)
    read = walk(value for value in (traced.output, *traced.state, traced.distance) if value is not None)
    if not any(e.op == "leaf" and e.args[0] == "constant" for e in read):
        slots = []  # other tensors, such as a record of potentials, are no part of the step
    return NeuronStep(stepping, Followed.of(traced), states, slots, constants)
