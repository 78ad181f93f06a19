"""The benchmarks run, and say what they measured."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return import_module


def test_each_step_runs_in_turn_and_the_first_round_is_not_counted(benchmark: Any) -> None:
    calls: list[str] = []
    steps = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = benchmark("timing").interleaved(steps, 3)
    assert calls == ["a", "b"] * 4
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


@pytest.mark.parametrize(("at_most", "met"), [(True, False), (False, True)])
def test_a_goal_is_met_on_its_good_side_only(benchmark: Any, at_most: bool, met: bool) -> None:
    seconds = {"slow": [4.0, 9.0, 8.0], "fast": [2.0, 2.0, 1.0]}
    comparison = benchmark("bench_foundation").Comparison("title", seconds, "slow", "fast", 3.0, at_most)
    assert (comparison.ratio, comparison.met) == (4.0, met)
    assert ("met" if met else "MISSED") in str(comparison)


def test_the_foundation_benchmark_prints_one_line_of_json(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    benchmark("bench_foundation").main(["--tiny", "--rounds", "1", "--json", "--threads", str(threads)])
    (line,) = capsys.readouterr().out.splitlines()
    facts = json.loads(line)
    for name in ("initialisation", "engine"):
        assert facts[name]["ratio"] > 0
        assert all(value > 0 for values in facts[name]["seconds"].values() for value in values)
    assert facts["threads"] == threads
