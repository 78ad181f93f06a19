"""SpikeInit by simulation: driven by white noise, the framework's own neurons spike with the wanted probability."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.methods.baselines.spikeinit import SpikeInit
from shared.frameworks.cases import needed
from shared.spikes import spikes

P = 0.1
X = spikes(60, 16, 200, p=0.2)


def snntorch() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    module = needed("snntorch").Leaky(beta=0.9, init_hidden=True)
    return module, lambda noise: torch.stack([module(step) for step in noise])


def spikingjelly() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    module = needed("spikingjelly.activation_based.neuron").LIFNode(tau=10.0, decay_input=False)
    return module, lambda noise: torch.stack([module(step) for step in noise])


def norse() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    module = needed("norse.torch").LIFCell()

    def run(noise: Tensor) -> Tensor:
        state, found = None, []
        for step in noise:
            z, state = module(step, state)
            found.append(z)
        return torch.stack(found)

    return module, run


def sinabs() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    module = needed("sinabs.layers").LIF(tau_mem=9.5)
    return module, lambda noise: module(noise.transpose(0, 1)).transpose(0, 1)


@pytest.mark.parametrize("made", [snntorch, spikingjelly, norse, sinabs], ids=lambda made: made.__name__)
def test_white_noise_of_that_size_makes_neurons_of_each_framework_spike_as_wanted(made: Any) -> None:
    module, run = made()
    layers = nn.Linear(200, 24, bias=False), module
    model = needed("norse.torch").SequentialState(*layers) if made is norse else nn.Sequential(*layers)
    first = made is sinabs
    fluctua.initialize(
        model, X.transpose(0, 1) if first else X, time=1 if first else 0, method=SpikeInit(P, simulated=True), seed=0
    )
    power = float(X.square().mean())
    drive = float(layers[0].weight.std()) * (200 * power) ** 0.5
    noise = torch.randn(60, 400, 24, generator=torch.Generator().manual_seed(1))
    if hasattr(module, "reset_states"):
        module.reset_states()
    with torch.no_grad():
        assert float(run(drive * noise)[30:].mean()) == pytest.approx(P, rel=0.1)
