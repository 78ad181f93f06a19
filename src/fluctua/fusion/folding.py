"""One operation on all steps of sequences at once, with the same result as step by step."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fluctua.fusion.nodes import Given, Node
from fluctua.layers.fusion import demand_eager, plan
from fluctua.layers.over_time import PIECE, convolved_by_events

CONVOLUTIONS = {F.conv1d: 3, F.conv2d: 4, F.conv3d: 5}  # number of axes of their input

_FEW = 0.1
"""Fraction of non-zero entries above which frames with channels last are convolved as dense tensors.

Measured with `benchmarks/fuse.py`: at 4 % a sum over spikes makes a step 1.5 times faster, at 20 % 1.2 times slower.
"""

Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]
Bound = Callable[[Mapping[Node, Tensor]], Arguments]
"""The arguments of a call, with these tensors in place of steps of nodes."""


def folded(func: Callable[..., Any], nodes: Sequence[Node], bound: Bound) -> Any:
    """The operation on all steps of the nodes among its arguments; returns nodes in place of tensors."""
    depth = 1 + max(node.depth for node in nodes)
    values = {node: node.value for node in nodes}
    args, kwargs = bound(values)
    only = args[0] if len(nodes) == 1 and args and args[0] is values[nodes[0]] else None
    if only is not None and only.ndim == 1 + CONVOLUTIONS.get(func, -1):
        return Given(_convolved(func, only, args[1:], kwargs), depth)
    if func is F.batch_norm and kwargs.get("training", args[5] if len(args) > 5 else False):
        return Given(torch.stack([_called(func, bound, values, k) for k in range(nodes[0].shape[0])]), depth)

    def of_one_step(*steps: Tensor) -> Any:
        given, options = bound(dict(zip(nodes, steps, strict=True)))
        return func(*given, **options)

    return _nodes(as_pooled(func, torch.vmap(of_one_step, randomness="different")(*values.values())), depth)


def as_pooled(func: Callable[..., Any], value: Any) -> Any:
    """The result of an operation; the gradient of max pooling becomes channels last too, or torch copies both maps."""
    if func is F.max_pool2d and isinstance(value, Tensor) and value.requires_grad and value.stride(-3) == 1:

        def last(g: Tensor) -> Tensor:
            frames = g.reshape(-1, *g.shape[-3:]).contiguous(memory_format=torch.channels_last)
            return frames.view(g.shape)

        value.register_hook(last)  # type: ignore[no-untyped-call]
    return value


def _nodes(value: Any, depth: int) -> Any:
    if isinstance(value, Tensor):
        return Given(value, depth)
    return type(value)(_nodes(item, depth) for item in value) if isinstance(value, tuple | list) else value


def _called(func: Callable[..., Tensor], bound: Bound, values: Mapping[Node, Tensor], step: int) -> Tensor:
    args, kwargs = bound({node: value[step] for node, value in values.items()})
    return func(*args, **kwargs)


def _convolved(func: Callable[..., Tensor], x: Tensor, others: Sequence[Any], options: Mapping[str, Any]) -> Tensor:
    """The convolution of a sequence `[T, B, channels, ...]`."""
    out = convolved(func, x.flatten(0, 1), *others, **options)
    return out.reshape(*x.shape[:2], *out.shape[1:])


def convolved(func: Callable[..., Any], frames: Tensor, *others: Any, **options: Any) -> Tensor:
    """A convolution of many frames `[F, channels, ...]`, by events if these are few.

    Channels of images come last in memory from here on, where torch convolves faster, and pools several times faster.
    """
    if frames.ndim == 4 and frames.device.type == "cpu":
        frames = frames.contiguous(memory_format=torch.channels_last)

    def by_events() -> Tensor:
        demand_eager(frames)
        return convolved_by_events(frames, *others, **options, max_density=_FEW)

    found = plan("a convolution of a sequence", by_events)
    if found is not None:
        return found
    if func is F.conv2d:
        return func(frames, *others, **options)
    pieces: Sequence[Tensor] = frames.split(PIECE)  # type: ignore[no-untyped-call]
    return torch.cat([func(piece, *others, **options) for piece in pieces])
