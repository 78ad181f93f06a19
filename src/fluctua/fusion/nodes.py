"""The values that a model computes, evaluated only on demand, so that weights and the neurons behind them can join."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from fluctua.fusion import recurrence
from fluctua.fusion.errors import FuseError
from fluctua.fusion.recurrence import Echo
from fluctua.layers.fusion import demand_cpu, demand_eager, demand_ordinary, plan
from fluctua.network.adapters.framework import States
from fluctua.network.run import Layout
from fluctua.network.stepping import NeuronStep
from fluctua.spikes.batch import MAX_DENSITY, SpikeBatch
from fluctua.timeloop import products
from fluctua.timeloop.contract import Dynamics, Tensors
from fluctua.timeloop.engines import integrate
from fluctua.timeloop.expressions import Expression, Value, replaced
from fluctua.timeloop.tracing import Followed

if TYPE_CHECKING:  # numba is imported only when a network runs
    from fluctua.timeloop.events_layers import Layer


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

    @property
    def waits(self) -> bool:
        """Whether it depends on spikes of neurons whose recurrence is not known yet."""
        return False

    @property
    def computed(self) -> bool:
        """Whether its value has been computed."""
        return self._value is not None

    @property
    def value(self) -> Tensor:
        """The tensor."""
        if self._value is None:
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

    def compute(self) -> Tensor:
        """Its value, once."""
        raise NotImplementedError


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
        return _run(x, [_layer(_PASSING, self, x)], spikes)

    def first(self) -> Tensor:
        return self.value[0] if self.computed else linear(self.source.first(), self.weight, self.bias)

    @property
    def joins(self) -> bool:
        """Whether the weight may be added up event by event."""
        if len(self.shape) != 3 or 0 in self.source.shape or self.weight.ndim != 2:
            return False
        return _served(_PASSING, self)


class Spikes(Node):
    """The output of a population at all steps, in the order of axes in which its module is called.

    Attributes:
        step: the step of the population.
        source: its input current.
        shown: number of steps, if the input is the same at every step.
        initial: state before the first step.
        layout: where time is.
        echo: its recurrence, if any.
        name: of the population, for messages.
        dynamics: what the population computes.
        unheard: the error message while its recurrence is still unknown.
    """

    def __init__(
        self,
        step: NeuronStep,
        source: Node,
        initial: States,
        layout: Layout,
        shown: int | None = None,
        echo: Echo | None = None,
        name: str = "",
    ) -> None:
        super().__init__([shown, *source.shape] if shown else source.shape, source.like, source.depth + 1)
        self.step, self.source, self.initial = step, source, initial
        self.layout, self.shown, self.echo, self.name = layout, shown, echo, name
        self.dynamics = step.dynamics()
        self.unheard: str | None = None
        self._final: Tensors | None = None

    @property
    def waits(self) -> bool:
        return self.unheard is not None or (not self.computed and self.source.waits)

    def hear(self, source: Node, echo: Echo) -> None:
        """Set its input: a current from outside at all steps, and its recurrence."""
        self.source, self.echo, self.shown, self.unheard = source, echo, None, None

    def compute(self) -> Tensor:
        """Together with the weights and populations in front, as far as they join.

        Raises:
            FuseError: its recurrence is not known yet.
        """
        if self.unheard is not None:
            raise FuseError(self.unheard)
        joined = self._joined()
        if joined:
            return self.layout.as_called(_through(joined))
        if self.echo is not None:
            return self.layout.as_called(recurrence.run(self._outside, self.dynamics, self.initial, self.echo))
        output, self._final = self.run(self.dynamics)
        return self.layout.as_called(output)

    def run(self, dynamics: Dynamics) -> tuple[Tensor, Tensors]:
        """Output `[T, B, *N]` of these dynamics, and the state after the last step."""
        x = self._outside
        if self.echo is not None:
            x = self.echo.added(x, self.layout.as_sequence(self.value))
        result = integrate((x,), dynamics, _start(self.initial, x))
        return result.output, result.state

    @property
    def _outside(self) -> Tensor:
        """The current `[T, B, *N]` from outside."""
        x = self.source.value
        return x.expand(self.shown, *x.shape) if self.shown else self.layout.as_sequence(x)

    @property
    def ended(self) -> bool:
        """Whether the state after the last step has been computed."""
        return self._final is not None

    @property
    def final(self) -> Tensors:
        """The state after the last step."""
        if self._final is None:
            with torch.set_grad_enabled(self._grad):
                _, self._final = self.run(self.dynamics)
        return self._final

    def _joined(self) -> "list[Spikes]":
        """The populations that run as one with their weights, this one the last."""
        last, found = self, list["Spikes"]()
        while last._joins(spiking=bool(found)) and last.layout == self.layout:
            found.insert(0, last)
            assert isinstance(last.source, Product)
            before = last.source.source
            if not isinstance(before, Spikes) or before.computed:
                break
            last = before
        return found

    def _joins(self, spiking: bool) -> bool:
        """Whether it runs as one with the weight in front; `spiking` if its spikes feed others."""
        product, fires = self.source, self.step.step.traced.fired is not None
        uniform = not any(isinstance(part, Tensor) for part in self.initial)
        if not isinstance(product, Product) or product.computed or self.shown or not uniform or not product.joins:
            return False
        heard = self.echo is None or self.echo.throughout(product.like.new_empty(product.shape[-1:])) is not None
        return heard and (fires or not spiking) and _served(self.dynamics, product)


class Part(Node):
    """A part of the state of a population after every step, in the order of axes of its output."""

    def __init__(self, spikes: Spikes, number: int) -> None:
        super().__init__(spikes.shape, spikes.like, spikes.depth + 1)
        self.spikes, self.number = spikes, number

    @property
    def waits(self) -> bool:
        return not self.computed and self.spikes.waits

    def known(self, step: int | None = None) -> bool:
        return self.computed or (step == self.shape[0] - 1 and self.spikes.ended)

    def at(self, step: int) -> Tensor:
        """Its value at a step; at the last one without computing the others."""
        if step == self.shape[0] - 1 and not self.computed:
            return self.spikes.final[self.number]
        return super().at(step)

    def compute(self) -> Tensor:
        """By a loop with it as output. The gradients of two loops on one current add up to those of both outputs."""
        dynamics = self.spikes.dynamics
        assert isinstance(dynamics.step, Followed)
        watched = replace(dynamics, step=_observed(dynamics.step, self.number), spiking=False)
        return self.spikes.layout.as_called(self.spikes.run(watched)[0])


class Later(Node):
    """A value that a model leaves behind or returns but that is rarely read: computed on demand, unless it is there."""

    def __init__(
        self, shape: Sequence[int], of: Node, make: Callable[[], Tensor], there: Callable[[], bool] = bool
    ) -> None:
        super().__init__(shape, of.like, of.depth + 1)
        self.compute = make  # type: ignore[method-assign]
        self._there = there

    def known(self, step: int | None = None) -> bool:
        return self.computed or self._there()


def left_behind(spikes: Spikes, number: int, carried: Callable[[Tensor], Tensor]) -> Later:
    """A part of the state after the last step of a sequence, changed by `carried`; the last may be the spikes."""

    last = number == spikes.dynamics.states

    def made() -> Tensor:
        return carried(spikes.layout.as_sequence(spikes.value)[-1] if last else spikes.final[number])

    def there() -> bool:
        return spikes.computed if last else spikes.ended

    small = spikes.layout.as_sequence(spikes.like.new_empty(()).expand(spikes.shape))[0]
    return Later(carried(small).shape, spikes, made, there)


def copied(node: Node) -> Later:
    """A shallow copy, which has no history."""
    return Later(node.shape, node, lambda: node.value.detach())


def compute(nodes: Iterable[Node]) -> None:
    """Compute all of them, in an order in which nothing is computed twice.

    A single step of a part of the state is left to whoever wants it.
    """
    wanted = set(nodes)
    wanted |= {node.spikes.source for node in wanted if isinstance(node, Part)}  # otherwise only as one with its spikes
    for node in sorted(wanted, key=lambda n: n.depth):
        if not isinstance(node, Part):
            _ = node.value


@lru_cache(maxsize=256)
def _observed(step: Followed, number: int) -> Followed:
    """The step with a part of the state after it as output."""
    t = step.traced
    output, own = t.leaf("gradient", 0), t.leaf("gradient", 1 + number)
    known: dict[Expression, Value] = {output: 0.0, own: t.graph("add", own, output)}

    def of(values: Sequence[Value]) -> tuple[Value, ...]:
        return tuple(replaced(t.graph, values, known))

    by_input, by_state, by_constant = of(t.by_input), of(t.by_state), of(t.by_constant)
    watched = replace(t, output=t.state[number])
    return Followed.of(replace(watched, by_input=by_input, by_state=by_state, by_constant=by_constant))


@dataclass(frozen=True)
class _Passing:
    """A step that returns its input: a layer without neurons."""

    def __call__(self, inputs: Tensors, state: Tensors, constants: Tensors) -> tuple[Tensor, Tensors]:
        return inputs[0] * constants[0], state


_PASSING = Dynamics(_Passing(), (torch.ones(()),), 1, spiking=False)


def _through(chain: Sequence[Spikes]) -> Tensor:
    """The output `[T, B, n]` of the last of populations that join."""
    first, last = chain[0], chain[-1]
    x = first.layout.as_sequence(_product(first).source.value)
    spikes = SpikeBatch.from_dense(x, MAX_DENSITY)
    if spikes is None:
        x = products.linear(x, _product(first).weight, _product(first).bias)
        if first.echo is None:
            x = integrate((x,), first.dynamics, _start(first.initial, x)).output
        else:
            x = recurrence.run(x, first.dynamics, first.initial, first.echo)
        if first is last:
            return x
        chain, spikes = chain[1:], SpikeBatch.from_dense(x)
        assert spikes is not None
    return _run(x, [_layer(s.dynamics, _product(s), x, s.initial, s.echo) for s in chain], spikes)


def _served(dynamics: Dynamics, product: Product) -> bool:
    """Whether neurons may run as one with the weight in front; the log says why not."""
    like, size = product.like, len(product.weight)

    def decide() -> bool:
        demand_eager(like)
        demand_ordinary(like, product.weight, product.bias)
        demand_cpu(dynamics.to(like), size, like.new_empty(()).expand(1, 1, size))
        return True

    return plan("a weight in front of neurons", decide) is not None


def _product(spikes: Spikes) -> Product:
    assert isinstance(spikes.source, Product)
    return spikes.source


def _start(initial: States, x: Tensor) -> Tensors:
    """The state before the first step of a current `[T, B, *N]`."""
    shape = x.shape[1:]
    return tuple(
        part.expand(shape) if isinstance(part, Tensor) else torch.full_like(x[0], part, requires_grad=False)
        for part in initial
    )


def _layer(
    dynamics: Dynamics, product: Product, like: Tensor, initial: States = (), echo: Echo | None = None
) -> "Layer":
    from fluctua.timeloop.events_layers import Layer

    size, bias, back = (len(product.weight),), product.bias, None
    if echo is not None:
        found = echo.throughout(like.new_empty(size))
        assert found is not None
        back, heard = found
        bias = heard if bias is None else bias if heard is None else bias + heard
    return Layer(size, dynamics.to(like), weight=product.weight, bias=bias, recurrent=back, initial=initial)


def _run(x: Tensor, layers: "Sequence[Layer]", spikes: SpikeBatch) -> Tensor:
    from fluctua.timeloop.events_layers import run_layers

    return run_layers(x, layers, spikes)[0]
