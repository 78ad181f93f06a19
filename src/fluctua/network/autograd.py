"""The autograd graph, walked backwards, and the tensors that it starts from."""

import re
from collections.abc import Container, Iterable, Iterator
from typing import Any

from torch import Tensor

Node = Any  # torch.autograd.graph.Node

_IN_PLACE = "CopySlices"  # what autograd calls any change in place of a view
PLUMBING = (
    *("View", "Reshape", "Unsafe", "Alias", "Clone", "Accumulate", "Contiguous", "ToCopy", "Expand", "Unsqueeze"),
    *("Squeeze", "AsStrided", "BackwardHookFunction"),
)
"""Operations that only pass on what they get."""
ELEMENTWISE = ("Add", "Sub", "Mul", "Div", _IN_PLACE)
"""What a gain or an offset acts by on another signal."""


def behind(nodes: Iterable[Node], stops: Container[Node]) -> Iterator[Node]:
    """The nodes and all that lead to them, but not what is behind a stop."""
    pending, seen = list(nodes), set()
    while pending:
        node = pending.pop()
        if node not in seen:
            seen.add(node)
            yield node
            pending += () if node in stops else parents_of(node)


def parents_of(node: Node) -> list[Node]:
    """The nodes whose results a node took."""
    return [parent for parent, _ in node.next_functions if parent is not None]


def operation_of(node: Node) -> str:
    """Name of the operation that made a node, such as "Add" or "MaxPool2DWithIndices"."""
    return re.sub(r"Backward\d*$", "", node.name().rpartition("::")[2])


def nodes_in(output: Any) -> Iterator[Node]:
    """The nodes that made the tensors, and those of their bases: a change in place cuts a view off its own node."""
    for tensor in tensors_in(output):
        for made in (tensor, tensor._base):
            if made is not None and made.grad_fn is not None:
                yield made.grad_fn


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
