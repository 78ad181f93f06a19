"""snnTorch's tutorials that train a network, from default weights and from fluctua's: docs/frameworks/snntorch.md.

    python docs/scripts/tutorials.py --data nmnist_small.tar  # about a quarter of an hour on one core
    python docs/scripts/tutorials.py --table                  # of the runs in docs/results/tutorials.csv

Networks, losses and optimisers are those of the tutorials, written anew; both arms see the same batches. Digits are
recordings of N-MNIST: as frames for tutorial 7, and for the others, in the place of MNIST, their events summed, cropped
to 28 x 28 pixels and divided by the largest sum. Tutorials 1 to 4 train nothing; regression 3 has LSTM cells.
"""

import argparse
import csv
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import snntorch as snn
import torch
from snntorch import functional, surrogate, utils
from torch import Tensor, nn

import fluctua

RESULTS = Path(__file__).parents[1] / "results" / "tutorials.csv"
FIELDS = ("tutorial", "weights", "seed", "iterations", "before", "after", "accuracy", "seconds")
FRAME = 10e-3  # seconds
Batch = tuple[Tensor, Tensor]
Loss = Callable[[Any, Tensor], Tensor]


class Dense(nn.Module):
    """Tutorial 5: an image `[B, 1, 28, 28]` shown for 25 steps; returns spikes and potentials of the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(784, 1000), snn.Leaky(beta=0.95)
        self.fc2, self.lif2 = nn.Linear(1000, 10), snn.Leaky(beta=0.95)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2, record = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for _ in range(25):
            spk1, mem1 = self.lif1(self.fc1(x.flatten(1)), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            record.append((spk2, mem2))
        spikes, potentials = zip(*record, strict=True)
        return torch.stack(spikes), torch.stack(potentials)


class Recurrent(nn.Module):
    """Regression tutorial 2: an image shown for 10 steps to neurons that hear themselves; returns the last spikes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.rlif1 = nn.Linear(784, 128), snn.RLeaky(beta=0.9, linear_features=128)
        self.fc2, self.rlif2 = nn.Linear(128, 10), snn.RLeaky(beta=0.9, linear_features=10)

    def forward(self, x: Tensor) -> Tensor:
        (spk1, mem1), (spk2, mem2), record = self.rlif1.init_rleaky(), self.rlif2.init_rleaky(), []
        for _ in range(10):
            spk1, mem1 = self.rlif1(self.fc1(x.flatten(1)), spk1, mem1)
            spk2, mem2 = self.rlif2(self.fc2(spk1), spk2, mem2)
            record.append(spk2)
        return torch.stack(record)


class Trajectory(nn.Module):
    """Regression tutorial 1: random thresholds, and the potential of the last neuron at every step, `[T, B, 1]`."""

    def __init__(self, hidden: int = 128) -> None:
        super().__init__()
        self.fc_in, self.lif_in = nn.Linear(1, hidden), snn.Leaky(torch.rand(hidden), torch.rand(hidden))
        self.fc_hidden, self.lif_hidden = nn.Linear(hidden, hidden), snn.Leaky(torch.rand(hidden), torch.rand(hidden))
        self.fc_out, self.li_out = nn.Linear(hidden, 1), snn.Leaky(torch.rand(1), 1.0, reset_mechanism="none")

    def forward(self, x: Tensor) -> Tensor:
        one, two, out = self.lif_in.init_leaky(), self.lif_hidden.init_leaky(), self.li_out.init_leaky()
        potentials = []
        for now in x:
            spikes, one = self.lif_in(self.fc_in(now), one)
            spikes, two = self.lif_hidden(self.fc_hidden(spikes), two)
            _, out = self.li_out(self.fc_out(spikes), out)
            potentials.append(out)
        return torch.stack(potentials)


