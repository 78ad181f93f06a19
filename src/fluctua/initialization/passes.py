"""Forward passes that go just as far as the population at work, at the cost of one layer."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fluctua.wiring import Population
from fluctua.wiring.running import Forward, only_requiring_grad
from fluctua.wiring.trace import current_of, hooked


class _Arrived(Exception):
    def __init__(self, current: Tensor) -> None:
        self.current = current


class Passes:
    """Runs a model up to a population's input current; populations reported as done answer from memory.

    A pass stops at the wanted population. What is done is not computed again: the neurons of a finished population
    return the spikes that they gave once, and the synapses that feed them a meaningless tensor of the right shape,
    which nothing reads. So bringing a network of L populations into shape costs O(L) layers, not O(L^2). Every pass
    starts from the same state of torch's random number generator: dropout masks stay the same.
    """

    def __init__(self, model: nn.Module, batch: Any, forward: Forward) -> None:
        self._model, self._batch, self._forward = model, batch, forward
        self._done: list[Population] = []
        self._outputs: dict[nn.Module, Any] = {}
        self._stand_ins: dict[nn.Module, Tensor] = {}

    def done(self, population: Population) -> None:
        """From now on the weights of `population` stay as they are."""
        self._done.append(population)

    def current(self, population: Population, gradients: list[Tensor] | None = None) -> Tensor:
        """Input current `[T, B, *N]` of a population, with a graph back to the parameters `gradients`, if given."""

        def stop(module: nn.Module, args: tuple[Any, ...]) -> None:
            raise _Arrived(current_of(args, population.name))

        pathways = [q for p in self._done for q in p.pathways]
        unfinished = {id(q.synapse) for q in population.pathways}
        handles = [population.module.register_forward_pre_hook(stop)]
        handles += [p.module.register_forward_hook(self._remember) for p in self._done]
        handles += [q.synapse.register_forward_hook(self._remember_shape) for q in pathways]
        answers = dict(self._outputs)
        answers |= {s: t for s, t in self._stand_ins.items() if id(s) not in unfinished}
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng())
            stack.enter_context(only_requiring_grad(self._model, gradients or []))
            stack.enter_context(hooked(handles))
            stack.enter_context(_answering(answers))
            try:
                self._forward(self._model, self._batch)
            except _Arrived as arrived:
                return arrived.current
        raise RuntimeError(f"the forward pass did not reach {population.name}, though it did when it was traced")

    def _remember(self, module: nn.Module, args: Any, output: Any) -> None:
        self._outputs[module] = output

    def _remember_shape(self, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and module not in self._stand_ins:
            like = [t for t in self._stand_ins.values() if t.shape == output.shape and t.dtype == output.dtype]
            self._stand_ins[module] = like[0] if like else torch.zeros_like(output)


@contextmanager
def _answering(answers: dict[nn.Module, Any]) -> Iterator[None]:
    """Let modules return a stored output instead of computing it."""
    for module, output in answers.items():
        vars(module)["forward"] = lambda *args, _output=output, **kwargs: _output
    try:
        yield
    finally:
        for module in answers:
            del vars(module)["forward"]
