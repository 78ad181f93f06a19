"""Laws of the archive: what is added comes back anywhere, and the same runs make the same bytes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rich")

from fluctua.lab.sweeps.archive import Archive
from fluctua.lab.sweeps.runner_perform import perform
from fluctua.lab.sweeps.store import Store, StoreError
from fluctua.lab.sweeps.sweep import runs_of
from shared.mutations import mutated
from shared.toy_study import Toy

STUDY = Toy(fails_at=2)
RUNS = runs_of(STUDY, 2)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.open({})
    for run in RUNS:
        perform(run, store.root)
    return store


@pytest.fixture
def archive(tmp_path: Path, store: Store) -> Archive:
    archive = Archive(tmp_path / "beside" / "toy.jsonl.gz")
    archive.add(STUDY, [*store.finished(RUNS), *store.failed(RUNS)])
    return archive


def test_another_store_is_filled_with_what_it_lacks(archive: Archive, store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    other.open({})
    archive.fill(other, RUNS)
    assert other.finished(RUNS) == store.finished(RUNS)
    assert [r.error for r in other.failed(RUNS)] == [r.error for r in store.failed(RUNS)]


def test_paths_of_the_machine_are_left_out(archive: Archive) -> None:
    failed = [r for r in archive.read() if r.error is not None]
    assert len(failed) == 4
    assert [r.traceback for r in failed] == [None] * 4


def test_the_same_runs_make_the_same_bytes_in_any_order(archive: Archive, tmp_path: Path) -> None:
    other = Archive(tmp_path / "other.jsonl.gz")
    for record in reversed(archive.read()):
        other.add(STUDY, [record])
    assert other.path.read_bytes() == archive.path.read_bytes()


def test_a_finished_run_replaces_its_failure_and_is_replaced_by_none(archive: Archive) -> None:
    failed = next(r for r in archive.read() if r.error is not None)
    finished = replace(failed, values={"score": 1.0}, error=None)
    for record in (finished, failed):
        archive.add(STUDY, [record])
    assert [r for r in archive.read() if r.key == failed.key] == [finished]


def test_runs_of_other_settings_are_dropped_and_not_mixed_in(archive: Archive, store: Store) -> None:
    changed = replace(STUDY, pause=1e-3)
    assert archive.of(changed) == []
    archive.add(changed, [])
    assert archive.read() == []


def test_a_longer_list_keeps_what_is_finished(archive: Archive) -> None:
    longer = Toy(fails_at=2, xs=(0, 1, 2, 3))
    assert len(archive.of(longer)) == len(archive.read()) == len(RUNS)


def test_a_damaged_file_is_told(archive: Archive) -> None:
    whole, rng = archive.path.read_bytes(), np.random.default_rng(0)
    said = 0
    for content in (whole[:-20], whole[:40] + bytes(9) + whole[49:], *(mutated(whole, rng) for _ in range(100))):
        archive.path.write_bytes(content)
        try:
            archive.read()
        except StoreError as error:
            said += "is damaged" in str(error)
    assert said > 50  # a header says things that do not matter
