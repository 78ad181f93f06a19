"""Small data sets in the official layouts, written by the tests."""

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
