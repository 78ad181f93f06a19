"""Running a user's model without leaving a trace in it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Forward = Callable[[nn.Module, Any], Any]

# What torch keeps in a module's __dict__ besides the state of the module itself.
_MACHINERY = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


def plain_call(model: nn.Module, batch: Any) -> Any:
    """The default `forward`: one call with the whole sequence."""
    return model(batch)


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Leave all as it was but the values of parameters.

    Buffers (batch-norm statistics, states of neurons), plain attributes, `requires_grad` and torch's random number
    generators are put back at the end of the block.
    """
    snapshots = [(module, _snapshot(module)) for module in model.modules()]
    grads = [(p, p.requires_grad) for p in model.parameters()]
    with torch.random.fork_rng():
        try:
            yield
        finally:
            for parameter, flag in grads:
                parameter.requires_grad_(flag)
            for module, snapshot in snapshots:
                _restore(module, snapshot)


@contextmanager
def only_requiring_grad(model: nn.Module, tensors: list[Tensor] | None) -> Iterator[None]:
    """Gradients enabled for exactly these parameters inside the block (None: for all of floating point)."""
    flags = [(p, p.requires_grad) for p in model.parameters()]
    wanted = None if tensors is None else {id(t) for t in tensors}
    try:
        for p, _ in flags:
            p.requires_grad_(p.is_floating_point() and (wanted is None or id(p) in wanted))
        with torch.enable_grad():
            yield
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)


@dataclass(frozen=True)
class _Snapshot:
    attributes: dict[str, Any]
    contents: dict[str, Any]  # copies of the attributes that may be changed in place
    buffers: dict[str, Tensor | None]
    values: dict[str, Tensor]


def _snapshot(module: nn.Module) -> _Snapshot:
    attributes = {name: value for name, value in vars(module).items() if _is_state(name)}
    contents = {name: value.copy() for name, value in attributes.items() if isinstance(value, dict | list | set)}
    buffers = dict(module._buffers)
    values = {name: buffer.clone() for name, buffer in buffers.items() if buffer is not None}
    return _Snapshot(attributes, contents, buffers, values)


def _restore(module: nn.Module, snapshot: _Snapshot) -> None:
    state = vars(module)
    for name in [name for name in state if _is_state(name) and name not in snapshot.attributes]:
        del state[name]
    state.update(snapshot.attributes)
    for name, content in snapshot.contents.items():
        state[name].clear()
        state[name].extend(content) if isinstance(content, list) else state[name].update(content)
    module._buffers.clear()
    module._buffers.update(snapshot.buffers)
    with torch.no_grad():
        for name, value in snapshot.values.items():
            module._buffers[name].copy_(value)  # type: ignore[union-attr]


def _is_state(name: str) -> bool:
    return name not in _MACHINERY and "_hooks" not in name
