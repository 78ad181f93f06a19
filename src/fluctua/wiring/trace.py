"""From a model and a batch to its populations, by hooks and the autograd graph.

One forward pass is run with gradients on. Hooks note the autograd node of every tensor that a neuron or a synapse
(a module that owns a weight and holds no other layers) puts out; a walk back from each neuron's input current then
stops at the first of those it meets: they are what feeds the neuron, whatever lies between (pooling, flatten, dropout,
norms, additions). A weight that the walk meets outside such a module is refused: what reaches it is not to be seen.
"""

from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from fluctua.wiring.adapters.registry import facts_of
from fluctua.wiring.graph import INPUT, Neuron, Pathway, Population
from fluctua.wiring.running import Forward, only_requiring_grad, plain_call, preserved

Node = Any  # torch.autograd.graph.Node

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_PLUMBING = ("View", "Reshape", "Unsafe", "Alias", "Clone", "Accumulate", "Contiguous", "ToCopy", "Expand")
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div")  # what a gain or an offset acts by on another signal


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
    fed_last: bool = False  # whether a synapse ran before the neuron that ran last


def trace(model: nn.Module, batch: Any, forward: Forward = plain_call) -> tuple[Population, ...]:
    """The populations of `model` in the order in which they run, each with its afferent pathways.

    Nothing of the model is changed. Neurons that the pass does not reach are no populations. What lies behind a
    `detach()` is not seen. Two time steps or more are needed to see a recurrence.

    Raises:
        WiringError: no known neuron in the model or none reached, a neuron called twice in one pass, a model that
            runs without gradients, or a weight that acts outside a module of its own.
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
        if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            raise WiringError(
                f"the neuron {names[module]} runs under torch.no_grad() or inference_mode(), so the weights that feed "
                "it cannot be found: run the model with gradients on, or give a `forward` that does"
            )
        record.currents[module] = current_of(args, names[module])
        record.calls[module] = record.calls.get(module, 0) + 1
        record.fed_last = bool(record.synapse_of)

    def noting(table: dict[Node, nn.Module]) -> Any:
        def after(module: nn.Module, args: Any, output: Any) -> None:
            table.update((node, module) for tensor in tensors_in(output) for node in _nodes(tensor))

        return after

    handles = []
    for module in model.modules():
        if module in neurons:
            handles.append(module.register_forward_pre_hook(before_neuron))
            handles.append(module.register_forward_hook(noting(record.neuron_of)))
        elif isinstance(module, NORMS) and module.weight is not None:
            handles.append(module.register_forward_hook(noting(record.norm_of)))
        elif _is_synapse(module, neurons):
            handles.append(module.register_forward_hook(noting(record.synapse_of)))
    with hooked(handles):
        forward(model, batch)
    _check(record, names)
    return record


def _check(record: _Record, names: dict[nn.Module, str]) -> None:
    if not record.currents:
        raise WiringError("the model's forward pass reached none of its neurons")
    for module, calls in record.calls.items():
        if calls > 1:
            raise WiringError(
                f"the neuron {names[module]} was called {calls} times in one forward pass: give each population a "
                "module of its own, called once with the whole sequence [T, B, ...]"
            )
    if record.fed_last and not any(current.requires_grad for current in record.currents.values()):
        raise WiringError(
            "no gradient reaches any neuron, so the weights that feed it cannot be found: does the model detach its "
            "currents, or send them through an operation without gradient?"
        )


def _populations(
    record: _Record, neurons: dict[nn.Module, Neuron], names: dict[nn.Module, str], trainable: set[int]
) -> Iterator[Population]:
    taken: dict[int, str] = {}  # weight -> first population that it feeds
    loose = _loose_weights(neurons, names)
    for module, current in record.currents.items():
        hits = _walk(current, record, loose, names[module])
        pathways = []
        for node, (via, norm) in hits.items():
            synapse = record.synapse_of.get(node)
            if synapse is None:
                continue
            sources, through = _upstream(node, record)
            origin = tuple(sorted(names[m] for m in sources)) or (INPUT,)
            for parameter in _weight_names(synapse):
                weight = getattr(synapse, parameter)
                if parameter in _parametrised(synapse):
                    reason: str | None = "parametrised: initialise it first and parametrise it then"
                else:
                    first = taken.setdefault(id(weight), names[module])
                    reason = _why_left_alone(first if first != names[module] else None, id(weight) in trainable)
                name = f"{names[synapse]}.{parameter}"
                pathways.append(Pathway(name, synapse, parameter, origin, via, norm, reason, through))
        direct = sorted({names[record.neuron_of[node]] for node in hits if node not in record.synapse_of})
        yield Population(names[module], module, neurons[module], tuple(pathways), tuple(direct))


def _why_left_alone(first: str | None, trainable: bool) -> str | None:
    if first is not None:
        return f"shared with {first}, for which it was initialised"
    return None if trainable else "frozen (requires_grad=False)"


def _walk(
    current: Tensor, record: _Record, loose: dict[int, str], population: str
) -> dict[Node, tuple[tuple[str, ...], nn.Module | None]]:
    """Walk the graph backwards to the first stops; for each, the operations on the way and the last norm passed."""
    hits: dict[Node, tuple[tuple[str, ...], nn.Module | None]] = {}
    seen: set[Node] = set()
    pending: list[tuple[Node, tuple[str, ...], nn.Module | None]] = [(current.grad_fn, (), None)]
    while pending:
        node, via, norm = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in record.synapse_of or node in record.neuron_of:
            hits[node] = (via, norm)
            continue
        norm = norm or record.norm_of.get(node)
        operation = node.name().removesuffix("Backward0").removesuffix("Backward1")
        parents = _parents(node)
        for parent in parents:
            weight = loose.get(id(getattr(parent, "variable", None)))
            if weight is not None and not (operation in _ELEMENTWISE and _carry_signal(parents, record)):
                raise WiringError(
                    f"the weight {weight} feeds {population} from outside a layer of its own, so what reaches it "
                    "cannot be observed: apply it in a module that holds nothing else, such as nn.Linear"
                )
        if not operation.startswith(_PLUMBING):
            via = (operation, *via)
        pending.extend((parent, via, norm) for parent in reversed(parents))
    return hits


def _upstream(synapse: Node, record: _Record) -> tuple[set[nn.Module], tuple[nn.Module, ...]]:
    """The neurons that a synapse hears, and the modules with weights in between."""
    neurons: set[nn.Module] = set()
    through: dict[nn.Module, None] = {}
    for node in _behind(_parents(synapse), record.neuron_of):
        if node in record.neuron_of:
            neurons.add(record.neuron_of[node])
        elif (module := record.synapse_of.get(node)) not in (None, record.synapse_of[synapse]):
            through[module] = None
    return neurons, tuple(through)


def _carry_signal(nodes: list[Node], record: _Record) -> bool:
    """Whether what a neuron or a synapse has put out leads to one of the nodes."""
    return any(node in record.neuron_of or node in record.synapse_of for node in _behind(nodes, ()))


def _behind(nodes: Iterable[Node], stops: Container[Node]) -> Iterator[Node]:
    """The nodes and all that lead to them, but not what is behind a stop."""
    pending, seen = list(nodes), set()
    while pending:
        node = pending.pop()
        if node not in seen:
            seen.add(node)
            yield node
            pending += () if node in stops else _parents(node)


def _parents(node: Node) -> list[Node]:
    return [parent for parent, _ in node.next_functions if parent is not None]


def _nodes(tensor: Tensor) -> Iterator[Node]:
    """The node that made the tensor, and the one of its base: a change in place cuts a view off its own node."""
    for made in (tensor, tensor._base):
        if made is not None and made.grad_fn is not None:
            yield made.grad_fn


def _is_synapse(module: nn.Module, neurons: dict[nn.Module, Neuron]) -> bool:
    """Whether the module owns weights and all that it holds besides is without parameters."""
    if isinstance(module, parametrize.ParametrizationList) or not _weight_names(module):
        return False
    inner = [child for name, child in module.named_children() if name != "parametrizations"]
    return not any(list(child.parameters()) or not neurons.keys().isdisjoint(child.modules()) for child in inner)


def _weight_names(module: nn.Module) -> list[str]:
    """Attributes of the module's own weights: what it learns in two or more dimensions."""
    computed = _parametrised(module)
    plain = [name for name, _ in module.named_parameters(recurse=False) if name.rsplit("_", 1)[0] not in computed]
    return [name for name in (*computed, *plain) if _is_weight(getattr(module, name))]


def _parametrised(module: nn.Module) -> list[str]:
    """Attributes that torch computes anew from parameters at every call: weight norm, spectral norm and the like."""
    hooks = [hook.name for hook in module._forward_pre_hooks.values() if isinstance(hook, WeightNorm | SpectralNorm)]
    return [*(module.parametrizations if parametrize.is_parametrized(module) else ()), *hooks]


def _loose_weights(neurons: dict[nn.Module, Neuron], names: dict[nn.Module, str]) -> dict[int, str]:
    """Names of all weights; met outside of a synapse they cannot be dealt with."""
    return {
        id(p): f"{names[module]}.{name}"
        for module in names
        if module not in neurons and not isinstance(module, NORMS)
        for name, p in module.named_parameters(recurse=False)
        if _is_weight(p)
    }


def _is_weight(tensor: Tensor) -> bool:
    return tensor.ndim >= 2 and tensor.is_floating_point()


def tensors_in(output: Any) -> Iterator[Tensor]:
    """The tensors in what a module returns."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        yield from tensors_in(list(output.values()))
    elif isinstance(output, list | tuple):
        for item in output:
            yield from tensors_in(item)
