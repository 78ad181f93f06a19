"""The identity of a data set: a checksum of its samples, and a text of their augmentations."""

import hashlib
import re
from typing import Any

import numpy as np

from fluctua.lab.data.events import Events, LabelledDataset


def checksum(dataset: LabelledDataset[Any]) -> str:
    """Number of samples and SHA-256 of all of them, in order; equal data sets have equal checksums."""
    digest = hashlib.sha256()
    for i in range(len(dataset)):
        sample, label = dataset[i]
        arrays = (sample.times, sample.units) if isinstance(sample, Events) else (np.asarray(sample),)
        digest.update(repr((int(label), *((array.shape, array.dtype.str) for array in arrays))).encode())
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
    return f"{len(dataset)} samples, sha256 {digest.hexdigest()}"


def in_text(step: object) -> str:
    """An augmentation with its settings, in the same words in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(step))
