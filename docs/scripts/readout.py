"""How large the readout should start: the numbers of docs/training.md. About three minutes.

    python docs/scripts/readout.py --seeds 5

The demo's task and network (Randman, three hidden layers of 128 neurons, measured + balanced weights, xi = 1), trained
for one epoch; all that differs is `sigma` of the readout's target.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import fluctua
from fluctua.lab.data import RandmanSettings, make_randman
from fluctua.lab.data.module import SpikeDataModule
from fluctua.lab.demo import DemoSettings
from fluctua.lab.networks import feed_forward
from fluctua.lab.training.fit import TrainSettings, fit
from fluctua.theory import Target


def first_epoch(sigma: float, seed: int) -> float:
    """Validation accuracy after one epoch."""
    s = DemoSettings()
    task = RandmanSettings(duration=s.duration, samples_per_class=s.samples_per_class)
    train, val, test = make_randman(task, seed=seed)
    data = SpikeDataModule(train, val, test, dt=s.dt, duration=s.duration, batch_size=s.batch_size, seed=seed)
    model = feed_forward(data.n_units, data.n_classes, width=s.width, depth=s.depth, dt=s.dt, duration=s.duration)
    x, _ = data.batch(s.measured_on)
    fluctua.initialize(model, x, Target(xi=s.xi), readout=Target(sigma=sigma), seed=seed)
    settings = TrainSettings(epochs=1, lr=s.lr, optimizer="adam", seed=seed, progress=False)
    with tempfile.TemporaryDirectory() as folder:
        return fit(model, data, out_dir=Path(folder) / "run", settings=settings).history[0]["val_accuracy"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sigmas", type=float, nargs="+", default=[0.01, 0.03, 0.1, 0.3, 1.0])
    options = parser.parse_args(arguments)

    print(f"validation accuracy after one epoch, seeds 1 to {options.seeds}")
    print(f"{'sigma':>8}{'median':>10}{'least':>10}{'largest':>10}")
    for sigma in options.sigmas:
        accuracies = [first_epoch(sigma, seed) for seed in range(1, options.seeds + 1)]
        cells = (statistics.median(accuracies), min(accuracies), max(accuracies))
        print(f"{sigma:8.2f}" + "".join(f"{cell:10.1%}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
