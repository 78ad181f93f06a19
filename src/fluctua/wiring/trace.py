"""From a model and a batch to its populations, by hooks and the autograd graph.

One forward pass is run with gradients on. Hooks note the autograd node of every tensor that a neuron or a synapse
(a module that owns a weight and holds no other layers) puts out; a walk back from each neuron's input current then
stops at the first of those it meets: they are what feeds the neuron, whatever lies between (pooling, flatten, dropout,
norms, additions). A weight that the walk meets outside such a module is refused: what reaches it is not to be seen.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from fluctua.wiring.adapters.registry import transposed
from fluctua.wiring.errors import WiringError
from fluctua.wiring.graph import INPUT, Member, Pathway, Population
from fluctua.wiring.groups import with_recurrence
from fluctua.wiring.layout import Layout
from fluctua.wiring.reading import Reading, neurons_of
from fluctua.wiring.recording import hooked
from fluctua.wiring.runner import running_of
from fluctua.wiring.running import Copies, Forward, only_requiring_grad, plain_call, preserved
from fluctua.wiring.structure import modules_of, named_modules_of, named_parameters_of, parameters_of

Node = Any  # torch.autograd.graph.Node
Members = Mapping[nn.Module, Mapping[str, Member]]  # the populations of each neuron module, by name

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_IN_PLACE = "CopySlices"  # what autograd calls any change in place of a view
_PLUMBING = (
    *("View", "Reshape", "Unsafe", "Alias", "Clone", "Accumulate", "Contiguous", "ToCopy", "Expand", "Unsqueeze"),
    *("Squeeze", "AsStrided", "BackwardHookFunction"),
)
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", _IN_PLACE)  # what a gain or an offset acts by on another signal


@dataclass
class _Record:
    """What the hooks saw in one forward pass. Autograd nodes are kept alive here, so that they stay comparable."""

    # The nodes that made each neuron's currents, call by call, in the order of execution. A current itself may be
    # changed in place.
    currents: dict[nn.Module, list[list[Node | None]]] = field(default_factory=dict)
    steps: dict[nn.Module, int] = field(default_factory=dict)  # of a neuron's calls together
    synapse_of: dict[Node, nn.Module] = field(default_factory=dict)
    neuron_of: dict[Node, nn.Module] = field(default_factory=dict)  # the emitter of the population
    norm_of: dict[Node, nn.Module] = field(default_factory=dict)
    no_weights: set[int] = field(default_factory=set)  # ids of the gains and offsets among the parameters of synapses
    fed_last: bool = False  # whether a synapse ran before the neuron that ran last


def trace(
    model: nn.Module,
    batch: Any,
    forward: Forward = plain_call,
    reading: Reading = Reading(),  # noqa: B008 - frozen
) -> tuple[Population, ...]:
    """The populations of `model` in the order in which they run, each with its afferent pathways.

    Nothing of the model is changed. Neurons that the pass does not reach are no populations. What lies behind a
    `detach()` is not seen.

    Args:
        model: any model of known neurons.
        batch: its input.
        forward: runs all time steps; by default as `running_of` finds out.
        reading: what the user says of its neurons.

    Raises:
        WiringError: no known neuron in the model or none reached, a neuron called twice in one pass or time step, a
            model that runs without gradients or changes its input in place, a lazy module that has not run yet, or a
            weight that acts outside a module of its own.
        UnsupportedNeuronError: a neuron that is known and cannot be served.
    """
    if torch.is_inference_mode_enabled():
        raise WiringError("the wiring cannot be found inside torch.inference_mode(): leave it, torch.no_grad() is fine")
    names = {module: name or "model" for name, module in named_modules_of(model)}
    lazy = [names[m] for m in names if any(map(is_lazy, (*parameters_of(m, False), *m.buffers(False))))]
    if lazy:
        raise WiringError(f"lazy layers have no weights yet ({', '.join(lazy)}): run the model once on a batch first")
    neurons = {module: reading.members(module) for module in neurons_of(model, reading)}
    if not neurons:
        kinds = sorted({type(m).__name__ for m in modules_of(model) if not list(m.children())})
        raise WiringError(
            f"no spiking neuron found in the model: none of its modules ({', '.join(kinds)}) is known; name yours by "
            "neurons={MyNeuron: fluctua.ProbedNeuron(...)}"
        )
    forward = running_of(model, batch, forward, reading)
    trainable = {id(p) for p in parameters_of(model) if p.requires_grad}

    def traced() -> list[Population]:
        record = _record(model, batch, forward, neurons)
        told = {module: reading.members(module, record.steps[module]) for module in record.currents}
        return list(_populations(record, neurons | told, names, trainable))

    with preserved(model), only_requiring_grad(model, None):
        found = traced()
        if filters := _filters(found):
            neurons = {module: members for module, members in neurons.items() if module not in filters}
            found = traced()
    return tuple(with_recurrence(found))


def _filters(found: list[Population]) -> set[nn.Module]:
    """Readouts that are none: what they give out is, without a weight in between, the current of a spiking neuron."""
    direct = {name for p in found if p.neuron.threshold is not None for name in p.unweighted}
    readouts = [p for p in found if p.neuron.threshold is None and p.name in direct and p.emitter is p.module]
    return {p.module for p in readouts if not any(q.inner for q in p.pathways)}


def _computing(model: nn.Module) -> set[nn.Module]:
    """The modules that compute parametrised weights; what they own is no weight itself."""
    lists = [m for m in modules_of(model) if isinstance(m, parametrize.ParametrizationList)]
    return {inner for outer in lists for inner in modules_of(outer)}


def _inside(neurons: Members) -> set[nn.Module]:
    return {inner for module in neurons for inner in modules_of(module)}


def _layout(members: Mapping[str, Member]) -> Layout:
    return next(iter(members.values())).layout


def _most(members: Mapping[str, Member]) -> int:
    """How many currents a module is called with at most."""
    entries = [k for m in members.values() for k in (*m.arguments, *(s.source for s in m.synapses))]
    return 1 + max((k for k in entries if isinstance(k, int)), default=0)


def _record(model: nn.Module, batch: Any, forward: Forward, neurons: Members) -> _Record:
    record = _Record()
    names = {module: name or "model" for name, module in named_modules_of(model)}

    def before_neuron(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            raise WiringError(
                f"the neuron {names[module]} runs under torch.no_grad() or inference_mode(), so the weights that feed "
                "it cannot be found: run the model with gradients on, or give a `forward` that does"
            )
        layout = _layout(neurons[module])
        currents = layout.currents(module, args, kwargs, _most(neurons[module]))
        _check_currents(currents, layout, names[module])
        record.currents.setdefault(module, []).append([current.grad_fn for current in currents])
        record.steps[module] = record.steps.get(module, 0) + len(layout.as_sequence(currents[0]))
        record.fed_last = bool(record.synapse_of)
        if currents[0].requires_grad or not currents[0].is_floating_point():
            return None
        attached = currents[0].detach().requires_grad_().clone()  # else its spikes would not be on the graph

        def swapped(x: Any) -> Any:
            return attached if x is currents[0] else x

        return tuple(map(swapped, args)), {name: swapped(x) for name, x in kwargs.items()}

    def noting(table: dict[Node, nn.Module]) -> Any:
        def after(module: nn.Module, args: Any, output: Any) -> None:
            table.update((node, module) for node in _nodes_in(output))

        return after

    def after_neuron(module: nn.Module, args: Any, output: Any) -> Any:
        layout = _layout(neurons[module]) if module in neurons else Layout()
        spikes = layout.spikes(module, output)
        if spikes.is_floating_point() and spikes.grad_fn is None:  # no input has reached a spike in so few steps
            spikes = spikes.detach().requires_grad_().clone()
            output = layout.answer(module, output, spikes)
        noting(record.neuron_of)(module, args, (spikes, output))
        return output

    def after_synapse(module: nn.Module, args: Any, output: Any) -> None:
        record.no_weights |= _gains_and_offsets(module, output)
        if _weight_names(module, record.no_weights):
            noting(record.synapse_of)(module, args, output)

    no_layers = _computing(model) | _inside(neurons)
    handles = []
    for module in modules_of(model):
        if module in neurons:
            handles.append(module.register_forward_pre_hook(before_neuron, with_kwargs=True))
            emitters = [member.emitter for member in neurons[module].values()]
            handles += [emitter.register_forward_hook(after_neuron) for emitter in emitters]
        elif isinstance(module, NORMS) and module.weight is not None:
            handles.append(module.register_forward_hook(noting(record.norm_of)))
        elif module not in no_layers and _may_be_synapse(module, neurons):
            handles.append(module.register_forward_hook(after_synapse))
    with hooked(handles):
        _run_once(model, batch, forward)
    _check(record, neurons, names)
    return record


def _check_currents(currents: tuple[Tensor, ...], layout: Layout, name: str) -> None:
    least = 1 if layout.stepwise else 2
    if not currents or any(current.ndim < least for current in currents):
        wanted = {"step": "[B, ...]", "second": "[B, T, ...]"}.get(layout.time, "[T, B, ...]")
        raise WiringError(f"the neuron {name} was not called with a current {wanted} as its first argument")


def _run_once(model: nn.Module, batch: Any, forward: Forward) -> None:
    own = Copies(model).of(batch)  # the user's own data stay out of reach of a model that works in place
    before = versions(own)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: None, _not_saved):  # nodes are all that is wanted
        forward(model, own)
    if versions(own) != before:
        raise WiringError(
            "the model changes its input in place, so every pass would see another one: let it work on a copy, for "
            "example by forward=lambda model, batch: model(batch.clone())"
        )


def _not_saved(nothing: None) -> Tensor:
    raise WiringError(
        "the model calls autograd within its forward pass, so its wiring cannot be found: "
        "give a `forward` that does not"
    )


def _check(record: _Record, neurons: Members, names: dict[nn.Module, str]) -> None:
    if not record.currents:
        raise WiringError("the model's forward pass reached none of its neurons")
    stepping = [len(calls) for module, calls in record.currents.items() if _layout(neurons[module]).stepwise]
    for module, calls in record.currents.items():
        stepwise = _layout(neurons[module]).stepwise
        times = len(calls) // min(stepping) if stepwise else len(calls)
        if times > 1:
            span, unit = ("time step", "time step") if stepwise else ("forward pass", "whole sequence [T, B, ...]")
            raise WiringError(
                f"the neuron {names[module]} was called {times} times in one {span}: give each population a module of "
                f"its own, called once with the {unit}"
            )
    if record.fed_last and not any(any(nodes) for calls in record.currents.values() for nodes in calls):
        raise WiringError(
            "no gradient reaches any neuron, so the weights that feed it cannot be found: does the model detach its "
            "currents, or send them through an operation without gradient?"
        )


@dataclass(frozen=True, eq=False)
class _Afferents:
    """What reaches one input of a neuron's calls."""

    way: dict[nn.Module, tuple[tuple[str, ...], nn.Module | None]]  # to each synapse: operations, last norm passed
    sources: dict[nn.Module, set[nn.Module]]  # emitters that each synapse hears
    through: dict[nn.Module, dict[nn.Module, None]]  # modules with weights before each synapse
    direct: dict[nn.Module, None]  # emitters heard without a synapse


