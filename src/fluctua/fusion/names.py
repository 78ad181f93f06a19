"""What an operation is done to: its names, equal at two steps if the operation is.

Weights that a model computes anew at every step, such as norms of weights, masks and sums of low rank, have the name of
the first.
"""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fluctua.network.run import PLAIN, mapped

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


def named(*values: Any) -> Any:
    """What keys name, and must live on: handles, which the model may change, by their nodes."""
    return mapped(values, lambda x: getattr(x, "node", x))


def identity(tensor: Tensor, memo: dict[Hashable, Any]) -> tuple[int, int]:
    """What a tensor is and how often it was changed; one that equals an earlier one, in value and graph, is that."""
    if type(tensor) is nn.Parameter:
        return id(tensor), 0 if tensor.is_inference() else tensor._version
    known: list[Tensor] = memo.setdefault("computed", [])
    if tensor.is_inference():  # it does not count its changes
        found = next((other for other in known if _alike(other, tensor)), None)
        known += [] if found is not None else [found := tensor.clone()]
        return id(found), -1
    found = next((other for other in known if other is tensor or _same(other, tensor)), None)
    if found is None:
        known += [tensor] if len(known) < _FEW else []
        found = tensor
    return id(found), found._version


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors were computed from the same parameters in the same way, with the same result."""
    if one.is_inference() or one.requires_grad is not other.requires_grad or not _alike(one, other):
        return False
    return not one.requires_grad or (None not in (one.grad_fn, other.grad_fn) and _alike(_graph(one), _graph(other)))


def _alike(one: Any, other: Any) -> bool:
    """Whether two values, or all in two lists, are equal."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        kinds = (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
        return one is other or (kinds and torch.equal(one, other))
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    return bool(type(one) is type(other) and one == other)


def _graph(tensor: Tensor) -> list[Any]:
    """The operations that made a tensor, with all that decides their derivatives, and the parameters behind them.

    What is too large, or does not tell, equals nothing.
    """
    nodes, found = [(tensor.grad_fn, 0)], list[Any]()
    while nodes:
        node, output = nodes.pop()
        leaf, kind = getattr(node, "variable", None), type(node)
        if len(found) > _SMALL or (leaf is None and isinstance(node, torch.autograd.function.BackwardCFunction)):
            return [object()]
        try:
            saved = [getattr(node, name) for name in sorted(dir(kind)) if name.startswith("_saved_")]
        except RuntimeError:  # let go of already
            return [object()]
        found.append([kind.__name__, output, saved if leaf is None else id(leaf)])
        nodes += [(behind, number) for behind, number in getattr(node, "next_functions", ()) if behind is not None]
    return found
