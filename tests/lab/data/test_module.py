"""The data module: its batches, its order, its test sets."""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from fluctua.lab.data import EventArrays, EventDataset, RandmanSettings, bin_events, make_randman

lightning = pytest.importorskip("lightning")
from fluctua.lab.data.module import SpikeDataModule  # noqa: E402
from fluctua.lab.data.order import EpochShuffle  # noqa: E402

TASK = RandmanSettings(n_classes=3, n_units=5, alpha=2.0, samples_per_class=20)
TRAIN, VAL, TEST = make_randman(TASK, seed=0)


def module(train: EventDataset = TRAIN, test: EventDataset = TEST, **options: Any) -> SpikeDataModule:
    return SpikeDataModule(train, VAL, test, **{"dt": 2e-3, "duration": 0.2, "batch_size": 10, **options})


def labels(loader: DataLoader[Any]) -> list[int]:
    return [label for _, y in loader for label in y.tolist()]


def test_batches_are_the_binned_samples() -> None:
    data = module(pool=2, binary=False)
    assert (data.n_units, data.n_classes, data.n_steps) == (3, 3, 100)
    loader = data.val_dataloader()
    assert labels(loader) == VAL.labels.tolist()
    x, y = next(iter(loader))
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    samples = [VAL.events(i) for i in range(len(y))]
    assert torch.equal(x, bin_events(samples, n_units=5, dt=2e-3, duration=0.2, binary=False, pool=2))


def test_an_epoch_holds_every_training_sample_once() -> None:
    assert sorted(labels(module().train_dataloader())) == sorted(TRAIN.labels.tolist())
    assert sorted(EpochShuffle(50, seed=1)) == list(range(50))


def test_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = EpochShuffle(50, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1, 2)}) == 6


class Recorder(lightning.LightningModule):  # type: ignore[misc, name-defined]
    """Learns nothing and writes down the labels it is shown, epoch by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []
        self.tested: dict[int, int] = {}

    def on_train_epoch_start(self) -> None:
        self.seen.append([])

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.seen[-1] += batch[1].tolist()
        return self.weight * batch[0].sum()

    def test_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.tested[dataloader_idx] = self.tested.get(dataloader_idx, 0) + len(batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.filterwarnings("ignore")
def test_lightning_shuffles_every_epoch_and_tests_every_set() -> None:
    data = module(seed=7, further_tests={"few": VAL})
    recorder = Recorder()
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(recorder, datamodule=data)
    for epoch, seen in enumerate(recorder.seen):
        sampler = EpochShuffle(len(TRAIN), seed=7)
        sampler.set_epoch(epoch)
        assert seen == TRAIN.labels[list(sampler)].tolist()
    trainer.test(recorder, datamodule=data, verbose=False)
    assert data.test_names == ("test", "few")
    assert recorder.tested == {0: len(TEST), 1: len(VAL)}


def test_one_test_set_is_one_loader() -> None:
    loader = module().test_dataloader()
    assert isinstance(loader, DataLoader)
    assert labels(loader) == TEST.labels.tolist()


def test_no_global_generator_is_touched() -> None:
    before = torch.get_rng_state()
    data = module()
    data.batch(5)
    labels(data.train_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("n", [1, 3, 7, 30, 48])
def test_batch_is_balanced_and_always_the_same(n: int) -> None:
    (x, y), (again, _) = module().batch(n), module().batch(n)
    assert x.shape == (100, n, 5)
    assert torch.equal(x, again)
    counts = torch.bincount(y, minlength=3)
    assert counts.max() - counts.min() <= 1


def test_batch_takes_all_it_can_of_a_rare_class() -> None:
    rare = EventArrays.from_events([TRAIN.events(i) for i in range(20)], [1] * 3 + [0] * 17, n_units=5, n_classes=2)
    _, y = module(train=rare).batch(10)
    assert torch.bincount(y).tolist() == [7, 3]


def test_workers_give_the_same_batches() -> None:
    alone, helped = module(num_workers=0), module(num_workers=2)
    for (x, y), (x2, y2) in zip(alone.train_dataloader(), helped.train_dataloader(), strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: module(further_tests={"val": VAL}), r"names \['val'\], which are taken"),
        (lambda: module(batch_size=0), "batch_size=0 must be at least 1"),
        (lambda: module(batch_size=1.5), "batch_size=1.5 must be at least 1"),
        (lambda: module(seed=1.5), "seed=1.5 whole"),
        (lambda: module(dt="a"), "dt='a' s must be positive"),
        (lambda: module(duration=None), "duration=None s must be finite"),
        (lambda: module(pool=0), "pool=0"),
        (lambda: module(dt=-1.0), "dt=-1.0"),
        (
            lambda: module(test=EventArrays.from_events([VAL.events(0)], [0], n_units=9, n_classes=3)),
            "test has 9 units and train 5",
        ),
        (lambda: module().batch(3, "nowhere"), "split 'nowhere' is unknown: choose one of"),
        (lambda: module().batch(49), r"n=49 is not in 1\.\.48"),
        (lambda: module().batch(0), "n=0 is not in"),
    ],
)
def test_refusals_name_value_and_limit(refused: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refused()


def test_missing_lightning_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.delitem(sys.modules, "fluctua.lab.data.module")
    with pytest.raises(ImportError, match=r'pip install "fluctua\[train\]"'):
        importlib.import_module("fluctua.lab.data.module")


# --- files in the layout of SHD ---


def write(path: Path, speakers: list[int]) -> Path:
    """One event per sample, at unit = sample; classes 0 and 1 in turn."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, dtype in (("times", np.float16), ("units", np.uint16)):
            rows = file.create_dataset(f"spikes/{name}", (len(speakers),), dtype=h5py.vlen_dtype(dtype))
            for i in range(len(speakers)):
                rows[i] = np.array([i if name == "units" else 0.1], dtype=dtype)
        file["labels"] = np.arange(len(speakers), dtype=np.uint8) % 2
        file["extra/speaker"] = np.array(speakers, dtype=np.uint8)
    return path


