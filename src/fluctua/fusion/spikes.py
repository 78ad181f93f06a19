"""Populations of a model as nodes: their spikes and states, computed together with the weights in front of them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fluctua.fusion import recurrence
from fluctua.fusion.errors import FuseError
from fluctua.fusion.nodes import Later, Node, Product, served
from fluctua.fusion.recurrence import Echo
from fluctua.network.adapters.framework import States
from fluctua.network.run import Layout
from fluctua.network.stepping import NeuronStep
from fluctua.spikes.batch import MAX_DENSITY, SpikeBatch
from fluctua.timeloop import products
from fluctua.timeloop.contract import Dynamics, Tensors
from fluctua.timeloop.engines import integrate, widened
from fluctua.timeloop.expressions import Expression, Value, replaced
from fluctua.timeloop.followed import Followed

if TYPE_CHECKING:  # numba is imported only when a network runs
    from fluctua.timeloop.events_layers import Layer


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
        types: of its output, and of the parts of its state after a step.
        dynamics: what the population computes.
        unheard: the error message while its recurrence is still unknown.
        end: the state after the last step, without history, if that came with the spikes.
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
        types: Sequence[torch.dtype] = (),
    ) -> None:
        self.types = types or (source.like.dtype,) * (1 + step.states)
        like = source.like.new_empty(0, dtype=self.types[0])
        super().__init__([shown, *source.shape] if shown else source.shape, like, source.depth + 1)
        self.step, self.source, self.initial = step, source, initial
        self.layout, self.shown, self.echo, self.name = layout, shown, echo, name
        self.dynamics = step.dynamics()
        self.relies_on(*self.dynamics.constants, *(echo.tensors if echo is not None else ()))
        self.unheard: str | None = None
        self._final: Tensors | None = None
        self.end: Tensors | None = None

    @property
    def waits(self) -> bool:
        return self.unheard is not None or (not self.computed and self.source.waits)

    def hear(self, source: Node, echo: Echo) -> None:
        """Set its input: a current from outside at all steps, and its recurrence."""
        self.source, self.echo, self.shown, self.unheard = source, echo, None, None
        self.relies_on(*echo.tensors)

    def compute(self) -> Tensor:
        """Together with the weights and populations in front, as far as they join.

        Raises:
            FuseError: its recurrence is not known yet.
        """
        if self.unheard is not None:
            raise FuseError(self.unheard)
        joined = self._joined()
        if joined:
            output = _through(joined)
        elif self.echo is not None:
            output = recurrence.run(self._outside, self.dynamics, self.initial, self.echo)
        else:
            output, self._final = self.run(self.dynamics)
        return self.layout.as_called(output.to(self.like.dtype))

    def run(self, dynamics: Dynamics) -> tuple[Tensor, Tensors]:
        """Output `[T, B, *N]` of these dynamics, and the state after the last step."""
        self.demand_unchanged()
        x = self._outside
        if self.echo is not None:
            x = self.echo.added(x, self.layout.as_sequence(self.value))
        return _integrated(x, dynamics, self.initial)

    @property
    def _outside(self) -> Tensor:
        """The current `[T, B, *N]` from outside."""
        x = self.source.value
        return x.expand(self.shown, *x.shape) if self.shown else self.layout.as_sequence(x)

    @property
    def ended(self) -> bool:
        """Whether the state after the last step is there, with its history."""
        return self._final is not None or not (self._grad or self.end is None)

    @property
    def final(self) -> Tensors:
        """The state after the last step; without a history if weights have changed, as that could not be used."""
        if not self.ended:
            try:
                with torch.set_grad_enabled(self._grad):
                    _, self._final = self.run(self.dynamics)
            except FuseError:
                if self.end is None:
                    raise
        found = self.end if self._final is None else self._final
        assert found is not None
        return tuple(part.to(kind) for part, kind in zip(found, self.types[1:], strict=True))

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
        return heard and (fires or not spiking) and served(self.dynamics, product)


class Part(Node):
    """A part of the state of a population after every step, in the order of axes of its output."""

    def __init__(self, spikes: Spikes, number: int) -> None:
        super().__init__(spikes.shape, spikes.like.new_empty(0, dtype=spikes.types[1 + number]), spikes.depth + 1)
        self.spikes, self.number = spikes, number

    @property
    def waits(self) -> bool:
        return not self.computed and self.spikes.waits

    @property
    def at_first(self) -> Sequence[Node]:
        return (self.spikes.source,) if self.spikes.end is None else ()  # otherwise only as one with its spikes

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
        return self.spikes.layout.as_called(self.spikes.run(watched)[0].to(self.like.dtype))


def left_behind(spikes: Spikes, number: int, carried: Callable[[Tensor], Tensor]) -> Later:
    """A part of the state after the last step of a sequence, changed by `carried`; the last may be the spikes."""

    last = number == spikes.dynamics.states

    def made() -> Tensor:
        return carried(spikes.layout.as_sequence(spikes.value)[-1] if last else spikes.final[number])

    def there() -> bool:
        return spikes.computed if last else spikes.ended

    kind = spikes.types[0 if last else 1 + number]
    small = spikes.layout.as_sequence(spikes.like.new_empty((), dtype=kind).expand(spikes.shape))[0]
    return Later(carried(small).shape, small, spikes.depth + 1, made, there)


def _through(chain: Sequence[Spikes]) -> Tensor:
    """The output `[T, B, n]` of the last of populations that join."""
    for node in (*chain, *map(_product, chain)):
        node.demand_unchanged()
    first, last = chain[0], chain[-1]
    x = first.layout.as_sequence(_product(first).source.value)
    spikes = SpikeBatch.from_dense(x, MAX_DENSITY)
    if spikes is None:
        x = products.linear(x, _product(first).weight, _product(first).bias)
        if first.echo is None:
            x, first._final = _integrated(x, first.dynamics, first.initial)
        else:
            x = recurrence.run(x, first.dynamics, first.initial, first.echo)
        if first is last:
            return x
        chain, spikes = chain[1:], SpikeBatch.from_dense(x)
        assert spikes is not None
    from fluctua.timeloop.events_layers import run_to_end

    layers = [_layer(s, x) for s in chain]
    output, ends = run_to_end(x, layers, spikes)
    for s, end in zip(chain, ends, strict=True):
        s.end = end
    return output


def _product(spikes: Spikes) -> Product:
    assert isinstance(spikes.source, Product)
    return spikes.source


def _integrated(x: Tensor, dynamics: Dynamics, initial: States) -> tuple[Tensor, Tensors]:
    """Output `[T, B, *N]` for a current, and the state after the last step, both in full precision."""
    x = widened(x)
    start = (
        part.expand(x.shape[1:]) if isinstance(part, Tensor) else torch.full_like(x[0], part, requires_grad=False)
        for part in initial
    )
    result = integrate((x,), dynamics, tuple(start))
    return result.output, result.state


def _layer(spikes: Spikes, like: Tensor) -> "Layer":
    from fluctua.timeloop.events_layers import Layer

    weight, bias, back = _product(spikes).weight, _product(spikes).bias, None
    size = (len(weight),)
    if spikes.echo is not None:
        found = spikes.echo.throughout(like.new_empty(size))
        assert found is not None
        back, heard = found
        bias = heard if bias is None else bias if heard is None else bias + heard
    return Layer(size, spikes.dynamics.to(like), weight, bias, back, initial=spikes.initial)


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
