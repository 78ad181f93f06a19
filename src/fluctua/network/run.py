"""How a user's modules are called and observed, and how their state is copied."""

import copy
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

if TYPE_CHECKING:
    from fluctua.network.facts import Population

Forward = Callable[[nn.Module, Any], Any]
Time = Literal["first", "second", "step", "merged"]


def plain_call(model: nn.Module, batch: Any) -> Any:
    """One call with the whole sequence."""
    return model(batch)


@dataclass(frozen=True)
class Shown:
    """A static input `[B, ...]` as the sequence `[T, B, ...]` of equal steps, for models that take sequences."""

    steps: int
    forward: Forward

    def __call__(self, model: nn.Module, batch: Tensor) -> Any:
        """What the model returns."""
        return self.forward(model, batch.expand(self.steps, *batch.shape))


def modules_of(model: nn.Module) -> Iterator[nn.Module]:
    """As `model.modules()`."""
    return nn.Module.modules(model)


def named_modules_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """As `model.named_modules()`."""
    named: Iterator[tuple[str, nn.Module]] = nn.Module.named_modules(model)
    return named


def parameters_of(model: nn.Module, recurse: bool = True) -> Iterator[nn.Parameter]:
    """As `model.parameters()`."""
    return nn.Module.parameters(model, recurse)


def named_parameters_of(model: nn.Module, recurse: bool = True) -> Iterator[tuple[str, nn.Parameter]]:
    """As `model.named_parameters()`."""
    return nn.Module.named_parameters(model, recurse=recurse)


def tensors_in(output: Any) -> Iterator[Tensor]:
    """The tensors in what a module returns."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        yield from tensors_in(list(output.values()))
    elif isinstance(output, list | tuple):
        for item in output:
            yield from tensors_in(item)


def versions(output: Any) -> list[int]:
    """How often each tensor in what a module returns has been changed in place."""
    return [tensor._version for tensor in tensors_in(output)]


@dataclass(frozen=True)
class Layout:
    """The calling convention of a neuron module; a framework that passes currents differently subclasses it.

    Attributes:
        time: "first" for a call with the whole sequence `[T, B, *N]`, "second" for `[B, T, *N]`, "merged" for
            `[B * T, *N]` sample by sample, "step" for one call a time step with `[B, *N]`.
        samples: B of a merged sequence, None if T is known.
        steps: T of a merged sequence, None if B is known.
    """

    time: Time = "first"
    samples: int | None = None
    steps: int | None = None

    @property
    def stepwise(self) -> bool:
        """Whether the module is called once for each time step."""
        return self.time == "step"

    def currents(self, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], most: int) -> tuple[Tensor, ...]:
        """The input currents of one call, as given: its leading tensors, at most `most`."""
        currents: list[Tensor] = []
        for argument in args or tuple(kwargs.values()):
            if not isinstance(argument, Tensor) or len(currents) == most:
                break
            currents.append(argument)
        return tuple(currents)

    def spikes(self, module: Any, output: Any) -> Tensor:
        """The module's spikes in one call, as returned: the first tensor of its output."""
        if (found := next(tensors_in(output), None)) is None:
            raise ValueError(f"{type(module).__name__} returned no tensor that could be its spikes")
        return found

    def answer(self, module: Any, output: Any, spikes: Tensor) -> Any:
        """What the module returns instead of `output` if its spikes in that call are `spikes`."""
        remaining = iter([spikes])
        return mapped(output, lambda x: next(remaining, x))

    def as_sequence(self, x: Tensor) -> Tensor:
        """A call's argument or result as `[t, B, *N]`, with t = 1 for a step; a view."""
        if self.time == "step":
            return x.unsqueeze(0)
        if self.time == "second":
            return x.transpose(0, 1)
        if self.time == "merged":
            self._check_merged(len(x))
            steps = -1 if self.samples else self.steps or 1
            split: Tensor = x.unflatten(0, (self.samples or -1, steps))  # type: ignore[no-untyped-call]
            return split.transpose(0, 1)
        return x

    def _check_merged(self, frames: int) -> None:
        known, unit = (self.samples, "samples") if self.samples else (self.steps or 1, "steps")
        if frames % known:
            raise ValueError(
                f"{frames} frames in one axis are no trials of {known} {unit}: set the number of {unit} in the neurons "
                "to that of the batch"
            )

    def as_called(self, x: Tensor) -> Tensor:
        """The inverse: `[t, B, *N]` -> a call's argument or result."""
        if self.time == "step":
            return x.squeeze(0)
        if self.time == "second":
            return x.transpose(0, 1)
        if self.time == "merged":
            return x.transpose(0, 1).flatten(0, 1)
        return x


