"""Augmentations: what is moved and dropped, how often, and that seed, epoch and sample alone decide."""

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fluctua.lab.data import (
    Augmented,
    DropEvents,
    EventArrays,
    Events,
    Mirror,
    PixelShift,
    RandomCrop,
    SpatialShift,
    TimeJitter,
    TimeStretch,
    UnitJitter,
    UnitShift,
)
from shared.data_files import write_cifar10

N = 20_000
SHAPE = (2, 8, 10)
EVENT_STEPS: dict[str, Any] = {
    "drop": DropEvents(0.3),
    "crop": RandomCrop(0.5),
    "time jitter": TimeJitter(0.01),
    "time stretch": TimeStretch(0.2),
    "unit shift": UnitShift(10, 160),
    "unit jitter": UnitJitter(2.0, 160),
    "spatial shift": SpatialShift(2, SHAPE),
}


def sample(seed: int = 0, n: int = N) -> Events:
    """Events in 2 s, each at a time of its own by which it is known; units of `SHAPE`."""
    rng = np.random.default_rng(seed)
    return Events(np.linspace(0, 2, n, endpoint=False, dtype=np.float32), rng.integers(0, 160, n))


def dataset(n_samples: int = 30, n: int = 200) -> EventArrays:
    labels = [i % 3 for i in range(n_samples)]
    return EventArrays.from_events([sample(i, n) for i in range(n_samples)], labels, n_units=160, n_classes=3)


def runs(step: Any, count: int, events: Events) -> list[Events]:
    rng = np.random.default_rng(1)
    return [step(events, rng) for _ in range(count)]


def within(value: float, wanted: float, std: float) -> bool:
    """Five standard deviations: one failure in two million."""
    return abs(value - wanted) < 5 * std


# --- what each of them does ---


@pytest.mark.parametrize("p", [0.0, 0.2, 0.9])
def test_events_are_dropped_each_with_probability_p(p: float) -> None:
    before = sample()
    after = DropEvents(p)(before, np.random.default_rng(0))
    assert within(len(after), (1 - p) * N, (N * p * (1 - p)) ** 0.5 + 1e-9)
    kept = np.isin(before.times, after.times)
    assert np.array_equal(before.units[kept], after.units)
    # neighbours are dropped independently
    pairs = float(np.mean(kept[::2] & kept[1::2]))
    assert within(pairs, (1 - p) ** 2, (0.25 / (N / 2)) ** 0.5)


def test_a_crop_holds_what_falls_into_it_and_starts_uniformly() -> None:
    before, starts = sample(), []
    for after in runs(RandomCrop(0.5), 400, before):
        assert within(len(after), N / 4, 1)  # a spacing of 0.1 ms fits 5000 times into 0.5 s
        assert after.times.min() >= 0
        assert after.times.max() < 0.5
        # the units in a row tell where the crop lay
        k = next(k for k in np.flatnonzero(before.units == after.units[0]) if _fits(before, after, int(k)))
        starts.append(float(before.times[k]) - float(after.times[0]))
    # uniform in 0 .. 1.5 s: mean 0.75, standard deviation 1.5 / sqrt 12
    assert within(float(np.mean(starts)), 0.75, 1.5 / 12**0.5 / 20)
    assert within(float(np.std(starts)), 1.5 / 12**0.5, 1.5 / 20**0.5 / 20)
    assert min(starts) > -1e-4
    assert max(starts) < 1.5 + 1e-4


def _fits(before: Events, after: Events, k: int) -> bool:
    return np.array_equal(before.units[k : k + len(after)], after.units)


@pytest.mark.parametrize("duration", [2.0, 5.0])
def test_a_sample_no_longer_than_the_crop_stays(duration: float) -> None:
    before = sample()
    after = RandomCrop(duration)(before, np.random.default_rng(0))
    assert np.array_equal(before.times, after.times)


