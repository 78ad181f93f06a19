"""Laws of events, their data sets and their binning."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fluctua.lab.data import EventArrays, Events, Subset, bin_events, split
from fluctua.lab.data.binning import channel_count, step_count
from fluctua.lab.data.events import occurrence

N_UNITS = 12


def random_events(rng: np.random.Generator, n: int, n_units: int = N_UNITS, duration: float = 0.1) -> Events:
    return Events(rng.uniform(0, duration, n).astype(np.float32), rng.integers(0, n_units, n))


def random_dataset(n_samples: int = 30, n_classes: int = 3, seed: int = 0) -> EventArrays:
    rng = np.random.default_rng(seed)
    samples = [random_events(rng, int(rng.integers(0, 9))) for _ in range(n_samples)]
    return EventArrays.from_events(
        samples, rng.integers(0, n_classes, n_samples).tolist(), n_units=N_UNITS, n_classes=n_classes
    )


seeds = st.integers(0, 2**32 - 1)
sizes = st.lists(st.integers(0, 40), min_size=1, max_size=4)


# --- binning ---


@given(seeds, sizes, st.sampled_from([1e-3, 2e-3, 3e-3, 0.1]), st.integers(1, 14))
@settings(max_examples=60, deadline=None)
def test_counts_conserve_the_events_before_the_end(seed: int, lengths: list[int], dt: float, pool: int) -> None:
    rng = np.random.default_rng(seed)
    samples = [random_events(rng, n, duration=0.2) for n in lengths]
    x = bin_events(samples, n_units=N_UNITS, dt=dt, duration=0.1, binary=False, pool=pool)
    assert x.shape == (step_count(dt, 0.1), len(samples), math.ceil(N_UNITS / pool))
    assert x.dtype == torch.float32
    kept = [int((sample.times < 0.1).sum()) for sample in samples]
    assert x.sum(dim=(0, 2)).tolist() == kept


@given(seeds, st.integers(1, 14))
@settings(max_examples=40, deadline=None)
def test_pooling_commutes_with_summing(seed: int, pool: int) -> None:
    samples = [random_events(np.random.default_rng(seed), 60)]
    fine = bin_events(samples, n_units=N_UNITS, dt=5e-3, duration=0.1, binary=False)
    coarse = bin_events(samples, n_units=N_UNITS, dt=5e-3, duration=0.1, binary=False, pool=pool)
    summed = torch.stack([channels.sum(-1) for channels in torch.split(fine, pool, dim=-1)], dim=-1)
    torch.testing.assert_close(coarse, summed)


@given(seeds, st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_binary_says_where_counts_are_positive(seed: int, pool: int) -> None:
    samples = [random_events(np.random.default_rng(seed), n) for n in (0, 200)]
    counts = bin_events(samples, n_units=N_UNITS, dt=5e-3, duration=0.1, binary=False, pool=pool)
    binary = bin_events(samples, n_units=N_UNITS, dt=5e-3, duration=0.1, pool=pool)
    assert torch.equal(binary, (counts > 0).float())


@given(st.integers(0, 20_000), st.sampled_from([1e-4, 5e-4, 1e-3, 2e-3, 3e-3, 7e-3]))
@settings(deadline=None)
def test_a_time_on_the_grid_starts_its_step(k: int, dt: float) -> None:
    events = Events(np.array([k * dt], dtype=np.float32), np.array([0]))
    x = bin_events([events], n_units=1, dt=dt, duration=(k + 2) * dt)
    assert x.flatten().nonzero().tolist() == [[k]]


@given(st.floats(0, 0.999), st.integers(0, 300))
@settings(deadline=None)
def test_a_time_within_a_step_falls_into_it(within: float, k: int) -> None:
    dt = 2e-3
    events = Events(np.array([(k + within) * dt], dtype=np.float32), np.array([0]))
    x = bin_events([events], n_units=1, dt=dt, duration=0.7)
    assert x.flatten().nonzero().tolist() == [[k]]


def test_events_at_or_after_the_end_are_dropped() -> None:
    events = Events(np.array([0.0, 0.699, 0.7, 0.71], dtype=np.float32), np.zeros(4, dtype=np.int64))
    assert bin_events([events], n_units=1, dt=2e-3, duration=0.7, binary=False).sum() == 2
    # A duration that is no multiple of dt ends within the last step.
    events = Events(np.array([0.0081, 0.0091], dtype=np.float32), np.zeros(2, dtype=np.int64))
    assert bin_events([events], n_units=1, dt=2e-3, duration=0.009, binary=False).sum() == 1


def test_order_of_events_does_not_matter_but_that_of_samples_does() -> None:
    rng = np.random.default_rng(0)
    a, b = random_events(rng, 50), random_events(rng, 50)
    order = rng.permutation(50)
    shuffled = Events(a.times[order], a.units[order])

    def bins(*samples: Events) -> torch.Tensor:
        return bin_events(samples, n_units=N_UNITS, dt=1e-3, duration=0.1, binary=False)

    assert torch.equal(bins(a, b), bins(shuffled, b))
    assert torch.equal(bins(a, b), bins(b, a).flip(1))


@pytest.mark.parametrize(("dt", "duration", "steps"), [(2e-3, 0.7, 350), (1e-3, 1.0, 1000), (0.1, 0.3, 3), (2, 5, 3)])
def test_step_count_rounds_up_but_not_on_float_error(dt: float, duration: float, steps: int) -> None:
    assert step_count(dt, duration) == steps


# --- data sets ---


def test_event_arrays_give_back_the_samples() -> None:
    rng = np.random.default_rng(1)
    samples = [random_events(rng, n) for n in (3, 0, 5)]
    dataset = EventArrays.from_events(samples, [0, 1, 0], n_units=N_UNITS, n_classes=2)
    assert len(dataset) == 3
    for i in (0, 1, 2, -1):
        np.testing.assert_array_equal(dataset.events(i).times, samples[i].times)
        np.testing.assert_array_equal(dataset.events(i).units, samples[i].units)
    with pytest.raises(IndexError):
        dataset.events(3)


def test_subset_of_subset_reads_the_same_samples() -> None:
    dataset = random_dataset()
    subset = Subset(Subset(dataset, [4, 9, 7]), [2, 0])
    assert len(subset) == 2
    np.testing.assert_array_equal(subset.labels, dataset.labels[[7, 4]])
    np.testing.assert_array_equal(subset.events(0).times, dataset.events(7).times)


fractions = st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any).map(lambda w: [x / sum(w) for x in w])


@given(fractions, seeds, st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_split_is_a_partition_with_the_wanted_shares(
    shares: list[float], seed: int, shuffle: bool, stratified: bool
) -> None:
    dataset = random_dataset(40)
    parts = split(dataset, shares, seed=seed, shuffle=shuffle, stratified=stratified)
    assert sorted(np.concatenate([part.indices for part in parts])) == list(range(40))
    for part, share in zip(parts, shares, strict=True):
        assert abs(len(part) - share * 40) <= (dataset.n_classes if stratified else 1)
        if not shuffle:
            assert (np.diff(part.indices) > 0).all()
        if stratified:
            wanted = share * np.bincount(dataset.labels, minlength=3)
            assert (abs(np.bincount(part.labels, minlength=3) - wanted) <= 1).all()


def test_split_depends_on_the_seed_alone() -> None:
    dataset = random_dataset(200)
    first, again, other = (split(dataset, (0.5, 0.5), seed=seed)[0].indices for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@given(st.lists(st.integers(0, 4), max_size=30))
@settings(deadline=None)
def test_occurrence_counts_the_equals_before(labels: list[int]) -> None:
    wanted = [labels[:i].count(label) for i, label in enumerate(labels)]
    assert occurrence(np.array(labels, dtype=np.int64)).tolist() == wanted


# --- refusals ---


def make_events(times: list[float], units: list[int] | list[float]) -> Events:
    return Events(np.array(times, dtype=np.float32), np.array(units))


def bins(unit: int = 0, n_units: int = 1, dt: float = 1e-3, duration: float = 0.1, pool: int = 1) -> torch.Tensor:
    return bin_events([make_events([0.0], [unit])], n_units=n_units, dt=dt, duration=duration, pool=pool)


def untyped(value: Any) -> Any:
    """What a type checker would refuse too."""
    return value


def arrays(units: list[int], offsets: list[int], labels: list[int]) -> EventArrays:
    times = np.zeros(len(units), dtype=np.float32)
    return EventArrays(times, np.array(units), np.array(offsets), np.array(labels), n_units=2, n_classes=2)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: make_events([0.1, 0.2], [1]), "equal length"),
        (lambda: make_events([math.nan, 0.2], [1, 1]), "1 of 2 times are not finite"),
        (lambda: make_events([math.inf], [1]), "not finite"),
        (lambda: make_events([-0.5], [1]), "-0.5 s is negative"),
        (lambda: make_events([0.5], [1.5]), "integers, not float64"),
        (lambda: bins(unit=7, n_units=7), r"unit 7 is not in 0\.\.6: raise n_units, now 7"),
        (lambda: bins(unit=-1), "unit -1 is not in"),
        (lambda: bins(dt=0.0), "dt=0.0 s must be positive"),
        (lambda: bins(dt=math.nan), "dt=nan s must be positive"),
        (lambda: bins(dt=0.1, duration=0.05), "duration=0.05 s must be .* at least one time step, dt=0.1 s"),
        (lambda: bins(duration=math.inf), "duration=inf"),
        (lambda: bins(pool=0), "pool=0 must be a whole number, at least 1"),
        (lambda: bins(pool=untyped(2.5)), "pool=2.5 must be a whole number"),
        (lambda: bins(n_units=untyped(2.5)), "n_units=2.5 must be a whole number"),
        (lambda: channel_count(0, 1), "n_units=0 must be a whole number, at least 1"),
        (lambda: bin_events([], n_units=1, dt=1.0, duration=1.0), "samples is empty"),
        (lambda: arrays([0, 2], [0, 2], [0]), "unit 2 is not in"),
        (lambda: arrays([0, 1], [0, 2], [2]), "label 2 is not in"),
        (lambda: arrays([0, 1], [0, 1, 2], [0]), "1 labels need 2 offsets, not 3"),
        (lambda: arrays([0, 1], [0, 1], [0]), "offsets must rise from 0 to the number of events, 2"),
        (lambda: arrays([0, 1], [0, 3, 2], [0, 1]), "offsets must rise"),
        (lambda: Subset(random_dataset(3), [3]), "index 3 is not in"),
        (lambda: Subset(random_dataset(3), np.array([True, False, True])), "integers, not bool"),
        (lambda: split(random_dataset(3), (0.5, 0.4), seed=0), "must sum to 1, not 0.9"),
        (lambda: split(random_dataset(3), (1.5, -0.5), seed=0), "must not be negative"),
        (lambda: split(random_dataset(3), (), seed=0), "must sum to 1"),
    ],
)
def test_refusals_name_value_and_limit(refused: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refused()
