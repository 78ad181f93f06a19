"""Laws of the studies: runs repeat, find all that their tables print, agree with theory, and draw legible figures."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rich")
pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
pytest.importorskip("h5py")

from fluctua.lab.data import RandmanSettings
from fluctua.lab.studies import (
    STUDIES,
    Ablation,
    DaleNets,
    Depth,
    DepthInTime,
    Digits,
    DirectStates,
    FileTask,
    Obstacles,
    RandmanTask,
    Rates,
    Recipe,
    Recurrence,
    Robustness,
    Shallow,
    Speakers,
    States,
    Targets,
    Theory,
    TimeConstants,
)
from fluctua.lab.studies.digits import ADAPTIVE
from fluctua.lab.studies.methods import LABELS, PRIMED, SHARE, UNBALANCED, start
from fluctua.lab.studies.robustness import CASES
from fluctua.lab.studies.speakers import KNOWN, UNHEARD
from fluctua.lab.studies.time_constants import KINDS, LEARNED, MIXED, SAME
from fluctua.lab.sweeps.runner_perform import perform
from fluctua.lab.sweeps.store import Store
from fluctua.lab.sweeps.study import Record, Study
from fluctua.lab.sweeps.sweep import Run, runs_of
from fluctua.layers import DaleLayer
from fluctua.neurons import LIF
from fluctua.theory import Target
from shared.data_files import write_shd
from shared.layout import assert_legible
from shared.outcomes import timeless

TINY = RandmanTask(n_classes=3, samples_per_class=30, duration=0.1, batch_size=24)
SHORT = Recipe(epochs=1, measured_on=40)
DEPTH = Depth(task=TINY, recipe=SHORT, width=16, depths=(1, 2), lrs=(5e-3,))
SHALLOW = Shallow(task=TINY, recipe=SHORT, width=16, sigmas=(0.5, 1.0), lrs=(5e-3,), baselines=("kaiming", "spikeinit"))
THEORY = Theory(n_in=200, width=200, samples=8, duration=1.0, further_xis=(0.5,), further_dts=(10e-3,))
IN_TIME = DepthInTime(task=TINY, recipe=SHORT, width=16, depths=(2,), methods=("measured",), lrs=(5e-3,), beta=3.0)
RECURRENCE = Recurrence(task=TINY, recipe=SHORT, width=16, alphas=(0.5, 0.9), lrs=(5e-3,))
DALE = DaleNets(task=TINY, recipe=SHORT, width=16, means=(0.0,), ratios=(2,), methods=("poisson",), lrs=(5e-3,))
RATES = Rates(task=TINY, recipe=SHORT, width=16, depth=2, rates=(3.0, 8.0), lrs=(5e-3,))
TARGETS = Targets(task=TINY, recipe=SHORT, width=16, depth=2, xis=(1.0, 2.0), lrs=(5e-3,))
TIMES = TimeConstants(task=TINY, recipe=SHORT, width=16, lrs=(5e-3,))
FILES = FileTask(train="train.h5", test="test.h5", dt=4e-3, duration=0.1, pool=70, batch_size=16)
ABLATION = Ablation(task=TINY, recipe=SHORT, width=16, depth=2, lrs=(5e-3,))
OBSTACLES = Obstacles(
    task=TINY,
    recipe=SHORT,
    width=16,
    lrs=(5e-3,),
    cases=("3 layers", "time + gradient"),
    methods=("measured",),
)
DIRECT = DirectStates(width=16, samples=16, depths=(1, 4), methods=("kaiming", "poisson", "measured"))
ROBUSTNESS = Robustness(
    task=FILES,
    recipe=replace(SHORT, measured_on=20),
    width=16,
    depth=2,
    methods=("kaiming", "measured"),
    cases=CASES[:7],
)
DIGITS = Digits(
    task=FILES,
    recipe=SHORT,
    networks=("fc", ADAPTIVE),
    methods=("kaiming", "measured"),
    lrs=(5e-3,),
)
SPEAKERS = Speakers(
    task=FILES,
    recipe=SHORT,
    networks=("fc", "dale"),
    methods=("kaiming", "measured"),
    dale_methods=("kaiming-folded", "poisson"),
    lrs=(5e-3,),
)
STATES = States(task=FILES, recordings=3, samples=4, width=32, depths=(1, 4), methods=("kaiming", "measured"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings in the layout of SHD: speakers 0 and 1 in training, 1 and 2 in the test."""
    root = tmp_path_factory.mktemp("recordings")
    write_shd(root / "train.h5", [*range(10)] * 6, speakers=[0] * 30 + [1] * 30)
    write_shd(root / "test.h5", [*range(10)] * 2, speakers=[1] * 10 + [2] * 10, seed=1)
    return root


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Callable[[Study], list[Record]]:
    """All runs of a study with one seed."""
    root = tmp_path_factory.mktemp("studies")
    known: dict[Study, list[Record]] = {}

    def done(study: Study) -> list[Record]:
        if study not in known:
            store = Store(root / type(study).__name__)
            store.open({})
            known[study] = [perform(run, store.root) for run in runs_of(study, 1, folder)]
        return known[study]

    return done


