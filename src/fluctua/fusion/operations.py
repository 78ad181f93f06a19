"""How operations of torch treat tensors that stand for a step, by name or function."""

from typing import Any

import torch
from torch import Tensor

FACTS = frozenset(
    {"size", "dim", "numel", "nelement", "ndimension", "is_floating_point", "is_complex", "__len__", "element_size"}
    | {"get_device", "stride", "is_contiguous", "__hash__", "is_same_size", "is_signed"}
)
"""They ask for no values."""

CONVERSIONS = frozenset({"to", "type", "type_as", "float", "double", "half", "bfloat16", "cpu", "cuda", "contiguous"})
"""They give the same values in another type, or on another device."""

PROPERTIES = frozenset(
    getattr(Tensor, name).__get__
    for name in ("shape", "dtype", "device", "ndim", "layout", "is_cuda", "is_sparse", "is_quantized", "is_meta")
)
"""As `FACTS`, for attributes."""

OF_TENSORS = frozenset(getattr(Tensor, name).__get__ for name in ("T", "mT", "H", "mH", "data"))
"""Attributes that are tensors."""

DATA = Tensor.data.__get__  # type: ignore[attr-defined]
"""The tensor cut from its graph, which shares its memory."""

PLAIN_LIKE = frozenset({"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "new_empty"})
"""They make new tensors in the shape of another."""

ANSWERS = frozenset({"__bool__", "item", "tolist", "numpy", "__int__", "__float__", "__format__", "__repr__"})
"""They give no tensor, but a Python value."""

BACKWARD = (Tensor.backward, torch.autograd.backward, torch.autograd.grad)
"""They compute gradients."""

RANDOM = frozenset(
    {"bernoulli", "rand_like", "randn_like", "randint_like", "poisson", "multinomial", "normal", "dropout", "rrelu"}
    | {"alpha_dropout", "feature_dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout"}
    | {"gumbel_softmax", "fractional_max_pool2d", "uniform", "exponential"}
)
"""Names of functions that draw random numbers."""

VIEWS = frozenset(
    {"view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "ravel", "select", "narrow", "__getitem__"}
    | {"squeeze", "unsqueeze", "transpose", "swapaxes", "swapdims", "permute", "movedim", "moveaxis", "t", "expand"}
    | {"expand_as", "chunk", "split", "tensor_split", "unbind", "diagonal", "unfold", "detach", "real"}
)
"""Their results may share memory with what they are done to."""

ADDS = frozenset({"add", "__add__", "__radd__"})
"""Names of the sum of two tensors."""


def with_item(x: Tensor, index: Any, value: Any) -> Tensor:
    """The tensor after `x[index] = value`."""
    if isinstance(index, Tensor) and index.dtype == torch.bool and not (isinstance(value, Tensor) and value.ndim):
        mask = index.reshape(*index.shape, *[1] * (x.ndim - index.ndim))
        return torch.where(mask, torch.as_tensor(value, dtype=x.dtype, device=x.device), x)
    changed = x.clone()
    changed[index] = value
    return changed


IN_PLACE = {"__setitem__": with_item} | {
    f"{name}_": getattr(Tensor, name)
    for name in ("add", "sub", "mul", "div", "relu", "clamp", "clamp_min", "clamp_max", "sigmoid", "tanh")
}
"""Changes in place by numbers that are no chance, and what gives the numbers after them."""


def axis_of(index: Any, ndim: int) -> tuple[int | None, int | None]:
    """The axis of which an index takes one entry, and which one; None where it is another kind of index."""
    items = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in [item for item in items if not isinstance(item, Tensor)]:
        at = next(k for k, item in enumerate(items) if item is Ellipsis)
        items[at : at + 1] = [slice(None)] * (ndim - len(items) + 1)
    numbers = [k for k, item in enumerate(items) if isinstance(item, int)]
    whole = all(isinstance(item, slice) and item == slice(None) for item in items if not isinstance(item, int))
    return (numbers[0], items[numbers[0]]) if len(numbers) == 1 and whole else (None, None)
