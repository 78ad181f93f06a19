"""A small run of training and a small store, for processes that are killed while they write."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fluctua.lab.data.events import EventArrays, Events
from fluctua.lab.data.module import SpikeDataModule
from fluctua.lab.sweeps.store import Store
from fluctua.lab.sweeps.study import Record
from fluctua.lab.training.fit import TrainSettings, fit
from fluctua.neurons.current_based import CurrentBased

SETTINGS = TrainSettings(epochs=6, lr=0.05, optimizer="adam", schedule="cosine", seed=3, progress=False)
N, C = 12, 3


def samples(n: int, seed: int) -> EventArrays:
    """Each class has its own third of the units."""
    rng = np.random.default_rng(seed)
    labels = [k % C for k in range(n)]
    events = [
        Events(rng.uniform(0, 0.02, 20).astype(np.float32), rng.integers(0, N // C, 20) + N // C * label)
        for label in labels
    ]
    return EventArrays.from_events(events, labels, n_units=N, n_classes=C)


def data(seed: int = 0) -> SpikeDataModule:
    parts = (samples(n, seed + k) for k, n in enumerate((48, 12, 12)))
    return SpikeDataModule(*parts, dt=2e-3, duration=0.02, batch_size=16, seed=1)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    spikes = CurrentBased(0.0, 1.0, dt=2e-3, threshold=1e-6)
    return nn.Sequential(nn.Linear(N, 16), spikes, nn.Dropout(0.3), nn.Linear(16, C))


def train(folder: Path, at: int | None = None) -> None:
    """Begin the run in a folder, or go on with it; killed at the so-manieth call that changes what is on the disk."""
    torch.set_num_threads(1)
    if at is not None:
        kill_at(at)
    fit(network(), data(), out_dir=folder, settings=SETTINGS, resume=True)


def kill_at(number: int) -> None:
    """End this process at a call of `fsync` or `replace`: an odd number before, an even one after it."""
    calls = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def killing(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 2
            if calls - 1 == number:
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*arguments, **options)
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return killing

    os.fsync, os.replace = counted(os.fsync), counted(os.replace)


def record(i: int) -> Record:
    return Record(f"x={i}", {"x": i}, 0, {"score": i / 7}, {"line": [float(i)] * 50})


def write_records(folder: Path, told: Path, synced: bool = True) -> None:
    """Save one record after the other, each a new file, and note in another file system, by a dot, that it is."""
    if not synced:
        os.fsync = lambda descriptor: None  # type: ignore[assignment]
    store = Store(folder)
    with told.open("ab", buffering=0) as file:
        store.open({})
        for i in range(100_000):
            store.save(record(i))
            file.write(b".")
            time.sleep(0.01)


def quietly(target: Callable[..., None], *arguments: Any) -> None:
    """Do it without a word of what goes wrong."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        target(*arguments)
