"""Loops over time on the CPU without a neuron; `cpu_source.py` writes one with a neuron's step into a file.

A shell knows where numbers lie and in which order they are processed. Upper-case names are constants of the file, and
the functions below are placeholders for those written from a neuron's step:

    constants_at(constants, k, numbers, s)   constants of the vector of neurons at k, and the step's numbers
    states_at(states, j, stride)             the state, one every `stride` numbers; `keep` writes it
    rows_at(rows, t, strides, j, s)          the arrays read at step t
    with_records(first, at, records, to)     the same, with the first part elsewhere
    both(x, y)                               the same, for one or two inputs
    step(r, s, c, results, at, streams)      the state after the step, what is to be summed over time, and who fired;
                                             writes the rest
    fired_of(out)                            who fired as bits
    no_sums(s), added(a, b), add_to(sums, j, stride, a)     sums over time
"""
# ruff: noqa: F821 - the names above
# mypy: ignore-errors

import numpy as np


def through(numbers, constants, states, sums, rows, results, strides, columns, steps, taken, start, stop, streams):
    """Take the columns `start:stop` of `[T, columns]` arrays through the steps, onward if FORTH, else from the last.

    `states` is updated in place, and `sums` is added to; constants repeat after as many columns as they have. `taken`
    is the number of steps. Each array is passed over once, a few steps of a vector of columns at a time, so that its
    state stays in registers in between. All arrays are flat; step t of an array that is read starts at `t` times its
    stride.
    """
    for lo in range(start, stop, BLOCK):
        for begin in range(0, taken, STEPS):
            own = lo % constants.shape[1]
            for j in range(lo, min(lo + BLOCK, stop), LANES):
                s = states_at(states, j, columns)
                c = constants_at(constants, own, numbers, s)
                own = own + LANES if own + LANES < constants.shape[1] else 0
                total = no_sums(s)
                for i in range(begin, min(begin + STEPS, taken)):
                    t = i if FORTH else steps - 1 - i
                    r = rows_at(rows, t, strides, j, s)
                    s, more, _ = step(r, s, c, results, t * columns + j, streams)
                    total = added(total, more)
                keep(states, j, columns, s)
                add_to(sums, j, columns, total)
    fence()


def integrate(
    words_in, values, starts, units, weight, bias, current, step_stride, sample_stride, recurrent, recurrent_bias,
    split, numbers, constants, initial, live, size, steps, first, stop, records, words, final, streams,
):  # fmt: skip
    """Take `size` neurons through all steps, for the samples `first:stop`; spikes arrive and leave as bits.

    The first input is `bias` plus the weights of the spikes that arrive or, without `weight` (no element), `current`
    `[steps, samples, size]`. Spikes of the last step add their weights `recurrent` to the first input, those of the
    neurons from `split` on to the last input; neurons before `split` may have no weights. A weight lies in memory as
    `[width / LANES, units, LANES]`. Every product and sum is rounded separately; sums over spikes run in ascending
    order.

    `live` has a bit for each real neuron, `initial` has each part of the state before the first step.
    Fills `records`, each `[steps, stop - first, width]`, the bits `words`, and the state `final` after the last step,
    `[stop - first, STATES, width]`.
    """
    width, n_in, n_words = bias.size, (units + 63) >> 6, (size + 63) >> 6
    rows, ends = np.empty(0, np.int32), np.zeros(steps + 1, np.int32)
    heard, n_weighted = np.empty(size + SLACK if RECURRENT else 0, np.int32), recurrent.size // width
    unheard = (size - n_weighted) * LANES
    base = bias if weight.size > 0 else np.zeros(steps * width, bias.dtype)
    for s in range(first, stop):
        state = (s - first) * STATES * width
        for part in range(STATES):
            final[state + part * width : state + (part + 1) * width] = initial[part]
        if SPIKING:
            words[s * steps * n_words : (s + 1) * steps * n_words] = np.uint64(0)
        if weight.size > 0:
            rows = sample_rows(words_in, s * steps * n_in, n_in, steps, LANES, rows, ends)
        else:
            for t in range(steps):
                at = t * step_stride + s * sample_stride
                for k in range(size):  # numba takes two seconds to compile a copy of slices
                    base[t * width + k] = current[at + k]
        start = starts[s * steps] if values.size > 0 else 0
        # Neurons without recurrence go through all steps at once: their state stays in registers.
        stride = 1 if RECURRENT else steps
        for begin in range(0, steps, stride):
            n_silent, n_first, n_heard = 0, 0, 0
            if RECURRENT and begin > 0:
                n_heard = rows_of(words, (s * steps + begin - 1) * n_words, n_words, LANES, heard, 0)
                n_first = n_heard
                while n_first > 0 and heard[n_first - 1] >= split * LANES:
                    n_first -= 1
                n_silent = n_first if unheard > 0 else 0
            for j in range(0, width, LANES):
                h = states_at(final, state + j, width)
                c = constants_at(constants, j, numbers, h)
                for t in range(begin, min(begin + stride, steps)):
                    x = load(base, t * width + j if weight.size == 0 else j)
                    if values.size > 0:
                        for e in range(ends[t], ends[t + 1]):
                            x = x + load(weight, j * units + rows[e]) * values[start + e]
                    else:
                        for e in range(ends[t], ends[t + 1]):
                            x = x + load(weight, j * units + rows[e])
                    y = broadcast(0.0, x)
                    if RECURRENT and t > 0:
                        x = x + load(recurrent_bias, j)
                        for e in range(n_silent, n_first):
                            x = x + load(recurrent, j * n_weighted + heard[e])
                        for e in range(n_first, n_heard):
                            y = y + load(recurrent, j * n_weighted + heard[e] - unheard)
                    at = (t * (stop - first) + s - first) * width + j
                    h, _, out = step(both(x, y), h, c, records, at, streams)
                    if SPIKING:
                        fired = fired_of(out) << np.uint64(j & 63)
                        words[(s * steps + t) * n_words + (j >> 6)] |= fired & live[j >> 6]
                keep(final, state + j, width, h)
    fence()


