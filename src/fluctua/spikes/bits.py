"""Numba kernels that turn dense spikes into bits and back, and walk through the bits.

The spikes of a population are bits `[samples, steps, words]`, 64 units in a word, in a flat array of unsigned integers.
"""

import numpy as np

from fluctua.simd.compiling import helper, kernel
from fluctua.simd.memory import load, prefetch
from fluctua.simd.vectors import bits, broadcast, trailing_zeros

_NO_BITS, _ONE = np.uint64(0), np.uint64(1)

SLACK = 4
"""Free places that `rows_of` needs at the end of its list."""

_AHEAD = 1 << 12  # entries: more than the processor asks for by itself


@kernel
def pack(x, step_stride, sample_stride, steps, samples, units, limit, words):  # type: ignore[no-untyped-def]
    """Set the bit of every entry of `x` that is not zero.

    Returns:
        How many there are and whether all are 1. Counting stops beyond `limit`.
    """
    one = x.dtype.type(1)
    lane = 64 // x.itemsize
    n_words = (units + 63) >> 6
    count, binary = 0, True
    for t in range(steps):
        for s in range(samples):
            row, out = t * step_stride + s * sample_stride, (s * steps + t) * n_words
            for k in range(n_words):
                word = _NO_BITS
                stop = min(64, units - 64 * k)
                at, j = row + 64 * k, 0
                while j + lane <= stop:
                    prefetch(x, at + j + _AHEAD)
                    v = load(x, at + j)
                    found = bits(v != broadcast(one - one, v))
                    if found != bits(v == broadcast(one, v)):
                        binary = False
                    word |= found << np.uint64(j)
                    j += lane
                while j < stop:
                    if x[at + j] != 0:
                        word |= _ONE << np.uint64(j)
                        binary &= x[at + j] == 1
                    j += 1
                words[out + k] = word
                count += population(word)
        if count > limit:
            break
    return count, binary


@kernel
def read_values(x, step_stride, sample_stride, steps, samples, n_words, words, starts, values):  # type: ignore[no-untyped-def]
    """Values of the entries whose bits are set, and where those of each step start."""
    n = 0
    for s in range(samples):
        for t in range(steps):
            row, at = t * step_stride + s * sample_stride, (s * steps + t) * n_words
            starts[s * steps + t] = n
            for k in range(n_words):
                word = words[at + k]
                while word:
                    values[n] = x[row + 64 * k + trailing_zeros(word)]
                    word &= word - _ONE
                    n += 1


@kernel
def unpack(words, values, starts, steps, samples, units, out, first, stop):  # type: ignore[no-untyped-def]
    """Write the spikes of the samples `first:stop` into an array of zeros `[steps, samples, units]`."""
    n_words = (units + 63) >> 6
    graded = values.size > 0
    for s in range(first, stop):
        for t in range(steps):
            row, at = (t * samples + s) * units, (s * steps + t) * n_words
            n = starts[s * steps + t] if graded else 0
            for k in range(n_words):
                word = words[at + k]
                while word:
                    out[row + 64 * k + trailing_zeros(word)] = values[n] if graded else 1
                    word &= word - _ONE
                    n += 1


@helper
def population(word):  # type: ignore[no-untyped-def]
    """Number of bits set."""
    word = word - ((word >> _ONE) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@helper
def sample_rows(words, at, n_words, steps, width, rows, ends):  # type: ignore[no-untyped-def]
    """Where the weights of one sample's spikes begin, step after step; those of step t end at `ends[t + 1]`."""
    n = 0
    for k in range(at, at + steps * n_words):
        n += population(words[k])
    if rows.size < n + SLACK:
        rows = np.empty(n + SLACK, np.int32)
    n = 0
    for t in range(steps):
        n = rows_of(words, at + t * n_words, n_words, width, rows, n)
        ends[t + 1] = n
    return rows


@helper
def rows_of(words, at, n_words, width, rows, n):  # type: ignore[no-untyped-def]
    """Append where the weights of the units that spike begin to the first `n` of `rows`; returns the new number.

    What lies behind them in `rows`, `SLACK` numbers, is overwritten.
    """
    for k in range(n_words):
        word = words[at + k]
        end = n + population(word)
        while True:  # four at a time: to ask after each whether there is one more takes longer than to write it
            for i in range(4):
                rows[n + i] = (64 * k + trailing_zeros(word)) * width
                word &= word - _ONE
            n += 4
            if n >= end:
                break
        n = end
    return n
