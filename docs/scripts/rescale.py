"""What `rescale` brings back: the table of docs/why-does-it-not-learn.md. About ten minutes on one core.

    FLUCTUA_DATA=... python docs/scripts/rescale.py

Spoken digits (fsdd, 700 channels merged to 70), test samples of the speakers that training heard. An ANN of ReLUs is
trained on the spike counts of windows of 70 ms and gives its weights, it has no biases, to spiking neurons; a spiking
network is trained at 1 ms and run at 2 ms; the same network is pruned, smallest weights first. `rescale` sees 256
training samples and no label.
"""

import argparse
import copy
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import fluctua
from fluctua.lab.data.module import SpikeDataModule
from fluctua.neurons import LI, LIF
from fluctua.state.report import Report
from fluctua.theory import Target

TAU_MEM, TAU_SYN, DURATION, WIDTH = 20e-3, 10e-3, 0.7, 128
Batch = tuple[Tensor, Tensor]


def digits(folder: Path, dt: float, seed: int) -> SpikeDataModule:
    """The recordings in steps of `dt`, numbers of spikes."""
    files = folder / "fsdd_train.h5", folder / "fsdd_test.h5"
    return SpikeDataModule.from_shd_files(*files, dt=dt, duration=DURATION, pool=10, binary=False, seed=seed)


def known_speakers(data: SpikeDataModule) -> Batch:
    """The test samples of the speakers in training."""
    return data.batch(len(data.splits["known speakers"]), "known speakers")


def spiking(layers: Sequence[nn.Module], dt: float) -> nn.Sequential:
    """Three layers of weights with spiking neurons between them, and a readout."""
    first, second, last = layers
    between = [LIF(TAU_MEM, TAU_SYN, dt=dt) for _ in range(2)]
    return nn.Sequential(first, between[0], second, between[1], last, LI(DURATION, TAU_SYN, dt=dt))


def weights(bias: bool = True) -> list[nn.Module]:
    """Of three layers, as torch draws them."""
    return [nn.Linear(70, WIDTH, bias), nn.Linear(WIDTH, WIDTH, bias), nn.Linear(WIDTH, 10, bias)]


def accuracy(model: nn.Module, batch: Batch) -> float:
    """Share of samples whose class has the largest mean readout."""
    x, y = batch
    with torch.no_grad():
        return float((model(x).mean(0).argmax(1) == y).float().mean())


def trained(
    model: nn.Module, data: SpikeDataModule, seed: int, epochs: int, logits: Callable[[Tensor], Tensor]
) -> None:
    """Train a model of what `logits` makes of a batch by Adam."""
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    x, y = data.batch(len(data.splits["train"]))
    for _ in range(epochs):
        for part in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits(x[:, part]), y[part]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def silent(report: Report) -> float:
    """Share of hidden neurons that never fire."""
    return statistics.mean(p.silent for p in report if p.silent is not None)


def compare(name: str, model: nn.Module, data: SpikeDataModule, xi: float, reached: float, **options: Any) -> None:
    """Print accuracy and silence of a model as it is and rescaled, beside the accuracy that its training reached."""
    x, test = data.batch(256)[0], known_speakers(data)
    before = accuracy(model, test), silent(fluctua.inspect(model, x))
    report = fluctua.rescale(model, x, Target(xi=xi), readout=None, **options)
    cells = (reached, *before, accuracy(model, test), silent(report))
    print(f"{name:>20}{xi:8.2f}" + "".join(f"{cell:12.1%}" for cell in cells), flush=True)


def from_ann(folder: Path, seed: int) -> None:
    """ReLUs on spike counts, their weights in spiking neurons."""
    torch.manual_seed(seed)
    data, layers = digits(folder, 2e-3, seed), weights(bias=False)
    relus = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])

    def logits(x: Tensor) -> Tensor:
        return torch.as_tensor(relus(x.unflatten(0, (-1, 35)).sum(1)).mean(0))

    trained(relus, data, seed, 20, logits)
    x, y = known_speakers(data)
    reached = float((logits(x).argmax(1) == y).float().mean())
    compare("ANN", spiking(layers, 2e-3), data, 0.25, reached, per_neuron=False)


def from_snn(folder: Path, seed: int, epochs: int) -> None:
    """A network trained at 1 ms: run at 2 ms, and pruned."""
    torch.manual_seed(seed)
    data = digits(folder, 1e-3, seed)
    model = spiking(weights(), 1e-3)
    fluctua.initialize(model, data.batch(256)[0], readout=Target(sigma=0.1), seed=seed)
    trained(model, data, seed, epochs, lambda x: model(x).mean(0))
    reached, state = accuracy(model, known_speakers(data)), fluctua.inspect(model, data.batch(256)[0])
    xi = max(0.1, statistics.mean(p.xi for p in state if p.xi is not None))  # as it was after training
    for per_neuron in (True, False):
        coarse = spiking(weights(), 2e-3)
        coarse.load_state_dict(model.state_dict())
        name = "each neuron" if per_neuron else "population"
        compare(f"2 ms, {name}", coarse, digits(folder, 2e-3, seed), xi, reached, per_neuron=per_neuron)
        for share in (0.5, 0.8, 0.9):
            pruned = copy.deepcopy(model)
            for k in (0, 2):
                prune.l1_unstructured(pruned[k], "weight", share)  # type: ignore[no-untyped-call]
            compare(f"-{share:.0%}, {name}", pruned, data, xi, reached, per_neuron=per_neuron)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("FLUCTUA_DATA"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    given = parser.parse_args()
    for seed in range(given.seeds):
        heads = ("xi", "trained", "as it is", "silent", "rescaled", "silent")
        print(f"seed {seed:<15}{heads[0]:>8}" + "".join(f"{head:>12}" for head in heads[1:]), flush=True)
        from_ann(given.data, seed)
        from_snn(given.data, seed, given.epochs)


if __name__ == "__main__":
    main()
