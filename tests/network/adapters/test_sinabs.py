"""Peculiar to sinabs: layers that hold time and samples in one axis, limits and resets of the potential."""

import pytest
import torch
from torch import nn

import fluctua
from shared.frameworks.cases import member
from shared.frameworks.sinabs import CASES, N, activation, sl


def test_a_threshold_is_read_as_it_is_now() -> None:
    layer = sl.LIF(tau_mem=10.0, spike_threshold=torch.tensor(1.0))
    with torch.no_grad():
        layer.spike_threshold.fill_(3.0)
    assert member(layer).neuron.threshold == 3.0


@pytest.mark.parametrize("known", [{"batch_size": 4}, {"num_timesteps": 5}], ids=["samples known", "steps known"])
def test_a_squeezed_sequence_is_unfolded_sample_by_sample(known: dict[str, int]) -> None:
    squeezed, plain = sl.LIFSqueeze(tau_mem=10.0, **known), sl.LIF(tau_mem=10.0)
    currents = 5 * torch.randn(4, 5, N, generator=torch.Generator().manual_seed(0))
    flat, wide = member(squeezed).layout, member(plain).layout
    spikes = flat.as_sequence(squeezed(currents.flatten(0, 1)))
    assert spikes.shape == (5, 4, N)
    assert torch.equal(spikes, wide.as_sequence(plain(currents)))
    assert torch.equal(flat.as_called(flat.as_sequence(currents.flatten(0, 1))), currents.flatten(0, 1))


@pytest.mark.parametrize(
    ("known", "what"),
    [({"batch_size": 7}, "7 samples: set the number of samples"), ({"num_timesteps": 9}, "9 steps: set the number of")],
    ids=["samples known", "steps known"],
)
def test_a_squeezed_batch_of_another_size_is_refused(known: dict[str, int], what: str) -> None:
    model = nn.Sequential(nn.Linear(N, N), sl.LIFSqueeze(tau_mem=10.0, **known))
    with pytest.raises(ValueError, match=f"20 frames in one axis are no trials of {what}"):
        fluctua.initialize(model, torch.ones(20, N))


def test_a_reset_value_drives_the_potential_without_any_spike() -> None:
    layer = sl.LIF(tau_mem=10.0, reset_fn=activation.MembraneReset(0.25))
    assert layer(torch.zeros(1, 3, 1)).sum() == 0
    assert layer.v_mem.item() > 0.25


def test_a_lower_limit_of_the_potential_is_reported() -> None:
    _, report = CASES.networks["converted"].initialised()
    assert "linear only near rest" in str(report)
