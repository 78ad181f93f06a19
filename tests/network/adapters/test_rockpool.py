"""Peculiar to rockpool: biases, several synapses to a neuron, weights `[in, out]` and scales by neuron."""

from typing import Any

import pytest
import torch
from torch import Tensor

import fluctua
from fluctua.methods import Poisson
from fluctua.network.adapters.registry import transposed
from shared.frameworks.cases import member
from shared.frameworks.rockpool import CASES, EACH, SPIKING, N, combinators, free, rockpool
from shared.spikes import spikes
from shared.tracing import trace

T, B = 80, 3


def test_a_recurrent_weight_counts_its_outputs_in_columns() -> None:
    (back,) = member(rockpool.LIFTorch((N, N), has_rec=True)).inner
    assert back.rows == 1


def test_a_threshold_of_each_neuron_is_told_by_its_mean() -> None:
    module = rockpool.LIFTorch(N, threshold=torch.linspace(0.5, 2.0, N))
    assert member(module).neuron.threshold == pytest.approx(1.25)


def test_what_a_neuron_is_called_with_has_its_time_in_the_second_place() -> None:
    layout = member(rockpool.LIFTorch(N)).layout
    x = torch.rand(B, T, N)
    assert layout.as_sequence(x).shape == (T, B, N)


@pytest.mark.parametrize("name", [name for name in SPIKING if "bias" in name])
def test_over_a_trial_a_bias_lifts_the_potential_by_the_rest_of_that_trial(name: str) -> None:
    module = SPIKING[name]()
    told = member(module, steps=T).neuron.rest
    assert float(free(module, torch.zeros(T, B, N)).mean()) == pytest.approx(told, abs=1e-5)


def test_a_linear_layer_counts_its_outputs_in_columns() -> None:
    layer = rockpool.LinearTorch((3, 5))
    assert layer.weight.shape[transposed(layer)] == 5


@pytest.mark.parametrize("tau_syn", [EACH[:, None] * torch.tensor([1.0, 0.5]), torch.tensor(5e-3)], ids=["own", "same"])
def test_each_of_several_synapses_has_its_kernel_and_its_current(tau_syn: Tensor) -> None:
    module = rockpool.LIFTorch((2 * N, N), tau_syn=tau_syn)
    found = member(module)
    x = torch.rand(B, T, 2 * N, generator=torch.Generator().manual_seed(0))
    for port, kernel in enumerate(found.neuron.kernels):
        only = torch.zeros(T, B, 2 * N)
        only[0, :, port::2] = 1
        answer = free(module, only)
        eps = torch.as_tensor(kernel.response(T)).float().reshape(T, 1, -1)
        assert torch.allclose(answer, eps.expand_as(answer), rtol=0, atol=1e-5)
        assert torch.equal(found.layout.currents(module, (x,), {}, 2)[port], x[..., port::2])
    assert (len(found.neuron.kernels), found.arguments) == (2, (0, 1))


def test_synapses_of_many_time_constants_get_weights_of_their_own_scale() -> None:
    case = CASES.networks["SynNet"]
    model, _ = case.initialised()
    for name, (_, u) in CASES.observe(model, case).items():
        if name != "seq.out_neurons":  # all of one kind, so its weights are drawn and scaled together
            each = u.std((0, 1), correction=0)
            assert torch.allclose(each, torch.ones_like(each), rtol=0.01), name


def many_time_constants(inputs: int) -> Any:
    """A layer of 64 neurons whose synapses differ, and as many inputs or more."""
    taus = torch.logspace(-3, -1.5, 64)[:, None]
    layer = rockpool.LIFTorch((64, 64), tau_mem=torch.tensor(10e-3), tau_syn=taus)
    return combinators.Sequential(rockpool.LinearTorch((inputs, 64)), layer)


@pytest.mark.parametrize("inputs", [64, 2000])
def test_weights_of_the_formula_have_the_scale_of_the_neuron_that_they_feed(inputs: int) -> None:
    model = many_time_constants(inputs)
    batch = spikes(4, 50, inputs, p=0.05)
    fluctua.initialize(model, batch, method=Poisson(nu=50.0), seed=0)
    (p,) = trace(model, batch)
    scaled = model[0].weight.detach() * torch.as_tensor(p.neuron.kernel.eps_hat).sqrt()
    each = scaled.std(0)  # of a sample of n normal numbers, within 5 standard errors 1 / sqrt(2 n)
    assert torch.allclose(each, each.mean().expand_as(each), rtol=5 / (2 * inputs) ** 0.5)


def test_synaptic_scaling_multiplies_all_that_excites_a_neuron_alike() -> None:
    model = many_time_constants(64)
    before = model[0].weight.detach().clone()
    batch = spikes(8, 100, 64, p=0.05)
    fluctua.homeostasis.scale_synapses(model, batch, 20.0, rounds=4)
    factors = (model[0].weight.detach() / before).where(before > 0, torch.nan)
    assert torch.allclose(factors.nanmedian(0).values.expand_as(factors)[before > 0], factors[before > 0], rtol=1e-4)
    assert factors.nanmedian(0).values.std() > 0.01
