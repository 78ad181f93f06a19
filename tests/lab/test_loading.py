"""Laws of `load`: the model, data and settings of a finished run come back, or a sentence says why not."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("lightning")
pytest.importorskip("h5py")
from rich.console import Console

import fluctua.lab
from fluctua.lab.data.module import SpikeDataModule
from fluctua.lab.demo import DemoRun, DemoSettings, run_demo
from fluctua.lab.durable import read_json, write_json
from fluctua.lab.networks import LABELS, bring_up, build
from fluctua.lab.train_file import FileRun, FileSettings, train_file
from fluctua.lab.training.description import modules_of
from fluctua.lab.training.fit import fit
from fluctua.theory import Target
from shared.data_files import write_shd
from shared.killed_runs import SETTINGS, data, network

TINY = FileSettings(model="recurrent", width=6, dt=4e-3, duration=0.1, epochs=1, batch_size=16, lr=0.02, augment=True)


def words(folder: Path) -> Path:
    return write_shd(folder / "words.h5", [k % 2 for k in range(40)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `fluctua train`, beside the file that it learned from."""
    root = tmp_path_factory.mktemp("trained")
    train_file(words(root), None, root / "run", Console(quiet=True), TINY, resume=False)
    return root / "run"


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """A run of `fit`, and its model with the best weights."""
    root, model = tmp_path_factory.mktemp("fitted"), network()
    fit(model, data(), out_dir=root, settings=SETTINGS)
    return root, model


def accuracy(model: nn.Module, module: SpikeDataModule) -> float:
    x, y = next(iter(module.test_dataloader()))  # type: ignore[arg-type]
    with torch.no_grad():
        return float((model(x).amax(0).argmax(1) == y).float().mean())


def test_a_run_of_the_command_line_comes_back_whole(trained: Path) -> None:
    run = fluctua.lab.load(trained)
    assert isinstance(run.data, SpikeDataModule)
    assert not run.model.training
    assert run.result["test"]["test"] == pytest.approx(accuracy(run.model, run.data))
    assert run.settings.lr == 0.02
    assert isinstance(run.origin, FileRun)
    assert run.origin.train == trained.parent / "words.h5"
    assert {**vars(run.origin.settings), "nu": None} == vars(TINY)
    assert run.versions["torch"] == torch.__version__


def test_no_method_changes_what_a_network_is_built_of() -> None:
    """Or no run of it could be loaded: the model that it is loaded into is not initialised."""
    x = (torch.rand(25, 8, 30) < 0.1).float()
    tried = 0
    for method in LABELS:
        model = build("modern" if method == "measured" else "fc", 30, 2, dt=4e-3, duration=0.1)
        before = modules_of(model)
        with suppress(ValueError):  # some are for networks of another kind
            bring_up(model, x, method, target=Target(xi=1.0), seed=0)
            tried += 1
        assert modules_of(model) == before, method
    assert tried >= 10


@pytest.mark.usefixtures("undrawn")
def test_a_run_of_the_demo_comes_back(tmp_path: Path) -> None:
    settings = DemoSettings(width=8, depth=1, epochs=1, samples_per_class=30, measured_on=50)
    run_demo(tmp_path, Console(quiet=True), minutes=1, settings=settings)
    run = fluctua.lab.load(tmp_path / "kaiming")
    assert run.origin == DemoRun("kaiming", settings)
    assert isinstance(run.data, SpikeDataModule)
    with torch.no_grad():
        hits = [run.model(x).amax(0).argmax(1) == y for x, y in run.data.test_dataloader()]
    assert run.result["test"]["test"] == pytest.approx(float(torch.cat(hits).float().mean()))


def test_a_run_of_fit_comes_back_into_a_model_that_is_built_like_its_own(fitted: tuple[Path, nn.Module]) -> None:
    folder, best = fitted
    run = fluctua.lab.load(folder, model=network(seed=5), data=data())
    assert run.settings == SETTINGS
    assert run.origin is None
    for name, value in best.state_dict().items():
        assert torch.equal(run.model.state_dict()[name], value)
    assert fluctua.lab.load(folder, model=network(seed=5)).data is None
    with pytest.raises(ValueError, match=r"only you can build the model .*: pass one built like it as model="):
        fluctua.lab.load(folder)


def test_another_model_and_other_data_are_refused_and_the_model_stays(fitted: tuple[Path, nn.Module]) -> None:
    folder, _ = fitted
    model = network(seed=5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"not the data that the run in .* had \(samples of train, .*\): pass"):
        fluctua.lab.load(folder, model=model, data=data(seed=9))
    model[2] = nn.Dropout(0.4)
    with pytest.raises(ValueError, match="the model is not built like that of the run"):
        fluctua.lab.load(folder, model=model, data=data())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_data_that_have_moved_are_passed(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    moved = tmp_path / "elsewhere.h5"
    moved.write_bytes((trained.parent / "words.h5").read_bytes())
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["origin"]["train"]["train"] == str(trained.parent / "words.h5")
    run = fluctua.lab.load(trained)
    origin = run.origin
    assert isinstance(origin, FileRun)
    module = FileRun(moved, None, origin.settings).load_data()
    assert fluctua.lab.load(tmp_path / "run", data=module).data is module


def damaged(name: str) -> Any:
    def change(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda folder: shutil.rmtree(folder), "holds no run: give a folder that `fluctua train` or `fit` wrote"),
        (lambda folder: (folder.rename(folder.with_name("moved")), folder.write_text("a file")), "holds no run"),
        (lambda folder: (folder / "result.json").unlink(), "is not finished: resume=True continues it"),
        (damaged("result.json"), "result.json is damaged"),
        (damaged("model.safetensors"), "model.safetensors is damaged: resume=True rewrites it"),
    ],
)
def test_what_is_missing_or_damaged_is_said(change: Any, sentence: str, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    change(tmp_path / "run")
    with pytest.raises(ValueError, match=sentence):
        fluctua.lab.load(tmp_path / "run")


def test_the_checkpoint_stands_in_for_a_damaged_description(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    damaged("run.json")(tmp_path / "run")
    assert fluctua.lab.load(tmp_path / "run").settings.lr == 0.02


@pytest.mark.parametrize(
    "other", [{"settings": {}}, {"data": None}, {"versions": 3}, {"origin": [1]}, {"model": None}, {"new": 1}]
)
def test_the_checkpoint_stands_in_for_a_description_of_another_version(
    other: dict[str, Any], trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    write_json(tmp_path / "run" / "run.json", {**read_json(trained / "run.json"), **other})
    assert fluctua.lab.load(tmp_path / "run").settings.lr == 0.02


@pytest.mark.parametrize("origin", [{}, {"settings": {}}, {"train": 3, "test": None, "settings": {"target": {}}}])
def test_what_another_version_was_told_is_refused_in_a_sentence(origin: Any, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    write_json(tmp_path / "run" / "run.json", {**read_json(trained / "run.json"), "origin": {"train": origin}})
    with pytest.raises(ValueError, match="described as another version of fluctua does"):
        fluctua.lab.load(tmp_path / "run")


def test_other_files_at_the_same_place_are_noticed(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    file = tmp_path / "words.h5"
    plain = json.loads((tmp_path / "run" / "run.json").read_text())
    del plain["checksum"]
    plain["origin"]["train"]["train"] = str(write_shd(file, [k % 2 for k in range(40)], seed=1))
    write_json(tmp_path / "run" / "run.json", plain)
    with pytest.raises(ValueError, match="not the data that the run in"):
        fluctua.lab.load(tmp_path / "run")
