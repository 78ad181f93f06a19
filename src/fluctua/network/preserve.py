"""Running a user's model without leaving a trace in it."""

import copy
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fluctua.network.modules import modules_of, parameters_of

Forward = Callable[[nn.Module, Any], Any]

# What torch keeps in a module that is not state: hooks must stay where they are, parameters are looked after below.
_MACHINERY = frozenset(name for name in vars(nn.Module()) if "hooks" in name) | {"_parameters"}


def plain_call(model: nn.Module, batch: Any) -> Any:
    """The default `forward`: one call with the whole sequence."""
    return model(batch)


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Leave all as it was but the values of parameters.

    Inside the block the modules have copies of their buffers (batch-norm statistics, states of neurons) and plain
    attributes; at its end they get back the originals, which nothing has touched. `requires_grad` and torch's random
    number generators are put back. Compiled modules run as they are written: hooks must see what happens inside.
    """
    copies = Copies(model)
    originals = [(vars(module), _state(module)) for module in modules_of(model)]
    flags = [(p, p.requires_grad) for p in parameters_of(model)]
    with torch.random.fork_rng(gpus_of(model)):
        try:
            for attributes, state in originals:
                attributes.update((name, copies.of(value)) for name, value in state.items())
            for module in modules_of(model):
                _run_as_written(module)
                _prepare(module)
            yield
        finally:
            for attributes, state in originals:
                for name in attributes.keys() - _MACHINERY:
                    del attributes[name]
                attributes.update(state)
            for parameter, flag in flags:
                parameter.requires_grad_(flag)


def gpus_of(model: nn.Module) -> list[int]:
    """The CUDA devices that its parameters lie on."""
    return sorted({p.device.index for p in parameters_of(model) if p.is_cuda})


@contextmanager
def only_requiring_grad(model: nn.Module, tensors: list[Tensor] | None) -> Iterator[None]:
    """Gradients enabled for exactly these parameters inside the block (None: for all of floating point)."""
    flags = [(p, p.requires_grad) for p in parameters_of(model)]
    wanted = None if tensors is None else {id(t) for t in tensors}
    try:
        for p, _ in flags:
            p.requires_grad_(p.is_floating_point() and (wanted is None or id(p) in wanted))
        with torch.enable_grad():
            yield
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)


class Copies:
    """Copies of values that can be changed in place: tensors, generators of random numbers, and containers of them.

    What is one object, or shares its memory, among the originals is so among the copies. Parameters, and tensors that
    share the memory of one, stand for themselves.
    """

    def __init__(self, model: nn.Module) -> None:
        self._objects: dict[int, Any] = {}
        self._storages: dict[int, torch.UntypedStorage] = {}
        self._parameters = {_memory(p) for p in parameters_of(model)} - {0}

    def of(self, value: Any) -> Any:
        """The value's copy, or the value itself if it is of another kind."""
        if isinstance(value, nn.Parameter):
            return value
        if isinstance(value, tuple):
            items = [self.of(item) for item in value]
            changed = any(new is not old for new, old in zip(items, value, strict=True))
            return getattr(value, "_make", type(value))(items) if changed else value
        if id(value) not in self._objects:
            self._copy(value)
        return self._objects.get(id(value), value)

    def _copy(self, value: Any) -> None:
        if isinstance(value, Tensor):
            self._objects[id(value)] = self._tensor(value)
        elif isinstance(value, torch.Generator):
            self._objects[id(value)] = value.clone_state()
        elif isinstance(value, dict | list | deque | set):
            self._objects[id(value)] = twin = copy.copy(value)  # known before its contents, which may lead back to it
            if not isinstance(twin, set):
                for key, item in list(twin.items() if isinstance(twin, dict) else enumerate(twin)):
                    twin[key] = self.of(item)

    def _tensor(self, tensor: Tensor) -> Tensor:
        memory = _memory(tensor)
        if memory in self._parameters:
            return tensor
        if memory == 0:
            return tensor.detach().clone()
        if memory not in self._storages:
            self._storages[memory] = tensor.untyped_storage().clone()  # type: ignore[no-untyped-call]
        new = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        return new.set_(self._storages[memory], tensor.storage_offset(), tensor.size(), tensor.stride())  # type: ignore[call-overload]


def _memory(tensor: Tensor) -> int:
    """Address of the tensor's memory; 0 where it has none of the ordinary kind (sparse, lazy, empty)."""
    ordinary = tensor.layout == torch.strided and not nn.parameter.is_lazy(tensor)
    return tensor.untyped_storage().data_ptr() if ordinary else 0


def _state(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in _MACHINERY}


def _run_as_written(module: nn.Module) -> None:
    vars(module).pop("_compiled_call_impl", None)  # of `module.compile()`
    if "_orig_mod" in module._modules:  # of `torch.compile(module)`
        vars(module)["forward"] = module._orig_mod


def _prepare(module: nn.Module) -> None:
    from fluctua.network.adapters.registry import framework_of  # which is built on this file

    framework = framework_of(module)
    if framework is not None:
        framework.prepare(module)
