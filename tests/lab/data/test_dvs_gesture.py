"""The reader of DVS128 Gesture, on small files in the official layout and in tonic's."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fluctua.lab.data import DVSGesture, bin_events
from fluctua.lab.data.aedat import Recording
from shared.data_files import AEDAT_HEADER, gestures, packet, write_official_gestures, write_tonic_gestures

TRAIN, TEST = gestures([1, 2]), gestures([24], seed=1)
Write = Callable[[Path], Path]


def official(root: Path) -> Path:
    return write_official_gestures(root / "DvsGesture", TRAIN, TEST)


def tonic(root: Path) -> Path:
    return write_tonic_gestures(root / "DVSGesture", TRAIN, TEST)


LAYOUTS = pytest.mark.parametrize("write", [official, tonic])


@LAYOUTS
@pytest.mark.parametrize("side", [128, 32])
def test_every_event_gets_its_unit_and_time(write: Write, side: int, tmp_path: Path) -> None:
    data = DVSGesture(write(tmp_path), side=side)
    assert (len(data), data.shape, data.n_units, data.n_classes) == (22, (2, side, side), 2 * side**2, 11)
    assert data.labels.tolist() == [*range(11)] * 2
    assert data.users.tolist() == [1] * 11 + [2] * 11
    for i in (0, 5, 21, -1):
        events, label = data[i]
        t, x, y, p = TRAIN[f"user0{data.users[i]}_led"][label][1].T
        if write is tonic:
            t = t - t[0]
        # float32 of microseconds
        np.testing.assert_allclose(events.times, t * 1e-6, rtol=1e-6, atol=1e-7)
        grid = np.zeros(data.shape, dtype=int)
        np.add.at(grid, (p, y * side // 128, x * side // 128), 1)
        assert np.array_equal(np.bincount(events.units, minlength=data.n_units).reshape(data.shape), grid)
    assert DVSGesture(data.path, "test").users.tolist() == [24] * 11
    with pytest.raises(IndexError):
        data.events(22)


@LAYOUTS
def test_the_folder_that_holds_the_folder_will_do(write: Write, tmp_path: Path) -> None:
    inner = write(tmp_path)
    outer, direct = DVSGesture(inner.parent), DVSGesture(inner)
    assert outer.labels.tolist() == direct.labels.tolist()
    assert np.array_equal(outer.events(3).units, direct.events(3).units)


@LAYOUTS
def test_it_can_be_sent_to_a_worker(write: Write, tmp_path: Path) -> None:
    data = DVSGesture(write(tmp_path))
    before = data.events(2)
    assert np.array_equal(pickle.loads(pickle.dumps(data)).events(2).units, before.units)


def test_merging_pixels_adds_their_events(tmp_path: Path) -> None:
    """128 x 128 pixels binned and then summed in squares of 4 x 4 are the 32 x 32 pixels."""
    path = official(tmp_path)
    binned = [
        bin_events([data.events(4)], n_units=data.n_units, dt=0.1, duration=2.0, binary=False).reshape(20, *data.shape)
        for data in (DVSGesture(path, side=128), DVSGesture(path, side=32))
    ]
    summed = torch.nn.functional.avg_pool2d(binned[0], 4) * 16
    assert binned[1].sum() == 400
    assert torch.equal(summed, binned[1])


# --- AEDAT 3.1 ---


def recorded(path: Path, *packets: bytes) -> Recording:
    path.write_bytes(AEDAT_HEADER + b"".join(packets))
    return Recording.index(path)


EVENTS = np.array([[10, 0, 0, 0], [20, 127, 3, 1], [20, 5, 127, 0], [35, 1, 2, 1], [50, 9, 9, 1]])


def test_a_span_holds_its_start_and_not_its_end(tmp_path: Path) -> None:
    recording = recorded(tmp_path / "a.aedat", *(packet(part) for part in np.array_split(EVENTS, 2)))
    for start in range(0, 60, 5):
        for end in range(start, 61, 5):
            found = np.column_stack(recording.between(start, end))
            t = EVENTS[:, 0]
            assert np.array_equal(found, EVENTS[(t >= start) & (t < end)])


def test_other_packets_and_invalid_events_are_passed_over(tmp_path: Path) -> None:
    recording = recorded(
        tmp_path / "a.aedat", packet(EVENTS[:2], kind=0), packet(EVENTS, invalid=[1, 4]), packet(EVENTS[:0])
    )
    assert np.array_equal(np.column_stack(recording.between(0, 100)), EVENTS[[0, 2, 3]])


def test_the_clock_goes_on_after_its_overflow(tmp_path: Path) -> None:
    recording = recorded(tmp_path / "a.aedat", packet(EVENTS), packet(EVENTS, overflow=1))
    t, *_ = recording.between(0, 1 << 40)
    assert t.tolist() == [*EVENTS[:, 0], *(EVENTS[:, 0] + (1 << 31))]


def test_a_recording_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    packets = [packet(EVENTS[:2]), packet(EVENTS[2:3]), packet(EVENTS[3:])]
    raw, path = AEDAT_HEADER + b"".join(packets), tmp_path / "short.aedat"
    whole = len(AEDAT_HEADER) + np.cumsum([0, *map(len, packets)])
    for length in range(1, len(raw)):
        path.write_bytes(raw[:length])
        if length in whole:  # between two packets nothing tells that others were to follow
            Recording.index(path)
        else:
            with pytest.raises(ValueError, match=r"short\.aedat cannot be read as AEDAT 3\.1 \(.*\): get it again"):
                Recording.index(path)


# --- refusals ---


def spoiled(write: Write, name: str, content: bytes | None) -> Write:
    """The files, one of which is replaced or deleted."""

    def make(root: Path) -> Path:
        folder = write(root)
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)
        return folder

    return make


def labels(line: str) -> bytes:
    return f"class,startTime_usec,endTime_usec\n{line}\n".encode()


CSV, AEDAT = "user01_led_labels.csv", "user01_led.aedat"
REFUSED: dict[str, tuple[Write, type[Exception], str]] = {
    "nothing there": (lambda root: root / "none", FileNotFoundError, "none has neither trials_to_train.txt .* get it"),
    "an empty folder": (lambda root: root, FileNotFoundError, "or run `python -m fluctua.lab.data.fetch dvs-gesture"),
    "no list": (spoiled(official, "trials_to_train.txt", None), FileNotFoundError, "trials_to_train.txt is missing"),
    "an empty list": (spoiled(official, "trials_to_train.txt", b"\n"), ValueError, "has no gesture of the part train"),
    "no recording": (spoiled(official, AEDAT, None), FileNotFoundError, "user01_led.aedat is listed in"),
    "no labels": (spoiled(official, CSV, None), FileNotFoundError, "user01_led_labels.csv is missing"),
    "empty labels": (spoiled(official, CSV, b""), ValueError, "labels.csv is empty"),
    "a class of none": (spoiled(official, CSV, labels("12,1,2")), ValueError, "'12,1,2' is not a class from 1 to 11"),
    "a span without end": (spoiled(official, CSV, labels("3,9")), ValueError, "'3,9' is not a class"),
    "a span backwards": (spoiled(official, CSV, labels("3,9,4")), ValueError, "with start and end in µs"),
    "a file of no class": (
        spoiled(tonic, "ibmGestureTrain/user01_led/11.npy", b""),
        ValueError,
        "11.npy must be named for its class, 0 to 10",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_dvs_gesture_is_refused(name: str, tmp_path: Path) -> None:
    make, error, sentence = REFUSED[name]
    with pytest.raises(error, match=sentence) as raised:
        DVSGesture(make(tmp_path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("side", [0, 48, 256])
def test_a_side_must_divide_the_camera(side: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"side={side} must divide the 128 pixels"):
        DVSGesture(official(tmp_path), side=side)


class Fuse:
    """Would leave a trace if it were unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def saved(path: Path, array: Any) -> bytes:
    np.save(path, array, allow_pickle=True)
    return path.read_bytes()


