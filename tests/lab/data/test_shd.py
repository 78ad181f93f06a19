"""The SHD reader, on a small file written here in the official layout and on the real one in `$FLUCTUA_DATA`."""

import gzip
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from fluctua.lab.data import SHDFile, bin_events

h5py = pytest.importorskip("h5py")

TIMES = [[0.1, 0.2, 0.65], [], [0.003], [0.5, 0.25]]
UNITS = [[699, 0, 12], [], [350], [1, 1]]


def write(path: Path, leave_out: str = "", **replaced: Any) -> Path:
    """Write four samples as Cramer et al. do; `replaced` swaps or adds data sets by their last name."""
    vlen = h5py.special_dtype
    rows: dict[str, Any] = {
        "spikes/times": replaced.get("times", TIMES),
        "spikes/units": replaced.get("units", UNITS),
    }
    flat = {
        "labels": np.array(replaced.get("labels", [0, 1, 1, 3]), dtype=np.uint8),
        "extra/speaker": np.array(replaced.get("speaker", [5, 2, 2, 5]), dtype=np.uint8),
        "extra/keys": np.array([b"zero", b"one", b"two", b"null", "fünf".encode()]),
        "extra/meta_info/speaker": np.array([b"anna", b"bert"]),
    }
    with h5py.File(path, "w") as file:
        for (name, samples), dtype in zip(rows.items(), (np.float16, np.uint16), strict=True):
            if name != leave_out:
                dataset = file.create_dataset(name, (len(samples),), dtype=vlen(vlen=np.dtype(dtype)))
                for i, sample in enumerate(samples):
                    dataset[i] = np.array(sample, dtype=dtype)
        for name, values in flat.items():
            if not (leave_out and name.startswith(leave_out)):
                file[name] = values
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "small.h5")


def real(name: str) -> Path:
    folder = os.environ.get("FLUCTUA_DATA")
    if not folder:
        pytest.skip("FLUCTUA_DATA is not set to the folder of fsdd_train.h5 and fsdd_test.h5")
    return Path(folder) / name


def assert_reads_all(dataset: SHDFile) -> None:
    for i, (times, units) in enumerate(zip(TIMES, UNITS, strict=True)):
        events = dataset.events(i)
        assert events.times.dtype == np.float32
        np.testing.assert_array_equal(events.times, np.array(times, dtype=np.float16))
        np.testing.assert_array_equal(events.units, np.array(units, dtype=np.int64))


def test_reads_the_official_layout(path: Path) -> None:
    dataset = SHDFile(path)
    assert len(dataset) == 4
    assert dataset.labels.dtype == np.int64
    assert dataset.labels.tolist() == [0, 1, 1, 3]
    assert (dataset.n_units, dataset.n_classes) == (700, 5)
    assert dataset.class_names == ("zero", "one", "two", "null", "fünf")
    assert dataset.speakers is not None
    assert dataset.speakers.tolist() == [5, 2, 2, 5]
    assert dataset.speaker_names == ("anna", "bert")
    assert_reads_all(dataset)
    np.testing.assert_array_equal(dataset.events(-1).units, UNITS[-1])
    with pytest.raises(IndexError):
        dataset.events(4)


def test_everything_under_extra_is_optional(tmp_path: Path) -> None:
    dataset = SHDFile(write(tmp_path / "bare.h5", leave_out="extra"))
    assert dataset.speakers is None
    assert dataset.speaker_names is None
    assert dataset.class_names is None
    assert dataset.n_classes == 4


def test_pickled_while_open_reads_the_same(path: Path) -> None:
    dataset = SHDFile(path)
    assert_reads_all(dataset)
    assert_reads_all(pickle.loads(pickle.dumps(dataset)))
    assert_reads_all(dataset)


class Units(Dataset[list[int]]):
    def __init__(self, dataset: SHDFile) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> list[int]:
        return [int(unit) for unit in self.dataset.events(i).units]


def test_forked_workers_read_the_same_after_the_parent_did(path: Path) -> None:
    dataset = SHDFile(path)
    assert_reads_all(dataset)
    loader = DataLoader(Units(dataset), batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert list(loader) == UNITS
    assert_reads_all(dataset)


# --- refusals ---


def test_missing_file_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"zenkelab\.org.* and gunzip it"):
        SHDFile(tmp_path / "shd_train.h5")


def test_compressed_file_is_named_so(path: Path, tmp_path: Path) -> None:
    packed = tmp_path / "small.h5.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ValueError, match="still compressed: gunzip"):
        SHDFile(packed)


def test_truncated_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(OSError, match=r"cannot be read as HDF5 \(.*truncated.*\): get it again"):
        SHDFile(path)


def test_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "page.h5"
    path.write_text("<html>not found</html>")
    with pytest.raises(OSError, match="cannot be read as HDF5"):
        SHDFile(path)


@pytest.mark.parametrize("name", ["spikes/times", "spikes/units", "labels"])
def test_missing_part_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"has no '{name}'"):
        SHDFile(write(tmp_path / "lacking.h5", leave_out=name))


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"labels": [0, 1]}, "labels 2, spikes/times 4, spikes/units 4"),
        ({"units": UNITS[:3]}, "spikes/units 3"),
        ({"speaker": [1]}, "extra/speaker 1"),
    ],
)
def test_unequal_numbers_of_samples(replaced: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"unequal numbers of samples.*{message}"):
        SHDFile(write(tmp_path / "unequal.h5", **replaced))


@pytest.mark.parametrize(
    ("replaced", "n_units", "message"),
    [
        (
            {"times": [[np.nan], *TIMES[1:]], "units": [[3], *UNITS[1:]]},
            700,
            "sample 0 of .*1 of 1 times are not finite",
        ),
        ({"times": [[0.1], *TIMES[1:]]}, 700, "sample 0 of .*equal length"),
        ({}, 699, r"sample 0 of .*unit 699 is not in 0\.\.698: raise n_units"),
    ],
)
def test_bad_samples_are_refused_when_read(
    replaced: dict[str, Any], n_units: int, message: str, tmp_path: Path
) -> None:
    dataset = SHDFile(write(tmp_path / "bad.h5", **replaced), n_units=n_units)
    with pytest.raises(ValueError, match=message):
        dataset.events(0)
    dataset.events(1)


def test_missing_h5py_names_the_extra(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r'pip install "fluctua\[train\]"'):
        SHDFile(path)


# --- real recordings ---


def test_real_recordings() -> None:
    dataset = SHDFile(real("fsdd_train.h5"))
    assert (len(dataset), dataset.n_classes, dataset.n_units) == (1800, 10, 700)
    assert dataset.speakers is not None
    assert dataset.speaker_names is not None
    assert {dataset.speaker_names[i] for i in dataset.speakers} == {"george", "jackson", "nicolas", "theo"}
    assert dataset.class_names is not None
    assert dataset.class_names[:2] == ("zero", "one")
    samples = [dataset.events(i) for i in range(64)]
    assert np.mean([len(sample) for sample in samples]) == pytest.approx(5700, rel=0.3)
    assert all((np.diff(sample.times) >= 0).all() for sample in samples)
    x = bin_events(samples, n_units=700, dt=2e-3, duration=0.7, binary=False)
    assert int(x.sum()) == sum(int((sample.times < 0.7).sum()) for sample in samples)