def samples_of(data: SpikeDataModule, split: str) -> set[int]:
    dataset = data.splits[split]
    return {int(dataset.events(i).units[0]) for i in range(len(dataset))}


def test_without_a_test_file_the_training_file_is_cut_in_three(tmp_path: Path) -> None:
    data = SpikeDataModule.from_shd_files(write(tmp_path / "train.h5", [0] * 40), val_fraction=0.2, test_fraction=0.1)
    parts = [samples_of(data, split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [28, 8, 4]
    assert set.union(*parts) == set(range(40))
    for name in ("train", "val", "test"):
        assert np.ptp(np.bincount(data.splits[name].labels)) == 0
    assert data.test_names == ("test",)


def test_speakers_never_heard_in_training_are_reported_apart(tmp_path: Path) -> None:
    train = write(tmp_path / "train.h5", [0, 1] * 10)
    mixed = write(tmp_path / "mixed.h5", [0, 2, 1, 2, 3])
    data = SpikeDataModule.from_shd_files(train, mixed)
    assert data.test_names == ("test", "known speakers", "unheard speakers")
    assert samples_of(data, "known speakers") == {0, 2}
    assert samples_of(data, "unheard speakers") == {1, 3, 4}
    assert len(data.splits["train"]) + len(data.splits["val"]) == 20

    known = SpikeDataModule.from_shd_files(train, write(tmp_path / "known.h5", [1, 0]))
    assert known.test_names == ("test",)
    unknown = SpikeDataModule.from_shd_files(train, write(tmp_path / "unknown.h5", [5, 5]))
    assert unknown.test_names == ("test", "unheard speakers")


def test_shares_beyond_the_whole_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        SpikeDataModule.from_shd_files(write(tmp_path / "train.h5", [0] * 4), val_fraction=1.2)


def test_real_recordings() -> None:
    folder = os.environ.get("FLUCTUA_DATA")
    if not folder:
        pytest.skip("FLUCTUA_DATA is not set to the folder of fsdd_train.h5 and fsdd_test.h5")
    data = SpikeDataModule.from_shd_files(Path(folder) / "fsdd_train.h5", Path(folder) / "fsdd_test.h5", pool=10)
    sizes = {name: len(dataset) for name, dataset in data.splits.items()}
    assert sizes == {"train": 1620, "val": 180, "test": 700, "known speakers": 200, "unheard speakers": 500}
    x, y = data.batch(20)
    assert x.shape == (350, 20, 70)
    assert torch.bincount(y).tolist() == [2] * 10
