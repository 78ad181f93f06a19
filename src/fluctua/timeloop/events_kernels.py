"""The gradient of a weight that spikes pass, from bits.

All arrays are flat and laid out as in `cpu_shells.integrate`. The spikes of a population are bits, `[samples, steps,
words]` of 64 units each. The values of graded spikes follow in the order of the bits, those of one step from
`starts[sample, step]` on.
"""

import numpy as np

from fluctua.simd.compiling import kernel
from fluctua.simd.memory import load, store
from fluctua.spikes.bits import rows_of


@kernel
def scatter(  # type: ignore[no-untyped-def]
    words, values, starts, n_words, word, units, g, width, steps, lag, first, stop, gradient, gradient_bias
):
    """Add the gradient wrt a weight `[units, width]` and its bias, from the spikes of `lag` steps before.

    `g` is the gradient wrt the input current, `[stop - first, steps, width]`.
    """
    lane = 64 // g.itemsize
    graded = values.size > 0
    rows = np.empty(units, np.int32)
    for s in range(first, stop):
        for t in range(lag, steps):
            at = s * steps + t - lag
            n = rows_of(words, at * n_words + word, (units + 63) >> 6, width, rows, 0)
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
