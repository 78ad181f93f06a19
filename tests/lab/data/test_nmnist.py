"""The N-MNIST reader, on small files in the official layout and on real recordings."""

import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fluctua.lab.data import NMNIST
from shared.data_files import event, nmnist, write_folder, write_tar

EVENTS = [(0, 0, 0, 0), (33, 0, 1, 7), (2, 33, 0, 70_000), (33, 33, 1, 0x7FFFFF)]
SMALL = {
    "Train/7/00002.bin": b"".join(event(*e) for e in EVENTS),
    "Train/0/00009.bin": b"",
    "Train/0/00001.bin": event(5, 6, 1, 1000),
    "Test/3/00001.bin": event(1, 1, 0, 1),
    "Train/notes.txt": b"no recording",
}


def folder(root: Path) -> Path:
    return write_folder(root / "N-MNIST", SMALL)


def tar(root: Path) -> Path:
    return write_tar(root / "n-mnist.tar", SMALL)


def nested_tar(root: Path) -> Path:
    """As made by `tar cf n-mnist.tar ./N-MNIST`."""
    return write_tar(root / "n-mnist.tar", {f"./N-MNIST/{name}": content for name, content in SMALL.items()})


@pytest.mark.parametrize("write", [folder, tar, nested_tar])
def test_every_event_gets_its_unit_and_time(write: Callable[[Path], Path], tmp_path: Path) -> None:
    data = NMNIST(write(tmp_path))
    assert (len(data), data.n_units, data.n_classes) == (3, 2312, 10)
    assert data.labels.tolist() == [0, 0, 7]
    assert data.events(0).units.tolist() == [34 * 34 + 6 * 34 + 5]  # 00001, before 00009
    assert len(data.events(1)) == 0
    events, label = data[-1]
    assert label == 7
    assert events.units.tolist() == [p * 34 * 34 + y * 34 + x for x, y, p, _ in EVENTS]
    np.testing.assert_allclose(events.times, [t * 1e-6 for *_, t in EVENTS], rtol=1e-6)
    assert NMNIST(data.path, "Test").labels.tolist() == [3]
    with pytest.raises(IndexError):
        data.events(3)


def test_units_reshape_to_polarity_row_and_column(tmp_path: Path) -> None:
    events, _ = NMNIST(tar(tmp_path))[2]
    grid = torch.zeros(NMNIST.n_units)
    grid[torch.from_numpy(events.units)] = 1
    assert {tuple(place) for place in grid.reshape(NMNIST.shape).nonzero().tolist()} == {
        (p, y, x) for x, y, p, _ in EVENTS
    }


def test_a_marker_of_the_clock_shifts_what_follows_and_is_no_event(tmp_path: Path) -> None:
    raw = event(1, 1, 0, 100) + event(0, 240, 0, 0) + event(2, 2, 0, 100) + event(0, 240, 0, 0) + event(3, 3, 0, 100)
    events = NMNIST(write_tar(tmp_path / "t.tar", {"Train/0/1.bin": raw})).events(0)
    np.testing.assert_allclose(events.times, np.array([100, 100 + 2**13, 100 + 2**14]) * 1e-6, rtol=1e-6)
    assert len(events) == 3


def test_it_can_be_sent_to_a_worker(tmp_path: Path) -> None:
    data = pickle.loads(pickle.dumps(NMNIST(tar(tmp_path))))
    assert data.events(0).units.tolist() == [34 * 34 + 6 * 34 + 5]


def test_a_tar_file_is_read_where_it_is(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "evil.tar", {"../../Train/4/1.bin": event(1, 1, 0, 5), "/Train/5/1.bin": b""})
    data = NMNIST(path)
    assert data.labels.tolist() == [4, 5]
    assert len(data.events(0)) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["evil.tar"]


def test_a_link_in_a_tar_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(event(1, 1, 0, 5))
    with tarfile.open(tmp_path / "links.tar", "w") as file:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            member = tarfile.TarInfo(f"Train/0/{kind.decode()}.bin")
            member.type, member.linkname = kind, str(tmp_path / "secret.bin")
            file.addfile(member)
    with pytest.raises(ValueError, match="has no recording"):
        NMNIST(tmp_path / "links.tar")


# --- refusals ---


