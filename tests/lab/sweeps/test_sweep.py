"""Laws of sweeps: a grid is complete, and a run's name says all that decides about it."""

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("rich")

from fluctua.lab.studies import FSDD, STUDIES, Depth
from fluctua.lab.sweeps.study import Reference, Setting
from fluctua.lab.sweeps.sweep import Run, grid, in_words, only, runs_of
from shared.toy_study import Toy


def test_a_grid_has_every_combination_once_and_its_last_axis_runs_fastest() -> None:
    assert grid(a=(1, 2), b=("x", "y")) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]


def test_a_sweep_has_every_setting_with_every_seed_and_one_seed_of_all_comes_before_the_next() -> None:
    runs = runs_of(Toy(), 3)
    assert [run.seed for run in runs] == [0] * 6 + [1] * 6 + [2] * 6
    assert [run.setting for run in runs[6:12]] == Toy().grid()
    assert len({run.key for run in runs}) == 18


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("small", [False, True], ids=["full", "small"])
def test_no_two_runs_of_a_study_share_a_name_nor_a_setting_and_each_takes_time(name: str, small: bool) -> None:
    study = STUDIES[name].small if small else STUDIES[name].full
    runs = [Run(study, setting, seed) for setting in study.grid() for seed in range(2)]
    assert len({run.key for run in runs}) == len(runs) == len({(in_words(r.setting), r.seed) for r in runs})
    assert all(run.seconds > 0 for run in runs)
    assert all(set(study.chosen) <= run.setting.keys() for run in runs)


def test_a_name_changes_with_study_settings_grid_point_and_seed_but_not_with_the_folder_of_the_data() -> None:
    run = Run(Toy(), {"method": "a", "x": 1}, 0)
    others = [
        replace(run, study=Toy(pause=1.0)),
        replace(run, setting={"method": "a", "x": 2}),
        replace(run, seed=1),
        replace(run, study=Depth()),
    ]
    assert len({run.key, *(other.key for other in others)}) == 5
    assert replace(run, data=Path("elsewhere")).key == run.key
    assert run.key == Run(Toy(), {"method": "a", "x": 1}, 0).key


def test_nested_settings_take_part_in_the_name() -> None:
    study = Depth()
    setting: Setting = {"method": "measured", "depth": 1, "lr": 5e-3}
    longer = replace(study, recipe=replace(study.recipe, epochs=21))
    assert Run(study, setting, 0).key != Run(longer, setting, 0).key != Run(replace(study, task=FSDD), setting, 0).key


def test_a_name_is_a_file_name_whatever_the_setting() -> None:
    key = Run(Toy(), {"method": "../a b/ü" * 50, "x": 1}, 0).key
    assert "/" not in key
    assert len(key.encode()) < 200


def test_a_published_number_applies_where_all_its_axes_agree_and_nowhere_else() -> None:
    reference = Reference({"method": "a", "x": 1}, "score", 0.5, "source")
    assert reference.applies_to({"method": "a", "x": 1, "lr": 0.1})
    assert not reference.applies_to({"method": "a", "x": 2})
    assert not reference.applies_to({"method": "a"})


def test_a_missing_data_file_is_named_before_any_run(tmp_path: Path) -> None:
    study = Depth(task=FSDD)
    with pytest.raises(ValueError, match=r"fsdd_train.h5 is needed: give its folder with --data"):
        runs_of(study, 1)
    (tmp_path / "fsdd_train.h5").touch()
    with pytest.raises(ValueError, match=r"fsdd_test.h5 is not in"):
        runs_of(study, 1, tmp_path)
    (tmp_path / "fsdd_test.h5").touch()
    assert runs_of(study, 1, tmp_path)[0].data == tmp_path


def test_a_sweep_without_seeds_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one seed, got 0"):
        runs_of(Toy(), 0)


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        ([], {(m, x) for m in "ab" for x in (0, 1, 2)}),
        (["method=b"], {("b", 0), ("b", 1), ("b", 2)}),
        (["method=b", "x=0,2"], {("b", 0), ("b", 2)}),
    ],
    ids=["all", "one axis", "two axes"],
)
def test_a_part_of_the_grid_is_that_of_the_wanted_values(wanted: list[str], kept: set[tuple[str, int]]) -> None:
    assert {(run.setting["method"], run.setting["x"]) for run in only(runs_of(Toy(), 1), wanted)} == kept


def test_numbers_are_wanted_as_they_are_printed() -> None:
    assert {run.setting["lr"] for run in only(runs_of(Depth(), 1), ["lr=0.005"])} == {5e-3}


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ("method", "'method' chooses nothing: write AXIS=VALUE"),
        ("depth=1", "no setting has the axis 'depth': choose one of method, x"),
        ("x=7", "no run has x=7: choose among 0, 1, 2"),
    ],
    ids=["no value", "no axis", "no run"],
)
def test_a_part_that_is_not_there_is_refused(wish: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        only(runs_of(Toy(), 1), [wish])


def test_a_list_can_become_longer_and_runs_keep_their_names() -> None:
    def names(study: Depth) -> set[str]:
        return {run.key for run in runs_of(study, 1)}

    short, longer, wider = Depth(depths=(1,)), Depth(depths=(1, 3)), Depth(depths=(1,), width=64)
    assert names(short) < names(longer)
    assert names(short).isdisjoint(names(wider))
