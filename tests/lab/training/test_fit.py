import csv
import dataclasses
import json
import logging
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("lightning")

import lightning
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar, timer

import fluctua
from fluctua.explain.monitor import FILE, read_rows
from fluctua.homeostasis import ActivityBound
from fluctua.lab.training.fit import FitResult, TrainingDiverged, TrainingInterrupted, TrainSettings, fit, progress_bar
from fluctua.lab.training.folder import load_checkpoint, save_checkpoint
from fluctua.lab.training.module import SpikingClassifier
from fluctua.layers import Recurrent
from fluctua.network import Network
from fluctua.neurons.current_based import CurrentBased

T, N, C = 5, 6, 3
SETTINGS = TrainSettings(epochs=4, lr=0.05, optimizer="adam", seed=3, progress=False)


def firing() -> CurrentBased:
    """Spikes where the current is positive."""
    return CurrentBased(0.0, 1.0, dt=2e-3, threshold=1e-6)


def network(seed: int = 0, *, dropout: float = 0.3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(N, 8), firing(), nn.Dropout(dropout), nn.Linear(8, C))


class TinyData(lightning.LightningDataModule):
    """50 samples, the last batch odd, shuffled by the global generator; calls `at(epoch, batch)` for every batch."""

    def __init__(self, at: Callable[[int, int], None] = lambda epoch, batch: None, *, poison: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters({"anything": Path("a path is no plain type")})
        self.epochs_told: list[int] = []
        self.orders: list[list[int]] = []
        self.at = at
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(50, T, N, generator=generator) * (float("nan") if poison else 1.0)
        self.y = (self.x.mean(1)[:, :C] + 0.1 * torch.randn(50, C, generator=generator)).argmax(1)

    def set_epoch(self, epoch: int) -> None:
        self.epochs_told.append(epoch)
        self.orders.append([])

    def loader(self, part: slice, *, train: bool = False) -> DataLoader[Any]:
        samples = TensorDataset(self.x[part], self.y[part], torch.arange(50)[part])

        def collate(batch: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
            x, y, index = (torch.stack(column) for column in zip(*batch, strict=True))
            if train:
                self.at(self.epochs_told[-1], len(self.orders[-1]) // 8)
                self.orders[-1].extend(index.tolist())
                x = x + 0.01 * torch.rand(()) + 0.01 * random.random() + 0.01 * np.random.rand()  # noqa: NPY002
            return x.transpose(0, 1), y

        return DataLoader(samples, batch_size=8, shuffle=train, collate_fn=collate)

    def train_dataloader(self) -> DataLoader[Any]:
        return self.loader(slice(0, 30), train=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.loader(slice(30, 41))

    def test_dataloader(self) -> DataLoader[Any]:
        return self.loader(slice(41, 50))


class Killed(BaseException):
    """Stands for anything that ends a process in the middle."""


def killer(epoch: int, batch: int, error: type[BaseException] = Killed) -> Callable[[int, int], None]:
    def at(now: int, here: int) -> None:
        if (now, here) == (epoch, batch):
            raise error

    return at


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def last_weights(folder: Path) -> dict[str, Tensor]:
    return dict(load_checkpoint(folder / "last.ckpt")["state_dict"])


def accuracy(model: nn.Module, data: TinyData, part: slice) -> float:
    with torch.no_grad():
        output = model(data.x[part].transpose(0, 1))
    return float((output.max(0).values.argmax(1) == data.y[part]).float().mean())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[FitResult, nn.Module, TinyData]:
    """An uninterrupted run of four epochs."""
    model, data = network(), TinyData()
    return fit(model, data, out_dir=tmp_path_factory.mktemp("whole"), settings=SETTINGS), model, data


# --- what a run leaves behind ---


def test_every_epoch_has_one_tidy_row(whole: tuple[FitResult, nn.Module, TinyData]) -> None:
    result, _, _ = whole
    table = rows(result.out_dir)
    assert [row["epoch"] for row in table] == ["1", "2", "3", "4"]
    assert {"train_loss", "train_accuracy", "val_loss", "val_accuracy", "rate_1"} <= table[0].keys()
    assert [{key: float(value) for key, value in row.items()} for row in table] == result.history


def test_the_model_comes_back_with_its_best_weights(whole: tuple[FitResult, nn.Module, TinyData]) -> None:
    result, model, data = whole
    best = result.history[result.best_epoch - 1]["val_accuracy"]
    assert best == max(row["val_accuracy"] for row in result.history)
    assert accuracy(model, data, slice(30, 41)) == pytest.approx(best)
    assert not model.training
    from safetensors.torch import load_file

    saved = load_file(result.out_dir / "model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())


def test_accuracy_is_weighted_by_samples(whole: tuple[FitResult, nn.Module, TinyData]) -> None:
    result, model, data = whole  # the last test batch has one sample of nine
    assert result.test == {"test": pytest.approx(accuracy(model, data, slice(41, 50)))}
    facts = json.loads((result.out_dir / "result.json").read_text())
    assert facts["test"] == result.test
    assert facts["best_epoch"] == result.best_epoch
    assert facts["settings"]["lr"] == 0.05


def test_loss_and_rate_are_those_of_the_whole_set(tmp_path: Path) -> None:
    model, data = network(), TinyData()
    result = fit(model, data, out_dir=tmp_path, settings=dataclasses.replace(SETTINGS, epochs=1))
    x, y = data.x[30:41].transpose(0, 1), data.y[30:41]
    with torch.no_grad():
        loss = SpikingClassifier(model).loss(model(x), y).item()
    assert result.history[0]["val_loss"] == pytest.approx(loss, rel=1e-5)
    rate = Network.of(model, x).spikes()["1"].mean().item() / 2e-3
    assert result.history[0]["rate_1"] == pytest.approx(rate, rel=1e-5)


def test_the_order_of_samples_differs_between_epochs(whole: tuple[FitResult, nn.Module, TinyData]) -> None:
    _, _, data = whole
    assert data.epochs_told == [0, 1, 2, 3]
    assert len({tuple(order) for order in data.orders}) == 4
    assert all(sorted(order) == list(range(30)) for order in data.orders)


def test_several_test_sets_have_names(tmp_path: Path) -> None:
    class TwoTests(TinyData):
        test_names = ("seen", "unseen")

        def test_dataloader(self) -> Any:
            return [self.loader(slice(41, 50)), self.loader(slice(0, 11))]

    model, data = network(), TwoTests()
    result = fit(model, data, out_dir=tmp_path, settings=dataclasses.replace(SETTINGS, epochs=1))
    by_hand = {"seen": accuracy(model, data, slice(41, 50)), "unseen": accuracy(model, data, slice(0, 11))}
    assert result.test == pytest.approx(by_hand)


# --- resuming ---


@pytest.mark.parametrize(("epoch", "batch"), [(1, 0), (2, 2)])
def test_killed_and_resumed_is_uninterrupted(
    whole: tuple[FitResult, nn.Module, TinyData], tmp_path: Path, epoch: int, batch: int
) -> None:
    result, model, data = whole
    with pytest.raises(Killed):
        fit(network(), TinyData(killer(epoch, batch)), out_dir=tmp_path, settings=SETTINGS)
    assert [row["epoch"] for row in rows(tmp_path)] == [str(i + 1) for i in range(epoch)]
    assert (tmp_path / "model.safetensors").exists()

    again, resumed = TinyData(), network(seed=1)
    after = fit(resumed, again, out_dir=tmp_path, settings=SETTINGS, resume=True)
    assert again.orders == data.orders[epoch:]
    assert (after.history, after.test, after.best_epoch) == (result.history, result.test, result.best_epoch)
    assert rows(tmp_path) == rows(result.out_dir)
    for ours, theirs in (
        (resumed.state_dict(), model.state_dict()),
        (last_weights(tmp_path), last_weights(result.out_dir)),
    ):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_more_epochs_go_on_where_fewer_ended(whole: tuple[FitResult, nn.Module, TinyData], tmp_path: Path) -> None:
    result, _, _ = whole
    few = dataclasses.replace(SETTINGS, epochs=2)
    fit(network(), TinyData(), out_dir=tmp_path, settings=few)
    (tmp_path / "metrics.csv").unlink()  # as a kill between checkpoint and table would leave it
    after = fit(network(seed=1), TinyData(), out_dir=tmp_path, settings=SETTINGS, resume=True)
    assert after.history == result.history
    assert rows(tmp_path) == rows(result.out_dir)
    done = fit(network(seed=1), data := TinyData(), out_dir=tmp_path, settings=few, resume=True)
    assert data.orders == []  # nothing left to train
    assert (done.history, done.test) == (after.history, after.test)


def test_resuming_nothing_begins(whole: tuple[FitResult, nn.Module, TinyData], tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, epochs=1)
    assert fit(network(), TinyData(), out_dir=tmp_path, settings=settings, resume=True).history == whole[0].history[:1]


def test_a_run_is_neither_overwritten_nor_mixed(whole: tuple[FitResult, nn.Module, TinyData]) -> None:
    folder = whole[0].out_dir
    with pytest.raises(FileExistsError, match="resume=True"):
        fit(network(), TinyData(), out_dir=folder, settings=SETTINGS)
    with pytest.raises(
        ValueError, match=r"was trained with lr 0.05, not 1.0 and seed 3, not 9: resume it with the same"
    ):
        fit(network(), TinyData(), out_dir=folder, resume=True, settings=dataclasses.replace(SETTINGS, lr=1.0, seed=9))
    with pytest.raises(ValueError, match="another model"):
        fit(nn.Linear(N, C), TinyData(), out_dir=folder, settings=SETTINGS, resume=True)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="damaged"):
        fit(network(), TinyData(), out_dir=tmp_path, settings=SETTINGS, resume=True)


def test_a_run_of_another_version_is_not_gone_on_with(tmp_path: Path) -> None:
    fit(network(), TinyData(), out_dir=tmp_path, settings=dataclasses.replace(SETTINGS, epochs=1))
    checkpoint = load_checkpoint(tmp_path / "last.ckpt")
    del checkpoint["fluctua"]["format"]
    save_checkpoint(checkpoint, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="another version of fluctua: choose another out_dir"):
        fit(network(), TinyData(), out_dir=tmp_path, settings=SETTINGS, resume=True)
    torch.save(checkpoint, tmp_path / "last.ckpt")  # as fluctua 0.1 did
    with pytest.raises(ValueError, match="damaged, or from another version of fluctua"):
        fit(network(), TinyData(), out_dir=tmp_path, settings=SETTINGS, resume=True)


def test_a_run_that_was_moved_keeps_its_best_weights(
    whole: tuple[FitResult, nn.Module, TinyData], tmp_path: Path
) -> None:
    result, model, _ = whole
    fit(network(), TinyData(), out_dir=tmp_path / "a", settings=dataclasses.replace(SETTINGS, epochs=3))
    (tmp_path / "a").rename(tmp_path / "b")
    after = fit(moved := network(seed=1), TinyData(), out_dir=tmp_path / "b", settings=SETTINGS, resume=True)
    assert after.history == result.history
    assert all(torch.equal(moved.state_dict()[name], value) for name, value in model.state_dict().items())


def test_optimiser_and_schedule_are_resumed_to_the_bit(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, schedule="cosine", optimizer_options={"weight_decay": 0.1})
    fit(network(), TinyData(), out_dir=tmp_path / "whole", settings=settings)
    with pytest.raises(Killed):
        fit(network(), TinyData(killer(2, 1)), out_dir=tmp_path / "killed", settings=settings)
    fit(network(seed=1), TinyData(), out_dir=tmp_path / "killed", settings=settings, resume=True)
    ours, theirs = (load_checkpoint(tmp_path / name / "last.ckpt") for name in ("killed", "whole"))
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=0)


def test_patience_may_be_asked_for_when_a_run_is_resumed(tmp_path: Path) -> None:
    idle = dataclasses.replace(SETTINGS, epochs=3, lr=1e-12)
    fit(network(), TinyData(), out_dir=tmp_path, settings=idle)
    settings = dataclasses.replace(idle, epochs=50, patience=2)
    fit(network(), data := TinyData(), out_dir=tmp_path, settings=settings, resume=True)
    assert data.orders == []  # two epochs without a better one are behind it


def test_without_validation_the_last_epoch_counts(tmp_path: Path) -> None:
    class NoValidation(TinyData):
        def val_dataloader(self) -> Any:
            return []

    result = fit(model := network(), NoValidation(), out_dir=tmp_path, settings=SETTINGS)
    assert result.best_epoch == 4
    assert all(
        torch.equal(last_weights(tmp_path)[f"model.{name}"], value) for name, value in model.state_dict().items()
    )


def test_a_checkpoint_is_data_and_never_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "executed",)

    save_checkpoint({"fluctua": Evil()}, tmp_path / "last.ckpt")  # with the right checksum
    with pytest.raises(ValueError, match="damaged"):
        fit(network(), TinyData(), out_dir=tmp_path, settings=SETTINGS, resume=True)
    assert not (tmp_path / "executed").exists()


# --- stopping ---


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingInterrupted, match="2 of 4 epochs finished: pass resume=True"):
        fit(network(), TinyData(killer(2, 1, KeyboardInterrupt)), out_dir=tmp_path, settings=SETTINGS)
    assert signal.getsignal(signal.SIGINT) is before
    assert len(rows(tmp_path)) == 2


def test_sigterm_keeps_what_is_finished_as_ctrl_c_does(tmp_path: Path) -> None:
    def end(epoch: int, batch: int) -> None:
        if (epoch, batch) == (2, 1):
            os.kill(os.getpid(), signal.SIGTERM)  # as a cluster does

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingInterrupted, match="2 of 4 epochs finished: pass resume=True"):
        fit(network(), TinyData(end), out_dir=tmp_path, settings=SETTINGS)
    assert signal.getsignal(signal.SIGTERM) is before
    assert len(rows(tmp_path)) == 2


