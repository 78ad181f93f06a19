"""From a model and a batch to its populations, by hooks and the autograd graph.

One forward pass is run with gradients on. Hooks note the autograd node of every tensor that a neuron or a synapse
(a module that owns a weight and holds no other layers) puts out; a walk back from each neuron's input current then
stops at the first of those it meets: they are what feeds the neuron, whatever lies between (pooling, flatten, dropout,
norms, additions). A weight that the walk meets outside such a module is refused: what reaches it is not to be seen.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from fluctua.wiring.adapters.registry import members_of
from fluctua.wiring.graph import INPUT, Member, Pathway, Population
from fluctua.wiring.running import Copies, Forward, only_requiring_grad, plain_call, preserved

Node = Any  # torch.autograd.graph.Node
Members = Mapping[nn.Module, Mapping[str, Member]]  # the populations of each neuron module, by name

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_IN_PLACE = "CopySlices"  # what autograd calls any change in place of a view
_PLUMBING = (
    *("View", "Reshape", "Unsafe", "Alias", "Clone", "Accumulate", "Contiguous", "ToCopy", "Expand", "Unsqueeze"),
    *("Squeeze", "AsStrided", "BackwardHookFunction"),
)
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", _IN_PLACE)  # what a gain or an offset acts by on another signal


class WiringError(ValueError):
    """The model's wiring cannot be read; the message says why and what to do."""


@dataclass
class _Record:
    """What the hooks saw in one forward pass. Autograd nodes are kept alive here, so that they stay comparable."""

    # The nodes that made each neuron's currents, in the order of execution. A current itself may be changed in place.
    currents: dict[nn.Module, list[Node | None]] = field(default_factory=dict)
    calls: dict[nn.Module, int] = field(default_factory=dict)
    synapse_of: dict[Node, nn.Module] = field(default_factory=dict)
    neuron_of: dict[Node, nn.Module] = field(default_factory=dict)  # the emitter of the population
    norm_of: dict[Node, nn.Module] = field(default_factory=dict)
    no_weights: set[int] = field(default_factory=set)  # ids of the gains and offsets among the parameters of synapses
    fed_last: bool = False  # whether a synapse ran before the neuron that ran last


def trace(model: nn.Module, batch: Any, forward: Forward = plain_call) -> tuple[Population, ...]:
    """The populations of `model` in the order in which they run, each with its afferent pathways.

    Nothing of the model is changed. Neurons that the pass does not reach are no populations. What lies behind a
    `detach()` is not seen.

    Raises:
        WiringError: no known neuron in the model or none reached, a neuron called twice in one pass, a model that
            runs without gradients or changes its input in place, a lazy module that has not run yet, or a weight that
            acts outside a module of its own.
    """
    if torch.is_inference_mode_enabled():
        raise WiringError("the wiring cannot be found inside torch.inference_mode(): leave it, torch.no_grad() is fine")
    names = {module: name or "model" for name, module in model.named_modules()}
    if lazy := [names[m] for m in names if any(map(is_lazy, (*m.parameters(False), *m.buffers(False))))]:
        raise WiringError(f"lazy layers have no weights yet ({', '.join(lazy)}): run the model once on a batch first")
    neurons = _neurons(model)
    if not neurons:
        kinds = sorted({type(m).__name__ for m in model.modules() if not list(m.children())})
        raise WiringError(f"no spiking neuron found in the model: none of its modules ({', '.join(kinds)}) is known")
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    with preserved(model), only_requiring_grad(model, None):
        record = _record(model, batch, forward, neurons)
        return tuple(_populations(record, neurons, names, trainable))


def currents_of(arguments: tuple[Any, ...], name: str) -> tuple[Tensor, ...]:
    """The input currents `[T, B, *N]` of a neuron's call: its leading arguments as far as they are tensors."""
    currents: list[Tensor] = []
    for argument in arguments:
        if not isinstance(argument, Tensor):
            break
        currents.append(argument)
    if not currents or any(current.ndim < 2 for current in currents):
        raise WiringError(f"the neuron {name} was not called with a current [T, B, ...] as its first argument")
    return tuple(currents)


@contextmanager
def hooked(handles: Iterable[torch.utils.hooks.RemovableHandle]) -> Iterator[None]:
    """Remove the hooks at the end of the block."""
    handles = list(handles)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _neurons(model: nn.Module) -> dict[nn.Module, Mapping[str, Member]]:
    """The neuron modules with their populations; what such a module holds inside is its own affair."""
    neurons: dict[nn.Module, Mapping[str, Member]] = {}
    inside: set[nn.Module] = set()
    for module in model.modules():
        if module not in inside and (members := members_of(module)):
            neurons[module] = members
            inside |= set(module.modules()) - {module}
    return neurons


def _computing(model: nn.Module) -> set[nn.Module]:
    """The modules that compute parametrised weights; what they own is no weight itself."""
    lists = [m for m in model.modules() if isinstance(m, parametrize.ParametrizationList)]
    return {inner for outer in lists for inner in outer.modules()}