def in_one_call(module: Any) -> Layout:
    """The layout of a module that is called once with the whole sequence `[T, B, *N]`."""
    return Layout()


def mapped(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A module's output with every tensor in it changed."""
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, tuple | list):
        items = [mapped(item, change) for item in output]
        return output._make(items) if hasattr(output, "_make") else type(output)(items)
    if isinstance(output, dict):
        return type(output)((key, mapped(item, change)) for key, item in output.items())
    return output


# -- copies -----------------------------------------------------------------------------------------------------------

PLAIN = frozenset({bool, int, float, str, type(None)})
"""Immutable types, which most values in modules have."""


def stacked(outputs: list[Any]) -> Any:
    """The outputs of all steps as one, every tensor of them stacked."""
    columns = iter([torch.stack(column) for column in zip(*map(tensors_in, outputs), strict=True)])
    return mapped(outputs[0], lambda x: next(columns))


class Copies:
    """Copies of values that can be changed in place: tensors, random number generators, and containers of them.

    Originals that are the same object, or share memory, have copies that do so too. Parameters, and tensors that share
    the memory of one, are not copied. If the originals show only a part of a memory, such as a batch of a whole data
    set, only that part is copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self._objects: dict[int, Any] = {}
        self._storages: dict[int, torch.UntypedStorage] = {}
        self._parameters = {memory_of(p) for p in parameters_of(model)} - {0}
        self.pairs: list[tuple[Any, Any]] = []  # copies of tensors and generators, and their originals
        self._views: dict[int, set[Any]] = {}  # by memory: the views of it
        self._parts: dict[int, Tensor | None] = {}  # by memory: a copy of its only visible part

    def of(self, value: Any) -> Any:
        """The value's copy, or the value itself if it is immutable; values that share memory must come together."""
        for tensor in (part for part in within(value, set()) if isinstance(part, Tensor) and memory_of(part)):
            view = tensor.storage_offset(), tensor.size(), tensor.stride()
            self._views.setdefault(memory_of(tensor), set()).add(view)
        return self._of(value)

    def _of(self, value: Any) -> Any:
        if type(value) in PLAIN or isinstance(value, nn.Parameter):
            return value
        if isinstance(value, tuple):
            items = [self._of(item) for item in value]
            changed = any(new is not old for new, old in zip(items, value, strict=True))
            return getattr(value, "_make", type(value))(items) if changed else value
        if id(value) not in self._objects:
            self._copy(value)
        return self._objects.get(id(value), value)

    def _copy(self, value: Any) -> None:
        if isinstance(value, Tensor | torch.Generator):
            new = self._tensor(value) if isinstance(value, Tensor) else value.clone_state()
            self._objects[id(value)] = new
            self.pairs += [(new, value)] if new is not value else []
        elif isinstance(value, dict | list | deque | set):
            self._objects[id(value)] = twin = copy.copy(value)  # before its contents, which may refer to it
            if not isinstance(twin, set):
                for key, item in list(twin.items() if isinstance(twin, dict) else enumerate(twin)):
                    if type(item) not in PLAIN:
                        twin[key] = self._of(item)

    def _tensor(self, tensor: Tensor) -> Tensor:
        memory = memory_of(tensor)
        if memory in self._parameters:
            return tensor
        if memory == 0:
            return tensor.detach().clone()
        if memory not in self._parts and memory not in self._storages and len(self._views[memory]) == 1:
            self._parts[memory] = _part(tensor)
        if (part := self._parts.get(memory)) is not None:
            return part.detach()
        if memory not in self._storages:
            self._storages[memory] = tensor.untyped_storage().clone()  # type: ignore[no-untyped-call]
        new = tensor.new_empty(0)  # whatever types torch is told to give meanwhile
        return new.set_(self._storages[memory], tensor.storage_offset(), tensor.size(), tensor.stride())  # type: ignore[call-overload]


