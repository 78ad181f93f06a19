"""Laws of fingerprints: equal for equal data, whoever reads them where, and different for anything that differs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lightning")
pytest.importorskip("h5py")

from fluctua.lab.data.augmentations import UnitShift
from fluctua.lab.data.cifar10 import Images
from fluctua.lab.data.events import EventArrays, Events, Subset
from fluctua.lab.data.fingerprint import checksum, in_text
from fluctua.lab.data.module import SpikeDataModule
from shared.data_files import write_shd


def samples(times: tuple[float, ...] = (0.01, 0.02), units: tuple[int, ...] = (0, 1), label: int = 0) -> EventArrays:
    events = [Events(np.array(times, np.float32), np.array(units)), Events(np.zeros(1, np.float32), np.array([2]))]
    return EventArrays.from_events(events, [label, 1], n_units=3, n_classes=2)


def test_equal_samples_have_one_checksum_wherever_they_are() -> None:
    assert checksum(samples()) == checksum(samples()) == checksum(Subset(samples(), [0, 1]))


@pytest.mark.parametrize(
    "other",
    [
        samples(times=(0.01, 0.0200001)),
        samples(units=(1, 0)),
        samples(units=(0, 2)),
        samples(label=1),
        samples(times=(0.01,), units=(0,)),
        Subset(samples(), [1, 0]),
        Subset(samples(), [0]),
        Subset(samples(), [0, 1, 1]),
    ],
)
def test_whatever_differs_is_told(other: Any) -> None:
    assert checksum(other) != checksum(samples())


def test_images_are_told_apart_by_any_pixel() -> None:
    pixels = np.zeros((2, 3, 4, 4), np.uint8)
    other = pixels.copy()
    other[1, 2, 3, 3] = 1
    labels = np.array([0, 1])
    assert checksum(Images(pixels, labels)) == checksum(Images(pixels.copy(), labels))
    assert checksum(Images(pixels, labels)) != checksum(Images(other, labels))


def test_a_function_has_the_same_text_in_every_process() -> None:
    assert "0x" not in in_text(lambda events, rng: events)
    assert in_text(UnitShift(3)) != in_text(UnitShift(4))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shd(tmp_path_factory.mktemp("data") / "a.h5", [k % 2 for k in range(40)])


def told(file: Path, **options: Any) -> dict[str, Any]:
    return SpikeDataModule.from_shd_files(file, **{"dt": 4e-3, "duration": 0.1, **options}).fingerprint()


def test_files_are_known_by_what_they_hold(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "b.h5"
    copy.write_bytes(file.read_bytes())
    assert told(copy) == told(file)
    assert told(write_shd(tmp_path / "c.h5", [k % 2 for k in range(40)], seed=1)) != told(file)
    assert told(file, num_workers=2) == told(file), "what decides no number"


@pytest.mark.parametrize(
    ("option", "keys"),
    [
        ({"dt": 2e-3}, {"dt"}),
        ({"duration": 0.2}, {"duration"}),
        ({"batch_size": 7}, {"batch_size"}),
        ({"pool": 2}, {"pool", "shape"}),
        ({"binary": False}, {"binary"}),
        ({"augment": (UnitShift(3),)}, {"augment"}),
        ({"seed": 1}, {"data_seed", "samples"}),
        ({"val_fraction": 0.2}, {"samples"}),
    ],
)
def test_every_setting_that_decides_numbers_is_told_by_its_name(
    file: Path, option: dict[str, Any], keys: set[str]
) -> None:
    before, now = told(file), told(file, **option)
    assert {key for key in before if before[key] != now[key]} == keys
