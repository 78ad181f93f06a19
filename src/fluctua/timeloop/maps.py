"""Where the neurons of a feature map lie, and what they hear through a convolution: parts of the shells of maps.

All arrays are flat. A frame is one sample at one step, `[channels, rows, columns]`; `geometry` is these three and the
rows and columns of the window, which are odd. A map has the neurons of a frame as `[rows, columns, width]`: the
channels at one place lie side by side, padded to whole vectors, and around the neurons lie places that a window reaches
and where there are none. These have no spikes and no gradient, so a window is nowhere cut off.
"""

import numpy as np

from fluctua.simd.compiling import helper
from fluctua.simd.memory import load, store
from fluctua.simd.vectors import broadcast, mul_add, trailing_zeros
from fluctua.timeloop.events_conv_kernels import aligned, transposed

_ONE = np.uint64(1)


# ---- where things are


@helper
def _across(geometry):  # type: ignore[no-untyped-def]
    """Places in a row of a map."""
    return geometry[2] + geometry[4] - 1


@helper
def _width(geometry, size):  # type: ignore[no-untyped-def]
    return size // ((geometry[1] + geometry[3] - 1) * _across(geometry))


@helper
def _row_of(geometry, row, width):  # type: ignore[no-untyped-def]
    """Where the neurons of a row of a frame begin in a map."""
    return ((row + geometry[3] // 2) * _across(geometry) + geometry[4] // 2) * width


@helper
def units_of(geometry, size):  # type: ignore[no-untyped-def]
    """For each unit of a map: its place in the frame, the first place that its window reaches, and its own weight."""
    channels, rows, columns, high, wide = geometry
    width, across = _width(geometry, size), _across(geometry)
    found = np.zeros((size, 3), np.int32)
    for r in range(rows):
        for c in range(columns):
            for channel in range(channels):
                unit = _row_of(geometry, r, width) + c * width + channel
                found[unit, 0] = (channel * rows + r) * columns + c
                found[unit, 1] = (r * across + c) * width
                found[unit, 2] = channel * high * wide * width
    return found


@helper
def zeros(n, like):  # type: ignore[no-untyped-def]
    """An array of n zeros, at a line of the cache."""
    out = aligned(n, like)
    out[:] = 0
    return out


@helper
def to_map(source, frame, geometry, to, own, size):  # type: ignore[no-untyped-def]
    """Write a frame into a map."""
    channels, rows, columns, _, _ = geometry
    width = _width(geometry, size)
    for r in range(rows):
        at = own + _row_of(geometry, r, width)
        transposed(source, frame + r * columns, rows * columns, to, at, width, channels, columns)


@helper
def from_map(source, own, size, geometry, to, frame):  # type: ignore[no-untyped-def]
    """Write a map into a frame."""
    channels, rows, columns, _, _ = geometry
    width = _width(geometry, size)
    for r in range(rows):
        at = own + _row_of(geometry, r, width)
        transposed(source, at, width, to, frame + r * columns, rows * columns, columns, channels)


# ---- what is heard


@helper
def found_spikes(words, at, n_words, found, spikes):  # type: ignore[no-untyped-def]
    """What was `found` of each unit of a map that spikes, place after place; returns how many there are."""
    n = 0
    for k in range(n_words):
        word = words[at + k]
        while word:
            unit = 64 * k + trailing_zeros(word)
            word &= word - _ONE
            spikes[n, 0], spikes[n, 1], spikes[n, 2] = found[unit, 0], found[unit, 1], found[unit, 2]
            n += 1
    return n


@helper
def meet(spikes, n, geometry, size, there, own, weight, forth):  # type: ignore[no-untyped-def]
    """Add each spike's window of the weight to a map, or unless `forth`, its window of the map to the weight's sums."""
    _, _, _, high, wide = geometry
    width = _width(geometry, size)
    piece, row, lane = wide * width, _across(geometry) * width, 64 // there.itemsize
    for e in range(n):
        for k in range(high):
            to, at = own + spikes[e, 1] + k * row, spikes[e, 2] + k * piece
            stop = to + piece
            while to < stop:
                total = load(there, to) + load(weight, at)
                if forth:
                    store(there, to, total)
                else:
                    store(weight, at, total)
                to += lane
                at += lane


@helper
def hear_back(g, weight, geometry, own, size, to):  # type: ignore[no-untyped-def]
    """Add to each place of a map what it hears back from the places around it: four of a row at a time, then one."""
    channels, rows, columns, high, wide = geometry
    width, across, lane = _width(geometry, size), _across(geometry), 64 // g.itemsize
    for r in range(rows):
        for j in range(0, width, lane):
            for c in range(0, columns - 3, 4):
                at = own + _row_of(geometry, r, width) + c * width + j
                s0, s1 = load(to, at), load(to, at + width)
                s2, s3 = load(to, at + 2 * width), load(to, at + 3 * width)
                for k in range(high):
                    for m in range(wide):
                        there, row = own + ((r + k) * across + c + m) * width, (k * wide + m) * channels * width + j
                        for o in range(channels):
                            w = load(weight, row + o * width)
                            s0 = mul_add(broadcast(g[np.uint64(there + o)], w), w, s0)
                            s1 = mul_add(broadcast(g[np.uint64(there + o + width)], w), w, s1)
                            s2 = mul_add(broadcast(g[np.uint64(there + o + 2 * width)], w), w, s2)
                            s3 = mul_add(broadcast(g[np.uint64(there + o + 3 * width)], w), w, s3)
                store(to, at, s0)
                store(to, at + width, s1)
                store(to, at + 2 * width, s2)
                store(to, at + 3 * width, s3)
            for c in range(columns - columns % 4, columns):
                at = own + _row_of(geometry, r, width) + c * width + j
                s0 = load(to, at)
                for k in range(high):
                    for m in range(wide):
                        there, row = own + ((r + k) * across + c + m) * width, (k * wide + m) * channels * width + j
                        for o in range(channels):
                            w = load(weight, row + o * width)
                            s0 = mul_add(broadcast(g[np.uint64(there + o)], w), w, s0)
                store(to, at, s0)