def within(value: Any, seen: set[int]) -> Iterator[Any]:
    """A value and all that it contains, however deep, except plain values; each container once."""
    if not isinstance(value, dict | list | deque | tuple | set):
        yield value
    elif id(value) not in seen:
        seen.add(id(value))
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            if type(item) not in PLAIN:
                yield from within(item, seen)


def _part(tensor: Tensor) -> Tensor | None:
    """A copy of a tensor without the rest of its memory; None if it is all of it, or overlaps itself in other ways than
    by axes that repeat one entry."""
    compact = tensor.detach()
    for axis, (size, stride) in enumerate(zip(tensor.size(), tensor.stride(), strict=True)):
        compact = compact.narrow(axis, 0, 1) if stride == 0 and size > 1 else compact
    reach = 0
    for stride, size in sorted(zip(compact.stride(), compact.size(), strict=True)):
        if size > 1 and stride <= reach:
            return None
        reach += stride * (size - 1)
    if compact.numel() * compact.element_size() >= tensor.untyped_storage().nbytes():
        return None
    return compact.clone().expand(tensor.size())


def memory_of(tensor: Tensor) -> int:
    """Address of the tensor's memory; 0 if it has no ordinary memory (sparse, lazy, empty)."""
    ordinary = tensor.layout == torch.strided and not nn.parameter.is_lazy(tensor)
    return tensor.untyped_storage().data_ptr() if ordinary else 0


def contents_of(value: Any, owner: Any = None) -> Any:
    """What a neuron module consists of: equal for modules that are alike, which then are read once."""
    if value is owner and value is not None:
        return "itself"
    if isinstance(value, Tensor):
        if value.numel() < 2:
            return value.dtype, value.device, str(value.tolist())
        return id(value), value.is_inference() or value._version
    inside: Any = value if isinstance(value, list | tuple | set) else ()
    kind: Any = type(value)
    if isinstance(value, nn.Module | dict):
        inside = (vars(value) if isinstance(value, nn.Module) else value).items()
    elif isinstance(value, MethodType):
        kind, inside = value.__func__, [value.__self__]
    elif isinstance(value, FunctionType):
        kind, inside = value.__code__, [value.__defaults__, *(cell.cell_contents for cell in value.__closure__ or ())]
    elif not isinstance(value, list | tuple | set):
        return value if isinstance(value, Hashable) else id(value)
    return kind, *(contents_of(part, value if owner is None else owner) for part in inside)


def heard(population: "Population", then: Callable[[str, tuple[Tensor, ...]], None]) -> RemovableHandle:
    """A hook that passes a population's name, and the currents `[T, B, *N]` of its module once the last has arrived."""
    layout, parts = population.layout, list[tuple[Tensor, ...]]()

    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = layout.currents(module, args, kwargs, population.most)
        parts.append(tuple(layout.as_sequence(current) for current in given))
        if len(parts) == population.calls:
            joined = tuple(_joined(steps) for steps in zip(*parts, strict=True))
            parts.clear()
            then(population.name, joined)

    return population.module.register_forward_pre_hook(before, with_kwargs=True)


def emitted(population: "Population", then: Callable[[str, Tensor], None]) -> RemovableHandle:
    """A hook that passes a population's name, and its spikes `[T, B, *N]` once it has emitted the last."""
    layout, calls, parts = population.emission, population.emissions, list[Tensor]()

    def after(module: Any, args: Any, output: Any) -> None:
        parts.append(layout.as_sequence(layout.spikes(module, output)))
        if len(parts) == calls:
            joined = _joined(tuple(parts))
            parts.clear()
            then(population.name, joined)

    return population.emitter.register_forward_hook(after)


@contextmanager
def recorded(populations: "Sequence[Population]") -> Iterator[dict[str, Tensor]]:
    """The spikes `[T, B, *N]` of populations that run inside the block, by name, with their graph if they have one.

    A graded spike counts as one.
    """
    spikes, neurons = dict[str, Tensor](), {p.name: p.neuron for p in populations}

    def keep(name: str, output: Tensor) -> None:
        spikes[name] = neurons[name].counted(output)

    with hooked([emitted(p, keep) for p in populations]):
        yield spikes


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove the hooks at the end of the block."""
    handles = list(handles)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _joined(parts: tuple[Tensor, ...]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
