"""Laws of the table: its statistics are the textbook's, and choices are made on validation data alone."""

import csv
import io
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

pytest.importorskip("rich")

from fluctua.lab.results.aggregate import Summary, chosen_settings, interval, student_quantile, summarise
from fluctua.lab.results.table import VERSUS, as_csv, as_markdown, cells
from fluctua.lab.sweeps.study import Measure, Record, Setting
from fluctua.lab.sweeps.sweep import grid
from shared.toy_study import Toy

# 97.5 % quantiles of Student's t as in any textbook, to three decimals.
TEXTBOOK = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 30: 2.042, 120: 1.980}


@pytest.mark.parametrize("dof", TEXTBOOK)
def test_quantiles_of_students_t_are_the_textbooks(dof: int) -> None:
    assert student_quantile(dof) == pytest.approx(TEXTBOOK[dof], abs=5e-4)


def test_quantiles_of_students_t_agree_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for dof in range(1, 60):
        for level in (0.5, 0.9, 0.95, 0.999):
            # A double holds the angle to 1e-16 of its value, which the tangent makes 1e-13 of a t of a thousand.
            assert student_quantile(dof, level) == pytest.approx(stats.t.ppf(0.5 + level / 2, dof), rel=1e-11)


@pytest.mark.parametrize(("dof", "level"), [(0, 0.95), (3, 1.0), (3, 0.0)])
def test_a_quantile_that_does_not_exist_is_refused(dof: int, level: float) -> None:
    with pytest.raises(ValueError, match="needs dof >= 1 and a level"):
        student_quantile(dof, level)


def test_the_interval_covers_the_truth_in_95_of_100_cases() -> None:
    draws = np.random.default_rng(0).normal(3.0, 2.0, (4000, 3))
    covered = [abs(mean - 3.0) < half for mean, _, half in map(interval, draws.tolist())]
    assert np.mean(covered) == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 4000))


def test_mean_and_standard_deviation_are_those_of_a_sample() -> None:
    mean, std, half = interval([1.0, 2.0, 6.0])
    assert (mean, std) == pytest.approx((3.0, math.sqrt(7.0)))
    assert half == pytest.approx(4.303 * math.sqrt(7 / 3), rel=1e-3)


def test_one_run_has_no_interval() -> None:
    mean, std, half = interval([0.25])
    assert (mean, math.isnan(std), math.isnan(half)) == (0.25, True, True)


# --- of studies ---


@dataclass(frozen=True, kw_only=True)
class Choosing(Toy):
    chosen: ClassVar[tuple[str, ...]] = ("lr",)
    criterion: ClassVar[str] = "val"

    def grid(self) -> list[Setting]:
        return grid(method=("a", "b"), lr=(0.1, 0.2, 0.3))


def record(setting: Setting, seed: int, **values: float) -> Record:
    return Record(f"{setting}{seed}", setting, seed, values)


def test_an_axis_is_chosen_by_the_mean_on_validation_data_whatever_the_test_data_say() -> None:
    val = {("a", 0.1): (0.9, 0.1), ("a", 0.2): (0.6, 0.6), ("a", 0.3): (0.5, 0.5), ("b", 0.3): (0.2, 0.2)}
    records = [
        record({"method": method, "lr": lr}, seed, val=score, score=1 - score)
        for (method, lr), scores in val.items()
        for seed, score in enumerate(scores)
    ]
    chosen = [{"method": "a", "lr": 0.2}, {"method": "b", "lr": 0.3}]
    assert chosen_settings(Choosing(), records) == chosen
    rows = summarise(Choosing(), records, [])
    assert [row.setting for row in rows] == chosen
    assert [row.mean for row in rows] == pytest.approx([0.4, 0.8])


def test_a_setting_whose_runs_all_failed_stays_in_the_table() -> None:
    records = [record({"method": "a", "lr": 0.2}, 0, val=0.1, score=0.3)]
    failed = [Record("f", {"method": "b", "lr": lr}, 0, error="no") for lr in (0.1, 0.2, 0.3)]
    good, bad = summarise(Choosing(), records, failed)
    assert (good.setting, good.mean, good.n, good.failed) == ({"method": "a", "lr": 0.2}, 0.3, 1, 0)
    assert (bad.setting, bad.n, bad.failed) == ({"method": "b", "lr": 0.1}, 0, 1)
    assert math.isnan(bad.mean)
    assert cells(Toy.measures[0], bad) == ["", "", "0", "", "1", "", "", "", "", ""]


