"""Numba kernels of an excitatory and an inhibitory population that hear each other, laid side by side in one row.

All arrays are flat and laid out as in `events_kernels.py`. A row holds the excitatory population and then the
inhibitory one, each padded to whole words of 64 neurons, with thresholds that padding never reaches. The spikes of
the two are kept apart, `[samples, steps, words]` each.
"""

import numpy as np

from fluctua.simd.compiling import helper, kernel
from fluctua.simd.memory import add, load, store
from fluctua.simd.vectors import bits, broadcast, select
from fluctua.spikes.bits import rows_of, sample_rows
from fluctua.timeloop.cpu_kernels import surrogate

_NO_BITS = np.uint64(0)


# ---- forward


@kernel
def integrate(  # type: ignore[no-untyped-def]
    words_in,
    values,
    starts,
    units,
    weight,
    current,
    step_stride,
    sample_stride,
    exc,
    inh,
    from_exc,
    from_inh,
    decay_mem,
    gain,
    decay_exc,
    decay_inh,
    threshold,
    hard,
    steps,
    first,
    stop,
    potential,
    excitation,
    inhibition,
    words_exc,
    words_inh,
):
    """Run `exc` and `inh` neurons over the samples `first:stop`.

    What comes from outside excites: the weights of the spikes that arrive or, where there is no `weight` (no
    element), `current` `[steps, samples, exc + inh]`. The spikes of the step before add their weights `from_exc` to
    the excitatory and `from_inh` to the inhibitory current. Fills, unless they have no element, `potential`,
    `excitation` and `inhibition` (the two currents before each step), `[stop - first, steps, width]`, and the bits of
    the spikes.
    """
    width, kind = decay_mem.size, decay_mem.dtype
    n_in, n_exc, n_inh = (units + 63) >> 6, (exc + 63) >> 6, (inh + 63) >> 6
    inh_at = 64 * n_exc
    rows, ends = np.empty(0, np.int32), np.zeros(steps + 1, np.int32)
    heard_exc, heard_inh = np.empty(exc, np.int32), np.empty(inh, np.int32)
    base = np.zeros(width, kind)
    state = np.empty(3 * width, kind)
    for s in range(first, stop):
        state[:] = 0
        words_exc[s * steps * n_exc : (s + 1) * steps * n_exc] = _NO_BITS
        words_inh[s * steps * n_inh : (s + 1) * steps * n_inh] = _NO_BITS
        if weight.size > 0:
            rows = sample_rows(words_in, s * steps * n_in, n_in, steps, width, rows, ends)
        start = starts[s * steps] if values.size > 0 else 0
        for t in range(steps):
            if weight.size == 0:
                at = t * step_stride + s * sample_stride
                base[:exc] = current[at : at + exc]
                base[inh_at : inh_at + inh] = current[at + exc : at + exc + inh]
            now, n_heard_exc, n_heard_inh = s * steps + t, 0, 0
            if t > 0:
                n_heard_inh = rows_of(words_inh, (now - 1) * n_inh, n_inh, width, heard_inh, 0)
                if from_exc.size > 0:
                    n_heard_exc = rows_of(words_exc, (now - 1) * n_exc, n_exc, width, heard_exc, 0)
            row, lane = (now - first * steps) * width, 64 // potential.itemsize
            for j in range(0, width, 4 * lane):
                x = _load4(base, j)
                if values.size > 0:
                    x = _graded_sum(weight, rows, values, start, ends[t], ends[t + 1], j, x)
                else:
                    x = _sum(weight, rows, ends[t], ends[t + 1], j, x)
                x = _sum(from_exc, heard_exc, 0, n_heard_exc, j, x)
                zero = broadcast(0.0, x[0])
                y = _sum(from_inh, heard_inh, 0, n_heard_inh, j, (zero, zero, zero, zero))
                if potential.size > 0:
                    _store4(potential, row + j, _load4(state, j))
                if excitation.size > 0:
                    _store4(excitation, row + j, _load4(state, width + j))
                    _store4(inhibition, row + j, _load4(state, 2 * width + j))
                fired, L = _NO_BITS, np.uint64(lane)
                fired |= _step(state, j, x[0], y[0], decay_mem, gain, decay_exc, decay_inh, threshold, hard)
                fired |= _step(state, j + lane, x[1], y[1], decay_mem, gain, decay_exc, decay_inh, threshold, hard) << L
                fired |= _step(
                    state, j + 2 * lane, x[2], y[2], decay_mem, gain, decay_exc, decay_inh, threshold, hard
                ) << (L + L)
                fired |= _step(
                    state, j + 3 * lane, x[3], y[3], decay_mem, gain, decay_exc, decay_inh, threshold, hard
                ) << (L + L + L)
                if j < inh_at:
                    words_exc[now * n_exc + (j >> 6)] |= fired << np.uint64(j & 63)
                else:
                    words_inh[now * n_inh + ((j - inh_at) >> 6)] |= fired << np.uint64(j & 63)


