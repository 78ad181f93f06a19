"""Laws of the store: what is saved comes back, at one go, and a failure never hides a result."""

import errno
import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import pytest

pytest.importorskip("rich")

from fluctua.lab import durable
from fluctua.lab.sweeps.store import Store, StoreError
from fluctua.lab.sweeps.study import Record
from fluctua.lab.sweeps.sweep import Run, runs_of
from shared.toy_study import Toy

RUNS = runs_of(Toy(), 2)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "a" / "store")
    store.open({"title": "toy"})
    return store


def finished(run: Run, score: float = 0.1) -> Record:
    return Record(run.key, run.setting, run.seed, {"score": score}, {"line": [1.0, 2.5]}, 0.25)


def broken(run: Run) -> Record:
    return Record(run.key, run.setting, run.seed, error="ValueError: no", traceback="...\nValueError: no")


def files(store: Store) -> list[str]:
    return sorted(str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file())


def test_what_is_saved_comes_back_in_the_order_that_is_asked_for(store: Store) -> None:
    for run in RUNS[:3]:
        store.save(finished(run, score=1 / 3 + run.seed))
    assert store.finished(RUNS[2::-1]) == [finished(run, score=1 / 3 + run.seed) for run in RUNS[2::-1]]
    assert [store.has(run) for run in RUNS[:4]] == [True, True, True, False]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 5e-324, 0.1 + 0.2])
def test_every_double_comes_back_as_it_was(store: Store, value: float) -> None:
    store.save(finished(RUNS[0], score=value))
    (record,) = store.finished(RUNS)
    assert record.values["score"] == value or (math.isnan(record.values["score"]) and math.isnan(value))


def test_a_failure_is_kept_with_its_error_until_the_run_is_finished(store: Store) -> None:
    store.save(broken(RUNS[0]))
    assert store.failed(RUNS) == [broken(RUNS[0])] == store.all_failed()
    assert not store.has(RUNS[0])
    store.save(finished(RUNS[0]))
    assert store.failed(RUNS) == []
    assert store.has(RUNS[0])


def test_a_failure_does_not_hide_a_result(store: Store) -> None:
    store.save(finished(RUNS[0]))
    store.save(broken(RUNS[0]))
    assert (store.finished(RUNS), store.failed(RUNS)) == ([finished(RUNS[0])], [])


def test_there_is_one_file_per_run_and_no_other(store: Store) -> None:
    for run in RUNS:
        store.save(finished(run))
    assert files(store) == sorted(["study.json", *(f"runs/{run.key}.json" for run in RUNS)])


def test_a_file_is_never_half_written(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save(finished(RUNS[0]))

    def full_disk(file: BinaryIO) -> None:
        file.truncate(10)
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(durable, "seal", full_disk)
    for run in RUNS[:2]:
        with pytest.raises(OSError, match="no space left"):
            store.save(finished(run, score=2.0))
    monkeypatch.undo()
    assert store.finished(RUNS) == [finished(RUNS[0])]
    assert files(store) == ["runs/" + RUNS[0].key + ".json", "study.json"]


@pytest.mark.parametrize(
    "text", ["", '{"key": "x"', '{"stranger": 1}', "[1, 2]", '{"key": "x", "setting": {}, "seed": 0}']
)
def test_a_damaged_file_is_named_and_put_aside_when_the_sweep_goes_on(store: Store, text: str) -> None:
    for run in RUNS[:2]:
        store.save(finished(run))
    path = store.root / "runs" / f"{RUNS[0].key}.json"
    path.write_text(text)
    with pytest.raises(StoreError, match=r"repeat the run|to run this one") as caught:
        store.finished(RUNS)
    assert str(path) in str(caught.value)
    assert store.open({"title": "toy"}) == [store.root / "damaged" / "runs" / path.name]
    assert [store.has(run) for run in RUNS[:2]] == [False, True]
    assert store.finished(RUNS) == [finished(RUNS[1])]
    assert (store.root / "damaged" / "runs" / path.name).read_text() == text


def test_a_damaged_failure_is_told_as_one(store: Store) -> None:
    store.save(broken(RUNS[0]))
    (path,) = (store.root / "failed").glob("*.json")
    path.write_bytes(b"")
    (record,) = store.all_failed()
    assert record.key == RUNS[0].key
    assert "damaged: repeat the command" in (record.error or "")


def test_a_store_of_an_older_version_is_read(store: Store) -> None:
    """Its files had no checksums."""
    path = store.root / "runs" / f"{RUNS[0].key}.json"
    path.write_text(json.dumps(asdict(finished(RUNS[0]))))
    assert store.open({}) == []
    assert store.finished(RUNS) == [finished(RUNS[0])]


def test_what_a_killed_writer_left_is_swept_and_what_another_writes_is_not(store: Store) -> None:
    old, new = (store.root / "runs" / f".x.json.{number}.tmp" for number in ("0123abcd", "4567abcd"))
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    store.open({})
    assert (old.exists(), new.exists()) == (False, True)


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"has no study\.json, so it is no store"):
        Store(tmp_path).describe()


def test_a_folder_that_cannot_be_made_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot write to"):
        Store(tmp_path / "file" / "store").open({})


def test_an_axis_that_a_setting_lacks_is_none() -> None:
    assert [finished(RUNS[1]).axis(name) for name in ("method", "x", "lr")] == ["a", 1, None]
