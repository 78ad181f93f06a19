"""Laws of a run's folder: an epoch is there or not, what follows from it is written again, and one process is in it."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("lightning")

from safetensors.torch import load_file

from fluctua.lab.training.fit import fit
from fluctua.lab.training.folder import RunFolder, load_checkpoint, save_checkpoint, weights_of
from fluctua.neurons import LIF
from shared.killed_runs import SETTINGS, data, network


class Killed(BaseException):
    """Stands for the end of a process."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    fit(network(), data(), out_dir=folder, settings=SETTINGS)
    return folder


def kill_when(patch: pytest.MonkeyPatch, name: str, time: int, *, after: bool) -> None:
    """End before or after the file of that name takes its place for the so-manieth time."""
    replace, times = os.replace, 0

    def killing(source: Any, target: Any) -> None:
        nonlocal times
        times += Path(target).name == name
        if times != time:
            replace(source, target)
            return
        if after:
            replace(source, target)
        raise Killed

    patch.setattr(os, "replace", killing)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("name", "time"),
    [
        ("run.json", 1),
        ("last.ckpt", 1),
        ("last.ckpt", 6),
        ("model.safetensors", 1),
        ("metrics.csv", 6),
        ("result.json", 1),
    ],
)
def test_an_end_around_any_file_loses_nothing(
    name: str, time: int, after: bool, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        kill_when(patch, name, time, after=after)
        with pytest.raises(Killed):
            fit(network(), data(), out_dir=tmp_path, settings=SETTINGS)
    fit(network(), data(), out_dir=tmp_path, settings=SETTINGS, resume=True)
    for file in ("metrics.csv", "model.safetensors"):
        assert (tmp_path / file).read_bytes() == (whole / file).read_bytes()
    ours, theirs = (load_checkpoint(folder / "last.ckpt") for folder in (tmp_path, whole))
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["run.json", "metrics.csv", "model.safetensors"])
def test_what_follows_from_the_record_is_written_again(name: str, tmp_path: Path) -> None:
    fit(network(), data(), out_dir=tmp_path, settings=SETTINGS)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(b"")
    fit(network(seed=1), data(), out_dir=tmp_path, settings=SETTINGS, resume=True)
    assert (tmp_path / name).read_bytes() == content


def test_the_best_weights_are_those_of_the_record_and_anyone_can_read_them(whole: Path) -> None:
    best = load_checkpoint(whole / "last.ckpt")["fluctua"]["best"]
    torch.testing.assert_close(load_file(whole / "model.safetensors"), best, rtol=0, atol=0)
    assert torch.load(whole / "last.ckpt", weights_only=True)["epoch"] == SETTINGS.epochs - 1


def test_tensors_that_are_one_are_written_once_and_come_back_as_one(tmp_path: Path) -> None:
    def tied() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4))
        model[1].weight = model[0].weight
        return model

    folder, model, other = RunFolder(tmp_path), tied(), tied()
    folder.save_weights(weights_of(model))
    assert "1.weight" not in load_file(folder.weights)
    folder.load_weights(other)
    assert other[1].weight is other[0].weight
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_model_that_the_weights_are_not_of_stays_as_it_was(whole: Path) -> None:
    for other in (nn.Sequential(*list(network())[:3], nn.Linear(16, 4)), network()[:1], nn.Linear(3, 3)):
        before = {name: value.clone() for name, value in other.state_dict().items()}
        with pytest.raises(ValueError, match="has the weights of another model: build the same"):
            RunFolder(whole).load_weights(other)
        assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())


# --- what may not differ ---


def test_other_data_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    fit(network(), data(), out_dir=tmp_path, settings=SETTINGS)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(
        ValueError, match=r"was trained on other data \(samples of train, samples of val, samples of te"
    ):
        fit(network(), data(seed=5), out_dir=tmp_path, settings=SETTINGS, resume=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_model_of_the_same_shapes_with_other_constants_is_another_model(tmp_path: Path) -> None:
    def model(tau_mem: float, p: float) -> nn.Sequential:
        return nn.Sequential(nn.Linear(12, 8), LIF(tau_mem, 5e-3, 2e-3), nn.Dropout(p), nn.Linear(8, 3))

    fit(model(20e-3, 0.3), data(), out_dir=tmp_path, settings=SETTINGS)
    for other in (model(10e-3, 0.3), model(20e-3, 0.4)):
        with pytest.raises(ValueError, match="was trained with another model: resume it with the same architecture"):
            fit(other, data(), out_dir=tmp_path, settings=SETTINGS, resume=True)


# --- one process ---


def test_a_second_process_is_refused_and_the_first_goes_on(whole: Path, tmp_path: Path) -> None:
    said: list[str] = []
    module = data()
    loader = module.val_dataloader

    def meanwhile() -> Any:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        return loader()

    def second() -> None:
        try:
            fit(network(), data(), out_dir=tmp_path, settings=SETTINGS, resume=True)
        except OSError as error:
            said.append(str(error))

    module.val_dataloader = meanwhile  # type: ignore[method-assign]
    fit(network(), module, out_dir=tmp_path, settings=SETTINGS)
    assert said
    assert set(said) == {f"{tmp_path} is in use by another process: wait until it ends, or choose another folder"}
    assert (tmp_path / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


# --- what cannot be written ---


@contextmanager
def small_files() -> Iterator[None]:
    """No file may be larger than 4 kB: the description may, and no checkpoint, as if the disk were full behind it."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with (
        small_files(),
        pytest.raises(OSError, match=r"^cannot write .*last.ckpt \(File too large\): fix") as raised,
    ):
        fit(network(), data(), out_dir=tmp_path, settings=SETTINGS)
    assert "\n" not in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "run.json"]


@pytest.mark.parametrize("name", ["~", "~root", "a::b", "zip::a", "s3:", "[b]", "a b\nc"])
def test_a_folder_may_have_any_name(name: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning reads a home in `~root`, and a file in an archive in `zip::a`."""
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        kill_when(patch, "last.ckpt", 3, after=True)
        with pytest.raises(Killed):
            fit(network(), data(), out_dir=name, settings=SETTINGS)
    fit(network(), data(), out_dir=name, settings=SETTINGS, resume=True)
    ours, theirs = (load_checkpoint(folder / "last.ckpt") for folder in (tmp_path / name, whole))
    torch.testing.assert_close(ours["state_dict"], theirs["state_dict"], rtol=0, atol=0)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_checkpoint_stays_what_it_was_when_its_successor_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save_checkpoint({"x": torch.ones(3)}, path)
    with small_files(), pytest.raises(OSError, match="File too large"):
        save_checkpoint({"x": torch.zeros(5000)}, path)
    assert torch.equal(load_checkpoint(path)["x"], torch.ones(3))
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
