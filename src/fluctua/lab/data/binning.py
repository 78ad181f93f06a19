"""From events to a batch `[T, B, N]`: dense, or as bits that are never made dense."""

import math
from collections.abc import Sequence
from numbers import Integral

import numpy as np
import torch
from numpy.typing import NDArray

from fluctua.lab.data.events import Events, check_range
from fluctua.spikes.batch import SpikeBatch
from fluctua.theory.psp import number

# A float32 time may lie half a unit in the last place below the number it stands for.
_FLOAT32_EPS = float(np.finfo(np.float32).eps)
_MOST = 10**7  # steps of a batch: one unit then takes 40 MB a sample
_FEW, _NEARLY_ALL = 20, 0.98  # events that tell no unit; share of them that is not there by chance


def binned(
    samples: Sequence[Events], n_units: int, dt: float, duration: float, pool: int
) -> tuple[tuple[int, int, int], tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Shape `[T, B, N]` of a batch, and step, row and channel of each of its events; arguments as in `bin_events`.

    Raises:
        ValueError: if there are no samples, a unit is not below `n_units`, or a setting is out of range.
    """
    n_steps, n_channels, n_samples = step_count(dt, duration), channel_count(n_units, pool), len(samples)
    if not samples:
        raise ValueError("samples is empty, a batch needs at least one: pass the Events of each sample.")
    times = np.concatenate([sample.times for sample in samples])
    units = np.concatenate([sample.units for sample in samples])
    row = np.repeat(np.arange(n_samples), [len(sample) for sample in samples])
    check_range(units, n_units, name="unit", limit="n_units")
    step = times.astype(np.float64) * ((1 + _FLOAT32_EPS) / dt)
    inside = step < min(duration / dt, n_steps)
    return (n_steps, n_samples, n_channels), (step[inside].astype(np.int64), row[inside], units[inside] // pool)


def bin_events(
    samples: Sequence[Events],
    *,
    n_units: int,
    dt: float,
    duration: float,
    binary: bool = True,
    pool: int = 1,
) -> torch.Tensor:
    """Lay events out as a dense batch.

    An event at time t falls into step `floor(t / dt)`. Times are float32, so one within a rounding error below a
    step's start belongs to that step: t = 0.006 at dt = 0.002 is in step 3. Events at `t >= duration` are dropped.

    Args:
        samples: one `Events` per row of the batch.
        n_units: number of units N before pooling.
        dt: time step, seconds.
        duration: length of the batch, seconds.
        binary: 1 for one or more events; if False, the number of events.
        pool: number of neighbouring units merged into one channel; the last channel may have fewer.

    Returns:
        float32 `[T, B, ceil(N / pool)]` with T as in `step_count`.

    Raises:
        ValueError: if there are no samples, a unit is not below `n_units`, or a setting is out of range.
    """
    (n_steps, n_samples, n_channels), (step, row, channel) = binned(samples, n_units, dt, duration, pool)
    index = torch.from_numpy((step * n_samples + row) * n_channels + channel)
    batch = torch.zeros(n_steps * n_samples * n_channels)
    if binary:
        batch[index] = 1.0
    else:
        batch.index_add_(0, index, torch.ones(len(index)))
    return batch.view(n_steps, n_samples, n_channels)


def spike_batch(samples: Sequence[Events], *, n_units: int, dt: float, duration: float, pool: int = 1) -> SpikeBatch:
    """The spikes that `bin_events` lays out as a dense binary batch, as bits.

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


def step_count(dt: float, duration: float) -> int:
    """Return the number of time steps that cover `duration`, the last of which may be partly beyond it.

    Args:
        dt: time step, seconds.
        duration: seconds, at least `dt`.
    """
    if not 0 < number(dt) < math.inf:
        raise ValueError(f"dt={dt!r} s must be positive and finite: pass the time step in seconds, such as dt=2e-3.")
    if not dt <= number(duration) < math.inf:
        raise ValueError(f"duration={duration!r} s must be finite and at least one time step, dt={dt} s: lengthen it.")
    if (steps := math.ceil(duration / dt * (1 - 1e-9))) > _MOST:  # 0.7 / 0.002 is 350, however it rounds
        raise ValueError(f"duration={duration:g} s has {steps} steps of dt={dt:g} s, more than {_MOST}: lengthen dt.")
    return steps


def check_times(times: NDArray[np.float32], dt: float, duration: float) -> None:
    """Refuse the times of some samples if they are plainly not in the unit of `dt` and `duration`.

    Raises:
        ValueError: if nearly all come too late, or all fall into the first of several time steps.
    """
    if len(times) < _FEW:
        return
    late, last = float(np.mean(times >= duration)), float(times.max())
    if late > _NEARLY_ALL or (last < dt and step_count(dt, duration) > 1):
        raise ValueError(
            f"{late:.0%} of the events of some training samples come at duration={duration:g} s or later, and the last "
            f"at {last:g} s with dt={dt:g} s: give all times in seconds, or change duration or dt."
        )


def channel_count(n_units: int, pool: int) -> int:
    """Return the number of channels that `n_units` units make, `pool` neighbours to a channel."""
    if not isinstance(n_units, Integral) or n_units < 1:
        raise ValueError(f"n_units={n_units!r} must be a whole number, at least 1: pass the number of input units.")
    if not isinstance(pool, Integral) or pool < 1:
        raise ValueError(
            f"pool={pool!r} must be a whole number, at least 1, which merges nothing: pass units per channel."
        )
    return math.ceil(n_units / pool)
