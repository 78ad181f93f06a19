"""Laws of whole graphs that frameworks have written: initialised as a graph, the network there is on target."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.methods.nir import initialize_nir
from shared.spikes import spikes

nir = pytest.importorskip("nir")

N, HIDDEN, OUT, T, B = 20, 32, 8, 80, 16


def trains(*shape: int) -> Tensor:
    return spikes(T, B, *shape, p=0.05)


def snntorch() -> tuple[nn.Module, Any, Tensor]:
    package = pytest.importorskip("snntorch")
    export = pytest.importorskip("snntorch.export_nir").export_to_nir

    def full(n: int, value: float) -> Tensor:  # the exporter needs vectors
        return torch.full((n,), value)

    first = package.Leaky(full(HIDDEN, 0.9), threshold=full(HIDDEN, 1.0), init_hidden=True)
    constants = full(OUT, 0.8), full(OUT, 0.9)
    second = package.Synaptic(*constants, threshold=full(OUT, 1.0), init_hidden=True)
    net = nn.Sequential(nn.Linear(N, HIDDEN), first, nn.Linear(HIDDEN, OUT), second)
    return net, export(net, torch.zeros(N)), trains(N)


def spikingjelly() -> tuple[nn.Module, Any, Tensor]:
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    export = pytest.importorskip("spikingjelly.activation_based.nir_exchange").export_to_nir
    conv, pool = layer.Conv2d(2, 4, 3, padding=1, bias=False), layer.AvgPool2d(2)
    net = nn.Sequential(conv, neuron.LIFNode(), pool, layer.Flatten(), layer.Linear(64, OUT), neuron.IFNode())
    return net, export(net, torch.zeros(1, 2, 8, 8), dt=1e-4), trains(2, 8, 8)


def sinabs() -> tuple[nn.Module, Any, Tensor]:
    layers = pytest.importorskip("sinabs.layers")
    export = pytest.importorskip("sinabs.nir").to_nir
    first, second = nn.Linear(N, HIDDEN), nn.Linear(HIDDEN, OUT)
    # Written as layers that take batch and time as one axis, run as layers that take them as two.
    squeezed = layers.IAFSqueeze(batch_size=1), layers.LIFSqueeze(tau_mem=20.0, batch_size=1)
    written = nn.Sequential(first, squeezed[0], second, squeezed[1])
    sample = torch.zeros(1, N)
    written(sample)
    net = nn.Sequential(first, layers.IAF(), second, layers.LIF(tau_mem=20.0))
    return net, export(written, sample), trains(N)


def norse() -> tuple[nn.Module, Any, Tensor]:
    package = pytest.importorskip("norse.torch")
    net = package.SequentialState(nn.Linear(N, HIDDEN), package.LIFCell(), nn.Linear(HIDDEN, OUT), package.LIFBoxCell())
    return net, package.to_nir(net, torch.zeros(1, N)), trains(N)


def rockpool() -> tuple[nn.Module, Any, Tensor]:
    modules = pytest.importorskip("rockpool.nn.modules.torch")
    sequential = pytest.importorskip("rockpool.nn.combinators").Sequential
    export = pytest.importorskip("rockpool.nn.modules.torch.nir").to_nir
    layers = [modules.LinearTorch((N, HIDDEN)), modules.LIFTorch(HIDDEN, dt=1e-3), modules.LinearTorch((HIDDEN, OUT))]
    net = sequential(*layers, modules.LIFTorch(OUT, dt=1e-3))
    return net, export(net, torch.zeros(1, T, N)), trains(N)


# Network, how many of its populations have spikes as they are there: those behind another reset have not.
WRITTEN: dict[str, tuple[Callable[[], tuple[nn.Module, Any, Tensor]], int]] = {
    "snntorch": (snntorch, 1),
    "spikingjelly": (spikingjelly, 2),
    "sinabs": (sinabs, 1),
    "norse": (norse, 2),
    "rockpool": (rockpool, 1),
}


def load(net: nn.Module, graph: Any) -> None:
    """Write the weights of a graph into the network that it comes from, in their order."""
    nodes = [node for node in graph.nodes.values() if hasattr(node, "weight")]
    layers: list[Any] = [m for m in nn.Module.modules(net) if hasattr(m, "weight")]
    with torch.no_grad():
        for layer, node in zip(layers, nodes, strict=True):
            weight = torch.as_tensor(node.weight)
            layer.weight.copy_(weight.T if "rockpool" in type(layer).__module__ else weight)
            if isinstance(getattr(layer, "bias", None), Tensor):
                layer.bias.copy_(torch.as_tensor(node.bias))


@pytest.mark.parametrize("framework", WRITTEN)
def test_the_network_that_a_graph_comes_from_is_on_target_with_the_graphs_new_weights(framework: str) -> None:
    made, alike = WRITTEN[framework]
    torch.manual_seed(0)
    net, graph, x = made()
    dt = 1e-3 if framework in ("sinabs", "rockpool") else None
    new, report = initialize_nir(graph, x, dt=dt, convention=framework, seed=0)
    load(net, new)
    there = fluctua.inspect(net, *_run(framework, x))
    assert len(there) == len(report) == 2
    for here, state in list(zip(report, there, strict=True))[:alike]:
        assert state.mu_u == pytest.approx(here.target_mu_u, abs=0.02)
        assert state.sigma_u == pytest.approx(here.target_sigma_u, rel=0.02)


def _run(framework: str, x: Tensor) -> tuple[Any, ...]:
    return (x,) if framework not in ("sinabs", "rockpool") else (x.transpose(0, 1).contiguous(),)


def test_a_file_whose_input_counts_batch_and_time_is_read(tmp_path: Path) -> None:
    """As rockpool writes it."""
    _, graph, x = rockpool()
    nir.write(tmp_path / "net.nir", graph)
    _, report = initialize_nir(tmp_path / "net.nir", x, dt=1e-3, convention="rockpool", seed=0)
    assert [p.sigma_u for p in report] == pytest.approx([p.target_sigma_u for p in report], rel=0.02)
