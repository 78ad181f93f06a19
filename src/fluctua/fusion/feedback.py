"""Recurrence in the model's own code: what it computes from the last spikes of neurons, and from anything else.

While the model runs its second step, such operations are recorded, until the neurons are called with their result. As
a function of the spikes this must be a weight; giving it each spike alone then determines the weight.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fluctua.fusion.errors import FuseError
from fluctua.fusion.nodes import Node, Product
from fluctua.fusion.operations import ADDS, RANDOM
from fluctua.fusion.recurrence import Echo
from fluctua.fusion.spikes import Part, Spikes
from fluctua.network.run import mapped, tensors_in

Lag = int | None
"""How many steps ago a node is taken; None for a node that is the same at every step."""

Lagged = tuple[Node, Lag]


class Deferred(Node):
    """The result of an operation some of whose arguments are not known yet.

    Args:
        like: its result for one step.
        func: the operation.
        args: its arguments; steps of nodes as functions from `(node, lag)` to a tensor, see `Late`.
        kwargs: likewise.
        item: index among several results.
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
        return not self.computed and any(late.node.waits for late in self.late)

    def of(self, value: Callable[[Node, Lag], Tensor], lag: Lag) -> Tensor:
        """The result if the nodes have these values, `lag` steps ago."""

        def tensor(x: Tensor) -> Tensor:
            return value(x.node, _sum(lag, x.lag)) if isinstance(x, Late) else x

        found = self.func(*mapped(self.args, tensor), **mapped(dict(self.kwargs), tensor))
        result: Tensor = found if self.item is None else found[self.item]
        return result

    def first(self) -> Tensor:
        known = self.computed or any(late.lag != 0 for late in self.late)
        return self.value[0] if known else self.of(lambda node, _: node.first(), 0)

    def compute(self) -> Tensor:
        """All steps; values from before the first step are zero."""
        leaves = list(dict.fromkeys(_leaves(self, 0)))
        lost = max((lag for _, lag in leaves if lag is not None), default=0)
        found = _over_time(self, leaves, lost)
        return torch.cat([found.new_zeros(lost, *found.shape[1:]), found]) if lost else found


class Late(Tensor):
    """In the arguments of a `Deferred`: a node, `lag` steps before the latest of them."""

    node: Node
    lag: Lag

    @staticmethod
    def of(node: Node, lag: Lag) -> "Late":
        """The node, `lag` steps ago."""
        made = Tensor._make_subclass(Late, torch.empty(0))  # type: ignore[attr-defined]
        made.node, made.lag = node, lag
        assert isinstance(made, Late)
        return made


class Led(Node):
    """A current whose first step is computed differently from the rest, `[T - 1, B, *N]`."""

    def __init__(self, begun: Callable[[], Tensor], node: Node, rest: Tensor) -> None:
        super().__init__([1 + len(rest), *rest.shape[1:]], node.like, node.depth + 1)
        self._begun, self._rest = begun, rest

    def compute(self) -> Tensor:
        """All steps."""
        return torch.cat([self._begun()[None], self._rest])


