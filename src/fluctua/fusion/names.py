"""What an operation is done to: its names, equal at two steps if the operation is.

Weights that a model computes anew at every step, such as norms of weights, masks and sums of low rank, have the name of
the first.
"""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fluctua.network.run import PLAIN

_FEW = 8  # tensors that are looked at; a loop may have another one at every step
_SMALL = 64  # nodes of a graph


def key_of(func: Callable[..., Any], value: Any, memo: dict[Hashable, Any]) -> Hashable:
    """What is done to what: handles by their nodes, tensors by what they are now, anything else as it is."""
    if type(value) in PLAIN:
        return type(value), value
    if isinstance(value, Tensor):
        if (node := getattr(value, "node", None)) is not None:
            return "node", id(node), type(value)
        return "tensor", id(value) if func is F.batch_norm else identity(value, memo)
    if isinstance(value, list | tuple):
        return tuple(key_of(func, item, memo) for item in value)
    if isinstance(value, slice):
        return "slice", value.start, value.stop, value.step
    return (type(value), value) if isinstance(value, Hashable) else ("object", id(value))


def identity(tensor: Tensor, memo: dict[Hashable, Any]) -> tuple[int, int]:
    """What a tensor is and how often it was changed; one that equals an earlier one, in value and graph, is that."""
    if type(tensor) is nn.Parameter:
        return id(tensor), tensor._version
    known: list[Tensor] = memo.setdefault("computed", [])
    found = next((other for other in known if other is tensor or _same(other, tensor)), tensor)
    if found is tensor and len(known) < _FEW and not any(other is tensor for other in known):
        known.append(tensor)
    return id(found), 0 if found.is_inference() else found._version


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors were computed from the same parameters in the same way, with the same result."""
    if one.shape != other.shape or one.dtype != other.dtype or one.device != other.device:
        return False
    if (one.requires_grad or other.requires_grad) and None in (one.grad_fn, other.grad_fn):
        return False
    return _graph(one) == _graph(other) and torch.equal(one, other)


def _graph(tensor: Tensor) -> list[Hashable]:
    """The operations that made a tensor and the parameters behind them; what is too large equals nothing."""
    nodes, found = [tensor.grad_fn], list[Hashable]()
    while nodes:
        node: Any = nodes.pop()
        leaf = getattr(node, "variable", None)
        found.append(type(node).__name__ if leaf is None else id(leaf))
        nodes += [behind for behind, _ in getattr(node, "next_functions", ())]
        if len(found) > _SMALL:
            return [object()]
    return found
