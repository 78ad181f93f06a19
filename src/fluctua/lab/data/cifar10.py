"""Reader for CIFAR-10 in its official Python layout (Krizhevsky 2009), pickles, which are read without trust."""

import io
import math
import pickle
import pickletools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fluctua.files import reading
from fluctua.lab.data.events import LabelledDataset

SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"
FETCH = "python -m fluctua.lab.data.fetch cifar10 FOLDER"
SHAPE = (3, 32, 32)
N_CLASSES = 10
TRAIN, TEST = tuple(f"data_batch_{k}" for k in range(1, 6)), ("test_batch",)

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Images(LabelledDataset[Pixels]):
    """Labelled images in memory.

    Attributes:
        pixels: uint8 `[samples, channels, rows, columns]`.
        labels: int64 `[samples]`.
        n_classes: number of classes.
    """

    pixels: Pixels
    labels: NDArray[np.int64]
    n_classes: int = N_CLASSES

    def __getitem__(self, i: int) -> tuple[Pixels, int]:
        return self.pixels[i], int(self.labels[i])

    def subset(self, indices: NDArray[np.int64]) -> Self:
        """Return copies of some of the images."""
        return type(self)(self.pixels[indices], self.labels[indices], self.n_classes)


def read_cifar10(folder: str | Path) -> tuple[Images, Images]:
    """Read training and test images from the folder `cifar-10-batches-py`.

    Raises:
        FileNotFoundError: if a batch file is missing.
        FileError: if a file is truncated, or holds anything but images and labels.
    """
    return _read(Path(folder), TRAIN), _read(Path(folder), TEST)


def _read(folder: Path, names: Sequence[str]) -> Images:
    batches = []
    for name in names:
        path = folder / name
        with reading(path, "a batch of CIFAR-10", f"unpack cifar-10-python.tar.gz from {SOURCE}, or run `{FETCH}`"):
            batches.append(_images_and_labels(_unpickled(path.read_bytes())))
    pixels, labels = zip(*batches, strict=True)
    return Images(np.concatenate(pixels), np.concatenate(labels))


def _images_and_labels(content: Any) -> tuple[Pixels, NDArray[np.int64]]:
    if not isinstance(content, dict) or not {b"data", b"labels"} <= content.keys():
        raise ValueError("it has no data and labels")
    array, labels = content[b"data"], content[b"labels"]
    pixels = array.pixels() if isinstance(array, _Array) else None
    size = math.prod(SHAPE)
    if pixels is None or pixels.ndim != 2 or pixels.shape[1] != size:
        raise ValueError(f"its data are not bytes of the shape [samples, {size}]")
    if not isinstance(labels, list) or not all(type(k) is int and 0 <= k < N_CLASSES for k in labels):
        raise ValueError(f"its labels are not a list of numbers from 0 to {N_CLASSES - 1}")
    if len(labels) != len(pixels):
        raise ValueError(f"it has {len(labels)} labels for {len(pixels)} images")
    return pixels.reshape(-1, *SHAPE), np.array(labels, dtype=np.int64)


# --- pickles without trust: any global name gets a stand-in that can do nothing ---


def _unpickled(raw: bytes) -> Any:
    """The content of a pickle of plain data and NumPy arrays; of arrays only a description, an `_Array`."""
    for step, argument, _ in pickletools.genops(raw):
        if "PUT" in step.name and isinstance(argument, int) and argument > len(raw):  # which would allocate memory
            raise ValueError(f"it stores an object as number {argument}, but has only {len(raw)} bytes")
    return _Restricted(io.BytesIO(raw), encoding="bytes").load()


class _DType:
    """Stands in for `numpy.dtype`."""

    def __init__(self, name: Any = None, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        pass  # byte order, which does not matter for bytes


class _Array:
    """Stands in for `numpy.ndarray` and its constructor; keeps the state that the array would get."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def pixels(self) -> Pixels | None:
        """The array of bytes; None if it is anything else."""
        match self.state:
            case (_, tuple(shape), _DType(name="u1" | b"u1"), bool(fortran), bytes(raw)):
                if all(type(n) is int and n >= 0 for n in shape) and math.prod(shape) == len(raw):
                    return np.frombuffer(raw, dtype=np.uint8).reshape(shape, order="F" if fortran else "C")
        return None


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") | ("numpy", "ndarray"):
                return _Array
            case ("numpy", "dtype"):
                return _DType
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no such file needs")