def test_time_jitter_is_normal_and_leaves_units_alone() -> None:
    before = Events(np.full(N, 1.0, np.float32), np.arange(N))
    after = TimeJitter(0.01)(before, np.random.default_rng(0))
    assert np.array_equal(before.units, after.units)
    assert within(float(after.times.mean()), 1.0, 0.01 / N**0.5)
    assert within(float(after.times.std()), 0.01, 0.01 / (2 * N) ** 0.5)
    early = TimeJitter(0.01)(Events(np.zeros(N, np.float32), np.arange(N)), np.random.default_rng(0))
    assert within(len(early), N / 2, (N / 4) ** 0.5)  # what falls before 0 s is dropped


def test_all_units_of_a_sample_shift_alike_and_uniformly() -> None:
    before, shifts = Events(np.zeros(3, np.float32), np.array([40, 41, 99])), []
    for after in runs(UnitShift(3, 700), 2100, before):
        (shift,) = set((after.units - before.units).tolist())
        shifts.append(shift)
    counts = np.bincount(np.array(shifts) + 3, minlength=7)
    assert len(counts) == 7
    assert all(within(count, 300, (2100 * 6 / 49) ** 0.5) for count in counts)


def test_a_stretch_multiplies_all_times_by_one_factor_whose_logarithm_is_uniform() -> None:
    before, limit, n = sample(n=50), 0.3, 2000
    logs = []
    for after in runs(TimeStretch(limit), n, before):
        factor = after.times[1:] / before.times[1:]
        assert np.array_equal(before.units, after.units)
        assert np.allclose(factor, factor[0], rtol=1e-5)
        logs.append(np.log(factor[0]))
    assert limit - 10 * limit / n < max(logs) <= limit + 1e-5  # the largest of n is short of the limit by 2 limit / n
    assert within(float(np.mean(logs)), 0, limit / (3 * n) ** 0.5)


def test_units_shifted_beyond_the_edge_are_dropped() -> None:
    before = Events(np.arange(10, dtype=np.float32), np.arange(10))
    for after in runs(UnitShift(4, 10), 50, before):
        shift = int(after.units[0]) - int(after.times[0])
        assert sorted(after.units.tolist()) == [unit for unit in range(shift, 10 + shift) if 0 <= unit < 10]


def test_unit_jitter_is_normal_and_leaves_times_alone() -> None:
    before = Events(np.arange(N, dtype=np.float32), np.full(N, 300))
    after = UnitJitter(3.0, 700)(before, np.random.default_rng(0))
    assert np.array_equal(before.times, after.times)
    std = (9 + 1 / 12) ** 0.5  # rounding adds the variance of a uniform draw
    assert within(float(after.units.mean()), 300, std / N**0.5)
    assert within(float(after.units.std()), std, std / (2 * N) ** 0.5)
    edge = UnitJitter(3.0, 700)(Events(before.times, np.zeros(N, np.int64)), np.random.default_rng(0))
    p = 0.5 + 0.5 * 0.13237  # P(rounded normal >= 0) = P(z > -1/6) = 0.5 + 0.0662
    assert within(len(edge), p * N, (N * p * (1 - p)) ** 0.5)


def picture(events: Events) -> NDArray[np.int64]:
    return np.bincount(events.units, minlength=160).reshape(SHAPE)


def test_a_spatial_shift_moves_the_picture_and_drops_what_leaves_it() -> None:
    before, seen = sample(), set()
    wide = np.pad(picture(before), ((0, 0), (2, 2), (2, 2)))
    for after in runs(SpatialShift(2, SHAPE), 300, before):
        places = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if np.array_equal(picture(after), wide[:, 2 - down : 10 - down, 2 - right : 12 - right])
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == 25  # each missed with probability (24 / 25)^300 = 5e-6


def test_an_image_shifts_and_what_comes_in_is_grey() -> None:
    before, rng = np.random.default_rng(0).integers(0, 100, (3, 6, 7), dtype=np.uint8), np.random.default_rng(1)
    wide = np.pad(before, ((0, 0), (1, 1), (1, 1)), constant_values=128)
    possible = {wide[:, y : y + 6, x : x + 7].tobytes() for y in range(3) for x in range(3)}
    seen = {PixelShift(1)(before, rng).tobytes() for _ in range(200)}
    assert len(possible) == 9
    assert seen == possible  # each is missed with probability (8 / 9)^200 = 6e-11
    assert PixelShift(0)(before, rng).tobytes() == before.tobytes()