def _inside(neurons: Members) -> set[nn.Module]:
    return {inner for module in neurons for inner in module.modules()}


def _record(model: nn.Module, batch: Any, forward: Forward, neurons: Members) -> _Record:
    record = _Record()
    names = {module: name or "model" for name, module in model.named_modules()}

    def before_neuron(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            raise WiringError(
                f"the neuron {names[module]} runs under torch.no_grad() or inference_mode(), so the weights that feed "
                "it cannot be found: run the model with gradients on, or give a `forward` that does"
            )
        currents = currents_of(args, names[module])
        record.currents[module] = [current.grad_fn for current in currents]
        record.calls[module] = record.calls.get(module, 0) + 1
        record.fed_last = bool(record.synapse_of)
        if currents[0].requires_grad or not currents[0].is_floating_point():
            return None
        return currents[0].detach().requires_grad_().clone(), *args[1:]  # else its spikes would not be on the graph

    def noting(table: dict[Node, nn.Module]) -> Any:
        def after(module: nn.Module, args: Any, output: Any) -> None:
            table.update((node, module) for node in _nodes_in(output))

        return after

    def after_neuron(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, Tensor) and output.is_floating_point() and output.grad_fn is None:
            output = output.detach().requires_grad_().clone()  # no input has reached a spike in so few steps
        noting(record.neuron_of)(module, args, output)
        return output

    def after_synapse(module: nn.Module, args: Any, output: Any) -> None:
        record.no_weights |= _gains_and_offsets(module, output)
        if _weight_names(module, record.no_weights):
            noting(record.synapse_of)(module, args, output)

    no_layers = _computing(model) | _inside(neurons)
    handles = []
    for module in model.modules():
        if module in neurons:
            handles.append(module.register_forward_pre_hook(before_neuron))
            emitters = [member.emitter for member in neurons[module].values()]
            handles += [emitter.register_forward_hook(after_neuron) for emitter in emitters]
        elif isinstance(module, NORMS) and module.weight is not None:
            handles.append(module.register_forward_hook(noting(record.norm_of)))
        elif module not in no_layers and _may_be_synapse(module, neurons):
            handles.append(module.register_forward_hook(after_synapse))
    with hooked(handles):
        _run_once(model, batch, forward)
    _check(record, names)
    return record


def _run_once(model: nn.Module, batch: Any, forward: Forward) -> None:
    own = Copies(model).of(batch)  # the user's own data stay out of reach of a model that works in place
    before = versions(own)
    forward(model, own)
    if versions(own) != before:
        raise WiringError(
            "the model changes its input in place, so every pass would see another one: let it work on a copy, for "
            "example by forward=lambda model, batch: model(batch.clone())"
        )


def _check(record: _Record, names: dict[nn.Module, str]) -> None:
    if not record.currents:
        raise WiringError("the model's forward pass reached none of its neurons")
    for module, calls in record.calls.items():
        if calls > 1:
            raise WiringError(
                f"the neuron {names[module]} was called {calls} times in one forward pass: give each population a "
                "module of its own, called once with the whole sequence [T, B, ...]"
            )
    if record.fed_last and not any(any(nodes) for nodes in record.currents.values()):
        raise WiringError(
            "no gradient reaches any neuron, so the weights that feed it cannot be found: does the model detach its "
            "currents, or send them through an operation without gradient?"
        )


def _populations(
    record: _Record, neurons: Members, names: dict[nn.Module, str], trainable: set[int]
) -> Iterator[Population]:
    taken: dict[int, str] = {}  # weight -> first population that it feeds
    loose = _loose_weights(neurons, names, record.no_weights)
    called = _population_names(neurons, names)

    def pathways(synapse: nn.Module, population: str, sources: tuple[str, ...], **more: Any) -> Iterator[Pathway]:
        for parameter in _weight_names(synapse, record.no_weights):
            weight = getattr(synapse, parameter)
            if parameter in _parametrised(synapse):
                reason: str | None = "parametrised: initialise it first and parametrise it then"
            else:
                first = taken.setdefault(id(weight), population)
                reason = _why_left_alone(first if first != population else None, id(weight) in trainable)
            yield Pathway(f"{names[synapse]}.{parameter}", synapse, parameter, sources, left_alone=reason, **more)

    for module, made in record.currents.items():
        for member in neurons[module].values():
            name = called[member.emitter]
            found: list[Pathway] = []
            direct: set[str] = set()
            for port, argument in enumerate(member.arguments):
                start = made[argument] if argument is not None and argument < len(made) else None
                for node, (via, norm) in _walk(start, record, loose, name).items():
                    if node not in record.synapse_of:
                        direct.add(called[record.neuron_of[node]])
                        continue
                    sources, through = _upstream(node, record)
                    origin = tuple(sorted(called[m] for m in sources)) or (INPUT,)
                    synapse = record.synapse_of[node]
                    found += pathways(synapse, name, origin, via=via, norm=norm, through=through, port=port)
            for s in member.synapses:
                source = (called[neurons[module][s.source].emitter],)
                owner = _owner(s.module, names, name)
                found += pathways(owner, name, source, port=s.port, inner=s.current)
            yield Population(
                name, module, member.neuron, tuple(found), tuple(sorted(direct)), member.emitter, member.arguments
            )


def _owner(synapse: nn.Module, names: Mapping[nn.Module, str], population: str) -> nn.Module:
    """The module that owns the weights of a recurrent synapse: itself, or one that it holds beside dropout and such."""
    owners = [module for module in synapse.modules() if module not in _computing(synapse) and _weight_names(module)]
    if len(owners) != 1:
        raise WiringError(
            f"the recurrent synapse {names[synapse]} into {population} has {len(owners)} layers with weights, it needs "
            "one, such as nn.Linear"
        )
    return owners[0]


def _population_names(neurons: Members, names: dict[nn.Module, str]) -> dict[nn.Module, str]:
    """Name of each population by its emitter: that of the module, or of the one among several in it."""
    return {
        member.emitter: names[module] if len(members) == 1 else f"{names[module]}.{name}"
        for module, members in neurons.items()
        for name, member in members.items()
    }


def _why_left_alone(first: str | None, trainable: bool) -> str | None:
    if first is not None:
        return f"shared with {first}, for which it was initialised"
    return None if trainable else "frozen (requires_grad=False)"


def _walk(
    made: Node | None, record: _Record, loose: dict[int, str], population: str
) -> dict[Node, tuple[tuple[str, ...], nn.Module | None]]:
    """Walk the graph backwards to the first stops; for each, the operations on the way and the last norm passed."""
    hits: dict[Node, tuple[tuple[str, ...], nn.Module | None]] = {}
    seen: set[Node] = set()
    pending: list[tuple[Node, tuple[str, ...], nn.Module | None]] = [(made, (), None)]
    while pending:
        node, via, norm = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in record.synapse_of or node in record.neuron_of:
            hits[node] = (via, norm)
            continue
        norm = norm or record.norm_of.get(node)
        operation = _operation(node)
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


def _operation(node: Node) -> str:
    return re.sub(r"Backward\d*$", "", node.name().rpartition("::")[2])


def _nodes_in(output: Any) -> Iterator[Node]:
    """The nodes that made the tensors, and those of their bases: a change in place cuts a view off its own node."""
    for tensor in tensors_in(output):
        for made in (tensor, tensor._base):
            if made is not None and made.grad_fn is not None:
                yield made.grad_fn


def _gains_and_offsets(module: nn.Module, output: Any) -> set[int]:
    """Ids of the module's own parameters that act element by element: they scale or shift, and connect nothing."""
    pending, seen, found = list(_nodes_in(output)), set(), set()
    while pending:
        node = pending.pop()
        if node in seen or not (_operation(node) in _ELEMENTWISE or _operation(node).startswith(_PLUMBING)):
            continue
        seen.add(node)
        found.add(id(getattr(node, "variable", None)))
        pending += _parents(node)
    return found & {id(p) for p in module.parameters(recurse=False)}


def _may_be_synapse(module: nn.Module, neurons: Members) -> bool:
    """Whether the module owns weights and all that it holds besides is without parameters."""
    if not _weight_names(module):
        return False
    inner = [child for name, child in module.named_children() if name != "parametrizations"]
    return not any(list(child.parameters()) or not neurons.keys().isdisjoint(child.modules()) for child in inner)


def _weight_names(module: nn.Module, no_weights: Container[int] = ()) -> list[str]:
    """Attributes of the module's own weights: what it learns in two or more dimensions."""
    computed = _parametrised(module)
    plain = [name for name, _ in module.named_parameters(recurse=False) if name.rsplit("_", 1)[0] not in computed]
    weights = {name: getattr(module, name) for name in (*computed, *plain)}
    return [name for name, tensor in weights.items() if _is_weight(tensor) and id(tensor) not in no_weights]


def _parametrised(module: nn.Module) -> list[str]:
    """Attributes that torch computes anew from parameters at every call: weight norm, spectral norm and the like."""
    hooks = [hook.name for hook in module._forward_pre_hooks.values() if isinstance(hook, WeightNorm | SpectralNorm)]
    computed: Any = module.parametrizations if parametrize.is_parametrized(module) else ()
    return [*computed, *hooks]


def _loose_weights(neurons: Members, names: dict[nn.Module, str], no_weights: Container[int]) -> dict[int, str]:
    """Names of all weights; met outside of a synapse they cannot be dealt with."""
    inside = _inside(neurons)
    return {
        id(p): f"{names[module]}.{name}"
        for module in names
        if module not in inside and not isinstance(module, NORMS)
        for name, p in module.named_parameters(recurse=False)
        if _is_weight(p) and id(p) not in no_weights
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


def versions(output: Any) -> list[int]:
    """How often each tensor in what a module returns has been changed in place."""
    return [tensor._version for tensor in tensors_in(output)]
