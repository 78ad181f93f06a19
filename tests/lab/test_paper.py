"""Laws of `fluctua reproduce paper`: every published number stands beside ours, or beside why there is none."""

import io
import json
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from rich.console import Console

from fluctua.lab import paper, reproduce
from fluctua.lab.reproduce import SweepOptions
from fluctua.lab.studies import STUDIES, Pair
from fluctua.lab.sweeps.runner_perform import perform
from fluctua.lab.sweeps.study import Record
from fluctua.lab.sweeps.sweep import Run
from shared.toy_study import Toy, truth


class WithFiles(Toy):
    """A toy that needs a file."""

    @property
    def files(self) -> tuple[str, ...]:
        return ("recordings.h5",)


def here(runs: Sequence[Run], root: Path) -> Generator[Record, None, None]:
    for run in runs:
        yield perform(run, root)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    studies = {"toy": Pair(Toy(), Toy(xs=(1,))), "files": Pair(WithFiles(), WithFiles())}
    monkeypatch.setattr(reproduce, "STUDIES", studies)
    monkeypatch.setattr(paper, "EXPERIMENTS", tuple(studies))


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize("small", [True, False])
def test_published_numbers_stand_beside_ours_and_what_lacks_its_files_is_named(tmp_path: Path, small: bool) -> None:
    console = Console(file=(text := io.StringIO()), width=80)
    found = paper.reproduce_paper(SweepOptions(2, tmp_path, here, console, tmp_path), small=small)
    ours, without = found
    scores = [truth(1, seed)["score"] for seed in range(2)]
    assert (ours.published, ours.runs) == (1.75, 2)
    assert ours.mean == pytest.approx(sum(scores) / 2)
    assert (without.published, without.mean, without.printed) == (1.75, None, "not run")
    assert "files was left out: recordings.h5 is not in the folder of --data" in text.getvalue()
    table = text.getvalue().partition("Published and reproduced")[2].partition("files was left out")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert "…" not in table
    assert [row["experiment"] for row in json.loads(paper.as_json(found))] == ["toy", "files"]


@pytest.mark.usefixtures("toys")
def test_a_part_of_every_experiment_that_has_the_axis_can_be_run(tmp_path: Path) -> None:
    (tmp_path / "recordings.h5").touch()
    options = SweepOptions(1, tmp_path, here, Console(file=io.StringIO(), width=80), tmp_path, ["x=1,99"])
    paper.reproduce_paper(options, small=False)  # what an experiment has not is no wish to it
    done = {json.loads(path.read_text())["setting"]["x"] for path in tmp_path.glob("*/runs/*.json")}
    assert done == {1}
    with pytest.raises(ValueError, match="no experiment of the paper has y=2"):
        paper.reproduce_paper(replace(options, wanted=["y=2"]), small=False)


def test_every_published_number_of_the_paper_has_a_place() -> None:
    known = {(name, c.published) for name in paper.EXPERIMENTS for c in paper.comparisons(name, STUDIES[name].full, ())}
    assert {("shallow", 0.963), ("conv-shd", 0.809), ("conv-cifar10", 0.656), ("dale", 0.834)} <= known
    for name in paper.EXPERIMENTS:
        small = list(paper.comparisons(name, STUDIES[name].small, ()))
        assert [c.published for c in small] == [c.published for c in paper.comparisons(name, STUDIES[name].full, ())]


def test_a_small_study_has_a_setting_for_each_number_that_it_is_compared_with() -> None:
    lost = []
    for name in paper.EXPERIMENTS:
        small = STUDIES[name].small
        for reference in STUDIES[name].full.references:
            if any(reference.applies_to(setting) for setting in STUDIES[name].full.grid()):
                where = {axis: value for axis, value in reference.where.items() if axis != "task"}
                if not any(where.items() <= setting.items() for setting in small.grid()):
                    lost.append((name, where["network"]))
    assert set(lost) == {("conv-dvs", "dvs-conv-deep")}  # which is a study of its own when it is small
