"""One forward pass of a model as hooks see it: which module made which node of the autograd graph.

It also defines a synapse: a module that owns weights and contains no other layers.
"""

import re
from bisect import bisect_right
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from fluctua.network import run
from fluctua.network.adapters.registry import ADAPTERS, Specs
from fluctua.network.errors import WiringError
from fluctua.network.run import Forward, Layout, modules_of, named_modules_of, named_parameters_of, parameters_of
from fluctua.timeloop.contract import Operation

NEVER = 1e6  # larger thresholds are out of reach in any network
Neurons = Mapping[nn.Module, Specs]  # the populations of each neuron module, by name
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
Node = Any  # torch.autograd.graph.Node
Modules = Collection[nn.Module]

_IN_PLACE = "CopySlices"  # what autograd calls any change in place of a view
PLUMBING = (
    *("View", "Reshape", "Unsafe", "Alias", "Clone", "Accumulate", "Contiguous", "ToCopy", "Expand", "Unsqueeze"),
    *("Squeeze", "AsStrided", "BackwardHookFunction", "_Anchor"),
)
"""Operations that only pass on their input."""
MIXING = ("Mm", "Addmm", "Bmm", "Addbmm", "Baddbmm", "Mv", "Dot", "Convolution", "Embedding")
"""Operations that connect units."""
ELEMENTWISE = ("Add", "Sub", "Mul", "Div", _IN_PLACE, "Cat", "Stack")
"""Operations by which a gain or an offset acts on another signal, or a learnt token stands beside one."""


def behind(nodes: Iterable[Node], stops: Container[Node]) -> Iterator[Node]:
    """The nodes and all that lead to them, but nothing behind a stop."""
    pending, seen = list(nodes), set()
    while pending:
        node = pending.pop()
        if node not in seen:
            seen.add(node)
            yield node
            pending += () if node in stops else parents_of(node)


def parents_of(node: Node) -> list[Node]:
    """The nodes whose results a node took."""
    return [parent for parent, _ in node.next_functions if parent is not None]


def operation_of(node: Node) -> str:
    """Name of the operation that made a node, such as "Add" or "MaxPool2DWithIndices"."""
    if isinstance(fused := getattr(node, "operation", None), Operation):
        return fused.called
    return _operation(node.name())


@cache
def _operation(name: str) -> str:
    return re.sub(r"Backward\d*$", "", name.rpartition("::")[2])


def nodes_in(output: Any) -> Iterator[Node]:
    """The nodes that made the tensors, and those of their bases: a change in place cuts a view off its own node."""
    for tensor in run.tensors_in(output):
        for made in (tensor, tensor._base):
            if made is not None and made.grad_fn is not None:
                yield made.grad_fn


@dataclass
class TracedPass:
    """The record of one forward pass. It keeps autograd nodes alive, so that they stay comparable."""

    # The nodes that made each neuron's currents, call by call, in the order of execution. A current itself may be
    # changed in place.
    currents: dict[nn.Module, list[list[Node | None]]] = field(default_factory=dict)
    steps: dict[nn.Module, int] = field(default_factory=dict)  # of all calls of a neuron together
    samples: dict[nn.Module, int] = field(default_factory=dict)  # of each call
    left: dict[nn.Module, list[Node]] = field(default_factory=dict)  # input nodes of neurons that cannot be served
    synapse_of: dict[Node, nn.Module] = field(default_factory=dict)
    neuron_of: dict[Node, nn.Module] = field(default_factory=dict)  # emitter of the population
    norm_of: dict[Node, nn.Module] = field(default_factory=dict)
    inputs: dict[nn.Module, tuple[Any, Any]] = field(default_factory=dict)  # of each user-defined layer
    no_weights: set[int] = field(default_factory=set)  # ids of the gains and offsets among the parameters of synapses
    fed_last: bool = False  # whether a synapse ran before the neuron that ran last
    first: dict[nn.Module, Tensor] = field(default_factory=dict)  # current of each neuron's first call, as it was given
    emissions: set[Node] = field(default_factory=set)  # the nodes that made spikes
    spans: list[tuple[int, int, nn.Module]] = field(default_factory=list)  # number ranges of each call's nodes
    answer: list[Node] = field(default_factory=list)  # the nodes that made what the model returned


