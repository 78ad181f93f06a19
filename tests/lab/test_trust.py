"""What docs/trust.md promises of runs and files; `pytest -m slow -s tests/lab/test_trust.py` prints its table."""

import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")

from fluctua.lab.durable import is_whole
from fluctua.lab.sweeps.store import Store, StoreError
from fluctua.lab.sweeps.study import Record
from fluctua.lab.sweeps.sweep import runs_of
from fluctua.lab.training.fit import fit
from fluctua.lab.training.folder import RunFolder, load_checkpoint
from shared import killed_runs
from shared.killed_runs import SETTINGS, data, network
from shared.mutations import mutated
from shared.power_cuts import Disk, can_cut
from shared.toy_study import Toy

FILES = ("last.ckpt", "metrics.csv", "model.safetensors", "result.json", "run.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    fit(network(), data(), out_dir=folder, settings=SETTINGS)
    return folder


def row(what: str, times: int, found: str) -> None:
    print(f"\n| {what} | {times} | {found} |")


def assert_same(folder: Path, whole: Path) -> None:
    """Weights, optimiser, schedule, history, best weights and table are equal to the bit, and nothing else is there."""
    ours, theirs = (load_checkpoint(path / "last.ckpt") for path in (folder, whole))
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=0)
    for key in ("history", "best"):
        torch.testing.assert_close(ours["fluctua"][key], theirs["fluctua"][key], rtol=0, atol=0)
    for name in ("metrics.csv", "model.safetensors"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    assert sorted(path.name for path in folder.iterdir() if path.name != ".lock") == list(FILES)


# --- flipped bits ---


def accepted(read: Callable[[Path], Any], content: bytes, path: Path, times: int, error: type[ValueError]) -> int:
    """How many of so many mutated files are read without a sentence."""
    rng, said = np.random.default_rng(times), list[str]()
    for _ in range(times):
        path.write_bytes(mutated(content, rng))
        try:
            read(path)
        except error as refused:
            said.append(str(refused))
    assert all(str(path) in sentence and "\n" not in sentence for sentence in said)
    return times - len(said)


MUTATIONS = pytest.mark.parametrize(
    "times", [pytest.param(60, id="60"), pytest.param(600, id="600", marks=pytest.mark.slow)]
)


@MUTATIONS
def test_no_damaged_checkpoint_is_gone_on_with(times: int, whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    silently = accepted(load_checkpoint, (whole / path.name).read_bytes(), path, times, ValueError)
    row("mutated checkpoints", times, f"{silently} accepted")
    assert silently == 0


@MUTATIONS
def test_no_damaged_weights_are_loaded(times: int, whole: Path, tmp_path: Path) -> None:
    folder, model = RunFolder(tmp_path), network(seed=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    content = (whole / "model.safetensors").read_bytes()
    silently = accepted(lambda _: folder.load_weights(model), content, folder.weights, times, ValueError)
    row("mutated weight files", times, f"{silently} accepted")
    assert silently == 0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@MUTATIONS
def test_no_damaged_record_counts(times: int, tmp_path: Path) -> None:
    store, run = Store(tmp_path), runs_of(Toy(), 1)[0]
    store.open({})
    store.save(Record(run.key, run.setting, run.seed, {"score": 1 / 3}, {"line": [1.0, 2.5]}, 0.25))
    (path,) = (tmp_path / "runs").glob("*.json")
    silently = accepted(lambda _: store.finished([run]), path.read_bytes(), path, times, StoreError)
    row("mutated records", times, f"{silently} accepted")
    assert silently == 0


# --- kills ---


@pytest.fixture(scope="module")
def processes() -> Any:
    """Where processes come from that have everything imported and nothing else."""
    context = multiprocessing.get_context("forkserver")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        start_server(context)
    return context


def start_server(context: Any) -> None:
    context.set_forkserver_preload(["shared.killed_runs"])
    first = context.Process(target=killed_runs.network)  # it takes seconds to import all of it
    first.start()
    first.join()
    assert first.exitcode == 0


@pytest.mark.slow
def test_runs_killed_at_random_times_end_as_if_nothing_had_happened(
    processes: Any, whole: Path, tmp_path: Path
) -> None:
    rng, kills, runs, began = np.random.default_rng(0), 0, 0, time.monotonic()
    run(processes, tmp_path / "first")
    longest = time.monotonic() - began
    while kills < 50:
        folder = tmp_path / str(runs)
        while True:
            process = processes.Process(target=killed_runs.train, args=(folder,))
            process.start()
            process.join(rng.uniform(0, longest))
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            kills += 1
            assert_readable(folder)
        assert process.exitcode == 0
        assert_same(folder, whole)
        runs += 1
    row(f"SIGKILL at random times, in {runs} runs", kills, "all equal to the bit, no row lost")


@pytest.mark.slow
def test_a_run_killed_around_any_call_that_changes_the_disk_ends_as_if_nothing_had_happened(
    processes: Any, whole: Path, tmp_path: Path
) -> None:
    for at in range(1, 1000):
        folder = tmp_path / str(at)
        if run(processes, folder, at) == 0:
            break
        assert_readable(folder)
        assert run(processes, folder) == 0
        assert_same(folder, whole)
    row("SIGKILL before and after every `fsync` and rename of a run", at - 1, "all equal to the bit, no row lost")
    assert at > SETTINGS.epochs * 2 * 3 * 2, "every epoch writes two files or three, by three calls each"


def run(processes: Any, folder: Path, at: int | None = None) -> int:
    """Train in a process of its own; its exit status."""
    process = processes.Process(target=killed_runs.train, args=(folder, at))
    process.start()
    process.join()
    return int(process.exitcode)


def assert_readable(folder: Path) -> None:
    """What is in place is whole, whatever else is not there."""
    if (folder / "last.ckpt").exists():
        load_checkpoint(folder / "last.ckpt")
    assert all(is_whole(path.read_bytes()) for path in folder.glob("*.safetensors"))
    assert all(is_whole(path.read_bytes()) for path in folder.glob("*.json"))


# --- power cuts ---

NEEDS_ROOT = pytest.mark.skipif(not can_cut(), reason="cutting the power of a loop device takes Linux and root")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    yield disk
    disk.off()


def cut(disk: Disk, processes: Any, after: float, target: Callable[..., None], *arguments: Any) -> None:
    """Let a process write for so long, cut the power, and switch it on again."""
    process = processes.Process(target=killed_runs.quietly, args=(target, *arguments))
    process.start()
    process.join(after)
    disk.cut()
    process.kill()
    process.join()
    disk.off()
    disk.on()


@pytest.mark.slow
@NEEDS_ROOT
@pytest.mark.parametrize("synced", [True, False], ids=["synced", "unsynced"])
def test_a_record_that_is_saved_outlives_a_power_cut(synced: bool, disk: Disk, processes: Any, tmp_path: Path) -> None:
    """Without `fsync`, records are lost or empty: the disk that these tests cut off shows it."""
    rng, cuts, saved, lost, damaged = np.random.default_rng(0), 20, 0, 0, 0
    for k in range(cuts):
        folder, told = disk.mount / str(k), tmp_path / f"told{k}"
        cut(disk, processes, rng.uniform(2.5, 4), killed_runs.write_records, folder, told, synced)
        there = told.stat().st_size
        paths = [folder / "runs" / f"x={i}.json" for i in range(there)]
        saved += there
        lost += sum(not path.exists() for path in paths)
        damaged += sum(not is_whole(path.read_bytes()) for path in (folder / "runs").glob("x=*.json"))
        if synced:
            assert Store(folder).open({}) == []
        shutil.rmtree(folder)
    how = "" if synced else ", for comparison without `fsync`"
    row(f"power cuts while records are saved{how}", cuts, f"{saved} records saved, {lost} lost, {damaged} damaged")
    assert (lost + damaged == 0) == synced


@pytest.mark.slow
@NEEDS_ROOT
def test_a_run_resumed_after_a_power_cut_ends_as_if_nothing_had_happened(
    disk: Disk, processes: Any, whole: Path
) -> None:
    rng, cuts, runs = np.random.default_rng(1), 0, 0
    began = time.monotonic()
    run(processes, disk.mount / "first")
    longest = time.monotonic() - began
    while cuts < 20:
        folder = disk.mount / str(runs)
        for _ in range(3):
            cut(disk, processes, rng.uniform(0.1, 1) * longest, killed_runs.train, folder)
            cuts += 1
            if folder.exists():
                assert_readable(folder)
        assert run(processes, folder) == 0
        assert_same(folder, whole)
        runs += 1
    row(f"power cuts while a run trains, in {runs} runs", cuts, "all equal to the bit, no row lost")


@pytest.mark.slow
@NEEDS_ROOT
def test_a_full_disk_is_said_in_a_sentence_and_costs_nothing(disk: Disk, whole: Path) -> None:
    folder, filler = disk.mount / "run", disk.mount / "filler"
    said = []
    for room in range(2, 40, 2):  # blocks of 1 kB
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1024))
        with filler.open("r+b") as file:
            file.truncate(max(0, filler.stat().st_size - 1024 * room))
        try:
            fit(network(), data(), out_dir=folder, settings=SETTINGS, resume=True)
        except OSError as error:
            said.append(str(error))
        filler.unlink()
        if folder.exists():
            assert_readable(folder)
    fit(network(), data(), out_dir=folder, settings=SETTINGS, resume=True)
    assert_same(folder, whole)
    row("full disks while a run trains", len(said), "all said in a sentence, then equal to the bit")
    assert said
    assert all("(No space left on device)" in sentence and "\n" not in sentence for sentence in said), said
