"""Numba kernels of a feature map of LIF neurons that hears its own spikes of the step before through a convolution.

All arrays are flat. A frame is one sample at one step, `[channels, rows, columns]`; `geometry` is these three and the
rows and columns of the window, which are odd. A map has the neurons of a frame as `[rows, columns, width]`: the
channels at one place lie side by side, padded to whole vectors, and around the neurons lie places that a window reaches
and where there are none. These have no spikes, no potential and no gradient, so a window is nowhere cut off.

A few samples go through all steps together, so that what they need stays in the cache. Forward, each spike adds its
window of the weight to the map, in the order of places; this sum is added to the current from outside. Every product
and sum is rounded by itself, but for those of `_hear_back`.
"""

import numpy as np

from fluctua.simd.compiling import helper, kernel
from fluctua.simd.memory import fence, load, store, stream
from fluctua.simd.vectors import broadcast, mul_add, trailing_zeros
from fluctua.timeloop.events_conv_kernels import aligned, transposed
from fluctua.timeloop.events_kernels import adjoint, lif_step

_NO_BITS, _ONE = np.uint64(0), np.uint64(1)


@kernel
def integrate(  # type: ignore[no-untyped-def]
    x,
    geometry,
    weight,
    decay_mem,
    gain,
    decay_syn,
    threshold,
    exponential,
    hard,
    steps,
    samples,
    first,
    stop,
    out,
    words,
    potential,
    drive,
):
    """Run the samples `first:stop` of the current `x`, `[steps, samples]` frames.

    Fills the spikes `out`, like `x`, their bits `words`, `[steps, samples, words of a map]`, and, unless they have no
    element, `potential` and `drive` (what enters the potential: I, or the input current of a delta synapse), `[steps,
    samples]` maps. Constants and `threshold` are maps, `weight` is `[channels, window, width]`, turned around.
    """
    channels, rows, columns, _, _ = geometry
    size, units, lane = decay_mem.size, channels * rows * columns, 64 // x.itemsize
    n_words, found, spikes = (size + 63) >> 6, _units_of(geometry, size), np.empty((units, 3), np.int32)
    block = (stop - first) * size
    u, i, heard, outside = _zeros(block, x), _zeros(block, x), _zeros(block, x), _zeros(size, x)
    for t in range(steps):
        for s in range(first, stop):
            frame, own = t * samples + s, (s - first) * size
            at, word = frame * size, frame * n_words
            _to_map(x, frame * units, geometry, outside, 0, size)
            words[word : word + n_words] = _NO_BITS
            for j in range(0, size, lane):
                x_j, u_j, i_j = load(outside, j) + load(heard, own + j), load(u, own + j), load(i, own + j)
                if potential.size > 0:
                    stream(potential, at + j, u_j)
                if drive.size > 0:
                    store(drive, at + j, i_j if exponential else x_j)
                a, c, b, theta = load(decay_mem, j), load(gain, j), load(decay_syn, j), load(threshold, j)
                u_j, i_j, fired = lif_step(u_j, i_j, x_j, a, c, b, theta, exponential, True, hard)
                store(u, own + j, u_j)
                store(i, own + j, i_j)
                words[word + (j >> 6)] |= fired << np.uint64(j & 63)
            n = _spikes_of(words, word, n_words, found, spikes)
            heard[own : own + size] = 0
            _meet(spikes, n, geometry, size, heard, own, weight, True)
            out[frame * units : (frame + 1) * units] = 0
            for e in range(n):
                out[frame * units + spikes[e, 0]] = 1
    fence()


@kernel
def back(  # type: ignore[no-untyped-def]
    g_out,
    geometry,
    weight,
    decay_mem,
    gain,
    decay_syn,
    threshold,
    exponential,
    hard,
    differentiable,
    shape,
    slope,
    height,
    steps,
    samples,
    first,
    stop,
    words,
    potential,
    drive,
    g_x,
    g_weight,
    g_decay_mem,
    g_decay_syn,
):
    """From the gradient wrt the spikes to those wrt current, weight and decays, over the samples `first:stop`.

    Fills `g_x` and adds to the others, which are sums, unless they have no element. `g_weight` is laid out as the
    weight of `integrate`; `weight` is `[window, outputs, width]`, what a place hears back from those around it.
    """
    channels, rows, columns, _, _ = geometry
    size, units = decay_mem.size, channels * rows * columns
    n_words, found, spikes = (size + 63) >> 6, _units_of(geometry, size), np.empty((units, 3), np.int32)
    block = (stop - first) * size
    g, g_next, gu, gi = _zeros(block, g_out), _zeros(block, g_out), _zeros(block, g_out), _zeros(block, g_out)
    ga, gb = _zeros(block if g_decay_mem.size > 0 else 0, g_out), _zeros(block if g_decay_syn.size > 0 else 0, g_out)
    for t in range(steps - 1, -1, -1):
        for s in range(first, stop):
            frame, own = t * samples + s, (s - first) * size
            end, at = own + size, frame * size
            _to_map(g_out, frame * units, geometry, g, own, size)
            if t < steps - 1:
                _hear_back(g_next, weight, geometry, own, size, g)
            now = g[own:end]
            adjoint(
                now,
                potential[at : at + size],
                drive[at : at + size] if drive.size > 0 else drive,
                gu[own:end],
                gi[own:end],
                ga[own:end] if ga.size > 0 else ga,
                gb[own:end] if gb.size > 0 else gb,
                decay_mem,
                gain,
                decay_syn,
                threshold,
                exponential,
                True,
                hard,
                differentiable,
                shape,
                slope,
                height,
                1,
                0,
                1,
            )
            if g_x.size > 0:
                _from_map(g, own, size, geometry, g_x, frame * units)
            if g_weight.size > 0 and t > 0:
                n = _spikes_of(words, (frame - samples) * n_words, n_words, found, spikes)
                _meet(spikes, n, geometry, size, g, own, g_weight, False)
        g, g_next = g_next, g
    for k in range(ga.size):
        g_decay_mem[k % size] += ga[k]
    for k in range(gb.size):
        g_decay_syn[k % size] += gb[k]


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
def _units_of(geometry, size):  # type: ignore[no-untyped-def]
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
def _zeros(n, like):  # type: ignore[no-untyped-def]
    zeros = aligned(n, like)
    zeros[:] = 0
    return zeros


@helper
def _to_map(source, frame, geometry, to, own, size):  # type: ignore[no-untyped-def]
    channels, rows, columns, _, _ = geometry
    width = _width(geometry, size)
    for r in range(rows):
        at = own + _row_of(geometry, r, width)
        transposed(source, frame + r * columns, rows * columns, to, at, width, channels, columns)


@helper
def _from_map(source, own, size, geometry, to, frame):  # type: ignore[no-untyped-def]
    channels, rows, columns, _, _ = geometry
    width = _width(geometry, size)
    for r in range(rows):
        at = own + _row_of(geometry, r, width)
        transposed(source, at, width, to, frame + r * columns, rows * columns, columns, channels)


# ---- what is heard


@helper
def _spikes_of(words, at, n_words, found, spikes):  # type: ignore[no-untyped-def]
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
def _meet(spikes, n, geometry, size, there, own, weight, forth):  # type: ignore[no-untyped-def]
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
def _hear_back(g, weight, geometry, own, size, to):  # type: ignore[no-untyped-def]
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
