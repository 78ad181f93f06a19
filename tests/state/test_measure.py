"""Laws of the window: which steps count, and how means are taken over them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fluctua.state.measure import Window, by_neuron, first_event, neuron_mean, population_mean, window_mask

SHAPES = [(12, 5), (12, 5, 3), (12, 5, 2, 3)]


def sparse(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers where few are not zero: every sample starts with some empty steps."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=generator)
    values[torch.rand(*shape, generator=generator) > 0.3 / values[0, 0].numel()] = 0
    values[0] = 0
    return values


def starts(x: Tensor) -> list[int]:
    """First step with an event of each sample, T where there is none, found by looking at one number after another."""
    found = []
    for b in range(x.shape[1]):
        steps = [t for t in range(x.shape[0]) if any(value != 0 for value in x[t, b].flatten().tolist())]
        found.append(min(steps, default=x.shape[0]))
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_a_trial_counts_every_step(shape: tuple[int, ...]) -> None:
    assert torch.equal(window_mask(sparse(*shape), "trial"), torch.ones(12, 5))


@pytest.mark.parametrize("shape", SHAPES)
def test_arrival_counts_each_sample_from_its_first_current_on(shape: tuple[int, ...]) -> None:
    current = sparse(*shape, seed=3)
    current[:, 3] = 0  # one that nothing reaches
    first = starts(current)
    assert len(set(first)) > 2
    expected = [[float(t >= first[b]) for b in range(5)] for t in range(12)]
    assert torch.equal(window_mask(current, "arrival"), torch.tensor(expected))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_first_event_of_a_sample_is_its_first_number_that_is_not_zero(shape: tuple[int, ...]) -> None:
    x = sparse(*shape)
    x[:, 1] = 0
    assert first_event(x).tolist() == starts(x)


@pytest.mark.parametrize("window", ["trial", "arrival"])
@pytest.mark.parametrize("shape", SHAPES)
def test_means_are_taken_over_the_steps_that_count(shape: tuple[int, ...], window: Window) -> None:
    current, x = sparse(*shape), sparse(*shape, seed=1) + 3
    mask = window_mask(current, window)
    chosen = by_neuron(x).numpy().astype(np.float64)[mask.numpy() > 0]  # [steps that count, N]
    means = neuron_mean(x, mask)
    assert means.dtype == torch.float64
    np.testing.assert_allclose(means.numpy(), chosen.mean(0), rtol=1e-6)  # a few roundings of float32
    assert population_mean(x, mask) == pytest.approx(chosen.mean(), rel=1e-6)


def test_a_population_that_nothing_reaches_is_at_rest() -> None:
    current = torch.zeros(12, 5, 3)
    mask = window_mask(current, "arrival")
    assert not mask.any()
    assert torch.equal(neuron_mean(torch.ones(12, 5, 3), mask), torch.zeros(3, dtype=torch.float64))


def test_an_unknown_window_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown window 'half': choose 'trial' or 'arrival'"):
        window_mask(torch.ones(2, 1, 1), "half")  # type: ignore[arg-type]
