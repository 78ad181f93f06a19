"""Two promises of the foundation, measured: initialising costs little, and the fused time loop is fast.

(a) Bringing a network of the size used on SHD (700-128-128-128-20 LIF neurons, 20/10 ms, 2 ms steps) into the
fluctuation-driven regime, on a batch of 250 samples of 350 steps, against one training step on the same batch: forward,
max-over-time loss, backward, Adam. (b) Forward and backward of the fused cpu engine against the reference, as in
bench_timeloop.py. What is compared is timed in turn, so that the drift of a busy machine hits all alike.
On a busy machine take --threads 1: the reference's OpenMP threads otherwise wait for each other (bench_timeloop.py).
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bench_timeloop
import torch
from timing import Seconds, Step, interleaved, medians, table
from torch import Tensor

import fluctua
from fluctua.data.module import SpikeDataModule
from fluctua.experiments.networks import READOUT, feed_forward
from fluctua.training import max_over_time_cross_entropy

DT = 2e-3
CLASSES = 20


@dataclass(frozen=True)
class Sizes:
    """Of the network's batch and of the engines' population."""

    steps: int = 350
    batch: int = 250
    loop_batch: int = 128
    loop_neurons: int = 512


TINY = Sizes(40, 8, 4, 16)


@dataclass(frozen=True)
class Comparison:
    """Seconds of two or more steps, and the goal for the ratio of the medians of two of them."""

    title: str
    seconds: Seconds
    over: str
    under: str
    goal: float
    at_most: bool

    @property
    def ratio(self) -> float:
        """Median of `over` by median of `under`."""
        middle = medians(self.seconds)
        return middle[self.over] / middle[self.under]

    @property
    def met(self) -> bool:
        """Whether the ratio is on the good side of the goal."""
        return self.ratio <= self.goal if self.at_most else self.ratio >= self.goal

    def __str__(self) -> str:
        goal = f"{self.over} / {self.under} = {self.ratio:.2f}, goal {'<=' if self.at_most else '>='} {self.goal:g}"
        return f"{self.title}\n{table(self.seconds, self.under)}\n{goal}: {'met' if self.met else 'MISSED'}\n"

    def plain(self) -> dict[str, object]:
        """As JSON knows it."""
        return {"seconds": self.seconds, "ratio": self.ratio, "goal": self.goal, "met": self.met}


def synthetic_batch(sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Input `[T, B, 700]` in which 3 % of all entries are spikes, as on SHD, and labels `[B]`."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(sizes.steps, sizes.batch, 700, generator=generator) < 0.03).float()
    return x, torch.arange(sizes.batch) % CLASSES


def batch_of_file(path: Path, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """As many samples of a file in the layout of SHD."""
    return SpikeDataModule.from_shd_files(path, dt=DT, duration=sizes.steps * DT).batch(sizes.batch)


def network_steps(x: Tensor, y: Tensor) -> dict[str, Step]:
    """One initialisation, and one training step of a network that was initialised."""
    duration = x.shape[0] * DT
    model = feed_forward(x.shape[2], CLASSES, width=128, depth=3, dt=DT, duration=duration)
    trained = feed_forward(x.shape[2], CLASSES, width=128, depth=3, dt=DT, duration=duration)
    fluctua.initialize(trained, x, readout=READOUT, seed=0)
    optimizer = torch.optim.Adam(trained.parameters(), lr=0.0)  # the same work every time, at the same rates

    def training_step() -> None:
        optimizer.zero_grad()
        loss = max_over_time_cross_entropy(trained(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return {
        "initialisation": lambda: fluctua.initialize(model, x, readout=READOUT, seed=0),
        "training step": training_step,
    }


def engine_steps(sizes: Sizes) -> dict[str, Step]:
    """Forward and backward of the two engines."""
    shape = sizes.steps, sizes.loop_batch, sizes.loop_neurons
    return {name: step for name, step in bench_timeloop.contestants(shape).items() if name in ("reference", "cpu")}


def compare(sizes: Sizes, data: Path | None, rounds: int) -> dict[str, Comparison]:
    """Both comparisons, by name."""
    x, y = batch_of_file(data, sizes) if data else synthetic_batch(sizes)
    network = (
        f"(a) {x.shape[2]}-128-128-128-{CLASSES}, {x.shape[1]} samples of {x.shape[0]} steps, {x.mean():.1%} spikes"
    )
    loop = (
        f"(b) one LIF population, T={sizes.steps}, B={sizes.loop_batch}, N={sizes.loop_neurons}, forward and backward"
    )
    return {
        "initialisation": Comparison(
            network, interleaved(network_steps(x, y), rounds), "initialisation", "training step", 3.0, at_most=True
        ),
        "engine": Comparison(loop, interleaved(engine_steps(sizes), rounds), "reference", "cpu", 5.0, at_most=False),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, help="a file in the layout of SHD, in place of synthetic spikes")
    parser.add_argument("--json", action="store_true", help="print one JSON line, times in seconds")
    parser.add_argument("--tiny", action="store_true", help="so small that the numbers mean nothing; to try it out")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)

    comparisons = compare(TINY if options.tiny else Sizes(), options.data, options.rounds)
    if options.json:
        facts = {name: comparison.plain() for name, comparison in comparisons.items()}
        print(json.dumps({"threads": options.threads, "rounds": options.rounds, **facts}))
        return
    print(f"{options.threads} thread(s), {options.rounds} rounds\n")
    for comparison in comparisons.values():
        print(comparison)


if __name__ == "__main__":
    main()
