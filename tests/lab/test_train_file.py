"""`fluctua train` on every kind of data: the model's kind decides what is read, and what does not match is refused."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.data_files import (
    gestures,
    nmnist,
    write_cifar10,
    write_folder,
    write_official_gestures,
    write_shd,
    write_tar,
)

h5py = pytest.importorskip("h5py")
pytest.importorskip("lightning")
pytest.importorskip("typer")
from rich.console import Console  # noqa: E402

from fluctua.lab import cli  # noqa: E402
from fluctua.lab.train_file import FileSettings, train_file  # noqa: E402
from fluctua.lab.training.fit import fit  # noqa: E402
from fluctua.lab.training.folder import RunFolder  # noqa: E402
from fluctua.theory import Target  # noqa: E402
from shared import killed_runs  # noqa: E402


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes in the layout of SHD, each with its own half of the 700 channels."""
    path = tmp_path_factory.mktemp("data") / "words.h5"
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    with h5py.File(path, "w") as file:
        for name, dtype in (("times", np.float16), ("units", np.uint16)):
            file.create_dataset(f"spikes/{name}", (len(labels),), dtype=h5py.special_dtype(vlen=np.dtype(dtype)))
        for i, label in enumerate(labels):
            file["spikes/times"][i] = np.sort(rng.uniform(0, 0.1, 800)).astype(np.float16)
            file["spikes/units"][i] = (rng.integers(0, 350, 800) + 350 * label).astype(np.uint16)
        file["labels"] = labels.astype(np.uint8)
    return path


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tar(tmp_path_factory.mktemp("data") / "n-mnist.tar", nmnist(10))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cifar10(tmp_path_factory.mktemp("data") / "cifar-10-batches-py", per_class=4)


