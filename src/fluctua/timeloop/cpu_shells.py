"""Loops over time on the CPU, without a neuron: `cpu_source.py` writes them into a file with one.

A shell knows where numbers lie and in which order they are taken. Upper-case names are constants of the file, and the
functions below stand for those that are written from a neuron's step:

    constants_at(constants, k, numbers, s)   all constants of the vector of neurons at k, and the step's numbers
    states_at(states, j, stride)             all that is carried along, one every `stride` numbers; `keep` writes it
    rows_at(rows, halves, t, strides, j, s)  what is read of step t
    with_records(first, at, records, to)     the same, of which the first part lies elsewhere
    both(x, y)                               the same, of one or two inputs
    step(r, s, c, results, halves, at, streams)     what is carried along after the step, what is to be summed up over
                                             time, and who fired; writes the rest
    fired_of(out)                            who fired as bits
    no_sums(s), added(a, b), add_to(sums, j, stride, a)     sums over time
"""
# ruff: noqa: F821 - the names above
# mypy: ignore-errors

import numpy as np


def through(
    numbers, constants, states, sums, rows, halves, results, halves_out, strides, columns, steps, start, stop, streams
):  # fmt: skip
    """Take the columns `start:stop` of `[T, columns]` arrays through all steps, onward if FORTH, else from the last.

    `states` is carried along in place, and `sums` is added to. Each array is passed over once, a few steps of a vector
    of columns at a time, so that its state stays in registers in between. All arrays are flat; step t of what is read
    starts at `t` times its stride.
    """
    for lo in range(start, stop, BLOCK):
        width = min(BLOCK, stop - lo)
        own = constants if SHARED else repeated(constants, lo, width)
        for begin in range(0, steps, STEPS):
            for k in range(0, width, LANES):
                j = lo + k
                s = states_at(states, j, columns)
                c = constants_at(own, k, numbers, s)
                total = no_sums(s)
                for i in range(begin, min(begin + STEPS, steps)):
                    t = i if FORTH else steps - 1 - i
                    r = rows_at(rows, halves, t, strides, j, s)
                    s, more, _ = step(r, s, c, results, halves_out, t * columns + j, streams)
                    total = added(total, more)
                keep(states, j, columns, s)
                add_to(sums, j, columns, total)
    fence()


def integrate(
    words_in, values, starts, units, weight, bias, current, step_stride, sample_stride, from_first, from_second,
    recurrent_bias, numbers, constants, initial, live, sizes, steps, first, stop, records, words,
):  # fmt: skip
    """Take a population through all steps, for the samples `first:stop`; spikes arrive and leave as bits.

    Its neurons are one or two sections, each laid out in whole vectors, the first of two in whole words of spikes;
    `sizes` is how many neurons each has, and how many words the first has and both. The first input is `bias` plus the
    weights of the spikes that arrive or, without `weight` (no element), `current` `[steps, samples, neurons]`. Spikes
    of the step before add their weights `from_first` to the first input and `from_second` to the last one, by the
    section that they come from. Every product and sum is rounded by itself, sums over spikes run in rising order.

    `live` has a bit for each neuron that there is, `initial` has each part of the state before the first step.
    Fills `records`, each `[stop - first, steps, width]`, and the bits `words`.
    """
    one, two, split, n_words = sizes
    width, n_in = bias.size, (units + 63) >> 6
    rows, ends = np.empty(0, np.int32), np.zeros(steps + 1, np.int32)
    heard, others = np.empty(one if RECURRENT else 0, np.int32), np.empty(two if RECURRENT else 0, np.int32)
    base = bias if weight.size > 0 else np.zeros(steps * width, bias.dtype)
    state = np.empty(STATES * width, bias.dtype)
    for s in range(first, stop):
        for part in range(STATES):
            state[part * width : (part + 1) * width] = initial[part]
        if SPIKING:
            words[s * steps * n_words : (s + 1) * steps * n_words] = np.uint64(0)
        if weight.size > 0:
            rows = sample_rows(words_in, s * steps * n_in, n_in, steps, width, rows, ends)
        else:
            for t in range(steps):
                at, to = t * step_stride + s * sample_stride, t * width
                base[to : to + one] = current[at : at + one]
                base[to + 64 * split : to + 64 * split + two] = current[at + one : at + one + two]
        start = starts[s * steps] if values.size > 0 else 0
        # Neurons that hear nothing of each other go through all steps at once: their state stays in registers.
        stride = 1 if RECURRENT else steps
        for begin in range(0, steps, stride):
            n_heard, n_others = 0, 0
            if RECURRENT and begin > 0:
                before = (s * steps + begin - 1) * n_words
                if from_first.size > 0:
                    n_heard = rows_of(words, before, split, width, heard, 0)
                n_others = rows_of(words, before + split, n_words - split, width, others, 0)
            for j in range(0, width, LANES):
                h = states_at(state, j, width)
                c = constants_at(constants, j, numbers, h)
                for t in range(begin, min(begin + stride, steps)):
                    x = load(base, t * width + j if weight.size == 0 else j)
                    if values.size > 0:
                        for e in range(ends[t], ends[t + 1]):
                            x = x + load(weight, rows[e] + j) * values[start + e]
                    else:
                        for e in range(ends[t], ends[t + 1]):
                            x = x + load(weight, rows[e] + j)
                    y = broadcast(0.0, x)
                    if RECURRENT and t > 0:
                        x = x + load(recurrent_bias, j)
                        for e in range(n_heard):
                            x = x + load(from_first, heard[e] + j)
                        for e in range(n_others):
                            y = y + load(from_second, others[e] + j)
                    h, _, out = step(both(x, y), h, c, records, (), ((s - first) * steps + t) * width + j, False)
                    if SPIKING:
                        fired = fired_of(out) << np.uint64(j & 63)
                        words[(s * steps + t) * n_words + (j >> 6)] |= fired & live[j >> 6]
                keep(state, j, width, h)