def _afferents(starts: list[Node | None], record: _Record, loose: dict[int, str], population: str) -> _Afferents:
    """Over all calls together: what comes back from the neurons themselves shows from the second step on."""
    found = _Afferents({}, {}, {}, {})
    last: set[nn.Module] | None = None
    for number, start in enumerate(starts):
        hits = _walk(start, record, loose, population)
        synapses = {record.synapse_of[node] for node in hits if node in record.synapse_of}
        final = number == len(starts) - 1
        if last is not None and final and (synapses != last if number > 1 else not last <= synapses):
            raise WiringError(
                f"the neuron {population} is fed by other weights in one call than in the next: give each population a "
                "module of its own, called once with the time step"
            )
        last = synapses
        for node, way in hits.items():
            if node not in record.synapse_of:
                found.direct[record.neuron_of[node]] = None
                continue
            synapse = record.synapse_of[node]
            sources, through = _upstream(node, record)
            found.way[synapse] = way
            found.sources.setdefault(synapse, set()).update(sources)
            found.through.setdefault(synapse, {}).update(dict.fromkeys(through))
    return found


def _populations(
    record: _Record, neurons: Members, names: dict[nn.Module, str], trainable: set[int]
) -> Iterator[Population]:
    taken: dict[int, str] = {}  # weight -> first population that it feeds
    loose = _loose_weights(neurons, names, record.no_weights)
    called = _population_names(neurons, names)

    def pathways(
        synapse: nn.Module, population: str, sources: tuple[str, ...], parameter: str | None = None, **more: Any
    ) -> Iterator[Pathway]:
        for name in [parameter] if parameter else _weight_names(synapse, record.no_weights):
            weight = getattr(synapse, name)
            if name in _parametrised(synapse):
                reason: str | None = "parametrised: initialise it first and parametrise it then"
            elif not isinstance(weight, Tensor) or weight.ndim < 2:
                reason = "no weight matrix"
            else:
                first = taken.setdefault(id(weight), population)
                reason = _why_left_alone(first if first != population else None, _trains(weight, trainable))
            yield Pathway(f"{names[synapse]}.{name}", synapse, name, sources, left_alone=reason, **more)

    def reaching(module: nn.Module, argument: int | None, population: str) -> _Afferents:
        starts = [
            made[argument] if argument is not None and argument < len(made) else None
            for made in record.currents[module]
        ]
        return _afferents(starts, record, loose, population)

    for module, calls in record.currents.items():
        for member in neurons[module].values():
            name = called[member.emitter]
            found: list[Pathway] = []
            direct: set[str] = set()
            for port, argument in enumerate(member.arguments):
                came = reaching(module, argument, name)
                direct |= {called[emitter] for emitter in came.direct}
                for synapse, (via, norm) in came.way.items():
                    origin = tuple(sorted(called[m] for m in came.sources[synapse])) or (INPUT,)
                    found += pathways(
                        synapse,
                        name,
                        origin,
                        via=via,
                        norm=norm,
                        through=tuple(came.through[synapse]),
                        port=port,
                        rows=transposed(synapse),
                    )
            for s in member.synapses:
                more = {"port": s.port, "inner": s.current, "rows": s.rows, "mask": s.mask}
                if isinstance(s.source, int):
                    came = reaching(module, s.source, name)
                    heard = set(came.direct).union(*came.sources.values())
                    more |= {"argument": s.source, "through": tuple(came.way)}
                else:
                    heard = {neurons[module][s.source].emitter}
                    more["recurrent"] = True
                origin = tuple(sorted(called[m] for m in heard)) or (INPUT,)
                owner = s.module if s.parameter else _owner(s.module, names, name)
                found += pathways(owner, name, origin, s.parameter, **more)
            yield Population(
                name,
                module,
                member.neuron,
                tuple(found),
                tuple(sorted(direct)),
                member.emitter,
                member.arguments,
                member.layout,
                len(calls),
                record.steps[module],
            )


