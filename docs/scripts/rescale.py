"""What `rescale` brings back: the table of docs/why-does-it-not-learn.md. About ten minutes on one core.

    python docs/scripts/rescale.py --data FOLDER

An ANN of ReLUs without biases is trained on CIFAR-10 (16 x 16 pixels) and gives its weights to spiking neurons that see
pixels as spikes. A spiking network is trained on spoken digits (fsdd, 70 channels) at 1 ms and run in longer
steps; the same network is pruned, smallest weights first. `rescale` sees 256 training samples and no label, and of the
trained network the report. Accuracy is that of test samples, of digits those of the speakers that training heard.
"""

import argparse
import copy
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import fluctua
from fluctua.lab.data.image_module import ImageDataModule
from fluctua.lab.data.module import SpikeDataModule
from fluctua.neurons import LI, LIF
from fluctua.state.report import Report
from fluctua.theory import Target

DURATION, WIDTH = 0.7, 128
Batch = tuple[Tensor, Tensor]


def digits(folder: Path, dt: float, seed: int) -> SpikeDataModule:
    """The recordings in steps of `dt`, numbers of spikes."""
    files = folder / "fsdd_train.h5", folder / "fsdd_test.h5"
    return SpikeDataModule.from_shd_files(*files, dt=dt, duration=DURATION, pool=10, binary=False, seed=seed)


def spiking(layers: Sequence[nn.Module], dt: float) -> nn.Sequential:
    """Three layers of weights with spiking neurons between them, and a readout."""
    first, second, last = layers
    between = [LIF(20e-3, 10e-3, dt=dt) for _ in range(2)]
    return nn.Sequential(first, between[0], second, between[1], last, LI(DURATION, dt=dt))


def accuracy(logits: Tensor, y: Tensor) -> float:
    """Share of samples whose class has the largest value."""
    return float((logits.argmax(1) == y).float().mean())


def trained(model: nn.Module, x: Tensor, y: Tensor, axis: int, epochs: int, logits: Callable[[Tensor], Tensor]) -> None:
    """Train a model by Adam; `logits` makes them of a batch, whose samples are counted by that axis."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3 if axis == 0 else 2e-3)
    for _ in range(epochs):
        for part in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits(x.index_select(axis, part)), y[part]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def silent(report: Report) -> float:
    """Share of hidden neurons that never fire."""
    return statistics.mean(p.silent for p in report if p.silent is not None)


def compare(
    name: str, model: nn.Module, x: Tensor, test: Batch, target: Target | Report, reached: float, per_neuron: bool
) -> None:
    """Print accuracy and silence of a model as it is and rescaled, beside the accuracy that its training reached."""

    def now() -> float:
        with torch.no_grad():
            return accuracy(model(test[0]).mean(0), test[1])

    before = now(), silent(fluctua.inspect(model, x))
    report = fluctua.rescale(model, x, target, per_neuron=per_neuron)
    cells = (reached, *before, now(), silent(report))
    print(f"{name:>20}" + "".join(f"{cell:12.1%}" for cell in cells), flush=True)


def from_ann(folder: Path, seed: int) -> None:
    """ReLUs on pixels, their weights in spiking neurons."""
    torch.manual_seed(seed)
    data = ImageDataModule.from_cifar10(folder / "cifar-10-batches-py", seed=seed)

    def pixels(split: str, n: int) -> Batch:
        x, y = data.batch(n, split)
        return nn.functional.avg_pool2d((x[0] + 1) / 2, 2).flatten(1), y

    def spikes(x: Tensor) -> Tensor:
        return (torch.rand(150, *x.shape) < 0.1 * x).float()  # up to 50 Hz

    (x, y), (x_test, y_test) = pixels("train", len(data.splits["train"])), pixels("test", 1000)
    layers = [nn.Linear(n, m, bias=False) for n, m in ((768, 256), (256, 128), (128, 10))]
    relus = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    trained(relus, x, y, 0, 25, relus)
    reached = accuracy(relus(x_test), y_test)
    model, test = spiking(layers, 2e-3), (spikes(x_test), y_test)
    compare("ANN", model, spikes(x[:256]), test, Target(xi=1.0), reached, per_neuron=False)


def from_snn(folder: Path, seed: int, epochs: int) -> None:
    """A network trained at 1 ms: run in longer steps, and pruned."""
    torch.manual_seed(seed)
    data = digits(folder, 1e-3, seed)
    x, test = data.batch(256)[0], data.batch(len(data.splits["known speakers"]), "known speakers")
    model = spiking([nn.Linear(70, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 10)], 1e-3)
    fluctua.initialize(model, x, readout=Target(sigma=0.1), seed=seed)
    trained(model, *data.batch(len(data.splits["train"])), 1, epochs, lambda part: torch.as_tensor(model(part).mean(0)))
    with torch.no_grad():
        reached, state = accuracy(model(test[0]).mean(0), test[1]), fluctua.inspect(model, x)
    for dt, kept in ((2e-3, False), (2e-3, True), (5e-3, False)):
        other, coarse = digits(folder, dt, seed), copy.deepcopy(model)
        for neuron in (m for m in coarse if isinstance(m, LIF | LI) and not kept):
            neuron.dt = dt
        tested = other.batch(len(other.splits["known speakers"]), "known speakers")
        name = f"{1e3 * dt:g} ms{', same decays' * kept}"  # as where constants are those of a step
        compare(name, coarse, other.batch(256)[0], tested, state, reached, per_neuron=True)
    for share in (0.5, 0.8, 0.9):
        pruned = copy.deepcopy(model)
        for layer in (pruned[0], pruned[2]):
            prune.l1_unstructured(layer, "weight", share)  # type: ignore[no-untyped-call]
        compare(f"pruned by {share:.0%}", pruned, x, test, state, reached, per_neuron=True)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args()
    for seed in range(given.seeds):
        heads = ("trained", "as it is", "silent", "rescaled", "silent")
        print(f"seed {seed:<15}" + "".join(f"{head:>12}" for head in heads), flush=True)
        from_ann(given.data, seed)
        from_snn(given.data, seed, given.epochs)


if __name__ == "__main__":
    main()
