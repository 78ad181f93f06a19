"""From which density on is a convolution of spikes dearer by events than as a dense one?

    OMP_NUM_THREADS=1 python benchmarks/conv_events.py

Forward and backward of a convolution and the LIF behind it, in turns: the dense convolution in pieces that stay in the
cache, and the sum over spikes (`fluctua.timeloop.events_conv`), which has to find them first. The first layer, that of
W3 and of recordings such as N-MNIST, needs no gradient of its input; the second needs it, and it is dense either way.
"""

import argparse
from collections.abc import Callable, Sequence

import torch
from results import table
from timing import Step, interleaved, medians
from torch import Tensor, nn
from workloads import DT, TAU_MEM, TAU_SYN, W3

from fluctua.layers.over_time import PIECE
from fluctua.neurons import LIF
from fluctua.timeloop.events_conv import convolved, spikes_of

DENSITIES = 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4
LAYERS = {
    "first, 2 to 16 channels": (2, 16, 1),
    "second, 16 to 32": (16, 32, 1),
    "third, 32 to 64, pooled": (32, 64, 2),
}


def by_pieces(x: Tensor, conv: nn.Conv2d, piece: int = PIECE) -> Tensor:
    return torch.cat([conv(part) for part in x.split(piece)])  # type: ignore[no-untyped-call]


def by_events(x: Tensor, conv: nn.Conv2d) -> Tensor:
    spikes = spikes_of(x, 1.0)
    assert spikes is not None
    return convolved(x, spikes, conv.weight, conv.bias, (1, 1), (1, 1))


def steps(layer: tuple[int, int, int], density: float, size: tuple[int, int]) -> dict[str, Step]:
    """Forward and backward in each way, of a batch of `size` steps and samples."""
    n_in, n_out, pooled = layer
    torch.manual_seed(0)
    conv, neurons = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), LIF(TAU_MEM, TAU_SYN, DT)
    rows, columns = (n // pooled for n in W3.shape[1:])
    x = (torch.rand(*size, n_in, rows, columns) < density).float().requires_grad_(n_in != W3.shape[0])
    upstream = torch.randn(*size, n_out, rows, columns)

    def step(convolution: Callable[[Tensor, nn.Conv2d], Tensor]) -> Step:
        def run() -> None:
            out = neurons(convolution(x.flatten(0, 1), conv).view(*size, n_out, rows, columns))
            torch.autograd.grad(out, [t for t in (x, conv.weight) if t.requires_grad], upstream)

        return run

    return {"dense": step(by_pieces), "events": step(by_events)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--densities", type=float, nargs="+", default=DENSITIES)
    parser.add_argument("--size", type=int, nargs=2, default=(W3.steps, W3.batch), help="steps and samples")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)

    rows = []
    for name, layer in LAYERS.items():
        for density in options.densities:
            seconds = medians(interleaved(steps(layer, density, tuple(options.size)), options.rounds))
            dense, events = seconds["dense"], seconds["events"]
            cells = f"{100 * density:g}", f"{1e3 * dense:.0f}", f"{1e3 * events:.0f}", f"{dense / events:.2f}"
            rows.append((name, *cells))
    print(table(("layer", "density, %", "dense, ms", "events, ms", "times faster"), rows))


if __name__ == "__main__":
    main()
