"""Laws of the learning rate's schedules, by themselves and in `fit`."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

pytest.importorskip("lightning")

import lightning

from fluctua.lab.training.fit import TrainSettings, fit
from fluctua.lab.training.folder import load_checkpoint
from fluctua.lab.training.module import SpikingClassifier
from fluctua.lab.training.schedules import SCHEDULES, Schedule

STEPS = 3  # of an epoch
SETTINGS = TrainSettings(epochs=4, lr=0.05, optimizer="adam", schedule="cosine", warmup=1.5, seed=3, progress=False)


# --- by themselves ---


def test_a_cosine_falls_from_all_to_nothing_and_is_odd_about_its_middle() -> None:
    cosine = Schedule("cosine", epochs=10)
    assert [cosine.factor(t) for t in (0, 5, 10)] == pytest.approx([1.0, 0.5, 0.0])
    for t in (0.5, 2.0, 4.9):
        assert cosine.factor(t) + cosine.factor(10 - t) == pytest.approx(1.0)
        assert cosine.factor(t) == pytest.approx(math.cos(math.pi * t / 20) ** 2)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_warm_up_rises_in_proportion_to_time_and_the_rest_has_the_epochs_that_are_left(name: str) -> None:
    warm, cold = Schedule(name, epochs=10, warmup=2.5), Schedule(name, epochs=7 if name == "constant" else 15)
    assert [warm.factor(t) for t in (0, 1, 2.5)] == pytest.approx([0.0, 0.4, 1.0])
    assert [warm.factor(2.5 + t / 2) for t in range(16)] == pytest.approx([cold.factor(t) for t in range(16)])


def test_it_stays_at_the_end_where_training_goes_on() -> None:
    assert Schedule("cosine", epochs=2).factor(3) == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": "linear"}, "schedule 'linear' is unknown: choose one of constant, cosine"),
        ({"warmup": 4.0}, "a warm-up of 4 epochs must be 0 or more and less than all 4: shorten it"),
        ({"warmup": -1.0}, "a warm-up of -1 epochs"),
    ],
    ids=["unknown", "too long", "negative"],
)
def test_what_makes_no_schedule_is_refused_before_training(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **change)


# --- in training ---


class Killed(BaseException):
    """Stands for anything that ends a process in the middle."""


class Data(lightning.LightningDataModule):
    """24 samples of three classes, in three steps an epoch; `at` is told how many were made so far."""

    def __init__(self, at: Callable[[int], None] = lambda made: None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.x, self.y = torch.randn(24, 5, 6, generator=generator), torch.arange(24) % 3
        self.at, self.made = at, 0

    def _collate(self, samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        self.at(self.made)
        self.made += 1
        x, y = (torch.stack(column) for column in zip(*samples, strict=True))
        return x.transpose(0, 1), y

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(self.x, self.y), batch_size=8, shuffle=True, collate_fn=self._collate)


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 3))


def last_weights(folder: Path) -> dict[str, Tensor]:
    return dict(load_checkpoint(folder / "last.ckpt")["state_dict"])


@pytest.fixture
def lrs(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rate of every step that is taken."""
    taken: list[float] = []
    step = SpikingClassifier.optimizer_step

    def spy(self: SpikingClassifier, *args: Any, **kwargs: Any) -> None:
        taken.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        step(self, *args, **kwargs)

    monkeypatch.setattr(SpikingClassifier, "optimizer_step", spy)
    return taken


def test_each_step_has_the_learning_rate_of_its_middle(lrs: list[float], tmp_path: Path) -> None:
    fit(model(), Data(), out_dir=tmp_path, settings=SETTINGS)
    schedule = Schedule("cosine", epochs=4, warmup=1.5)
    assert lrs == pytest.approx([0.05 * schedule.factor((k + 0.5) / STEPS) for k in range(4 * STEPS)])


def test_a_constant_learning_rate_is_skipped_because(lrs: list[float], tmp_path: Path) -> None:
    fit(model(), Data(), out_dir=tmp_path, settings=replace(SETTINGS, schedule="constant", warmup=0.0))
    assert lrs == [0.05] * 4 * STEPS


def test_without_a_known_length_an_epoch_has_one_learning_rate(lrs: list[float], tmp_path: Path) -> None:
    class Endless(Data):
        def train_dataloader(self) -> DataLoader[Any]:
            samples = list(zip(self.x, self.y, strict=True))

            class Stream(IterableDataset[tuple[Tensor, Tensor]]):
                def __iter__(self) -> Any:
                    return iter(samples)

            return DataLoader(Stream(), batch_size=8, collate_fn=self._collate)

    fit(model(), Endless(), out_dir=tmp_path, settings=SETTINGS)
    schedule = Schedule("cosine", epochs=4, warmup=1.5)
    assert lrs == pytest.approx([0.05 * schedule.factor(epoch + 0.5) for epoch in range(4) for _ in range(STEPS)])


@pytest.mark.parametrize("kill_at", [4, 6, 9])
def test_a_schedule_that_was_killed_and_resumed_ends_with_the_same_weights(tmp_path: Path, kill_at: int) -> None:
    def kill(made: int) -> None:
        if made == kill_at:
            raise Killed

    fit(model(), Data(), out_dir=tmp_path / "whole", settings=SETTINGS)
    with pytest.raises(Killed):
        fit(model(), Data(kill), out_dir=tmp_path / "killed", settings=SETTINGS)
    fit(model(seed=1), Data(), out_dir=tmp_path / "killed", settings=SETTINGS, resume=True)
    whole, resumed = (last_weights(tmp_path / name) for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_run_whose_learning_rate_falls_cannot_be_made_longer(tmp_path: Path) -> None:
    fit(model(), Data(), out_dir=tmp_path, settings=SETTINGS)
    with pytest.raises(ValueError, match="was trained with epochs 4, not 6: resume it"):
        fit(model(), Data(), out_dir=tmp_path, settings=replace(SETTINGS, epochs=6), resume=True)
    with pytest.raises(ValueError, match=r"was trained with schedule cosine, not constant and warmup 1\.5, not 0\.0"):
        fit(model(), Data(), out_dir=tmp_path, settings=replace(SETTINGS, schedule="constant", warmup=0.0), resume=True)
