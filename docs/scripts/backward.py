"""What blunt surrogates and a relay bring in deep networks: the tables of docs/depth.md, seed by seed.

    python docs/scripts/backward.py run --seeds 100-109        # resumes where it stopped
    python docs/scripts/backward.py table

Fully connected networks of 128 neurons a layer on Randman, measured and balanced, Adam with a rate of 5e-3, 10 epochs;
the weights tested are those of the best epoch by validation. Arms differ in the surrogate and the weight law alone, and
meet the same task, draws and order of samples. Results are appended, run by run, to docs/results/backward.csv.
"""

import argparse
import csv
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy.stats import t as student

import fluctua
from fluctua.lab.networks import FullyConnected
from fluctua.lab.studies.task import RandmanTask
from fluctua.lab.training.fit import TrainSettings, fit
from fluctua.methods import Measured
from fluctua.neurons import LIF
from fluctua.theory import Relay
from fluctua.theory.laws import Normal

RESULTS = Path(__file__).parents[1] / "results" / "backward.csv"
ARMS = {  # surrogate, weight law
    "beta 20": (None, Normal()),
    "share": ("share", Normal()),
    "beta 20 + relay": (None, Relay()),
    "share + relay": ("share", Relay()),
    "beta 2.5": (2.5, Normal()),
}
WIDTH, EPOCHS, LR, MEASURED_ON = 128, 10, 5e-3, 250


@dataclass(frozen=True)
class Run:
    """One network to train; `dt` in ms."""

    seed: int
    layers: int
    loss: str
    arm: str
    dt: float
    optimizer: str = "adam"

    @property
    def key(self) -> tuple[str, ...]:
        """As it stands in the file."""
        return tuple(map(str, vars(self).values()))

    def row(self) -> dict[str, object]:
        """Train it."""
        torch.manual_seed(self.seed)
        start, duration = time.perf_counter(), 0.4 if self.layers > 10 else 0.2
        task = RandmanTask(dt=1e-3 * self.dt, duration=duration, heard=0.2, samples_per_class=200, batch_size=50)
        data = task.load(self.seed, None)
        model = FullyConnected(width=WIDTH, depth=self.layers).build(
            data.shape, data.n_classes, dt=task.dt, duration=duration
        )
        x, _ = data.batch(MEASURED_ON)
        surrogate, law = ARMS[self.arm]
        fluctua.initialize(model, x, method=Measured(law=law), surrogate=surrogate, seed=self.seed)
        betas = [cell.surrogate.beta for cell in model.modules() if isinstance(cell, LIF)]
        settings = TrainSettings(
            epochs=EPOCHS, lr=LR, optimizer=self.optimizer, loss=self.loss, seed=self.seed, progress=False
        )
        with tempfile.TemporaryDirectory() as folder:
            result = fit(model, data, out_dir=Path(folder) / "run", settings=settings)
        return {
            **vars(self),
            "test": f"{result.test['test']:.4f}",
            "val": f"{max(row['val_accuracy'] for row in result.history):.4f}",
            "beta": f"{sum(betas) / len(betas):.3g}",
            "seconds": f"{time.perf_counter() - start:.0f}",
        }


def runs(seeds: Sequence[int], options: argparse.Namespace) -> Iterator[Run]:
    """Seed by seed, so that arms can be compared in pairs whenever it is stopped."""
    for seed in seeds:
        for layers in options.layers:
            for loss in options.losses:
                for arm in options.arms:
                    yield Run(seed, layers, loss, arm, options.dt, options.optimizer)


def sweep(options: argparse.Namespace) -> None:
    """All runs that are not in the file yet."""
    first, _, last = options.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    done = {tuple(row.values())[:6] for row in read()}
    for run in runs(seeds, options):
        if run.key in done:
            continue
        row = run.row()
        new = not RESULTS.exists()
        with RESULTS.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(", ".join(map(str, row.values())), flush=True)


def read() -> list[dict[str, str]]:
    """What is known."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def interval(values: Sequence[float]) -> str:
    """Mean and half of its 95 % interval, in per cent."""
    n, mean = len(values), sum(values) / len(values)
    if n < 2:
        return f"{100 * mean:.1f}"
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    return f"{100 * mean:.1f} +- {100 * student.ppf(0.975, n - 1) * deviation / math.sqrt(n):.1f}"


def table() -> None:
    """Accuracies, and paired differences from beta 20."""
    rows = read()
    settings = dict.fromkeys((r["layers"], r["dt"], r["loss"], r["optimizer"]) for r in rows)
    print("| layers, dt, loss, optimiser | arm | seeds | test accuracy (%) | paired difference from beta 20 |")
    print("|---|---|---|---|---|")
    for setting in settings:
        of_arm: dict[str, dict[str, float]] = {}
        for r in rows:
            if (r["layers"], r["dt"], r["loss"], r["optimizer"]) == setting:
                of_arm.setdefault(r["arm"], {})[r["seed"]] = float(r["test"])
        base = of_arm.get("beta 20", {})
        for arm, found in of_arm.items():
            paired = [found[seed] - base[seed] for seed in found if seed in base]
            gain = interval(paired) if arm != "beta 20" and paired else ""
            layers, dt, loss, optimizer = setting
            said = f"{layers}, {float(dt):g} ms, {loss.replace('_', ' ')}, {optimizer}"
            print(f"| {said} | {arm} | {len(found)} | {interval(list(found.values()))} | {gain} |")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("--seeds", default="100-109", help="a number, or a range such as 100-109")
    parser.add_argument("--layers", type=int, nargs="+", default=[10, 3])
    parser.add_argument("--losses", nargs="+", default=["mean_over_time", "max_over_time"])
    parser.add_argument("--arms", nargs="+", default=["beta 20", "share", "share + relay"], choices=ARMS)
    parser.add_argument("--dt", type=float, default=2.0, help="time step in ms")
    parser.add_argument("--optimizer", default="adam")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "table":
        table()
    else:
        sweep(options)


if __name__ == "__main__":
    main()
