"""Laws of `fluctua reproduce` and `fluctua report`: one command does the sweep, prints it, and says where it is."""

import csv
import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

import pytest

pytest.importorskip("rich")
pytest.importorskip("typer")
pytest.importorskip("lightning")
pytest.importorskip("matplotlib")

from fluctua.lab import cli
from fluctua.lab import reproduce as module
from fluctua.lab.reproduce import SweepFailed, SweepOptions, reproduce, study_named
from fluctua.lab.studies import STUDIES, Pair, Theory
from fluctua.lab.sweeps.runner_perform import perform
from fluctua.lab.sweeps.study import Record, Study
from fluctua.lab.sweeps.sweep import Run
from shared.toy_study import Toy, quiet, truth


def here(runs: Sequence[Run], root: Path) -> Generator[Record, None, None]:
    for run in runs:
        yield perform(run, root)


def options(out: Path, seeds: int, wanted: Sequence[str] = ()) -> SweepOptions:
    return SweepOptions(seeds, out, here, quiet(), wanted=wanted)


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, str]:
    """Run `fluctua ...` in this process: what it prints, and with which status or message it ends."""
    monkeypatch.setattr("sys.argv", ["fluctua", *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main()
    return capsys.readouterr().out, str(end.value.code)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toy studies instead of the real ones, done in this process."""
    studies = {"toy": Pair(Toy(), Toy(xs=(0, 1))), "broken": Pair(Toy(xs=(2,), fails_at=2), Toy())}
    monkeypatch.setattr(module, "STUDIES", studies)
    monkeypatch.setattr(cli, "Experiment", StrEnum("Experiment", {name: name for name in studies}))
    monkeypatch.setattr("fluctua.lab.sweeps.runner_local.local_processes", lambda workers: here)


def test_table_and_figure_are_written_and_agree_with_the_truth(tmp_path: Path) -> None:
    files = reproduce("toy", Toy(), options(tmp_path, 3))
    assert [path.name for path in files] == ["table.csv", "table.md", "figure.png", "figure.pdf"]
    starts = {".png": b"\x89PNG", ".pdf": b"%PDF"}
    assert all(path.read_bytes().startswith(starts.get(path.suffix, b"")) for path in files)
    with files[0].open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        scores = [truth(int(row["x"]), seed)["score"] for seed in range(3)]
        assert float(row["mean"]) == pytest.approx(sum(scores) / 3)
        assert float(row["low"]) < float(row["mean"]) < float(row["high"])
    assert [row["reference"] for row in rows] == ["", "1.75", "", "", "", ""]


def test_more_seeds_later_add_to_what_is_there(tmp_path: Path) -> None:
    for seeds in (1, 2):
        reproduce("toy", Toy(), options(tmp_path, seeds))
        with (tmp_path / "toy" / "table.csv").open() as file:
            assert {row["n"] for row in csv.DictReader(file)} == {str(seeds)}
    assert len(list((tmp_path / "toy" / "runs").iterdir())) == 12


def test_a_part_of_the_grid_can_be_done_first_and_results_are_of_all_that_is_finished(tmp_path: Path) -> None:
    for wanted, rows in ((["x=0"], 2), (["x=1", "method=a"], 3), ([], 6)):
        reproduce("toy", Toy(), options(tmp_path, 1, wanted))
        with (tmp_path / "toy" / "table.csv").open() as file:
            assert len(list(csv.DictReader(file))) == rows


def test_a_sweep_without_a_result_says_why(tmp_path: Path) -> None:
    with pytest.raises(SweepFailed, match="all runs of toy failed; the first error: ArithmeticError: x = 2"):
        reproduce("toy", Toy(xs=(2,), fails_at=2), options(tmp_path, 1))


def expected(study: Study, seeds: int) -> int:
    """Runs: the first seeds try all values of what is chosen, the others one."""
    kept = {tuple((k, v) for k, v in setting.items() if k not in study.chosen) for setting in study.grid()}
    first = seeds if study.choose_by is None else study.choose_by
    return first * len(study.grid()) + (seeds - first) * len(kept)


@dataclass(frozen=True, kw_only=True)
class Choosing(Toy):
    chosen: ClassVar[tuple[str, ...]] = ("x",)
    criterion: ClassVar[str] = "score"
    choose_by: ClassVar[int | None] = 2


def test_seeds_after_the_first_are_run_with_what_those_chose(tmp_path: Path) -> None:
    reproduce("toy", Choosing(), options(tmp_path, 4))
    assert len(list((tmp_path / "toy" / "runs").iterdir())) == expected(Choosing(), 4) == 2 * 6 + 2 * 2
    with (tmp_path / "toy" / "table.csv").open() as file:
        assert {(row["x"], row["n"]) for row in csv.DictReader(file)} == {("2", "4")}


@pytest.mark.usefixtures("toys")
def test_the_command_does_the_sweep_and_prints_where_its_results_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for options, folder, runs in ((["--seeds", 2], "toy", 12), (["--small"], "toy-small", 12)):
        out, code = run(monkeypatch, capsys, "reproduce", "toy", "--out", tmp_path, *options)
        assert code == "0"
        assert len(list((tmp_path / folder / "runs").iterdir())) == runs
        assert "score (%)" in out.partition("Written: ")[0]
        assert "175.0" in out  # published
        written = out.partition("Written: ")[2].strip().split(", ")
        assert [Path(path) for path in written] == [
            tmp_path / folder / name for name in ("table.csv", "table.md", "figure.png", "figure.pdf")
        ]
    out, code = run(monkeypatch, capsys, "reproduce", "toy", "--out", tmp_path, "--seeds", 2, "--json")
    assert [row["n"] for row in json.loads(out)] == [2] * 6
    out, code = run(monkeypatch, capsys, "report", tmp_path)
    assert (out, code) == (f"Written: {tmp_path / 'report.html'}\n", "0")


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("reproduce", "nonsense"), "unknown experiment 'nonsense': choose one of toy, broken"),
        (("reproduce", "broken", "--seeds", 1), "all runs of broken failed; the first error: ArithmeticError"),
        (("report", "nowhere"), "nowhere holds no results"),
    ],
    ids=["unknown", "broken", "empty"],
)
def test_what_goes_wrong_is_said_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: tuple[object, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    _, code = run(monkeypatch, capsys, *arguments)
    assert code.startswith(f"fluctua: {message}")


@pytest.mark.parametrize("arguments", [("reproduce", "--list"), ("reproduce",)], ids=["list", "no name"])
def test_without_a_name_the_list_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    out, code = run(monkeypatch, capsys, *arguments)
    assert (code, [name for name in STUDIES if name in out]) == ("0", list(STUDIES))
    out, _ = run(monkeypatch, capsys, *arguments, "--json")
    assert [row["name"] for row in json.loads(out)] == list(STUDIES)


def test_a_study_is_found_by_its_name_whole_or_small() -> None:
    assert study_named("theory", small=False) == Theory()
    assert study_named("theory", small=True) == STUDIES["theory"].small != Theory()
