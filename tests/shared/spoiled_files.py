"""Files gone bad: whole ones of every kind that fluctua reads, and mutations of them from a seed."""

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from fluctua.files import FileError
from fluctua.lab.data import NMNIST, DVSGesture, SHDFile, read_cifar10, read_structured
from fluctua.network.errors import UnsupportedNeuronError, WiringError
from fluctua.network.nir import from_nir, to_nir
from fluctua.neurons import LI, LIF
from shared.data_files import (
    gestures,
    nmnist,
    write_cifar10,
    write_folder,
    write_official_gestures,
    write_shd,
    write_tar,
    write_tonic_gestures,
)


@dataclass(frozen=True)
class Reader:
    """A kind of file.

    Attributes:
        write: a whole one into a folder; returns its path, that which is spoiled.
        read: all that is in it, from its path.
        refusals: the errors that are a clear refusal.
    """

    write: Callable[[Path], Path]
    read: Callable[[Path], Any]
    refusals: tuple[type[Exception], ...] = (FileError,)


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), LIF(), nn.Linear(5, 2), LI())


def _shd(name: str) -> Callable[[Path], Path]:
    return lambda folder: write_shd(folder / name, [0, 1, 2, 1], [3, 4, 3, 4], n=20)


def _ssc(folder: Path) -> Path:
    """As the Speech Commands: with names of the classes, compressed."""
    h5py: Any = importlib.import_module("h5py")
    path = write_shd(folder / "ssc_train.h5", [0, 34, 2, 1], n=10)
    with h5py.File(path, "a") as file:
        file["extra/keys"] = np.array([f"word {k}".encode() for k in range(35)])
        file["extra/meta_info/speaker"] = np.array([b"anna", b"bert"])
        labels = file["labels"][()]
        del file["labels"]
        file.create_dataset("labels", data=labels, maxshape=(None,), compression="gzip")
    return path


def _every(dataset: Any) -> None:
    for i in range(len(dataset)):
        dataset[i]


def _read_hdf5(path: Path) -> None:
    _every(SHDFile(path))


def _aedat(folder: Path) -> Path:
    return write_official_gestures(folder, gestures([1], n=12), gestures([2], n=12)) / "user01_led.aedat"


def _gesture_labels(folder: Path) -> Path:
    return _aedat(folder).with_name("user01_led_labels.csv")


def _tonic(folder: Path) -> Path:
    return write_tonic_gestures(folder, gestures([1], n=12), {}) / "ibmGestureTrain/user01_led/3.npy"


def _read_tonic(path: Path) -> None:
    data = DVSGesture(path.parents[2])
    data.events(3)


def _cifar10(folder: Path) -> Path:
    return write_cifar10(folder, per_class=1) / "data_batch_3"


def _nir(folder: Path) -> Path:
    importlib.import_module("nir").write(folder / "graph.nir", to_nir(_net(), shape=(6,)))
    return folder / "graph.nir"


def _read_nir(path: Path) -> None:
    from_nir(path)(torch.rand(3, 2, 6))


def _weights(folder: Path) -> Path:
    from fluctua.lab.training.folder import RunFolder, weights_of

    RunFolder(folder).save_weights(weights_of(_net()))
    return folder / "model.safetensors"


def _read_weights(path: Path) -> None:
    from fluctua.lab.training.folder import RunFolder

    model = _net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        RunFolder(path.parent).load_weights(model)
    except BaseException:
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        raise


RECORDING = np.dtype([("x", "<i2"), ("y", "<i2"), ("p", "?"), ("t", "<i8")])


def _structured(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    events = np.zeros(30, RECORDING)
    for name, most in (("x", 5), ("y", 3), ("p", 2), ("t", 10**5)):
        events[name] = rng.integers(0, most, 30)
    (folder / "events.bin").write_bytes(events.tobytes())
    return folder / "events.bin"


def _read_structured(path: Path) -> None:
    raw = path.read_bytes()
    whole = len(raw) // RECORDING.itemsize * RECORDING.itemsize
    types = [RECORDING, np.dtype([("x", "<f4"), ("y", "<i2"), ("p", "S1"), ("t", "<f8")]), np.dtype("<i4")]
    dtype = types[len(raw) % 2 + (len(raw) % 7 == 0)]
    whole = len(raw) // dtype.itemsize * dtype.itemsize
    label: Any = [3, 2.5, "a", None, np.int64(raw[0] if raw else 0)][len(raw) % 5]
    read_structured([(np.frombuffer(raw[:whole], dtype), label)], (2, 3, 5))


READERS: Mapping[str, Reader] = MappingProxyType(
    {
        "SHD": Reader(_shd("shd_train.h5"), _read_hdf5),
        "SSC": Reader(_ssc, _read_hdf5),
        "AEDAT": Reader(_aedat, lambda path: _every(DVSGesture(path.parent))),
        "gesture labels": Reader(_gesture_labels, lambda path: _every(DVSGesture(path.parent))),
        "arrays": Reader(_tonic, _read_tonic),
        "N-MNIST tar": Reader(
            lambda folder: write_tar(folder / "n.tar", dict(list(nmnist(1).items())[:3])),
            lambda path: _every(NMNIST(path)),
        ),
        "N-MNIST file": Reader(
            lambda folder: write_folder(folder, {"Train/0/1.bin": nmnist(1)["Train/0/00000.bin"]}) / "Train/0/1.bin",
            lambda path: _every(NMNIST(path.parents[2])),
        ),
        "CIFAR-10": Reader(_cifar10, lambda path: read_cifar10(path.parent)),
        "NIR": Reader(_nir, _read_nir, (FileError, WiringError, UnsupportedNeuronError)),
        "weights": Reader(_weights, _read_weights),
        "structured events": Reader(_structured, _read_structured, (ValueError,)),
    }
)


def mutated(raw: bytes, n: int, seed: int) -> Iterator[bytes]:
    """`n` mutations of a file: bits flipped, bytes replaced, cut, repeated, moved, and numbers made extreme."""
    rng = np.random.default_rng(seed)
    extremes = [
        b"\xff" * 4,
        b"\0" * 4,
        b"\xff" * 8,
        b"\0" * 8,
        b"\x7f" + b"\xff" * 3,
        b"\0\0\0\x80",
        b"\xff\xff\xff\x7f",
    ]
    for _ in range(n):
        new = bytearray(raw)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(0, max(len(new), 1)))
            if rng.random() < 0.5:
                at = int(rng.integers(0, min(len(new), 1024) or 1))  # heads tell more than bodies
            match int(rng.integers(0, 7)):
                case 0 if new:
                    new[at] ^= 1 << int(rng.integers(0, 8))
                case 1 if new:
                    new[at] = int(rng.integers(0, 256))
                case 2:
                    del new[at : at + int(rng.integers(1, 64))]
                case 3:
                    new[at:at] = new[at : at + int(rng.integers(1, 64))]
                case 4:
                    worst = extremes[int(rng.integers(0, len(extremes)))]
                    new[at : at + len(worst)] = worst
                case 5:
                    del new[at:]
                case _:
                    other = int(rng.integers(0, max(len(new), 1)))
                    new[at : at + 16] = new[other : other + 16]
        yield bytes(new)
