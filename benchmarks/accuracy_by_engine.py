"""Does a network learn as well on the fused engines as on the plain one? The demo, with few epochs, on both.

    OMP_NUM_THREADS=1 python benchmarks/accuracy_by_engine.py

The engines differ in rounding alone, so a spike close to threshold may flip, and from then on two trainings go apart as
two seeds do. So what is compared is the mean accuracy over seeds, and the difference is held against the spread of the
seeds: it is too large beyond `LIMIT` standard errors, and the exit status is then 1.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from results import table

import fluctua
from fluctua.lab.data import RandmanSettings, make_randman
from fluctua.lab.data.module import SpikeDataModule
from fluctua.lab.demo import DemoSettings
from fluctua.lab.networks import LABELS, METHODS, bring_up, feed_forward
from fluctua.lab.training.fit import TrainSettings, fit
from fluctua.theory import Target

ENGINES = "reference", "auto"
SEEDS = 1, 2, 3
LIMIT = 4.6
"""Of Student's t with the four degrees of freedom of two times three seeds: one comparison in 100 exceeds it."""


def accuracy(engine: str, method: str, s: DemoSettings) -> float:
    """Of the demo's network on the test set, initialised and trained on an engine."""
    task = RandmanSettings(duration=s.duration, samples_per_class=s.samples_per_class)
    splits = make_randman(task, seed=DemoSettings.seed)  # one task for all seeds
    data = SpikeDataModule(*splits, dt=s.dt, duration=s.duration, batch_size=s.batch_size, seed=s.seed)
    x, _ = data.batch(min(s.measured_on, len(splits[0])))
    model = feed_forward(data.n_units, data.n_classes, width=s.width, depth=s.depth, dt=s.dt, duration=s.duration)
    train = TrainSettings(epochs=s.epochs, lr=s.lr, optimizer="adam", seed=s.seed)
    with fluctua.engine(engine), TemporaryDirectory() as folder:
        bring_up(model, x, method, target=Target(xi=s.xi), seed=s.seed)
        return float(fit(model, data, out_dir=Path(folder) / "run", settings=train).test["test"])


def standard_error(first: Sequence[float], second: Sequence[float]) -> float:
    """Of the difference of two means of equally many numbers, which are taken to spread alike."""
    pooled = (statistics.variance(first) + statistics.variance(second)) / 2
    return float((2 * pooled / len(first)) ** 0.5)


def agree(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether two means over seeds differ by no more than seeds make them differ."""
    difference = abs(statistics.mean(first) - statistics.mean(second))
    return difference <= LIMIT * standard_error(first, second)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--samples-per-class", type=int, default=DemoSettings.samples_per_class)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)

    rows, apart = [], list[str]()
    for method in options.methods:
        found: dict[str, list[float]] = {engine: [] for engine in ENGINES}
        for seed in SEEDS:
            settings = DemoSettings(epochs=options.epochs, samples_per_class=options.samples_per_class, seed=seed)
            for engine in ENGINES:
                found[engine].append(100 * accuracy(engine, method, settings))
                print(f"{method}, seed {seed}, {engine}: {found[engine][-1]:.1f} %", flush=True)
        plain, fused = found.values()
        difference = statistics.mean(fused) - statistics.mean(plain)
        means = (f"{statistics.mean(a):.1f} ± {statistics.stdev(a):.1f}" for a in (plain, fused))
        rows.append((LABELS[method], *means, f"{difference:+.1f}", f"{standard_error(plain, fused):.1f}"))
        apart += [] if agree(plain, fused) else [method]
    print(table(("test accuracy, %", *ENGINES, "difference", "standard error"), rows))
    if apart:
        sys.exit(f"the engines differ by more than seeds do: {', '.join(apart)}")


if __name__ == "__main__":
    main()
