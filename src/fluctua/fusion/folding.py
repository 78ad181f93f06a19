"""One operation on all steps of sequences at once, with the same result as step by step."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fluctua.fusion.nodes import Given, Node
from fluctua.layers.fusion import demand_eager, plan
from fluctua.layers.over_time import PIECE, convolved_by_events, maxima, side_by_side

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
    joined = pooled(func, nodes[0], *bound({node: node.like for node in nodes}))
    if joined is not None:
        return joined
    values = {node: node.value for node in nodes}
    args, kwargs = bound(values)
    only = args[0] if len(nodes) == 1 and args and args[0] is values[nodes[0]] else None
    if only is not None and only.ndim == 1 + CONVOLUTIONS.get(func, -1):
        return Convolved(func, only, args[1:], kwargs, depth)
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


class Convolved(Node):
    """A convolution of many frames, along all axes of `x` but the last ones; computed on demand, so that pooling joins.

    Args:
        func: of torch.
        x: `[*lead, channels, ...]`.
        others: arguments of `func` behind the frames.
        options: named ones.
        depth: see `Node`.
    """

    def __init__(
        self, func: Callable[..., Tensor], x: Tensor, others: Sequence[Any], options: Mapping[str, Any], depth: int
    ) -> None:
        axes = CONVOLUTIONS[func] - 1
        self._lead = x.shape[: x.ndim - axes]
        self._frames = x.reshape(-1, *x.shape[x.ndim - axes :])
        self._call, self._few = (func, others, options), True
        with torch.no_grad():
            none = func(self._frames[:0].detach(), *others, **options)
        super().__init__([*self._lead, *none.shape[1:]], none, depth)
        if torch.is_autocast_enabled(x.device.type):
            _ = self.value

    def compute(self) -> Tensor:
        """By events, if these are few."""
        func, others, options = self._call
        found = self._by_events()
        if found is None and func is F.conv2d:
            found = func(_channels_last(self._frames), *others, **options)
        if found is None:
            pieces: Sequence[Tensor] = self._frames.split(PIECE)  # type: ignore[no-untyped-call]
            found = torch.cat([func(piece, *others, **options) for piece in pieces])
        return found.reshape(self.shape)

    def pooled(self, pool: tuple[int, int]) -> Tensor | None:
        """The maxima of windows of the maps, which are never in memory; None unless by events."""
        with torch.set_grad_enabled(self._grad):
            return self._by_events(pool) if self._call[0] is F.conv2d else None

    def _by_events(self, pool: tuple[int, int] = (1, 1)) -> Tensor | None:
        frames, (_, others, options) = _channels_last(self._frames), self._call

        def found() -> Tensor:
            demand_eager(frames)
            return convolved_by_events(frames, *others, **options, pool=pool, max_density=_FEW)

        result = plan("a convolution of a sequence", found) if self._few else None
        self._few = result is not None
        return result


def pooled(func: Callable[..., Any], node: Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Node | None:
    """Max pooling, together with the convolution in front if that joins; None for anything else."""
    window = side_by_side(*args[1:], **kwargs) if func is F.max_pool2d and args else None
    if window is None or len(node.shape) < 4 or any(n < k for n, k in zip(node.shape[-2:], window, strict=True)):
        return None
    found = None
    if isinstance(node, Convolved) and not node.computed:  # nobody asked for the maps
        found = node.pooled(window)
    if found is None:
        frames = _channels_last(node.value.reshape(-1, *node.shape[-3:]))
        found = plan("max pooling", lambda: maxima(frames, window))
    return None if found is None else Given(found.reshape(*node.shape[:-3], *found.shape[1:]), node.depth + 1)


def _channels_last(frames: Tensor) -> Tensor:
    """Channels of images come last in memory from here on: torch convolves faster, and pools several times faster."""
    on_cpu = frames.ndim == 4 and frames.device.type == "cpu"
    return frames.contiguous(memory_format=torch.channels_last) if on_cpu else frames