def convolutional(channels: int, second: int, side: int, spike_grad: Any) -> nn.Sequential:
    """Tutorials 6 and 7: 12C5-MP2-nC5-MP2-FC10 for one step."""
    leaky: dict[str, Any] = {"beta": 0.5, "spike_grad": spike_grad, "init_hidden": True}
    return nn.Sequential(
        *(nn.Conv2d(channels, 12, 5), nn.MaxPool2d(2), snn.Leaky(**leaky)),
        *(nn.Conv2d(12, second, 5), nn.MaxPool2d(2), snn.Leaky(**leaky)),
        *(nn.Flatten(), nn.Linear(second * side**2, 10), snn.Leaky(**leaky, output=True)),
    )


def shown(net: nn.Module, frames: Sequence[Tensor] | Tensor) -> Tensor:
    """The loop over time of tutorials 6 and 7."""
    utils.reset(net)
    return torch.stack([net(frame)[0] for frame in frames])


def every_step(output: tuple[Tensor, Tensor], y: Tensor) -> Tensor:
    """Tutorial 5: the cross entropies of the potentials of all steps, summed."""
    return sum((nn.functional.cross_entropy(mem, y) for mem in output[1]), torch.zeros(()))


@dataclass(frozen=True)
class Tutorial:
    """A network, how it is run and trained, and how its first batch is given to fluctua."""

    build: Callable[[], nn.Module]
    loss: Loss
    lr: float
    batch_size: int = 128
    iterations: int = 100
    time: int | None = None
    steps: int | None = None
    counted: str | None = None  # the last population, if the loss counts its spikes
    run: Callable[[nn.Module, Tensor], Any] = lambda net, x: net(x)


TUTORIALS = {
    "5, dense": Tutorial(Dense, every_step, 5e-4),
    "6, convolutions": Tutorial(
        lambda: convolutional(1, 64, 4, surrogate.fast_sigmoid(slope=25)),
        functional.ce_rate_loss(),
        1e-2,
        batch_size=32,
        steps=50,
        counted="8",
        run=lambda net, x: shown(net, [x] * 50),
    ),
    "7, N-MNIST": Tutorial(
        lambda: convolutional(2, 32, 5, surrogate.atan()),
        functional.mse_count_loss(correct_rate=0.8, incorrect_rate=0.2),
        2e-2,
        batch_size=32,
        time=0,
        counted="8",
        run=shown,
    ),
    "regression 1": Tutorial(Trajectory, nn.functional.mse_loss, 1e-3, batch_size=1, time=0),
    "regression 1, 8 samples": Tutorial(Trajectory, nn.functional.mse_loss, 1e-3, batch_size=8, time=0),
    "regression 2, recurrent": Tutorial(
        Recurrent, functional.mse_count_loss(correct_rate=0.8, incorrect_rate=0.2), 1e-3, counted="rlif2"
    ),
}


@cache
def recordings(data: Path) -> dict[str, Batch]:
    """Frames `[T, B, 2, 34, 34]` and labels to learn from, and those held out."""
    from fluctua.lab.data.module import SpikeDataModule

    module = SpikeDataModule.from_nmnist(data, dt=FRAME, duration=0.3, batch_size=1)
    learned, (x, y), (x2, y2) = (module.batch(len(samples), split) for split, samples in module.splits.items())
    return {"train": learned, "held out": (torch.cat([x, x2], 1), torch.cat([y, y2]))}


def images(batch: Batch) -> Batch:
    """The recordings as pictures `[B, 1, 28, 28]`."""
    frames, y = batch
    pixels = frames.sum((0, 2))[:, None, 3:-3, 3:-3]
    return pixels / pixels.amax((1, 2, 3), keepdim=True), y


def trajectories(samples: int) -> Batch:
    """Lines that rise to a random height `[50, B, 1]`, and the square roots to be followed."""
    x = torch.linspace(0, 1, 50)[:, None, None] * torch.rand(1, samples, 1)
    return x, (0.7 * x).sqrt()