def test_a_nan_loss_stops_at_once(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=r"epoch 1, step 1 \(loss nan\): try a smaller lr than 0.05"):
        fit(nn.Linear(N, C), TinyData(poison=True), out_dir=tmp_path, settings=SETTINGS)
    assert not (tmp_path / "last.ckpt").exists()


def test_nan_weights_behind_silent_neurons_stop_too(tmp_path: Path) -> None:
    model = network()

    def poison(epoch: int, batch: int) -> None:
        if (epoch, batch) == (1, 2):
            nn.init.constant_(next(model.parameters()), float("nan"))

    data = TinyData(poison)
    with pytest.raises(TrainingDiverged, match=r"epoch 2, step 7"):
        fit(model, data, out_dir=tmp_path, settings=SETTINGS)
    assert len(rows(tmp_path)) == 1
    assert all(value.isfinite().all() for value in last_weights(tmp_path).values())


def test_an_unwritable_folder_is_named_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    data = TinyData()
    with pytest.raises(OSError, match=r"cannot write to .*: choose another out_dir"):
        fit(network(), data, out_dir=tmp_path / "file" / "run", settings=SETTINGS)
    assert data.orders == []


def test_patience_ends_a_run_that_learns_no_more(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, epochs=50, lr=1e-12, patience=2)
    result = fit(network(), TinyData(), out_dir=tmp_path, settings=settings)
    assert (result.best_epoch, len(result.history)) == (1, 3)
    data = TinyData()
    fit(network(), data, out_dir=tmp_path, settings=settings, resume=True)
    assert data.orders == []


