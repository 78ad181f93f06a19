"""Peculiar to snnTorch: a neuron that hears itself alone, and the formula of its open pull request."""

import math
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from shared.frameworks.cases import FAR, member
from shared.frameworks.snntorch import snn


def test_a_recurrence_of_each_neuron_with_itself_alone_is_no_synapse() -> None:
    assert member(snn.RLeaky(beta=0.9, all_to_all=False, V=0.5)).inner == ()


def free_potential(neuron: Any, currents: Tensor) -> Tensor:
    """Of a neuron with hidden state, from rest, its threshold out of reach for that time."""
    threshold, neuron.threshold = neuron.threshold, torch.full_like(neuron.threshold, FAR)
    neuron.reset_mem()
    potential = torch.stack([(neuron(current), neuron.mem.detach())[1] for current in currents])
    neuron.threshold = threshold
    return potential


def temporal_std(neuron: Any, currents: Tensor) -> Tensor:
    """Spread of the free potential over samples, step by step, and over neurons in the mean square."""
    return free_potential(neuron, currents).var(1).mean(1).sqrt()


def test_the_formula_of_the_open_pull_request_misses_its_target_twentyfold_and_fluctua_does_not() -> None:
    """snnTorch's PR #457 at 20/10 ms, dt = 1 ms: 10.8 where 0.5 was asked for, by the kernel that its neurons have."""
    study = runpy.run_path(str(Path(__file__).parents[3] / "docs/scripts/snntorch_study.py"))
    dt, tau_mem, tau_syn, n, nu, sigma = 1e-3, 20e-3, 10e-3, 200, 20.0, 0.5
    x = (torch.rand(600, 8, n, generator=torch.Generator().manual_seed(0)) < nu * dt).float()
    neuron = snn.Synaptic(alpha=math.exp(-dt / tau_syn), beta=math.exp(-dt / tau_mem), init_hidden=True)
    linear = nn.Linear(n, 100, bias=False)
    net = nn.Sequential(linear, neuron)
    with torch.no_grad():
        std = study["pull_request_std"](n, nu, tau_mem, tau_syn, sigma)
        linear.weight.normal_(0, std, generator=torch.Generator().manual_seed(0))
    # 100 neurons and 8 samples of about 600 / 30 independent values each, the start from rest left out: some 5 %.
    assert temporal_std(neuron, linear(x))[100:].mean() == pytest.approx(10.8, rel=0.1)
    fluctua.initialize(net, x, fluctua.Target(sigma=sigma), dt=dt, seed=0)
    assert float(free_potential(neuron, linear(x)).std()) == pytest.approx(sigma, rel=0.01)


class OwnUpdate(snn.Synaptic):  # type: ignore[misc]
    def _base_state_function(self, input_: Tensor) -> tuple[Tensor, Tensor]:
        syn = self.alpha * self.syn + input_
        return syn, 0.3 * self.mem + 2 * syn


@pytest.mark.parametrize("hidden", [True, False])
def test_a_subclass_is_read_as_what_it_does(hidden: bool) -> None:
    neuron = OwnUpdate(alpha=0.5, beta=0.9, init_hidden=hidden, threshold=1.3)
    facts = member(neuron).neuron
    measured = free_potential(OwnUpdate(alpha=0.5, beta=0.9, init_hidden=True), torch.eye(12)[:, :1].reshape(12, 1, 1))
    assert torch.allclose(torch.as_tensor(facts.kernel.response(12)).float(), measured.flatten(), rtol=1e-6)
    assert facts.threshold == pytest.approx(1.3)
    assert neuron.init_hidden is hidden
