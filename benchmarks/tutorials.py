"""Networks of other frameworks as their tutorials write them, for `fuse.py`: each with its sizes and an input."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

Built = tuple[nn.Module, Tensor, Literal[0, 1]]
"""A network, its input, and which axis of that is time."""

SIZES, STEPS, SAMPLES = (700, 128, 128, 20), 350, 64  # workload W1


def spikes(*shape: int, rate: float = 0.02) -> Tensor:
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(0)) < rate).float()


def spread(model: nn.Module, gain: float) -> nn.Module:
    """Weights with which all layers spike."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("weight") and p.ndim > 1:
                fan_in = len(p) if "rockpool" in type(model).__module__ else p[0].numel()
                p.copy_(torch.randn(p.shape, generator=generator) * gain / fan_in**0.5)
    return model


def snntorch(kind: str, compiled: bool = False) -> Built:
    """State taken and returned, a loop over time."""
    import snntorch as snn
    from snntorch import surrogate

    def neurons() -> nn.Module:
        grad = surrogate.fast_sigmoid(slope=25)
        made = snn.Leaky(0.9, spike_grad=grad) if kind == "Leaky" else snn.Synaptic(0.8, 0.9, spike_grad=grad)
        return torch.compile(made) if compiled else made  # type: ignore[return-value]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            pairs = list(pairwise(SIZES))
            self.weights = nn.ModuleList(nn.Linear(a, b) for a, b in pairs)
            self.neurons = nn.ModuleList(neurons() for _ in pairs)

        def forward(self, x: Tensor) -> Tensor:
            states: list[Any] = []
            for layer in self.neurons:
                state: Any = getattr(layer, "_orig_mod", layer).reset_mem()  # type: ignore[operator]
                states.append(state if isinstance(state, tuple) else (state,))
            record = []
            for step in range(x.size(0)):
                z = x[step]
                for k, (weight, layer) in enumerate(zip(self.weights, self.neurons, strict=True)):
                    z, *states[k] = layer(weight(z), *states[k])
                record.append(z)
            return torch.stack(record)

    return spread(Net(), 3), spikes(STEPS, SAMPLES, SIZES[0]), 0


def norse() -> Built:
    """Cells in a sequential of their own, step by step."""
    import norse.torch as norse

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            pairs = list(pairwise(SIZES))
            self.weights = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in pairs)
            self.cells = nn.ModuleList(norse.LIFCell() for _ in pairs)

        def forward(self, x: Tensor) -> Tensor:
            states: list[Any] = [None] * len(self.cells)
            record = []
            for step in range(x.shape[0]):
                z = x[step]
                for k, (weight, cell) in enumerate(zip(self.weights, self.cells, strict=True)):
                    z, states[k] = cell(weight(z), states[k])
                record.append(z)
            return torch.stack(record)

    return spread(Net(), 30), spikes(STEPS, SAMPLES, SIZES[0]), 0


def spikingjelly(mode: str) -> Built:
    """Layers in step mode "s" or "m"."""
    from spikingjelly.activation_based import functional, layer, neuron, surrogate

    layers: list[nn.Module] = []
    for a, b in pairwise(SIZES):
        layers += [layer.Linear(a, b, bias=False), neuron.LIFNode(surrogate_function=surrogate.ATan())]
    model = nn.Sequential(*layers)
    functional.set_step_mode(model, mode)
    return spread(model, 6), spikes(STEPS, SAMPLES, SIZES[0]), 0


def sinabs() -> Built:
    import sinabs.layers as sl

    layers: list[nn.Module] = []
    for a, b in pairwise(SIZES):
        layers += [nn.Linear(a, b, bias=False), sl.LIF(tau_mem=10.0)]
    return spread(nn.Sequential(*layers), 30), spikes(SAMPLES, STEPS, SIZES[0]), 1


def rockpool() -> Built:
    from rockpool.nn.combinators import Sequential
    from rockpool.nn.modules import LIFTorch, LinearTorch

    layers: list[Any] = []
    for a, b in pairwise(SIZES):
        layers += [LinearTorch((a, b)), LIFTorch(b)]
    return spread(Sequential(*layers), 0.7), spikes(SAMPLES, STEPS, SIZES[0]), 1


