"""Events of a data set as the input of a `FusedSequential`: binned as a dense batch would be, and never made dense."""

from collections.abc import Sequence

from fluctua.lab.data.events import Events, binned
from fluctua.spikes.batch import SpikeBatch


def spike_batch(samples: Sequence[Events], *, n_units: int, dt: float, duration: float, pool: int = 1) -> SpikeBatch:
    """The spikes that `fluctua.lab.data.bin_events` lays out as a dense binary batch, as bits.

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
    shape, indices = binned(samples, n_units, dt, duration, pool)
    return SpikeBatch.from_indices(*indices, shape)
