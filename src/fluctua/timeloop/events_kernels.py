"""Numba kernels of the event-driven layers: spikes arrive as bits, weights are gathered and scattered row by row.

All arrays are flat. A layer of n neurons is padded to a `width` of whole vectors, with thresholds that padding never
reaches; a weight is laid out `[afferents, width]`, one row for each afferent. The spikes of a population are bits,
`[samples, steps, words]` of 64 units each. The values of graded spikes follow in the order of the bits, those of one
step from `starts[sample, step]` on. The equations are those of `contract.py`.

Every product and sum is rounded by itself; the sum over the spikes of a step runs over the units in rising order.
Four vectors of neurons are taken at a time, then one. Adaptation is a type of its own to the compiler, as is
inhibition: the loops of neurons that have neither know nothing of it.

With inhibition there are two populations, whose neurons lie one behind the other in a row: the spikes of the first,
which begin at bit 0, excite both, and those of the second, which begin at a word of their own, inhibit both.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fluctua.simd.compiling import helper, kernel
from fluctua.simd.memory import add, load, load4, store
from fluctua.simd.vectors import bits, broadcast, lanes, select
from fluctua.spikes.bits import rows_of, sample_rows
from fluctua.timeloop.cpu_kernels import surrogate

NO_BITS = np.uint64(0)


class Adapting(NamedTuple):
    """Constants of `contract.Adaptation`, `[width]`; a coupling without elements where w raises the threshold."""

    decay: NDArray[Any]
    strength: NDArray[Any]
    coupling: NDArray[Any]


class Inhibition(NamedTuple):
    """A second population, of `neurons` from the unit `at` on, and the current through which it inhibits both."""

    decay: NDArray[Any]
    weight: NDArray[Any]
    at: int
    neurons: int


def width_of(n: int, dtype: Any) -> int:
    """Size of a population of n, padded to whole vectors."""
    return -(-n // lanes(dtype)) * lanes(dtype)


@helper
def single(array, at):  # type: ignore[no-untyped-def]
    """The vector at `at`."""
    return load(array, at)


@helper
def four(array, at):  # type: ignore[no-untyped-def]
    """The four vectors from `at` on."""
    return load4(array, at)


# ---- forward


@kernel
def integrate(  # type: ignore[no-untyped-def]
    words_in, values, starts, units, current, step_stride, sample_stride, weight, bias, recurrent, recurrent_bias,
    decay_mem, gain, decay_syn, threshold, adaptation, inhibition, initial, exponential, spiking, hard,
    steps, neurons, first, stop, potential, drive, levels, words,
):  # fmt: skip
    """Run a layer over the samples `first:stop`.

    The input current is `bias` plus the weights of the spikes that arrive; where there is no `weight` (no element),
    it is read from `current` `[steps, samples, all neurons]`. Where there are `recurrent` weights, the spikes of the
    step before add theirs. Fills, unless they have no element, `potential`, `drive` (what enters the potential: I, or
    the input current of a delta synapse) and `levels` (of the `adaptation`, an `Adapting` or None, or the current of
    the `inhibition`), all `[stop - first, steps, width]`, and the bits `words` of the spikes.
    """
    width, lane = decay_mem.size, 64 // potential.itemsize
    whole = width - width % (4 * lane)
    n_in, n_own = (units + 63) >> 6, (neurons + 63) >> 6
    n_words = n_own
    rows, ends = np.empty(0, np.int32), np.zeros(steps + 1, np.int32)
    heard, n_heard = np.empty(neurons if recurrent.size > 0 else 0, np.int32), 0
    inhibiting, n_inhibiting = np.empty(0, np.int32), 0
    if inhibition is not None:
        n_words, inhibiting = n_own + ((inhibition.neurons + 63) >> 6), np.empty(inhibition.neurons, np.int32)
    stepwise = recurrent.size > 0 or n_words > n_own
    base = bias if weight.size > 0 else np.zeros(steps * width, potential.dtype)
    u, i, w = np.empty(width, potential.dtype), np.empty(width, potential.dtype), np.empty(width, potential.dtype)
    for s in range(first, stop):
        u[:] = initial
        i[:] = 0
        w[:] = 0
        if spiking:
            words[s * steps * n_words : (s + 1) * steps * n_words] = NO_BITS
        if weight.size > 0:
            rows = sample_rows(words_in, s * steps * n_in, n_in, steps, width, rows, ends)
        else:
            for t in range(steps):
                at = t * step_stride + s * sample_stride
                base[t * width : t * width + neurons] = current[at : at + neurons]
                if inhibition is not None:
                    to, at = t * width + inhibition.at, at + neurons
                    base[to : to + inhibition.neurons] = current[at : at + inhibition.neurons]
        start = starts[s * steps] if values.size > 0 else 0
        # Neurons that hear nothing of each other go through all steps, a few at a time: their state stays in registers.
        stride = 1 if stepwise else steps
        for t in range(0, steps, stride):
            if recurrent.size > 0 and t > 0:
                n_heard = rows_of(words, (s * steps + t - 1) * n_words, n_own, width, heard, 0)
            if inhibition is not None:
                if t > 0:
                    at = (s * steps + t - 1) * n_words + n_own
                    n_inhibiting = rows_of(words, at, n_words - n_own, width, inhibiting, 0)
                else:
                    n_inhibiting = 0
            end, row, word = min(t + stride, steps), (s - first) * steps, s * steps
            for j in range(0, whole, 4 * lane):
                _advance(
                    four, j, t, end, rows, ends, weight, values, start, base, recurrent, recurrent_bias, heard, n_heard,
                    inhibiting, n_inhibiting, decay_mem, gain, decay_syn, threshold, adaptation, inhibition,
                    exponential, spiking, hard, u, i, w, row, potential, drive, levels, word, n_words, words,
                )  # fmt: skip
            for j in range(whole, width, lane):
                _advance(
                    single, j, t, end, rows, ends, weight, values, start, base, recurrent, recurrent_bias, heard,
                    n_heard, inhibiting, n_inhibiting, decay_mem, gain, decay_syn, threshold, adaptation, inhibition,
                    exponential, spiking, hard, u, i, w, row, potential, drive, levels, word, n_words, words,
                )  # fmt: skip


@helper
def _advance(  # type: ignore[no-untyped-def]
    take, j, begin, end, rows, ends, weight, values, start, base, recurrent, recurrent_bias, heard, n_heard,
    inhibiting, n_inhibiting, decay_mem, gain, decay_syn, threshold, adaptation, inhibition,
    exponential, spiking, hard, u, i, w, row, potential, drive, levels, word, n_words, words,
):  # fmt: skip
    """Take the neurons of one sample that lie at `j` from step `begin` to `end`."""
    width = u.size
    u_t, i_t, w_t = take(u, j), take(i, j), take(w, j)
    a, c, b, theta = take(decay_mem, j), take(gain, j), take(decay_syn, j), take(threshold, j)
    for t in range(begin, end):
        x = take(base, t * width + j if base.size > width else j)
        x = add_rows(take, x, weight, rows, ends[t], ends[t + 1], j, values, start)
        if recurrent.size > 0 and t > 0:
            x = add_rows(take, x + take(recurrent_bias, j), recurrent, heard, 0, n_heard, j, recurrent[:0], 0)
        at = (row + t) * width + j
        if potential.size > 0:
            store(potential, at, u_t)
        if levels.size > 0:
            store(levels, at, w_t)
        if drive.size > 0:
            store(drive, at, i_t if exponential else x)
        if adaptation is not None:
            u_t, i_t, w_t, fired = _adaptive_step(
                take, u_t, i_t, w_t, x, a, c, b, theta, adaptation, j, exponential, hard
            )
        elif inhibition is not None:
            y = add_rows(take, broadcast(0.0, x), inhibition.weight, inhibiting, 0, n_inhibiting, j, recurrent[:0], 0)
            v, fired = _reset(a * u_t + c * (i_t - w_t), u_t, theta, True, hard)
            u_t, i_t, w_t = v, b * i_t + x, take(inhibition.decay, j) * w_t + y
        else:
            u_t, i_t, fired = lif_step(u_t, i_t, x, a, c, b, theta, exponential, spiking, hard)
        if spiking:
            words[(word + t) * n_words + (j >> 6)] |= fired << np.uint64(j & 63)
    store(u, j, u_t)
    store(i, j, i_t)
    store(w, j, w_t)


@helper
def add_rows(take, x, weight, rows, begin, end, j, values, start):  # type: ignore[no-untyped-def]
    """Add to `x` what lies at `j` in the rows `begin:end` of a weight, times the values from `start` on if any."""
    if values.size > 0:
        for e in range(begin, end):
            x = x + take(weight, rows[e] + j) * values[start + e]
    else:
        for e in range(begin, end):
            x = x + take(weight, rows[e] + j)
    return x


@helper
def lif_step(u, i, x, a, gain, b, theta, exponential, spiking, hard):  # type: ignore[no-untyped-def]
    """One step of one vector of neurons: potential and current after it, and who fired."""
    v, i = _integrated(u, i, x, a, gain, b, exponential)
    v, fired = _reset(v, u, theta, spiking, hard)
    return v, i, fired


@helper
def _integrated(u, i, x, a, gain, b, exponential):  # type: ignore[no-untyped-def]
    """Potential after a step without spikes, and current."""
    if exponential:
        return a * u + gain * i, b * i + x
    return a * u + x, i


@helper
def _reset(v, u, theta, spiking, hard):  # type: ignore[no-untyped-def]
    """The potential v after the spikes of the potential u, and who fired."""
    fired = NO_BITS
    if spiking:
        mask, zero = u > theta, broadcast(0.0, u)
        fired = bits(mask)
        v = v * select(mask, zero, broadcast(1.0, u)) if hard else v - select(mask, theta, zero)
    return v, fired


@helper
def _adaptive_step(take, u, i, w, x, a, gain, b, theta, adaptation, j, exponential, hard):  # type: ignore[no-untyped-def]
    """As `lif_step`, of neurons at `j` that adapt: potential, current and adaptation after it, and who fired."""
    raises = adaptation.coupling.size == 0
    v, i = _integrated(u, i, x, a, gain, b, exponential)
    if raises:
        theta = theta + w
    w = _next(take, u, w, u > theta, adaptation, j)
    if not raises:
        v = v - gain * w
    v, fired = _reset(v, u, theta, True, hard)
    return v, i, w, fired


@helper
def _pull(take, u, fired, adaptation, j):  # type: ignore[no-untyped-def]
    """What the adaptation decays to."""
    by_spikes = select(fired, take(adaptation.strength, j), broadcast(0.0, u))
    return take(adaptation.coupling, j) * u + by_spikes if adaptation.coupling.size > 0 else by_spikes


@helper
def _next(take, u, w, fired, adaptation, j):  # type: ignore[no-untyped-def]
    """The adaptation after a step."""
    rho = take(adaptation.decay, j)
    return rho * w + (1.0 - rho) * _pull(take, u, fired, adaptation, j)


# ---- backward


@kernel
def adjoint(  # type: ignore[no-untyped-def]
    g, g_inh, potential, drive, levels, gu, gi, gw, ga, gb, gd, gbeta, gc,
    decay_mem, gain, decay_syn, threshold, adaptation, inhibition,
    exponential, spiking, hard, differentiable, shape, slope, height, steps, first, stop,
):  # fmt: skip
    """From the gradient wrt the output to that wrt the input current, in place in `g` `[samples, steps, width]`.

    Runs from step `stop - 1` down to `first`, and carries the gradients `gu`, `gi` and `gw` wrt the state along, the
    last that of adaptation or inhibition. `ga`, `gb`, `gd` (of its decay), `gbeta` and `gc` sum up those wrt the
    constants unless they have no element; all `[samples, width]`. The gradient wrt the inhibitory input goes to
    `g_inh`. `potential`, `drive` and `levels` are those of `integrate`.
    """
    lane = 64 // g.itemsize
    width = decay_mem.size
    for s in range(gu.size // width):
        for t in range(stop - 1, first - 1, -1):
            row = (s * steps + t) * width
            for j in range(0, width, lane):
                k = s * width + j
                a, c, g_j, gu_j = load(decay_mem, j), load(gain, j), load(g, row + j), load(gu, k)
                u = load(potential, row + j) if potential.size > 0 else gu_j
                d = load(drive, row + j) if drive.size > 0 else u
                gv, drawn, net, zero, one = gu_j, u, d, broadcast(0.0, a), broadcast(1.0, a)
                if inhibition is not None:
                    gw_j = load(gw, k)
                    if drive.size > 0:
                        net = d - load(levels, row + j)
                    if gd.size > 0:
                        add(gd, k, gw_j * load(levels, row + j))
                if spiking:
                    theta = load(threshold, j)
                    if adaptation is not None:
                        raises = adaptation.coupling.size == 0
                        w, gw_j = load(levels, row + j), load(gw, k)
                        if raises:
                            theta = theta + w
                    distance = u - theta
                    fired = distance > zero
                    if hard:
                        gv = gu_j * select(fired, zero, one)
                    if adaptation is not None:
                        rho, after = load(adaptation.decay, j), _next(single, u, w, fired, adaptation, j)
                        if not raises:
                            gw_j = gw_j - c * gv
                            drawn = u + after
                        passed = (1.0 - rho) * gw_j  # wrt what the adaptation decays to
                    if differentiable:
                        lost = theta
                        if hard:
                            lost = a * u + (c * net if exponential else net)
                            if adaptation is not None:
                                lost = lost if raises else lost - c * after
                        g_j = g_j - gu_j * lost
                    if adaptation is not None:
                        g_j = g_j + load(adaptation.strength, j) * passed
                    g_j = g_j * surrogate(slope, height, distance, shape)
                    if adaptation is not None:
                        if gd.size > 0:
                            add(gd, k, gw_j * (w - _pull(single, u, fired, adaptation, j)))
                            add(gbeta, k, select(fired, passed, zero))
                        gw_j = rho * gw_j
                        if raises:
                            gw_j = gw_j - g_j if hard else gw_j - g_j - select(fired, gu_j, zero)
                        else:
                            add(gc, k, passed * u)
                            g_j = g_j + load(adaptation.coupling, j) * passed
                        store(gw, k, gw_j)
                store(gu, k, a * gv + g_j)
                if ga.size > 0:
                    add(ga, k, gv * (drawn - net if exponential else drawn))
                if exponential:
                    gi_j = load(gi, k)
                    if ga.size > 0:
                        add(gb, k, gi_j * d)
                    store(g, row + j, gi_j)
                    store(gi, k, c * gv + load(decay_syn, j) * gi_j)
                else:
                    store(g, row + j, gv)
                if inhibition is not None:
                    store(g_inh, row + j, gw_j)
                    store(gw, k, load(inhibition.decay, j) * gw_j - c * gv)


@kernel
def scatter(  # type: ignore[no-untyped-def]
    words, values, starts, units, stride, offset, g, width, steps, lag, first, stop, gradient, gradient_bias
):
    """Add the gradient wrt a weight `[units, width]` and its bias, from the spikes of `lag` steps before.

    The spikes of a sample and step begin at the word `offset` of `stride`. `g` is the gradient wrt the input current,
    `[stop - first, steps, width]`.
    """
    lane, n_words = 64 // g.itemsize, (units + 63) >> 6
    rows, whole = np.empty(units, np.int32), width - width % (4 * lane)
    for s in range(first, stop):
        for t in range(lag, steps):
            at = s * steps + t - lag
            n = rows_of(words, at * stride + offset, n_words, width, rows, 0)
            start, row = starts[at] if values.size > 0 else 0, ((s - first) * steps + t) * width
            for j in range(0, whole, 4 * lane):
                _scatter(four, load4(g, row + j), gradient, rows, n, j, values, start)
            for j in range(whole, width, lane):
                _scatter(single, load(g, row + j), gradient, rows, n, j, values, start)
            if gradient_bias.size > 0:
                for j in range(0, width, lane):
                    add(gradient_bias, j, load(g, row + j))


@helper
def _scatter(take, g, gradient, rows, n, j, values, start):  # type: ignore[no-untyped-def]
    """Add `g` at `j` to the first n rows, times the values from `start` on if any."""
    if values.size > 0:
        for e in range(n):
            store(gradient, rows[e] + j, take(gradient, rows[e] + j) + g * values[start + e])
    else:
        for e in range(n):
            store(gradient, rows[e] + j, take(gradient, rows[e] + j) + g)
