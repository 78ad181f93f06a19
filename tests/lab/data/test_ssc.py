"""The files of SHD and SSC in a folder: which are found, and what becomes of training, validation and test."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shared.data_files import write_shd

pytest.importorskip("h5py")
from fluctua.lab.data import SHDFile, SHDPaths, find_shd

TWENTY = [k % 10 for k in range(20)]


def ssc(folder: Path) -> Path:
    for seed, (part, labels) in enumerate({"train": TWENTY * 3, "valid": TWENTY, "test": TWENTY[:10]}.items()):
        write_shd(folder / f"ssc_{part}.h5", labels, seed=seed)
    return folder


def shd(folder: Path) -> Path:
    write_shd(folder / "shd_train.h5", TWENTY, speakers=[0, 1] * 10)
    write_shd(folder / "shd_test.h5", TWENTY[:10], speakers=[0, 2] * 5)
    return folder


def test_the_files_of_each_are_found_with_those_beside_them(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    assert find_shd(ssc(a)) == SHDPaths(a / "ssc_train.h5", a / "ssc_valid.h5", a / "ssc_test.h5")
    assert find_shd(shd(b)) == SHDPaths(b / "shd_train.h5", None, b / "shd_test.h5")
    write_shd(c / "SHD" / "shd_train.h5", TWENTY)  # where tonic puts it
    assert find_shd(c) == SHDPaths(c / "SHD" / "shd_train.h5")
    assert find_shd(tmp_path) is None


def test_a_folder_of_both_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has both SHD and SSC: choose by the path of the training file"):
        find_shd(shd(ssc(tmp_path)))


def test_a_validation_file_is_the_validation_set_and_nothing_is_held_out(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    from fluctua.lab.data.module import SpikeDataModule

    found = find_shd(ssc(tmp_path))
    assert found is not None
    data = SpikeDataModule.from_shd_files(found.train, found.test, val_path=found.val, duration=0.1)
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 60, "val": 20, "test": 10}
    for split, path in (("train", found.train), ("val", found.val), ("test", found.test)):
        file, part = SHDFile(path), data.splits[split]  # type: ignore[arg-type]
        first = {file.events(i).times.tobytes() for i in range(len(file))}
        assert {part.events(i).times.tobytes() for i in range(len(part))} == first


def test_without_a_test_file_test_samples_are_held_out_beside_a_validation_file(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    from fluctua.lab.data.module import SpikeDataModule

    ssc(tmp_path)
    data = SpikeDataModule.from_shd_files(
        tmp_path / "ssc_train.h5", val_path=tmp_path / "ssc_valid.h5", test_fraction=0.5, duration=0.1
    )
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 30, "val": 20, "test": 30}
    assert np.ptp(np.bincount(data.splits["test"].labels)) == 0


BAD_FILES: dict[str, tuple[Callable[[bytes], bytes], type[Exception], str]] = {
    "empty": (lambda _: b"", ValueError, "is empty: get it again from https://zenkelab.org"),
    "zipped": (lambda raw: b"PK\x03\x04" + raw, ValueError, "is still compressed: gunzip or unzip it"),
    "gzipped": (lambda raw: b"\x1f\x8b" + raw, ValueError, "is still compressed"),
    "cut short": (lambda raw: raw[: len(raw) // 2], OSError, "cannot be read as HDF5"),
    "of another kind": (lambda raw: b"RIFF" + raw, OSError, "cannot be read as HDF5"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_cannot_be_read_is_refused(name: str, tmp_path: Path) -> None:
    spoil, error, sentence = BAD_FILES[name]
    path = write_shd(tmp_path / "shd_train.h5", TWENTY)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(error, match=sentence) as raised:
        SHDFile(path)
    assert "\n" not in str(raised.value)


def test_a_missing_file_says_how_to_fetch_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"shd_train\.h5 is missing: .*`python -m fluctua\.lab\.data\.fetch"):
        SHDFile(tmp_path / "shd_train.h5")
