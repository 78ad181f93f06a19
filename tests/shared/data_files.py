"""Small data sets in the official layouts, written by the tests."""

import importlib
import io
import struct
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# --- N-MNIST ---


def event(x: int, y: int, polarity: int, microseconds: int) -> bytes:
    """Five bytes, as Orchard et al. describe them."""
    return struct.pack(">BBBH", x, y, polarity << 7 | microseconds >> 16, microseconds & 0xFFFF)


def recording(digit: int, rng: np.random.Generator, n: int = 300, duration: float = 0.1) -> bytes:
    """Events in a square of 6 x 6 pixels whose place depends on the digit."""
    times = np.sort(rng.uniform(0, duration * 1e6, n)).astype(int)
    places = rng.integers(0, 6, (n, 2)) + np.array([6 * (digit % 5) + 2, 16 * (digit // 5) + 5])
    return b"".join(event(int(x), int(y), int(t % 2), int(t)) for (x, y), t in zip(places, times, strict=True))


def nmnist(per_digit: int, seed: int = 0) -> dict[str, bytes]:
    """File names and contents: so many training recordings of each digit, and one for the test."""
    rng = np.random.default_rng(seed)
    train = {f"Train/{d}/{k:05}.bin": recording(d, rng) for d in range(10) for k in range(per_digit)}
    return train | {f"Test/{d}/00000.bin": recording(d, rng) for d in range(10)}


def write_folder(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_tar(path: Path, files: Mapping[str, bytes], mode: Any = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


# --- CIFAR-10 ---


def python2_pickle(value: Any) -> bytes:
    """Plain data and arrays of bytes as Python 2 pickled them (protocol 2): strings are bytes."""
    return b"\x80\x02" + _pickled(value) + b"."


def _pickled(value: Any) -> bytes:
    match value:
        case int():
            return b"J" + struct.pack("<i", value)
        case bytes():
            return b"T" + struct.pack("<i", len(value)) + value
        case list():
            return b"](" + b"".join(map(_pickled, value)) + b"e"
        case tuple():
            return b"(" + b"".join(map(_pickled, value)) + b"t"
        case dict():
            return b"}(" + b"".join(_pickled(item) for pair in value.items() for item in pair) + b"u"
        case np.ndarray():
            empty = (
                b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + _pickled((0,)) + _pickled(b"b") + b"tR"
            )
            name = _pickled(value.dtype.str[1:].encode())
            dtype = b"cnumpy\ndtype\n(" + name + _pickled(0) + _pickled(1) + b"tR"
            order = b"\x89" if value.flags.c_contiguous else b"\x88"
            raw = _pickled(value.tobytes(order="A"))
            return empty + b"(" + _pickled(1) + _pickled(value.shape) + dtype + order + raw + b"tb"
    raise TypeError(type(value))


def cifar_batch(per_class: int, seed: int = 0) -> tuple[NDArray[np.uint8], list[int]]:
    """Noise with a bright stripe of three rows whose place depends on the class: `[n, 3072]` and labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(10), per_class)
    pixels = rng.integers(0, 100, (len(labels), 3, 32, 32), dtype=np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[:, 3 * label : 3 * label + 3] += 150
    return pixels.reshape(len(labels), -1), labels.tolist()


def write_batch(path: Path, data: Any, labels: Any) -> Path:
    path.write_bytes(python2_pickle({b"batch_label": b"a batch", b"labels": labels, b"data": data}))
    return path


def write_cifar10(folder: Path, per_class: int = 2) -> Path:
    """Five training batches and a test batch, so many images of each class in each."""
    folder.mkdir(parents=True, exist_ok=True)
    names: Sequence[str] = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    for seed, name in enumerate(names):
        write_batch(folder / name, *cifar_batch(per_class, seed))
    return folder


# --- SHD and SSC ---


def write_shd(path: Path, labels: Sequence[int], speakers: Sequence[int] = (), n: int = 200, seed: int = 0) -> Path:
    """Events in 0.1 s, in one of ten bands of 70 channels: that of the label."""
    h5py: Any = importlib.import_module("h5py")
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, dtype in (("times", np.float16), ("units", np.uint16)):
            rows = file.create_dataset(f"spikes/{name}", (len(labels),), dtype=h5py.vlen_dtype(dtype))
            for i, label in enumerate(labels):
                band = rng.integers(0, 70, n) + 70 * (label % 10)
                rows[i] = (band if name == "units" else np.sort(rng.uniform(0, 0.1, n))).astype(dtype)
        file["labels"] = np.array(labels, dtype=np.uint8)
        if len(speakers):
            file["extra/speaker"] = np.array(speakers, dtype=np.uint8)
    return path


# --- DVS128 Gesture ---

AEDAT_HEADER = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n"


def packet(events: NDArray[np.int64], overflow: int = 0, kind: int = 1, invalid: Sequence[int] = ()) -> bytes:
    """A packet of AEDAT 3.1: events as rows of microseconds, column, row and polarity; some marked as invalid."""
    header = struct.pack("<hhiiiiii", kind, 1, 8, 4, overflow, len(events), len(events), len(events) - len(invalid))
    t, x, y, p = events.T
    valid = ~np.isin(np.arange(len(events)), invalid)
    return header + np.column_stack([x << 17 | y << 2 | p << 1 | valid, t]).astype("<u4").tobytes()


def gesture(label: int, rng: np.random.Generator, n: int = 400, duration: float = 2.0) -> NDArray[np.int64]:
    """Events in rising time, `[n, 4]` as in `packet`, in a square of 24 x 24 pixels whose place the label decides."""
    times = np.sort(rng.choice(int(duration * 1e3), n)) * 1000
    places = rng.integers(0, 24, (n, 2)) + np.array([32 * (label % 4) + 4, 32 * (label // 4) + 4])
    return np.column_stack([times, places, rng.integers(0, 2, n)])


Gestures = Mapping[str, Sequence[tuple[int, NDArray[np.int64]]]]


def gestures(users: Sequence[int], seed: int = 0, n: int = 400) -> dict[str, list[tuple[int, NDArray[np.int64]]]]:
    """By the name of the recording one gesture of each class, as label and events."""
    rng = np.random.default_rng(seed)
    return {f"user{user:02}_led": [(label, gesture(label, rng, n)) for label in range(11)] for user in users}


def write_official_gestures(folder: Path, train: Gestures, test: Gestures, pause: int = 500_000) -> Path:
    """Recordings with a pause before each gesture, in which the camera sees one event."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, recordings in (("train", train), ("test", test)):
        (folder / f"trials_to_{part}.txt").write_text("".join(f"{name}.aedat\n" for name in recordings))
        for name, found in recordings.items():
            raw, lines, clock = [AEDAT_HEADER], ["class,startTime_usec,endTime_usec"], 1000
            for label, events in found:
                raw.append(packet(np.array([[clock, 0, 0, 1]])))
                start = clock + pause
                shifted = events + np.array([start, 0, 0, 0])
                raw += [packet(chunk) for chunk in np.array_split(shifted, 5)]
                clock = int(shifted[-1, 0]) + 1
                lines.append(f"{label + 1},{start},{clock}")
            (folder / f"{name}.aedat").write_bytes(b"".join(raw))
            (folder / f"{name}_labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def write_tonic_gestures(folder: Path, train: Gestures, test: Gestures) -> Path:
    """One array a gesture: column, row, polarity and milliseconds."""
    for part, recordings in (("ibmGestureTrain", train), ("ibmGestureTest", test)):
        for name, found in recordings.items():
            (folder / part / name).mkdir(parents=True, exist_ok=True)
            for label, events in found:
                np.save(folder / part / name / f"{label}.npy", events[:, [1, 2, 3, 0]] // np.array([1, 1, 1, 1000]))
    return folder