def adjoint(numbers, constants, states, sums, records, results, steps, first, stop):
    """From step `stop - 1` down to `first`: from the gradient wrt the output to those wrt the inputs, in its place.

    That is `results`, `[samples, steps, width]` as the `records`; `states` and `sums`, of a row `[samples, width]`
    each, are the gradients wrt the state, carried along, and those wrt constants.
    """
    width = constants.shape[1]
    stride = states.size // STATES
    for s in range(stride // width):
        for t in range(stop - 1, first - 1, -1):
            for j in range(0, width, LANES):
                at, k = (s * steps + t) * width + j, s * width + j
                g = states_at(states, k, stride)
                c = constants_at(constants, j, numbers, g)
                r = with_records(results[0], at, records, at)
                g, more, _ = step(r, g, c, results, (), at, False)
                keep(states, k, stride, g)
                add_to(sums, k, stride, more)


def integrate_map(x, geometry, weight, numbers, constants, live, steps, samples, first, stop, out, words, records):
    """Take a feature map that hears itself through all steps, for the samples `first:stop`; see `maps.py`.

    A few samples go through all steps together, so that what they need stays in the cache. Each spike adds its window
    of the `weight` `[channels, window, width]`, turned around, to the map, in the order of places; this sum is added
    to the current `x`, `[steps, samples]` frames. Fills the spikes `out`, like `x`, their bits `words`, `[steps,
    samples, words of a map]`, and `records`, `[steps, samples]` maps.
    """
    channels, rows, columns, _, _ = geometry
    size, units = constants.shape[1], channels * rows * columns
    n_words, found, spikes = (size + 63) >> 6, units_of(geometry, size), np.empty((units, 3), np.int32)
    block = (stop - first) * size
    states, heard, outside = zeros(STATES * block, x), zeros(block, x), zeros(size, x)
    for t in range(steps):
        for s in range(first, stop):
            frame, own = t * samples + s, (s - first) * size
            at, word = frame * size, frame * n_words
            to_map(x, frame * units, geometry, outside, 0, size)
            words[word : word + n_words] = np.uint64(0)
            for j in range(0, size, LANES):
                h = states_at(states, own + j, block)
                c = constants_at(constants, j, numbers, h)
                current = load(outside, j) + load(heard, own + j)
                h, _, fired = step(both(current, broadcast(0.0, current)), h, c, records, (), at + j, True)
                keep(states, own + j, block, h)
                words[word + (j >> 6)] |= (fired_of(fired) << np.uint64(j & 63)) & live[j >> 6]
            n = found_spikes(words, word, n_words, found, spikes)
            heard[own : own + size] = 0
            meet(spikes, n, geometry, size, heard, own, weight, True)
            out[frame * units : (frame + 1) * units] = 0
            for e in range(n):
                out[frame * units + spikes[e, 0]] = 1
    fence()


def back_map(
    g_out, geometry, weight, numbers, constants, steps, samples, first, stop, words, records, g_x, g_weight, g_constants
):  # fmt: skip
    """From the gradient wrt the spikes to those wrt current, weight and constants, over the samples `first:stop`.

    Fills `g_x` and adds to the others, which are sums, unless they have no element. `g_weight` is laid out as the
    weight of `integrate_map`; `weight` is `[window, outputs, width]`, what a place hears back from those around it.
    """
    channels, rows, columns, _, _ = geometry
    size, units = constants.shape[1], channels * rows * columns
    n_words, found, spikes = (size + 63) >> 6, units_of(geometry, size), np.empty((units, 3), np.int32)
    block = (stop - first) * size
    g, g_next, states = zeros(block, g_out), zeros(block, g_out), zeros(STATES * block, g_out)
    sums = zeros(g_constants.size // size * block, g_out)
    for t in range(steps - 1, -1, -1):
        for s in range(first, stop):
            frame, own = t * samples + s, (s - first) * size
            at = frame * size
            to_map(g_out, frame * units, geometry, g, own, size)
            if t < steps - 1:
                hear_back(g_next, weight, geometry, own, size, g)
            for j in range(0, size, LANES):
                h = states_at(states, own + j, block)
                c = constants_at(constants, j, numbers, h)
                r = with_records(g, own + j, records, at + j)
                h, more, _ = step(r, h, c, (g,), (), own + j, False)
                keep(states, own + j, block, h)
                add_to(sums, own + j, block, more)
            if g_x.size > 0:
                from_map(g, own, size, geometry, g_x, frame * units)
            if g_weight.size > 0 and t > 0:
                n = found_spikes(words, (frame - samples) * n_words, n_words, found, spikes)
                meet(spikes, n, geometry, size, g, own, g_weight, False)
        g, g_next = g_next, g
    for k in range(sums.size):
        g_constants[k // block * size + k % size] += sums[k]