def test_a_tar_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    raw = tar(tmp_path).read_bytes()
    end = raw.rstrip(b"\0")  # members are padded to 512 bytes, and two blocks of zeros end the file
    last = -(-len(end) // 512) * 512
    for length in [*range(512, last + 1, 512), 700, 1500, last + 100]:
        path = tmp_path / "short.tar"
        path.write_bytes(raw[:length])
        with pytest.raises(ValueError, match=r"cannot be read as a tar file \(.*\): get N-MNIST"):
            NMNIST(path)
    path.write_bytes(raw[: last + 512])
    assert len(NMNIST(path)) == 3


REFUSED: dict[str, tuple[Callable[[Path], Path], type[Exception], str]] = {
    "nothing there": (lambda root: root / "none", FileNotFoundError, "none is missing: get N-MNIST from https://"),
    "an empty folder": (lambda root: root, ValueError, r"has no recording Train/<digit>/<id>\.bin: get N-MNIST"),
    "a compressed tar file": (lambda root: write_tar(root / "a.tgz", SMALL, "w:gz"), ValueError, "or gunzip it"),
    "no tar file": (lambda root: write_folder(root, {"a.txt": b"x" * 2000}) / "a.txt", ValueError, "as a tar file"),
    "only a test part": (
        lambda root: write_tar(root / "a.tar", {"Test/0/1.bin": b""}),
        ValueError,
        "has no recording Train",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_nmnist_is_refused(name: str, tmp_path: Path) -> None:
    make, error, sentence = REFUSED[name]
    with pytest.raises(error, match=sentence):
        NMNIST(make(tmp_path))


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (event(1, 1, 0, 5)[:4], r"Train/0/1\.bin of .*: 4 bytes are not a whole number of events"),
        (event(1, 1, 0, 5) + event(34, 1, 0, 5), "event 1 at x=34, y=1 is outside 34 x 34"),
        (event(1, 34, 0, 5), "event 0 at x=1, y=34 is outside"),
    ],
)
@pytest.mark.parametrize("write", [lambda root, f: write_tar(root / "a.tar", f), write_folder], ids=["tar", "folder"])
def test_a_bad_recording_is_refused_when_read(
    write: Callable[[Path, dict[str, bytes]], Path], raw: bytes, sentence: str, tmp_path: Path
) -> None:
    data = NMNIST(write(tmp_path, {"Train/0/1.bin": raw, "Train/1/1.bin": b""}))
    with pytest.raises(ValueError, match=sentence):
        data.events(0)
    data.events(1)


# --- batches ---


def test_batches_are_images_over_time(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    from fluctua.lab.data.module import SpikeDataModule

    data = SpikeDataModule.from_nmnist(write_tar(tmp_path / "a.tar", nmnist(10)), duration=0.1, binary=False)
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 90, "val": 10, "test": 10}
    assert np.bincount(data.splits["val"].labels).tolist() == [1] * 10
    assert (data.shape, data.n_classes, data.n_steps) == ((2, 34, 34), 10, 50)
    x, y = next(iter(data.test_dataloader()))
    assert x.shape == (50, 10, 2, 34, 34)
    assert y.tolist() == list(range(10))
    assert x.sum(dim=(0, 2, 3, 4)).tolist() == [300] * 10  # every event once
    # the events of digit d lie in a square of its own, see `recording`
    for d in range(10):
        row, column = 16 * (d // 5) + 5, 6 * (d % 5) + 2
        assert x[:, d, :, row : row + 6, column : column + 6].sum() == 300


def test_a_shape_that_does_not_hold_the_units_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    from fluctua.lab.data.module import SpikeDataModule

    part = NMNIST(tar(tmp_path))
    with pytest.raises(ValueError, match=r"shape=\(2, 17, 17\) holds 578 channels, not 2312"):
        SpikeDataModule(part, part, part, dt=2e-3, duration=0.1, shape=(2, 17, 17))


def test_real_recordings(data_dir: Path) -> None:
    train, test = (NMNIST(data_dir / "nmnist_small.tar", part) for part in ("Train", "Test"))  # type: ignore[arg-type]
    assert (len(train), len(test)) == (1000, 100)
    samples = [train.events(i) for i in range(0, 1000, 50)]
    # data/README.md: some 4100 events and 308 ms each
    assert np.mean([len(sample) for sample in samples]) == pytest.approx(4100, rel=0.2)
    assert np.mean([sample.times.max() for sample in samples]) == pytest.approx(0.308, rel=0.05)
    assert all((np.diff(sample.times) >= 0).all() for sample in samples)
    # both polarities: an edge that comes is an edge that goes
    share = np.mean([(sample.units >= 34 * 34).mean() for sample in samples])
    assert 0.3 < share < 0.7