def integrate_map(x, geometry, weight, numbers, constants, live, steps, samples, first, stop, out, words, records):
    """Take a recurrent feature map through all steps, for the samples `first:stop`.

    `geometry` is that of an `events_conv.Window` that keeps the map's size, `weight` is laid out by it; see
    `events_conv_kernels.py`. A few samples go through all steps together, so that their data stay in the cache. Each
    spike adds its window of the weight to the map, in the order of places; this sum is added to the current `x`,
    `[steps, samples]` frames. Fills the spikes `out`, like `x`, their bits `words`, `[steps, samples, words of a map]`,
    and `records`, `[steps, samples]` maps.
    """
    channels, places, size = geometry[0], geometry[1] * geometry[2], constants.shape[1]
    units, width, n_words = channels * places, size // places, (size + 63) >> 6
    spikes, block = np.empty((units, 4), np.int32), (stop - first) * size
    states, heard, outside = zeros(STATES * block, x), zeros(block, x), zeros(size, x)
    for t in range(steps):
        for s in range(first, stop):
            frame, own = t * samples + s, (s - first) * size
            word = frame * n_words
            transposed(x, frame * units, places, outside, 0, width, channels, places)
            words[word : word + n_words] = np.uint64(0)
            for j in range(0, size, LANES):
                h = states_at(states, own + j, block)
                c = constants_at(constants, j, numbers, h)
                current = load(outside, j) + load(heard, own + j)
                given = both(current, broadcast(0.0, current))
                h, _, fired = step(given, h, c, records, frame * size + j, True)
                keep(states, own + j, block, h)
                words[word + (j >> 6)] |= (fired_of(fired) << np.uint64(j & 63)) & live[j >> 6]
            n = spikes_of_map(words, word, geometry, width, spikes)
            heard[own : own + size] = 0
            meet(spikes, n, weight[:0], 0, geometry, heard[own : own + size], weight, width, True)
            out[frame * units : (frame + 1) * units] = 0
            for e in range(n):
                out[frame * units + spikes[e, 0] * places + spikes[e, 1] * geometry[2] + spikes[e, 2]] = 1
    fence()


def back_map(
    g_out, geometry, weight, numbers, constants, steps, samples, first, stop, words, records, g_x, g_weight, g_constants
):  # fmt: skip
    """From the gradient wrt the spikes to those wrt current, weight and constants, over the samples `first:stop`.

    Fills `g_x` and adds to the others, which are sums, unless they have no element. `g_weight` is laid out as the
    weight of `integrate_map`; `weight` is that of `hear_back`.
    """
    channels, rows, columns, high, wide = geometry[:5]
    places, size = rows * columns, constants.shape[1]
    units, width, n_words = channels * places, size // places, (size + 63) >> 6
    spikes, block, more_places = np.empty((units, 4), np.int32), (stop - first) * size, 7 * width
    around = (rows + high - 1) * (columns + wide - 1) * width
    g, outside = zeros(size + more_places, g_out), zeros(size + more_places, g_out)
    g_next, states = zeros((stop - first) * around + more_places, g_out), zeros(STATES * block, g_out)
    sums = zeros(g_constants.size // size * block, g_out)
    for t in range(steps - 1, -1, -1):
        for s in range(first, stop):
            frame, own, after = t * samples + s, (s - first) * size, g_next[(s - first) * around :]
            transposed(g_out, frame * units, places, outside, 0, width, channels, places)
            if t < steps - 1:
                hear_back(after, weight, geometry, width, outside, g)
            else:
                g[:] = outside
            for j in range(0, size, LANES):
                h = states_at(states, own + j, block)
                c = constants_at(constants, j, numbers, h)
                r = with_records(g, j, records, frame * size + j)
                h, more, _ = step(r, h, c, (g,), j, False)
                keep(states, own + j, block, h)
                add_to(sums, own + j, block, more)
            spread(g, geometry, width, after)
            if g_x.size > 0:
                transposed(g, 0, width, g_x, frame * units, places, places, channels)
            if g_weight.size > 0 and t > 0:
                n = spikes_of_map(words, (frame - samples) * n_words, geometry, width, spikes)
                meet(spikes, n, weight[:0], 0, geometry, g_weight, g, width, False)
    for k in range(sums.size):
        g_constants[k // block * size + k % size] += sums[k]
