"""What is left of the classes in each of twenty layers before training: a table of docs/depth.md. About ten minutes.

    python docs/scripts/separation.py --seeds 100-104

The networks and data of docs/scripts/backward.py with an input of 0.2 s and a trial of 0.4 s. A linear classifier reads
the spikes of a layer, counted in bins of 100 ms (ridge, the penalty by the validation data), and is tested on new
samples. Beside it, in ms, when half of the samples have had a first spike in the layer.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import fluctua
from fluctua.lab.data.module import SpikeDataModule
from fluctua.lab.networks import FullyConnected
from fluctua.lab.studies.task import RandmanTask
from fluctua.methods import Measured
from fluctua.neurons import LIF
from fluctua.theory import Relay, Target
from fluctua.theory.laws import Family, Normal

TASK = RandmanTask(samples_per_class=200, batch_size=50, heard=0.2, duration=0.4)
BIN = 50  # steps, 100 ms
PENALTIES = 10.0 ** np.arange(-1, 5)
SHOWN = (1, 3, 6, 10, 15, 20)

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Start:
    """A state before training."""

    law: Family
    xi: float
    alpha: float = 1.0

    def __str__(self) -> str:
        relay = f"relay {self.law.share:g}" if isinstance(self.law, Relay) else "random"
        return f"{relay}, xi = {self.xi:g}" + (", smooth manifolds" if self.alpha > 1 else "")


STARTS = (
    Start(Normal(), 1.0),
    Start(Normal(), 1.0, alpha=3.0),
    Start(Relay(), 1.0),
    Start(Relay(share=0.98), 1.0),
    Start(Relay(share=0.995), 1.0),
)


def network_of(start: Start, seed: int) -> tuple[nn.Module, SpikeDataModule]:
    """The network in that state, and its data."""
    data = replace(TASK, alpha=start.alpha).load(seed, None)
    model = FullyConnected(width=128, depth=20).build(data.shape, data.n_classes, dt=TASK.dt, duration=TASK.duration)
    x, _ = data.batch(250)
    fluctua.initialize(model, x, Target(xi=start.xi), method=Measured(law=start.law), seed=seed)
    return model, data


def answers(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Spikes `[T, B, N]` of each layer."""
    found = list[Tensor]()
    cells = [cell for cell in model.modules() if isinstance(cell, LIF)]
    hooks = [cell.register_forward_hook(lambda _, __, spikes: found.append(spikes)) for cell in cells]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return found


def counts(spikes: Tensor) -> Numbers:
    """In bins of time, `[B, bins * N]`."""
    steps, batch, n = spikes.shape
    binned = spikes.reshape(steps // BIN, BIN, batch, n).sum(1)
    return binned.transpose(0, 1).reshape(batch, -1).double().numpy()


def first_spikes(spikes: Tensor) -> Tensor:
    """Of each sample, in steps; the length of the trial where there is none."""
    fires = spikes.any(-1)
    return torch.where(fires.any(0), fires.int().argmax(0), len(spikes))


def readable(parts: Mapping[str, tuple[Numbers, NDArray[np.int64]]]) -> float:
    """The share of the test samples whose class a linear classifier tells."""
    (x, y), best, test = parts["train"], -1.0, 0.0
    mean, wanted = x.mean(axis=0), np.eye(y.max() + 1)[y]
    values, vectors = np.linalg.eigh((x - mean).T @ (x - mean))
    projected = vectors.T @ ((x - mean).T @ wanted)
    for penalty in PENALTIES:
        weights = vectors @ (projected / (values.clip(0) + penalty)[:, None])
        val, now = (float((((a - mean) @ weights).argmax(1) == b).mean()) for a, b in (parts["val"], parts["test"]))
        if val > best:
            best, test = val, now
    return test


def of_seed(start: Start, seed: int) -> tuple[list[float], list[float]]:
    """What is readable in each of the layers that are shown, and their median first spikes in ms."""
    model, data = network_of(start, seed)
    found: list[dict[str, tuple[Numbers, NDArray[np.int64]]]] = [{} for _ in SHOWN]
    first = list[float]()
    for part in ("train", "val", "test"):
        x, y = data.batch(len(data.splits[part]), part)
        kept: list[list[Numbers]] = [[] for _ in SHOWN]
        for some in x.split(200, dim=1):
            spikes = answers(model, some)
            for k, layer in enumerate(SHOWN):
                kept[k].append(counts(spikes[layer - 1]))
        for k, numbers in enumerate(kept):
            found[k][part] = np.concatenate(numbers), y.numpy()
        first = [1e3 * TASK.dt * float(first_spikes(spikes[layer - 1]).median()) for layer in SHOWN]
    return [readable(parts) for parts in found], first


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="100-104", help="a number, or a range")
    parser.add_argument("--only", default="", help="starts that have this in their name")
    options = parser.parse_args(arguments)
    low, _, high = options.seeds.partition("-")
    torch.set_num_threads(1)
    print("| start | " + " | ".join(f"layer {layer}" for layer in SHOWN) + " |")
    print("|---" * (len(SHOWN) + 1) + "|")
    for start in (start for start in STARTS if options.only in str(start)):
        seeds = [of_seed(start, seed) for seed in range(int(low), int(high or low) + 1)]
        cells = [
            f"{100 * statistics.mean(right[k] for right, _ in seeds):.0f} %, "
            f"{statistics.mean(first[k] for _, first in seeds):.0f} ms"
            for k in range(len(SHOWN))
        ]
        print(f"| {start} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