def heard(spikes: Spikes, node: Node, lag: int) -> tuple[Node, Echo]:
    """The input of recurrent neurons: a current from outside at all steps, and their own spikes.

    Args:
        spikes: their spikes; the source is their input at the first step.
        node: their input from the second step on, `lag` steps ago.
        lag: zero, or one if steps are counted by the last spikes.

    Raises:
        FuseError: the recurrence is not a weight.
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
    """If the node is a current from outside plus a plain weight times the last spikes, the two parts."""
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
        raise FuseError(f"{name} is recurrent, and its neurons lie on more than one axis: no loop takes such a weight")
    leaves = list(dict.fromkeys(_leaves(node, lag, spikes, name)))
    try:
        outside = _over_time(node, leaves, 1, lag, spikes)
        each = torch.eye(spikes.shape[-1], dtype=spikes.like.dtype, device=spikes.like.device)
        alone, none = (_weighed(node, leaves, lag, spikes, own) for own in (each, torch.zeros_like(each)))
        weight = (alone - none).t().contiguous()
    except (RuntimeError, ValueError, TypeError) as error:
        raise FuseError(f"the recurrence of {name} is not a weight ({error})") from error
    if weight.shape != each.shape:
        raise FuseError(f"the recurrence of {name} is not a weight, but has the shape {tuple(weight.shape)}")
    return outside, weight


def _leaves(node: Node, lag: Lag, own: Node | None = None, name: str = "") -> Iterator[Lagged]:
    """The known nodes that a node is computed from."""
    if node is own:
        if lag != 1:
            raise FuseError(f"{name} receives its spikes from {lag} steps before; only one step is supported")
    elif not node.waits and own is not None:
        yield node, lag
    elif isinstance(node, Deferred):
        if own is not None and getattr(node.func, "__name__", "") in RANDOM:
            raise FuseError(f"{name} is recurrent through random numbers ({node.func.__name__})")
        for late in node.late:
            yield from _leaves(late.node, _sum(lag, late.lag), own, name)
    elif own is None:
        yield node, lag
    elif isinstance(node, Product):
        yield from _leaves(node.source, lag, own, name)
    elif isinstance(node, Spikes):
        raise FuseError(f"{name} feeds back through other neurons, {node.name}: no fused loop supports that")
    else:
        what = "its potential" if isinstance(node, Part) else type(node).__name__
        raise FuseError(f"{name} reads {what} of the step before: no fused loop supports that")


def _sum(lag: Lag, more: Lag) -> Lag:
    return None if lag is None or more is None else lag + more


def _value(node: Node, lag: Lag, known: Mapping[Lagged, Tensor], biased: bool = True) -> Tensor:
    """The value of a node `lag` steps ago, from known nodes."""
    if (node, lag) in known:
        return known[node, lag]
    if isinstance(node, Product):
        return F.linear(_value(node.source, lag, known, biased), node.weight, node.bias if biased else None)
    assert isinstance(node, Deferred)
    return node.of(lambda inner, before: _value(inner, before, known, biased), lag)


def _over_time(node: Node, leaves: list[Lagged], first: int, lag: int = 0, own: Node | None = None) -> Tensor:
    """The node at all steps from `first` on, while its own neurons, if it is an input, are silent."""
    count = (own or node).shape[0]
    timed = [(n, k) for n, k in leaves if k is not None]
    still: dict[Lagged, Tensor] = {(n, None): n.value for n, k in leaves if k is None}
    if own is not None:
        still[own, 1] = own.like.new_zeros(own.shape[1:])

    def of_one_step(*values: Tensor) -> Tensor:
        return _value(node, lag, dict(zip(timed, values, strict=True)) | still)

    if not timed:
        found = of_one_step()
        return found.expand(count - first, *found.shape)
    each = (n.value[first - k : count - k] for n, k in timed)
    result: Tensor = torch.vmap(of_one_step, randomness="different")(*each)
    return result


def _weighed(node: Node, leaves: list[Lagged], lag: int, own: Node, spikes: Tensor) -> Tensor:
    """The current for spikes `[samples, N]` with everything else zero, also biases."""
    zero = {(n, k): spikes.new_zeros(len(spikes), *n.shape[1 if k is None else 2 :]) for n, k in leaves}
    return _value(node, lag, {**zero, (own, 1): spikes}, biased=False)


def deferred(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], steps: Sequence[Any], number: int
) -> Any:
    """Nodes for what an operation on handles, some of them steps, gives that cannot be done yet; None if it must be."""
    if func is F.batch_norm:
        return None

    def tried(x: Any) -> Any:
        if hasattr(x, "step"):
            return x.node.like.new_zeros(x.shape)
        return x.actual if hasattr(x, "node") else x

    def late(x: Any) -> Any:
        if hasattr(x, "node"):
            return Late.of(x.node, number - x.step if hasattr(x, "step") else None)
        return x.clone() if type(x) is Tensor else x  # the model may change its own

    with torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
        like = func(*mapped(tuple(args), tried), **mapped(dict(kwargs), tried))
    given = steps[0].node.shape[0], func, mapped(tuple(args), late), mapped(dict(kwargs), late)
    if isinstance(like, Tensor):
        return Deferred(like, *given)
    if isinstance(like, list | tuple) and all(isinstance(item, Tensor) for item in like):
        return tuple(Deferred(item, *given, k) for k, item in enumerate(like))
    return None
