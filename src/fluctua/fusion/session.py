"""One forward pass of a model whose neurons get all steps at once."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from fluctua.fusion.chain import in_chains
from fluctua.fusion.errors import FuseError
from fluctua.fusion.feedback import heard
from fluctua.fusion.handles import Handle, Step, Whole, handles_in, reals, weighted
from fluctua.fusion.member import Member, ends_with
from fluctua.fusion.nodes import Given, Later, Node, Product
from fluctua.fusion.own import as_it_is, own_layers
from fluctua.fusion.population import Population
from fluctua.fusion.recurrence import Echo
from fluctua.fusion.spikes import Part, Spikes, left_behind
from fluctua.layers.segments import answering
from fluctua.network.adapters.framework import States
from fluctua.network.run import Layout, mapped, modules_of


class Session:
    """A pass.

    Args:
        model: the model.
        populations: its neuron modules.
        shown: for how many steps a static input is shown to each of them, by name, as far as it was seen.
        hearing: names of those that hear themselves by the model's own code.
    """

    def __init__(
        self, model: nn.Module, populations: Sequence[Population], shown: dict[str, int], hearing: Collection[str] = ()
    ) -> None:
        self._members, self._shown, self._hearing = [Member(p) for p in populations], shown, hearing
        self._layers, inside = own_layers(model)
        plain = [m for m in modules_of(model) if m not in inside and "forward" not in vars(m)]
        self._linear = {m for m in plain if isinstance(m, nn.Linear) and type(m).forward is nn.Linear.forward}
        in_order = nn.Sequential.forward, nn.Sequential.__iter__
        self._sequential = [m for m in plain if (type(m).forward, getattr(type(m), "__iter__", None)) == in_order]
        self._nodes: list[Node] = []

    def run(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What the model returns.

        Raises:
            FuseError: it does with a population what no loop over all steps can do.
        """
        with self._listening(), self._unchanged_on_failure():
            answer = call(*self._wrapped(args), **self._wrapped(kwargs))
            for member in self._members:
                if member.shown and member.spikes is not None and member.calls != member.spikes.shown:
                    raise FuseError(
                        f"{member} was shown its current for {member.calls} steps, and for {member.spikes.shown} when "
                        "the model was fused: fuse it again"
                    )
            found = reals(answer, but=Later)  # states left behind are computed when they are looked at
            _forget(self._nodes)
            return found

    def _wrapped(self, value: Any) -> Any:
        """Arguments of the model, with handles in the place of tensors that may be sequences."""
        return mapped(value, lambda x: Whole.of(self._known(Given(x))) if _is_sequence(x) else x)

    def _known(self, node: Any) -> Any:
        """The node itself, whose memory ends with the pass."""
        self._nodes.append(node)
        return node

    def _listening(self) -> AbstractContextManager[None]:
        """The modules hand their calls to this pass inside the block."""
        calls: dict[nn.Module, Callable[..., Any]] = {m: partial(weighted, m) for m in self._linear}
        calls |= {layer: partial(self._passed, layer) for layer in self._layers}
        members = {member.module: member for member in self._members}
        calls |= {module: in_chains(module, members, self._linear) for module in self._sequential}
        calls |= {module: partial(self._called, member) for module, member in members.items()}
        return answering(calls)

    @contextmanager
    def _unchanged_on_failure(self) -> Iterator[None]:
        """After an error the modules have the states that they had before."""
        kept = [m for m in self._members if m.keeps]
        before = [m.stepping.held(m.module) for m in kept]
        try:
            yield
        except BaseException:
            for member, state in zip(kept, before, strict=True):
                member.stepping.keep(member.module, state)
            raise

    def _passed(self, layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """A call of a layer of fluctua's own."""
        return self._wrapped(as_it_is(layer, *args, **kwargs))

    def _called(self, member: Member, x: Any, *args: Any, **kwargs: Any) -> Any:
        """A call of a population, in the place of its own."""
        stepwise, stepping, module = member.stepwise, member.stepping, member.module
        if type(x) is Step and not kwargs and member.continues(x, args):
            return member.next()
        plain = stepwise and not isinstance(x, Handle)
        if plain and member.spikes is not None:
            raise _changed(member)
        if plain or isinstance(member.step, str) or (member.spikes is None and stepping.watched(module)):
            return as_it_is(module, x, *args, **kwargs)
        given = stepping.given(module, args, kwargs)
        if stepwise:
            member.takes = len(args) if not kwargs and ends_with(member.answer, args) else None
            return self._step(member, x, given)
        spikes = self._known(_begun(member, x.node if isinstance(x, Whole) else Given(reals(x)), given))
        carried = [partial(stepping.carried, module, name) for name in stepping.names(module)]
        state = tuple(Whole.of(left_behind(spikes, k, each)) for k, each in enumerate(carried))
        if member.keeps:
            stepping.keep(module, state)
        if stepping.mean is not None:
            vars(module)[stepping.mean] = Whole.of(
                Later((), spikes.like, spikes.depth + 1, lambda: spikes.value.mean())
            )
        return stepping.answer(module, Whole.of(spikes), state)

    def _step(self, member: Member, x: Handle, given: States | None) -> Any:
        """A call with one step."""
        number = x.step if isinstance(x, Step) else None
        if member.spikes is not None and member.calls == member.spikes.shape[0] and number == 0:
            member.spikes = None  # the model goes through time again
        if member.spikes is None:
            member.shown, member.calls, member.late = number is None, 0, 0
            shown = self._steps(member) if number is None else None
            member.source, member.spikes = x.node, self._known(_begun(member, x.node, given, shown))
            after = member.step.step.traced  # type: ignore[union-attr]
            member.parts = [
                member.spikes if part is after.output else self._known(Part(member.spikes, k))
                for k, part in enumerate(after.state)
            ]
            if member.hearing is not None and member.hearing.kept:
                member.parts.append(member.spikes)
            elif member.population.name in self._hearing and member.spikes.shape[0] > 1:
                member.spikes.unheard = f"what {member} hears of itself is not known where its first spikes are needed"
        else:
            hears = member.calls == 1 and member.spikes.unheard is not None
            if not hears and (x.node is not member.source or member.shown is not (number is None)):
                raise _changed(member)
            _check_state(member, given)
            if hears:
                self._hear(member, x)
        if number not in (None, member.calls - member.late):
            raise FuseError(
                f"{member} hears step {number} of its input in its call {member.calls}: take steps in their order, and "
                "choose them before the loop, such as x = x[::2]"
            )
        member.state = ()
        return member.next()

    def _hear(self, member: Member, x: Handle) -> None:
        """Find out at its second step what a population hears of itself."""
        spikes = member.spikes
        assert spikes is not None
        if not isinstance(x, Step) or x.step > 1:
            raise _changed(member)
        member.late = 1 - x.step
        source, echo = heard(spikes, x.node, member.late)
        spikes.hear(self._known(source), echo)
        member.source, member.shown = x.node, False

    def _steps(self, member: Member) -> int:
        name = member.population.name
        if name not in self._shown:
            raise FuseError(f"{member} hears a static current, and it was not seen for how many steps")
        return self._shown[name]


def _changed(member: Member) -> FuseError:
    error = FuseError(
        f"what {member} hears at step {member.calls} is not computed as at step 0: by what happened before (recurrence "
        "or feedback), with weights or random numbers that change from step to step (encode inputs beforehand), or on "
        "another way through the model (a branch)"
    )
    error.changed = member.population.name
    return error


def _begun(member: Member, node: Node, given: States | None, shown: int | None = None) -> Spikes:
    """The population from its first step on."""
    assert not isinstance(member.step, str)
    layout, hearing = Layout() if member.layout.stepwise else member.layout, member.hearing

    def step_of(node: Node) -> Tensor:
        small = node.like.new_empty(()).expand(node.shape)
        return small if shown else layout.as_sequence(small)[0]

    called = step_of(node)
    if hearing is not None and hearing.incoming is not None:
        node = Product(node, hearing.incoming, None)
    small = step_of(node)
    state = given if given is not None else member.stepping.kept(member.module, small)
    if state is not None:
        state = reals(tuple(state))
        if member.keeps and any(part.shape != small.shape for part in state):
            state = None  # of another batch: such modules begin anew
    zeros = called.new_zeros(called.shape)
    rest = member.stepping.rest(member.module, zeros) if state is None else state
    parts = tuple(map(_number, rest))
    if hearing is None:
        types = member.population.types(zeros, rest)
        return Spikes(member.step, node, parts, layout, shown, name=str(member), types=types)
    echo = Echo(hearing.back, parts[-1] if hearing.kept else None)
    return Spikes(member.step, node, parts[: member.step.states], layout, shown, echo, str(member))


def _number(part: Any) -> Any:
    """Zero where a part of the state is at rest, so that weights and neurons may join."""
    still = isinstance(part, Tensor) and not part.requires_grad and not part.any()
    return 0.0 if still else part


def _check_state(member: Member, given: States | None) -> None:
    """The state must be that of the step before.

    Raises:
        FuseError: it is not.
    """
    last = member.calls - 1
    state = member.stepping.held(member.module) if given is None and member.keeps else given
    for part, node in zip(state or (None,) * len(member.parts), member.parts, strict=True):
        if not isinstance(part, Step) or part.node is not node or part.step != last:
            raise FuseError(
                f"the state of {member} is changed between steps {last} and {last + 1}, or cut out of the graph"
            )


def _is_sequence(x: Tensor) -> bool:
    return type(x) in (Tensor, nn.Parameter) and x.is_floating_point() and x.ndim > 1


def _forget(nodes: Iterable[Node]) -> None:
    """Let go of what was looked up during a pass, which else would hold its tensors in circles."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        memo, node.memo = node.memo, {}
        node.spare.clear()
        found = handles_in(list(memo.values()), (Handle, Node))
        waiting += [x.node if isinstance(x, Handle) else x for x in found]
