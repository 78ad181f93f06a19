"""How the cost of a training step grows with the steps, the batch, the width, the input's density and the depth.

    python benchmarks/growth.py

One size is varied, the others stay. All points of a curve, and all curves, take turns in one process. Linear growth
has the exponent 1. `publish.py` makes the figure.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contestants import CHAIN, CONTESTANTS, EVENTS, MATMUL_ONLY, PLAIN
from contestants.steps import Step
from machine import machine
from results import table
from timing import Seconds, interleaved, medians
from workloads import W1, Unfit, Workload

BASE = W1.sized(steps=200, batch=32, shape=(256,), width=128, depth=2, density=0.03)
CURVES = (MATMUL_ONLY, PLAIN, CHAIN, EVENTS)


@dataclass(frozen=True)
class Axis:
    """A size that is varied.

    Attributes:
        name: the field of `Workload`.
        label: with the symbol.
        values: of it.
        base: the other sizes.
    """

    name: str
    label: str
    values: tuple[float, ...]
    base: Workload = BASE

    def workloads(self) -> dict[float, Workload]:
        """By value. Along the width, a network's input is as wide as its layers."""
        also = {value: {"shape": (value,)} if self.name == "width" else {} for value in self.values}
        return {value: self.base.sized(**{self.name: value}, **also[value]) for value in self.values}


AXES = (
    Axis("steps", "steps T", (50, 100, 200, 400, 800)),
    Axis("batch", "batch B", (8, 16, 32, 64, 128)),
    Axis("width", "neurons of a layer N", (32, 64, 128, 256, 512)),
    # The events of the input are to be what counts, so there are many inputs and one layer.
    Axis("density", "density of the input", (0.005, 0.02, 0.08, 0.16, 0.32), BASE.sized(shape=(1024,), depth=1)),
    Axis("depth", "layers", (1, 2, 4, 8, 16)),
)
QUICK = (Axis("steps", "steps T", (8, 16), BASE.sized(batch=2, shape=(6,), width=5, density=0.3)),)


def steps(axis: Axis) -> dict[str, Step]:
    """A training step for each curve and value that this version of fluctua can run, by `key`."""
    found = {}
    for contestant in (c for c in CONTESTANTS if c.name in CURVES and "W1" in c.workloads):
        build = import_module(f"contestants.{contestant.module}").build
        for value, workload in axis.workloads().items():
            try:
                found[key(contestant.name, value)] = build(workload, contestant.variant)
            except Unfit:
                break
    return found


def key(curve: str, value: float) -> str:
    return f"{curve} @ {value:g}"


def curves(axis: Axis, seconds: Seconds) -> dict[str, list[float]]:
    """Median seconds along the axis."""
    middle = medians(seconds)
    present = [curve for curve in CURVES if key(curve, axis.values[0]) in middle]
    return {curve: [middle[key(curve, value)] for value in axis.values] for curve in present}


def exponent(values: Sequence[float], seconds: Sequence[float]) -> float:
    """Of the power law through the upper three points, where fixed costs weigh least."""
    slope, _ = np.polyfit(np.log(values[-3:]), np.log(seconds[-3:]), 1)
    return float(slope)


def exponents(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A Markdown table: the exponent of every curve along every axis."""
    names = [curve for curve in CURVES if any(curve in axis["curves"] for axis in found.values())]
    rows = [
        (axis["label"], *(f"{exponent(axis['values'], axis['curves'][curve]):.2f}" for curve in names))
        for axis in found.values()
    ]
    return table(("exponent along", *names), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="so small that the numbers mean nothing; to try it out")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/growth.json"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)

    found = {}
    for axis in QUICK if options.quick else AXES:
        measured = curves(axis, interleaved(steps(axis), options.rounds))
        found[axis.name] = {"label": axis.label, "values": axis.values, "curves": measured}
    print(f"{options.threads} thread(s), {options.rounds} rounds\n\n{exponents(found)}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    facts = {"machine": machine(), "threads": options.threads, "rounds": options.rounds, "axes": found}
    options.out.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
