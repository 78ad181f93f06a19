"""One LIF population, T=350, B=128, N=512, float32: forward and backward of each engine, interleaved.

Yardsticks: a ReLU through autograd, and two elementwise passes over preallocated memory. On a busy machine the
reference's OpenMP threads spin against the other work, up to a minute a round; OMP_WAIT_POLICY=passive prevents that
but makes the reference slower than it is on a quiet machine.
"""

import argparse
import json
import math

import torch
from timing import Step, interleaved, medians, table
from torch import Tensor

from fluctua.timeloop import LoopParameters, engine, run


def contestants(shape: tuple[int, int, int]) -> dict[str, Step]:
    """What is timed, by name."""
    generator = torch.Generator().manual_seed(1234)
    current = (torch.randn(shape, generator=generator) * 0.25 + 0.1).requires_grad_()
    upstream = torch.randn(shape, generator=generator)
    decay_mem, decay_syn = torch.tensor(math.exp(-1 / 10)), torch.tensor(math.exp(-1 / 5))
    threshold = torch.tensor(0.25)  # 4 % spikes
    lif = LoopParameters(decay_mem, decay_syn, threshold)
    learnable = LoopParameters(decay_mem.clone().requires_grad_(), decay_syn.clone().requires_grad_(), threshold)

    def loop(name: str, parameters: LoopParameters) -> Step:
        def step() -> None:
            with engine(name):
                backward(run(current, parameters).output)

        return step

    def backward(output: Tensor) -> None:
        current.grad = None
        output.backward(upstream)  # type: ignore[no-untyped-call]

    first, second = torch.empty(shape), torch.empty(shape)

    def passes() -> None:
        torch.mul(upstream, 0.5, out=first)
        torch.mul(upstream, 0.5, out=second)

    return {
        "reference": loop("reference", lif),
        "cpu": loop("cpu", lif),
        "cpu, learnable time constants": loop("cpu", learnable),
        "relu": lambda: backward(torch.relu(current)),
        "two passes": passes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print one JSON line of the medians, in seconds")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    seconds = interleaved(contestants((350, 128, 512)), arguments.rounds)
    if arguments.json:
        print(json.dumps({"threads": arguments.threads, "seconds": medians(seconds)}))
        return
    print(f"{arguments.threads} thread(s), {arguments.rounds} rounds")
    print(table(seconds, "cpu"))


if __name__ == "__main__":
    main()
