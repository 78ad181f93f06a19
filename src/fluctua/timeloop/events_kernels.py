"""The gradient of a weight that spikes pass, from bits; arrays are flat, laid out as in `cpu_shells.integrate`."""

import numpy as np

from fluctua.simd.compiling import helper, kernel
from fluctua.simd.memory import load, load4, store
from fluctua.spikes.bits import rows_of


@kernel
def scatter(  # type: ignore[no-untyped-def]
    words, values, starts, units, split, one, two, width, steps, first, stop, lag, gradient, gradient_bias
):
    """Add the gradient wrt a weight `[units, width]` and its bias, from the spikes `lag` steps before.

    `one` is the gradient wrt the input current `[steps, stop - first, width]` that the units before `split` reach,
    `two` that of the others; units before `split` may have no weights.
    """
    lane, n_words, samples = 64 // one.itemsize, (units + 63) >> 6, stop - first
    unheard = units * width - gradient.size  # if units before `split` have no weights
    rows = np.empty(units, np.int32)
    for s in range(first, stop):
        for t in range(lag, steps):
            at = s * steps + t - lag
            n = rows_of(words, at * n_words, n_words, width, rows, 0)
            begun, start = n, starts[at] if values.size > 0 else 0
            while begun > 0 and rows[begun - 1] >= split * width:
                begun -= 1
            row = (t * samples + s - first) * width
            if unheard > 0:
                for e in range(begun, n):
                    rows[e] -= unheard
            else:
                _add_to(gradient, rows, 0, begun, values, start, one, row, width)
            _add_to(gradient, rows, begun, n, values, start, two, row, width)
            if gradient_bias.size > 0:
                for j in range(0, width, lane):
                    store(gradient_bias, j, load(gradient_bias, j) + load(one, row + j))


@helper
def _add_to(gradient, rows, begin, end, values, start, g, row, width):  # type: ignore[no-untyped-def]
    """Add a row of `g`, times the value of each spike, to the row of the gradient of each of them."""
    lane, j = 64 // g.itemsize, 0
    if begin == end:
        return
    while j + 4 * lane <= width:
        four = load4(g, row + j)
        if values.size > 0:
            for e in range(begin, end):
                store(gradient, rows[e] + j, load4(gradient, rows[e] + j) + four * values[start + e])
        else:
            for e in range(begin, end):
                store(gradient, rows[e] + j, load4(gradient, rows[e] + j) + four)
        j += 4 * lane
    while j < width:
        g0 = load(g, row + j)
        for e in range(begin, end):
            k = rows[e] + j
            store(gradient, k, load(gradient, k) + (g0 * values[start + e] if values.size > 0 else g0))
        j += lane