def snntorch_recurrent() -> Built:
    """Neurons that hear themselves, workload W2."""
    import snntorch as snn
    from snntorch import surrogate

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            grad = surrogate.fast_sigmoid(slope=25)
            self.fc1, self.lif1 = nn.Linear(700, 256), snn.RLeaky(0.9, linear_features=256, spike_grad=grad)
            self.fc2, self.lif2 = nn.Linear(256, 20), snn.Leaky(0.9, spike_grad=grad)

        def forward(self, x: Tensor) -> Tensor:
            (spk1, mem1), mem2, record = self.lif1.reset_mem(), self.lif2.reset_mem(), []
            for step in range(x.size(0)):
                spk1, mem1 = self.lif1(self.fc1(x[step]), spk1, mem1)
                spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
                record.append(spk2)
            return torch.stack(record)

    return spread(Net(), 1), spikes(STEPS, SAMPLES, 700), 0


def snntorch_conv() -> Built:
    """Convolutions of N-MNIST's size, a loop over frames."""
    import snntorch as snn
    from snntorch import surrogate

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            grad = surrogate.atan()
            self.conv1, self.lif1 = nn.Conv2d(2, 12, 5), snn.Leaky(0.9, spike_grad=grad)
            self.conv2, self.lif2 = nn.Conv2d(12, 32, 5), snn.Leaky(0.9, spike_grad=grad)
            self.pool, self.fc, self.lif3 = nn.MaxPool2d(2), nn.Linear(800, 10), snn.Leaky(0.9, spike_grad=grad)

        def forward(self, x: Tensor) -> Tensor:
            mem1, mem2, mem3 = self.lif1.reset_mem(), self.lif2.reset_mem(), self.lif3.reset_mem()
            record = []
            for frame in x:
                spk1, mem1 = self.lif1(self.pool(self.conv1(frame)), mem1)
                spk2, mem2 = self.lif2(self.pool(self.conv2(spk1)), mem2)
                spk3, mem3 = self.lif3(self.fc(spk2.flatten(1)), mem3)
                record.append(spk3)
            return torch.stack(record)

    return spread(Net(), 3), spikes(30, 16, 2, 34, 34, rate=0.03), 0


def in_range(built: Built) -> Built:
    """The same network, its neurons driven by fluctuations: they spike at a few percent of the steps."""
    import fluctua

    model, x, axis = built
    fluctua.initialize(model, x, time=axis, seed=0)
    return built


def spikingjelly_conv() -> Built:
    """Convolutions with batch norm, four steps."""
    from spikingjelly.activation_based import functional, layer, neuron, surrogate

    layers: list[nn.Module] = []
    for a, b in ((2, 16), (16, 32)):
        layers += [layer.Conv2d(a, b, 3, padding=1, bias=False), layer.BatchNorm2d(b)]
        layers += [neuron.IFNode(surrogate_function=surrogate.ATan(), detach_reset=True), layer.MaxPool2d(2)]
    layers += [layer.Flatten(), layer.Linear(32 * 8 * 8, 10, bias=False), neuron.LIFNode(detach_reset=True)]
    model = nn.Sequential(*layers)
    functional.set_step_mode(model, "m")
    return spread(model, 3), spikes(4, 64, 2, 32, 32, rate=0.2), 0


NETWORKS: dict[str, tuple[str, Callable[[], Built], Callable[[], Built]]] = {
    "snnTorch Leaky": ("snntorch", lambda: snntorch("Leaky"), lambda: snntorch("Leaky", compiled=True)),
    "snnTorch Synaptic": ("snntorch", lambda: snntorch("Synaptic"), lambda: snntorch("Synaptic", compiled=True)),
    "snnTorch RLeaky": ("snntorch", snntorch_recurrent, snntorch_recurrent),
    "Norse": ("norse", norse, norse),
    "SpikingJelly s": ("spikingjelly", lambda: spikingjelly("s"), lambda: spikingjelly("m")),
    "SpikingJelly m": ("spikingjelly", lambda: spikingjelly("m"), lambda: spikingjelly("m")),
    "sinabs": ("sinabs", sinabs, sinabs),
    "Rockpool": ("rockpool", rockpool, rockpool),
    "snnTorch, convolutions": ("snntorch", snntorch_conv, snntorch_conv),
    "snnTorch, convolutions, initialised": (
        "snntorch",
        lambda: in_range(snntorch_conv()),
        lambda: in_range(snntorch_conv()),
    ),
    "SpikingJelly, convolutions and batch norm": ("spikingjelly", spikingjelly_conv, spikingjelly_conv),
}
"""By name: the package, the network as a tutorial writes it, and in the fastest way that the framework offers."""
