"""The benchmarks run, measure the same work for all, and say what they measured."""

import json
import math
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fluctua.network import Network
from fluctua.neurons import LIF
from shared.layout import assert_legible

ROOT = Path(__file__).parents[1]
QUICK_NETWORKS = ("W1", "W2", "W3")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports a module of the benchmarks."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    threads = torch.get_num_threads()
    yield import_module
    torch.set_num_threads(threads)


def made_up(bench: Any, **seconds: float) -> Any:
    """Results with one thread: `W1_name=seconds`; every second round took twice as long for all."""
    results = bench("results")
    runs = [
        results.Run(*key.split("_", 1), 1, (value, 2 * value), peak_mb=100 * value) for key, value in seconds.items()
    ]
    return results.Results({"processor": "abacus", "cores": 1, "load": 0.0, "commit": "0"}, 2, True, tuple(runs))


# ---- what is measured ------------------------------------------------------------------------------------------------


def test_each_step_runs_in_turn_and_the_first_round_is_not_counted(bench: Any) -> None:
    calls: list[str] = []
    steps = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = bench("timing").interleaved(steps, 3)
    assert calls == ["a", "b"] * 4
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


@pytest.mark.parametrize("name", QUICK_NETWORKS)
def test_all_ways_to_run_fluctua_have_the_same_loss(bench: Any, name: str) -> None:
    contestants, workload = bench("contestants"), bench("workloads").QUICK[name]
    ways = [c.variant for c in contestants.of_workload(name) if c.module == "own"]
    build = bench("contestants.own").build
    losses = {variant: build(workload, variant)() for variant in ways}
    assert len(ways) >= 3
    assert losses == pytest.approx(dict.fromkeys(losses, losses["reference"]), rel=1e-5)


@pytest.mark.parametrize("name", QUICK_NETWORKS)
def test_matmul_only_is_the_same_in_one_batch_and_step_by_step(bench: Any, name: str) -> None:
    build, workload = bench("contestants.yardsticks").build, bench("workloads").QUICK[name]
    assert build(workload, "batched")() == pytest.approx(build(workload, "stepwise")(), rel=1e-5)


@pytest.mark.parametrize("name", QUICK_NETWORKS)
def test_both_orders_of_stepping_do_the_same(bench: Any, name: str) -> None:
    stepping, workload = bench("contestants.stepping"), bench("workloads").QUICK[name]
    lif = LIF(10e-3, 5e-3, 1e-3, threshold=0.1)

    def start() -> Any:
        advance, state = lif.stepper(), None

        def step(current: Tensor) -> Tensor:
            nonlocal state
            out, state = advance(current, lif.initial_state(current[None]) if state is None else state)
            return out

        return step

    losses = [order(workload, start, 3.0)() for order in (stepping.step_by_step, stepping.layer_by_layer)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] != pytest.approx(math.log(workload.classes), rel=1e-3), "silent: nothing was compared"


LIBRARIES = ("snntorch", "norse", "spikingjelly", "sinabs")


@pytest.mark.parametrize("package", LIBRARIES)
def test_a_library_learns_from_every_workload(bench: Any, package: str) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    contestants, workloads = bench("contestants"), bench("workloads").QUICK
    for c in contestants.CONTESTANTS:
        if c.package == package and c.variant != "compiled":
            build = bench(f"contestants.{c.module}").build
            for name in c.workloads:
                loss = build(workloads[name], c.variant)()
                assert loss is None or 0 < loss < 100


# ---- how it is measured ----------------------------------------------------------------------------------------------


def test_a_contestant_whose_package_is_missing_says_so(bench: Any) -> None:
    absent = bench("contestants").Contestant("ghost", "ghost", "", ("W4",), "no_such_package")
    with pytest.raises(bench("workloads").Unfit, match="no_such_package is not installed"):
        bench("worker").prepared(bench("workloads").QUICK["W4"], absent, 1)


def test_a_contestant_that_fails_is_skipped_with_its_last_words(bench: Any) -> None:
    driver = bench("bench")
    worker = driver.Worker(bench("results").Run("W4", "no such contestant", 1), sys.executable, quick=True)
    assert "it failed: " in worker.close().skipped
    assert "no such contestant" in worker.run.skipped


def test_a_contestant_that_dies_in_its_turn_is_skipped(bench: Any) -> None:
    worker = bench("bench").Worker(bench("results").Run("W4", "two passes", 1), sys.executable, quick=True)
    worker.process.kill()
    worker.process.wait()
    worker.turn()
    assert worker.close().skipped == "it failed: killed by signal 9, for want of memory?"


