"""The gradient of a weight that spikes pass, from bits; arrays are flat, laid out as in `cpu_shells.integrate`."""

import numpy as np

from fluctua.simd.compiling import kernel
from fluctua.simd.memory import load2, prefetch, store
from fluctua.simd.vectors import broadcast
from fluctua.spikes.bits import sample_rows

VECTORS = 2
"""Vectors side by side whose gradients lie together, so that this part of a weight stays in the cache."""


@kernel
def scatter(  # type: ignore[no-untyped-def]
    words, values, starts, units, split, g, second, width, steps, first, stop, lag, gradient, gradient_bias
):
    """Add the gradient wrt a weight `[width / n, units, n]` of n columns at a time, and its bias.

    The spikes are those `lag` steps before. `g` is the gradient wrt the input current `[steps, stop - first, width]`
    that the units before `split` reach; that of the others begins at `second`. Units before `split` may have no
    weights.
    """
    # Everything in one function: handing arrays to another costs as much as a sum over ten spikes.
    columns, n_words, samples = VECTORS * 64 // g.itemsize, (units + 63) >> 6, stop - first
    heard = gradient.size // width  # units with weights
    rows, ends = np.empty(0, np.int32), np.zeros(steps + 1, np.int32)
    for s in range(first, stop):
        rows = sample_rows(words, s * steps * n_words, n_words, steps, columns, rows, ends)
        start = starts[s * steps] if values.size > 0 else 0
        for j in range(0, width, columns):
            base = j * heard - (units - heard) * columns
            total = broadcast(0.0, load2(g, 0))
            for t in range(lag, steps):
                low, end = np.int64(ends[t - lag]), np.int64(ends[t - lag + 1])
                high = end
                while high > low and rows[high - 1] >= split * columns:
                    high -= 1
                if heard < units:
                    low = high
                row = (t * samples + s - first) * width + j
                # The next steps lie so far apart that the processor does not look for them by itself.
                prefetch(g, row + 4 * samples * width)
                prefetch(g, row + 4 * samples * width + columns // 2)
                own = load2(g, row)
                total = total + own
                while True:  # the units of the first port, then those of the second
                    if values.size > 0:
                        for e in range(low, high):
                            k = base + rows[e]
                            store(gradient, k, load2(gradient, k) + own * values[start + e])
                    else:
                        for e in range(low, high):
                            k = base + rows[e]
                            store(gradient, k, load2(gradient, k) + own)
                    if high == end:
                        break
                    low, high, own = high, end, load2(g, second + row)
            if gradient_bias.size > 0:
                store(gradient_bias, j, load2(gradient_bias, j) + total)
