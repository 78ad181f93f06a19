"""A NIR graph as a torch model, and the optional package `nir`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fluctua.files import reading
from fluctua.hdf5 import self_contained
from fluctua.network.errors import WiringError


def nir() -> Any:
    """The package, if it is installed.

    Raises:
        ImportError: it is not.
    """
    try:
        return import_module("nir")
    except ImportError as error:
        raise ImportError("NIR graphs need the package nir: pip install fluctua[nir]") from error


def graph_of(graph: Any) -> Any:
    """A graph, given as such or as a file.

    Raises:
        FileError: the file cannot be read.
        WiringError: something else.
    """
    if isinstance(graph, str | PathLike):
        read, path = nir().read, Path(graph)
        with reading(path, "a NIR graph", "have it written anew"):
            with import_module("h5py").File(path, "r") as file:
                self_contained(file, path)
            graph = read(path, type_check=False)  # some exporters count batch and time among the input's axes
    if type(graph).__name__ != "NIRGraph":
        raise WiringError(f"expected a NIR graph or the path of its file, got a {type(graph).__name__}")
    return graph


@dataclass(frozen=True, eq=False)
class Vertex:
    """One step of the computation.

    Attributes:
        name: of the node in the (flattened) graph.
        module: what runs on a sequence `[T, B, *N]`; None for the graph's input.
        sources: names of the vertices that feed it; their outputs add up.
        inner: the node name of a synapse within the module, through which a neuron feeds itself, and the synapse.
    """

    name: str
    module: nn.Module | None
    sources: tuple[str, ...]
    inner: tuple[str, nn.Module] | None = None


class NirModel(nn.Module):
    """Runs a NIR graph: input `[T, B, *N]` -> its output, or a dictionary by name if it has several.

    Submodules have the names of the graph's nodes, with "_" for ".".

    Args:
        vertices: in an order in which they can be computed.
        inputs: names of the input vertices, in the order of the call's arguments.
        outputs: names of the output vertices.
        graph: the graph that it was made from; the property `graph` has the model's weights instead.
    """

    def __init__(self, vertices: Sequence[Vertex], inputs: Sequence[str], outputs: Sequence[str], graph: Any) -> None:
        super().__init__()
        keys: dict[str, str] = {}
        for vertex in vertices:
            if vertex.module is not None:
                key = vertex.name.replace(".", "_") or "node"
                while hasattr(self, key) or key in keys.values():
                    key += "_"
                self.add_module(key, vertex.module)
                keys[vertex.name] = key
        # Modules are found by key, so that they may be exchanged.
        self._vertices = [replace(vertex, module=None) for vertex in vertices]
        self._keys, self._inputs, self._outputs, self._graph = keys, tuple(inputs), tuple(outputs), graph

    @property
    def synapses(self) -> Mapping[str, nn.Module]:
        """The layers with weights, by the name of their node."""
        outer = {v.name: getattr(self, self._keys[v.name]) for v in self._vertices if v.name in self._keys}
        inner = dict(v.inner for v in self._vertices if v.inner is not None)
        owners = {name: getattr(module, "module", module) for name, module in {**outer, **inner}.items()}
        return {
            name: module for name, module in owners.items() if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
        }

    @property
    def graph(self) -> Any:
        """The NIR graph that it was made from, with the model's weights."""
        return self._graph

    def forward(self, *inputs: Tensor) -> Any:
        """Run over all time steps.

        Raises:
            ValueError: a wrong number of inputs.
        """
        if len(inputs) != len(self._inputs):
            raise ValueError(f"the graph has {len(self._inputs)} input(s), got {len(inputs)}")
        values = dict(zip(self._inputs, inputs, strict=True))
        for vertex in self._vertices:
            if vertex.name not in values:
                arriving = [values[source] for source in vertex.sources]
                summed = arriving[0] if len(arriving) == 1 else torch.stack(arriving).sum(0)
                key = self._keys.get(vertex.name)
                values[vertex.name] = summed if key is None else getattr(self, key)(summed)
        if len(self._outputs) == 1:
            return values[self._outputs[0]]
        return {name: values[name] for name in self._outputs}


class Scaled(nn.Module):
    """Multiplies by fixed numbers.

    Args:
        scale: broadcasts to `[*N]`.
    """

    scale: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """`[T, B, *N]` -> the same."""
        return x * self.scale


class Delayed(nn.Module):
    """Delays by whole steps.

    Args:
        steps: whole numbers that broadcast to `[*N]`.
    """

    steps: Tensor

    def __init__(self, steps: Tensor) -> None:
        super().__init__()
        self.register_buffer("steps", steps)

    def forward(self, x: Tensor) -> Tensor:
        """`[T, B, *N]` -> the same."""
        late = torch.zeros_like(x)
        for delay in sorted(set(self.steps.flatten().tolist())):
            shifted = torch.cat([torch.zeros_like(x[:delay]), x[: max(len(x) - delay, 0)]])
            late = late + shifted * (self.steps == delay)
        return late