def huge(path: Path) -> bytes:
    """A header of 2.2 GB, and no more."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (7 * 10**7, 4)})
    return path.read_bytes()


GOOD = np.zeros((5, 4))
BAD_ARRAYS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "empty": (lambda _: b"", "0.npy is empty"),
    "cut short": (lambda path: saved(path, GOOD)[:-3], "0.npy cannot be read as an array"),
    "no array": (lambda _: b"PK\x03\x04 and so on", "0.npy cannot be read as an array"),
    "pickled": (lambda path: saved(path, np.array([Fuse(path.with_name("trace"))], object)), "cannot be read as an"),
    "a column missing": (
        lambda path: saved(path, GOOD[:, :3]),
        r"not an array of integers \[events, 4\] but .* \[5, 3\]",
    ),
    "text": (lambda path: saved(path, np.full((2, 4), "a")), "not an array of integers"),
    "not finite": (lambda path: saved(path, GOOD + np.nan), "not an array of integers"),
    "not whole": (lambda path: saved(path, GOOD + 0.5), "not an array of integers"),
    "a size that it does not have": (lambda path: huge(path), "0.npy cannot be read as an array"),
    "a pixel outside": (lambda path: saved(path, GOOD + 128), "event 0 at x=128, y=128 is outside 128 x 128 pixels"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_a_bad_array_is_refused_when_read(name: str, tmp_path: Path) -> None:
    content, sentence = BAD_ARRAYS[name]
    folder = spoiled(tonic, "ibmGestureTrain/user01_led/0.npy", content(tmp_path / "scratch.npy"))(tmp_path)
    data = DVSGesture(folder)
    with pytest.raises(ValueError, match=sentence) as raised:
        data.events(0)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "trace").exists()
    assert len(data.events(1)) == 400


BAD_RECORDINGS = {
    "empty": (b"", "is empty: get it again"),
    "not AEDAT": (b"x" * 100, "does not begin with #!AER-DAT3"),
    "of another version": (b"#!AER-DAT2.0\r\n", "does not begin with #!AER-DAT3"),
    "with no end of the header": (b"#!AER-DAT3.1\r\n" + b"x" * 100, "its header does not end"),
    "with events of no size": (AEDAT_HEADER + bytes(28), f"the packet at byte {len(AEDAT_HEADER)} has 0 events of 0"),
    "with a pixel outside": (AEDAT_HEADER + packet(np.array([[501_000, 200, 3, 1]])), "event 0 at x=200, y=3 is"),
}


@pytest.mark.parametrize("name", BAD_RECORDINGS)
def test_a_bad_recording_is_refused_when_read(name: str, tmp_path: Path) -> None:
    content, sentence = BAD_RECORDINGS[name]
    data = DVSGesture(spoiled(official, AEDAT, content)(tmp_path))
    with pytest.raises(ValueError, match=sentence) as raised:
        data.events(0)
    assert "\n" not in str(raised.value)
    assert len(data.events(11)) == 400


# --- batches ---


@LAYOUTS
def test_batches_are_crops_of_half_the_events_in_every_set(write: Write, tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    from fluctua.lab.data.module import SpikeDataModule

    data = SpikeDataModule.from_dvs_gesture(write(tmp_path), duration=1.0, dt=10e-3, val_fraction=0.5)
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 11, "val": 11, "test": 11}
    assert (data.shape, data.n_classes, data.n_steps) == ((2, 32, 32), 11, 100)
    for split in ("train", "val", "test"):
        x, y = data.batch(11, split)
        again, _ = data.batch(11, split)
        assert torch.equal(x, again)
        # 400 events in 2 s: 11 * 400 / 2 s * 1 s * 0.5, binomial with p = 1 / 4
        n = 11 * 400
        assert abs(float(x.sum()) - n / 4) < 5 * (n * 3 / 16) ** 0.5
        # label k lies in the square of 32 x 32 pixels at row k // 4, column k % 4; merged, 8 x 8
        squares = x.sum((0, 2)).reshape(11, 4, 8, 4, 8).sum((2, 4)).reshape(11, 16)
        assert torch.equal(squares.argmax(1), y)
        assert torch.equal(squares.sum(1), squares.amax(1))
    (first, _), (second, _) = (next(iter(data.test_dataloader())) for _ in range(2))
    assert torch.equal(first, second)
