"""Forward passes that go just as far as the population at work, at the cost of one layer."""

from collections import Counter
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fluctua.wiring import Population
from fluctua.wiring.running import Copies, Forward, only_requiring_grad, preserved
from fluctua.wiring.trace import current_of, hooked, tensors_in


class _Arrived(Exception):
    def __init__(self, current: Tensor) -> None:
        self.current = current


class Passes:
    """Runs a model up to a population's input current; populations reported as done answer from memory.

    A pass stops at the wanted population. What is done is not computed again: the neurons of a finished population
    return the spikes that they gave once, and the synapses that feed only them a meaningless tensor of the right
    shape, which nothing reads. So bringing a network of L populations into shape costs O(L) layers, not O(L^2). Every
    pass starts from the same state of the model and of torch's random number generators: dropout masks stay the same.
    """

    def __init__(self, model: nn.Module, batch: Any, forward: Forward) -> None:
        self._model, self._batch, self._forward = model, batch, forward
        self._done: list[Population] = []
        self._outputs: dict[nn.Module, Any] = {}
        self._versions: dict[nn.Module, list[int]] = {}  # of the outputs when they were given
        self._changed: set[nn.Module] = set()  # neurons whose output the model changes in place
        self._stand_ins: dict[nn.Module, Tensor] = {}

    def done(self, population: Population) -> None:
        """From now on the weights of `population` stay as they are."""
        self._done.append(population)

    def current(self, population: Population, gradients: list[Tensor] | None = None) -> Tensor:
        """Input current `[T, B, *N]` of a population, with a graph back to the parameters `gradients`, if given."""

        def stop(module: nn.Module, args: tuple[Any, ...]) -> None:
            raise _Arrived(current_of(args, population.name))

        self._forget_changed()
        handles = [population.module.register_forward_pre_hook(stop)]
        handles += [p.module.register_forward_hook(self._remember) for p in self._done]
        handles += [q.synapse.register_forward_hook(self._remember_shape) for p in self._done for q in p.pathways]
        with preserved(self._model), only_requiring_grad(self._model, gradients or []), hooked(handles):
            for module in self._outputs:
                vars(module)["forward"] = partial(self._recall, module)
            for module in self._idle(population) & self._stand_ins.keys():
                vars(module)["forward"] = partial(self._stand_in, module)
            try:
                self._forward(self._model, self._batch)
            except _Arrived as arrived:
                return arrived.current
        raise RuntimeError(f"the forward pass did not reach {population.name}, though it did when it was traced")

    def _idle(self, population: Population) -> set[nn.Module]:
        """Synapses that feed one finished population and nothing that is computed in this pass."""
        fed = Counter(synapse for p in self._done for synapse in {q.synapse for q in p.pathways})
        computed = [population, *(p for p in self._done if p.module not in self._outputs)]
        at_work = {module for p in computed for q in p.pathways for module in (q.synapse, *q.through)}
        return {synapse for synapse, populations in fed.items() if populations == 1} - at_work

    def _forget_changed(self) -> None:
        """Outputs that the model has changed in place are worthless: compute them again, and keep a copy then."""
        for module, versions in self._versions.items():
            if module in self._outputs and module not in self._changed and versions != _versions(self._outputs[module]):
                self._changed.add(module)
                del self._outputs[module]

    def _remember(self, module: nn.Module, args: Any, output: Any) -> None:
        if module not in self._outputs:
            self._outputs[module] = self._copy(output) if module in self._changed else output
            self._versions[module] = _versions(output)

    def _recall(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        output = self._outputs[module]
        return self._copy(output) if module in self._changed else output

    def _remember_shape(self, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and module not in self._stand_ins:
            like = [t for t in self._stand_ins.values() if t.shape == output.shape and t.dtype == output.dtype]
            self._stand_ins[module] = like[0] if like else torch.zeros_like(output)

    def _stand_in(self, module: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        return self._stand_ins[module]

    def _copy(self, output: Any) -> Any:
        return Copies(self._model).of(output)


def _versions(output: Any) -> list[int]:
    return [tensor._version for tensor in tensors_in(output)]