ALL = {
    "depth": DEPTH,
    "depth-time": IN_TIME,
    "shallow": SHALLOW,
    "theory": THEORY,
    "recurrence": RECURRENCE,
    "dale": DALE,
    "rates": RATES,
    "targets": TARGETS,
    "time-constants": TIMES,
    "speakers": SPEAKERS,
    "states": STATES,
    "ablation": ABLATION,
    "obstacles": OBSTACLES,
    "direct-states": DIRECT,
    "robustness": ROBUSTNESS,
    "digits": DIGITS,
}
STUDIES_HERE = pytest.mark.parametrize("study", ALL.values(), ids=ALL)


@STUDIES_HERE
def test_every_run_of_a_study_finds_all_that_its_table_prints(
    study: Study, done: Callable[[Study], list[Record]]
) -> None:
    records = done(study)
    assert [r.error for r in records] == [None] * len(records)
    assert all({m.name for m in study.measures} <= r.values.keys() for r in records)
    assert study.criterion in {"", *records[0].values}


@STUDIES_HERE
def test_the_figure_is_legible(study: Study, done: Callable[[Study], list[Record]]) -> None:
    assert_legible(study.figure(done(study)))


def test_a_single_depth_is_shown_by_epochs_and_layers(done: Callable[[Study], list[Record]]) -> None:
    figure = DEPTH.figure([r for r in done(DEPTH) if r.axis("depth") == 2])
    assert [axis.get_xlabel() for axis in figure.axes if axis.axison] == ["epoch", "hidden layer", "hidden layer"]
    assert_legible(figure)


@STUDIES_HERE
def test_a_figure_of_a_single_run_can_be_drawn(study: Study, done: Callable[[Study], list[Record]]) -> None:
    assert study.figure(done(study)[-1:]).axes


def test_a_trial_may_go_on_after_the_input() -> None:
    short, long = (replace(TINY, duration=t, heard=0.1).load(0, None).batch(20)[0] for t in (0.1, 0.3))
    assert (len(short), len(long)) == (50, 150)
    assert long[:50].equal(short)
    assert not long[50:].any()
    with pytest.raises(ValueError, match=r"heard=0\.2 s must be in \(0, 0\.1\]"):
        replace(TINY, heard=0.2)


@pytest.mark.parametrize("setting", [DEPTH.grid()[-1], DEPTH.grid()[4]], ids=["primed", "measured"])
def test_a_run_is_a_function_of_setting_and_seed(setting: dict[str, Any]) -> None:
    first, again, other = (timeless(Run(DEPTH, setting, seed)()) for seed in (1, 1, 2))
    assert first == again
    assert first.values != other.values


