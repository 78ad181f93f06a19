"""Forward passes that go just as far as the population at work, at the cost of one layer."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fluctua.wiring import Population, population_currents
from fluctua.wiring.running import Copies, Forward, gpus_of, only_requiring_grad, preserved
from fluctua.wiring.trace import currents_of, hooked, versions


class _Arrived(BaseException):  # no Exception, which the model might catch
    def __init__(self, currents: tuple[Tensor, ...]) -> None:
        self.currents = currents


@dataclass(frozen=True, eq=False)
class _Answer:
    """What a module returned once, and the states of torch's random number generators when it did."""

    output: Any
    versions: list[int]
    random: list[Tensor]


class Passes:
    """Runs a model up to a population's input current; populations reported as done answer from memory.

    A pass stops at the wanted population. What is done is not computed again: the neurons of a finished population
    return the spikes that they gave once, and the modules with weights that feed only finished ones a meaningless
    tensor of the right shape, which nothing reads. So bringing a network of L populations into shape costs O(L)
    layers, not O(L^2). Every pass starts from the same state of the model and of torch's random number generators, and
    a module that answers from memory leaves them as if it had run: dropout masks stay the same.

    Populations are to be reported as done in the order in which they run.
    """

    def __init__(self, model: nn.Module, batch: Any, forward: Forward) -> None:
        self._model, self._batch, self._forward = model, batch, forward
        self._gpus = gpus_of(model)
        self._start = self._random()
        self._done: list[Population] = []
        self._answers: dict[tuple[nn.Module, int], _Answer] = {}  # to the module's first, second, ... call in a pass
        self._changed: set[nn.Module] = set()  # neurons whose output the model changes in place
        self._zeros: dict[Any, Tensor] = {}  # one for all outputs of the same form
        self._assumed: dict[str, Tensor] = {}
        self._last: tuple[list[Any], tuple[Tensor, ...]] | None = None  # weights and what came of them

    def done(self, population: Population) -> None:
        """From now on the weights of `population` stay as they are."""
        self._done.append(population)

    def assume(self, spikes: Mapping[str, Tensor]) -> None:
        """Take these to be the spikes `[T, B, *N]` of populations, by name, that recurrent pathways start from."""
        self._assumed |= spikes

    def scale(self, name: str, factor: float) -> None:
        """Take the spikes of a population to be so many times as many as last assumed."""
        self._assumed[name] = factor * self._assumed[name]

    def currents(self, population: Population, gradients: list[Tensor] | None = None) -> list[Tensor | None]:
        """Input currents `[T, B, *N]` of a population, one for each of its neuron's kernels; None where none arrives.

        What recurrent pathways add follows from the spikes that were last assumed; without any they add nothing.

        Args:
            population: whose.
            gradients: parameters that the currents are to have a graph back to.
        """
        arguments = self._arguments(population, gradients)
        with only_requiring_grad(self._model, gradients or []):
            return population_currents(population, arguments, self._assumed)

    def current(self, population: Population) -> Tensor:
        """The first input current of a population."""
        return next(current for current in self.currents(population) if current is not None)

    def heard(self, population: Population) -> dict[str, Tensor]:
        """What the synapse of each pathway from outside a population's module gets, by the pathway's name."""
        inputs: dict[str, Tensor] = {}

        def noting(name: str) -> Any:
            def before(module: nn.Module, args: tuple[Any, ...]) -> None:
                inputs[name] = args[0].detach()

            return before

        self._last = None  # what answers from memory does not run
        outside = [q for q in population.pathways if not q.recurrent]
        with hooked([q.synapse.register_forward_pre_hook(noting(q.name)) for q in outside]):
            self._arguments(population, None)
        return inputs

    def simulate(self, populations: Sequence[Population]) -> dict[str, Tensor]:
        """Spikes `[T, B, *N]` of all populations of one module with the weights as they are, by name."""
        arguments = self._arguments(populations[0], None)
        spikes: dict[str, Tensor] = {}

        def noting(name: str) -> Any:
            def after(module: nn.Module, args: Any, output: Tensor) -> None:
                spikes[name] = output.detach()

            return after

        handles = [p.emitter.register_forward_hook(noting(p.name)) for p in populations]
        with preserved(self._model), torch.no_grad(), hooked(handles):
            populations[0].module(*arguments)
        return spikes

    def _arguments(self, population: Population, gradients: list[Tensor] | None) -> tuple[Tensor, ...]:
        """The currents that a population's module is called with."""

        def stop(module: nn.Module, args: tuple[Any, ...]) -> None:
            raise _Arrived(currents_of(args, population.name))

        weights = [population.module, len(self._done), *(p._version for p in self._model.parameters())]
        if not gradients and self._last is not None and self._last[0] == weights:
            return self._last[1]
        with hooked([population.module.register_forward_pre_hook(stop)]):
            try:
                self._run(population, gradients or [])
            except _Arrived as arrived:
                self._last = None if gradients else (weights, arrived.currents)
                return arrived.currents
        raise RuntimeError(f"the forward pass did not reach {population.name}, though it did when it was traced")

    def finish(self) -> None:
        """Run to the end once more: what has not run since it was done does so now."""
        self._run(None, [])

    def _run(self, population: Population | None, gradients: list[Tensor]) -> None:
        self._forget_changed()
        idle = self._idle(population)
        calls: Counter[nn.Module] = Counter()
        with preserved(self._model), only_requiring_grad(self._model, gradients):
            for module in dict.fromkeys(p.module for p in self._done):
                vars(module)["forward"] = self._answering(module, self._spikes, calls)
            for module in _weighted(self._done):
                vars(module)["forward"] = self._answering(module, self._stand_in, calls, recall=module in idle)
            self._set_random(self._start)
            self._forward(self._model, self._batch)

    def _answering(
        self,
        module: nn.Module,
        keep: Callable[[nn.Module, Any], Any],
        calls: Counter[nn.Module],
        *,
        recall: bool = True,
    ) -> Callable[..., Any]:
        """A `forward` that returns what was kept of the same call in an earlier pass, if anything."""
        forward = module.forward

        def answer(*args: Any, **kwargs: Any) -> Any:
            call = module, calls[module]
            calls[module] += 1
            known = self._answers.get(call)
            if recall and known is not None:
                self._set_random(known.random)
                return self._copy(known.output) if module in self._changed else known.output
            output = forward(*args, **kwargs)
            kept = keep(module, output)
            if known is None and kept is not None:
                self._answers[call] = _Answer(kept, versions(kept), self._random())
            return output

        return answer

    def _spikes(self, module: nn.Module, output: Any) -> Any:
        return self._copy(output) if module in self._changed else output

    def _stand_in(self, module: nn.Module, output: Any) -> Tensor | None:
        if not isinstance(output, Tensor):
            return None
        form = (output.shape, output.stride(), output.dtype, output.device)
        if form not in self._zeros:
            self._zeros[form] = torch.zeros_like(output)
        return self._zeros[form]

    def _idle(self, population: Population | None) -> set[nn.Module]:
        """Modules with weights that feed finished populations and nothing that is computed in this pass."""
        computed = [p for p in self._done if (p.module, 0) not in self._answers]
        computed += [] if population is None else [population]
        return _weighted(self._done) - _weighted(computed)

    def _forget_changed(self) -> None:
        """Outputs that the model has changed in place are worthless: compute them again, and keep a copy then."""
        for module in {p.module for p in self._done} - self._changed:
            known = self._answers.get((module, 0))
            if known is not None and known.versions != versions(known.output):
                self._changed.add(module)
                del self._answers[module, 0]

    def _copy(self, output: Any) -> Any:
        return Copies(self._model).of(output)

    def _random(self) -> list[Tensor]:
        return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self._gpus)]

    def _set_random(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        for gpu, state in zip(self._gpus, states[1:], strict=True):
            torch.cuda.set_rng_state(state, gpu)


def _weighted(populations: list[Population]) -> set[nn.Module]:
    """The modules with weights between the populations and those before them."""
    ways = [q for p in populations for q in p.pathways if not q.recurrent]
    return {module for q in ways for module in (q.synapse, *q.through)}
