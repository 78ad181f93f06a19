"""Laws of the demo: it can be stopped and repeated, and what it says is what it measured."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")

import torch
from rich.console import Console
from torch import Tensor

import fluctua
from fluctua.lab.data import RandmanSettings, make_randman
from fluctua.lab.data.module import SpikeDataModule
from fluctua.lab.demo import DemoSettings, Outcome, conclusions, run_demo
from fluctua.lab.networks import LABELS, METHODS, FullyConnected, bring_up, feed_forward, network
from fluctua.lab.recipes import recipe_by_name
from fluctua.lab.results.figures import learning_figure, membrane_figure, raster_figure
from fluctua.lab.train_file import SHD, FileSettings
from fluctua.lab.training.fit import FitResult, fit
from fluctua.neurons import LI, LIF
from fluctua.theory import Target
from shared.layout import assert_legible, texts
from shared.spikes import spikes

TINY = DemoSettings(width=24, depth=2, dt=4e-3, epochs=2, samples_per_class=60, measured_on=100, batch_size=60)
FILES = {"overview.png", "membrane.png", "rasters.png", "learning.png", "results.csv"}


def run(out: Path, settings: DemoSettings = TINY, minutes: float = 60.0) -> tuple[list[Path], str]:
    console = Console(file=io.StringIO(), width=80)
    files = run_demo(out, console, minutes=minutes, settings=settings)
    assert isinstance(console.file, io.StringIO)
    return files, console.file.getvalue()


def table(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path], str]:
    """Folder, files and text of one tiny demo."""
    out = tmp_path_factory.mktemp("demo") / "new" / "folder"
    return out, *run(out)


Demo = tuple[Path, list[Path], str]


# --- what it leaves behind ---


def test_all_files_are_written_and_named(demo: Demo) -> None:
    out, files, text = demo
    assert {path.name for path in files} == FILES
    assert {path.name for path in out.iterdir()} == FILES | set(METHODS) | {".lock"}
    assert all(path.stat().st_size > 0 and str(path) in text for path in files)


def test_the_table_has_the_numbers_of_the_runs(demo: Demo) -> None:
    out, _, _ = demo
    rows = table(out)
    assert [row["initialisation"] for row in rows] == [LABELS[method] for method in METHODS]
    for method, row in zip(METHODS, rows, strict=True):
        with (out / method / "metrics.csv").open() as file:
            scores = [float(epoch["val_accuracy"]) for epoch in csv.DictReader(file)]
        assert float(row["1st epoch (%)"]) == pytest.approx(100 * scores[0], abs=0.05)
        assert float(row["best val (%)"]) == pytest.approx(100 * max(scores), abs=0.05)
        assert row["epochs"] == "2"


def test_the_table_has_the_state_before_training(demo: Demo) -> None:
    out, _, _ = demo
    train, val, test = make_randman(RandmanSettings(samples_per_class=TINY.samples_per_class), seed=TINY.seed)
    data = SpikeDataModule(train, val, test, dt=TINY.dt, duration=TINY.duration, seed=TINY.seed)
    x, _ = data.batch(TINY.measured_on)
    for method, row in zip(METHODS, table(out), strict=True):
        model = feed_forward(20, 10, width=24, depth=2, dt=4e-3, duration=0.2)
        last = bring_up(model, x, method, target=Target(xi=1.0), seed=TINY.seed)["3"]
        assert float(row["sigma_U"]) == pytest.approx(last.sigma_u, abs=0.005)
        assert float(row["rate (Hz)"]) == pytest.approx(last.rate, abs=0.05)
        assert float(row["silent (%)"]) == pytest.approx(100 * (last.silent or 0.0), abs=0.5)


def test_the_closing_sentences_say_what_the_table_says(demo: Demo) -> None:
    out, _, text = demo
    said = " ".join(text[text.index("Before training, the last hidden layer") :].split())
    states, scores = said.split(" With 2 epochs of the same training they reached: ")
    for row in table(out):
        name = re.escape(row["initialisation"])
        state = re.search(rf"{name}: sigma_U = (\S+), (\S+) Hz, (\S+)% of its neurons silent", states)
        score = re.search(rf"{name} (\S+)% after one epoch and (\S+)% on the test set at the end", scores)
        assert state is not None
        assert score is not None
        assert state.groups() == (row["sigma_U"], row["rate (Hz)"], row["silent (%)"])
        assert score.groups() == (row["1st epoch (%)"], row["test (%)"])


def test_the_tables_fit_a_terminal_of_80_columns(demo: Demo) -> None:
    out, _, text = demo
    assert "…" not in text
    row = next(line for line in text.splitlines() if "measured + balanced" in line and "─" not in line)
    assert row.split("balanced")[1].split() == list(table(out)[2].values())[1:]


# --- stopping and going on ---


@pytest.mark.usefixtures("undrawn")
def test_a_finished_demo_is_not_trained_again(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    out, _, text = demo
    weights = {method: (out / method / "last.ckpt").stat().st_mtime_ns for method in METHODS}
    before = table(out)
    _, again = run(out)
    assert {method: (out / method / "last.ckpt").stat().st_mtime_ns for method in METHODS} == weights
    assert table(out) == before
    assert again[again.index("Result") :] == text[text.index("Result") :]


@pytest.mark.usefixtures("undrawn")
def test_a_demo_stopped_half_way_ends_like_one_that_was_not(
    demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _, _ = demo
    calls = []

    def stopped(*args: Any, **kwargs: Any) -> FitResult:
        calls.append(kwargs["out_dir"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("fluctua.lab.demo.fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"kaiming", ".lock"}
    first = (tmp_path / "kaiming" / "last.ckpt").stat().st_mtime_ns
    run(tmp_path)
    assert (tmp_path / "kaiming" / "last.ckpt").stat().st_mtime_ns == first
    whole, resumed = table(out), table(tmp_path)
    for row in (*whole, *resumed):
        row.pop("seconds")
    assert resumed == whole


def test_another_demo_does_not_go_on_in_the_same_folder(demo: Demo) -> None:
    out, _, _ = demo
    for other in ({"width": 16}, {"xi": 2.0}):
        with pytest.raises(ValueError, match="holds a demo with other settings: choose another out_dir"):
            run(out, DemoSettings(**{**vars(TINY), **other}))


def test_a_demo_cut_short_says_so(demo: Demo) -> None:
    _, _, text = demo
    assert "cut short" not in text
    states = fluctua.inspect(feed_forward(20, 10, width=8, depth=1, dt=4e-3, duration=0.2), trains(20))

    def outcome(epochs: int) -> Outcome:
        history = [{"epoch": float(k + 1), "val_accuracy": 0.25} for k in range(epochs)]
        return Outcome(states, states, FitResult(history, {"test": 0.5}, 1, Path(), 1.0), [])

    _, equal = conclusions({"a": outcome(1), "b": outcome(1)})
    assert equal.startswith("With 1 epoch of the same training they reached: a 25.0% after one epoch and 50.0% on")
    _, cut = conclusions({"a": outcome(8), "b": outcome(5), "c": outcome(8)})
    assert cut.startswith(
        "With the same training, cut short by the time limit after 8, 5 and 8 epochs, they reached: a 25.0%"
    )


@pytest.mark.usefixtures("undrawn")
def test_a_time_limit_below_one_epoch_still_gives_a_result(tmp_path: Path) -> None:
    _, text = run(tmp_path, minutes=1e-5)
    assert "With 1 epoch of the same training they reached:" in " ".join(text.split())
    assert [row["epochs"] for row in table(tmp_path)] == ["1", "1", "1"]


def test_a_limit_that_is_no_time_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_minutes must be a positive number"):
        run(tmp_path / "out", minutes=-1.0)
    assert not (tmp_path / "out").exists()


# --- networks ---


def test_the_network_is_the_one_described() -> None:
    model = feed_forward(20, 10, width=24, depth=3, dt=4e-3, duration=0.2, tau_mem=15e-3, tau_syn=5e-3)
    shapes = [tuple(p.shape) for p in model.parameters()]
    assert shapes == [(24, 20), (24, 24), (24, 24), (10, 24)]
    neurons = [m for m in model if isinstance(m, LIF | LI)]
    assert [type(m) for m in neurons] == [LIF, LIF, LIF, LI]
    assert all(m.dt == 4e-3 for m in neurons)
    assert [round(float(m.tau_mem), 6) for m in neurons] == [0.015, 0.015, 0.015, 0.2]
    assert [m.tau_syn is not None and round(float(m.tau_syn), 6) for m in neurons] == [0.005] * 4


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_brings_up_the_same_network(method: Any) -> None:
    def weights(seed: int) -> list[Tensor]:
        model = feed_forward(20, 10, width=24, depth=2, dt=4e-3, duration=0.2)
        bring_up(model, trains(20), method, target=Target(), seed=seed)
        return [p.detach().clone() for p in model.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(weights(3), weights(3), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(weights(3), weights(4), strict=True))


def test_the_targets_are_met_by_the_measured_network() -> None:
    model = feed_forward(20, 10, width=24, depth=2, dt=4e-3, duration=0.2)
    report = bring_up(model, trains(20), "measured", target=Target(xi=2.0), seed=0)
    assert [p.sigma_u for p in report] == pytest.approx([0.5, 0.5, 0.1], rel=1e-3)


def test_file_settings_are_those_of_the_paper_on_shd() -> None:
    s = FileSettings()
    net = network(recipe_by_name(s.recipe).model)
    assert isinstance(net, FullyConnected)
    assert (s.dt, SHD.duration, net.width, net.depth, s.target) == (2e-3, 0.7, 128, 3, Target(xi=1.0))
    assert (s.duration, s.width, s.depth) == (None, None, None), "else these stand for the defaults of model and data"


# --- figures ---


def trains(n: int) -> Tensor:
    return spikes(100, 20, n)


def reports(depth: int) -> dict[str, fluctua.Report]:
    found = {}
    for method in METHODS:
        model = feed_forward(20, 10, width=24, depth=depth, dt=4e-3, duration=0.4)
        found[LABELS[method]] = bring_up(model, trains(20), method, target=Target(), seed=0)
    return found


@pytest.mark.parametrize("depth", [1, 3])
def test_the_figure_of_the_potentials_is_legible_and_complete(depth: int) -> None:
    states = reports(depth)
    figure = membrane_figure(states)
    assert_legible(figure)
    written = [t.get_text() for t in texts(figure)]
    for label, report in states.items():
        assert label in written
        for k, p in enumerate(report[:-1]):
            assert f"layer {k + 1}: $\\sigma_U$ = {p.sigma_u:.2f}, {p.rate:.1f} Hz, {p.silent:.0%} silent" in written


def test_the_legend_of_the_potentials_tells_target_from_measured_moments() -> None:
    figure = membrane_figure(reports(1))
    (legend,) = figure.legends
    entries = {t.get_text() for t in legend.get_texts()}
    assert entries == {"measured", "threshold", "target", "Gaussian of the same moments"}


def test_the_rasters_are_legible_and_hold_every_spike() -> None:
    states = reports(2)
    figure = raster_figure(states, states)
    assert_legible(figure)
    for row, report in enumerate(states.values()):
        for axis in figure.axes[2 * row : 2 * row + 2]:
            bands = [np.asarray(line.get_ydata(), float) for line in axis.lines]
            assert [len(band) for band in bands] == [len(p.plot_data.raster) for p in report[:-1]]
            upper, lower = bands
            if len(upper) and len(lower):
                assert upper.min() > lower.max()
            assert ("silent" in [t.get_text() for t in axis.texts]) == any(len(band) == 0 for band in bands)


@pytest.mark.parametrize("epochs", [1, 2, 30])
def test_the_learning_curves_are_legible_and_hold_every_epoch(epochs: int) -> None:
    history = [{"epoch": float(k + 1), "val_accuracy": 1 - 0.9**k, "train_loss": 2.3 * 0.9**k} for k in range(epochs)]
    histories = {f"network {k}": history for k in range(8)}  # more than there are colours
    figure = learning_figure(histories, 0.1)
    assert_legible(figure)
    accuracy, loss = figure.axes
    assert len(loss.lines) == 8
    curves = {str(line.get_label()): line for line in accuracy.lines}
    assert curves.keys() == {*histories, "chance"}
    np.testing.assert_allclose(
        np.asarray(curves["network 7"].get_ydata(), float), [100 * row["val_accuracy"] for row in history]
    )
    assert all(float(t.get_text()).is_integer() for t in texts(figure) if t in loss.get_xticklabels())