def batches(data: Batch, size: int, axis: int, seed: int) -> Iterator[Batch]:
    """Batches without end, shuffled anew for each epoch."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(data[1]), generator=generator)
        for chosen in order[: len(order) // size * size].split(size):
            yield data[0].index_select(axis, chosen), data[1][chosen]


def arms(name: str) -> list[str]:
    """The weights to begin from; with `Target()` an output whose spikes are counted starts as all others do."""
    return [
        "default",
        "fluctua",
        *(["fluctua, Target()"] if name[0] in "567" else []),
        *(["fluctua, readouts="] if TUTORIALS[name].counted else []),
    ]


def train(name: str, weights: str, seed: int, data: Path | None) -> dict[str, Any]:
    """One run: loss of the first and of the last ten batches, and accuracy on held-out recordings."""
    tutorial, began = TUTORIALS[name], time.process_time()
    torch.manual_seed(seed)
    if name.startswith("regression 1"):
        one = trajectories(tutorial.batch_size)
        stream, held_out = iter(lambda: one, None), None
    else:
        assert data is not None, "--data is needed for the digits"
        sets = recordings(data)
        sets = sets if tutorial.time == 0 else {split: images(batch) for split, batch in sets.items()}
        held_out = sets["held out"]
        stream = batches(sets["train"], tutorial.batch_size, 1 if tutorial.time == 0 else 0, seed)
    net, first = tutorial.build(), next(stream)
    if weights != "default":
        readouts = [tutorial.counted] if "readouts" in weights and tutorial.counted else None
        target = fluctua.Target() if "Target" in weights else None
        fluctua.initialize(net, first, target, time=tutorial.time, steps=tutorial.steps, readouts=readouts, seed=seed)
    optimiser, losses = torch.optim.Adam(net.parameters(), lr=tutorial.lr), []
    for _ in range(tutorial.iterations):
        x, y = next(stream)
        loss = tutorial.loss(tutorial.run(net, x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    ends = losses[-1:] if held_out is None else losses[-10:]
    return {
        "tutorial": name,
        "weights": weights,
        "seed": seed,
        "iterations": tutorial.iterations,
        "before": f"{losses[0]:.4g}",
        "after": f"{statistics.mean(ends):.4g}",
        "accuracy": "" if held_out is None else f"{accuracy(tutorial, net, held_out):.3f}",
        "seconds": f"{time.process_time() - began:.0f}",
    }


@torch.no_grad()
def accuracy(tutorial: Tutorial, net: nn.Module, data: Batch) -> float:
    """By the number of spikes."""
    output = tutorial.run(net, data[0])
    return float(functional.accuracy_rate(output[0] if isinstance(output, tuple) else output, data[1]))


def read() -> list[dict[str, str]]:
    """The stored runs."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def table() -> str:
    """Medians, and in brackets the runs from the least to the largest, of the stored runs."""
    rows = read()
    lines = ["| tutorial | weights | loss before | after | accuracy, % |", "|---|---|---|---|---|"]
    for name in TUTORIALS:
        for weights in arms(name):
            runs = [row for row in rows if (row["tutorial"], row["weights"]) == (name, weights)]
            if runs:
                cells = [spread([float(row[key]) for row in runs]) for key in ("before", "after")]
                scores = [100 * float(row["accuracy"]) for row in runs if row["accuracy"]]
                lines.append(f"| {name} | {weights} | {' | '.join(cells)} | {spread(scores) if scores else '-'} |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """The median, and the least and the largest."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="N-MNIST: the folder, or a tar of it")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", help="tutorials whose name begins so")
    parser.add_argument("--table", action="store_true", help="print the table of the stored runs and end")
    options = parser.parse_args(arguments)
    if options.table:
        print(table())
        return
    done = read()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if not done:
            writer.writeheader()
        known = {(row["tutorial"], row["weights"], row["seed"]) for row in done}
        for name in (name for name in TUTORIALS if name.startswith(options.only or "")):
            for seed in range(1, options.seeds + 1):
                for weights in arms(name):
                    if (name, weights, str(seed)) not in known:
                        row = train(name, weights, seed, options.data)
                        writer.writerow(row)
                        file.flush()
                        print(*row.values(), flush=True)


if __name__ == "__main__":
    main()
