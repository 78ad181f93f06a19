"""Memory and time of one training step on a long sequence, for layers run one by one and as a chain.

Each case is a process of its own; what counts is what forward and backward add to its memory.

    python benchmarks/bench_long.py [--steps 10000]
"""

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

import fluctua
from fluctua.layers import FusedSequential
from fluctua.neurons import LI, LIF
from fluctua.spikes import SpikeBatch

CASES = ("layer by layer", "in segments of 200", "chain", "chain, input as events")
SAMPLES, INPUTS, WIDTH, DENSITY = 16, 700, 128, 0.03


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--case", choices=CASES, help="run one case in this process")
    arguments = parser.parse_args()
    if arguments.case:
        added, seconds = measured(arguments.case, arguments.steps)
        print(f"{arguments.case:>32} {added:8.0f} MB {seconds:7.2f} s")
        return
    print(f"{INPUTS}-{WIDTH}-{WIDTH}-{WIDTH}-20, {arguments.steps} steps, {SAMPLES} samples, one thread", flush=True)
    for case in CASES:
        command = [sys.executable, __file__, "--case", case, "--steps", str(arguments.steps)]
        subprocess.run(command, check=True)


def measured(case: str, steps: int) -> tuple[float, float]:
    """Memory in MB that a training step adds at most, and its time in seconds; the second step counts."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers = network()
    net = (FusedSequential if case.startswith("chain") else nn.Sequential)(*layers)
    fluctua.initialize(net, spikes(200), seed=0)
    dense, events = spikes(steps), None
    if "events" in case:
        dense, events = spikes(50), SpikeBatch.from_dense(dense)
    net(dense[:50]).mean().backward()  # compiles
    with most_memory() as added:
        start = time.perf_counter()
        out = (
            fluctua.layers.in_segments(net, dense, 200)
            if "segments" in case
            else net(dense if events is None else events)
        )
        out.mean().backward()
        seconds = time.perf_counter() - start
    return added[0], seconds


def network() -> list[nn.Module]:
    layers: list[nn.Module] = []
    for n in (INPUTS, WIDTH, WIDTH):
        layers += [nn.Linear(n, WIDTH, bias=False), LIF()]
    return [*layers, nn.Linear(WIDTH, 20, bias=False), LI()]


def spikes(steps: int) -> torch.Tensor:
    return (torch.rand(steps, SAMPLES, INPUTS, generator=torch.Generator().manual_seed(0)) < DENSITY).float()


@contextmanager
def most_memory() -> Iterator[list[float]]:
    """What the process holds at most inside the block beyond what it held before, in MB."""
    before, found, done = resident(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(2e-3):
            found[0] = max(found[0], resident() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


if __name__ == "__main__":
    main()