def shown(record: TracedPass, stops: Collection[Node] = ()) -> dict[nn.Module, set[str]]:
    """What the model's output reads of each neuron, on ways without these nodes: "spikes", "potential", or both."""
    starts = [start for start, _, _ in record.spans]
    found: dict[nn.Module, set[str]] = {}
    pending, seen = list(record.answer), set(stops)
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        index = bisect_right(starts, node._sequence_nr()) - 1
        if node in record.emissions:
            found.setdefault(record.neuron_of[node], set()).add("spikes")
        elif index >= 0 and node._sequence_nr() <= record.spans[index][1]:
            found.setdefault(record.spans[index][2], set()).add("potential")
        else:
            pending += parents_of(node)
    return found


def _now() -> int:
    """The number that autograd gives the next node."""
    with torch.enable_grad():
        node: Node = torch.zeros((), requires_grad=True).clone().grad_fn
    return int(node._sequence_nr())


def inside_of(neurons: Iterable[nn.Module]) -> set[nn.Module]:
    """Neuron modules and everything inside them."""
    return {inner for module in neurons for inner in modules_of(module)}


def _layout(specs: Specs) -> Layout:
    return next(iter(specs.values())).layout


def observe(
    model: nn.Module, batch: Any, forward: Forward, neurons: Neurons, refused: Modules, whole: Modules, bare: Modules
) -> TracedPass:
    """Run the model once and record who made what; for `refused` neurons, which only send spikes, record their inputs.

    What is `whole` is one layer, whatever it holds; `bare` layers are no modules of the model.

    Raises:
        WiringError: see `fluctua.network.trace`.
    """
    record = TracedPass()
    names = {module: name or "model" for name, module in named_modules_of(model)}
    began: dict[nn.Module, int] = {}

    def before_neuron(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            raise WiringError(
                f"the neuron {names[module]} runs under torch.no_grad() or inference_mode(), so the weights that feed "
                "it cannot be found: run the model with gradients on, or give a `forward` that does"
            )
        layout = _layout(neurons[module])
        currents = layout.currents(module, args, kwargs, max(spec.most for spec in neurons[module].values()))
        _check_currents(currents, layout, names[module])
        record.currents.setdefault(module, []).append([current.grad_fn for current in currents])
        sequence = layout.as_sequence(currents[0])
        record.steps[module] = record.steps.get(module, 0) + len(sequence)
        record.samples[module] = sequence.shape[1] if sequence.ndim > 1 else 1
        record.fed_last = bool(record.synapse_of)
        record.first.setdefault(module, currents[0].detach())
        began[module] = _now()
        if currents[0].requires_grad or not currents[0].is_floating_point():
            return None
        attached = _attached(currents[0])  # else its spikes would not be in the graph

        def swapped(x: Any) -> Any:
            return attached if x is currents[0] else x

        return tuple(map(swapped, args)), {name: swapped(x) for name, x in kwargs.items()}

    def noting(table: dict[Node, nn.Module]) -> Any:
        def after(module: nn.Module, args: Any, output: Any) -> None:
            table.update((node, module) for node in nodes_in(output))

        return after

    def after_neuron(module: nn.Module, args: Any, output: Any) -> Any:
        layout = _layout(neurons[module]) if module in neurons else Layout()
        spikes = layout.spikes(module, output)
        if spikes.is_floating_point() and spikes.grad_fn is None:  # no input has caused a spike in so few steps
            spikes = _attached(spikes)
            output = layout.answer(module, output, spikes)
        noting(record.neuron_of)(module, args, (spikes, output))
        record.emissions.update(nodes_in(spikes))
        if module in neurons:
            record.spans.append((began[module], _now(), module))
        return output

    def before_refused(module: nn.Module, args: Any, kwargs: Any) -> None:
        record.left.setdefault(module, []).extend(nodes_in([*args, *kwargs.values()]))

    def after_refused(module: nn.Module, args: Any, output: Any) -> Any:
        output = run.mapped(output, lambda x: x if x.requires_grad or not x.is_floating_point() else _attached(x))
        noting(record.neuron_of)(module, args, output)
        return output

    def after_layer(table: dict[Node, nn.Module]) -> Any:
        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if module not in record.inputs and (module in whole or not is_plain(module)):
                record.inputs[module] = run.mapped((args, kwargs), Tensor.detach)
            noting(table)(module, args, output)

        return after

    no_layers = computing(model) | inside_of([*neurons, *refused]) | inside_of(whole)
    handles = []
    for module in (*modules_of(model), *bare):
        if module in neurons:
            handles.append(module.register_forward_pre_hook(before_neuron, with_kwargs=True))
            emitters = [spec.emitter for spec in neurons[module].values()]
            handles += [emitter.register_forward_hook(after_neuron) for emitter in emitters]
        elif module in refused:
            handles.append(module.register_forward_pre_hook(before_refused, with_kwargs=True))
            handles.append(module.register_forward_hook(after_refused))
        elif module in whole:
            handles.append(nn.Module.register_forward_hook(module, after_layer(record.synapse_of), with_kwargs=True))
        elif isinstance(module, NORMS) and (module.weight is not None or sets_size(module)):
            handles.append(module.register_forward_hook(noting(record.norm_of)))
        elif module not in no_layers and stands_alone(module, {*neurons, *refused}):
            table = record.synapse_of if weight_names(module) else record.norm_of  # `roles` decides which are norms
            handles.append(module.register_forward_hook(after_layer(table), with_kwargs=True))
    with run.hooked(handles):
        record.answer = list(nodes_in(_run_once(model, batch, forward)))
    record.spans.sort(key=lambda span: span[0])
    _check(record, neurons, names)
    return record


def _attached(x: Tensor) -> Tensor:
    """The same values, in the graph."""
    return x.detach().requires_grad_().clone()


def _check_currents(currents: tuple[Tensor, ...], layout: Layout, name: str) -> None:
    least = 1 if layout.stepwise else 2
    if not currents or any(current.ndim < least for current in currents):
        wanted = {"step": "[B, ...]", "second": "[B, T, ...]"}.get(layout.time, "[T, B, ...]")
        raise WiringError(f"the neuron {name} was not called with a current {wanted} as its first argument")


def _run_once(model: nn.Module, batch: Any, forward: Forward) -> Any:
    own = run.Copies(model).of(batch)  # protects the user's data from a model that works in place
    before = run.versions(own)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: None, _not_saved):  # only nodes are needed
        answer = forward(model, own)
    if run.versions(own) != before:
        raise WiringError(
            "the model changes its input in place, so every pass would see a different one: let it work on a copy, for "
            "example with forward=lambda model, batch: model(batch.clone())"
        )
    return answer


