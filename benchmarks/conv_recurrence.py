"""How much faster is recurrence by convolution as one loop than step by step?

    OMP_NUM_THREADS=1 python benchmarks/conv_recurrence.py

Forward and backward of two recurrent convolutions along a cochlea's channels, in turns: the fused loop
(`fluctua.timeloop.conv_recurrence`), and the same layers stepped through.
"""

import argparse
from collections.abc import Sequence

import torch
from timing import Step, interleaved, table
from torch import Tensor

from fluctua.lab.networks.blocks import recurrent_conv_block
from fluctua.layers import Recurrent
from fluctua.layers.circuit import Circuit
from fluctua.neurons import LIF

DT, SIZE = 5e-3, (140, 64)
DRIVES = 1.0, 3.0  # standard deviation of the current from outside
LAYERS = {"16 maps of 44": (16, 44), "32 maps of 20": (32, 20)}


def steps(channels: int, length: int, drive: float) -> tuple[dict[str, Step], float]:
    """Forward and backward in each way, and the share of neurons that spike in a step."""
    torch.manual_seed(0)
    layer = recurrent_conv_block(channels, channels, lambda: LIF(dt=DT), kernel=5)[1]
    assert isinstance(layer, Recurrent)
    x = (drive * torch.randn(*SIZE, channels, length)).requires_grad_()
    upstream = torch.randn_like(x)

    def backward(spikes: Tensor) -> None:
        torch.autograd.grad(spikes, [x, *layer.parameters()], upstream)

    ways: dict[str, Step] = {
        "loop": lambda: backward(layer.simulate(x)["cell"]),
        "steps": lambda: backward(Circuit.simulate(layer, x)["cell"]),
    }
    return ways, float(layer(x).detach().mean())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name, (channels, length) in LAYERS.items():
        for drive in DRIVES:
            ways, density = steps(channels, length, drive)
            print(f"{name}, {100 * density:.1f} % spike in a step")
            print(table(interleaved(ways, options.rounds), "steps"))


if __name__ == "__main__":
    main()
