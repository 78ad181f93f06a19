"""Numba kernels of the event-driven layers: spikes arrive as bits, weights are gathered and scattered row by row.

All arrays are flat. A layer of n neurons is padded to a `width` of whole vectors, with thresholds that padding never
reaches; a weight is laid out `[afferents, width]`, one row for each afferent. The spikes of a population are bits,
`[samples, steps, words]` of 64 units each. The values of graded spikes follow in the order of the bits, those of one
step from `starts[sample, step]` on.

Every product and sum is rounded by itself; the sum over the spikes of a step runs over the units in rising order.
"""

from typing import Any

import numpy as np

from fluctua.simd.compiling import helper, kernel
from fluctua.simd.memory import load, store
from fluctua.simd.vectors import bits, broadcast, lanes, select
from fluctua.spikes.bits import rows_of, sample_rows
from fluctua.timeloop.cpu_kernels import surrogate
from fluctua.timeloop.events_adaptive_kernels import adaptive_step

_NO_BITS = np.uint64(0)


def width_of(n: int, dtype: Any) -> int:
    """Size of a population of n, padded to whole vectors."""
    return -(-n // lanes(dtype)) * lanes(dtype)


# ---- forward


@kernel
def integrate(  # type: ignore[no-untyped-def]
    words_in, values, starts, units, weight, bias, current, step_stride, sample_stride, recurrent, recurrent_bias,
    decay_mem, gain, decay_syn, threshold, adaptation, initial, exponential, spiking, hard, steps, neurons, first,
    stop, potential, drive, levels, words,
):  # fmt: skip
    """Run a layer over the samples `first:stop`.

    The input current is `bias` plus the weights of the spikes that arrive; where there is no `weight` (no element),
    it is read from `current` `[steps, samples, neurons]`. Where there are `recurrent` weights, the spikes of the step
    before add theirs. Fills `potential` and, unless they have no element, `drive` (what enters the potential: I, or the
    input current of a delta synapse) and `levels` (of the `adaptation`, an `Adapting` or None), all
    `[stop - first, steps, width]`, and the bits `words` of the spikes.
    """
    width = decay_mem.size
    n_in, n_words = (units + 63) >> 6, (neurons + 63) >> 6
    rows, ends = np.empty(0, np.int32), np.zeros(steps + 1, np.int32)
    heard = np.empty(neurons if recurrent.size > 0 else 0, np.int32)
    base = bias if weight.size > 0 else np.zeros(steps * width, potential.dtype)
    u, i, w = np.empty(width, potential.dtype), np.empty(width, potential.dtype), np.empty(width, potential.dtype)
    for s in range(first, stop):
        u[:] = initial
        i[:] = 0
        w[:] = 0
        if spiking:
            words[s * steps * n_words : (s + 1) * steps * n_words] = _NO_BITS
        if weight.size > 0:
            rows = sample_rows(words_in, s * steps * n_in, n_in, steps, width, rows, ends)
        else:
            for t in range(steps):
                at = t * step_stride + s * sample_stride
                base[t * width : t * width + neurons] = current[at : at + neurons]
        start = starts[s * steps] if values.size > 0 else 0
        # Neurons that hear nothing of each other go through all steps, a few at a time: their state stays in registers.
        stride = 1 if recurrent.size > 0 else steps
        for t in range(0, steps, stride):
            n_heard = 0
            if recurrent.size > 0 and t > 0:
                n_heard = rows_of(words, (s * steps + t - 1) * n_words, n_words, width, heard, 0)
            _advance(
                rows,
                ends,
                weight,
                values,
                start,
                base,
                recurrent,
                recurrent_bias,
                heard,
                n_heard,
                decay_mem,
                gain,
                decay_syn,
                threshold,
                adaptation,
                exponential,
                spiking,
                hard,
                u,
                i,
                w,
                t,
                min(t + stride, steps),
                (s - first) * steps,
                potential,
                drive,
                levels,
                words,
                s * steps,
                n_words,
            )


@helper
def _advance(  # type: ignore[no-untyped-def]
    rows,
    ends,
    weight,
    values,
    start,
    base,
    recurrent,
    recurrent_bias,
    heard,
    n_heard,
    decay_mem,
    gain,
    decay_syn,
    threshold,
    adaptation,
    exponential,
    spiking,
    hard,
    u,
    i,
    w,
    begin,
    end,
    row,
    potential,
    drive,
    levels,
    words,
    word,
    n_words,
):
    """Take the neurons of one sample from step `begin` to `end`: four vectors of them at a time, then one."""
    lane = 64 // u.itemsize
    width = u.size
    varies = base.size > width
    hears = recurrent.size > 0
    j = 0
    while j + 4 * lane <= width:
        u0, u1, u2, u3 = _load4(u, j)
        i0, i1, i2, i3 = _load4(i, j)
        a0, a1, a2, a3 = _load4(decay_mem, j)
        c0, c1, c2, c3 = _load4(gain, j)
        b0, b1, b2, b3 = _load4(decay_syn, j)
        h0, h1, h2, h3 = _load4(threshold, j)
        if adaptation is not None:
            q0, q1, q2, q3 = _load4(w, j)
        for t in range(begin, end):
            x0, x1, x2, x3 = _load4(base, t * width + j if varies else j)
            if values.size > 0:
                for e in range(ends[t], ends[t + 1]):
                    value = values[start + e]
                    w0, w1, w2, w3 = _load4(weight, rows[e] + j)
                    x0, x1, x2, x3 = x0 + w0 * value, x1 + w1 * value, x2 + w2 * value, x3 + w3 * value
            else:
                for e in range(ends[t], ends[t + 1]):
                    w0, w1, w2, w3 = _load4(weight, rows[e] + j)
                    x0, x1, x2, x3 = x0 + w0, x1 + w1, x2 + w2, x3 + w3
            if hears and t > 0:
                w0, w1, w2, w3 = _load4(recurrent_bias, j)
                x0, x1, x2, x3 = x0 + w0, x1 + w1, x2 + w2, x3 + w3
                for e in range(n_heard):
                    w0, w1, w2, w3 = _load4(recurrent, heard[e] + j)
                    x0, x1, x2, x3 = x0 + w0, x1 + w1, x2 + w2, x3 + w3
            at = (row + t) * width + j
            _store4(potential, at, u0, u1, u2, u3)
            if drive.size > 0:
                d0, d1, d2, d3 = (i0, i1, i2, i3) if exponential else (x0, x1, x2, x3)
                _store4(drive, at, d0, d1, d2, d3)
            if adaptation is None:
                u0, i0, s0 = lif_step(u0, i0, x0, a0, c0, b0, h0, exponential, spiking, hard)
                u1, i1, s1 = lif_step(u1, i1, x1, a1, c1, b1, h1, exponential, spiking, hard)
                u2, i2, s2 = lif_step(u2, i2, x2, a2, c2, b2, h2, exponential, spiking, hard)
                u3, i3, s3 = lif_step(u3, i3, x3, a3, c3, b3, h3, exponential, spiking, hard)
            else:
                if levels.size > 0:
                    _store4(levels, at, q0, q1, q2, q3)
                u0, i0, q0, s0 = adaptive_step(u0, i0, q0, x0, a0, c0, b0, h0, adaptation, j, exponential, hard)
                u1, i1, q1, s1 = adaptive_step(u1, i1, q1, x1, a1, c1, b1, h1, adaptation, j + lane, exponential, hard)
                u2, i2, q2, s2 = adaptive_step(
                    u2, i2, q2, x2, a2, c2, b2, h2, adaptation, j + 2 * lane, exponential, hard
                )
                u3, i3, q3, s3 = adaptive_step(
                    u3, i3, q3, x3, a3, c3, b3, h3, adaptation, j + 3 * lane, exponential, hard
                )
            if spiking:
                L = np.uint64(lane)
                fired = s0 | (s1 << L) | (s2 << (L + L)) | (s3 << (L + L + L))
                words[(word + t) * n_words + (j >> 6)] |= fired << np.uint64(j & 63)
        _store4(u, j, u0, u1, u2, u3)
        _store4(i, j, i0, i1, i2, i3)
        if adaptation is not None:
            _store4(w, j, q0, q1, q2, q3)
        j += 4 * lane
    while j < width:
        u0, i0 = load(u, j), load(i, j)
        a0, c0, b0, h0 = load(decay_mem, j), load(gain, j), load(decay_syn, j), load(threshold, j)
        if adaptation is not None:
            q0 = load(w, j)
        for t in range(begin, end):
            x0 = load(base, t * width + j if varies else j)
            for e in range(ends[t], ends[t + 1]):
                w0 = load(weight, rows[e] + j)
                x0 = x0 + (w0 * values[start + e] if values.size > 0 else w0)
            if hears and t > 0:
                x0 = x0 + load(recurrent_bias, j)
                for e in range(n_heard):
                    x0 = x0 + load(recurrent, heard[e] + j)
            at = (row + t) * width + j
            store(potential, at, u0)
            if drive.size > 0:
                store(drive, at, i0 if exponential else x0)
            if adaptation is None:
                u0, i0, s0 = lif_step(u0, i0, x0, a0, c0, b0, h0, exponential, spiking, hard)
            else:
                if levels.size > 0:
                    store(levels, at, q0)
                u0, i0, q0, s0 = adaptive_step(u0, i0, q0, x0, a0, c0, b0, h0, adaptation, j, exponential, hard)
            if spiking:
                words[(word + t) * n_words + (j >> 6)] |= s0 << np.uint64(j & 63)
        store(u, j, u0)
        store(i, j, i0)
        if adaptation is not None:
            store(w, j, q0)
        j += lane


@helper
def lif_step(u, i, x, a, gain, b, theta, exponential, spiking, hard):  # type: ignore[no-untyped-def]
    """One step of one vector of neurons: potential and current after it, and who fired."""
    zero, one = broadcast(0.0, u), broadcast(1.0, u)
    v = a * u
    if exponential:
        v = v + gain * i
        i = b * i + x
    else:
        v = v + x
    fired = _NO_BITS
    if spiking:
        mask = u > theta
        fired = bits(mask)
        v = v * select(mask, zero, one) if hard else v - select(mask, theta, zero)
    return v, i, fired


@helper
def _load4(array, at):  # type: ignore[no-untyped-def]
    lane = 64 // array.itemsize
    return load(array, at), load(array, at + lane), load(array, at + 2 * lane), load(array, at + 3 * lane)


@helper
def _store4(array, at, v0, v1, v2, v3):  # type: ignore[no-untyped-def]
    lane = 64 // array.itemsize
    store(array, at, v0)
    store(array, at + lane, v1)
    store(array, at + 2 * lane, v2)
    store(array, at + 3 * lane, v3)


# ---- backward


@kernel
def adjoint(  # type: ignore[no-untyped-def]
    g,
    potential,
    drive,
    gu,
    gi,
    ga,
    gb,
    decay_mem,
    gain,
    decay_syn,
    threshold,
    exponential,
    spiking,
    hard,
    differentiable,
    shape,
    slope,
    height,
    steps,
    first,
    stop,
):
    """From the gradient wrt the output to that wrt the input current, in place in `g` `[samples, steps, width]`.

    Runs from step `stop - 1` down to `first`, and carries the gradients `gu`, `gi` wrt the state along; `ga` and `gb`
    sum up those wrt the decays unless they have no element; all `[samples, width]`.
    """
    lane = 64 // g.itemsize
    width = decay_mem.size
    zero, one = g.dtype.type(0), g.dtype.type(1)
    for s in range(gu.size // width):
        for t in range(stop - 1, first - 1, -1):
            row = (s * steps + t) * width
            for j in range(0, width, lane):
                k = s * width + j
                a, g_j, gu_j = load(decay_mem, j), load(g, row + j), load(gu, k)
                gv = gu_j
                if spiking:
                    u_j, theta = load(potential, row + j), load(threshold, j)
                    if differentiable:
                        if hard:
                            d_j = load(drive, row + j)
                            v = a * u_j + (load(gain, j) * d_j if exponential else d_j)
                            g_j = g_j - gu_j * v
                        else:
                            g_j = g_j - gu_j * theta
                    distance = u_j - theta
                    if hard:
                        fired = distance > broadcast(zero, a)
                        gv = gv * select(fired, broadcast(zero, a), broadcast(one, a))
                    g_j = g_j * surrogate(slope, height, distance, shape)
                store(gu, k, a * gv + g_j)
                if exponential:
                    gi_j = load(gi, k)
                    if ga.size > 0:
                        d_j = load(drive, row + j)
                        store(ga, k, load(ga, k) + gv * (load(potential, row + j) - d_j))
                        store(gb, k, load(gb, k) + gi_j * d_j)
                    store(g, row + j, gi_j)
                    store(gi, k, load(gain, j) * gv + load(decay_syn, j) * gi_j)
                else:
                    if ga.size > 0:
                        store(ga, k, load(ga, k) + gv * load(potential, row + j))
                    store(g, row + j, gv)


@kernel
def scatter(words, values, starts, units, g, width, steps, lag, first, stop, gradient, gradient_bias):  # type: ignore[no-untyped-def]
    """Add the gradient wrt a weight `[units, width]` and its bias, from the spikes of `lag` steps before.

    `g` is the gradient wrt the input current, `[stop - first, steps, width]`.
    """
    lane = 64 // g.itemsize
    n_words = (units + 63) >> 6
    graded = values.size > 0
    rows = np.empty(units, np.int32)
    for s in range(first, stop):
        for t in range(lag, steps):
            at = s * steps + t - lag
            n = rows_of(words, at * n_words, n_words, width, rows, 0)
            start = starts[at] if graded else 0
            row, j = ((s - first) * steps + t) * width, 0
            while j + 4 * lane <= width:
                at = row + j
                g0, g1, g2, g3 = load(g, at), load(g, at + lane), load(g, at + 2 * lane), load(g, at + 3 * lane)
                if graded:
                    for e in range(n):
                        k, value = rows[e] + j, values[start + e]
                        store(gradient, k, load(gradient, k) + g0 * value)
                        store(gradient, k + lane, load(gradient, k + lane) + g1 * value)
                        store(gradient, k + 2 * lane, load(gradient, k + 2 * lane) + g2 * value)
                        store(gradient, k + 3 * lane, load(gradient, k + 3 * lane) + g3 * value)
                else:
                    for e in range(n):
                        k = rows[e] + j
                        store(gradient, k, load(gradient, k) + g0)
                        store(gradient, k + lane, load(gradient, k + lane) + g1)
                        store(gradient, k + 2 * lane, load(gradient, k + 2 * lane) + g2)
                        store(gradient, k + 3 * lane, load(gradient, k + 3 * lane) + g3)
                j += 4 * lane
            while j < width:
                g0 = load(g, row + j)
                for e in range(n):
                    k = rows[e] + j
                    store(gradient, k, load(gradient, k) + (g0 * values[start + e] if graded else g0))
                j += lane
            if gradient_bias.size > 0:
                for j in range(0, width, lane):
                    store(gradient_bias, j, load(gradient_bias, j) + load(g, row + j))
