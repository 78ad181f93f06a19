"""What `initialize` costs on a network of 129 million weights, beside Kaiming's: a figure of docs/performance.md.

    python benchmarks/large.py     # about two minutes on one core; needs SpikingJelly and 4 GB of memory

The network is VGG11 with batch norm and three fully connected layers, with SpikingJelly's LIF neurons, on two images of
CIFAR-10's size in four steps. Each figure is from a process of its own, on one thread: CPU time of the first call,
which imports what it needs, and of the second; the most memory that the process held, beyond what it held before it
made the model, in units of the weights, which count themselves.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from itertools import pairwise

import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

import fluctua

PLAN = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")
WIDTHS = (512 * 49, 4096, 4096)


def vgg11(classes: int = 10) -> nn.Module:
    """Eight convolutions and three fully connected layers, in step mode m."""
    parts: list[nn.Module] = []
    maps = 3
    for step in PLAN:
        if isinstance(step, int):
            parts += [layer.Conv2d(maps, step, 3, padding=1), layer.BatchNorm2d(step), neuron.LIFNode()]
            maps = step
        else:
            parts.append(layer.MaxPool2d(2))
    parts += [layer.AdaptiveAvgPool2d(7), layer.Flatten()]
    for inputs, units in pairwise((*WIDTHS, classes)):
        parts += [layer.Linear(inputs, units), neuron.LIFNode()]
    model = nn.Sequential(*parts)
    functional.set_step_mode(model, "m")
    return model


def kaiming(model: nn.Module, x: Tensor) -> None:
    """Draw every weight anew, as PyTorch's tutorials do."""
    for p in model.parameters():
        if p.ndim > 1:
            nn.init.kaiming_normal_(p)


def initialize(model: nn.Module, x: Tensor) -> None:
    """The measured method."""
    fluctua.initialize(model, x, seed=0)


CALLS = {"kaiming": kaiming, "initialize": initialize}


def peak() -> int:
    """The most memory that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(name: str) -> dict[str, float]:
    """CPU seconds of two calls, and the memory of the first in units of the weights."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    before = peak()
    model, x = vgg11(), torch.rand(2, 3, 32, 32).expand(4, -1, -1, -1, -1)
    with torch.no_grad():
        model(x)  # what torch itself allocates once
    functional.reset_net(model)
    weights, times = sum(p.nbytes for p in model.parameters()), []
    for _ in range(2):
        start = time.process_time()
        CALLS[name](model, x)
        times.append(time.process_time() - start)
    return {"weights": weights, "first": times[0], "second": times[1], "memory": (peak() - before) / weights}


def main() -> None:
    """Measure in processes of their own, in turns, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", choices=CALLS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(measured(options.part)))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CALLS}
    for _ in range(options.rounds):
        for name in CALLS:
            command = [sys.executable, __file__, "--part", name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))

    def median(name: str, what: str) -> float:
        return statistics.median(one[what] for one in found[name])

    print(f"{found['kaiming'][0]['weights'] / 4e6:.0f} million weights, median of {options.rounds} processes")
    print(f"{'':12}{'first call, s':>16}{'second call, s':>16}{'memory / weights':>18}")
    for name in CALLS:
        first, second, memory = (median(name, what) for what in ("first", "second", "memory"))
        print(f"{name:12}{first:16.2f}{second:16.2f}{memory:18.2f}")
    ratios = (median("initialize", what) / median("kaiming", what) for what in ("first", "second"))
    print("initialize / kaiming: {:.1f} and {:.1f}".format(*ratios))


if __name__ == "__main__":
    main()
