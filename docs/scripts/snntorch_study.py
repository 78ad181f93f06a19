"""snnTorch's tutorial network on recordings, after three initialisations: the figure of docs/frameworks/snntorch.md.

    python docs/scripts/snntorch_study.py --data nmnist_small.tar

The network is that of the tutorials, fully connected, with the loop over time written by hand and the cross entropy of
the output membrane as its loss. Its weights are snnTorch's default (that of `nn.Linear`), those of the formula of the
open pull request #457, reimplemented from its description, and those of `fluctua.initialize`. A few minutes.
"""

import argparse
from collections.abc import Callable
from math import exp, sqrt
from pathlib import Path
from typing import TYPE_CHECKING

import snntorch as snn
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fluctua
from fluctua.lab.looks import looks
from fluctua.state import Report
from fluctua.state.style import lay_out, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fluctua.lab.data.module import SpikeDataModule

DT, DURATION, TAU_MEM, TAU_SYN = 5e-3, 0.3, 20e-3, 10e-3
WIDTHS = (100, 100, 10)
RATE = 2e-3  # learning rate


class Net(nn.Module):
    """Three layers of `snn.Synaptic`; returns spikes and membrane of the last, `[T, B, 10]`."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        alpha, beta = exp(-DT / TAU_SYN), exp(-DT / TAU_MEM)
        self.fc1, self.lif1 = nn.Linear(inputs, WIDTHS[0]), snn.Synaptic(alpha, beta)
        self.fc2, self.lif2 = nn.Linear(*WIDTHS[:2]), snn.Synaptic(alpha, beta)
        self.fc3, self.lif3 = nn.Linear(*WIDTHS[1:]), snn.Synaptic(alpha, beta)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run all steps of `[T, B, 2, 34, 34]`."""
        syn1, mem1 = self.lif1.init_synaptic()
        syn2, mem2 = self.lif2.init_synaptic()
        syn3, mem3 = self.lif3.init_synaptic()
        spk_rec, mem_rec = [], []
        for step in range(x.shape[0]):
            spk1, syn1, mem1 = self.lif1(self.fc1(x[step].flatten(1)), syn1, mem1)
            spk2, syn2, mem2 = self.lif2(self.fc2(spk1), syn2, mem2)
            spk3, syn3, mem3 = self.lif3(self.fc3(spk2), syn3, mem3)
            spk_rec.append(spk3)
            mem_rec.append(mem3)
        return torch.stack(spk_rec), torch.stack(mem_rec)


def default(net: Net, x: Tensor) -> None:
    """What `nn.Linear` draws."""


def pull_request(net: Net, x: Tensor) -> None:
    """PR #457 with its default integrals, "analytical", and one rate for the whole network."""
    nu = float(x.mean()) / DT
    with torch.no_grad():
        for layer in (net.fc1, net.fc2, net.fc3):
            layer.weight.normal_(0.0, pull_request_std(layer.in_features, nu, TAU_MEM, TAU_SYN, sigma=1.0))
            layer.bias.zero_()


def pull_request_std(fan_in: int, nu: float, tau_mem: float, tau_syn: float, sigma: float) -> float:
    """Standard deviation of centred weights: `sigma / sqrt(n nu eps_hat)`.

    Its `eps_hat = tau_syn^2 / (2 (tau_syn + tau_mem))` belongs to a membrane that takes up `1 - exp(-dt / tau_mem)` of
    a current in each step; snnTorch's takes up all of it.
    """
    return sigma / sqrt(fan_in * nu * tau_syn**2 / (2 * (tau_syn + tau_mem)))


def by_fluctua(net: Net, x: Tensor) -> None:
    """One call."""
    fluctua.initialize(net, x, dt=DT)  # drawn by torch.manual_seed


METHODS: dict[str, Callable[[Net, Tensor], None]] = {
    "snnTorch's default": default,
    "PR #457": pull_request,
    "fluctua": by_fluctua,
}
LOOKS = looks(("torch", "poisson-continuous", "measured")).values()  # what the three are, in the order of `METHODS`


def train(net: Net, data: "SpikeDataModule", epochs: int) -> list[float]:
    """Accuracy on held-out recordings before training and after each epoch."""
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    learned = [accuracy(net, data)]
    for _ in range(epochs):
        for x, y in data.train_dataloader():
            _, mem = net(x)
            loss = cross_entropy(mem.flatten(0, 1), y.repeat(len(mem)))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        learned.append(accuracy(net, data))
    return learned


@torch.no_grad()
def accuracy(net: Net, data: "SpikeDataModule") -> float:
    """Of the class whose neuron has the highest membrane on average."""
    x, y = data.batch(100, "test")
    return float((net(x)[1].mean(0).argmax(1) == y).float().mean())


def figure(states: dict[str, Report], curves: dict[str, list[list[float]]]) -> "Figure":
    """Free `sigma_U` by layer, and accuracy by epoch (every seed a dot, the mean a line)."""
    import matplotlib.pyplot as plt

    with style():
        fig, (left, right) = plt.subplots(1, 2, figsize=(7.4, 2.9))
        for (name, report), look in zip(states.items(), LOOKS, strict=True):
            left.plot([1, 2, 3], [p.sigma_u for p in report], label=name, **look)
            runs = 100 * torch.tensor(curves[name])
            for run in runs:
                right.plot(run, ls="", marker=".", ms=3, color=look["color"], alpha=0.45)
            right.plot(runs.mean(0), ms=4, **look)
        left.axhline(1.0, color="0.6", linestyle=":", zorder=0)
        left.set(yscale="log", xticks=[1, 2, 3], xlabel="layer", ylabel=r"$\sigma_U$ before training (target 1)")
        left.legend()
        right.set(xlabel="epoch", ylabel="accuracy, held-out recordings (%)", ylim=(0, 102))
        lay_out(fig)
    return fig


def main() -> None:
    """Print the states and write the figure."""
    from fluctua.lab.data.module import SpikeDataModule
    from fluctua.lab.results.figures import save

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="N-MNIST: the folder, or a tar of it")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/img/snntorch-study.png"))
    options = parser.parse_args()
    data = SpikeDataModule.from_nmnist(options.data, dt=DT, duration=DURATION, batch_size=50)
    x, _ = data.batch(50)
    states: dict[str, Report] = {}
    curves: dict[str, list[list[float]]] = {name: [] for name in METHODS}
    for name, initialise in METHODS.items():
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            net = Net(x[0, 0].numel())
            initialise(net, x)
            if seed == 0:
                states[name] = fluctua.inspect(net, x, dt=DT)
            curves[name].append(train(net, data, options.epochs))
            print(name, [round(a, 2) for a in curves[name][-1]], flush=True)
        print(states[name])
    save(figure(states, curves), options.out)


if __name__ == "__main__":
    main()
