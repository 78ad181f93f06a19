"""A pass is one trial: a neuron that begins anew from rest within it is refused, whatever keeps its state."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.network import WiringError
from fluctua.network.probe import ProbedNeuron
from shared.frameworks.cases import needed
from shared.spikes import spikes

Cell = tuple[nn.Module, Any, Any]
"""A neuron module, its call `(x, state) -> spikes, state`, and what brings it to rest and returns the state of that."""


class Leaky(nn.Module):
    """A neuron of the user's own, which keeps its potential."""

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        self.v: float | Tensor = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.v = 0.9 * self.v + x
        emitted = (self.v >= 1).float() + 0 * self.v
        self.v = self.v * (1 - emitted)
        return emitted


DESCRIBED: dict[type[nn.Module], ProbedNeuron] = {Leaky: ProbedNeuron(threshold=1.0, membrane="v", reset="reset")}


def own() -> Cell:
    module = Leaky()
    return module, lambda x, state: (module(x), None), module.reset


def snntorch() -> Cell:
    module = needed("snntorch").Leaky(beta=0.9)
    return module, module, module.reset_mem


def snntorch_hidden() -> Cell:
    module = needed("snntorch").Leaky(beta=0.9, init_hidden=True)
    return module, lambda x, state: (module(x), None), module.reset_mem


def norse() -> Cell:
    module = needed("norse.torch").LIFCell()
    return module, module, lambda: None


def spikingjelly() -> Cell:
    module = needed("spikingjelly.activation_based.neuron").LIFNode()
    return module, lambda x, state: (module(x), None), module.reset


class Chunks(nn.Module):
    """A layer that runs its trial in parts, and does something to its neurons between them."""

    def __init__(self, made: Any, between: str, every: int) -> None:
        super().__init__()
        self.fc = nn.Linear(20, 30)
        nn.init.normal_(self.fc.weight, 0.5, 0.5)
        self.neuron, self._call, self._rest = made()
        self.between, self.every = between, every

    def forward(self, x: Tensor) -> Tensor:
        state, emitted = self._rest(), []
        for t, now in enumerate(x):
            if t and t % self.every == 0:
                state = self._rest() if self.between == "rest" else cut(self.neuron, state)
            output, state = self._call(self.fc(now), state)
            emitted.append(output)
        return torch.stack(emitted)


def cut(module: nn.Module, state: Any) -> Any:
    """The same state without its graph, as truncated backpropagation leaves it."""
    places: list[Any] = [vars(module), module._buffers, getattr(module, "_memories", {})]
    for place in places:
        place.update({name: v.detach() for name, v in place.items() if type(v) is Tensor})
    if isinstance(state, tuple):
        return type(state)(*[part.detach() for part in state])
    return None if state is None else state.detach()


MAKES = [own, snntorch, snntorch_hidden, norse, spikingjelly]


@pytest.mark.parametrize("every", [1, 7])
@pytest.mark.parametrize("made", MAKES, ids=lambda made: made.__name__)
def test_a_neuron_that_begins_anew_within_a_pass_is_refused(made: Any, every: int) -> None:
    model, x = Chunks(made, "rest", every), spikes(30, 8, 20, p=0.2)
    with pytest.raises(WiringError, match="the neuron neuron begins anew from rest within one pass"):
        fluctua.initialize(model, x, neurons=DESCRIBED)


@pytest.mark.parametrize("every", [1, 7])
@pytest.mark.parametrize("made", MAKES, ids=lambda made: made.__name__)
def test_a_neuron_whose_graph_is_cut_goes_on(made: Any, every: int) -> None:
    model, x = Chunks(made, "cut", every), spikes(30, 8, 20, p=0.2)
    assert fluctua.inspect(model, x, neurons=DESCRIBED)["neuron"].sigma_u == pytest.approx(
        fluctua.inspect(Same(model), x, neurons=DESCRIBED)["neuron"].sigma_u, rel=1e-6
    )


class Same(Chunks):
    """The same layer, which does nothing between the parts."""

    def __init__(self, model: Chunks) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(vars(model))
        self.every = 1000


@pytest.mark.parametrize("made", MAKES, ids=lambda made: made.__name__)
def test_it_may_begin_anew_as_long_as_nothing_has_arrived(made: Any) -> None:
    x, model = spikes(20, 8, 20, p=0.2), Chunks(made, "rest", every=10)
    x[:10] = 0
    nn.init.zeros_(model.fc.bias)
    assert fluctua.inspect(model, x, neurons=DESCRIBED)["neuron"].sigma_u > 0


def test_a_saturated_layer_whose_graph_is_cut_goes_on() -> None:
    """Each spike leaves it at rest, in every neuron."""

    def made() -> Cell:
        module = needed("spikingjelly.activation_based.neuron").IFNode()
        return module, lambda x, state: (module(x), None), module.reset

    model = Chunks(made, "cut", every=1)
    nn.init.constant_(model.fc.bias, 2.0)
    model.fc.weight.data.abs_()
    report = fluctua.inspect(model, spikes(30, 8, 20, p=0.2))
    assert report["neuron"].rate == pytest.approx(1.0)


def test_a_neuron_that_forgets_by_a_product_begins_anew_too() -> None:
    class Forgets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.neuron = nn.Linear(20, 30), needed("snntorch").Leaky(beta=0.9)

        def forward(self, x: Tensor) -> Tensor:
            mem, out = self.neuron.reset_mem(), []
            for t, step in enumerate(x):
                emitted, mem = self.neuron(self.fc(step), mem * (t % 10 > 0))
                out.append(emitted)
            return torch.stack(out)

    with pytest.raises(WiringError, match="begins anew from rest within one pass"):
        fluctua.inspect(Forgets(), spikes(30, 8, 20, p=0.2))
