"""Events of a data set as the input of a `Chain`: binned as a dense batch would be, and never made dense."""

from collections.abc import Sequence

import numpy as np

from fluctua.data.events import _FLOAT32_EPS, Events, channel_count, check_range, step_count
from fluctua.timeloop.events import SpikeBatch


def spike_batch(samples: Sequence[Events], *, n_units: int, dt: float, duration: float, pool: int = 1) -> SpikeBatch:
    """The spikes that `fluctua.data.bin_events` lays out as a dense binary batch, as bits.

    Args:
        samples: one `Events` per row of the batch.
        n_units: number of units N before pooling.
        dt: time step, seconds.
        duration: length of the batch, seconds.
        pool: number of neighbouring units merged into one channel; the last channel may have fewer.

    Returns:
        Spikes of the shape `[T, B, ceil(N / pool)]`.

    Raises:
        ValueError: if there are no samples, a unit is not below `n_units`, or a setting is out of range.
    """
    if not samples:
        raise ValueError("samples is empty, a batch needs at least one: pass the Events of each sample.")
    shape = step_count(dt, duration), len(samples), channel_count(n_units, pool)
    times, units = (np.concatenate([getattr(sample, name) for sample in samples]) for name in ("times", "units"))
    row = np.repeat(np.arange(len(samples)), [len(sample) for sample in samples])
    check_range(units, n_units, name="unit", limit="n_units")
    step = times.astype(np.float64) * ((1 + _FLOAT32_EPS) / dt)
    inside = step < min(duration / dt, shape[0])
    return SpikeBatch.from_indices(step[inside].astype(np.int64), row[inside], units[inside] // pool, shape)