def test_the_table_has_a_row_per_setting_with_its_failures_and_the_published_number() -> None:
    settings = Toy().grid()
    records = [record(setting, seed, score=seed + 1.0) for setting in settings[:3] for seed in range(2)]
    failed = [Record("f", settings[1], 2, error="no")]
    rows = summarise(Toy(), records, failed)
    assert [row.setting for row in rows] == settings[:3]
    assert [row.n for row in rows] == [2, 2, 2]
    assert [row.failed for row in rows] == [0, 1, 0]
    assert [row.reference for row in rows] == [None, 1.75, None]


def test_the_csv_has_every_digit_and_the_ends_of_the_interval() -> None:
    rows = list(
        csv.DictReader(
            io.StringIO(as_csv([Summary({"x": 1}, "score", 1 / 3, 0.1, 3, 1 / 3 - 0.25, 1 / 3 + 0.25, 1, 0.5, "a, b")]))
        )
    )
    assert rows == [
        {
            "x": "1",
            "measure": "score",
            "mean": repr(1 / 3),
            "std": "0.1",
            "n": "3",
            "low": repr(1 / 3 - 0.25),
            "high": repr(1 / 3 + 0.25),
            "failed": "1",
            "reference": "0.5",
            "source": "a, b",
            **dict.fromkeys(VERSUS, ""),
        }
    ]


def test_the_markdown_shows_the_unit_of_the_label_and_leaves_out_empty_columns() -> None:
    text = as_markdown(Toy(), [Summary({"x": 1, "method": None}, "score", 0.5, math.nan, 1, math.nan, math.nan)])
    table = ["| x | method | mean | n |", "|---|---|---|---|", "| 1 | - | 50.0 | 1 |"]
    assert text.splitlines()[4:] == ["## Score (%)", "", *table]
    full = Summary({"x": 1}, "score", 0.5, 0.02, 3, 0.4503, 0.5497, 2, 0.6, "somewhere")
    assert cells(Toy.measures[0], full) == ["50.0", "2.0", "3", "45.0 to 55.0", "2", "60.0", "", "", "", ""]
    assert as_markdown(Toy(), [full]).splitlines()[-1] == "Published: somewhere."


# --- of pairs, and of what is possible ---


@dataclass(frozen=True, kw_only=True)
class Comparing(Choosing):
    measures: ClassVar[tuple[Measure, ...]] = (Measure("score", "score (%)", factor=100, within=(0, 1)),)
    compared_to: ClassVar[str] = "a"
    choose_by: ClassVar[int | None] = 2


def test_no_interval_leaves_what_is_possible() -> None:
    records = [record({"method": "a", "lr": 0.1}, seed, val=1.0, score=score) for seed, score in enumerate((0.4, 1.0))]
    (row,) = summarise(Comparing(), records, [])
    assert (row.low, row.high) == (0.0, 1.0)  # Student's t for two runs is wider than that


def test_every_method_is_compared_with_one_seed_by_seed_whatever_was_chosen_for_either() -> None:
    ours = [record({"method": "a", "lr": 0.1}, seed, val=1.0, score=0.5 + 0.1 * seed) for seed in range(5)]
    theirs = [record({"method": "b", "lr": 0.3}, seed, val=1.0, score=0.4 + 0.1 * seed) for seed in range(1, 5)]
    reference, other = summarise(Comparing(), [*theirs, *ours], [])
    assert (reference.setting["method"], reference.versus) == ("a", None)
    assert other.versus is not None
    assert other.versus.mean == pytest.approx(-0.1)  # of the means over all seeds it would be less
    assert (other.versus.n, other.versus.more, other.versus.less) == (4, 0, 4)
    (line,) = csv.DictReader(io.StringIO(as_csv([other])))
    assert [line[name] for name in ("pairs", "more", "less")] == ["4", "0", "4"]
    assert "0:4" in cells(Comparing.measures[0], other)


def test_only_the_first_seeds_choose() -> None:
    early = [record({"method": "a", "lr": 0.1}, seed, val=0.9, score=0.9) for seed in (0, 1)]
    late = [record({"method": "a", "lr": 0.2}, seed, val=1.0, score=0.8) for seed in (2, 3)]
    assert chosen_settings(Comparing(), [*early, *late])[0] == {"method": "a", "lr": 0.1}
