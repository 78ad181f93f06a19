"""Laws of the command line: one command does the work, and whatever goes wrong is said in one sentence."""

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lightning")
pytest.importorskip("typer")

import fluctua
from fluctua.lab import cli
from fluctua.lab.choices import Experiment

N_CLASSES, PER_CLASS = 3, 12


@pytest.fixture(scope="module")
def spike_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes in the layout of SHD, each with its own third of the 700 channels."""
    return write(tmp_path_factory.mktemp("data") / "small.h5", PER_CLASS)


def write(path: Path, per_class: int) -> Path:
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(N_CLASSES), per_class)
    with h5py.File(path, "w") as file:
        for name, dtype in (("times", np.float16), ("units", np.uint16)):
            file.create_dataset(f"spikes/{name}", (len(labels),), dtype=h5py.special_dtype(vlen=np.dtype(dtype)))
        for i, label in enumerate(labels):
            file["spikes/times"][i] = np.sort(rng.uniform(0, 0.1, 300)).astype(np.float16)
            file["spikes/units"][i] = (rng.integers(0, 200, 300) + 230 * label).astype(np.uint16)
        file["labels"] = labels.astype(np.uint8)
    return path


class Ended(Exception):
    """A command has ended."""

    def __init__(self, status: int, out: str, err: str) -> None:
        super().__init__(f"status {status}\n{out}\n{err}")
        self.status, self.out, self.err = status, out, err


Run = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `fluctua ...` in this process."""

    def run(*arguments: Any) -> Ended:
        monkeypatch.setattr("sys.argv", ["fluctua", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "110")
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        code = end.value.code
        if isinstance(code, str):  # `sys.exit("a sentence")` prints it at the very end of the process
            return Ended(1, out, err + code + "\n")
        return Ended(int(code or 0), out, err)

    return run


SMALL = ("--duration", 0.1, "--width", 24, "--depth", 1, "--lr", 0.02, "--batch-size", 8)


# --- training ---


def test_train_learns_a_small_file_and_leaves_its_results(run: Run, spike_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    end = run("train", "--data", spike_file, "--out", out, "--epochs", 3, *SMALL)
    assert end.status == 0, end
    expected = {"before.png", "after.png", "learning.png", "metrics.csv", "model.safetensors", "result.json"}
    assert expected | {"monitor.jsonl"} <= {path.name for path in out.iterdir()}
    assert all(path.stat().st_size > 0 for path in out.iterdir() if path.name != ".lock")
    facts = json.loads((out / "result.json").read_text())
    assert facts["epochs"] == 3
    assert f"Best epoch {facts['best_epoch']} of 3" in end.out
    assert f"test: {facts['test']['test']:.1%}" in end.out
    assert facts["best"]["train_accuracy"] > 0.8  # the classes share no channel; chance: 0.33 +- 0.09
    for name in ("before.png", "learning.png", "metrics.csv"):
        assert str(out / name) in end.out
    again = run("train", "--data", spike_file, "--out", out, "--epochs", 3, *SMALL)
    assert_sentence(again, 1, "already holds a training run: pass --resume to continue it, or choose another --out")
    more = run("train", "--data", spike_file, "--out", out, "--epochs", 4, *SMALL, "--resume")
    assert more.status == 0
    assert json.loads((out / "result.json").read_text())["epochs"] == 4
    assert run("report", out).status == 0
    assert "State over training, layer by layer" in (out / "report.html").read_text()


@pytest.mark.usefixtures("undrawn")
def test_train_takes_the_squared_error_and_leaves_the_monitor_out(run: Run, spike_file: Path, tmp_path: Path) -> None:
    more = ("--loss", "mse_every_step", "--monitor", 0, "--epochs", 1)
    end = run("train", "--data", spike_file, "--out", tmp_path / "run", *SMALL, *more)
    assert end.status == 0, end
    assert "val_accuracy" in (tmp_path / "run" / "metrics.csv").read_text()
    assert not (tmp_path / "run" / "monitor.jsonl").exists()


@pytest.mark.usefixtures("undrawn")
def test_train_reads_real_recordings(run: Run, data_dir: Path, tmp_path: Path) -> None:
    file = data_dir / "fsdd_train.h5"
    coarse = ("--dt", 4e-3, "--duration", 0.2, "--pool", 10, "--width", 24, "--depth", 1, "--batch-size", 64)
    begin = time.monotonic()
    end = run("train", "--data", file, "--out", tmp_path / "run", "--epochs", 2, "--rate", 8, "--lr", 0.02, *coarse)
    assert end.status == 0, end
    assert time.monotonic() - begin < 60  # some 4 s where nothing else runs
    facts = json.loads((tmp_path / "run" / "result.json").read_text())
    # 180 test samples of 10 classes: chance is 10 % with a standard deviation of 2.2 %.
    assert facts["test"]["test"] > 0.2
    assert "Hz" in end.out


@pytest.mark.parametrize(("method", "label"), [("kaiming", "Kaiming"), ("poisson", "Poisson formula (paper)")])
@pytest.mark.usefixtures("undrawn")
def test_any_method_can_be_asked_for_and_a_file_be_kept_for_the_test(
    run: Run, spike_file: Path, tmp_path: Path, method: str, label: str
) -> None:
    files = ("--data", spike_file, "--test", write(tmp_path / "test.h5", 2), "--out", tmp_path / "run")
    end = run("train", *files, "--method", method, "--epochs", 1, *SMALL)
    assert end.status == 0, end
    assert f"Initial state: {label}" in end.out
    share = json.loads((tmp_path / "run" / "result.json").read_text())["test"]["test"]
    assert 6 * share == pytest.approx(round(6 * share), abs=1e-5)  # of the six samples in the test file


def test_a_result_is_to_be_had_as_json_and_everybody_may_read_its_files(
    run: Run, spike_file: Path, tmp_path: Path
) -> None:
    before = os.umask(0o022)
    try:
        end = run("train", "--data", spike_file, "--out", tmp_path / "run", "--epochs", 1, *SMALL, "--json")
    finally:
        os.umask(before)
    facts = json.loads(end.out)
    assert facts["test"] == json.loads((tmp_path / "run" / "result.json").read_text())["test"]
    assert (facts["best_epoch"], len(facts["history"])) == (1, 1)
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "run").iterdir()} == {
        path.name: "0o644" for path in (tmp_path / "run").iterdir()
    }


