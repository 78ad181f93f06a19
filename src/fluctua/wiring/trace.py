"""From a model and a batch to its populations, by hooks and the autograd graph.

One forward pass is run with gradients on. Hooks note the autograd node of every tensor that a neuron or a synapse
(any module that owns a weight) puts out; a walk back from each neuron's input current then stops at the first of
those it meets: they are what feeds the neuron, whatever lies between (pooling, flatten, dropout, norms, additions).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fluctua.wiring.adapters.registry import facts_of
from fluctua.wiring.graph import INPUT, Neuron, Pathway, Population
from fluctua.wiring.running import Forward, only_requiring_grad, plain_call, preserved

Node = Any  # torch.autograd.graph.Node

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
_PLUMBING = ("View", "Reshape", "Unsafe", "Alias", "Clone", "Accumulate", "Contiguous", "ToCopy", "Expand")


class WiringError(ValueError):
    """The model's wiring cannot be read; the message says why and what to do."""


@dataclass
class _Record:
    """What the hooks saw in one forward pass. Autograd nodes are kept alive here, so that they stay comparable."""

    currents: dict[nn.Module, Tensor] = field(default_factory=dict)  # in the order of execution
    calls: dict[nn.Module, int] = field(default_factory=dict)
    synapse_of: dict[Node, nn.Module] = field(default_factory=dict)
    neuron_of: dict[Node, nn.Module] = field(default_factory=dict)
    norm_of: dict[Node, nn.Module] = field(default_factory=dict)
    inputs: dict[nn.Module, list[Tensor]] = field(default_factory=dict)  # into synapses


def trace(model: nn.Module, batch: Any, forward: Forward = plain_call) -> tuple[Population, ...]:
    """The populations of `model` in the order in which they run, each with its afferent pathways.

    Nothing of the model is changed. Two time steps or more are needed to see a recurrence.

    Raises:
        WiringError: no known neuron in the model or none reached, a neuron called twice in one pass, or a model that
            runs without gradients.
    """
    names = {module: name or "model" for name, module in model.named_modules()}
    neurons = {m: facts for m in model.modules() if (facts := facts_of(m)) is not None}
    if not neurons:
        kinds = sorted({type(m).__name__ for m in model.modules() if not list(m.children())})
        raise WiringError(f"no spiking neuron found in the model: none of its modules ({', '.join(kinds)}) is known")
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    with preserved(model), only_requiring_grad(model, None):
        record = _record(model, batch, forward, neurons)
        return tuple(_populations(record, neurons, names, trainable))


def current_of(arguments: tuple[Any, ...], name: str) -> Tensor:
    """The input current among the arguments of a neuron's call."""
    if not arguments or not isinstance(arguments[0], Tensor) or arguments[0].ndim < 2:
        raise WiringError(f"the neuron {name} was not called with a current [T, B, ...] as its first argument")
    return arguments[0]


@contextmanager
def hooked(handles: Iterable[torch.utils.hooks.RemovableHandle]) -> Iterator[None]:
    """Remove the hooks at the end of the block."""
    handles = list(handles)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _record(model: nn.Module, batch: Any, forward: Forward, neurons: dict[nn.Module, Neuron]) -> _Record:
    record = _Record()
    names = {module: name or "model" for name, module in model.named_modules()}

    def before_neuron(module: nn.Module, args: tuple[Any, ...]) -> None:
        record.currents[module] = current_of(args, names[module])
        record.calls[module] = record.calls.get(module, 0) + 1

    def before_synapse(module: nn.Module, args: tuple[Any, ...]) -> None:
        record.inputs.setdefault(module, []).extend(a for a in args if isinstance(a, Tensor))

    def noting(table: dict[Node, nn.Module]) -> Any:
        def after(module: nn.Module, args: Any, output: Any) -> None:
            table.update((tensor.grad_fn, module) for tensor in _tensors(output) if tensor.grad_fn is not None)

        return after

    handles = []
    for module in model.modules():
        if module in neurons:
            handles.append(module.register_forward_pre_hook(before_neuron))
            handles.append(module.register_forward_hook(noting(record.neuron_of)))
        elif isinstance(module, NORMS) and module.weight is not None:
            handles.append(module.register_forward_hook(noting(record.norm_of)))
        elif _weight_names(module):
            handles.append(module.register_forward_pre_hook(before_synapse))
            handles.append(module.register_forward_hook(noting(record.synapse_of)))
    with hooked(handles):
        forward(model, batch)
    _check_calls(record, names)
    return record


