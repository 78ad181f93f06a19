"""Laws of one call on networks of rockpool: wiring, the state that rockpool itself then shows, and what stays."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from shared.rockpool_networks import NETWORKS, Network
from shared.tracing import trace

Sequential = pytest.importorskip("rockpool.nn.combinators").Sequential
rockpool = pytest.importorskip("rockpool.nn.modules")

EVERY = pytest.mark.parametrize("name", NETWORKS)


def built(name: str) -> tuple[Network, Any]:
    torch.manual_seed(0)
    return NETWORKS[name], NETWORKS[name].build()


@EVERY
def test_the_pathways_are_those_that_were_written(name: str) -> None:
    network, model = built(name)
    found = trace(model, network.batch[:2])
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


def test_synapses_of_many_time_constants_get_weights_of_their_own_scale() -> None:
    network, model = built("SynNet")
    fluctua.initialize(model, network.batch, seed=0)
    for name, u in free_potentials(model, network).items():
        if name != "seq.out_neurons":  # all of one kind, so its weights are drawn and scaled together
            each = u.std((0, 1), correction=0)
            assert torch.allclose(each, torch.ones_like(each), rtol=0.01), name


def many_time_constants(inputs: int) -> Any:
    """A layer of 64 neurons whose synapses differ, and as many inputs or more."""
    taus = torch.logspace(-3, -1.5, 64)[:, None]
    layer = rockpool.LIFTorch((64, 64), tau_mem=torch.tensor(10e-3), tau_syn=taus)
    return Sequential(rockpool.LinearTorch((inputs, 64)), layer)


@pytest.mark.parametrize("inputs", [64, 2000])
def test_weights_of_the_formula_have_the_scale_of_the_neuron_that_they_feed(inputs: int) -> None:
    model = many_time_constants(inputs)
    batch = (torch.rand(4, 50, inputs, generator=torch.Generator().manual_seed(0)) < 0.05).float()
    fluctua.initialize(model, batch, method="poisson", nu=50.0, seed=0)
    (p,) = trace(model, batch)
    scaled = model[0].weight.detach() * torch.as_tensor(p.neuron.kernel.eps_hat).sqrt()
    each = scaled.std(0)  # of a sample of n normal numbers, within 5 standard errors 1 / sqrt(2 n)
    assert torch.allclose(each, each.mean().expand_as(each), rtol=5 / (2 * inputs) ** 0.5)


def test_synaptic_scaling_multiplies_all_that_excites_a_neuron_alike() -> None:
    model = many_time_constants(64)
    before = model[0].weight.detach().clone()
    batch = (torch.rand(8, 100, 64, generator=torch.Generator().manual_seed(0)) < 0.05).float()
    fluctua.homeostasis.scale_synapses(model, batch, 20.0, rounds=4)
    factors = (model[0].weight.detach() / before).where(before > 0, torch.nan)
    assert torch.allclose(factors.nanmedian(0).values.expand_as(factors)[before > 0], factors[before > 0], rtol=1e-4)
    assert factors.nanmedian(0).values.std() > 0.01


def free_potentials(model: nn.Module, network: Network) -> Mapping[str, Tensor]:
    """What every population's potential `[B, T, N]` would be if it never fired, by rockpool itself.

    Each gets the currents of a real run, also those that its own spikes then cause, with its threshold out of reach.
    """
    heard: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        heard[module] = args[0], output

    names = {m: name for name, m in nn.Module.named_modules(model) if name in network.wiring}
    handles = [module.register_forward_hook(after) for module in names]
    with torch.no_grad():
        at_rest(model)
        model(network.batch)
        for handle in handles:
            handle.remove()
        at_rest(model)
        return {names[module]: _unfired(module, *seen) for module, seen in heard.items()}


def at_rest(model: nn.Module) -> None:
    for module in nn.Module.modules(model):
        if isinstance(module, rockpool.TorchModule):
            module.reset_state()


def _unfired(module: Any, x: Tensor, fired: Tensor) -> Tensor:
    if isinstance(module, rockpool.ExpSynTorch):
        return fired
    if getattr(module, "_has_rec", False):
        x[:, 1:] += fired[:, :-1] @ module.w_rec
    threshold, module.threshold.data = module.threshold.data, torch.full_like(module.threshold, 1e9)
    u: Tensor = module(x, record=True)[2]["vmem"]
    module.threshold.data = threshold
    return u


@EVERY
def test_all_but_the_weights_is_afterwards_as_it_was(name: str) -> None:
    network, model = built(name)
    nn.Module.train(model)
    answer = model(network.batch)
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    flags = {key: p.requires_grad for key, p in model.named_parameters()}
    of_neurons = tuple(f"{population}." for population in network.wiring)
    learnt = {key for key in kept if key.endswith("w_rec") or not key.startswith(of_neurons)}
    generator = torch.get_rng_state()
    fluctua.initialize(model, network.batch, seed=0)
    after = model.state_dict()
    assert torch.equal(torch.get_rng_state(), generator)
    assert list(after) == list(kept)
    assert all(torch.equal(after[key], kept[key]) for key in kept if key not in learnt)
    assert {key: p.requires_grad for key, p in model.named_parameters()} == flags
    assert shapes(model(network.batch)) == shapes(answer)


def shapes(output: Any) -> Any:
    """Of all tensors in what a model returns."""
    if isinstance(output, Tensor):
        return output.shape
    items = output.values() if isinstance(output, dict) else output if isinstance(output, tuple | list) else ()
    return [shapes(item) for item in items]
