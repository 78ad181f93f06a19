"""What has to be true of a network of another framework after one call, whichever framework it is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua

Calls = list[Tensor]  # what a neuron module was called with, call by call
Wiring = dict[str, dict[str, tuple[str, ...]]]  # population -> weight -> where it comes from
FreePotential = Callable[[Any, Calls], Tensor]


@dataclass(frozen=True)
class Case:
    """A network as its framework's users write it.

    Attributes:
        model: makes it, the same at every call.
        batch: makes its input.
        run: all time steps of it, as the user runs them.
        wiring: the weights into each population, and where they come from.
        options: of `fluctua.initialize`.
        slack: of sigma_U, relative.
    """

    model: Callable[[], nn.Module]
    batch: Callable[[], Tensor]
    run: Callable[[nn.Module, Tensor], Any]
    wiring: Wiring
    options: dict[str, Any] = field(default_factory=dict)
    slack: float = 0.05

    def initialised(self) -> tuple[nn.Module, fluctua.Report]:
        model = self.model()
        return model, fluctua.initialize(model, self.batch(), seed=0, **self.options)


def spikes(*shape: int, p: float = 0.1) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(1)) < p).float()


def chain(*names: str) -> Wiring:
    """Populations of which each hears the one before by the weight in front of it."""
    before, wiring = "input", Wiring()
    for weight, population in zip(names[::2], names[1::2], strict=True):
        wiring[population] = {f"{weight}.weight": (before,)}
        before = population
    return wiring


def assert_wired_and_in_the_wanted_state(
    case: Case, free_potential: FreePotential, threshold: Callable[[Any], float]
) -> None:
    """Mean and standard deviation of the potential of each population, of neurons that get what they get in a run as
    the user runs it, but cannot spike. A readout is taken to have a threshold of 1."""
    torch.manual_seed(0)
    model, report = case.initialised()
    assert {p.name: {q.name: q.sources for q in p.pathways} for p in report} == case.wiring
    neurons = {name: module for name, module in model.named_modules() if name in case.wiring}
    torch.manual_seed(1)  # what is dropped is what was dropped then, seed + 1: few samples, so others have other means
    with recorded(neurons) as calls:
        case.run(model, case.batch())
    with torch.no_grad():
        found = {name: free_potential(neuron, calls[name]) for name, neuron in neurons.items()}
    for name, neuron in neurons.items():
        u = found[name] / threshold(neuron)
        assert abs(float(u.mean())) < 0.05, name
        assert float(u.std()) == pytest.approx(1.0, rel=case.slack), name


def assert_nothing_but_weights_changed(case: Case, memory: Callable[[nn.Module], Any]) -> None:
    """The rest is what it was, down to the state that the last run left in the neurons."""
    model = case.model()
    synapses = [name for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    frozen = f"{synapses[-1]}.weight" if len(synapses) > 1 else None
    if frozen is not None:
        model.get_parameter(frozen).requires_grad_(False)
    output = case.run(model, case.batch())
    before = everything(model, memory)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    fluctua.initialize(model, case.batch(), seed=0, **case.options)
    assert everything(model, memory) == before
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, weights[name])}
    written = {name for pathways in case.wiring.values() for name in pathways} - {frozen}
    assert written <= changed
    assert {name for name in changed - written if not _is_gain_or_bias(model, name)} == set()
    assert _shapes(case.run(model, case.batch())) == _shapes(output)


def everything(model: nn.Module, memory: Callable[[nn.Module], Any]) -> Any:
    """All that initialising must leave alone, in a form that can be compared."""
    return (
        list(model.state_dict()),
        {name: p.requires_grad for name, p in model.named_parameters()},
        [m.training for m in model.modules()],
        {name: _content(buffer) for name, buffer in model.named_buffers()},
        _content(torch.random.get_rng_state()),
        _content(memory(model)),
    )


@contextmanager
def recorded(neurons: dict[str, nn.Module]) -> Iterator[dict[str, Calls]]:
    """What neurons are called with."""
    calls: dict[str, Calls] = {name: [] for name in neurons}

    def noting(name: str) -> Any:
        def before(module: nn.Module, args: Any) -> None:
            calls[name].append(args[0].detach().clone())

        return before

    handles = [neuron.register_forward_pre_hook(noting(name)) for name, neuron in neurons.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _content(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.dtype, value.detach().tolist()
    if isinstance(value, dict):
        return {key: _content(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_content(item) for item in value]
    return value


def _shapes(output: Any) -> Any:
    return tuple(output.shape) if isinstance(output, Tensor) else [_shapes(x) for x in output]


def _is_gain_or_bias(model: nn.Module, name: str) -> bool:
    owner = model.get_submodule(name.rpartition(".")[0])
    return name.endswith("bias") or isinstance(owner, nn.modules.batchnorm._BatchNorm)
