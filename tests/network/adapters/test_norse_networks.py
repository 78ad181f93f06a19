"""Laws of one call on networks of norse: wiring, the state that norse itself then shows, and what stays as it was."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from shared.norse_networks import NETWORKS, Network
from shared.tracing import trace

norse = pytest.importorskip("norse.torch")

CELL = {
    "LIFParameters": norse.LIFCell,
    "LIFBoxParameters": norse.LIFBoxCell,
    "LSNNParameters": norse.LSNNCell,
    "LIParameters": norse.LICell,
}
EVERY = pytest.mark.parametrize("name", NETWORKS)


def built(name: str) -> tuple[Network, nn.Module]:
    torch.manual_seed(0)
    return NETWORKS[name], NETWORKS[name].build()


@EVERY
def test_the_pathways_are_those_that_were_written(name: str) -> None:
    network, model = built(name)
    found = trace(model, network.batch[:, :2])
    assert {p.name: {q.name: q.sources for q in p.pathways} for p in found} == network.wiring


@EVERY
def test_one_call_brings_every_population_to_its_target(name: str) -> None:
    network, model = built(name)
    fluctua.initialize(model, network.batch, seed=0)
    potentials = free_potentials(model, network)
    assert potentials.keys() == network.wiring.keys()
    for population, u in potentials.items():
        recurrent = any(population in sources for sources in network.wiring[population].values())
        assert float(u.mean()) == pytest.approx(0, abs=0.05), population
        assert float(u.std(correction=0)) == pytest.approx(1, rel=0.1 if recurrent else 0.05), population


def free_potentials(model: nn.Module, network: Network) -> Mapping[str, Tensor]:
    """What every population's potential `[T, B, *N]` would be if it never fired, by norse itself.

    Each gets the currents of a real run, also those that its own spikes then cause, with its threshold out of reach.
    """
    currents: dict[nn.Module, list[Tensor]] = {}
    spikes: dict[nn.Module, list[Tensor]] = {}

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        currents.setdefault(module, []).append(args[0])
        spikes.setdefault(module, []).append(output[0])

    names = {module: name for name, module in model.named_modules() if hasattr(module, "p")}
    handles = [module.register_forward_hook(after) for module in names]
    with torch.no_grad():
        network.run(model, network.batch)
        for handle in handles:
            handle.remove()
        return {names[m]: _unfired(m, _joined(currents[m]), _joined(spikes[m])) for m in currents}


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts)


def _unfired(module: Any, x: Tensor, fired: Tensor) -> Tensor:
    if hasattr(module, "input_weights"):
        x = x @ module.input_weights.T
    if hasattr(module, "recurrent_weights"):
        x[1:] += fired[:-1] @ module.recurrent_weights.T
    p = getattr(module.p, "lif", module.p)
    if hasattr(p, "v_th"):
        p = p._replace(v_th=torch.tensor(1e9))
    cell, state, potentials = CELL[type(p).__name__](p=p, dt=module.dt), None, []
    for now in x:
        _, state = cell(now, state)
        potentials.append(state.v)
    return torch.stack(potentials)


def test_autapses_that_a_module_does_not_have_stay_away() -> None:
    network, model = built("recurrent")
    fluctua.initialize(model, network.batch, seed=0)
    weight = model.get_parameter("l1.recurrent_weights")
    assert not weight.diagonal().any()
    assert int((weight != 0).sum()) == len(weight) * (len(weight) - 1)


@EVERY
def test_all_but_the_weights_is_afterwards_as_it_was(name: str) -> None:
    network, model = built(name)
    first = next(iter(model.parameters()))
    model.train()
    answer = network.run(model, network.batch)
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    flags = {key: p.requires_grad for key, p in model.named_parameters()}
    learnt = {key for key, _ in model.named_parameters()}
    generator = torch.get_rng_state()
    fluctua.initialize(model, network.batch, seed=0)
    after = model.state_dict()
    assert torch.equal(torch.get_rng_state(), generator)
    assert list(after) == list(kept)
    assert all(torch.equal(after[key], kept[key]) for key in kept if key not in learnt)
    assert {key: p.requires_grad for key, p in model.named_parameters()} == flags
    assert all(module.training for module in model.modules())
    assert shapes(network.run(model, network.batch)) == shapes(answer)
    assert not torch.equal(first, kept[next(iter(kept))])


def shapes(output: Any) -> Any:
    """Of all tensors in what a model returns."""
    if isinstance(output, Tensor):
        return output.shape
    return [shapes(item) for item in output] if isinstance(output, tuple | list) else None
