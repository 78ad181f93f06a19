"""Laws of the list of experiments: all are in it, with their runs and files, on 80 columns."""

import io

import pytest

pytest.importorskip("rich")

from rich.console import Console

from fluctua.lab.catalogue import catalogue, listed
from fluctua.lab.reproduce import choosing
from fluctua.lab.studies import STUDIES
from fluctua.lab.sweeps.study import Study
from fluctua.lab.sweeps.sweep import Run


def runs(study: Study, seeds: int) -> int:
    """The first seeds try all values that are chosen, the others one of them."""
    first, rest = choosing(study, [Run(study, setting, seed) for setting in study.grid() for seed in range(seeds)])
    kept = {(run.seed, *((k, v) for k, v in run.setting.items() if k not in study.chosen)) for run in rest}
    return len(first) + len(kept)


def printed(width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(catalogue(3))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_every_experiment_is_there_with_its_runs_time_and_files() -> None:
    lines = {line.split()[0]: line.split() for line in printed(120).splitlines() if line.split()[:1]}
    for name, pair in STUDIES.items():
        for study in (pair.full, pair.small):
            assert str(runs(study, 3)) in lines[name]
            assert all(file in printed(120) for file in study.files)
    assert list(STUDIES) == [row["name"] for row in listed(3)]


def test_eighty_columns_are_enough() -> None:
    text = printed(80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    names = [line.split()[0] for line in text.splitlines() if line.split()[:1]]
    assert [name for name in STUDIES if name not in names] == []


def test_more_seeds_take_more_time() -> None:
    for name, one, three in zip(STUDIES, listed(1), listed(3), strict=True):
        assert one["full"]["runs"] < three["full"]["runs"] == runs(STUDIES[name].full, 3)
        assert one["full"]["seconds"] < three["full"]["seconds"] <= 3.001 * one["full"]["seconds"]