def _check_calls(record: _Record, names: dict[nn.Module, str]) -> None:
    if not record.currents:
        raise WiringError("the model's forward pass reached none of its neurons")
    for module, calls in record.calls.items():
        if calls > 1:
            raise WiringError(
                f"the neuron {names[module]} was called {calls} times in one forward pass: give each population a "
                "module of its own, called once with the whole sequence [T, B, ...]"
            )
    if not any(current.requires_grad for current in record.currents.values()):
        raise WiringError(
            "no gradient reaches any neuron, so the weights that feed it cannot be found: does the model run under "
            "torch.no_grad(), or detach its currents?"
        )


def _populations(
    record: _Record, neurons: dict[nn.Module, Neuron], names: dict[nn.Module, str], trainable: set[int]
) -> Iterator[Population]:
    taken: dict[int, str] = {}  # weight -> first population that it feeds
    for module, current in record.currents.items():
        hits = _walk([current], record.synapse_of.keys() | record.neuron_of.keys(), record)
        pathways = []
        for node, (via, norm) in hits.items():
            synapse = record.synapse_of.get(node)
            if synapse is None:
                continue
            sources = _sources(record, synapse, names)
            for parameter in _weight_names(synapse):
                name = ".".join(filter(None, [names[synapse] if names[synapse] != "model" else "", parameter]))
                weight = getattr(synapse, parameter)
                first = taken.setdefault(id(weight), names[module])
                reason = _why_left_alone(first if first != names[module] else None, id(weight) in trainable)
                pathways.append(Pathway(name, synapse, parameter, sources, via, norm, reason))
        direct = sorted({names[record.neuron_of[node]] for node in hits if node not in record.synapse_of})
        yield Population(names[module], module, neurons[module], tuple(pathways), tuple(direct))


def _why_left_alone(first: str | None, trainable: bool) -> str | None:
    if first is not None:
        return f"shared with {first}, for which it was initialised"
    return None if trainable else "frozen (requires_grad=False)"


def _sources(record: _Record, synapse: nn.Module, names: dict[nn.Module, str]) -> tuple[str, ...]:
    hits = _walk(record.inputs.get(synapse, []), record.neuron_of.keys(), record)
    return tuple(sorted({names[record.neuron_of[node]] for node in hits})) or (INPUT,)


def _walk(
    tensors: Iterable[Tensor], stops: Iterable[Node], record: _Record
) -> dict[Node, tuple[tuple[str, ...], nn.Module | None]]:
    """Walk the graph backwards to the first stops; for each, the operations on the way and the last norm passed."""
    stops = set(stops)
    hits: dict[Node, tuple[tuple[str, ...], nn.Module | None]] = {}
    seen: set[Node] = set()
    pending: list[tuple[Node, tuple[str, ...], nn.Module | None]] = [(t.grad_fn, (), None) for t in tensors]
    while pending:
        node, via, norm = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in stops:
            hits[node] = (via, norm)
            continue
        norm = norm or record.norm_of.get(node)
        operation = node.name().removesuffix("Backward0").removesuffix("Backward1")
        if not operation.startswith(_PLUMBING):
            via = (operation, *via)
        pending.extend((parent, via, norm) for parent, _ in reversed(node.next_functions))
    return hits


def _weight_names(module: nn.Module) -> list[str]:
    """Attributes of the module's own weights: parameters of two or more dimensions."""
    return [name for name, p in module.named_parameters(recurse=False) if p.ndim >= 2 and p.is_floating_point()]


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        yield from _tensors(list(output.values()))
    elif isinstance(output, list | tuple):
        for item in output:
            yield from _tensors(item)
