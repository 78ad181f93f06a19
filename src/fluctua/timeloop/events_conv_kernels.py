"""Numba kernels of a convolution of spikes, and of max pooling.

Each spike adds its window of weights to a map, or its window of the map to the gradient of these weights.

All arrays are flat. A frame is one sample at one step: its spikes are bits, `[frames, words]`, of units `[rows,
columns, channels]`. The output of the convolution is `[outputs, rows, columns]`, or with channels `last`
`[rows, columns, outputs]`. In between is a map that stays in the cache, `[rows, columns, width]`: the outputs at one
place lie side by side, padded to whole vectors.

A spike reaches every `stride`-th column of the kernel, starting from one that depends on where the spike is: its phase.
Weights are `[channels, kernel rows, phases, taps backwards, width]`, so that a spike reaches one contiguous piece of a
row of the map, through one contiguous piece of the weights.

For a recurrent map (see `cpu_shells.integrate_map`) the bits are in the order of the map.
"""

import numpy as np

from fluctua.simd.compiling import helper, kernel
from fluctua.simd.memory import load, store, transpose
from fluctua.simd.vectors import broadcast, mul_add, select, trailing_zeros

_ONE = np.uint64(1)


@kernel
def gather(words, values, starts, geometry, pool, weight, bias, first, stop, out, where, last):  # type: ignore[no-untyped-def]
    """Fill the frames `first:stop` of `out` with the sum of `bias` `[width]` and the weights of the spikes.

    `geometry` is that of an `events_conv.Window`. Of every `pool[0]` rows and `pool[1]` columns the maximum is kept,
    and `where` it was: which place of its window.
    """
    channels, rows, columns, _, _, _, _, _, _, outputs, out_rows, out_columns = geometry
    places, width, lane = out_rows * out_columns, bias.size, 64 // out.itemsize
    spikes, n_words = np.empty((channels * rows * columns, 3), np.int32), (channels * rows * columns + 63) >> 6
    kept, pools = (out_rows // pool[0]) * (out_columns // pool[1]), where.size > 0
    sums, numbers = zeros(places * width, out), zeros(kept * width * pools, out)
    for f in range(first, stop):
        for p in range(0, places * width, width):
            for j in range(0, width, lane):
                store(sums, p + j, load(bias, j))
        n = spikes_of_map(words, f * n_words, geometry, channels, spikes)
        start = starts[f] if values.size > 0 else 0
        meet(spikes, n, values, start, geometry, sums, weight, width, True)
        if pools:
            _keep_largest(sums, out_rows, out_columns, pool, width, numbers)
            _put_down(numbers, width, where, f, outputs, kept, last)
        _put_down(sums, width, out, f, outputs, kept, last)


@kernel
def keep_largest(shape, pool, x, first, stop, out, where, last):  # type: ignore[no-untyped-def]
    """Fill the frames `first:stop` of `out` with the maxima of windows of `x`, and of `where` with their places."""
    outputs, rows, columns = shape
    lane = 64 // out.itemsize
    width, kept = -(-outputs // lane) * lane, (rows // pool[0]) * (columns // pool[1])
    sums, numbers = zeros(rows * columns * width, out), zeros(kept * width, out)
    for f in range(first, stop):
        _take_up(x, f, outputs, rows * columns, last, sums, width)
        _keep_largest(sums, rows, columns, pool, width, numbers)
        _put_down(numbers, width, where, f, outputs, kept, last)
        _put_down(sums, width, out, f, outputs, kept, last)


@kernel
def unpool(shape, pool, g, where, first, stop, out, last):  # type: ignore[no-untyped-def]
    """Fill `out` with the gradient wrt the frames `first:stop` before pooling, from that wrt all maxima, `g`."""
    outputs, out_rows, out_columns = shape
    places, (high, wide), lane = out_rows * out_columns, pool, 64 // out.itemsize
    width, kept = -(-outputs // lane) * lane, (out_rows // high) * (out_columns // wide)
    after, numbers = zeros(kept * width, out), zeros(kept * width, out)
    before = zeros(places * width, out)  # what no window covers stays zero
    for f in range(first, stop):
        _take_up(g, f, outputs, kept, last, after, width)
        _take_up(where, f, outputs, kept, last, numbers, width)
        place = 0
        for r in range(out_rows // high):
            for c in range(out_columns // wide):
                for j in range(0, width, lane):
                    there, number = load(after, place + j), load(numbers, place + j)
                    for n in range(high * wide):
                        at = ((r * high + n // wide) * out_columns + c * wide + n % wide) * width
                        store(before, at + j, select(number == float(n), there, broadcast(0.0, there)))
                place += width
        _put_down(before, width, out, f - first, outputs, places, last)


@kernel
def scatter(words, values, starts, geometry, g, last, first, stop, gradient):  # type: ignore[no-untyped-def]
    """Add the gradient wrt a weight, from that wrt the output of the frames `first:stop`, `g`."""
    channels, rows, columns, high, taps, _, along, _, _, outputs, out_rows, out_columns = geometry
    places, width = out_rows * out_columns, gradient.size // (channels * high * along * taps)
    spikes, n_words = np.empty((channels * rows * columns, 3), np.int32), (channels * rows * columns + 63) >> 6
    there = zeros(places * width, g)
    for f in range(first, stop):
        _take_up(g, f - first, outputs, places, last, there, width)
        n = spikes_of_map(words, f * n_words, geometry, channels, spikes)
        start = starts[f] if values.size > 0 else 0
        meet(spikes, n, values, start, geometry, gradient, there, width, False)


@helper
def _keep_largest(sums, rows, columns, pool, width, numbers):  # type: ignore[no-untyped-def]
    """Put the largest number of each window of a map at its beginning: the first of equal ones, the last that is NaN.

    `numbers` tells where in their windows these were.
    """
    lane, (high, wide), place = 64 // sums.itemsize, pool, 0
    for r in range(rows // high):
        for c in range(columns // wide):
            at = (r * high * columns + c * wide) * width
            for j in range(0, width, lane):
                best = load(sums, at + j)
                number = broadcast(0.0, best)
                for n in range(1, high * wide):
                    v = load(sums, at + (n // wide * columns + n % wide) * width + j)
                    better = (v > best) | (v != v)
                    best = select(better, v, best)
                    number = select(better, broadcast(float(n), best), number)
                store(sums, place + j, best)
                store(numbers, place + j, number)
            place += width


@helper
def _put_down(source, width, frames, f, outputs, places, last):  # type: ignore[no-untyped-def]
    """Write a map to frame `f`, as its channels lie in memory."""
    at = f * outputs * places
    if last:
        copied(source, 0, width, frames, at, outputs, places, outputs)
    else:
        transposed(source, 0, width, frames, at, places, places, outputs)


@helper
def _take_up(frames, f, outputs, places, last, target, width):  # type: ignore[no-untyped-def]
    """The inverse of `_put_down`."""
    at = f * outputs * places
    if last:
        copied(frames, at, outputs, target, 0, width, places, outputs)
    else:
        transposed(frames, at, places, target, 0, width, outputs, places)


@helper
def zeros(n, like):  # type: ignore[no-untyped-def]
    """An array of n zeros of the type of `like`, in which no vector crosses a cache line."""
    lane = 64 // like.itemsize
    memory = np.zeros(n + lane, like.dtype)
    skipped = (-memory.ctypes.data & 63) // like.itemsize
    return memory[skipped : skipped + n]


@helper
def meet(spikes, n, values, start, geometry, total, part, width, forth):  # type: ignore[no-untyped-def]
    """Add to `total`, the map, each spike's window of `part`, the weight; unless `forth`, the two swap roles."""
    _, _, _, high, taps, down, along, pad_rows, pad_columns, _, out_rows, out_columns = geometry
    lane = 64 // total.itemsize
    for e in range(n):
        row, first = _divided(spikes[e, 1] + pad_rows, down)
        column, phase = _divided(spikes[e, 2] + pad_columns, along)
        left = column - taps + 1
        begin, end = max(0, -left), min(taps, out_columns - left)
        for k in range(first, min(high, row * down + first + 1), down):
            if row < out_rows:
                there = (row * out_columns + left + begin) * width
                own = (((spikes[e, 0] * high + k) * along + phase) * taps + begin) * width
                to, at = (there, own) if forth else (own, there)
                if values.size > 0:
                    for j in range(0, (end - begin) * width, lane):
                        added = load(part, at + j) * values[start + e]
                        store(total, to + j, load(total, to + j) + added)
                else:
                    for j in range(0, (end - begin) * width, lane):
                        store(total, to + j, load(total, to + j) + load(part, at + j))
            row -= 1


@helper
def _divided(number, by):  # type: ignore[no-untyped-def]
    """Quotient and remainder, without a division by 1."""
    return (number, 0) if by == 1 else (number // by, number % by)


@helper
def copied(source, at, step, target, to, stride, rows, columns):  # type: ignore[no-untyped-def]
    """Write `rows` of `columns` numbers, `step` apart, as rows `stride` apart, in order.

    By whole vectors: what one writes beyond its row is overwritten by the next, or is padding.
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
def spikes_of_map(words, at, geometry, width, spikes):  # type: ignore[no-untyped-def]
    """Channel, row and column of each spike of a map, place after place; returns their number."""
    rows, columns = geometry[1], geometry[2]
    n, row, column, begin = 0, 0, 0, 0  # `begin` is the first unit of the place
    for k in range((rows * columns * width + 63) >> 6):
        word = words[at + k]
        while word:
            unit = 64 * k + trailing_zeros(word)
            word &= word - _ONE
            while unit >= begin + width:
                begin += width
                column += 1
                if column == columns:
                    row, column = row + 1, 0
            spikes[n, 0], spikes[n, 1], spikes[n, 2] = unit - begin, row, column
            n += 1
    return n


@helper
def spread(source, geometry, width, target):  # type: ignore[no-untyped-def]
    """Write a map to the middle of one with an empty margin, as wide as a window reaches."""
    rows, columns, high, wide = geometry[1:5]
    for r in range(rows):
        at = ((r + high // 2) * (columns + wide - 1) + wide // 2) * width
        for j in range(0, columns * width, 64 // source.itemsize):
            store(target, at + j, load(source, r * columns * width + j))


@helper
def hear_back(g, weight, geometry, width, outside, to):  # type: ignore[no-untyped-def]
    """Fill the map `to` with `outside` plus the recurrent gradient of each place, from the places of `g` around it.

    The weight is `[window, outputs, width]`, and `g` as `spread` leaves it. Eight places of a row are processed
    together, so that no sum waits for its last product; the last group overlaps the one before. So all arrays need
    memory for seven extra places.
    """
    channels, rows, columns, high, wide = geometry[:5]
    across, lane = columns + wide - 1, 64 // g.itemsize
    for r in range(rows):
        for j in range(0, width, lane):
            for begin in range(0, columns, 8):
                c = max(0, min(begin, columns - 8))
                at = (r * columns + c) * width + j
                s0, s1, s2, s3 = _four(outside, at, width)
                s4, s5, s6, s7 = _four(outside, at + 4 * width, width)
                for k in range(high):
                    for m in range(wide):
                        there, row = ((r + k) * across + c + m) * width, (k * wide + m) * channels * width + j
                        for o in range(channels):
                            w, one = load(weight, row + o * width), there + o
                            s0 = mul_add(broadcast(g[np.uint64(one)], w), w, s0)
                            s1 = mul_add(broadcast(g[np.uint64(one + width)], w), w, s1)
                            s2 = mul_add(broadcast(g[np.uint64(one + 2 * width)], w), w, s2)
                            s3 = mul_add(broadcast(g[np.uint64(one + 3 * width)], w), w, s3)
                            s4 = mul_add(broadcast(g[np.uint64(one + 4 * width)], w), w, s4)
                            s5 = mul_add(broadcast(g[np.uint64(one + 5 * width)], w), w, s5)
                            s6 = mul_add(broadcast(g[np.uint64(one + 6 * width)], w), w, s6)
                            s7 = mul_add(broadcast(g[np.uint64(one + 7 * width)], w), w, s7)
                _keep_four(to, at, width, s0, s1, s2, s3)
                _keep_four(to, at + 4 * width, width, s4, s5, s6, s7)


@helper
def _four(array, at, width):  # type: ignore[no-untyped-def]
    return load(array, at), load(array, at + width), load(array, at + 2 * width), load(array, at + 3 * width)


@helper
def _keep_four(array, at, width, s0, s1, s2, s3):  # type: ignore[no-untyped-def]
    store(array, at, s0)
    store(array, at + width, s1)
    store(array, at + 2 * width, s2)
    store(array, at + 3 * width, s3)


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
