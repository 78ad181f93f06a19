"""Laws of the Randman task."""

import dataclasses
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fluctua.lab.data import EventArrays, RandmanSettings, bin_events, make_randman
from fluctua.lab.data.randman import Spectrum, draw_manifold, evaluate_manifold

# alpha = 2 has 32 terms instead of 1000, so most tests run in milliseconds.
SMALL = RandmanSettings(n_classes=3, n_units=5, alpha=2.0, samples_per_class=50)


def changed(**changes: Any) -> RandmanSettings:
    return dataclasses.replace(SMALL, **changes)


def by_unit(dataset: EventArrays) -> NDArray[np.float32]:
    """Event times `[samples, spikes, units]`."""
    return dataset.times.reshape(len(dataset), -1, dataset.n_units)


def original(x: NDArray[np.float64], theta: NDArray[np.float64], alpha: float, plus: float) -> NDArray[np.float64]:
    """Copy the loops of fzenke/randman (d3e22f5): eval_random_function and eval_random_function_1d."""
    y = np.ones((len(x), len(theta)))
    for d in range(len(theta)):
        for j in range(x.shape[1]):
            f = np.zeros(len(x))
            for k in range(theta.shape[-1]):
                amplitude, frequency, phase = theta[d, j, :, k]
                f += amplitude / ((k + 1) ** alpha + plus) * np.sin(2 * np.pi * (k * x[:, j] * frequency + phase))
            y[:, d] *= f
    return y


@pytest.mark.parametrize(("spectrum", "plus"), [("torch", 1.0), ("numpy", 0.0)])
@pytest.mark.parametrize(("dim", "alpha"), [(1, 2.0), (2, 1.0), (3, 1.5)])
def test_manifold_is_the_original_one(spectrum: Spectrum, plus: float, dim: int, alpha: float) -> None:
    rng = np.random.default_rng(0)
    theta = draw_manifold(changed(n_units=3, dim=dim, alpha=alpha), rng)
    x = rng.random((400, dim))  # at 1000 terms more than one chunk
    ours = evaluate_manifold(x, theta, alpha=alpha, spectrum=spectrum)
    np.testing.assert_allclose(ours, original(x, theta, alpha, plus), atol=1e-5)


@pytest.mark.parametrize(("alpha", "terms"), [(1e-3, 1000), (0.5, 1000), (1.0, 1000), (2.0, 32), (4.0, 6)])
def test_manifold_has_the_terms_of_the_original_and_no_constant(alpha: float, terms: int) -> None:
    theta = draw_manifold(changed(alpha=alpha, dim=2), np.random.default_rng(0))
    assert theta.shape == (5, 2, 3, terms)
    assert (theta[:, :, 0, 0] == 0).all()


@pytest.mark.parametrize("n_spikes", [1, 3])
def test_every_unit_fires_equally_often(n_spikes: int) -> None:
    for dataset in make_randman(changed(n_spikes=n_spikes), seed=0):
        x = bin_events([dataset.events(i) for i in range(len(dataset))], n_units=5, dt=2e-3, duration=0.2, binary=False)
        assert (x.sum(0) == n_spikes).all()


@pytest.mark.parametrize(("step_frac", "offset_frac"), [(0.5, 0.0), (1.0, 0.0), (1.0, 0.25), (0.4, 0.5)])
def test_times_stay_in_their_part_of_the_duration(step_frac: float, offset_frac: float) -> None:
    # This spectrum has the widest range, so that the largest standardised value rounds to 1.
    task = changed(step_frac=step_frac, offset_frac=offset_frac, n_spikes=2, alpha=1.0, spectrum="numpy")
    start, end = 0.2 * offset_frac, 0.2 * (step_frac * (1 - offset_frac) + offset_frac)
    for dataset in make_randman(task, seed=1):
        assert dataset.times.min() >= start - 1e-7
        assert dataset.times.max() <= np.float32(end)
        # Even where the events fill the duration, binning loses none.
        samples = [dataset.events(i) for i in range(len(dataset))]
        x = bin_events(samples, n_units=5, dt=2e-3, duration=0.2, binary=False)
        assert x.sum() == len(dataset.times)


def test_parts_are_stratified_and_mixed() -> None:
    parts = make_randman(SMALL, seed=0)
    assert [np.bincount(part.labels).tolist() for part in parts] == [[40] * 3, [5] * 3, [5] * 3]
    assert (np.diff(parts[0].labels) < 0).any()
    assert all((part.n_units, part.n_classes) == (5, 3) for part in parts)


