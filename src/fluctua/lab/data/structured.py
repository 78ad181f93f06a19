"""Events of other libraries: NumPy arrays with the fields `x, y, t, p` in any order, as in tonic's data sets.

Only the fields matter; `y` and `p` may be missing. No other library is imported.
"""

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fluctua.lab.data.events import EventArrays, EventDataset, Events, check_range, whole

_MOST = 65_535  # largest label, as in the layout of SHD

Recording = NDArray[Any]
"""A structured array `[events]` with the fields `x`, `t` and, if there are rows and channels, `y` and `p`."""

MICROSECOND = 1e-6


class Recordings(Protocol):
    """An indexable data set whose items are `(recording, label)`."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> tuple[Recording, Any]: ...


def structured_events(recording: Recording, shape: Sequence[int], *, time_unit: float = MICROSECOND) -> Events:
    """Turn one structured array into `Events`.

    The unit of an event is `(p * rows + y) * columns + x`, so that `[T, B, N]` unflattens to `[T, B, *shape]`. If the
    shape has one channel, polarities are merged.

    Args:
        recording: with fields as in `Recording`, in any order; others are ignored.
        shape: `(channels, rows, columns)` for a camera or `(units,)` for a row; for a data set of tonic,
            `sensor_size[::-1]`.
        time_unit: seconds per unit of `t`; tonic counts microseconds.

    Raises:
        ValueError: a field is missing, does not hold integers, or has values that do not fit the shape; times that
            are negative or not finite; an impossible shape or time unit.
    """
    channels, rows, columns = _layout(shape)
    if not (math.isfinite(time_unit) and time_unit > 0):
        raise ValueError(f"time_unit={time_unit} must be positive and finite: pass the seconds per unit of t.")
    x = _field(recording, "x", columns)
    y = _field(recording, "y", rows) if rows > 1 else 0
    p = _field(recording, "p", channels) if channels > 1 else 0
    times = _named(recording, "t")
    if times.dtype.kind not in "iuf":
        raise ValueError(f"field 't' must hold numbers, not {times.dtype}: cast it.")
    seconds: NDArray[Any] = times.astype(np.float64) * time_unit
    return Events(seconds, (p * rows + y) * columns + x)


class StructuredEvents(EventDataset):
    """A data set of structured arrays, each turned into `Events` on demand, for `SpikeDataModule` and `fit`.

    Attributes:
        n_units: product of the shape.
        n_classes: number of classes.
        labels: int64 `[samples]`.
        shape: as given, for `SpikeDataModule(shape=...)`.
    """

    def __init__(
        self,
        dataset: Recordings,
        shape: Sequence[int],
        *,
        time_unit: float = MICROSECOND,
        labels: Sequence[int] | None = None,
    ) -> None:
        """Wrap a data set.

        Args:
            dataset: its items are `(recording, label)`.
            shape: as in `structured_events`.
            time_unit: as in `structured_events`.
            labels: of all samples, instead of those of the data set; default: its `targets` if it has as many,
                else every sample is read once.

        Raises:
            ValueError: labels that are negative, or not one for each sample.
        """
        self.dataset, self.shape, self.time_unit = dataset, tuple(shape), time_unit
        self.n_units = math.prod(_layout(shape))
        if labels is None:
            targets = getattr(dataset, "targets", ())
            every = range(len(dataset))
            labels = targets if len(targets) == len(every) else [_label(i, dataset[i][1]) for i in every]
        if len(labels) != len(dataset):
            raise ValueError(f"{len(dataset)} samples need as many labels, not {len(labels)}: pass one per sample.")
        self.labels = whole(labels, "labels")
        self.n_classes = _class_count(self.labels)

    def events(self, i: int) -> Events:
        """Return the events of sample `i`; errors as in `structured_events`, with the number of the sample."""
        i = range(len(self))[i]
        return _numbered(i, self.dataset[i][0], self.shape, self.time_unit)


def read_structured(
    samples: Iterable[Any], shape: Sequence[int], *, time_unit: float = MICROSECOND, n_classes: int | None = None
) -> EventArrays:
    """Read all samples of a DataLoader, or of any iterable, into memory.

    Args:
        samples: yields `(recording, label)`, or batches: lists of such pairs, as `DataLoader(..., collate_fn=list)`
            has, or `(recordings, labels)`.
        shape: as in `structured_events`.
        time_unit: as in `structured_events`.
        n_classes: default: one more than the largest label.

    Raises:
        ValueError: as in `structured_events`, with the number of the sample; or there is no sample.
    """
    pairs = [pair for item in samples for pair in _pairs(item)]
    if not pairs:
        raise ValueError("there is no sample to read: pass an iterable of (recording, label).")
    events = [_numbered(i, recording, shape, time_unit) for i, (recording, _) in enumerate(pairs)]
    labels = np.array([_label(i, label) for i, (_, label) in enumerate(pairs)], dtype=np.int64)
    return EventArrays.from_events(
        events,
        labels.tolist(),
        n_units=math.prod(_layout(shape)),
        n_classes=_class_count(labels) if n_classes is None else n_classes,
    )


def _pairs(item: Any) -> Iterator[tuple[Recording, Any]]:
    """The samples of an item: the item itself, or those of a batch."""
    first = item[0]
    if isinstance(first, np.ndarray):
        yield item
    elif isinstance(first, tuple | list) and len(first) == 2 and not isinstance(first[1], np.ndarray):
        yield from item
    else:
        recordings, labels = item
        yield from zip(recordings, labels, strict=True)


def _layout(shape: Sequence[int]) -> tuple[int, int, int]:
    """Channels, rows and columns."""
    whole = isinstance(shape, Sequence) and all(isinstance(n, Integral) and n >= 1 for n in shape)
    if not whole or len(shape) not in (1, 3):
        raise ValueError(f"shape={shape!r} must be (units,) or (channels, rows, columns), all at least 1: correct it")
    channels, rows, columns = shape if len(shape) == 3 else (1, 1, *shape)
    return channels, rows, columns


def _numbered(i: int, recording: Recording, shape: Sequence[int], time_unit: float) -> Events:
    try:
        return structured_events(recording, shape, time_unit=time_unit)
    except ValueError as error:
        raise ValueError(f"sample {i}: {error}") from None


def _label(i: int, label: Any) -> int:
    try:
        found = operator.index(label)
    except (TypeError, ValueError):
        raise ValueError(f"sample {i}: the label {label!r:.80} is not an integer: number the classes from 0.") from None
    if found > _MOST:
        raise ValueError(f"sample {i}: the label {label} is above {_MOST}: number the classes from 0.")
    return found


def _named(recording: Recording, name: str) -> NDArray[Any]:
    fields = getattr(getattr(recording, "dtype", None), "names", None) or ()
    if name not in fields:
        raise ValueError(f"the recording has no field {name!r}, only {list(fields)}: pass a structured array of x, t.")
    values: NDArray[Any] = recording[name]
    return values


def _field(recording: Recording, name: str, size: int) -> NDArray[np.int64]:
    values = _named(recording, name)
    if not (np.issubdtype(values.dtype, np.integer) or values.dtype == np.bool_):
        raise ValueError(f"field {name!r} must hold integers, not {values.dtype}: cast it.")
    places = values.astype(np.int64)
    check_range(places, size, name=name, limit="the shape")
    return places


def _class_count(labels: NDArray[np.int64]) -> int:
    if (least := int(labels.min(initial=0))) < 0:
        raise ValueError(f"label {least} is negative: number the classes from 0.")
    return int(labels.max(initial=-1)) + 1
