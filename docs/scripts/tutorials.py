"""snnTorch's tutorial on regression, from its default weights and from fluctua's: the table of docs/training.md.

    python docs/scripts/tutorials.py --seeds 3

The network and task are those of the tutorial, written anew: the membrane potential of the last neuron is to be the
square root of a line that rises to a random height. Adam with lr 1e-3 and the same number of
steps for both. About five minutes.
"""

import argparse
import statistics
from collections.abc import Sequence

import snntorch as snn
import torch
from torch import Tensor, nn

import fluctua

STEPS = 50


class Net(nn.Module):
    """Three layers with a random threshold for each hidden neuron; returns the last potential at every step."""

    def __init__(self, hidden: int = 128) -> None:
        super().__init__()
        self.fc_in, self.lif_in = nn.Linear(1, hidden), snn.Leaky(torch.rand(hidden), torch.rand(hidden))
        self.fc_hidden, self.lif_hidden = nn.Linear(hidden, hidden), snn.Leaky(torch.rand(hidden), torch.rand(hidden))
        self.fc_out, self.li_out = nn.Linear(hidden, 1), snn.Leaky(torch.rand(1), 1.0, reset_mechanism="none")

    def forward(self, x: Tensor) -> Tensor:
        """`[T, B, 1]` -> `[T, B, 1]`."""
        one, two, out = self.lif_in.init_leaky(), self.lif_hidden.init_leaky(), self.li_out.init_leaky()
        potentials = []
        for now in x:
            spikes, one = self.lif_in(self.fc_in(now), one)
            spikes, two = self.lif_hidden(self.fc_hidden(spikes), two)
            _, out = self.li_out(self.fc_out(spikes), out)
            potentials.append(out)
        return torch.stack(potentials)


def error(ours: bool, samples: int, seed: int, iterations: int) -> tuple[float, float]:
    """Mean squared error before and after training."""
    torch.manual_seed(seed)
    x = torch.linspace(0, 1, STEPS)[:, None, None] * torch.rand(1, samples, 1)
    wanted = (0.7 * x).sqrt()
    model = Net()
    if ours:
        fluctua.initialize(model, (x, wanted), seed=seed)
    optimiser, losses = torch.optim.Adam(model.parameters(), lr=1e-3), []
    for _ in range(iterations):
        loss = nn.functional.mse_loss(model(x), wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=100)
    options = parser.parse_args(arguments)

    print("| samples | weights | error before: median | after: median | least | largest |\n|---|---|---|---|---|---|")
    for samples in (1, 8):
        for ours, name in ((False, "default"), (True, "fluctua")):
            found = [error(ours, samples, seed, options.iterations) for seed in range(1, options.seeds + 1)]
            before, after = ([pair[k] for pair in found] for k in (0, 1))
            cells = (statistics.median(before), statistics.median(after), min(after), max(after))
            print(f"| {samples} | {name} | " + " | ".join(f"{cell:.4f}" for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
