"""Neurons that hear themselves by the model's own code: what it computes of their last spikes, and of anything else.

While the model runs its second step, such operations are kept as they are, until the neurons are called with their
result. As a function of their spikes it must be a weight, which is then found by giving it each spike alone.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fluctua.fusion.errors import FuseError
from fluctua.fusion.nodes import Node, Part, Product, Spikes
from fluctua.fusion.operations import ADDS, RANDOM
from fluctua.fusion.recurrence import Echo
from fluctua.network.run import mapped, tensors_in

Lag = int | None
"""How many steps ago a node is meant; None for what is the same at every step."""

Lagged = tuple[Node, Lag]


class Deferred(Node):
    """What an operation gives, some of whose arguments are not known yet.

    Args:
        like: what it gives of one step.
        func: the operation.
        args: of it; steps of nodes as functions from `(node, lag)` to a tensor, see `Late`.
        kwargs: likewise.
        item: which of several results.
    """

    def __init__(
        self,
        like: Tensor,
        steps: int,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        item: int | None = None,
    ) -> None:
        self.func, self.args, self.kwargs, self.item = func, args, kwargs, item
        super().__init__([steps, *like.shape], like, 1 + max(late.node.depth for late in self.late))

    @property
    def late(self) -> list["Late"]:
        """The steps among its arguments."""
        return [x for x in tensors_in([list(self.args), dict(self.kwargs)]) if isinstance(x, Late)]

    @property
    def waits(self) -> bool:
        """See `Node.waits`."""
        return not self.computed and any(late.node.waits for late in self.late)

    def of(self, value: Callable[[Node, Lag], Tensor], lag: Lag) -> Tensor:
        """The result where the nodes have these values at the step that is so long ago."""

        def tensor(x: Tensor) -> Tensor:
            return value(x.node, _sum(lag, x.lag)) if isinstance(x, Late) else x

        found = self.func(*mapped(self.args, tensor), **mapped(dict(self.kwargs), tensor))
        result: Tensor = found if self.item is None else found[self.item]
        return result

    def first(self) -> Tensor:
        """See `Node.first`."""
        known = self.computed or any(late.lag != 0 for late in self.late)
        return self.value[0] if known else self.of(lambda node, _: node.first(), 0)

    def compute(self) -> Tensor:
        """All steps; one that reaches back before the first step is zero."""
        leaves = list(dict.fromkeys(_leaves(self, 0)))
        lost = max((lag for _, lag in leaves if lag is not None), default=0)
        found = _over_time(self, leaves, lost)
        return torch.cat([found.new_zeros(lost, *found.shape[1:]), found]) if lost else found


class Late(Tensor):
    """In the arguments of a `Deferred`: a node, so many steps before the latest of them."""

    node: Node
    lag: Lag

    @staticmethod
    def of(node: Node, lag: Lag) -> "Late":
        """The node, so long ago."""
        made = Tensor._make_subclass(Late, torch.empty(0))  # type: ignore[attr-defined]
        made.node, made.lag = node, lag
        assert isinstance(made, Late)
        return made


class Led(Node):
    """A current whose first step comes by another way than the others, of which there are `rest` `[T - 1, B, *N]`."""

    def __init__(self, begun: Callable[[], Tensor], node: Node, rest: Tensor) -> None:
        super().__init__([1 + len(rest), *rest.shape[1:]], node.like, node.depth + 1)
        self._begun, self._rest = begun, rest

    def compute(self) -> Tensor:
        """All steps."""
        return torch.cat([self._begun()[None], self._rest])


def heard(spikes: Spikes, node: Node, lag: int) -> tuple[Node, Echo]:
    """What neurons hear: a current from outside at all steps, and themselves.

    Args:
        spikes: their own; their source is what they are called with at the first step.
        node: what they are called with from the second step on, of so many steps ago.
        lag: zero, or one where steps are counted by their last spikes.

    Raises:
        FuseError: it is no weight by which they hear themselves.
    """
    begun = spikes.source
    plain = _by_a_weight(spikes, node) if lag == 0 and not spikes.shown else None
    if plain is not None:
        outside, product = plain
        with torch.no_grad():
            first = outside.first()
            as_begun = torch.equal(begun.first(), first if product.bias is None else first + product.bias)
        if as_begun:
            return outside, Echo(product.weight, 0.0, product.bias)
    shown = spikes.shown is not None
    outside_later, weight = _apart(spikes, node, lag)
    return Led(lambda: begun.value if shown else begun.first(), begun, outside_later), Echo(weight, None)


def _by_a_weight(spikes: Spikes, node: Node) -> tuple[Node, Product] | None:
    """The two parts of the sum of a current from outside and that of a plain weight for the last spikes, if it is."""
    if not isinstance(node, Deferred) or getattr(node.func, "__name__", "") not in ADDS or len(node.late) != 2:
        return None
    (outside, later), (own, before) = sorted([(x.node, x.lag) for x in node.late], key=lambda pair: pair[1] or 0)
    hears = isinstance(own, Product) and own.source is spikes and (later, before) == (0, 1)
    fits = hears and node.kwargs == {} and len(node.args) == 2 and outside.shape == own.shape and not outside.waits
    return (outside, own) if fits and isinstance(own, Product) else None


def _apart(spikes: Spikes, node: Node, lag: int) -> tuple[Tensor, Tensor]:
    """The current from outside `[T - 1, B, N]` from the second step on, and the weight."""
    name = spikes.name
    if len(spikes.shape) != 3:
        raise FuseError(f"{name} hears itself, and its neurons lie on more than one axis: no loop takes such a weight")
    steps, leaves = spikes.shape[0], list(dict.fromkeys(_leaves(node, lag, spikes, name)))
    silent = spikes.like.new_zeros(spikes.shape[1:])
    try:
        outside = _over_time(node, leaves, 1, lag, spikes, silent, steps)
        each = torch.eye(spikes.shape[-1], dtype=silent.dtype, device=silent.device)
        alone, none = (_weighed(node, leaves, lag, spikes, own) for own in (each, torch.zeros_like(each)))
        weight = (alone - none).t().contiguous()
    except (RuntimeError, ValueError, TypeError) as error:
        raise FuseError(f"what {name} hears of itself is no weight ({error})") from error
    if weight.shape != each.shape:
        raise FuseError(f"what {name} hears of itself is no weight, but of the shape {tuple(weight.shape)}")
    return outside, weight


def _leaves(node: Node, lag: Lag, own: Node | None = None, name: str = "") -> Iterator[Lagged]:
    """What a node is made of that is known."""
    if node is own:
        if lag != 1:
            raise FuseError(f"{name} hears its spikes of {lag} steps before, which is served for one step alone")
    elif not node.waits and own is not None:
        yield node, lag
    elif isinstance(node, Deferred):
        if own is not None and getattr(node.func, "__name__", "") in RANDOM:
            raise FuseError(f"{name} hears itself through random numbers ({node.func.__name__})")
        for late in node.late:
            yield from _leaves(late.node, _sum(lag, late.lag), own, name)
    elif own is None:
        yield node, lag
    elif isinstance(node, Product):
        yield from _leaves(node.source, lag, own, name)
    elif isinstance(node, Spikes):
        raise FuseError(f"{name} hears itself by way of other neurons, {node.name}: feedback has no fused loop")
    else:
        what = "its potential" if isinstance(node, Part) else type(node).__name__
        raise FuseError(f"{name} hears {what} of the step before: there is no fused loop for that")


def _sum(lag: Lag, more: Lag) -> Lag:
    return None if lag is None or more is None else lag + more


def _value(node: Node, lag: Lag, known: Callable[[Node, Lag], Tensor | None], biased: bool = True) -> Tensor:
    """A node that is so many steps ago, of those that are known."""
    found = known(node, lag)
    if found is not None:
        return found
    if isinstance(node, Product):
        return F.linear(_value(node.source, lag, known, biased), node.weight, node.bias if biased else None)
    assert isinstance(node, Deferred)
    return node.of(lambda inner, before: _value(inner, before, known, biased), lag)


def _over_time(
    node: Node,
    leaves: list[Lagged],
    first: int,
    lag: int = 0,
    own: Node | None = None,
    silent: Tensor | None = None,
    steps: int | None = None,
) -> Tensor:
    """The node at all steps from `first` on, where its neurons are silent."""
    count = steps or node.shape[0]
    timed = [(n, k) for n, k in leaves if k is not None]
    still: dict[Lagged, Tensor] = {(n, None): n.value for n, k in leaves if k is None}

    def of_one_step(*values: Tensor) -> Tensor:
        there = dict(zip(timed, values, strict=True)) | still
        return _value(node, lag, lambda n, k: silent if n is own and own is not None else there.get((n, k)))

    if not timed:
        found = of_one_step()
        return found.expand(count - first, *found.shape)
    each = (n.value[first - k : count - k] for n, k in timed)
    result: Tensor = torch.vmap(of_one_step, randomness="different")(*each)
    return result


def _weighed(node: Node, leaves: list[Lagged], lag: int, own: Node, spikes: Tensor) -> Tensor:
    """The current for spikes `[samples, N]` where all else is zero, biases too."""
    zero = {(n, k): spikes.new_zeros(len(spikes), *n.shape[1 if k is None else 2 :]) for n, k in leaves}
    return _value(node, lag, lambda n, k: spikes if n is own else zero.get((n, k)), biased=False)
