"""Laws of the list of experiments: all are in it, with their runs and files, on 80 columns."""

import io

import pytest

pytest.importorskip("rich")

from rich.console import Console

from fluctua.lab.catalogue import catalogue, listed
from fluctua.lab.studies import STUDIES


def printed(width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(catalogue(3))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_every_experiment_is_there_with_its_runs_time_and_files() -> None:
    lines = {line.split()[0]: line.split() for line in printed(120).splitlines() if line.split()[:1]}
    for name, pair in STUDIES.items():
        for study in (pair.full, pair.small):
            assert str(3 * len(study.grid())) in lines[name]
            assert all(file in printed(120) for file in study.files)
    assert list(STUDIES) == [row["name"] for row in listed(3)]


def test_eighty_columns_are_enough() -> None:
    text = printed(80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    names = [line.split()[0] for line in text.splitlines() if line.split()[:1]]
    assert [name for name in STUDIES if name not in names] == []


def test_more_seeds_take_more_time() -> None:
    for one, three in zip(listed(1), listed(3), strict=True):
        assert three["full"]["runs"] == 3 * one["full"]["runs"]
        assert three["full"]["seconds"] == pytest.approx(3 * one["full"]["seconds"])
