"""Laws of rockpool's facts: kernel, threshold, rest and recurrence of every class against rockpool's own simulation."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fluctua.network.adapters.framework import Timing
from fluctua.network.adapters.registry import members_of, transposed
from fluctua.network.adapters.rockpool import FACTS, FRAMEWORK, REFUSED
from fluctua.network.facts import Member, UnsupportedNeuronError
from shared.spikes import assert_spikes_alike

modules = pytest.importorskip("rockpool.nn.modules")
Constant = pytest.importorskip("rockpool.parameters").Constant
bitshift = pytest.importorskip("rockpool.nn.modules.torch.lif_bitshift_torch")

T, B, N = 80, 3, 4
OUT_OF_REACH = 1e9
EACH = torch.linspace(5e-3, 40e-3, N)  # a time constant for each neuron, s

Build = Callable[..., Any]


def of(name: str, shape: Any = N, **constants: Any) -> Build:
    """A class with these constants; rockpool computes in single precision only."""
    source = bitshift if name == "LIFBitshiftTorch" else modules

    def build(**more: Any) -> Any:
        return getattr(source, name)(shape, **constants | more)

    return build


SPIKING: Mapping[str, Build] = {
    "LIFTorch": of("LIFTorch"),
    "LIFTorch, constants of each neuron": of("LIFTorch", tau_mem=EACH, tau_syn=EACH.flip(0)[:, None]),
    "LIFTorch, constants not learnt": of("LIFTorch", tau_mem=Constant(0.03), tau_syn=Constant(0.01), dt=2e-3),
    "LIFTorch, decays": of("LIFTorch", leak_mode="decays", alpha=torch.tensor(0.9), beta=torch.tensor(0.7)),
    "LIFTorch, bitshifts": of(
        "LIFTorch", leak_mode="bitshifts", dash_mem=torch.tensor(4.0), dash_syn=torch.tensor(3.0)
    ),
    "LIFTorch, bias": of("LIFTorch", bias=torch.tensor(0.01), tau_mem=torch.tensor(10e-3)),
    "LIFTorch, recurrent": of("LIFTorch", (N, N), has_rec=True, w_rec=torch.zeros(N, N)),
    "LIFBitshiftTorch": of("LIFBitshiftTorch", tau_mem=EACH),
    "aLIFTorch": of("aLIFTorch", tau_syn=torch.tensor(10e-3)),
    "aLIFTorch, recurrent": of("aLIFTorch", (N, N), has_rec=True, w_rec=torch.zeros(N, N)),
    "LIFNeuronTorch": of("LIFNeuronTorch"),
    "LIFNeuronTorch, constants of each neuron": of("LIFNeuronTorch", tau_mem=EACH, bias=torch.tensor(0.002)),
}
READOUT: Mapping[str, Build] = {
    "ExpSynTorch": of("ExpSynTorch"),
    "ExpSynTorch, constants of each neuron": of("ExpSynTorch", tau=EACH),
}

ALL = {**SPIKING, **READOUT}


def member(module: nn.Module) -> Member:
    return members_of(module)[""]


def simulated(module: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Output and potential `[T, B, N]` of a module on `x` by rockpool itself."""
    module.reset_state()
    with torch.no_grad():
        output, _, recorded = module(x.transpose(0, 1), record=True)
    return output.transpose(0, 1), recorded.get("vmem", output).transpose(0, 1)


def impulse(size: Any = 1.0, steps: int = T) -> Tensor:
    x = torch.zeros(steps, B, N)
    x[0] = torch.as_tensor(size).float()
    return x


def without_spikes(name: str) -> Any:
    return SPIKING[name](threshold=torch.tensor(OUT_OF_REACH)) if name in SPIKING else READOUT[name]()


