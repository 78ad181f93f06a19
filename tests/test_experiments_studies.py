"""Laws of the studies: runs repeat, find all that their tables print, agree with theory, and draw legible figures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rich")
pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
pytest.importorskip("h5py")

from fluctua.data import RandmanSettings
from fluctua.experiments.runner_perform import perform
from fluctua.experiments.store import Record, Store
from fluctua.experiments.studies import STUDIES, Depth, RandmanTask, Recipe, Shallow, Theory
from fluctua.experiments.studies.methods import LABELS, PRIMED, UNBALANCED
from fluctua.experiments.sweep import Run, Study, runs_of
from layout import assert_legible

TINY = RandmanTask(n_classes=3, samples_per_class=30, duration=0.1, batch_size=24)
SHORT = Recipe(epochs=1, measured_on=40)
DEPTH = Depth(task=TINY, recipe=SHORT, width=16, depths=(1, 2), lrs=(5e-3,))
SHALLOW = Shallow(task=TINY, recipe=SHORT, width=16, sigmas=(0.5, 1.0), lrs=(5e-3,), rivals=("kaiming", "spikeinit"))
THEORY = Theory(n_in=200, width=200, samples=8, duration=1.0, further_xis=(0.5,), further_dts=(10e-3,))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Study], list[Record]]:
    """All runs of a study with one seed."""
    root = tmp_path_factory.mktemp("studies")
    known: dict[Study, list[Record]] = {}

    def done(study: Study) -> list[Record]:
        if study not in known:
            store = Store(root / type(study).__name__)
            store.open({})
            known[study] = [perform(run, store.root) for run in runs_of(study, 1)]
        return known[study]

    return done


STUDIES_HERE = pytest.mark.parametrize("study", [DEPTH, SHALLOW, THEORY], ids=["depth", "shallow", "theory"])


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


@STUDIES_HERE
def test_a_figure_of_a_single_run_can_be_drawn(study: Study, done: Callable[[Study], list[Record]]) -> None:
    assert study.figure(done(study)[-1:]).axes


@pytest.mark.parametrize("setting", [DEPTH.grid()[-1], DEPTH.grid()[4]], ids=["primed", "measured"])
def test_a_run_is_a_function_of_setting_and_seed(setting: dict[str, Any]) -> None:
    first, again, other = (Run(DEPTH, setting, seed)() for seed in (1, 1, 2))
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
    assert set(DEPTH.methods) | set(Shallow().rivals) | set(Shallow().methods) <= LABELS.keys()
    states = {r.setting["method"]: r.values["sigma_u"] for r in done(DEPTH) if r.setting["depth"] == 2}
    assert len(set(states.values())) == len(DEPTH.methods)
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
