"""The modern recipe: its dropout, network and ingredients, `fluctua train --recipe`, and the study that uses it."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("rich")
pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
pytest.importorskip("h5py")
pytest.importorskip("typer")

import fluctua
from fluctua.homeostasis.optimizers import make_optimizer
from fluctua.lab import cli
from fluctua.lab.networks import NETWORKS, ModernRecurrent, bring_up, network
from fluctua.lab.networks.dropout import DropUnits
from fluctua.lab.recipes import RECIPES, Ingredients, recipe_by_name
from fluctua.lab.studies.modern import MODERN, PAPER, VARIANTS, Modern
from fluctua.lab.studies.speakers import KNOWN, UNHEARD
from fluctua.lab.studies.task import FileTask
from fluctua.lab.sweeps.runner_perform import perform
from fluctua.lab.sweeps.store import Store
from fluctua.lab.sweeps.study import Record
from fluctua.lab.sweeps.sweep import Run, runs_of
from fluctua.lab.train_file import FileSettings
from fluctua.layers import FusedSequential
from fluctua.neurons import LI, LIF, AdaptiveLIF
from fluctua.theory import Target
from fluctua.timeloop import events_layers
from shared.data_files import write_shd
from shared.layout import assert_legible
from shared.outcomes import timeless
from shared.spikes import spikes

DT = 4e-3


def trains(steps: int = 50, samples: int = 20) -> Tensor:
    return spikes(steps, samples, 40)


# --- dropout of units ---


def test_a_unit_is_dropped_for_the_whole_of_a_sample_or_not_at_all() -> None:
    torch.manual_seed(0)
    p, samples, units = 0.4, 50, 200
    y = DropUnits(p)(torch.ones(7, samples, units))
    assert (y == y[0]).all()
    assert sorted(y.unique().tolist()) == pytest.approx([0.0, 1 / (1 - p)])
    # Four standard deviations of a share among so many units.
    assert float((y[0] == 0).float().mean()) == pytest.approx(p, abs=4 * (p * (1 - p) / (samples * units)) ** 0.5)
    assert len({tuple(row) for row in y[0].tolist()}) == samples  # every sample has units of its own


def test_nothing_is_dropped_in_evaluation_or_with_probability_0() -> None:
    x = trains()
    assert DropUnits(0.4).eval()(x) is x
    assert DropUnits(0.0)(x) is x


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_a_probability_that_leaves_no_unit_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match=rf"must be in \[0, 1\), got {p}"):
        DropUnits(p)


# --- the network ---


def built(settings: ModernRecurrent, units: int = 40) -> nn.Sequential:
    return settings.build((units,), 3, dt=DT, duration=0.2)


def test_it_runs_fused_between_its_dropouts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = built(ModernRecurrent(width=24)), trains()
    fused: list[int] = []
    run = events_layers.run_layers

    def spy(x: Tensor, layers: Any, *others: Any) -> tuple[Tensor, ...]:
        fused.append(len(layers))
        return run(x, layers, *others)

    monkeypatch.setattr(events_layers, "run_layers", spy)
    model(x)
    assert fused == [1, 1]  # the recurrent layer with the weight in front of it, and the readout with its own
    fused.clear()
    model.eval()(x)
    assert sum(fused) == 2


@pytest.mark.parametrize("adaptation", [0.0, 0.25])
def test_fused_it_computes_what_its_modules_compute_one_by_one(adaptation: float) -> None:
    model, x = built(ModernRecurrent(width=24, adaptation=adaptation)).double(), trains().double()
    bring_up(model, x, "measured", target=Target(), seed=0)
    outputs, gradients = [], []
    for as_chain in (True, False):
        torch.manual_seed(1)  # the same units drop out
        output = model(x) if as_chain else nn.Sequential(*model)(x)
        outputs.append(output)
        gradients.append(torch.autograd.grad(output.square().sum(), list(model.parameters())))
    assert isinstance(model, FusedSequential)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-10, atol=1e-10)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * float(theirs.abs().max()))


def test_it_is_initialised_with_its_dropout_on() -> None:
    """So in evaluation, where every sample has all units again, there is less to fluctuate.

    With f the filtered spikes of a unit, dropout brings its share of the variance from `<f^2> - <f>^2` (weights are
    balanced) to `<f^2> / (1 - p) - <f>^2`.
    """
    x, model = trains(samples=100), built(ModernRecurrent(width=60, spread=0.0))
    report = bring_up(model, x, "measured", target=Target(), seed=0)
    assert report[0].sigma_u == pytest.approx(1.0, abs=0.1)  # a circuit may be a tenth off
    f = LI(20e-3, 10e-3, DT)(x)
    square, mean = f.square().mean((0, 1)).sum(), f.mean((0, 1)).square().sum()
    ratio = float((square - mean) / (square / 0.6 - mean)) ** 0.5
    # A tenth of the variance is recurrent.
    assert fluctua.inspect(model.eval(), x)[0].sigma_u / report[0].sigma_u == pytest.approx(ratio, abs=0.05)


def cell_of(settings: ModernRecurrent, dt: float = DT) -> LIF:
    (cell,) = (m for m in settings.build((40,), 3, dt=dt, duration=0.2).modules() if isinstance(m, LIF))
    return cell


def test_time_constants_differ_between_neurons_and_not_between_networks() -> None:
    one, other = (cell_of(ModernRecurrent(width=2000)) for _ in range(2))
    assert one.tau_mem.equal(other.tau_mem)
    # A gamma law of shape 3: the mean of 2000 is off by 20 ms / sqrt(3 * 2000); clipping at 4 ms adds some 2 %.
    assert float(one.tau_mem.mean()) == pytest.approx(20e-3, abs=0.4e-3 + 4 * 20e-3 / 6000**0.5)
    assert float(one.tau_mem.std() / one.tau_mem.mean()) == pytest.approx(3**-0.5, rel=0.1)
    same = cell_of(ModernRecurrent(width=5, spread=0.0))
    assert sorted(set(same.tau_mem.reshape(-1).tolist())) == pytest.approx([20e-3])


@pytest.mark.parametrize("dt", [1e-3, 4e-3])
def test_a_spike_raises_the_threshold_by_the_same_at_any_time_step(dt: float) -> None:
    cell = cell_of(ModernRecurrent(width=3, adaptation=0.3), dt)
    assert isinstance(cell, AdaptiveLIF)
    current = torch.zeros(60, 1, 3)
    current[0] = 1e3
    first = int(cell(current)[:, 0, 0].nonzero()[0])
    state = cell.simulate(current[: first + 1]).state
    assert state.adaptation is not None
    assert float(state.adaptation[0, 0]) == pytest.approx(0.3, rel=1e-5)


def test_the_networks_by_name_differ_by_adaptation_alone() -> None:
    plain, adaptive = asdict(network("modern")), asdict(network("modern-adaptive"))
    assert {name for name in plain if plain[name] != adaptive[name]} == {"adaptation"}


# --- recipes ---


def test_options_override_the_recipe_one_by_one() -> None:
    assert FileSettings().ingredients == RECIPES["plain"]
    assert FileSettings(recipe="modern").ingredients == RECIPES["modern"]
    other = FileSettings(recipe="modern", model="shd-conv", lr=0.1, augment=False, weight_decay=0.0).ingredients
    assert other == replace(RECIPES["modern"], model="shd-conv", lr=0.1, augment=False, weight_decay=0.0)


def test_ingredients_become_settings() -> None:
    settings = RECIPES["modern"].settings(epochs=7, seed=3, max_minutes=2.0)
    assert (settings.epochs, settings.seed, settings.max_minutes) == (7, 3, 2.0)
    assert (settings.loss, settings.schedule, settings.optimizer) == ("sum_of_softmax", "cosine", "adamw")
    assert settings.optimizer_options == {"weight_decay": 1e-2}
    assert RECIPES["paper"].settings(epochs=1, seed=0).optimizer_options == {}


def test_no_weight_decay_is_none_whatever_the_optimiser_would_take() -> None:
    settings = replace(RECIPES["modern"], weight_decay=0.0).settings(epochs=1, seed=0)
    optimizer = make_optimizer(settings.optimizer, [nn.Parameter(torch.ones(1))], 0.1, **settings.optimizer_options)
    assert optimizer.param_groups[0]["weight_decay"] == 0.0


def test_what_no_recipe_can_be_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown recipe 'old': choose one of plain, paper, modern"):
        recipe_by_name("old")
    with pytest.raises(ValueError, match=r"smorms3 has no weight decay, but 0.1 was asked for: set it to 0"):
        Ingredients(optimizer="smorms3", weight_decay=0.1).settings(epochs=1, seed=0)


def test_every_recipe_has_a_network() -> None:
    assert all(recipe.model in NETWORKS for recipe in RECIPES.values())


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two files; of the three speakers of the test two are in the training file."""
    folder = tmp_path_factory.mktemp("words")
    labels = [k % 4 for k in range(48)]
    write_shd(folder / "train.h5", labels, [k % 2 for k in range(48)])
    write_shd(folder / "test.h5", labels[:24], [k // 8 for k in range(24)], seed=1)
    return folder


def test_train_follows_the_recipe(words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ["--data", words / "train.h5", "--test", words / "test.h5"]
    tiny = ["--width", 12, "--dt", DT, "--duration", 0.1, "--batch-size", 8, "--epochs", 3]
    weights = []
    for k in range(2):
        out = tmp_path / str(k)
        arguments = ["fluctua", "train", *files, *tiny, "--recipe", "modern", "--lr", 0.02, "--out", out]
        monkeypatch.setattr("sys.argv", [str(word) for word in arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        result: dict[str, Any] = json.loads((out / "result.json").read_text())
        weights.append((out / "model.safetensors").read_bytes())
    chosen = {name: result["settings"][name] for name in ("lr", "loss", "optimizer", "schedule", "optimizer_options")}
    assert chosen == {
        "lr": 0.02,
        "loss": "sum_of_softmax",
        "optimizer": "adamw",
        "schedule": "cosine",
        "optimizer_options": {"weight_decay": 0.01},
    }
    assert {"test", KNOWN, UNHEARD} == result["test"].keys()
    assert weights[0] == weights[1]  # the same seed, dropout included


# --- the study ---

TASK = FileTask(train="train.h5", test="test.h5", dt=DT, duration=0.1, batch_size=16, shift=10)
STUDY = Modern(task=TASK, task_name="words", network=ModernRecurrent(width=12), epochs=2)


@pytest.fixture(scope="module")
def done(words: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """All runs of the study with one seed."""
    store = Store(tmp_path_factory.mktemp("store"))
    store.open({})
    return [perform(run, store.root) for run in runs_of(STUDY, 1, words)]


def test_every_run_finds_all_that_the_table_prints(done: list[Record]) -> None:
    assert [r.error for r in done] == [None] * (2 + len(VARIANTS))
    assert all({m.name for m in STUDY.measures} <= r.values.keys() for r in done)


def test_every_recipe_ends_elsewhere(done: list[Record]) -> None:
    assert len({tuple(r.curves["train_loss"]) for r in done}) == len(done)


def test_the_figure_is_legible(done: list[Record]) -> None:
    assert_legible(STUDY.figure(done))


def test_a_figure_of_a_single_run_can_be_drawn(done: list[Record]) -> None:
    assert STUDY.figure(done[-1:]).axes


def test_a_run_is_a_function_of_setting_and_seed(words: Path) -> None:
    setting = {"task": "words", "recipe": MODERN}
    torch.manual_seed(5)
    first = timeless(Run(STUDY, setting, 1, words)())
    torch.manual_seed(6)
    assert first == timeless(Run(STUDY, setting, 1, words)())
    assert first != timeless(Run(STUDY, setting, 2, words)())


def facts(recipe: str) -> dict[str, Any]:
    mix = STUDY.mix(recipe)
    return asdict(mix.network) | asdict(mix.ingredients)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_differs_from_the_modern_recipe_in_what_it_says(variant: str) -> None:
    whole, part = facts(MODERN), facts(variant)
    assert {name: value for name, value in part.items() if value != whole[name]} == {
        name: value for name, value in VARIANTS[variant].items() if value != whole[name]
    }
    assert part != whole


def test_the_recipe_of_the_paper_has_a_network_of_the_same_size() -> None:
    paper, modern = (STUDY.mix(recipe).network.build((30,), 4, dt=DT, duration=0.1) for recipe in (PAPER, MODERN))
    assert [p.shape for p in paper.parameters()] == [p.shape for p in modern.parameters()]


@pytest.mark.parametrize(
    "task", [replace(TASK, shift=300), replace(TASK, shift=0, stretch=0.5)], ids=["shift", "stretch"]
)
def test_what_alters_samples_reaches_those_of_training_alone(words: Path, task: FileTask) -> None:
    shifted, plain = (some.load(0, words) for some in (task, replace(TASK, shift=0)))
    assert shifted.test_names == plain.test_names == ("test", KNOWN, UNHEARD)
    batch: Callable[[Any, str], Tensor] = lambda data, split: data.batch(4, split)[0]  # noqa: E731
    assert not batch(shifted, "train").equal(batch(plain, "train"))
    assert all(batch(shifted, split).equal(batch(plain, split)) for split in ("val", *plain.test_names))