def test_the_free_potential_is_where_theory_says(done: Callable[[Study], list[Record]]) -> None:
    for r in done(THEORY):
        sigma = (1 - float(r.setting["mu_u"] or 0)) / float(r.setting["xi"] or 1)
        # Frozen weights: a variance over 200 neurons of 200 inputs each scatters by sqrt(2 / 40 000), but the inputs
        # are common to all neurons: 200 of them in 8 s at 10 Hz give 16 000 spikes, so sqrt(2 / 16 000); four of it.
        assert r.values["sigma_ratio"] == pytest.approx(1.0, abs=0.05)
        assert r.values["across_ratio"] == pytest.approx(1.0, abs=4 / (2 * 200) ** 0.5)
        # The mean of 200 neurons' means, each sqrt(nu eps_bar^2 / eps_hat) sigma = 0.7 sigma around it; four of it.
        assert r.values["mu_u"] == pytest.approx(r.values["mu_u_theory"], abs=4 * 0.7 * sigma / 200**0.5)


def test_continuous_kernel_sums_miss_the_target_by_what_the_closed_forms_say(
    done: Callable[[Study], list[Record]],
) -> None:
    at = {float(r.setting["dt"] or 0): r.values for r in done(THEORY) if (r.setting["xi"], r.setting["mu_u"]) == (1, 0)}
    for dt, excess in ((2e-3, 1.22), (10e-3, 2.68)):  # of eps_hat, shared/paper.md A.10
        ratio = at[dt]["sigma_ratio_continuous"] / at[dt]["sigma_ratio"]
        assert ratio**2 == pytest.approx(excess, abs=0.01)


def test_spikes_are_as_frequent_as_crossings_where_they_are_rare_and_above_them_where_they_come_in_bursts(
    done: Callable[[Study], list[Record]],
) -> None:
    rates = {r.setting["xi"]: r.values for r in done(THEORY) if (r.setting["mu_u"], r.setting["dt"]) == (0, 2e-3)}
    by_xi = [rates[xi]["rate"] for xi in (0.5, 1.0, 2.0, 3.0)]
    assert by_xi == sorted(by_xi, reverse=True)
    assert all(v["rate_theory"] < v["rate_theory_spread"] for xi, v in rates.items() if float(xi or 0) > 1)
    assert all(v["rate"] > v["rate_theory"] for v in rates.values())


def test_every_method_of_a_study_has_a_label_and_reaches_its_own_state(done: Callable[[Study], list[Record]]) -> None:
    assert set(DEPTH.methods) | set(Shallow().baselines) | set(Shallow().methods) <= LABELS.keys()
    here = {r.setting["method"]: r.values for r in done(DEPTH) if r.setting["depth"] == 2}
    states = {method: values["sigma_u"] for method, values in here.items()}
    alive = [states[method] for method in DEPTH.methods if states[method] and method != SHARE]
    assert len(set(alive)) == len(alive) > 4
    assert states[SHARE] == states["measured"]  # the way back alone is another
    assert here[SHARE]["gradient_first"] != here["measured"]["gradient_first"]
    assert states["measured"] == pytest.approx(1.0, rel=0.01)
    assert states[UNBALANCED] == pytest.approx(1.0, rel=0.01)
    assert states[PRIMED] != states["poisson"]


def test_a_target_is_reached(done: Callable[[Study], list[Record]]) -> None:
    found = {r.setting["sigma_u"]: r.values for r in done(SHALLOW) if r.setting["method"] == "measured"}
    for sigma, values in found.items():
        assert values["sigma_u"] == pytest.approx(sigma, rel=0.01)


def test_the_seed_draws_the_task_so_that_methods_meet_the_same() -> None:
    first, again, other = (TINY.load(seed, None).batch(20)[0] for seed in (0, 0, 1))
    assert first.equal(again)
    assert not first.equal(other)
    assert RandmanSettings(alpha=TINY.alpha).n_units == first.shape[2]