def test_same_seed_same_data() -> None:
    first, again, other = (make_randman(SMALL, seed=seed) for seed in (1, 1, 2))
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a.times, b.times)
        np.testing.assert_array_equal(a.labels, b.labels)
        assert not np.array_equal(a.times, c.times)


def test_no_global_generator_is_touched() -> None:
    def state() -> bytes:
        return pickle.dumps((np.random.get_state(), torch.get_rng_state().tolist()))  # noqa: NPY002

    before = state()
    make_randman(SMALL, seed=0)
    assert state() == before


def test_training_data_know_nothing_of_held_out_samples() -> None:
    train = make_randman(SMALL, seed=3)[0]
    alone = make_randman(changed(samples_per_class=40, fractions=(1.0, 0.0, 0.0)), seed=3)[0]
    np.testing.assert_allclose(train.times, alone.times, atol=1e-7)
    np.testing.assert_array_equal(train.labels, alone.labels)


def test_leaky_standardisation_takes_the_range_of_all_samples() -> None:
    parts = make_randman(changed(leaky_standardisation=True), seed=3)
    labels = np.concatenate([part.labels for part in parts])
    times = np.concatenate([by_unit(part)[:, 0] for part in parts])
    leaks = 0
    for label in range(3):
        np.testing.assert_allclose(times[labels == label].min(0), 0, atol=1e-7)
        np.testing.assert_allclose(times[labels == label].max(0), 0.1, atol=1e-6)
        trained = by_unit(parts[0])[parts[0].labels == label, 0]
        leaks += int((trained.min(0) > 1e-4).sum() + (trained.max(0) < 0.0999).sum())
    assert leaks > 0


def test_each_unit_spans_the_range_in_training_and_never_leaves_it_elsewhere() -> None:
    train, *held_out = make_randman(SMALL, seed=3)
    for label in range(3):
        times = by_unit(train)[train.labels == label, 0]
        np.testing.assert_allclose(times.min(0), 0, atol=1e-7)
        np.testing.assert_allclose(times.max(0), 0.1, atol=1e-6)
    assert all(part.times.min() >= 0 and part.times.max() <= 0.1 for part in held_out)


def test_further_classes_leave_the_first_ones_alone() -> None:
    few, more = (make_randman(changed(n_classes=n), seed=5)[0] for n in (2, 4))
    for label in range(2):
        a, b = (np.sort(by_unit(train)[train.labels == label, 0], axis=0) for train in (few, more))
        np.testing.assert_array_equal(a, b)


def test_smoother_manifolds_change_less_between_neighbours() -> None:
    x = np.linspace(0, 1, 2000)[:, None]

    def roughness(alpha: float) -> float:
        theta = draw_manifold(changed(n_units=20, alpha=alpha), np.random.default_rng(0))
        y = evaluate_manifold(x, theta, alpha=alpha)
        return float(np.mean(np.abs(np.diff(y, axis=0)).mean(0) / np.ptp(y, axis=0)))

    assert roughness(0.5) > roughness(1.0) > roughness(2.0)


def test_the_papers_task_has_its_size() -> None:
    train, val, test = make_randman(seed=0)
    assert [len(part) for part in (train, val, test)] == [8000, 1000, 1000]
    assert (train.n_units, train.n_classes) == (20, 10)
    assert len(train.times) / (len(train) * train.n_units * 0.2) == pytest.approx(5.0)  # Hz


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_classes": 0}, "n_classes=0 must be at least 1"),
        ({"n_spikes": 0}, "n_spikes=0"),
        ({"dim": 0}, "dim=0"),
        ({"alpha": 0.0}, "alpha=0.0 must be positive"),
        ({"alpha": math.nan}, "alpha=nan must be positive"),
        ({"duration": -1.0}, "duration=-1.0 must be positive"),
        ({"step_frac": 1.1}, r"step_frac=1.1 must be in \(0, 1\]"),
        ({"offset_frac": 1.0}, r"offset_frac=1.0 must be in \[0, 1\)"),
        ({"spectrum": "jax"}, "spectrum='jax' is unknown"),
        ({"fractions": (0.5, 0.5)}, "three shares"),
        ({"fractions": (0.0, 0.5, 0.5)}, "leave a training sample"),
        ({"fractions": (0.5, 0.5, 0.5)}, "must sum to 1, not 1.5"),
    ],
)
def test_refusals_name_value_and_limit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(**changes)
