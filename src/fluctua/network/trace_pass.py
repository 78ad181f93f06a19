"""What hooks see of a model in one forward pass: the autograd nodes of neurons, synapses and norms."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fluctua.network.autograd import Node, nodes_in, versions
from fluctua.network.errors import WiringError
from fluctua.network.facts import Member
from fluctua.network.hooks import hooked
from fluctua.network.layout import Layout
from fluctua.network.modules import modules_of, named_modules_of
from fluctua.network.preserve import Copies, Forward
from fluctua.network.weights import NORMS, computing, gains_and_offsets, may_be_synapse, weight_names

Members = Mapping[nn.Module, Mapping[str, Member]]  # the populations of each neuron module, by name


@dataclass
class Record:
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


def inside_of(neurons: Members) -> set[nn.Module]:
    """All that neuron modules hold, and themselves."""
    return {inner for module in neurons for inner in modules_of(module)}


def _layout(members: Mapping[str, Member]) -> Layout:
    return next(iter(members.values())).layout


def _most(members: Mapping[str, Member]) -> int:
    """How many currents a module is called with at most."""
    entries = [k for m in members.values() for k in (*m.arguments, *(s.source for s in m.synapses))]
    return 1 + max((k for k in entries if isinstance(k, int)), default=0)


def observe(model: nn.Module, batch: Any, forward: Forward, neurons: Members) -> Record:
    """Run the model once and note who made what.

    Raises:
        WiringError: see `fluctua.network.trace`.
    """
    record = Record()
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
            table.update((node, module) for node in nodes_in(output))

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
        record.no_weights |= gains_and_offsets(module, output)
        if weight_names(module, record.no_weights):
            noting(record.synapse_of)(module, args, output)

    no_layers = computing(model) | inside_of(neurons)
    handles = []
    for module in modules_of(model):
        if module in neurons:
            handles.append(module.register_forward_pre_hook(before_neuron, with_kwargs=True))
            emitters = [member.emitter for member in neurons[module].values()]
            handles += [emitter.register_forward_hook(after_neuron) for emitter in emitters]
        elif isinstance(module, NORMS) and module.weight is not None:
            handles.append(module.register_forward_hook(noting(record.norm_of)))
        elif module not in no_layers and may_be_synapse(module, neurons):
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


def _check(record: Record, neurons: Members, names: dict[nn.Module, str]) -> None:
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
