"""The gradient of a weight that spikes pass, from bits.

All arrays are flat and laid out as in `cpu_shells.integrate`. The spikes of a population are bits, `[samples, steps,
words]` of 64 units each. The values of graded spikes follow in the order of the bits, those of one step from
`starts[sample, step]` on.
"""

import numpy as np

from fluctua.simd.compiling import kernel
from fluctua.simd.memory import load, load4, store
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
                four = load4(g, row + j)
                if graded:
                    for e in range(n):
                        store(gradient, rows[e] + j, load4(gradient, rows[e] + j) + four * values[start + e])
                else:
                    for e in range(n):
                        store(gradient, rows[e] + j, load4(gradient, rows[e] + j) + four)
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