@helper
def _step(state, j, x, y, decay_mem, gain, decay_exc, decay_inh, threshold, hard):  # type: ignore[no-untyped-def]
    """Take one vector of neurons one step on, in place; returns who fired."""
    width = decay_mem.size
    u, e, i = load(state, j), load(state, width + j), load(state, 2 * width + j)
    theta, zero, one = load(threshold, j), broadcast(0.0, u), broadcast(1.0, u)
    mask = u > theta
    v = load(decay_mem, j) * u + load(gain, j) * (e - i)
    store(state, j, v * select(mask, zero, one) if hard else v - select(mask, theta, zero))
    store(state, width + j, load(decay_exc, j) * e + x)
    store(state, 2 * width + j, load(decay_inh, j) * i + y)
    return bits(mask)


@helper
def _sum(weight, rows, begin, end, j, x):  # type: ignore[no-untyped-def]
    """Add four vectors of the rows `begin:end` to `x`."""
    x0, x1, x2, x3 = x
    for e in range(begin, end):
        w0, w1, w2, w3 = _load4(weight, rows[e] + j)
        x0, x1, x2, x3 = x0 + w0, x1 + w1, x2 + w2, x3 + w3
    return x0, x1, x2, x3


@helper
def _graded_sum(weight, rows, values, start, begin, end, j, x):  # type: ignore[no-untyped-def]
    """Add four vectors of the rows `begin:end`, each times its value, to `x`."""
    x0, x1, x2, x3 = x
    for e in range(begin, end):
        value = values[start + e]
        w0, w1, w2, w3 = _load4(weight, rows[e] + j)
        x0, x1, x2, x3 = x0 + w0 * value, x1 + w1 * value, x2 + w2 * value, x3 + w3 * value
    return x0, x1, x2, x3


@helper
def _load4(array, at):  # type: ignore[no-untyped-def]
    lane = 64 // array.itemsize
    return load(array, at), load(array, at + lane), load(array, at + 2 * lane), load(array, at + 3 * lane)


@helper
def _store4(array, at, vectors):  # type: ignore[no-untyped-def]
    lane = 64 // array.itemsize
    store(array, at, vectors[0])
    store(array, at + lane, vectors[1])
    store(array, at + 2 * lane, vectors[2])
    store(array, at + 3 * lane, vectors[3])


# ---- backward


@kernel
def adjoint(  # type: ignore[no-untyped-def]
    g,
    g_inh,
    potential,
    excitation,
    inhibition,
    gu,
    ge,
    gi,
    ga,
    gb_exc,
    gb_inh,
    decay_mem,
    gain,
    decay_exc,
    decay_inh,
    threshold,
    hard,
    differentiable,
    shape,
    slope,
    height,
    steps,
    t,
):
    """Step `t` of the way back: from the gradient wrt the spikes to those wrt the two input currents.

    The one wrt the excitatory current takes the place of the other in `g`, the one wrt the inhibitory goes to `g_inh`,
    both `[samples, steps, width]`. `gu`, `ge` and `gi` are the gradients wrt the state, carried along; `ga`, `gb_exc`
    and `gb_inh` sum up those wrt the decays unless they have no element; all `[samples, width]`.
    """
    lane = 64 // g.itemsize
    width = decay_mem.size
    lost = hard and differentiable
    for s in range(gu.size // width):
        row = (s * steps + t) * width
        for j in range(0, width, lane):
            k, at = s * width + j, row + j
            a, c, theta = load(decay_mem, j), load(gain, j), load(threshold, j)
            u, g_j, gu_j, ge_j, gi_j = load(potential, at), load(g, at), load(gu, k), load(ge, k), load(gi, k)
            gv = gu_j
            distance = u - theta
            if lost:
                g_j = g_j - gu_j * (a * u + c * (load(excitation, at) - load(inhibition, at)))
            elif differentiable:
                g_j = g_j - gu_j * theta
            if hard:
                zero = broadcast(0.0, a)
                gv = gv * select(distance > zero, zero, broadcast(1.0, a))
            if ga.size > 0:
                e, i = load(excitation, at), load(inhibition, at)
                add(ga, k, gv * (u - (e - i)))
                add(gb_exc, k, ge_j * e)
                add(gb_inh, k, gi_j * i)
            store(g, at, ge_j)
            store(g_inh, at, gi_j)
            store(gu, k, a * gv + g_j * surrogate(slope, height, distance, shape))
            store(ge, k, c * gv + load(decay_exc, j) * ge_j)
            store(gi, k, load(decay_inh, j) * gi_j - c * gv)