Train = Callable[..., tuple[str, str]]


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Train:
    """Run `fluctua train ...` in this process; what it prints, and the sentence that it ends with if it fails."""

    def run(*arguments: Any) -> tuple[str, str]:
        monkeypatch.setattr("sys.argv", ["fluctua", "train", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "110")
        with pytest.raises(SystemExit) as end:
            cli.main()
        code = end.value.code
        out, err = capsys.readouterr()
        return out, code if isinstance(code, str) else "" if not code else err

    return run


def facts(out: Path) -> dict[str, Any]:
    assert {"before.png", "after.png", "learning.png", "metrics.csv", "model.safetensors"} <= {
        path.name for path in out.iterdir()
    }
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


def last_epoch(out: Path) -> dict[str, float]:
    *_, last = csv.DictReader((out / "metrics.csv").read_text().splitlines())
    return {name: float(value) for name, value in last.items()}


TINY = ("--dt", 4e-3, "--duration", 0.1, "--width", 4, "--lr", 0.02, "--batch-size", 8)


def test_a_network_of_sound_learns_a_file_in_the_layout_of_shd(train: Train, words: Path, tmp_path: Path) -> None:
    run = ("--model", "shd-conv", "--data", words, "--out", tmp_path / "run", "--epochs", 4, *TINY)
    out, sentence = train(*run)
    assert sentence == ""
    assert "Initial state: measured + balanced" in out
    assert facts(tmp_path / "run")["best"]["train_accuracy"] > 0.8  # 32 samples, chance 0.5 +- 0.09
    _, sentence = train(*run, "--resume", "--model", "recurrent")
    assert "was trained with model shd-conv, not recurrent: leave out what differs" in sentence


def test_a_network_of_images_learns_nmnist(train: Train, digits: Path, tmp_path: Path) -> None:
    run = ("--model", "dvs-conv", "--data", digits, "--out", tmp_path / "run", "--epochs", 2, *TINY)
    out, sentence = train(*run)
    assert sentence == ""
    assert "2.3" in out  # the last of six populations
    found = facts(tmp_path / "run")
    assert last_epoch(tmp_path / "run")["train_accuracy"] > 0.3  # 90 samples of 10 classes, chance 0.1 +- 0.03
    assert found["test"]["test"] * 10 == pytest.approx(round(found["test"]["test"] * 10))  # of ten recordings


@pytest.mark.usefixtures("undrawn")
def test_a_network_of_images_learns_gestures(train: Train, tmp_path: Path) -> None:
    files = gestures(range(1, 7), n=12000), gestures([24], seed=1, n=12000)
    data = write_official_gestures(tmp_path / "DvsGesture", *files)
    out = tmp_path / "run"
    run = ("--model", "dvs-conv", "--data", data.parent, "--out", out, "--epochs", 3, *TINY)
    assert train(*run)[1] == ""
    assert last_epoch(out)["train_accuracy"] > 0.25  # 55 samples of 11 classes, chance 0.09 +- 0.04
    assert facts(out)["test"]["test"] * 11 == pytest.approx(round(facts(out)["test"]["test"] * 11))


@pytest.mark.usefixtures("undrawn")
def test_a_folder_of_ssc_brings_its_validation_and_test_files(train: Train, tmp_path: Path) -> None:
    for seed, (part, n) in enumerate({"train": 40, "valid": 7, "test": 9}.items()):
        write_shd(tmp_path / "SSC" / f"ssc_{part}.h5", [k % 4 for k in range(n)], seed=seed)
    out = tmp_path / "run"
    _, sentence = train("--model", "fc", "--depth", 1, "--data", tmp_path, "--out", out, "--epochs", 3, *TINY)
    assert sentence == ""
    found = facts(out)
    assert found["best"]["train_accuracy"] > 0.6  # 40 samples of 4 classes, chance 0.25 +- 0.07
    for accuracy, n in ((found["best"]["val_accuracy"], 7), (found["test"]["test"], 9)):
        assert accuracy * n == pytest.approx(round(accuracy * n))


@pytest.mark.usefixtures("undrawn")
def test_augmentation_is_that_of_the_kind_of_data(words: Path, tmp_path: Path) -> None:
    """Runs differ by it, and are alike with the same seed."""
    losses: list[float] = []
    for augment in (False, True, True):
        settings = FileSettings(model="recurrent", width=8, dt=4e-3, duration=0.1, epochs=2, augment=augment)
        result = train_file(words, None, tmp_path / str(len(losses)), Console(quiet=True), settings, resume=False)
        losses.append(result.history[-1]["train_loss"])
    assert losses[0] != losses[1]
    assert losses[1] == losses[2]


@pytest.mark.usefixtures("undrawn")
def test_a_network_of_images_learns_cifar_10_shown_as_a_current(train: Train, pictures: Path, tmp_path: Path) -> None:
    run = ("--model", "cifar10-conv-shallow", "--data", pictures, "--out", tmp_path / "run", "--epochs", 2, *TINY)
    assert train(*run)[1] == ""
    assert facts(tmp_path / "run")["best"]["train_accuracy"] > 0.3  # 180 images of 10 classes, chance 0.1 +- 0.02


@pytest.mark.usefixtures("undrawn")
def test_the_formula_of_the_paper_takes_its_rate_for_a_current(train: Train, tmp_path: Path) -> None:
    """9.2 Hz: at half the rate weights are larger by sqrt 2, and so is sigma_U of the first population."""
    pictures, sizes = write_cifar10(tmp_path / "cifar-10-batches-py", per_class=2), []
    for name, nu in (("paper", ()), ("half", ("--nu", 4.6))):
        out = tmp_path / name
        run = ("--model", "cifar10-conv-shallow", "--method", "poisson", "--data", pictures, "--out", out, *TINY)
        printed, sentence = train(*run, "--epochs", 1, *nu)
        assert sentence == ""
        first = next(line for line in printed.splitlines() if line.startswith("0.1 "))
        sizes.append(float(first.split()[3].split("/")[0]))
    assert sizes[1] == pytest.approx(2**0.5 * sizes[0], rel=0.01)  # printed to two decimals of some units


@pytest.mark.usefixtures("undrawn")
def test_real_recordings_of_an_event_camera(train: Train, data_dir: Path, tmp_path: Path) -> None:
    coarse = ("--dt", 10e-3, "--duration", 0.15, "--width", 4, "--lr", 0.01, "--batch-size", 32)
    data = data_dir / "nmnist_small.tar"
    run = ("--model", "residual-conv", "--depth", 1, "--data", data, "--out", tmp_path / "run", "--epochs", 1, *coarse)
    assert train(*run)[1] == ""
    # 100 test samples of 10 classes: chance is 10 % with a standard deviation of 3 %
    assert facts(tmp_path / "run")["test"]["test"] > 0.25


# --- what is resumed ---


@pytest.fixture(scope="module")
def stopped(words: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, which is to be one of two."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    settings = FileSettings(width=4, depth=1, dt=4e-3, duration=0.1, epochs=1, batch_size=8, lr=0.02, augment=True)
    train_file(words, None, out, Console(quiet=True), settings, resume=False)
    return out


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


@pytest.mark.usefixtures("undrawn")
def test_resuming_needs_nothing_but_the_folder(train: Train, run: Path, words: Path, tmp_path: Path) -> None:
    settings = FileSettings(width=4, depth=1, dt=4e-3, duration=0.1, epochs=2, batch_size=8, lr=0.02, augment=True)
    whole = train_file(words, None, tmp_path / "whole", Console(quiet=True), settings, resume=False)
    assert train("--out", run, "--resume", "--epochs", 2)[1] == ""
    assert (run / "metrics.csv").read_bytes() == (tmp_path / "whole" / "metrics.csv").read_bytes()
    assert facts(run)["test"] == whole.test
    assert train("--out", run, "--resume")[1] == "", "and the new number of epochs is known from now on"
    assert facts(run)["epochs"] == 2


OTHERS: dict[str, tuple[tuple[Any, ...], str]] = {
    "dt": (("--dt", 2e-3), "dt 0.004, not 0.002"),
    "duration": (("--duration", 0.2), "duration 0.1, not 0.2"),
    "batch size": (("--batch-size", 16), "batch_size 8, not 16"),
    "method": (("--method", "kaiming"), "method measured, not kaiming"),
    "xi": (("--xi", 2), "xi 1.0, not 2.0"),
    "augmentation": (("--no-augment",), "augment True, not False"),
    "seed and lr": (("--seed", 1, "--lr", 0.1), "lr 0.02, not 0.1 and seed 0, not 1"),
    "recipe": (("--recipe", "paper"), "optimizer adam, not smorms3 and recipe plain, not paper"),
    "network": (("--width", 5), "width 4, not 5"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_settings_are_refused_in_one_sentence(case: str, train: Train, run: Path) -> None:
    options, sentence = OTHERS[case]
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    _, said = train("--out", run, "--resume", "--epochs", 2, *options)
    way_out = "leave out what differs, or choose another --out"
    assert said == f"fluctua: {run} was trained with {sentence}: {way_out}"
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


@pytest.mark.usefixtures("undrawn")
def test_what_python_asks_for_is_compared_too(run: Path) -> None:
    settings = FileSettings(width=4, depth=1, dt=4e-3, epochs=2, target=Target(xi=2.0))
    with pytest.raises(ValueError, match=r"was trained with xi 1\.0, not 2\.0: leave out what differs, or choose"):
        train_file(None, None, run, Console(quiet=True), settings, resume=True)
    result = train_file(None, None, run, Console(quiet=True), replace(settings, target=Target()), resume=True)
    assert len(result.history) == 2


@pytest.mark.usefixtures("undrawn")
def test_the_same_settings_may_be_said_again(train: Train, run: Path, words: Path) -> None:
    same = ("--data", words, "--dt", 4e-3, "--lr", 0.02, "--method", "measured", "--xi", 1, "--augment", "--depth", 1)
    assert train("--out", run, "--resume", *same)[1] == ""


@pytest.mark.usefixtures("undrawn")
def test_other_data_are_refused_wherever_they_are_and_the_same_are_not(train: Train, run: Path, tmp_path: Path) -> None:
    same = tmp_path / "moved.h5"
    same.write_bytes(Path(RunFolder(run).describe().origin["train"]["train"]).read_bytes())  # type: ignore[union-attr]
    assert train("--out", run, "--resume", "--data", same)[1] == ""
    other = write_shd(tmp_path / "other.h5", [k % 2 for k in range(40)])
    _, said = train("--out", run, "--resume", "--epochs", 2, "--data", other)
    assert f"{run} was trained on other data (samples of train, samples of val, samples of test): resume" in said


def test_a_test_file_that_was_not_there_is_other_data(train: Train, run: Path, words: Path) -> None:
    """Samples that training has seen would be tested."""
    _, said = train("--out", run, "--resume", "--test", words)
    assert "was trained on other data" in said


def test_where_there_is_nothing_to_resume_data_are_asked_for(train: Train, words: Path, tmp_path: Path) -> None:
    _, said = train("--out", tmp_path / "none", "--resume")
    assert said == f"fluctua: {tmp_path / 'none'} holds no run to resume: give --data to start one"
    _, said = train("--out", tmp_path / "none")
    assert "Missing option '--data': only --resume works without it" in said
    assert not (tmp_path / "none").exists()


def test_a_run_of_another_command_is_not_gone_on_with(train: Train, tmp_path: Path) -> None:
    fit(killed_runs.network(), killed_runs.data(), out_dir=tmp_path, settings=killed_runs.SETTINGS)
    _, said = train("--out", tmp_path, "--resume")
    assert "was not started by `fluctua train`: resume it with what started it" in said


@pytest.mark.usefixtures("undrawn")
def test_a_folder_may_be_called_anything(train: Train, words: Path, tmp_path: Path) -> None:
    """Square brackets are markup to what prints."""
    out = tmp_path / "run[/b] [bold]" / "{x}"
    printed, sentence = train("--model", "fc", "--depth", 1, "--data", words, "--out", out, "--epochs", 1, *TINY)
    assert sentence == ""
    assert str(out / "metrics.csv") in printed.replace("\n", "")
    assert facts(out)["epochs"] == 1


# --- what does not match ---


def folder_of_digits(root: Path) -> Path:
    return write_folder(root / "N-MNIST", nmnist(1))


MISMATCHES: dict[str, tuple[str, Callable[[Path], Path], tuple[Any, ...], str]] = {
    "a camera for sound": ("shd-conv", folder_of_digits, (), "shd-conv learns from a file of spike trains .* N-MNIST"),
    "a tar file for sound": (
        "fc",
        lambda root: write_tar(root / "a.tar", nmnist(1)),
        (),
        "fc learns from a file of spike trains in the layout of SHD, and .*a.tar holds N-MNIST: give other data",
    ),
    "pictures for sound": ("dale", lambda root: write_cifar10(root / "c", 1), (), "dale learns .*c holds CIFAR-10"),
    "no data for images": (
        "cifar10-conv",
        lambda root: root / "none",
        (),
        "none does not exist: give the path of a data set",
    ),
    "an empty folder for images": ("dvs-conv", lambda root: root, (), "dvs-conv learns from images, .* holds neither"),
    "a test file for images": (
        "dvs-conv",
        folder_of_digits,
        ("--test", "x.h5"),
        "N-MNIST has a test set of its own",
    ),
    "pooled pixels": ("dvs-conv", folder_of_digits, ("--pool", 2), "pixels are not pooled: leave test and pool out"),
    "too few images": ("dvs-conv", folder_of_digits, (), "N-MNIST is left for val: a tenth of each class is held out"),
    "a depth that is fixed": ("dvs-conv", folder_of_digits, ("--depth", 2), "the depth of this network is fixed"),
    "a network without norms": (
        "cifar10-conv-shallow",
        lambda root: write_cifar10(root / "c", 2),
        ("--method", "tdbn", *TINY),
        "tdbn needs a normalisation layer",
    ),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_what_does_not_match_is_refused_in_one_sentence(case: str, train: Train, tmp_path: Path) -> None:
    model, data, options, sentence = MISMATCHES[case]
    (tmp_path / "data").mkdir()
    out = tmp_path / "run"
    _, said = train("--model", model, "--data", data(tmp_path / "data"), "--out", out, *options)
    assert said.startswith("fluctua: ")
    assert "\n" not in said
    assert re.search(sentence, said), said


def test_a_file_of_sound_is_none_of_images(train: Train, words: Path, tmp_path: Path) -> None:
    _, said = train("--model", "residual-conv", "--data", words, "--out", tmp_path / "run")
    assert "residual-conv learns from images, " in said
    assert "words.h5 holds spike trains in the layout of SHD: give other data or choose another model" in said
