"""The networks of W1 to W3 without their neurons: what the yardsticks run, and where libraries put their neurons."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from workloads import Workload


@dataclass(frozen=True)
class Layer:
    """The way to one population: from the layer below, and from itself."""

    synapse: nn.Module
    recurrent: nn.Module | None = None


class Net(nn.Module):
    """Layers, and a readout `[B, *N] -> [B, classes]`. Everything takes one time step, or all of them as one batch."""

    def __init__(self, layers: list[Layer], readout: nn.Module) -> None:
        super().__init__()
        self.layers, self.readout = layers, readout
        self.weights = nn.ModuleList(m for layer in layers for m in (layer.synapse, layer.recurrent) if m is not None)

    def linear(self, x: Tensor) -> Tensor:
        """The network with the identity in the place of its neurons."""
        for layer in self.layers:
            x = layer.synapse(x)
            if layer.recurrent is not None:
                x = x + layer.recurrent(x)
        out: Tensor = self.readout(x)
        return out


def net(workload: Workload, gain: float = 1.0) -> Net:
    """Of a workload, with normal weights of the standard deviation `gain / sqrt(fan-in)` and no bias."""
    w, generator = workload, torch.Generator().manual_seed(0)

    def drawn(layer: nn.Linear | nn.Conv2d, factor: float) -> nn.Module:
        fan_in = layer.weight[0].numel()
        with torch.no_grad():
            layer.weight.normal_(0.0, factor / fan_in**0.5, generator=generator)
        return layer

    def linear(n_in: int, n_out: int, factor: float) -> nn.Module:
        return drawn(nn.Linear(n_in, n_out, bias=False), factor)

    def conv(k: int) -> nn.Module:
        channels = [w.shape[0], *(w.width * 2**j for j in range(w.depth))]
        return drawn(nn.Conv2d(channels[k], channels[k + 1], 3, padding=1, bias=False), gain)

    if w.name == "W3":
        layers = [Layer(conv(0)), Layer(conv(1)), Layer(nn.Sequential(nn.MaxPool2d(2), conv(2)))]
        return Net(layers, nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), linear(pooled_features(w), w.classes, 1.0)))
    layers = [Layer(linear(n_in, n_out, gain)) for n_in, n_out in widths(w)]
    if w.name == "W2":
        layers = [Layer(layer.synapse, linear(w.width, w.width, 0.1 * gain)) for layer in layers]
    return Net(layers, linear(w.width, w.classes, 1.0))


def widths(workload: Workload) -> list[tuple[int, int]]:
    """Inputs and neurons of every hidden layer of a dense network."""
    sizes = [*workload.shape, *[workload.width] * workload.depth]
    return list(pairwise(sizes))


def pooled_features(workload: Workload) -> int:
    """What is left of a feature map behind the second pooling."""
    _, rows, columns = workload.shape
    return 4 * workload.width * (rows // 2 // 2) * (columns // 2 // 2)