class Clock:
    """Stands still except where told: four batches an epoch, a minute each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(timer, "time", SimpleNamespace(monotonic=lambda: self.now))

    def tick(self, epoch: int, batch: int) -> None:
        self.now += 60.0


@pytest.mark.parametrize(("minutes", "epochs"), [(100.0, 4), (13.0, 3), (7.0, 1)])
def test_no_epoch_begins_that_would_outlast_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: float, epochs: int
) -> None:
    data, settings = TinyData(Clock(monkeypatch).tick), dataclasses.replace(SETTINGS, max_minutes=minutes)
    result = fit(network(), data, out_dir=tmp_path, settings=settings)
    assert [len(order) for order in data.orders] == [30] * epochs
    assert result.seconds == epochs * 4 * 60.0


def test_a_first_epoch_that_outlasts_the_limit_is_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, settings = TinyData(Clock(monkeypatch).tick), dataclasses.replace(SETTINGS, max_minutes=1.5)
    result = fit(network(), data, out_dir=tmp_path, settings=settings)
    assert [len(order) for order in data.orders] == [16]
    assert "val_accuracy" in result.history[0]


def test_seconds_add_up_over_resumptions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    fit(network(), TinyData(clock.tick), out_dir=tmp_path, settings=dataclasses.replace(SETTINGS, epochs=1))
    clock.now += 1e6
    after = fit(network(), TinyData(clock.tick), out_dir=tmp_path, settings=SETTINGS, resume=True)
    assert after.seconds == 4 * 4 * 60.0


# --- regularisers ---


def test_penalties_act_and_are_logged_apart(tmp_path: Path) -> None:
    bound = ActivityBound("upper", threshold=0.0, strength=10.0, per="population")
    plain, bounded = (
        fit(
            network(),
            TinyData(),
            out_dir=tmp_path / str(len(bounds)),
            settings=dataclasses.replace(SETTINGS, regularizers=bounds),
        )
        for bounds in ((), (bound,))
    )
    assert plain.history[0]["train_penalty"] == 0.0
    assert bounded.history[0]["train_penalty"] > 0.0
    assert bounded.history[-1]["rate_1"] < plain.history[-1]["rate_1"]
    assert bounded.history[0]["val_loss"] == pytest.approx(plain.history[0]["val_loss"], rel=0.5)  # the task's alone


class Values(TinyData):
    """What is wanted is two numbers of each sample, or of each step."""

    def __init__(self, *, every_step: bool = False) -> None:
        super().__init__()
        course = self.x[..., :2].cumsum(1) / 5
        self.y = course if every_step else course[:, -1]
        self.every_step = every_step

    def loader(self, part: slice, *, train: bool = False) -> DataLoader[Any]:
        samples = TensorDataset(self.x[part], self.y[part])

        def collate(batch: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
            x, y = (torch.stack(column) for column in zip(*batch, strict=True))
            return x.transpose(0, 1), y.transpose(0, 1) if self.every_step else y

        return DataLoader(samples, batch_size=8, shuffle=train, collate_fn=collate)


def regressor() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(N, 16), firing(), nn.Linear(16, 2))


@pytest.mark.parametrize(("loss", "every_step"), [("mse_last_step", False), ("mse_every_step", True)])
def test_values_are_learned_from_end_to_end(tmp_path: Path, loss: str, every_step: bool) -> None:
    model, data = regressor(), Values(every_step=every_step)
    settings = dataclasses.replace(SETTINGS, epochs=12, loss=loss, lr=0.02)
    result = fit(model, data, out_dir=tmp_path, settings=settings)
    assert not [name for name in result.history[0] if name.endswith("accuracy")]
    errors = [row["val_loss"] for row in result.history]
    assert result.best_epoch == 1 + errors.index(min(errors))
    assert min(errors) < 0.7 * errors[0]
    squares, n = 0.0, 0
    with torch.no_grad():
        for x, y in data.test_dataloader():
            output = model(x)
            squares += float((output - y if every_step else output[-1] - y).square().mean()) * x.shape[1]
            n += x.shape[1]
    assert result.test == {"test": pytest.approx(squares / n, rel=1e-5)}


def test_patience_with_values_waits_for_the_error(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, epochs=30, loss="mse_last_step", lr=10.0, patience=2)
    result = fit(regressor(), Values(), out_dir=tmp_path, settings=settings)
    assert len(result.history) == result.best_epoch + 2 < 30


def test_classes_can_be_learned_by_their_squared_error(tmp_path: Path) -> None:
    result = fit(network(), TinyData(), out_dir=tmp_path, settings=dataclasses.replace(SETTINGS, loss="mse_every_step"))
    assert all(0 <= row["val_accuracy"] <= 1 for row in result.history)
    assert 0 <= result.test["test"] <= 1


def test_progress_is_text_in_a_notebook_without_widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(progress_bar(), RichProgressBar)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=object))
    monkeypatch.setitem(sys.modules, "ipywidgets", SimpleNamespace(__spec__=object()))
    assert isinstance(progress_bar(), RichProgressBar)
    monkeypatch.setattr("fluctua.lab.training.fit.find_spec", lambda name: None)
    assert isinstance(progress_bar(), TQDMProgressBar)


def test_a_monitor_writes_each_step_once_also_in_a_run_that_was_killed(tmp_path: Path) -> None:
    settings, whole, cut = dataclasses.replace(SETTINGS, monitor=3), tmp_path / "whole", tmp_path / "cut"
    without, watched = network(), network()
    history = fit(without, TinyData(), out_dir=tmp_path / "without", settings=SETTINGS).history
    assert fit(watched, TinyData(), out_dir=whole, settings=settings).history == history
    assert all(torch.equal(a, b) for a, b in zip(watched.parameters(), without.parameters(), strict=True))
    with pytest.raises(Killed):
        fit(network(), TinyData(killer(2, 2)), out_dir=cut, settings=settings)
    fit(network(), TinyData(), out_dir=cut, settings=settings, resume=True)
    rows = read_rows(whole / FILE)
    assert [row["step"] for row in rows] == list(range(0, 16, 3))
    assert read_rows(cut / FILE) == rows


def test_regularisers_need_spikes() -> None:
    with pytest.raises(ValueError, match="spiking neurons that fluctua knows"):
        SpikingClassifier(nn.Linear(N, C), regularizers=[ActivityBound("lower", 1.0)])


def test_populations_have_the_names_of_the_report(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(N, 8), Recurrent(firing(), nn.Linear(8, 8, bias=False)), nn.Linear(8, C))
    one_epoch = dataclasses.replace(SETTINGS, epochs=1)
    history = fit(model, TinyData(), out_dir=tmp_path, settings=one_epoch).history
    assert [name for name in history[0] if name.startswith("rate_")] == ["rate_1"]
    assert [p.name for p in fluctua.inspect(model, torch.randn(T, 4, N))] == ["1"]
    assert all(not module._forward_hooks for module in model.modules())


def test_a_model_that_cannot_be_traced_is_trained_without_rates(tmp_path: Path) -> None:
    shared = firing()
    model = nn.Sequential(nn.Linear(N, N), shared, nn.Linear(N, N), shared, nn.Linear(N, C))
    one_epoch = dataclasses.replace(SETTINGS, epochs=1)
    with pytest.warns(UserWarning, match="no firing rates are logged: .* called 2 times"):
        history = fit(model, TinyData(), out_dir=tmp_path / "plain", settings=one_epoch).history
    assert not [name for name in history[0] if name.startswith("rate_")]
    bounded = dataclasses.replace(one_epoch, regularizers=(ActivityBound("upper", 1.0),))
    with pytest.raises(ValueError, match="called 2 times"):
        fit(model, TinyData(), out_dir=tmp_path / "bounded", settings=bounded)


# --- manners ---


def test_nothing_outside_is_changed_and_nothing_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = network().eval()
    levels = [logging.getLogger(name).level for name in ("lightning.pytorch", "lightning.fabric")]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]  # noqa: NPY002
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model, TinyData(), out_dir=tmp_path, settings=dataclasses.replace(SETTINGS, epochs=1))
    assert [str(warning.message) for warning in caught] == []
    assert capfd.readouterr() == ("", "")
    assert [logging.getLogger(name).level for name in ("lightning.pytorch", "lightning.fabric")] == levels
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # type: ignore[index, union-attr]  # noqa: NPY002
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".lock",
        "last.ckpt",
        "metrics.csv",
        "model.safetensors",
        "result.json",
        "run.json",
    ]


def test_the_progress_bar_counts_epochs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fit(network(), TinyData(), out_dir=tmp_path, settings=dataclasses.replace(SETTINGS, epochs=2, progress=True))
    shown = capfd.readouterr().out
    assert "Epoch 1/1" in shown  # counted from 0
    assert "val_accuracy" in shown


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"lr": 0.0}, {"lr": float("nan")}, {"loss": "mse"}, {"optimizer": "magic"}, {"seed": -1},
     {"patience": 0}, {"max_minutes": 0.0}, {"gradient_clip": -1.0}],
)  # fmt: skip
def test_senseless_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        TrainSettings(**wrong)