def _trains(weight: Tensor, trainable: set[int]) -> bool:
    """Whether an initialiser may write a weight; one that is no parameter has nobody to freeze it."""
    return id(weight) in trainable or not isinstance(weight, nn.Parameter)


def _owner(synapse: nn.Module, names: Mapping[nn.Module, str], population: str) -> nn.Module:
    """The module that owns the weights of a recurrent synapse: itself, or one that it holds beside dropout and such."""
    owners = [module for module in modules_of(synapse) if module not in _computing(synapse) and _weight_names(module)]
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
    return found & {id(p) for p in parameters_of(module, False)}


def _may_be_synapse(module: nn.Module, neurons: Members) -> bool:
    """Whether the module owns weights and all that it holds besides is without parameters."""
    if not _weight_names(module):
        return False
    inner = [child for name, child in module.named_children() if name != "parametrizations"]
    return not any(list(parameters_of(child)) or not neurons.keys().isdisjoint(modules_of(child)) for child in inner)


def _weight_names(module: nn.Module, no_weights: Container[int] = ()) -> list[str]:
    """Attributes of the module's own weights: what it learns in two or more dimensions."""
    computed = _parametrised(module)
    plain = [name for name, _ in named_parameters_of(module, False) if name.rsplit("_", 1)[0] not in computed]
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
        for name, p in named_parameters_of(module, False)
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
