"""One forward pass of a model whose neurons get all steps at once."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from fluctua.fusion.errors import FuseError
from fluctua.fusion.handles import Handle, Step, Whole, reals, returned
from fluctua.fusion.nodes import Final, Given, Node, Spikes
from fluctua.fusion.population import Population
from fluctua.network.adapters.framework import States
from fluctua.network.run import Layout, mapped


class _Run:
    """A population in a pass: what it gives from its first call on, and how often it was called."""

    def __init__(self, spikes: Spikes, shown: bool) -> None:
        self.spikes, self.shown, self.calls = spikes, shown, 0


class Session:
    """A pass.

    Args:
        populations: the neuron modules of the model.
        shown: for how many steps a static input is shown to each of them, by name, as far as it was seen.
    """

    def __init__(self, populations: Sequence[Population], shown: dict[str, int]) -> None:
        self._populations, self._shown = populations, shown
        self._runs: dict[str, _Run] = {}

    def run(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What the model returns.

        Raises:
            FuseError: it does with a population what no loop over all steps can do.
        """
        with self._listening():
            answer = call(*_wrapped(args), **_wrapped(kwargs))
            for population in self._populations:
                self._check(population)
            return returned(answer)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """The modules hand their calls to this pass inside the block."""
        modules = [p.module for p in self._populations]
        before = [vars(m).get("forward") for m in modules]
        try:
            for population in self._populations:
                vars(population.module)["forward"] = partial(self._called, population)
            yield
        finally:
            for module, forward in zip(modules, before, strict=True):
                if forward is None:
                    vars(module).pop("forward", None)
                else:
                    vars(module)["forward"] = forward

    def _called(self, population: Population, x: Any, *args: Any, **kwargs: Any) -> Any:
        """A call of a population, in the place of its own."""
        stepwise = population.layout.stepwise
        if population.unfit is not None or (stepwise and not isinstance(x, Handle)):
            return _as_it_is(population.module, x, args, kwargs)
        given = population.stepping.given(population.module, args, kwargs)
        if stepwise:
            return self._step(population, x, given)
        node = x.node if isinstance(x, Whole) else Given(_real(x))
        spikes = self._begun(population, node, given)
        stepping, module = population.stepping, population.module
        state = tuple(Whole.of(Final(spikes, k, stepping.carried)) for k in range(len(spikes.parts)))
        if population.keeps:
            stepping.keep(module, state)
        return stepping.answer(module, Whole.of(spikes), state)

    def _step(self, population: Population, x: Handle, given: States | None) -> Any:
        name, static = population.name, isinstance(x, Whole)
        run = self._runs.get(name)
        if run is not None and run.calls == run.spikes.shape[0] and not (static or x.step):  # type: ignore[attr-defined]
            run = None  # the model goes through time again
        if run is None:
            run = _Run(self._begun(population, x.node, given, self._steps(population, x)), static)
            self._runs[name] = run
            if not static and x.step:  # type: ignore[attr-defined]
                raise FuseError(f"{self._said(population)} hears step {x.step} of its input first")  # type: ignore[attr-defined]
        elif x.node is not run.spikes.source or static is not run.shown:
            raise FuseError(
                f"what {self._said(population)} hears at step {run.calls} is not computed as at step 0: by what "
                "happened before (recurrence or feedback), or on another way through the model (a branch)"
            )
        elif not static and x.step != run.calls:  # type: ignore[attr-defined]
            raise FuseError(f"{self._said(population)} hears step {x.step} in its call {run.calls}")  # type: ignore[attr-defined]
        else:
            self._check_state(population, run, given)
        step, run.calls = run.calls, run.calls + 1
        state = tuple(Step.of(part, step) for part in run.spikes.parts)
        if population.keeps:
            population.stepping.keep(population.module, state)
        return population.stepping.answer(population.module, Step.of(run.spikes, step), state)

    def _steps(self, population: Population, x: Handle) -> int | None:
        if isinstance(x, Step):
            return None
        if population.name not in self._shown:
            raise FuseError(f"{self._said(population)} hears a static current, and it was not seen for how many steps")
        return self._shown[population.name]

    def _begun(self, population: Population, node: Node, given: States | None, shown: int | None = None) -> Spikes:
        """The population from its first step on."""
        layout = Layout() if population.layout.stepwise else population.layout
        small = node.like.new_empty(()).expand(node.shape)
        small = small if shown else layout.as_sequence(small)[0]
        stepping = population.stepping
        state = given if given is not None else stepping.kept(population.module, small)
        if state is not None:
            state = tuple(part.real if isinstance(part, Handle) else part for part in state)
            if population.keeps and any(part.shape != small.shape for part in state):
                state = None  # of another batch: such modules begin anew
        rest = stepping.rest(population.module, small.new_zeros(small.shape)) if state is None else state
        return Spikes(population, node, rest, layout, shown)

    def _check_state(self, population: Population, run: _Run, given: States | None) -> None:
        """The state must be that of the step before."""
        stepping, module = population.stepping, population.module
        state = given
        if state is None and population.keeps:
            state = tuple(getattr(module, name) for name in stepping.names(module))
        if state is None:
            raise FuseError(f"{self._said(population)} is given no state at step {run.calls}")
        for part, node in zip(state, run.spikes.parts, strict=True):
            if not isinstance(part, Step) or part.node is not node or part.step != run.calls - 1:
                raise FuseError(
                    f"the state of {self._said(population)} is changed between steps {run.calls - 1} and {run.calls}, "
                    "or taken out of the graph"
                )

    def _check(self, population: Population) -> None:
        run = self._runs.get(population.name)
        if run is not None and run.shown and run.calls != run.spikes.shape[0]:
            raise FuseError(
                f"{self._said(population)} was shown its current for {run.calls} steps, and {run.spikes.shape[0]} when "
                "the model was fused: fuse it again"
            )

    def _said(self, population: Population) -> str:
        return f"{population.name} ({population.kind})"


def _wrapped(value: Any) -> Any:
    """Arguments of the model, with handles in the place of tensors that may be sequences."""
    return mapped(value, lambda x: Whole.of(Given(x)) if _is_sequence(x) else x)


def _is_sequence(x: Tensor) -> bool:
    return type(x) in (Tensor, nn.Parameter) and x.is_floating_point() and x.ndim > 1


def _as_it_is(module: Any, x: Any, args: Any, kwargs: Any) -> Any:
    """The module's own call."""
    return type(module).forward(module, reals(x), *reals(args), **reals(kwargs))


def _real(x: Any) -> Tensor:
    found: Tensor = reals(x)
    return found