@pytest.mark.parametrize("name", ALL)
def test_the_kernel_is_the_response_of_the_free_potential_to_a_unit_impulse(name: str) -> None:
    module = without_spikes(name)
    kernel = member(module).neuron.kernel
    answer = simulated(module, impulse())[1] - simulated(module, 0 * impulse())[1]
    eps = torch.as_tensor(kernel.response(T)).float().reshape(T, 1, -1)
    assert kernel.dt == module.dt
    assert torch.allclose(answer, eps.expand_as(answer), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_without_input_the_potential_settles_at_rest(name: str) -> None:
    module, settled = without_spikes(name), 1000  # 25 of the longest time constant, so e^-25 is left of the way
    u = simulated(module, 0 * impulse(steps=settled))[1][-1]
    assert float(u.mean()) == pytest.approx(member(module).neuron.rest, abs=1e-5)


@pytest.mark.parametrize("name", [name for name in SPIKING if "bias" not in name and "each" not in name])
def test_a_neuron_fires_where_an_impulse_lifts_its_potential_above_the_threshold(name: str) -> None:
    module = SPIKING[name](threshold=torch.tensor(0.7))
    neuron = member(module).neuron
    assert neuron.threshold == pytest.approx(0.7)
    size = neuron.threshold / neuron.kernel.response(T).reshape(T, -1).max(0)
    below, above = (simulated(module, impulse(factor * size))[0] for factor in (0.99, 1.01))
    assert not below.any()
    assert above.any(0).all()


def test_a_threshold_of_each_neuron_is_told_by_its_mean() -> None:
    module = modules.LIFTorch(N, threshold=torch.linspace(0.5, 2.0, N))
    assert member(module).neuron.threshold == pytest.approx(1.25)


@pytest.mark.parametrize("name", READOUT)
def test_a_readout_has_no_threshold(name: str) -> None:
    assert member(READOUT[name]()).neuron.threshold is None


@pytest.mark.parametrize("kind", ["LIFTorch", "aLIFTorch"])
def test_a_recurrent_module_fires_as_one_without_recurrence_does_on_the_inner_current_besides(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = 0.01 * torch.randn(N, N, generator=generator)  # large ones make spikes without bound
    module = of(kind, (N, N), has_rec=True, w_rec=weight)()
    x = 0.5 * (torch.rand(T, B, N, generator=generator) < 0.2).float()
    spikes, _ = simulated(module, x)
    (back,) = member(module).synapses
    assert spikes.mean() > 0.05
    assert_spikes_alike(lambda total: simulated(of(kind)(), total)[0], x + back.current(spikes), spikes)
    assert (back.source, back.port, back.parameter, back.rows) == ("", 0, "w_rec", 1)


@pytest.mark.parametrize("name", ALL)
def test_a_reset_forgets_the_last_trial(name: str) -> None:
    module = ALL[name]()
    x = torch.rand(B, 5, N, generator=torch.Generator().manual_seed(0))
    first, _, _ = module(x)
    assert any(value.any() for value in module.state().values())
    FRAMEWORK.reset(module)
    assert not any(value.any() for value in module.state().values())
    assert torch.equal(module(x)[0], first)


def test_what_a_neuron_is_called_with_has_its_time_in_the_second_place() -> None:
    layout = member(modules.LIFTorch(N)).layout
    x = torch.rand(B, T, N)
    assert layout.as_sequence(x).shape == (T, B, N)


@pytest.mark.parametrize("name", [name for name in SPIKING if "bias" in name])
def test_over_a_trial_a_bias_lifts_the_potential_by_the_rest_of_that_trial(name: str) -> None:
    module = without_spikes(name)
    u = simulated(module, 0 * impulse())[1]
    neuron = members_of(module, Timing(steps=T))[""].neuron
    assert float(u.mean()) == pytest.approx(neuron.rest, abs=1e-5)


def test_what_biases_make_of_the_neurons_is_told() -> None:
    assert member(modules.LIFTorch(N, bias=torch.full((N,), 0.1))).neuron.note is None
    assert "std 0.458" in str(member(modules.LIFTorch(N, bias=torch.linspace(-0.03, 0.03, N))).neuron.note)


def test_noise_within_a_neuron_is_told() -> None:
    assert member(modules.LIFTorch(N)).neuron.note is None
    assert "noise_std = 0.1" in str(member(modules.LIFTorch(N, noise_std=0.1)).neuron.note)


def test_a_linear_layer_counts_its_outputs_in_columns() -> None:
    layer = modules.LinearTorch((3, 5))
    assert layer.weight.shape[transposed(layer)] == 5


def test_every_class_of_the_table_is_tested() -> None:
    tried = {type(build()) for build in ALL.values()}
    assert {f"{c.__module__}.{c.__qualname__}" for c in tried} == set(FACTS)


@pytest.mark.parametrize("name", REFUSED)
def test_the_name_of_a_refused_class_is_that_of_a_class(name: str) -> None:
    module, _, kind = name.rpartition(".")
    found = getattr(pytest.importorskip(module), kind)
    assert (found.__module__, isinstance(found, type)) == (module, True)


def test_a_rate_unit_is_refused() -> None:
    with pytest.raises(UnsupportedNeuronError, match=r"RateTorch of rockpool .* no spikes: use LIFTorch"):
        members_of(modules.RateTorch(N))


@pytest.mark.parametrize("tau_syn", [EACH[:, None] * torch.tensor([1.0, 0.5]), torch.tensor(5e-3)], ids=["own", "same"])
def test_each_of_several_synapses_has_its_kernel_and_its_current(tau_syn: Tensor) -> None:
    module = modules.LIFTorch((2 * N, N), tau_syn=tau_syn, threshold=torch.tensor(OUT_OF_REACH))
    found = member(module)
    x = torch.rand(B, T, 2 * N, generator=torch.Generator().manual_seed(0))
    for port, kernel in enumerate(found.neuron.kernels):
        only = torch.zeros(T, B, 2 * N)
        only[0, :, port::2] = 1
        answer = simulated(module, only)[1]
        eps = torch.as_tensor(kernel.response(T)).float().reshape(T, 1, -1)
        assert torch.allclose(answer, eps.expand_as(answer), rtol=0, atol=1e-5)
        assert torch.equal(found.layout.currents(module, (x,), {}, 2)[port], x[..., port::2])
    assert (len(found.neuron.kernels), found.arguments) == (2, (0, 1))


def test_recurrence_onto_several_synapses_is_refused() -> None:
    with pytest.raises(UnsupportedNeuronError, match=r"LIFTorch of shape \(8, 4\) has recurrence onto 2 .* \(N, N\)"):
        members_of(modules.LIFTorch((8, 4), has_rec=True))