def test_files_are_read_from_the_folder_that_is_given(tmp_path: Path) -> None:
    study = STUDIES["shallow-shd"].small
    setting = study.grid()[0]
    with pytest.raises(OSError, match=r"fsdd_(train|test)\.h5"):
        study.run(setting, 0, tmp_path)


def test_speakers_are_told_apart(done: Callable[[Study], list[Record]]) -> None:
    for r in done(SPEAKERS):  # the bands of the digits are the same for all speakers; ten samples each
        assert r.values["test"] == pytest.approx((r.values[KNOWN] + r.values[UNHEARD]) / 2)


def test_networks_under_dales_law_have_baselines_of_their_own() -> None:
    methods = {(setting["network"], setting["method"]) for setting in SPEAKERS.grid()}
    assert {method for network, method in methods if network == "dale"} == {"kaiming-folded", "poisson"}
    assert {method for network, method in methods if network == "fc"} == {"kaiming", "measured"}


def test_the_share_of_recurrence_is_as_asked() -> None:
    x = TINY.load(0, None).batch(60)[0]
    for setting in RECURRENCE.grid()[2:4]:
        model = RECURRENCE.network(setting).build((x.shape[2],), 3, dt=TINY.dt, duration=TINY.duration)
        report = start(model, x, "measured", target=Target(), seed=0, bounds="randman", alpha=RECURRENCE.alpha(setting))
        share = next(q.share for q in report[0].pathways if q.name.startswith("0"))
        assert share == pytest.approx(float(setting["alpha"] or 0), abs=0.05)


def test_a_dale_network_has_as_many_inhibitory_neurons_as_its_ratio_says() -> None:
    for setting in DALE.grid():
        layer = next(iter(DALE.network(setting).build((20,), 3, dt=2e-3, duration=0.1)))
        assert isinstance(layer, DaleLayer)
        sizes = [weight.shape[0] for weight in (layer.input_exc.weight, layer.input_inh.weight)]
        assert sizes == [16, 16 // int(setting["ratio"] or 1)]


def test_measurement_brings_a_network_to_the_rate_that_is_asked_for(done: Callable[[Study], list[Record]]) -> None:
    found = {r.setting["target_rate"]: r.values for r in done(RATES) if r.setting["method"] == "measured"}
    for rate, values in found.items():  # 16 neurons, 40 samples of 0.1 s: 64 s, counts scatter by their roots; four
        assert values["rate"] == pytest.approx(rate, rel=0.1, abs=4 * (float(rate or 0) / 64) ** 0.5)


def test_time_constants_are_of_their_kind() -> None:
    for setting in TIMES.grid()[: len(KINDS)]:
        network = TIMES.network(setting).build((20,), 3, dt=2e-3, duration=0.1)
        neurons = next(module for module in network if isinstance(module, LIF))
        kind = setting["time_constants"]
        assert (neurons.tau_mem.numel() > 1) == (kind in (MIXED, LEARNED))
        assert bool(list(neurons.parameters())) == (kind == LEARNED)
        assert kind in (SAME, MIXED, LEARNED)


def test_our_state_outlives_depth_and_kaimings_does_not(done: Callable[[Study], list[Record]]) -> None:
    deep = {r.setting["method"]: r for r in done(STATES) if r.setting["depth"] == 4}
    assert deep["measured"].values["sigma_u"] == pytest.approx(1.0, abs=0.25)  # other recordings than measured on
    assert deep["measured"].values["rate"] > 1
    assert deep["kaiming"].values["rate"] < 0.1 * deep["measured"].values["rate"]


def test_a_blunter_surrogate_hands_more_of_the_gradient_on(done: Callable[[Study], list[Record]]) -> None:
    blunt = done(IN_TIME)[0].values["gradient_first"]
    usual = next(r for r in done(DEPTH) if (r.setting["method"], r.setting["depth"]) == ("measured", 2)).values[
        "gradient_first"
    ]
    assert blunt > 2 * usual
