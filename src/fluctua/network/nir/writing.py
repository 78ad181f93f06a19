"""From a model to a NIR graph."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fluctua.layers import OverTime, Recurrent, ResidualBlock
from fluctua.layers.blocks import OneToOne
from fluctua.network.errors import WiringError
from fluctua.network.nir.model import NirModel, nir
from fluctua.neurons import LI, LIF, AdaptiveLIF
from fluctua.neurons.current_based import CurrentBased
from fluctua.neurons.leaky import numbers
from fluctua.theory.psp import Array


def to_nir(model: nn.Module, shape: tuple[int, ...] | None = None, *, convention: str = "exact") -> Any:
    """The NIR graph of a model.

    For a `NirModel` this is the graph it was made from with its present weights; unchanged numbers are kept to the last
    digit. Otherwise the model may consist of `nn.Sequential`, `ResidualBlock`, `OverTime`, `Recurrent`, `nn.Linear`,
    `nn.Conv1d`, `nn.Conv2d`, `OneToOne`, `nn.AvgPool2d`, `nn.Flatten`, `nn.Dropout`, `LIF`, `LI` and `CurrentBased`.

    Read under the same convention and time step, which the graph's metadata name, neurons have the same kernel as here.
    NIR cannot express the two steps by which `LIF` and `LI` are late, the reset (in NIR to `v_reset`), surrogates, and
    a readout's initial potential: these are lost.

    Args:
        model: as above.
        shape: `[*N]` of its input; not needed for a `NirModel`.
        convention: "exact", with the time constants of the model, or "euler", with time constants whose Euler steps
            give the same kernel.

    Raises:
        WiringError: a module that NIR cannot express, or neurons with different time steps.
        ValueError: an unknown convention, or no shape.

    Example:
        >>> graph = to_nir(nn.Sequential(nn.Linear(30, 20), LIF(), nn.Linear(20, 2), LI()), shape=(30,))
        >>> sorted(graph.nodes)
        ['0', '1', '2', '3', 'input', 'output']
    """
    if isinstance(model, NirModel):
        return with_weights(model.graph, model.synapses)
    if convention not in _TAU:
        raise ValueError(f"graphs are written under the convention 'exact' or 'euler', not {convention!r}")
    if shape is None:
        raise ValueError("give the shape [*N] of the model's input: NIR nodes have shapes")
    draft = _Draft(model, convention)
    sources = [draft.add("input", nir().Input(input_type=np.array(shape)), [])]
    parameter = next(model.parameters(), torch.zeros(()))
    with torch.no_grad():
        sources, x = draft.put(model, "", sources, torch.zeros(shape).to(parameter))
    draft.add("output", nir().Output(output_type=np.array(x.shape)), sources)
    return draft.graph()


def with_weights(graph: Any, synapses: Mapping[str, nn.Module], prefix: str = "") -> Any:
    """A copy of a graph with the weights and biases of `synapses`, given by the name of their node."""
    changed = copy.copy(graph)
    changed.nodes = {}
    for name, node in graph.nodes.items():
        if type(node).__name__ == "NIRGraph":
            node = with_weights(node, synapses, f"{prefix}{name}.")
        elif (layer := synapses.get(prefix + name)) is not None:
            node = copy.copy(node)
            node.weight = _updated(node.weight, layer.weight)
            if getattr(node, "bias", None) is not None:
                node.bias = _updated(node.bias, layer.bias)
        changed.nodes[name] = node
    return changed


def _updated(old: Any, new: Any) -> NDArray[Any]:
    """New numbers in the type of the old, or the old ones if they differ only by rounding to the new's type."""
    old, new = np.asarray(old), new.detach().cpu().numpy()
    kept: NDArray[Any] = np.where(old.astype(new.dtype) == new, old, new.astype(old.dtype))
    return kept


# From decay per step to time constant, by convention.
_TAU: Mapping[str, Callable[[Array, float], Array]] = {
    "exact": lambda decay, dt: -dt / np.log(decay),
    "euler": lambda decay, dt: dt / (1 - decay),
}


