"""What a `Monitor` costs: the figure of docs/why-does-it-not-learn.md. About two minutes on one core.

    python benchmarks/monitor.py

Training steps with a monitor that looks at every one, and with an open one that looks at none, in turn, on one thread;
CPU time. The difference, over the default interval, is what a watched training costs.
"""

import argparse
import inspect
import time
from collections.abc import Callable, Mapping

import torch
from timing import interleaved, medians
from torch import Tensor, nn

import fluctua
from fluctua.layers import OverTime, Recurrent
from fluctua.neurons import LI, LIF

EVERY: int = inspect.signature(fluctua.Monitor).parameters["every"].default
Made = tuple[nn.Module, Tensor, Callable[[nn.Module, Tensor], Tensor]]


def spikes(*shape: int) -> Tensor:
    """Sparse input."""
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(0)) < 0.05).float()


def called(model: nn.Module, x: Tensor) -> Tensor:
    """The readout, averaged over time."""
    return torch.as_tensor(model(x).mean(0))


def dense() -> Made:
    """Three layers of 256."""
    hidden = [nn.Linear(100, 256), LIF(), nn.Linear(256, 256), LIF(), nn.Linear(256, 256), LIF()]
    return nn.Sequential(*hidden, nn.Linear(256, 10), LI(0.1)), spikes(100, 32, 100), called


def recurrent() -> Made:
    """256 neurons that hear each other."""
    loop = Recurrent(LIF(), nn.Linear(256, 256, bias=False))
    return nn.Sequential(nn.Linear(100, 256), loop, nn.Linear(256, 10), LI(0.1)), spikes(100, 32, 100), called


def convolutional() -> Made:
    """Two convolutions on frames of 16 x 16."""
    maps = [OverTime(nn.Conv2d(2, 16, 3)), LIF(), OverTime(nn.Conv2d(16, 16, 3, stride=2)), LIF(), nn.Flatten(2)]
    return nn.Sequential(*maps, nn.Linear(16 * 36, 10), LI(0.1)), spikes(50, 16, 2, 16, 16), called


def snntorch() -> Made:
    """Two layers of 256, one call a step, as in the tutorials of snnTorch."""
    from snntorch import Leaky

    layers = [nn.Linear(100, 256), Leaky(0.9, init_hidden=True), nn.Linear(256, 10), Leaky(0.9, init_hidden=True)]

    def run(model: nn.Module, x: Tensor) -> Tensor:
        for module in model:  # type: ignore[attr-defined]
            if isinstance(module, Leaky):
                module.reset_mem()
        return torch.stack([model(step) for step in x]).mean(0)

    return nn.Sequential(*layers), spikes(50, 32, 100), run


def spikingjelly() -> Made:
    """Two convolutions with norms, four steps of images, as in the tutorials of SpikingJelly."""
    from spikingjelly.activation_based import functional, layer, neuron

    maps = [layer.Conv2d(1, 16, 3), layer.BatchNorm2d(16), neuron.LIFNode(), layer.MaxPool2d(2)]
    more = [layer.Conv2d(16, 16, 3), layer.BatchNorm2d(16), neuron.LIFNode(), layer.Flatten()]
    model = nn.Sequential(*maps, *more, layer.Linear(16 * 25, 10), neuron.LIFNode())
    functional.set_step_mode(model, "m")

    def run(model: nn.Module, x: Tensor) -> Tensor:
        functional.reset_net(model)
        return called(model, x)

    return model, torch.rand(1, 32, 1, 16, 16).repeat(4, 1, 1, 1, 1), run


NETWORKS: Mapping[str, Callable[[], Made]] = {f.__name__: f for f in (dense, recurrent, convolutional)} | {
    f.__name__: f for f in (snntorch, spikingjelly)
}


def share_of_a_step(make: Callable[[], Made], rounds: int) -> tuple[float, float]:
    """Seconds of a step that nobody looks at, and what a monitor costs at its default interval, in such steps."""
    torch.manual_seed(0)
    model, x, run = make()
    labels, optimizer = torch.arange(x.shape[1]) % 10, torch.optim.Adam(model.parameters(), 1e-3)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(run(model, x), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    monitor = fluctua.Monitor(model, every=2)  # looks at every other step
    with monitor:
        seconds = medians(interleaved({"watched": step, "not": step}, rounds, clock=time.process_time))
    return seconds["not"], (seconds["watched"] / seconds["not"] - 1) / EVERY


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("names", nargs="*", choices=[*NETWORKS, []], metavar="NETWORK")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'network':>15}{'ms a step':>12}{f'cost at {EVERY}':>14}")
    for name in given.names or NETWORKS:
        plain, cost = share_of_a_step(NETWORKS[name], given.rounds)
        print(f"{name:>15}{1e3 * plain:12.1f}{cost:14.2%}", flush=True)


if __name__ == "__main__":
    main()
