"""State of every architecture of the paper after every initialiser: the table and the figures of docs/architectures.md.

    python docs/scripts/architectures.py --data DIR

DIR holds `fsdd_train.h5` (or another file in the layout of SHD), `nmnist_small.tar` and `cifar-10-batches-py`. Results
are written as they come, so that a stopped run resumes where it stopped.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from fluctua.lab.data.image_module import ImageDataModule
from fluctua.lab.data.module import SpikeDataModule
from fluctua.lab.networks import LABELS, bring_up, build
from fluctua.state import Report
from fluctua.state.facts import PopulationState
from fluctua.theory import Target

METHODS = ("kaiming", "xavier", "ding", "micheli", "spikeinit", "lsuv", "ei-init", "poisson", "measured")
DALE = ("dale", "dale-lognormal")
AUDIO = ("recurrent", "shd-conv", "shd-conv-deep", "dale", "dale-lognormal", "residual")
EVENTS = ("dvs-conv", "dvs-conv-deep", "residual-conv")
IMAGES = ("cifar10-conv-shallow", "cifar10-conv")
ALL = (*AUDIO, *EVENTS, *IMAGES)
COLUMNS = ("network", "method", "layer", "population", "sigma_u", "rate", "silent", "remark")


def batch_for(name: str, data: Path) -> tuple[Tensor, float]:
    """A batch of the data that a network is for, and the duration of a trial in seconds."""
    if name in AUDIO:
        return SpikeDataModule.from_shd_files(data / "fsdd_train.h5", duration=0.7).batch(16)[0], 0.7
    if name in EVENTS:
        return SpikeDataModule.from_nmnist(data / "nmnist_small.tar", duration=0.3).batch(4)[0], 0.3
    return ImageDataModule.from_cifar10(data / "cifar-10-batches-py", duration=0.3).batch(4)[0], 0.3


def states(name: str, method: str, x: Tensor, duration: float) -> Report:
    """Initialise the network of that name by a method and look at it."""
    torch.manual_seed(0)
    shape = tuple(x.shape[2:])
    model = build(name, shape, 10, dt=2e-3, duration=duration)
    nu = 9.2 if name in IMAGES else None  # the paper's choice for a constant current
    return bring_up(model, x, method, target=Target(), seed=0, nu=nu)


def rows(name: str, method: str, report: Report) -> Iterator[dict[str, str]]:
    """First, middle and last population that spikes."""
    layers: list[PopulationState] = [p for p in report if p.rate is not None]
    for layer, k in (("first", 0), ("middle", len(layers) // 2), ("last", len(layers) - 1)):
        p = layers[k]
        yield {
            "network": name,
            "method": LABELS[method],
            "layer": layer,
            "population": p.name,
            "sigma_u": f"{p.sigma_u:.2f}",
            "rate": f"{p.rate:.1f}",
            "silent": f"{100 * (p.silent_units or 0):.0f}",
            "remark": "",
        }


def table(done: list[dict[str, str]]) -> str:
    """Markdown: a row for each network and method, sigma_U / rate in Hz / silent share in % of three layers."""
    lines = ["| network | initialisation | first | middle | last |", "|---|---|---|---|---|"]
    tried = dict.fromkeys((r["network"], r["method"]) for r in done)
    for network, method in ((n, LABELS[m]) for n in ALL for m in METHODS if (n, LABELS[m]) in tried):
        own = [r for r in done if (r["network"], r["method"]) == (network, method)]
        cells = [r["remark"] or f"{r['sigma_u']} / {r['rate']} / {r['silent']}" for r in own]
        lines.append(f"| {network} | {method} | {' | '.join(cells + [''] * (3 - len(cells)))} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is not in the table yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/architectures"))
    parser.add_argument("--networks", nargs="+", default=ALL)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "states.csv"
    done = list(csv.DictReader(path.open())) if path.exists() else []
    for name in arguments.networks:
        x, duration = batch_for(name, arguments.data)
        for method in arguments.methods:
            # All baselines but E-I Init draw weights of both signs.
            fits = method in ("measured", "poisson") or (method == "ei-init") == (name in DALE)
            if not fits or any((r["network"], r["method"]) == (name, LABELS[method]) for r in done):
                continue
            try:
                report = states(name, method, x, duration)
            except ValueError as refusal:  # a method that is not for this kind of network says so
                done.append(
                    dict.fromkeys(COLUMNS, "") | {"network": name, "method": LABELS[method], "remark": "refused"}
                )
                print(f"{name}, {method}: {refusal}")
            else:
                done += rows(name, method, report)
                if method == "measured":
                    report.plot(f"{name}, measured + balanced").savefig(arguments.out / f"{name}.png")
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(done)
    print(table(done))


if __name__ == "__main__":
    main()
