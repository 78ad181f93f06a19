"""From a NIR graph to a model that runs it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from graphlib import CycleError, TopologicalSorter
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fluctua.files import reason
from fluctua.layers import OverTime, Recurrent
from fluctua.network.errors import UnsupportedNeuronError, WiringError
from fluctua.network.nir.conventions import NEURONS, Convention, convention_of, neuron_of
from fluctua.network.nir.model import Delayed, NirModel, Scaled, Vertex, graph_of
from fluctua.neurons.surrogates import Surrogate


def from_nir(
    graph: Any | str | PathLike[str],
    dt: float | None = None,
    convention: str | None = None,
    *,
    surrogate: Surrogate | None = None,
) -> NirModel:
    """A model that runs a NIR graph: input `[T, B, *N]` -> its output.

    Its weights are parameters in single precision; neurons keep the graph's constants. Recurrent spikes arrive one step
    later. Nested graphs are flattened.

    Args:
        graph: `nir.NIRGraph`, or the path of a file.
        dt: time step in seconds; None if the graph's metadata (written by `to_nir`) or the convention
            have it.
        convention: "euler", "exact", or the framework that wrote the graph: "snntorch", "norse", "spikingjelly",
            "sinabs", "rockpool"; see `fluctua.network.nir.conventions`. None for that in the graph's metadata, or else
            "euler".
        surrogate: for all neurons, for training.

    Raises:
        FileError: a file that cannot be read.
        WiringError: nodes that cannot be run, no input or output, or a cycle other than that of a population through
            one weight to itself.
        UnsupportedNeuronError: a neuron class that the convention does not know, or unstable constants.
        ValueError: an unknown convention, or no time step.

    Example:
        >>> from fluctua.network.nir import to_nir
        >>> from fluctua.neurons import LI, LIF
        >>> graph = to_nir(nn.Sequential(nn.Linear(30, 20), LIF(), nn.Linear(20, 2), LI()), shape=(30,))
        >>> from_nir(graph)(torch.rand(50, 4, 30)).shape
        torch.Size([50, 4, 2])
    """
    found = graph_of(graph)
    told = found.metadata
    rule, step = convention_of(
        str(told.get("convention", "euler")) if convention is None else convention,
        float(told["dt"]) if dt is None and convention is None and "dt" in told else dt,
    )
    named = f"{graph}: " if isinstance(graph, str | PathLike) else ""
    try:
        return _model(found, rule, step, surrogate)
    except (WiringError, UnsupportedNeuronError) as error:
        raise type(error)(f"{named}{error}") from error
    except Exception as error:  # whatever the fields of a node cause
        raise WiringError(f"{named}the graph cannot be built ({reason(error)}): write it again") from error


def _model(graph: Any, rule: Convention, step: float, surrogate: Surrogate | None) -> NirModel:
    flat = flattened(graph)

    def module_of(name: str) -> nn.Module | None:
        node = flat.nodes[name]
        kind = type(node).__name__
        if kind in NEURONS:
            return neuron_of(name, node, rule, step, surrogate)
        if kind not in _MODULES:
            raise WiringError(f"the node {name} is a {kind}, which cannot be run: {', '.join(sorted(_MODULES))} can")
        return _MODULES[kind](node, step)

    back = _recurrences(flat)
    inner = {weight: neuron for neuron, weight in back.items()}
    order = _order(flat, back)
    vertices = []
    for name in order:
        if name in inner:
            continue
        module = module_of(name)
        synapse = None
        if name in back and module is not None:
            weight = module_of(back[name])
            assert weight is not None
            synapse = back[name], getattr(weight, "module", weight)
            module = Recurrent(module, synapse[1])
        sources = tuple(a for a, b in flat.edges if b == name and a not in inner)
        vertices.append(Vertex(name, module, sources, synapse))
    inputs = [name for name in order if type(flat.nodes[name]).__name__ == "Input"]
    outputs = [name for name in order if type(flat.nodes[name]).__name__ == "Output"]
    if not inputs or not outputs:
        raise WiringError("the graph has no Input or no Output node: add them where signals enter and leave")
    lonely = [v.name for v in vertices if not v.sources and v.name not in inputs]
    if lonely:
        raise WiringError(f"nothing leads to the node {lonely[0]}: connect it or leave it out")
    return NirModel(vertices, inputs, outputs, graph)


@dataclass(frozen=True)
class Flat:
    """A graph without nested graphs.

    Attributes:
        nodes: by name; those of a nested graph have its name and a dot before their own.
        edges: pairs of source and target.
    """

    nodes: Mapping[str, Any]
    edges: tuple[tuple[str, str], ...]


def flattened(graph: Any, prefix: str = "") -> Flat:
    """Flatten nested graphs; their inputs and outputs become places where signals pass."""
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []
    entries: dict[str, str] = {}
    exits: dict[str, str] = {}
    for name, node in graph.nodes.items():
        if type(node).__name__ != "NIRGraph":
            nodes[prefix + name] = node
            continue
        inner = flattened(node, f"{prefix}{name}.")
        kinds = {
            kind: [f"{prefix}{name}.{k}" for k, port in node.nodes.items() if type(port).__name__ == kind]
            for kind in ("Input", "Output")
        }
        if any(len(ports) != 1 for ports in kinds.values()):
            raise WiringError(f"the nested graph {prefix}{name} needs one Input and one Output node, got {kinds}")
        entries[name], exits[name] = kinds["Input"][0], kinds["Output"][0]
        nodes |= {**inner.nodes, entries[name]: _Passage(), exits[name]: _Passage()}
        edges += inner.edges
    edges += [(exits.get(a, prefix + a), entries.get(b, prefix + b)) for a, b in graph.edges]
    return Flat(nodes, tuple(dict.fromkeys(edges)))


class _Passage:
    """Where signals enter and leave a nested graph."""


def _recurrences(flat: Flat) -> dict[str, str]:
    """Neuron -> the weight through which it feeds itself."""
    edges = set(flat.edges)
    back: dict[str, str] = {}
    for neuron, weight in flat.edges:
        if type(flat.nodes[neuron]).__name__ in NEURONS and (weight, neuron) in edges:
            if neuron in back:
                raise WiringError(
                    f"the population {neuron} has two recurrent weights, {back[neuron]} and {weight}: join them"
                )
            if type(flat.nodes[weight]).__name__ not in _SYNAPSES:
                raise WiringError(
                    f"the population {neuron} feeds back on itself through {weight}, which has no weights"
                )
            if [a for a, b in edges if b == weight] != [neuron] or [b for a, b in edges if a == weight] != [neuron]:
                raise WiringError(f"the recurrent weight {weight} of {neuron} has other connections too")
            back[neuron] = weight
    return back


def _order(flat: Flat, back: Mapping[str, str]) -> list[str]:
    loops = {(weight, neuron) for neuron, weight in back.items()}
    before: dict[str, list[str]] = {name: [] for name in flat.nodes}
    for a, b in flat.edges:
        if (a, b) not in loops:
            before[b].append(a)
    try:
        return list(TopologicalSorter(before).static_order())
    except CycleError as error:
        raise WiringError(
            f"the graph has a cycle over {', '.join(dict.fromkeys(error.args[1]))}: only populations that feed "
            "themselves through one weight can be run"
        ) from error


def _linear(node: Any, dt: float) -> nn.Module:
    weight = _tensor(node.weight)
    if weight.ndim != 2:
        raise WiringError(f"a weight of shape {tuple(weight.shape)} is not a matrix: flatten its input first")
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=getattr(node, "bias", None) is not None)
    return _with(layer, node)


def _conv(make: Callable[..., nn.Module], node: Any, dt: float) -> nn.Module:
    weight = _tensor(node.weight)
    layer = make(
        weight.shape[1] * int(node.groups),
        weight.shape[0],
        tuple(weight.shape[2:]),
        stride=_sizes(node.stride),
        padding=node.padding if isinstance(node.padding, str) else _sizes(node.padding),
        dilation=_sizes(node.dilation),
        groups=int(node.groups),
        bias=node.bias is not None,
    )
    return OverTime(_with(layer, node))


def _with(layer: Any, node: Any) -> nn.Module:
    with torch.no_grad():
        layer.weight.copy_(_tensor(node.weight))
        if layer.bias is not None:
            layer.bias.copy_(_tensor(node.bias))
    module: nn.Module = layer
    return module


def _pool(divisor: int | None, node: Any, dt: float) -> nn.Module:
    size, stride, padding = (_sizes(value) for value in (node.kernel_size, node.stride, node.padding))
    return OverTime(nn.AvgPool2d(size, stride, padding, divisor_override=divisor))


def _flatten(node: Any, dt: float) -> nn.Module:
    start, end = int(node.start_dim), int(node.end_dim)  # counted without the batch
    first = start + 1 if start >= 0 else start
    return OverTime(nn.Flatten(first, end + 1 if end >= 0 else end))


def _delay(node: Any, dt: float) -> nn.Module:
    steps = np.asarray(node.delay, float) / dt
    if not np.allclose(steps, steps.round(), atol=1e-3) or (steps < -0.5).any():
        raise WiringError(f"a delay of {np.max(steps):.4g} time steps is not a whole number: choose another dt")
    return Delayed(torch.as_tensor(steps.round()).long())


def _sizes(value: Any) -> Any:
    sizes = tuple(int(v) for v in np.atleast_1d(np.asarray(value)))
    return sizes[0] if len(sizes) == 1 else sizes


def _tensor(values: Any) -> Tensor:
    return torch.as_tensor(np.array(values, float), dtype=torch.get_default_dtype())


_SYNAPSES: Mapping[str, Callable[[Any, float], nn.Module]] = {
    "Affine": _linear,
    "Linear": _linear,
    "Conv1d": partial(_conv, nn.Conv1d),
    "Conv2d": partial(_conv, nn.Conv2d),
}
_MODULES: Mapping[str, Callable[[Any, float], nn.Module | None]] = {
    **_SYNAPSES,
    "AvgPool2d": partial(_pool, None),
    "SumPool2d": partial(_pool, 1),
    "Flatten": _flatten,
    "Scale": lambda node, dt: Scaled(_tensor(node.scale)),
    "Delay": _delay,
    **dict.fromkeys(("Input", "Output", "_Passage"), lambda node, dt: None),
}
