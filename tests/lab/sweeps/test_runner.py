"""Laws of the runner: whatever dies or fails on the way, the sweep ends with the same results."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import pytest
import torch

pytest.importorskip("rich")

from rich.console import Console

from fluctua.lab.results.aggregate import summarise
from fluctua.lab.results.table import as_csv
from fluctua.lab.sweeps.runner import Backend, SweepInterrupted, _Clock, duration, sweep
from fluctua.lab.sweeps.runner_local import cores, local_processes
from fluctua.lab.sweeps.runner_perform import perform
from fluctua.lab.sweeps.store import Store
from fluctua.lab.sweeps.study import Outcome, Record, Setting
from fluctua.lab.sweeps.sweep import Run, runs_of
from shared.toy_study import SLOW, Toy, quiet, truth

TESTS = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.open({})
    return store


def here(runs: Sequence[Run], root: Path) -> Generator[Record, None, None]:
    """A backend in this very process."""
    for run in runs:
        yield perform(run, root)


def expected(runs: Sequence[Run]) -> list[dict[str, float]]:
    return [truth(int(run.setting["x"] or 0), run.seed) for run in runs]


def values(records: Sequence[Record]) -> list[dict[str, float]]:
    return [dict(record.values) for record in records]


# --- any backend ---


def test_finished_runs_are_skipped_and_failed_ones_done_again(store: Store) -> None:
    runs = runs_of(Toy(fails_at=1), 2)
    sweep(runs, store, here, quiet())
    good = [run for run in runs if run.setting["x"] != 1]
    assert values(store.finished(runs)) == expected(good)
    asked: list[Run] = []

    def noting(runs: Sequence[Run], root: Path) -> Generator[Record, None, None]:
        asked.extend(runs)
        return here(runs, root)

    sweep(runs, store, noting, quiet())
    assert asked == [run for run in runs if run.setting["x"] == 1]


def test_a_failed_run_is_kept_with_its_error_in_a_line_and_where_it_was(store: Store) -> None:
    runs = runs_of(Toy(fails_at=1), 1)
    sweep(runs, store, here, quiet())
    failed = store.failed(runs)
    assert [(r.setting, r.error) for r in failed] == [
        ({"method": method, "x": 1}, "ArithmeticError: x = 1 is not to be had") for method in "ab"
    ]
    assert all("toy_study.py" in (r.traceback or "") for r in failed)


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(store: Store) -> None:
    runs = runs_of(Toy(), 1)

    def interrupted(runs: Sequence[Run], root: Path) -> Generator[Record, None, None]:
        yield from here(runs[:2], root)
        raise KeyboardInterrupt

    with pytest.raises(SweepInterrupted, match="with 4 runs left: the same command resumes"):
        sweep(runs, store, interrupted, quiet())
    assert values(store.finished(runs)) == expected(runs[:2])


def test_a_log_has_a_line_per_run_with_the_time_that_is_left(store: Store) -> None:
    log = Console(file=io.StringIO(), width=200)
    sweep(runs_of(Toy(fails_at=2), 1), store, here, log)
    assert isinstance(log.file, io.StringIO)
    lines = log.file.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["1/6", "2/6", "failed:", "4/6", "5/6", "failed:"]
    assert lines[0].startswith("1/6 method=a, x=0, seed 0: 0 s, ")
    assert all(line.endswith(" left") for line in lines if "/6" in line)


def test_the_time_left_weighs_runs_by_what_they_cost() -> None:
    clock = _Clock(total=100.0, start=50.0, done=20.0)
    assert clock.left(now=60.0) == pytest.approx(40.0)  # 20 took 10 s, 80 are left


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (9e4, "25.0 h")]
)
def test_times_are_told_in_a_fitting_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


class Counting(Toy):
    """Finds how many threads a run has."""

    def run(self, setting: Setting, seed: int, data: Path | None) -> Outcome:
        return Outcome({"score": torch.get_num_threads()}, {})


def test_a_run_has_one_thread(store: Store) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert perform(runs_of(Counting(), 1)[0], store.root).values == {"score": 1}
    finally:
        torch.set_num_threads(before)


def test_a_run_that_loads_torch_has_one_thread(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from pathlib import Path
from fluctua.lab.sweeps.runner_perform import perform
from fluctua.lab.sweeps.store import Store
from fluctua.lab.sweeps.sweep import runs_of
from shared.toy_study import Toy

class Counting(Toy):
    def run(self, setting, seed, data):
        assert "torch" not in sys.modules
        import torch
        print(torch.get_num_threads())
        return super().run(setting, seed, data)

store = Store(Path({str(tmp_path)!r}))
store.open({{}})
assert perform(runs_of(Counting(), 1)[0], store.root).error is None
"""
    many = {**os.environ, "OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=many)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


# --- processes of this machine ---


def test_processes_give_what_one_process_gives_and_a_dead_one_costs_one_run(store: Store) -> None:
    runs = runs_of(Toy(dies_at=1), 1)
    sweep(runs, store, local_processes(2), quiet())
    good = [run for run in runs if run.setting["x"] != 1]
    assert values(store.finished(runs)) == expected(good)
    failed = store.failed(runs)
    assert len(failed) == len(runs) - len(good)
    assert all("\n" not in (r.error or "") and "memory" in (r.error or "") for r in failed)
    assert all("SIGKILL" in (r.error or "") for r in failed)


def test_there_is_a_process_for_every_core_and_none_is_no_number_of_processes() -> None:
    assert cores() == len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores() >= 1
    with pytest.raises(ValueError, match="at least one process, got 0"):
        local_processes(0)


def start_runner(out: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    return subprocess.Popen(
        [sys.executable, "-c", "from shared.toy_study import main; main()", str(out)], env=environment
    )


def results(out: Path) -> dict[str, int]:
    """Finished runs, and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in (out / "runs").glob("*.json")}


def kill(runner: subprocess.Popen[bytes]) -> None:
    """Kill it without a warning, and see that what it had started ends by itself."""
    children = Path(f"/proc/{runner.pid}/task/{runner.pid}/children")  # Linux only
    started = [int(pid) for pid in children.read_text().split()] if children.exists() else []
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    assert started or not children.exists()
    assert soon(lambda: not any(map(alive, started)))


def soon(condition: Callable[[], bool], seconds: float = 60) -> bool:
    limit = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < limit:
        time.sleep(0.02)
    return met


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def table(store: Store, runs: Sequence[Run]) -> str:
    return as_csv(summarise(runs[0].study, store.finished(runs), store.failed(runs)))


def test_a_runner_killed_twice_ends_with_the_same_table_and_does_no_run_twice(store: Store, tmp_path: Path) -> None:
    out, runs = tmp_path / "killed", runs_of(SLOW, 2)
    before: dict[str, int] = {}
    for least in (2, 6):
        runner = start_runner(out)
        assert soon(lambda least=least: len(results(out)) >= least)  # type: ignore[misc]
        kill(runner)
        killed = results(out)
        assert least <= len(killed) < len(runs)
        assert before.items() <= killed.items()
        before = killed
    assert start_runner(out).wait(60) == 0
    assert before.items() <= results(out).items()

    sweep(runs, store, here, quiet())
    assert values(store.finished(runs)) == expected(runs)
    assert table(Store(out), runs) == table(store, runs)


def test_two_runners_at_once_end_with_the_same_table(store: Store, tmp_path: Path) -> None:
    out, runs = tmp_path / "shared", runs_of(SLOW, 2)
    assert [runner.wait(120) for runner in [start_runner(out) for _ in range(2)]] == [0, 0]
    assert values(Store(out).finished(runs)) == expected(runs)
    assert Store(out).open({}) == []


# --- Dask ---


def test_dask_workers_give_what_one_process_gives_though_one_dies_on_the_way(store: Store, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    from fluctua.lab.sweeps.runner_dask import dask_cluster

    study = Toy(pause=0.05, fails_at=2, dies_at=1, once=str(tmp_path / "died"))
    runs = runs_of(study, 2)
    mortal = runs_of(Toy(dies_at=0, xs=(0,)), 1)[:1]
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        backend: Backend = dask_cluster(cluster.scheduler_address)
        sweep(runs, store, backend, quiet())
        cluster.scheduler.allowed_failures = 0  # how often Dask tries again; the default takes four workers with it
        sweep(mortal, store, backend, quiet())
    good = [run for run in runs if run.setting["x"] != 2]
    assert (tmp_path / "died").exists()
    assert values(store.finished(runs)) == expected(good)
    assert {r.error for r in store.failed(runs)} == {"ArithmeticError: x = 2 is not to be had"}
    (died,) = store.failed(mortal)
    assert (died.error or "").startswith("KilledWorker: ")


def test_a_scheduler_that_is_killed_ends_the_sweep_in_one_sentence(store: Store, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    from fluctua.lab.sweeps.runner_dask import dask_cluster

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    said = tmp_path / "scheduler.json"  # where it says its address
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    scheduler = subprocess.Popen(
        [*command, "--port", "0", "--no-dashboard", "--scheduler-file", str(said)],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    worker = None
    try:
        assert soon(lambda: said.exists() and bool(said.read_text()))
        worker = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(said), "--nthreads", "1",
             "--no-dashboard", "--no-nanny"],
            env=environment,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        runs = runs_of(Toy(pause=0.1), 20)
        address = json.loads(said.read_text())["address"]
        backend = dask_cluster(address)

        def killing(runs: Sequence[Run], root: Path) -> Generator[Record, None, None]:
            for record in backend(runs, root):
                scheduler.kill()
                yield record

        with pytest.raises(OSError, match=f"the Dask scheduler at {address} is gone: finished runs are kept"):
            sweep(runs, store, killing, quiet())
        assert store.failed(runs) == []
        done = store.finished(runs)
        assert 1 <= len(done) < len(runs)
        assert all(dict(r.values) == truth(int(r.setting["x"] or 0), r.seed) for r in done)
    finally:
        for process in filter(None, (scheduler, worker)):
            process.kill()
            process.wait()


def test_a_scheduler_that_does_not_answer_is_named_with_the_way_out(store: Store) -> None:
    pytest.importorskip("distributed")
    from fluctua.lab.sweeps.runner_dask import dask_cluster

    with pytest.raises(OSError, match=r"no Dask scheduler answers at tcp://127.0.0.1:1 .* leave --scheduler out"):
        sweep(runs_of(Toy(), 1), store, dask_cluster("tcp://127.0.0.1:1", timeout=0.2), quiet())


def test_without_dask_the_extra_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from fluctua.lab.sweeps.runner_dask import dask_cluster

    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(RuntimeError, match=r"pip install \"fluctua\[cluster\]\""):
        sweep(runs_of(Toy(), 1), store, dask_cluster("tcp://127.0.0.1:1"), quiet())