class _Draft:
    """A graph under construction."""

    def __init__(self, model: nn.Module, convention: str) -> None:
        self.convention, self.tau = convention, _TAU[convention]
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        steps = {m.dt for m in model.modules() if isinstance(m, LIF | LI | CurrentBased)}
        if len(steps) != 1:
            raise WiringError(f"a NIR graph has one time step, but the model's neurons have {sorted(steps) or 'none'}")
        (self.dt,) = steps

    def graph(self) -> Any:
        """The finished graph."""
        metadata = {"dt": self.dt, "convention": self.convention}
        return nir().NIRGraph(self.nodes, self.edges, metadata=metadata)

    def add(self, name: str, node: Any, sources: list[str]) -> str:
        """Add a node whose input is the sum of the outputs of others."""
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        return name

    def put(
        self, module: nn.Module, name: str, sources: list[str], x: Tensor, leading: int = 2
    ) -> tuple[list[str], Tensor]:
        """Add a module behind nodes that send `x` `[*N]`; returns the nodes of its output, and this output.

        `leading` is the number of axes before `[*N]` that the module takes: 2 for time and batch, 1 if they are merged.
        """
        if isinstance(module, nn.Sequential):
            for key, child in module.named_children():
                sources, x = self.put(child, f"{name}.{key}" if name else key, sources, x, leading)
            return sources, x
        if isinstance(module, OverTime):
            return self.put(module.module, name, sources, x, 1)
        if isinstance(module, nn.Identity | nn.Dropout):
            return sources, x
        if isinstance(module, ResidualBlock):
            body, through = self.put(module.body, f"{name}.body", sources, x)
            skip, _ = self.put(module.skip, f"{name}.skip", sources, x)
            return self.put(module.cell, f"{name}.cell", [*body, *skip], through)
        name, shape = name or "model", tuple(x.shape)
        if isinstance(module, Recurrent):
            ends, out = self.put(module.cell, name, sources, x)
            back, _ = self.put(module.weight, f"{name}.weight", ends, out, 1)
            self.edges += [(weight, name) for weight in back]
            return ends, out
        if isinstance(module, LIF | LI | CurrentBased) and not isinstance(module, AdaptiveLIF):
            return [self.add(name, self._neuron(name, module, shape), sources)], x
        node = _layer(name, module, shape, leading)
        y = module(x.reshape(*[1] * leading, *shape))
        return [self.add(name, node, sources)], y.reshape(y.shape[leading:])

    def _neuron(self, name: str, module: LIF | LI | CurrentBased, shape: tuple[int, ...]) -> Any:
        def full(value: Any) -> Array:
            return np.array(np.broadcast_to(value, shape), float)

        neuron = module if isinstance(module, CurrentBased) else _as_current_based(module)
        a, gain, leak = numbers(neuron.decay_mem), numbers(neuron.gain), numbers(neuron.leak)
        fields: dict[str, Array] = {}
        if neuron.threshold is not None:
            fields = {"v_threshold": full(numbers(neuron.threshold)), "v_reset": full(numbers(neuron.v_reset))}
        if (a == 1).all() and neuron.decay_syn is None:
            kind = nir().IF if fields else nir().I
            return kind(r=full(gain / self.dt), **fields)
        if not ((a > 0) & (a < 1)).all():
            raise WiringError(f"NIR has no neuron with the constants of {name}: {neuron.extra_repr()}")
        fields |= {"r": full(gain / (1 - a)), "v_leak": full(leak)}
        if neuron.decay_syn is None:
            return (nir().LIF if neuron.spiking else nir().LI)(tau=full(self.tau(a, self.dt)), **fields)
        b = numbers(neuron.decay_syn)
        fields |= {"tau_syn": full(self.tau(b, self.dt)), "w_in": full(1 / (1 - b))}
        return (nir().CubaLIF if neuron.spiking else nir().CubaLI)(tau_mem=full(self.tau(a, self.dt)), **fields)


def _as_current_based(module: LIF | LI) -> CurrentBased:
    """The neuron with the same kernel, except for its delay of one step each in membrane and synapse."""
    with torch.no_grad():
        a, *others = module.dynamics().constants
        b = None if module.tau_syn is None else others[0]
        theta = module.threshold if isinstance(module, LIF) else None
        return CurrentBased(a, torch.ones_like(a) if b is None else 1 - a, module.dt, decay_syn=b, threshold=theta)


def _layer(name: str, module: nn.Module, shape: tuple[int, ...], leading: int) -> Any:
    """The node of a layer without state, for an input of that shape behind `leading` axes."""
    if isinstance(module, OneToOne):
        weight = _numpy(module.weight).reshape(-1, *[1] * (len(shape) - 1))
        return nir().Scale(np.array(np.broadcast_to(weight, shape)))
    if isinstance(module, nn.Linear) and len(shape) == 1:
        weight = _numpy(module.weight)
        return nir().Linear(weight) if module.bias is None else nir().Affine(weight, _numpy(module.bias))
    if isinstance(module, nn.Conv1d | nn.Conv2d) and module.padding_mode == "zeros":
        one = isinstance(module, nn.Conv1d)
        stride, padding, dilation = (
            value[0] if one and not isinstance(value, str) else value
            for value in (module.stride, module.padding, module.dilation)
        )
        bias = np.zeros(module.out_channels, np.float32) if module.bias is None else _numpy(module.bias)
        kind, size = (nir().Conv1d, shape[1]) if one else (nir().Conv2d, shape[1:])
        return kind(size, _numpy(module.weight), stride, padding, dilation, module.groups, bias)
    if isinstance(module, nn.AvgPool2d) and not module.ceil_mode and module.count_include_pad:
        sizes = [
            np.array(value if isinstance(value, tuple) else (value, value))
            for value in (module.kernel_size, module.stride, module.padding)
        ]
        if module.divisor_override is None:
            return nir().AvgPool2d(*sizes)
        if module.divisor_override == 1:
            return nir().SumPool2d(*sizes)
    if isinstance(module, nn.Flatten):
        first, last = (dim if dim < 0 else dim - leading for dim in (module.start_dim, module.end_dim))
        if first >= 0:
            return nir().Flatten({"input": np.array(shape)}, first, last)
    hint = {
        "BatchNorm": ": fold it into the weight before",
        "MaxPool": ": take nn.AvgPool2d",
        "Linear": f" for an input of shape {shape}: flatten it first",
    }
    why = next((text for kind, text in hint.items() if kind in type(module).__name__), "")
    raise WiringError(f"NIR cannot express {name or 'the model'}, a {type(module).__name__}{why}")


def _numpy(tensor: Tensor) -> NDArray[Any]:
    values: NDArray[Any] = tensor.detach().cpu().numpy().copy()
    return values