@pytest.mark.parametrize("asked", ["version", "--version"])
def test_version_is_that_of_the_package(run: Run, asked: str) -> None:
    end = run(asked)
    assert (end.status, end.out) == (0, f"{fluctua.__version__}\n")


# --- help, and how soon it answers ---

COMMANDS_OF_HELP = ["demo", "inspect", "diagnose", "train", "reproduce", "report", "version"]


def alone(*arguments: str) -> tuple[str, set[str]]:
    """What `python -m fluctua ...` prints on a terminal of 80 columns, and which heavy packages it loads."""
    code = f"""
import runpy, sys
sys.argv = ["fluctua", *{arguments!r}]
try:
    runpy.run_module("fluctua", run_name="__main__")
except SystemExit as end:
    print(end.code if isinstance(end.code, str) else "")
print("LOADED", *{{"torch", "lightning", "pandas", "scipy", "matplotlib"}} & sys.modules.keys())
"""
    environment = {**os.environ, "COLUMNS": "80", "TERMINAL_WIDTH": "80"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    said, _, loaded = (done.stdout + done.stderr).partition("LOADED")
    return said + loaded.partition("\n")[2], set(loaded.partition("\n")[0].split())


@pytest.mark.parametrize("command", ["", *COMMANDS_OF_HELP])
def test_help_is_quick_and_fits_the_screen(command: str) -> None:
    said, loaded = alone(*command.split(), "--help")
    lines = said.splitlines()
    assert not loaded
    assert max(map(len, lines)) <= 80
    assert "…" not in said  # nothing that must be typed is cut
    assert len(lines) <= (57 if command == "train" else 44)
    if not command:
        assert all(name in said for name in COMMANDS_OF_HELP)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tran",), "No such command 'tran'"),
        (("train", "--data", "nowhere.h5"), "nowhere.h5 does not exist"),
        (("train", "--data", "x", "--method", "kaming"), "'kaming' is not one of"),
        (("reproduce", "thery"), "unknown experiment 'thery': choose one of paper, theory"),
        (("inspect", "nowhere.py:f"), "names no function in a file"),
        (("diagnose", "nowhere.py:f"), "names no function in a file"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_a_typo_is_answered_before_anything_heavy_is_loaded(arguments: tuple[str, ...], said: str) -> None:
    printed, loaded = alone(*arguments)
    assert said in printed
    assert not loaded


def test_the_list_of_experiments_needs_no_lightning_and_cuts_no_name() -> None:
    said, loaded = alone("reproduce", "--list")
    assert loaded == {"torch"}
    assert "…" not in said


def test_a_shell_completes_commands_and_experiments() -> None:
    asked = {"_FLUCTUA_COMPLETE": "complete_bash", "COMP_WORDS": "fluctua reproduce dep", "COMP_CWORD": "2"}
    code = "from fluctua.lab.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **asked}
    )
    assert done.stdout.split() == [name for name in Experiment if name.startswith("dep")]


def test_without_a_command_the_help_is_shown(run: Run) -> None:
    end = run()
    assert "demo" in end.out + end.err
    assert "train" in end.out + end.err


# --- a model of the user's ---

OWN = """
import torch
from torch import nn

import fluctua
from fluctua.neurons import LI, LIF

def batch(p=0.1):
    rates = p * torch.linspace(0.5, 1.5, 30)
    return (torch.rand(100, 16, 30, generator=torch.Generator().manual_seed(0)) < rates).float()

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(30, 20), LIF(), nn.Linear(20, 2), LI())

def silent():
    return network(), batch(0.01)

def good():
    model = network()
    fluctua.initialize(model, batch(), seed=0)
    return model, batch(), torch.arange(16) % 2

def with_loss():
    return {"model": network(), "batch": batch(), "labels": torch.zeros(16).long(), "loss": lambda o, y: o.mean()}

nothing = None

def neither():
    return 3
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (file := tmp_path / "own.py").write_text(OWN)
    return file


def test_diagnose_says_what_is_wrong_by_its_exit_status_too(run: Run, own: Path) -> None:
    bad = run("diagnose", f"{own}:silent")
    assert (bad.status, bad.out.splitlines()[0][:13]) == (1, "1. silent (1)")
    assert "fluctua.rescale(model, batch)" in bad.out
    assert json.loads(run("diagnose", f"{own}:silent", "--json").out)[0]["kind"] == "silent"
    good = run("diagnose", f"{own}:good")
    assert (good.status, good.out) == (0, "nothing found\n")


def test_inspect_prints_the_report_and_draws_it(run: Run, own: Path, tmp_path: Path) -> None:
    end = run("inspect", f"{own}:with_loss", "--plot", tmp_path / "state.png")
    assert (end.status, "T = 100 steps x B = 16 samples" in end.out, "gradient" in end.out) == (0, True, True)
    assert (tmp_path / "state.png").stat().st_size > 0
    facts = json.loads(run("inspect", f"{own}:silent", "--json").out)
    assert [p["name"] for p in facts["populations"]] == ["1", "3"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nobody", "has no function 'nobody' that returns a model and a batch"),
        ("nothing", "has no function 'nothing'"),
        ("neither", "must return (model, batch), (model, batch, labels) or a dictionary with model and batch, got int"),
    ],
)
def test_a_function_that_is_none_is_named(run: Run, own: Path, name: str, said: str) -> None:
    assert_sentence(run("diagnose", f"{own}:{name}"), 1, said)


def test_a_file_that_is_not_there_is_named(run: Run) -> None:
    assert_sentence(run("inspect", "nowhere.py:f"), 1, "'nowhere.py:f' names no function in a file")


# --- what goes wrong ---


def assert_sentence(end: Ended, status: int, part: str) -> None:
    """One line on stderr that says it, no traceback, no half a result."""
    assert end.status == status, end
    assert "Traceback" not in end.out + end.err
    (line,) = end.err.splitlines()
    assert line.startswith("fluctua: ")
    assert part in line


def truncated(file: Path) -> Path:
    path = file.with_name("truncated.h5")
    path.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return path


def zipped(file: Path) -> Path:
    path = file.with_name("small.h5.gz")
    path.write_bytes(gzip.compress(file.read_bytes()))
    return path


def no_hdf5(file: Path) -> Path:
    path = file.with_name("notes.h5")
    path.write_text("not HDF5")
    return path


FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda file: file.with_name("none.h5"), "none.h5 does not exist: give the path of a data set"),
    "a folder": (lambda file: file.parent, "is a folder, not a file"),
    "truncated": (truncated, "truncated.h5 cannot be read as HDF5"),
    "gzip": (zipped, "small.h5.gz is still compressed: gunzip or unzip it"),
    "no HDF5": (no_hdf5, "notes.h5 cannot be read as HDF5"),
    "too small": (lambda file: write(file.with_name("tiny.h5"), 3), "tiny.h5 is left for test: a tenth of each class"),
    "empty": (lambda file: write(file.with_name("empty.h5"), 0), "no sample of "),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_be_used_is_refused(run: Run, spike_file: Path, tmp_path: Path, name: str) -> None:
    make, sentence = FILES[name]
    out = tmp_path / "run"
    assert_sentence(run("train", "--data", make(spike_file), "--out", out), 1, sentence)
    assert not out.exists()


def test_a_folder_that_cannot_be_written_is_refused(run: Run, spike_file: Path) -> None:
    below_a_file = spike_file / "run"
    for command in (("train", "--data", spike_file), ("demo",)):
        end = run(*command, "--out", below_a_file)
        assert_sentence(end, 1, f"cannot write to {below_a_file} (Not a directory): choose another --out")


def test_what_the_system_says_of_a_name_is_said_in_a_sentence(run: Run) -> None:
    assert_sentence(run("train", "--resume", "--out", "a" * 300), 1, "aaa/run.json (File name too long)")


VALUES = {
    ("--xi", 1, "--rate", 5): "a target takes one of xi, sigma and rate, got xi and rate: drop all but one",
    ("--xi", -1): "a target's xi must be a positive number, got -1.0",
    ("--rate", 0): "a target's rate must be a positive number, got 0.0",
    ("--rate", 1e6): "a fluctuation-driven rate must lie between 0 and",
    ("--lr", -0.1): "lr must be a positive number, got -0.1",
    ("--dt", -1): "dt=-1.0 s must be positive and finite",
    ("--duration", -1): "duration=-1.0 s must be finite and at least one time step",
    ("--seed", -1): "seed must be a whole number of at least 0, got -1",
    ("--minutes", -1): "max_minutes must be a positive number, got -1.0",
    ("--minutes", "nan"): "max_minutes must be a positive number, got nan",
    ("--duration", 1e12): "more than 10000000: lengthen dt",
    ("--nu", 5): "nu=5 Hz is for the method poisson, not measured: leave it out",
}


@pytest.mark.parametrize("options", VALUES, ids=lambda options: " ".join(map(str, options)))
def test_a_value_out_of_range_is_refused(run: Run, spike_file: Path, tmp_path: Path, options: tuple[Any, ...]) -> None:
    assert_sentence(run("train", "--data", spike_file, "--out", tmp_path / "run", *options), 1, VALUES[options])


COUNTS = ["--width", "--depth", "--epochs", "--batch-size", "--pool"]


@pytest.mark.parametrize("option", COUNTS)
@pytest.mark.parametrize("value", [0, -3, "many"])
def test_a_count_below_one_is_refused(run: Run, spike_file: Path, option: str, value: Any) -> None:
    end = run("train", "--data", spike_file, option, value)
    assert end.status == 2
    assert f"Invalid value for '{option}'" in end.err
    assert "Traceback" not in end.err


COMMANDS = {
    ("demo", "--minutes", "-1"): "Invalid value for '--minutes'",
    ("train",): "Missing option '--data'",
    ("train", "--data"): "Option '--data' requires an argument",
    ("learn",): "No such command 'learn'",
}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_what_is_no_command_is_refused(run: Run, command: tuple[str, ...]) -> None:
    end = run(*command)
    assert end.status == 2
    assert COMMANDS[command] in end.err
    assert "Traceback" not in end.err


# --- Ctrl-C ---


@pytest.fixture
def listening() -> Iterator[None]:
    """Ctrl-C is heard, also in a process that a shell has started in the background, where it is not by itself."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press_ctrl_c_when(condition: Callable[[], bool], ended: threading.Event) -> threading.Thread:
    def wait() -> None:
        while not condition() and not ended.wait(0.01):
            pass
        # Python drops an interrupt that comes inside a weakref callback, such as h5py's: press again as a user would.
        while not ended.is_set():
            os.kill(os.getpid(), signal.SIGINT)
            ended.wait(10)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.usefixtures("listening", "undrawn")
def test_ctrl_c_while_training_says_how_to_go_on(run: Run, spike_file: Path, tmp_path: Path) -> None:
    out, ended = tmp_path / "run", threading.Event()
    command = ("train", "--data", spike_file, "--out", out, *SMALL)
    watcher = press_ctrl_c_when((out / "metrics.csv").exists, ended)
    try:
        end = run(*command, "--epochs", 1000)
    finally:
        ended.set()
        watcher.join()
    assert_sentence(end, 130, f"of 1000 epochs finished: pass --resume to continue the run in {out}")
    finished = int(end.err.split("interrupted with ")[1].split()[0])
    assert len((out / "metrics.csv").read_text().splitlines()) - 1 in (finished, finished - 1)  # stopped while writing
    assert run(*command, "--epochs", finished + 1, "--resume").status == 0
    assert json.loads((out / "result.json").read_text())["epochs"] == finished + 1


@pytest.mark.parametrize(
    ("command", "name", "sentence"),
    [
        (["demo"], "fluctua.lab.demo.run_demo", "the demo was interrupted: the same command resumes where it"),
        (["train", "--data", "."], "fluctua.lab.train_file.train_file", "fluctua: interrupted"),
    ],
)
@pytest.mark.usefixtures("listening")
def test_ctrl_c_at_any_other_time_is_one_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: list[str], name: str, sentence: str
) -> None:
    def pressed(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

    monkeypatch.setattr(name, pressed)
    assert_sentence(run(*command), 130, sentence)


def test_an_error_that_nobody_expects_keeps_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: Any, **__: Any) -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr("fluctua.lab.demo.run_demo", wrong)
    monkeypatch.setattr("sys.argv", ["fluctua", "demo"])
    with pytest.raises(AssertionError, match="a bug"):
        cli.main()
