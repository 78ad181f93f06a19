"""Numba kernels of a convolution of spikes: each adds its window of weights to a map, or its window of the map to them.

All arrays are flat. A frame is one sample at one step: its spikes are bits, `[frames, words]`, of units `[channels,
rows, columns]`, and what the convolution makes of them is `[outputs, rows, columns]`. In between is a map that stays in
the cache, `[rows, columns, width]`: the outputs at one place lie side by side, padded to whole vectors.

A spike reaches every `stride`-th column of the kernel, from one that depends on where the spike is: its phase. Weights
are `[channels, kernel rows, phases, taps backwards, width]`, so that what a spike reaches in a row of the map is one
piece of memory, and so are the weights it reaches it by.
"""

import numpy as np

from fluctua.simd.compiling import helper, kernel
from fluctua.simd.memory import load, store, transpose
from fluctua.simd.vectors import trailing_zeros

_ONE = np.uint64(1)


@kernel
def gather(words, values, starts, geometry, weight, bias, first, stop, out, last):  # type: ignore[no-untyped-def]
    """Fill the frames `first:stop` of `out` with the sum of `bias` `[width]` and the weights of the spikes.

    `geometry` is that of an `events_conv.Window`.
    """
    channels, rows, columns, _, _, _, _, _, _, outputs, out_rows, out_columns = geometry
    places, width, lane = out_rows * out_columns, bias.size, 64 // out.itemsize
    spikes = np.empty((channels * rows * columns, 3), np.int32)
    sums = aligned(places * width, out)
    for f in range(first, stop):
        for p in range(0, places * width, width):
            for j in range(0, width, lane):
                store(sums, p + j, load(bias, j))
        n = _spikes_of(words, f, channels, rows, columns, spikes)
        start = starts[f] if values.size > 0 else 0
        _meet(spikes, n, values, start, geometry, sums, weight, width, True)
        if last:
            copied(sums, 0, width, out, f * outputs * places, outputs, places, outputs)
        else:
            transposed(sums, 0, width, out, f * outputs * places, places, places, outputs)


@kernel
def scatter(words, values, starts, geometry, g, last, first, stop, gradient):  # type: ignore[no-untyped-def]
    """Add the gradient wrt a weight, from the frames `first:stop` of that wrt the output, `g`."""
    channels, rows, columns, high, taps, _, along, _, _, outputs, out_rows, out_columns = geometry
    places, width = out_rows * out_columns, gradient.size // (channels * high * along * taps)
    spikes = np.empty((channels * rows * columns, 3), np.int32)
    there = aligned(places * width, g)
    there[:] = 0
    for f in range(first, stop):
        if last:
            copied(g, f * outputs * places, outputs, there, 0, width, places, outputs)
        else:
            transposed(g, f * outputs * places, places, there, 0, width, outputs, places)
        n = _spikes_of(words, f, channels, rows, columns, spikes)
        start = starts[f] if values.size > 0 else 0
        _meet(spikes, n, values, start, geometry, gradient, there, width, False)


@helper
def aligned(n, like):  # type: ignore[no-untyped-def]
    """An array of n numbers of the type of `like`, to be filled, in which no vector lies in two lines of the cache."""
    lane = 64 // like.itemsize
    memory = np.empty(n + lane, like.dtype)
    skipped = (-memory.ctypes.data & 63) // like.itemsize
    return memory[skipped : skipped + n]


@helper
def _meet(spikes, n, values, start, geometry, total, part, width, forth):  # type: ignore[no-untyped-def]
    """Add to `total`, the map, each spike's window of `part`, the weight; unless `forth`, the two change places."""
    _, _, _, high, taps, down, along, pad_rows, pad_columns, _, out_rows, out_columns = geometry
    for e in range(n):
        channel, row, column = spikes[e, 0], spikes[e, 1] + pad_rows, spikes[e, 2] + pad_columns
        phase, left = column % along, column // along - taps + 1
        begin, end = max(0, -left), min(taps, out_columns - left)
        for k in range(row % down, min(high, row + 1), down):
            if (row - k) // down < out_rows:
                there = ((row - k) // down * out_columns + left + begin) * width
                own = (((channel * high + k) * along + phase) * taps + begin) * width
                to, at = (there, own) if forth else (own, there)
                if values.size > 0:
                    _add_scaled(total, to, part, at, (end - begin) * width, values[start + e])
                else:
                    _add(total, to, part, at, (end - begin) * width)


@helper
def _add(total, to, part, at, size):  # type: ignore[no-untyped-def]
    for j in range(0, size, 64 // total.itemsize):
        store(total, to + j, load(total, to + j) + load(part, at + j))


@helper
def _add_scaled(total, to, part, at, size, value):  # type: ignore[no-untyped-def]
    for j in range(0, size, 64 // total.itemsize):
        store(total, to + j, load(total, to + j) + load(part, at + j) * value)


@helper
def _spikes_of(words, frame, channels, rows, columns, spikes):  # type: ignore[no-untyped-def]
    """Channel, row and column of each spike of a frame, in the order of its bits; returns how many there are."""
    n_words, n = (channels * rows * columns + 63) >> 6, 0
    for k in range(n_words):
        word = words[frame * n_words + k]
        while word:
            unit = 64 * k + trailing_zeros(word)
            word &= word - _ONE
            place = unit // channels
            spikes[n, 0], spikes[n, 1], spikes[n, 2] = unit - place * channels, place // columns, place % columns
            n += 1
    return n


@helper
def copied(source, at, step, target, to, stride, rows, columns):  # type: ignore[no-untyped-def]
    """Write `rows` of `columns` numbers, `step` apart, as rows that are `stride` apart, the first one first.

    By whole vectors: what one writes beyond its row is written over by the next ones, or padding.
    """
    lane = 64 // source.itemsize
    whole = rows if columns % lane == 0 else max(0, rows - (lane + columns - 1) // columns)
    for i in range(whole):
        for j in range(0, columns, lane):
            store(target, to + i * stride + j, load(source, at + i * step + j))
    for i in range(whole, rows):
        for j in range(columns):
            target[to + i * stride + j] = source[at + i * step + j]


@helper
def transposed(source, at, step, target, to, stride, rows, columns):  # type: ignore[no-untyped-def]
    """Write `rows` of `columns` numbers, `step` apart, as columns: `columns` rows that are `stride` apart."""
    lane = 64 // source.itemsize
    i = 0
    while i + lane <= rows:
        j = 0
        while j + lane <= columns:
            transpose(source, at + i * step + j, step, target, to + j * stride + i, stride)
            j += lane
        _transposed_singly(source, at, step, target, to, stride, i, i + lane, j, columns)
        i += lane
    _transposed_singly(source, at, step, target, to, stride, i, rows, 0, columns)


@helper
def _transposed_singly(source, at, step, target, to, stride, row, last_row, column, last_column):  # type: ignore[no-untyped-def]
    for i in range(row, last_row):
        for j in range(column, last_column):
            target[to + j * stride + i] = source[at + i * step + j]
