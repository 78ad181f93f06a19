"""Laws of structured event arrays: whatever the order of fields and events, the same batch as from `Events`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from fluctua.lab.data import Events, StructuredEvents, bin_events, read_structured, structured_events
from fluctua.lab.data.structured import Recording
from fluctua.neurons import LI

SHAPE = (2, 3, 5)  # channels, rows, columns
ORDERS = st.permutations("xytp")


def recording(seed: int, n: int = 40, fields: str = "xytp", shape: tuple[int, int, int] = SHAPE) -> Recording:
    """Events of a camera in 100 ms; times in microseconds."""
    rng = np.random.default_rng(seed)
    kinds = {"x": "<i2", "y": "<u2", "t": "<i8", "p": "?"}
    limits = {"x": shape[2], "y": shape[1], "t": 100_000, "p": shape[0]}
    columns = {name: rng.integers(0, limits[name], n) for name in "xytp"}
    events = np.zeros(n, dtype=[(name, kinds[name]) for name in fields])
    for name in fields:
        events[name] = columns[name]
    return events


def dense(events: Events, n_units: int = 30) -> torch.Tensor:
    return bin_events([events], n_units=n_units, dt=1e-3, duration=0.1, binary=False)


@given(st.integers(0, 2**32 - 1), ORDERS, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_neither_the_order_of_fields_nor_that_of_events_matters(seed: int, order: list[str], random: Any) -> None:
    plain = recording(seed)
    places = list(range(len(plain)))
    random.shuffle(places)
    shuffled = recording(seed, fields="".join(order))[places]
    assert torch.equal(dense(structured_events(plain, SHAPE)), dense(structured_events(shuffled, SHAPE)))


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_an_event_is_at_its_channel_row_and_column_in_its_millisecond(seed: int) -> None:
    events = recording(seed)
    counts = np.zeros((100, *SHAPE))
    for event in events:
        counts[event["t"] // 1000, int(event["p"]), event["y"], event["x"]] += 1
    assert np.array_equal(dense(structured_events(events, SHAPE)).reshape(100, *SHAPE).numpy(), counts)


@pytest.mark.parametrize("shape", [(5,), (1, 1, 5)], ids=["row", "sensor_size[::-1]"])
@pytest.mark.parametrize("fields", ["xt", "tx", "txp"])
def test_a_row_of_channels_needs_no_rows_and_no_polarities(fields: str, shape: tuple[int, ...]) -> None:
    events = recording(0, fields=fields)
    ours = structured_events(events, shape)
    assert np.array_equal(ours.units, events["x"])
    np.testing.assert_allclose(ours.times, events["t"] * 1e-6, rtol=float(np.finfo(np.float32).eps))


def test_one_channel_does_not_tell_polarities_apart() -> None:
    units = structured_events(recording(0), (1, 3, 5)).units
    assert np.array_equal(units, structured_events(recording(0), SHAPE).units % 15)


def test_times_may_be_in_another_unit() -> None:
    seconds = recording(0, fields="xt").astype([("x", "<i8"), ("t", "<f8")])
    seconds["t"] *= 1e-6
    ours, theirs = structured_events(seconds, (5,), time_unit=1.0), structured_events(recording(0, fields="xt"), (5,))
    assert np.array_equal(ours.times, theirs.times)


class Camera(Dataset[tuple[Recording, int]]):
    """A data set of recordings whose channel is their class, as other libraries have; counts what it reads."""

    def __init__(self, n: int = 24) -> None:
        self.n, self.read = n, 0

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[Recording, int]:
        self.read += 1
        events = recording(i)
        events["p"] = i % 2
        return events, i % 2


class WithTargets(Camera):
    @property
    def targets(self) -> list[int]:
        return [i % 2 for i in range(self.n)]


@pytest.mark.parametrize("kind", [Camera, WithTargets])
def test_a_data_set_reads_a_sample_when_it_is_asked_for(kind: type[Camera]) -> None:
    theirs = kind()
    ours = StructuredEvents(theirs, SHAPE)
    assert theirs.read == (0 if kind is WithTargets else 24)
    assert (len(ours), ours.n_units, ours.n_classes, ours.labels.tolist()) == (24, 30, 2, [0, 1] * 12)
    events, label = ours[-1]
    assert label == 1
    assert torch.equal(dense(events), dense(structured_events(theirs[23][0], SHAPE)))


def pairs(batch: list[tuple[Recording, int]]) -> tuple[list[Recording], torch.Tensor]:
    recordings, labels = zip(*batch, strict=True)
    return list(recordings), torch.tensor(labels)


@pytest.mark.parametrize(
    "loader",
    [
        lambda data: (data[i] for i in range(len(data))),
        lambda data: DataLoader(data, batch_size=None, collate_fn=lambda sample: sample),
        lambda data: DataLoader(data, batch_size=5, collate_fn=list),
        lambda data: DataLoader(data, batch_size=2, collate_fn=list),
        lambda data: DataLoader(data, batch_size=5, collate_fn=pairs),
        lambda data: DataLoader(data, batch_size=2, collate_fn=pairs),
    ],
    ids=["iterable", "loader of samples", "lists", "lists of two", "columns", "columns of two"],
)
def test_every_loader_of_recordings_is_read_alike(loader: Callable[[Camera], Any]) -> None:
    arrays, wrapped = read_structured(loader(Camera()), SHAPE), StructuredEvents(Camera(), SHAPE)
    assert (arrays.labels.tolist(), arrays.n_units, arrays.n_classes) == (wrapped.labels.tolist(), 30, 2)
    for i in range(len(wrapped)):
        assert torch.equal(dense(arrays.events(i)), dense(wrapped.events(i)))


def test_a_network_learns_from_recordings(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    from fluctua.lab.data.module import SpikeDataModule
    from fluctua.lab.training.fit import TrainSettings, fit

    data = StructuredEvents(Camera(), SHAPE)
    module = SpikeDataModule(data, data, data, dt=5e-3, duration=0.1, batch_size=8, shape=data.shape)
    assert module.batch(4)[0].shape == (20, 4, *SHAPE)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(2), torch.nn.Linear(30, 2), LI(0.1, 10e-3, 5e-3))
    result = fit(model, module, out_dir=tmp_path, settings=TrainSettings(epochs=5, lr=0.05, optimizer="adam"))
    assert result.test["test"] == 1.0  # the class is the channel, which a linear readout can tell


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: structured_events(recording(0, fields="xt"), SHAPE), r"no field 'y', only \['x', 't'\]"),
        (lambda: structured_events(recording(0, fields="xyp"), SHAPE), "no field 't'"),
        (lambda: structured_events(np.zeros(3), SHAPE), r"no field 'x', only \[\]"),
        (lambda: structured_events(recording(0), (2, 3, 4)), r"x 4 is not in 0\.\.3: raise the shape"),
        (lambda: structured_events(recording(0), (2, 3)), r"shape=\(2, 3\) must be \(units,\) or"),
        (lambda: structured_events(recording(0), SHAPE, time_unit=0.0), "time_unit=0.0 must be positive"),
        (
            lambda: structured_events(recording(0, fields="xt").astype([("x", "<f8"), ("t", "<i8")]), (5,)),
            "integers, not float64",
        ),
        (lambda: read_structured([], SHAPE), "there is no sample"),
        (lambda: read_structured([(recording(0), 0), (np.zeros(3), 0)], SHAPE), "sample 1: the recording has no field"),
        (lambda: read_structured([(recording(0), 3)], SHAPE, n_classes=2), "label 3 is not in"),
        (lambda: StructuredEvents(Camera(), SHAPE, labels=[0]), "24 samples need as many labels, not 1"),
        (lambda: StructuredEvents(Camera(1), SHAPE, labels=[-1]), "label -1 is negative"),
        (lambda: read_structured([(recording(0), 2**70)], SHAPE), "the label 1180591620717411303424 is above 65535"),
        (lambda: read_structured([(recording(0), 0)], "x"), "shape='x' must be"),  # type: ignore[arg-type]
        (lambda: read_structured([(recording(0), 0)], (2, 3.5, 5)), r"shape=\(2, 3\.5, 5\) must be"),  # type: ignore[arg-type]
    ],
)
def test_refusals_name_what_is_wrong(refused: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refused()
