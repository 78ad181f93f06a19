"""A population in one forward pass of a model."""

from operator import is_
from sys import getrefcount
from typing import Any, cast

from fluctua.fusion.handles import Step
from fluctua.fusion.nodes import Node
from fluctua.fusion.population import Population
from fluctua.fusion.spikes import Spikes
from fluctua.network.adapters.framework import Stepping


class Member:
    """A population in a pass.

    Attributes:
        population: itself.
        step: of it; a reason where it runs as it is.
        layout: how it is called.
        keeps: whether its module keeps the state.
        places: where it keeps each part.
        hearing: how it hears itself by a weight of its module, if it does.
        source: what it is called with, from its first call on, where it is called step by step.
        spikes: what it gives then.
        parts: its state behind every step.
        shown: whether its input is the same at every step.
        calls: how often it was called.
        late: how many steps what it is called with is behind.
        state: the handles of its state behind the last step.
        answer: what its last call returned.
        takes: of how many last parts of that its call takes the state, as far as known.
    """

    def __init__(self, population: Population) -> None:
        self.population, self.step = population, population.look()
        self.module, self.layout = population.module, population.layout
        self.stepwise, self.stepping = self.layout.stepwise, cast("Stepping", population.framework.stepping)
        self.keeps = not isinstance(self.step, str) and population.keeps
        self.places = self.stepping.places(self.module) if self.keeps else ()
        self.hearing = None if isinstance(self.step, str) else population.stepping.hearing(population.module)
        self.source: Node | None = None
        self.spikes: Spikes | None = None
        self.parts: list[Node] = []
        self.shown, self.calls, self.late = False, 0, 0
        self.state: tuple[Any, ...] = ()
        self.answer: Any = None
        self.takes: int | None = None

    def __str__(self) -> str:
        """For messages."""
        return f"{self.population.name} ({self.population.kind})"

    def continues(self, x: Step, args: tuple[Any, ...]) -> bool:
        """Whether a call is the step after the last one, seen by its arguments alone, which is quick."""
        if x.node is not self.source or self.calls < 2 or x.step != self.calls - self.late or x.step == 0:
            return False
        if args:
            return len(args) == self.takes and ends_with(self.answer, args)
        return self.keeps and self.undisturbed

    @property
    def undisturbed(self) -> bool:
        """Whether its module still keeps the state behind the last step."""
        for (place, name), part in zip(self.places, self.state, strict=False):  # noqa: SIM110 - quicker than all()
            if place.get(name) is not part:
                return False
        return True

    def next(self) -> Any:
        """Answer a call with the next step."""
        assert self.spikes is not None
        output = Step.of(self.spikes, self.calls)
        self.advance(output)
        self.answer = self.stepping.answer(self.module, output, self.state)
        return self.answer

    def advance(self, output: Step | None = None) -> None:
        """Go on to the state behind the next step; what only its module holds stays in place."""
        step, self.calls, state = self.calls, self.calls + 1, self.state
        if self.keeps and not self.takes:  # each part is in `state`, in its place and in the call here; torch has one
            held = [getrefcount(state[k]) + state[k]._use_count() for k in range(len(state))]
            if held and max(held) == 4:
                for part in state:
                    part.step = step
                return
        make, own = (Step.of, self.spikes) if self.takes else (Step.fresh, None)
        self.state = tuple([output if part is own else make(part, step) for part in self.parts])
        for (place, name), part in zip(self.places, self.state, strict=False):
            place[name] = part


def ends_with(answer: Any, args: tuple[Any, ...]) -> bool:
    """Whether arguments are the last parts of an answer, the very same."""
    return type(answer) is tuple and all(map(is_, args, answer[len(answer) - len(args) :]))