def test_an_image_is_mirrored_one_time_in_two() -> None:
    before, rng = np.arange(12, dtype=np.uint8).reshape(1, 3, 4), np.random.default_rng(0)
    after = [Mirror()(before, rng) for _ in range(1000)]
    mirrored = [np.array_equal(image, before[..., ::-1]) for image in after]
    assert within(sum(mirrored), 500, 250**0.5)
    assert all(is_mirror or np.array_equal(image, before) for image, is_mirror in zip(after, mirrored, strict=True))


@pytest.mark.parametrize("name", EVENT_STEPS)
def test_a_sample_without_events_stays_without(name: str) -> None:
    empty = Events(np.zeros(0, np.float32), np.zeros(0, np.int64))
    assert len(EVENT_STEPS[name](empty, np.random.default_rng(0))) == 0


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: DropEvents(1.0), r"p=1\.0 must be in \[0, 1\)"),
        (lambda: DropEvents(-0.1), r"p=-0\.1 must be"),
        (lambda: RandomCrop(0.0), r"duration=0\.0 s must be positive"),
        (lambda: TimeJitter(-1.0), r"std=-1\.0 must be finite and not negative: pass .* in seconds"),
        (lambda: UnitJitter(float("nan")), "std=nan must be finite"),
        (lambda: TimeStretch(-0.1), r"limit=-0\.1 must be finite and not negative"),
        (lambda: TimeStretch(math.inf), "limit=inf must be finite"),
        (lambda: UnitShift(-1), r"limit=-1 must be a whole number, 0\.\.699"),
        (lambda: UnitShift(700), r"limit=700 must be a whole number, 0\.\.699"),
        (lambda: SpatialShift(8, SHAPE), r"limit=8 must be a whole number, 0\.\.7"),
        (lambda: UnitJitter(1.0, n_units=0), r"must be a whole number, 0\.\.-1"),
        (lambda: UnitShift(2.5), r"limit=2\.5 must be a whole number"),  # type: ignore[arg-type]
        (lambda: PixelShift(math.nan), "limit=nan must be a whole number"),  # type: ignore[arg-type]
        (lambda: PixelShift(-2), "limit=-2 must be a whole number from 0 on"),
    ],
)
def test_refusals_name_value_and_limit(refused: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refused()


# --- who decides ---


def equal(a: Events, b: Events) -> bool:
    return np.array_equal(a.times, b.times) and np.array_equal(a.units, b.units)


@pytest.mark.parametrize("name", EVENT_STEPS)
def test_seed_epoch_and_sample_alone_decide(name: str) -> None:
    data, step = dataset(), EVENT_STEPS[name]
    augmented, again = Augmented(data, [step], seed=1), pickle.loads(pickle.dumps(Augmented(data, [step], seed=1)))
    keys = [(epoch, i) for epoch in range(3) for i in range(5)]
    backwards = {key: again[key][0] for key in reversed(keys)}
    assert all(equal(augmented[key][0], backwards[key]) for key in keys)
    assert equal(augmented[3][0], augmented[0, 3][0])
    assert equal(augmented[-1][0], augmented[29][0])
    other = Augmented(data, [step], seed=2)
    assert not all(equal(augmented[key][0], other[key][0]) for key in keys)
    assert not all(equal(augmented[0, i][0], augmented[1, i][0]) for i in range(5))


@pytest.mark.parametrize("name", EVENT_STEPS)
def test_labels_and_the_data_themselves_are_untouched(name: str) -> None:
    data = dataset()
    times, units = data.times.copy(), data.units.copy()
    augmented = Augmented(data, [EVENT_STEPS[name]], seed=0)
    assert [augmented[i][1] for i in range(len(augmented))] == data.labels.tolist()
    assert np.array_equal(data.times, times)
    assert np.array_equal(data.units, units)


def test_augmentations_come_in_turn_from_one_stream() -> None:
    data = dataset(1)
    rng = np.random.default_rng((5, 2, 0))
    expected = UnitShift(9, 160)(DropEvents(0.5)(data.events(0), rng), rng)
    assert equal(Augmented(data, [DropEvents(0.5), UnitShift(9, 160)], seed=5)[2, 0][0], expected)


# --- in the data modules ---


def module(**options: Any) -> Any:
    pytest.importorskip("lightning")
    from fluctua.lab.data.module import SpikeDataModule

    data = dataset()
    return SpikeDataModule(data, data, data, dt=0.1, duration=2.0, batch_size=30, binary=False, **options)


def total(loader: Any) -> float:
    (x, _) = next(iter(loader))
    return float(x.sum())


def test_augmentations_are_for_training_alone_and_preparation_for_all() -> None:
    whole = 30 * 200  # events of all samples
    augmented, prepared = module(augment=[DropEvents(0.5)]), module(prepare=[DropEvents(0.5)])
    assert total(augmented.val_dataloader()) == total(augmented.test_dataloader()) == whole
    for data in (augmented, prepared):
        assert within(total(data.train_dataloader()), whole / 2, (whole / 4) ** 0.5)
        assert within(float(data.batch(30)[0].sum()), whole / 2, (whole / 4) ** 0.5)
    for loader in (prepared.val_dataloader(), prepared.test_dataloader()):
        assert within(total(loader), whole / 2, (whole / 4) ** 0.5)


def test_training_draws_anew_in_every_epoch_and_the_rest_never() -> None:
    data = module(prepare=[DropEvents(0.5)])
    loader = data.train_dataloader()

    def ordered(epoch: int | None) -> torch.Tensor:
        if epoch is not None:
            loader.sampler.set_epoch(epoch)
        counts: torch.Tensor = next(iter(loader))[0].sum((0, 2))
        return counts.sort().values  # numbers of events of the samples, whatever their order

    first = ordered(0)
    assert not torch.equal(first, ordered(1))
    assert torch.equal(first, ordered(0))
    assert torch.equal(data.batch(30)[0], data.batch(30)[0])
    assert torch.equal(next(iter(data.val_dataloader()))[0], next(iter(data.val_dataloader()))[0])


def test_workers_draw_the_same() -> None:
    for epoch in (0, 3):
        batches = []
        for num_workers in (0, 2):
            loader = module(augment=[DropEvents(0.5), UnitShift(4, 160)], num_workers=num_workers).train_dataloader()
            loader.sampler.set_epoch(epoch)
            batches.append(next(iter(loader)))
        assert torch.equal(batches[0][0], batches[1][0])
        assert torch.equal(batches[0][1], batches[1][1])


def test_each_process_of_several_sees_new_draws_every_epoch() -> None:
    """Lightning wraps the sampler for them and hides `set_epoch`."""
    pytest.importorskip("lightning")
    from lightning.fabric.utilities.distributed import DistributedSamplerWrapper

    sampler = module(augment=[DropEvents(0.5)]).train_dataloader().sampler
    ranks = [DistributedSamplerWrapper(sampler, num_replicas=2, rank=0, shuffle=False)]
    epochs = [{epoch for epoch, _ in ranks[0]} for _ in range(3)]
    assert epochs == [{0}, {1}, {2}]


def test_images_are_augmented_for_training_alone(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    from fluctua.lab.data.image_module import ImageDataModule

    folder = write_cifar10(tmp_path / "cifar-10-batches-py", per_class=2)
    options: dict[str, Any] = {"dt": 0.1, "duration": 0.2, "val_fraction": 0.2}
    plain = ImageDataModule.from_cifar10(folder, **options)
    moved = ImageDataModule.from_cifar10(folder, augment=[PixelShift(2), Mirror()], **options)
    (x, y), (x2, y2) = (next(iter(data.train_dataloader())) for data in (plain, moved))
    assert x.shape == x2.shape
    assert torch.equal(y, y2)
    assert not torch.equal(x, x2)
    for a, b in zip(plain.val_dataloader(), moved.val_dataloader(), strict=True):
        assert torch.equal(a[0], b[0])