def _not_saved(nothing: None) -> Tensor:
    raise WiringError(
        "the model calls autograd within its forward pass, so its wiring cannot be found: "
        "give a `forward` that does not"
    )


def calls_per_step(record: TracedPass, module: nn.Module, neurons: Neurons) -> int:
    """Calls per step of a neuron that is called step by step: a readout may sum over several layers."""
    stepping = [len(calls) for other, calls in record.currents.items() if _layout(neurons[other]).stepwise]
    return len(record.currents[module]) // min(stepping) if _layout(neurons[module]).stepwise else 1


def _check(record: TracedPass, neurons: Neurons, names: dict[nn.Module, str]) -> None:
    if not record.currents:
        raise WiringError("the model's forward pass reached none of its neurons")
    for module, calls in record.currents.items():
        stepwise = _layout(neurons[module]).stepwise
        times = calls_per_step(record, module, neurons) if stepwise else len(calls)
        fires = any((spec.neuron.threshold or NEVER) < NEVER for spec in neurons[module].values())
        if times > 1 and (fires or not stepwise):
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


def signals_of(operation: str, parents: list[Node], record: TracedPass) -> list[Node]:
    """The parents of a node, except those that only scale, shift or join others: parameters, and functions of them."""
    if operation not in ELEMENTWISE or len(parents) < 2:
        return parents
    signals = [parent for parent in parents if carry_signal([parent], record)]
    others = behind([parent for parent in parents if parent not in signals], ())
    connecting = any(operation_of(node).startswith(MIXING) for node in others)
    return parents if connecting or not signals else signals