def test_processes_take_turns_and_report_time_and_memory(
    bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    arguments = ["--workloads", "W4", "--threads", "1", "--rounds", "2", "--only", "two passes", "ReLU", "--quick"]
    results = bench("bench").main([*arguments, "--out", str(out)])
    assert bench("results").Results.load(out) == results
    assert [run.contestant for run in results.runs] == ["two passes", "ReLU"]
    printed = capsys.readouterr().out
    for run in results.runs:
        assert f"\n| {run.contestant} | " in printed
        assert len(run.seconds) == 2
        assert min(run.seconds) > 0
        assert 50 < run.idle_mb <= run.peak_mb


def test_a_part_is_measured_again_and_the_rest_kept(bench: Any, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    before = made_up(bench, **{"W1_fluctua": 1.0, "W4_fluctua": 1.0})
    before.save(out)
    nobody = ["--workloads", "W4", "--threads", "1", "--only", "nobody", "--out", str(out), "--keep"]
    assert bench("bench").main(nobody).runs == before.runs[:1]


def test_a_turn_repeats_short_steps_and_runs_a_long_one_once(bench: Any) -> None:
    calls: list[str] = []
    worker = bench("worker")
    worker.turn(lambda: calls.append("short"), least=1e-3)
    assert len(calls) > 1
    worker.turn(lambda: calls.append("long"), least=1e-12)
    assert calls.count("long") == 1


# ---- what is made of it ----------------------------------------------------------------------------------------------


def test_the_drift_of_a_round_cancels_in_a_ratio(bench: Any) -> None:
    ratio = bench("results").Ratio.of([2.0, 20.0, 4.0, 6.0], [1.0, 10.0, 2.0, 3.0])
    assert (ratio.low, ratio.median, ratio.high) == (2.0, 2.0, 2.0)


def test_others_are_compared_with_the_faster_of_two_yardsticks(bench: Any) -> None:
    found = made_up(bench, **{"W3_matmul-only": 4.0, "W3_matmul-only, step by step": 2.0, "W3_fluctua": 3.0})
    assert found.ratio(found.of("W3", 1)["fluctua"]).median == 1.5


@pytest.mark.parametrize(("at_most", "met"), [(True, False), (False, True)])
def test_a_goal_is_met_on_its_good_side_only(bench: Any, at_most: bool, met: bool) -> None:
    goals = bench("goals")
    goal = goals.Goal("slow / fast", 4.0, 3.0, at_most)
    assert goal.met is met
    assert ("**no**" in goals.goals_table([goal])) is not met


def test_goals_compare_with_the_fastest_and_the_leanest_library(bench: Any) -> None:
    times = {"matmul-only": 2.0, "fluctua fused": 1.0, "snnTorch": 8.0, "Norse": 5.0}
    found = bench("goals").goals(made_up(bench, **{f"W1_{name}": value for name, value in times.items()}))
    by_title = {goal.title: goal.measured for goal in found}
    assert by_title["W1: fluctua fused / matmul-only"] == 0.5
    assert by_title["W1: the fastest other library (Norse) / fluctua fused"] == 5.0
    assert by_title["W1: peak memory / that of Norse"] == 0.2


def test_the_exponent_of_a_power_law_is_its_power(bench: Any) -> None:
    values = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert bench("growth").exponent(values, [3 * value**1.5 for value in values]) == pytest.approx(1.5)


def test_growth_is_measured_for_every_curve_along_every_axis(bench: Any, tmp_path: Path) -> None:
    growth, out = bench("growth"), tmp_path / "growth.json"
    growth.main(["--quick", "--rounds", "1", "--out", str(out), "--threads", str(torch.get_num_threads())])
    (axis,) = json.loads(out.read_text())["axes"].values()
    assert set(axis["curves"]) == set(growth.CURVES)
    assert all(len(curve) == len(axis["values"]) and min(curve) > 0 for curve in axis["curves"].values())


def test_only_a_kernel_that_became_slower_is_reported(bench: Any) -> None:
    kept = {"steady": 1.0, "faster": 2.0, "slower": 1.0}
    now = {"steady": 1.4, "faster": 1.0, "slower": 1.6, "new": 9.0}
    assert bench("kernels").slower(now, kept, tolerance=1.5) == ["slower"]


def test_kernels_are_kept_and_compared(bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kernels, kept = bench("kernels"), tmp_path / "kernels.json"
    threads = str(torch.get_num_threads())
    arguments = ["--quick", "--rounds", "1", "--kept", str(kept), "--threads", threads, "--only", "LIF"]
    kernels.main([*arguments, "--save"])
    assert list(json.loads(kept.read_text())) == ["LIF"]
    kept.write_text(json.dumps({"LIF": 1e-9}))
    with pytest.raises(SystemExit, match="slower than 2 times what was kept: LIF"):
        kernels.main([*arguments, "--tolerance", "2"])
    assert "| LIF | 0.00 |" in capsys.readouterr().out


def test_the_kept_figures_are_of_the_kernels_that_there_are(bench: Any) -> None:
    kernels = bench("kernels")
    kept = json.loads(kernels.KEPT.read_text())
    assert set(kept) == set(kernels.kernels(kernels.TINY)) - {"two passes"}


# ---- what is published -----------------------------------------------------------------------------------------------


def test_a_table_is_put_between_its_marks_and_nowhere_else(bench: Any) -> None:
    filled = bench("publish").filled
    page = "before\n<!-- begin a -->\nold\n<!-- end a -->\nafter <!-- begin b -->kept<!-- end b -->"
    new = "before\n<!-- begin a -->\n| \\1 |\n<!-- end a -->\nafter <!-- begin b -->kept<!-- end b -->"
    assert filled(page, {"a": "| \\1 |"}) == new
    with pytest.raises(ValueError, match="needs <!-- begin c --> and <!-- end c --> once"):
        filled(page, {"c": ""})


def test_publishing_fills_every_block_of_the_page_and_draws_legible_figures(bench: Any, tmp_path: Path) -> None:
    times = {
        "matmul-only": 0.5,
        "fluctua": 0.4,
        "fluctua fused": 0.2,
        "fluctua fused, events": 0.15,
        "snnTorch": 2.0,
    }
    found = made_up(bench, **{f"{w}_{name}": value for w in ("W1", "W2") for name, value in times.items()})
    axes = {"steps": {"label": "steps T", "values": [1, 2, 4], "curves": {"fluctua": [1.0, 2.0, 4.0]}}}
    found.save(tmp_path / "bench.json")
    (tmp_path / "growth.json").write_text(json.dumps({"axes": axes}))
    (tmp_path / "img").mkdir()
    page = (ROOT / "docs" / "performance.md").read_text()
    (tmp_path / "performance.md").write_text(page)
    bench("publish").main([str(tmp_path), "--docs", str(tmp_path)])
    new = (tmp_path / "performance.md").read_text()
    assert "abacus" in new
    assert "| fluctua fused | 300 | 0.40 (0.40 to 0.40) | 20 | 0 |" in new
    assert new.count("<!-- begin") == page.count("<!-- begin") == len(bench("publish").blocks_of(found)) + 1
    assert_legible(bench("figures").comparison_figure(found, 1))
    assert_legible(bench("figures").growth_figure(axes))


# ---- experiments of their own ----------------------------------------------------------------------------------------


def test_convolutions_are_timed_at_every_density(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    script = bench("conv_events")
    script.main(["--rounds", "1", "--size", "2", "1", "--densities", "0.01", "0.3"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [(row[0].removeprefix("| "), row[1]) for row in rows] == [
        (layer, percent) for layer in script.LAYERS for percent in ("1", "30")
    ]
    assert all(float(row[-1].removesuffix(" |")) > 0 for row in rows)


def test_engines_agree_unless_they_differ_by_more_than_seeds_do(bench: Any) -> None:
    script = bench("accuracy_by_engine")
    assert script.standard_error([90.0, 92.0, 94.0], [80.0, 82.0, 84.0]) == pytest.approx((2 * 4 / 3) ** 0.5)
    assert script.agree([90.0, 92.0, 94.0], [91.0, 91.0, 96.0])
    assert script.agree([10.0, 10.0, 10.0], [10.0, 10.0, 10.0])
    assert not script.agree([90.0, 92.0, 94.0], [80.0, 82.0, 84.0])


def test_a_network_learns_alike_on_both_engines(bench: Any) -> None:
    """As far as one epoch on a few samples shows: 60 of them, so a spike that flips moves the score by some steps."""
    script = bench("accuracy_by_engine")
    settings = script.DemoSettings(epochs=1, samples_per_class=30, width=32)
    plain, fused = (script.accuracy(engine, "measured", settings) for engine in script.ENGINES)
    assert abs(plain - fused) <= 0.2


def test_the_cost_of_large_networks_is_measured_for_either_way(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("spikingjelly")
    large = bench("large")
    monkeypatch.setattr(large, "PLAN", (8, "M", 16, "M"))
    monkeypatch.setattr(large, "WIDTHS", (16 * 49, 32, 32))
    model, x = large.vgg11(), torch.rand(2, 3, 32, 32).expand(4, -1, -1, -1, -1)
    assert len(Network.of(model, x).populations) == 5
    for name in large.CALLS:
        found = large.measured(name)
        assert found["weights"] == sum(p.nbytes for p in model.parameters())
        assert found["first"] > 0
