"""The values that a model computes, evaluated only on demand, so that weights and the neurons behind them can join."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from fluctua.fusion.errors import FuseError
from fluctua.layers.fusion import demand_cpu, demand_eager, demand_ordinary, plan
from fluctua.spikes.batch import MAX_DENSITY, SpikeBatch
from fluctua.timeloop import products
from fluctua.timeloop.contract import Dynamics, passed_on


class Node:
    """A tensor of the model, whose first axis may be time.

    Attributes:
        shape: its shape.
        like: a tensor of its type, on its device.
        depth: larger than that of the nodes that it is computed from.
        memo: nodes computed from it.
        spare: the last tensors that stood for single steps of it.
    """

    def __init__(self, shape: Sequence[int], like: Tensor, depth: int) -> None:
        self.shape, self.like, self.depth = torch.Size(shape), like, depth
        self.memo: dict[Hashable, Any] = {}
        self.spare: deque[Any] = deque(maxlen=2)
        self._grad = torch.is_grad_enabled()
        self._value: Tensor | None = None
        self._past: list[tuple[Tensor, list[Any]]] = []

    @property
    def waits(self) -> bool:
        """Whether it depends on spikes of neurons whose recurrence is not known yet."""
        return False

    @property
    def at_first(self) -> "Sequence[Node]":
        """What is computed before anybody takes its numbers."""
        return (self,)

    @property
    def computed(self) -> bool:
        """Whether its value has been computed."""
        return self._value is not None

    @property
    def value(self) -> Tensor:
        """The tensor."""
        if self._value is None:
            self.demand_unchanged()
            with torch.set_grad_enabled(self._grad):
                self._value = self.compute()
        return self._value

    def known(self, step: int | None = None) -> bool:
        """Whether its value, or that at a step, costs nothing any more."""
        return self.computed

    def set(self, value: Tensor) -> None:
        """Set its value without computing it."""
        self._value = value

    def at(self, step: int) -> Tensor:
        """Its value at a step."""
        return self.value[step]

    def first(self) -> Tensor:
        """Its value at the first step, without computing the others."""
        return self.value[0]

    def relies_on(self, *tensors: Any) -> None:
        """Remember these tensors of the model as they are now."""
        self._past += [(t, _edition(t)) for t in tensors if isinstance(t, Tensor)]

    def demand_unchanged(self) -> None:
        """See that they have not changed.

        Raises:
            FuseError: they have, so that its value cannot be computed any more.
        """
        if any(_edition(t) != then for t, then in self._past):
            why = "what a pass leaves behind is computed when it is read, and weights have changed since then"
            raise FuseError(f"{why}: read it before the optimiser's step")

    def compute(self) -> Tensor:
        """Its value, once."""
        raise NotImplementedError


def _edition(tensor: Tensor) -> list[Any]:
    """What is another after a change; inference tensors do not count changes."""
    return [tensor.dtype, 0 if tensor.is_inference() else tensor._version]


class Given(Node):
    """A tensor that already exists."""

    def __init__(self, value: Tensor, depth: int = 0) -> None:
        super().__init__(value.shape, value, depth)
        self._value = value


class Product(Node):
    """`weight @ source + bias`, along the last axis."""

    def __init__(self, source: Node, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__([*source.shape[:-1], len(weight)], source.like, source.depth + 1)
        self.source, self.weight, self.bias = source, weight, bias
        self.relies_on(weight, bias)

    @property
    def waits(self) -> bool:
        return not self.computed and self.source.waits

    def compute(self) -> Tensor:
        """By events, if these are few."""
        x = self.source.value
        if not self.joins:
            return linear(x, self.weight, self.bias)
        spikes = SpikeBatch.from_dense(x, MAX_DENSITY)
        if spikes is None:
            return products.linear(x, self.weight, self.bias)
        from fluctua.timeloop.events_layers import weighted

        return weighted(spikes, x, self.weight, self.bias)

    def first(self) -> Tensor:
        return self.value[0] if self.computed else linear(self.source.first(), self.weight, self.bias)

    @property
    def joins(self) -> bool:
        """Whether the weight may be added up event by event."""
        if len(self.shape) != 3 or 0 in self.source.shape or self.weight.ndim != 2:
            return False
        return served(_PASSING, self)


class Later(Node):
    """A value that a model leaves behind or returns but that is rarely read: computed on demand, unless it is there."""

    def __init__(
        self,
        shape: Sequence[int],
        like: Tensor,
        depth: int,
        make: Callable[[], Tensor],
        there: Callable[[], bool] = bool,
    ) -> None:
        super().__init__(shape, like, depth)
        self.compute = make  # type: ignore[method-assign]
        self._there = there

    def known(self, step: int | None = None) -> bool:
        return self.computed or self._there()


def copied(node: Node) -> Later:
    """A shallow copy, which has no history."""
    return Later(node.shape, node.like, node.depth + 1, lambda: node.value.detach())


def compute(nodes: Iterable[Node]) -> None:
    """Compute all of them, in an order in which nothing is computed twice.

    A single step of a part of the state is left to whoever wants it.
    """
    for first in sorted({first for node in nodes for first in node.at_first}, key=lambda n: n.depth):
        _ = first.value


def served(dynamics: Dynamics, product: Product) -> bool:
    """Whether neurons may run as one with the weight in front; the log says why not."""
    like, size = product.like, len(product.weight)

    def decide() -> bool:
        demand_eager(like)
        demand_ordinary(like, product.weight, product.bias)
        demand_cpu(dynamics.to(like), size, like.new_empty(()).expand(1, 1, size))
        return True

    return plan("a weight in front of neurons", decide) is not None


_PASSING = Dynamics(passed_on, (torch.ones(()),), 1, spiking=False)