def is_gain(node: Node, via: tuple[str, ...], record: TracedPass) -> bool:
    """Whether a node scales or shifts raw data by parameters, unit by unit: nothing behind it, or after, connects."""
    parents = parents_of(node)
    if operation_of(node) not in ELEMENTWISE or len(parents) == len(node.next_functions):
        return False
    if carry_signal(parents, record):  # first, for it ends at the first signal, not at the first time step
        return False
    operations = (*via, *map(operation_of, behind(parents, ())))
    return not any(o.startswith((*MIXING, "Sum", "Mean")) for o in operations)


def carry_signal(nodes: list[Node], record: TracedPass) -> bool:
    """Whether what a neuron or a synapse has put out leads to one of the nodes."""
    return any(node in record.neuron_of or node in record.synapse_of for node in behind(nodes, ()))


def computing(model: nn.Module) -> set[nn.Module]:
    """The modules that compute parametrised weights; their own parameters are no weights."""
    lists = [m for m in modules_of(model) if isinstance(m, parametrize.ParametrizationList)]
    return {inner for outer in lists for inner in modules_of(outer)}


def stands_alone(module: nn.Module, neurons: Collection[nn.Module]) -> bool:
    """Whether the module owns weights, or what may be the gain of a norm, and none of its children has parameters."""
    if not weight_names(module) and (is_plain(module) or not list(parameters_of(module, False))):
        return False
    inner = [child for name, child in module.named_children() if name != "parametrizations"]
    return not any(list(parameters_of(child)) or any(m in neurons for m in modules_of(child)) for child in inner)


def is_plain(module: nn.Module) -> bool:
    """Whether a layer is known by its class: else what its parameters do is found out."""
    own = {name for name, _ in named_parameters_of(module, False)}
    home = str(getattr(getattr(type(module), "forward", None), "__module__", ""))
    known = home.partition(".")[0] in {"torch", *ADAPTERS} and home != "fluctua.network.bare"
    return known and not parametrised(module) and own <= {"weight", "bias"}


def weight_names(module: nn.Module, no_weights: Container[int] = ()) -> list[str]:
    """Attributes of the module's own weights: its trained parameters of two or more dimensions."""
    computed = parametrised(module)
    plain = [name for name, _ in named_parameters_of(module, False) if name.rsplit("_", 1)[0] not in computed]
    weights = {name: getattr(module, name) for name in (*computed, *plain)}
    return [name for name, tensor in weights.items() if _is_weight(tensor) and id(tensor) not in no_weights]


def parametrised(module: nn.Module) -> list[str]:
    """Attributes that torch computes anew from parameters at every call: weight norm, spectral norm and the like."""
    hooks = [hook.name for hook in module._forward_pre_hooks.values() if isinstance(hook, WeightNorm | SpectralNorm)]
    computed: Any = module.parametrizations if parametrize.is_parametrized(module) else ()
    return [*computed, *hooks]


def bare_parameters(model: nn.Module, neurons: Collection[nn.Module]) -> dict[str, nn.Parameter]:
    """The parameters, by name, that networks own themselves: what holds neurons is no layer. Without a weight, none."""
    inside = inside_of(neurons)
    networks = [(path, m) for path, m in named_modules_of(model) if m not in inside and inside & {*modules_of(m)}]
    lists = [
        (f"{path}.{name}", child)
        for path, network in networks
        for name, child in network.named_children()
        if isinstance(child, nn.ParameterList | nn.ParameterDict)
    ]
    found = {
        f"{path}.{name}".lstrip("."): parameter
        for path, module in (*networks, *lists)
        for name, parameter in named_parameters_of(module, False)
    }
    return found if any(map(_is_weight, found.values())) else {}


def sets_size(norm: nn.Module) -> bool:
    """Whether a norm sets the size of what it gives, as all do but those with statistics that stay."""
    return norm.training or getattr(norm, "running_mean", None) is None


def loose_weights(
    inside: Container[nn.Module], names: dict[nn.Module, str], no_weights: Container[int]
) -> dict[int, str]:
    """Names of all weights; outside a synapse they cannot be handled."""
    root = next(iter(names))
    return {
        id(p): name if module is root else f"{names[module]}.{name}"
        for module in names
        if module not in inside and not isinstance(module, NORMS)
        for name, p in named_parameters_of(module, False)
        if _is_weight(p) and id(p) not in no_weights
    }


def _is_weight(tensor: Tensor) -> bool:
    return tensor.ndim >= 2 and tensor.is_floating_point()
