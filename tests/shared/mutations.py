"""Files as bad memory, bad disks and broken copies leave them."""

import numpy as np


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """A content that differs: a flipped bit, another byte, or a part that is zero, missing, doubled or swapped."""
    kinds = [_bit, _byte, _zeros, _cut, _missing, _doubled, _swapped, _longer]
    while (damaged := bytes(kinds[rng.integers(len(kinds))](bytearray(content), rng))) == content:
        pass
    return damaged


def _place(content: bytearray, rng: np.random.Generator) -> tuple[int, int]:
    at = int(rng.integers(len(content)))
    return at, min(len(content), at + int(rng.integers(1, 64)))


def _bit(content: bytearray, rng: np.random.Generator) -> bytearray:
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    return content


def _byte(content: bytearray, rng: np.random.Generator) -> bytearray:
    content[rng.integers(len(content))] = rng.integers(256)
    return content


def _zeros(content: bytearray, rng: np.random.Generator) -> bytearray:
    at, end = _place(content, rng)
    content[at:end] = bytes(end - at)
    return content


def _cut(content: bytearray, rng: np.random.Generator) -> bytearray:
    return content[: rng.integers(len(content))]


def _missing(content: bytearray, rng: np.random.Generator) -> bytearray:
    at, end = _place(content, rng)
    return content[:at] + content[end:]


def _doubled(content: bytearray, rng: np.random.Generator) -> bytearray:
    at, end = _place(content, rng)
    return content[:end] + content[at:]


def _swapped(content: bytearray, rng: np.random.Generator) -> bytearray:
    at, end = _place(content, rng)
    return content[:at] + content[at:end][::-1] + content[end:]


def _longer(content: bytearray, rng: np.random.Generator) -> bytearray:
    return content + rng.bytes(int(rng.integers(1, 64)))
