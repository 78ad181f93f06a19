"""Forward passes that run only up to the current population, at the cost of one layer."""

import copy
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from fluctua.network import run
from fluctua.network.adapters.registry import prepare
from fluctua.network.facts import INPUT, Population, population_currents
from fluctua.network.preserve import States, gpus_of, only_requiring_grad, state_of, torchs_own
from fluctua.spikes.batch import MAX_DENSITY, SpikeBatch
from fluctua.timeloop.engines import is_special

_LARGE = 2**28  # products of numbers, from which the spikes in the input of a layer are looked for

Keep = Callable[[nn.Module, Any], Any]  # module and output -> what is kept of the output and of the state


class _Enough(BaseException):  # not an Exception, which the model might catch
    """Everything wanted from a pass is there."""


@dataclass(frozen=True, eq=False)
class _Answer:
    """What a module returned and its state afterwards, and the states of torch's random number generators."""

    output: Any
    state: Any
    versions: list[int]
    random: Callable[[], object]


class Replay:
    """Runs a model up to a population's input current; finished populations answer from memory.

    A pass stops at the wanted population and does not repeat finished work: the neurons of a finished population return
    their recorded spikes, and modules with weights that feed only finished populations return a meaningless tensor of
    the right shape, which nothing reads. So initialising a network of L populations costs O(L) layers, not O(L^2).
    Every pass starts from the same state of the model and of torch's random number generators, and a module that
    answers from memory leaves them as if it had run: dropout masks stay the same.

    A model that runs step by step cannot stop at a population, since the next step begins at the input again. There,
    modules outside the wanted population and its inputs return placeholders: modules with weights a meaningless tensor,
    unfinished neurons their assumed spikes, or none.

    With its answer a neuron gets back the state that it had then, since the model, or a hook, may read it.

    Report populations as done in the order in which they run.

    Args:
        model: any model.
        batch: its input.
        forward: runs it.
        populations: of the model, in the order in which they run.
    """

    def __init__(self, model: nn.Module, batch: Any, forward: run.Forward, populations: Sequence[Population]) -> None:
        self.model, self.batch, self.forward = model, batch, forward
        self.populations = tuple(populations)
        self._stepwise = [p for p in populations if p.calls > 1]
        self._states, self._gpus = States(model, prepare), gpus_of(model)
        self._parameters = list(run.parameters_of(model))
        self._start = torchs_own(self._gpus)
        self._done: list[Population] = []
        self._answers: dict[tuple[nn.Module, int], _Answer] = {}  # for the module's first, second, ... call in a pass
        self._changed: set[nn.Module] = set()  # neurons whose output the model changes in place
        self._zeros: dict[Any, Tensor] = {}  # one for all outputs of the same shape and type
        self._forms: dict[nn.Module, Any] = {}  # zero output, and state, of neurons called step by step
        self._assumed: dict[str, Tensor] = {}
        self._assumption = 0  # counts the assumptions made
        self.pretended: dict[str, tuple[str, ...]] = {}  # by population: its silent sources that were assumed to spike
        self._events: dict[nn.Module, tuple[Tensor, int, SpikeBatch | None]] = {}  # in the input of a layer
        self._last: dict[str, tuple[list[Any], tuple[Tensor, ...]]] = {}  # by population: weights, their currents

    def done(self, population: Population) -> None:
        """From now on the weights of `population` stay as they are."""
        self._events.clear()
        self._done.append(population)

    def assume(self, spikes: Mapping[str, Tensor]) -> None:
        """Assume these spikes `[T, B, *N]`, by name of the population, for the sources of recurrent pathways."""
        self._assumed |= spikes
        self._assumption += 1

    def currents(self, population: Population, gradients: list[Tensor] | None = None) -> list[Tensor | None]:
        """Input currents `[T, B, *N]` of a population, one for each of its neuron's kernels; None if none arrives.

        Recurrent pathways contribute according to the last assumed spikes; without any they add nothing.

        Args:
            population: the population.
            gradients: parameters with respect to which the currents should be differentiable.
        """
        arguments = self._arguments(population, gradients)
        with only_requiring_grad(self._parameters, gradients or []):
            return population_currents(population, arguments, self._assumed)

    def current(self, population: Population) -> Tensor:
        """The first input current of a population."""
        return next(current for current in self.currents(population) if current is not None)

    def heard(self, population: Population) -> dict[str, Tensor]:
        """The input of the synapse of each pathway from outside a population's module, by the pathway's name.

        If the model runs step by step, it contains all steps, one after the other.
        """
        inputs: dict[nn.Module, list[Tensor]] = {q.synapse: [] for q in population.pathways if not q.inside}

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            inputs[module].append(next(run.tensors_in((args, kwargs))).detach())

        self._last.clear()  # what answers from memory would not run
        with run.hooked([nn.Module.register_forward_pre_hook(synapse, note, with_kwargs=True) for synapse in inputs]):
            self._arguments(population, None)
        joined = {synapse: x[0] if len(x) == 1 else torch.cat(x) for synapse, x in inputs.items() if x}
        return {q.name: joined[q.synapse] for q in population.pathways if not q.inside and q.synapse in joined}

    def data(self, population: Population) -> dict[str, Tensor]:
        """As `heard`, of the pathways from the network's input alone."""
        names = {q.name for q in population.pathways if q.sources == (INPUT,)}
        return {name: x for name, x in self.heard(population).items() if name in names} if names else {}

    @cached_property
    def input_rate(self) -> float:
        """Mean rate in Hz of the network's input, over all pathways from the input; 0 if there are none."""
        rates: list[float] = []
        for population in self.populations:
            data = self.data(population).values()
            rates += [float(x.double().mean()) / population.neuron.kernel.dt for x in data]
        return sum(rates) / len(rates) if rates else 0.0

    def simulate(self, populations: Sequence[Population]) -> dict[str, Tensor]:
        """Spikes `[T, B, *N]` of a group of populations with their present weights, by name."""
        spikes: dict[str, Tensor] = {}
        arguments: dict[str, tuple[Tensor, ...]] = {}

        def keep(name: str, output: Tensor) -> None:
            spikes[name] = output.detach()
            if len(spikes) == len(populations) and not self._stepwise:
                raise _Enough

        handles = [run.emitted(p, keep) for p in populations]
        handles += [run.heard(p, arguments.__setitem__) for p in populations]
        with run.hooked(handles), suppress(_Enough):
            self._run(populations, [], firing=True)
        if not any(p.calls > 1 for p in populations):  # else the currents contain spikes that were not assumed
            for name, currents in arguments.items():
                self._remember(name, currents)
        return spikes

    def _arguments(self, population: Population, gradients: list[Tensor] | None) -> tuple[Tensor, ...]:
        """The currents `[T, B, *N]` that a population's module is called with."""
        if not gradients and population.name in self._last and self._last[population.name][0] == self._weights():
            return self._last[population.name][1]
        arrived: list[tuple[Tensor, ...]] = []

        def then(name: str, currents: tuple[Tensor, ...]) -> None:
            arrived.append(currents)
            if not self._stepwise:
                raise _Enough

        with run.hooked([run.heard(population, then)]), suppress(_Enough):
            self._run([population], gradients or [])
        if not arrived:
            raise RuntimeError(f"the forward pass did not reach {population.name}, though it did when it was traced")
        if not gradients:
            self._remember(population.name, arrived[0])
        return arrived[0]

    def _remember(self, name: str, currents: tuple[Tensor, ...]) -> None:
        now = self._weights()
        self._last = {other: known for other, known in self._last.items() if known[0] == now} | {name: (now, currents)}

    def _weights(self) -> list[Any]:
        """The weights that the currents depend on."""
        assumption = self._assumption if self._stepwise else 0
        return [len(self._done), assumption, *(p._version for p in self._parameters)]

    def kept(self, population: Population) -> Tensor | None:
        """The recorded spikes `[T, B, *N]` of a finished population; None if they are not known."""
        calls = [self._answers.get((population.module, k)) for k in range(population.calls)]
        if population.emitter is not population.module or None in calls:
            return None
        layout, outputs = population.layout, [known.output for known in calls if known is not None]
        return torch.cat([layout.as_sequence(layout.spikes(population.module, output)) for output in outputs])

    @contextmanager
    def pretending(self, population: Population, spikes: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside the block populations answer the given spikes `[T, B, *N]`, by name, to the population they feed."""
        self.pretended[population.name] = tuple(spikes)
        answers = dict(self._answers)
        for p in (p for p in self._done if p.name in spikes):
            for call, part in enumerate(spikes[p.name].chunk(p.calls)):
                known = self._answers[p.module, call]
                output = p.layout.answer(p.module, known.output, p.layout.as_called(part))
                self._answers[p.module, call] = replace(known, output=output, versions=_versions(output, known.state))
        self._last.clear()
        try:
            yield
        finally:
            self._answers |= answers
            self._last.clear()

    def currents_while_silent(self, silent: Collection[nn.Module]) -> dict[str, tuple[Tensor, ...]]:
        """The currents that finished populations are called with, by name, while modules with weights output zeros."""
        arrived: dict[str, tuple[Tensor, ...]] = {}

        def note(name: str, currents: tuple[Tensor, ...]) -> None:
            arrived[name] = tuple(current.clone() for current in currents)

        self._forget_changed()
        if any((p.module, 0) not in self._answers for p in self._done):
            self.finish()
        handles = [run.heard(p, note) for p in self._done]
        handles += [nn.Module.register_forward_hook(m, lambda m, x, y: run.mapped(y, torch.zeros_like)) for m in silent]
        with run.hooked(handles):
            self._run(self._done, [])
        return arrived

    def finish(self) -> None:
        """Run to the end once more, including everything that has not run since it was done."""
        self._run((), [])

    def _run(self, populations: Sequence[Population], gradients: list[Tensor], *, firing: bool = False) -> None:
        """One pass that computes the currents of some populations; they run themselves if they are `firing`."""
        self._forget_changed()
        idle = self._idle(populations)
        working = {p.module for p in (*self._done, *(populations if firing else ()))}
        calls: Counter[nn.Module] = Counter()
        forwards = {p.module: self._answering(p.module, self._spikes, calls) for p in self._done}
        for module in _weighted([*self._done, *self._stepwise]):
            forwards[module] = self._answering(module, self._stand_in, calls, recall=module in idle)
        forwards |= {p.module: self._assuming(p, calls) for p in self._stepwise if p.module not in working}
        synapses = {q.synapse for p in populations for q in p.pathways} - forwards.keys()
        forwards |= {m: self._adding_up(m) for m in synapses if type(m) is nn.Linear and "forward" not in vars(m)}
        with self._states.lent(), torch.random.fork_rng(self._gpus), only_requiring_grad(self._parameters, gradients):
            for module, forward in forwards.items():
                vars(module)["forward"] = forward
            self._start()
            try:
                self.forward(self.model, self.batch)
            finally:
                for module in forwards:  # that of the model's own modules comes back with their state
                    del vars(module)["forward"]

    def _answering(
        self, module: nn.Module, keep: Keep, calls: Counter[nn.Module], *, recall: bool = True
    ) -> Callable[..., Any]:
        """A `forward` that returns what the same call returned in an earlier pass, if recorded."""
        forward = module.forward

        def answer(*args: Any, **kwargs: Any) -> Any:
            call = module, calls[module]
            calls[module] += 1
            known = self._answers.get(call)
            if recall and known is not None:
                known.random()
                kept = known.output, known.state
                answered, state = self._copy(kept) if module in self._changed else kept
                put_back(module, state)
                return answered
            output = forward(*args, **kwargs)
            kept = keep(module, output)
            if known is None and kept is not None:
                self._answers[call] = _Answer(kept[0], kept[1], _versions(*kept), torchs_own(self._gpus))
            return output

        return answer

    def _assuming(self, population: Population, calls: Counter[nn.Module]) -> Callable[..., Any]:
        """A `forward` that returns the assumed spikes of a population, or none."""
        module, layout, forward = population.module, population.layout, population.module.forward

        def answer(*args: Any, **kwargs: Any) -> Any:
            call = calls[module]
            calls[module] += 1
            if module not in self._forms:
                form = run.mapped(forward(*args, **kwargs), lambda x: torch.zeros_like(x.detach()))
                self._forms[module] = form, states_in(module)
            form, state = self._forms[module]
            put_back(module, state)
            if population.name not in self._assumed:
                return form
            spikes = layout.as_called(self._assumed[population.name][call : call + 1])
            return layout.answer(module, form, spikes)

        return answer

    def _adding_up(self, layer: nn.Linear) -> Callable[[Tensor], Tensor]:
        """A `forward` that adds up the weights of the spikes, if a large input has few."""

        def answer(input: Tensor) -> Tensor:
            x = input  # as torch names it: a model may call it by name
            plain = x.device.type == "cpu" and x.dtype == layer.weight.dtype in (torch.float32, torch.float64)
            large = x.ndim == 3 and x.numel() * len(layer.weight) >= _LARGE
            if not (plain and large) or is_special(x) or torch.is_autocast_enabled("cpu"):
                return nn.Linear.forward(layer, x)
            known = self._events.get(layer)
            if known is None or known[0] is not x or known[1] != x._version:
                known = self._events[layer] = x, x._version, SpikeBatch.from_dense(x, MAX_DENSITY)
            if known[2] is None:
                return nn.Linear.forward(layer, x)
            from fluctua.timeloop.events_layers import weighted  # with numba, which small networks do without

            return weighted(known[2], x, layer.weight, layer.bias)

        return answer

    def _spikes(self, module: nn.Module, output: Any) -> tuple[Any, Any]:
        kept = output, states_in(module)
        return self._copy(kept) if module in self._changed else kept

    def _stand_in(self, module: nn.Module, output: Any) -> tuple[Tensor, Any] | None:
        if not isinstance(output, Tensor):
            return None
        form = (output.shape, output.stride(), output.dtype, output.device)
        if form not in self._zeros:
            self._zeros[form] = torch.zeros_like(output)
        return self._zeros[form], ()

    def _idle(self, populations: Sequence[Population]) -> set[nn.Module]:
        """Modules with weights that feed nothing that is computed in this pass."""
        computed = [p for p in self._done if (p.module, 0) not in self._answers]
        return _weighted([*self._done, *self._stepwise]) - _weighted([*computed, *populations])

    def _forget_changed(self) -> None:
        """Forget outputs that the model changed in place; computed again, they are kept as copies."""
        done = {p.module for p in self._done} - self._changed
        for (module, _), known in self._answers.items():
            if module in done and known.versions != _versions(known.output, known.state):
                self._changed.add(module)
        self._answers = {call: a for call, a in self._answers.items() if call[0] not in done & self._changed}

    def _copy(self, kept: tuple[Any, Sequence[dict[str, Any]]]) -> tuple[Any, list[dict[str, Any]]]:
        """Copies, except of records to which modules append in each step: no step changes earlier entries."""
        output, states = kept
        records = [{k: v for k, v in state.items() if _is_record(v)} for state in states]
        output, others = run.Copies(self.model).of((output, _without_records(states)))
        return output, [other | own for other, own in zip(others, records, strict=True)]


def states_in(module: nn.Module) -> list[dict[str, Any]]:
    """The present state of a neuron module and its children: the tensors themselves, in new containers."""
    return [_apart({k: v for k, v in state_of(m).items() if k != "forward"}) for m in run.modules_of(module)]


def put_back(module: nn.Module, states: Sequence[dict[str, Any]]) -> None:
    """Restore the recorded state of a neuron module and its children, if any."""
    for inner, state in zip(run.modules_of(module), states, strict=False):
        vars(inner).update(_apart(state))


def _is_record(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, dict) and any(isinstance(v, list) for v in value.values()))


def _versions(output: Any, states: Sequence[dict[str, Any]]) -> list[int]:
    """Those of what a module returned and keeps, except of records, which grow but keep what is in them."""
    return run.versions([output, _without_records(states)])


def _without_records(states: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in state.items() if not _is_record(v)} for state in states]


def _apart(state: dict[str, Any]) -> dict[str, Any]:
    return {name: copy.copy(value) if isinstance(value, dict | list) else value for name, value in state.items()}


def _weighted(populations: Sequence[Population]) -> set[nn.Module]:
    """The modules with weights between the populations and those before them."""
    ways = [q for p in populations for q in p.pathways if q.inner is None]
    return {module for q in ways for module in (q.synapse, *q.through)}
