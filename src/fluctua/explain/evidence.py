"""The facts behind a diagnosis: one run of the network with its gradients."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import nan
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fluctua.network.facts import INPUT, Population
from fluctua.network.network import Network, rests_quietly
from fluctua.network.preserve import gpus_of, only_requiring_grad
from fluctua.network.run import hooked, named_parameters_of, parameters_of, tensors_in
from fluctua.state.facts import PopulationState
from fluctua.state.inspection import inspect_network
from fluctua.state.report import Report

Loss = Callable[..., Tensor]
FAR = 3.0  # standard deviations from threshold, beyond which a neuron hardly fires
PASSES = 1e-5  # gradient of a spike with respect to a current, from which a neuron passes any


@dataclass(frozen=True, eq=False)
class Activity:
    """What one population did, besides its state.

    Attributes:
        population: the population.
        state: as reported.
        arrival: first step in which its sources fire, in at least half of the samples; 0 if it receives the input.
        passing: share of its neurons whose spikes have a gradient with respect to its currents; None for a readout, or
            if the graph does not reach them, NaN if a gradient is NaN.
        through_time: whether a gradient of late spikes reaches early currents.
        output: whether its spikes only leave the model.
    """

    population: Population
    state: PopulationState
    arrival: int
    passing: float | None
    through_time: bool
    output: bool = False

    @property
    def from_biases(self) -> float:
        """Mean potential due to biases alone."""
        p = self.population
        biases = [
            float(q.bias.detach().double().mean() * p.neuron.kernels[q.port].eps_bar.mean()) / p.neuron.kernel.dt
            for q in p.pathways
            if q.bias is not None and not q.norms
        ]
        return sum(biases)

    @property
    def waits(self) -> bool:
        """Whether it is an output that fires as rarely as one may before training."""
        return self.output and rests_quietly(self.state.xi)

    @property
    def dead(self) -> bool:
        """Whether most of its neurons never fire, and not just by the chance of a small batch."""
        p = self.state
        if self.waits:
            return False
        far = p.latency is None or p.xi is None or p.xi > FAR
        return p.rate == 0 or ((p.silent_units or 0.0) > 0.5 and far)

    @property
    def per_step(self) -> float:
        """Mean number of spikes per neuron and step."""
        return (self.state.rate or 0.0) * self.population.neuron.kernel.dt


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything known about a network on a batch.

    Attributes:
        network: the network.
        raw: the batch as the user gave it.
        report: its state.
        activity: of each population.
        loss: its value, None without one.
        output: the first tensor that the model returned.
        connected: whether the loss, or without one the output, depends on any parameter.
        norms: of the gradient, by name of the parameter; None if the graph does not reach it.
        steps: of the trial, as the first population saw them.
        samples: of the batch, likewise.
        labels: if given.
        options: the other arguments of `diagnose`, as they stand in a call.
        required: by name of the parameter, whether it requires a gradient.
        forgets: whether a second pass gave the same as the first.
    """

    network: Network
    raw: Any
    report: Report
    activity: tuple[Activity, ...]
    loss: float | None
    output: Tensor | None
    connected: bool
    norms: Mapping[str, float | None]
    steps: int
    samples: int
    labels: Any
    options: str
    required: Mapping[str, bool]
    forgets: bool

    @property
    def spiking(self) -> tuple[Activity, ...]:
        """The populations that may spike."""
        return tuple(a for a in self.activity if a.state.threshold is not None)

    def call(self, verb: str, more: str = "") -> str:
        """A line that calls a function of fluctua on the model and the batch."""
        return "fluctua." + f"{verb}(model, batch{more}{self.options})"


def gather(
    network: Network, raw: Any, loss: Loss | None, labels: Any, options: str, required: Mapping[str, bool]
) -> Evidence:
    """Run the network twice, once to measure and once with gradients."""
    report = inspect_network(network)
    currents: dict[str, list[tuple[Tensor, ...]]] = {p.name: [] for p in network.populations}
    spikes: dict[str, list[Tensor]] = {p.name: [] for p in network.populations}
    handles = [handle for p in network.populations for handle in _listening(p, currents[p.name], spikes[p.name])]
    with network.preserved(), only_requiring_grad(parameters_of(network.model), None), parametrize.cached():
        with torch.random.fork_rng(gpus_of(network.model)), hooked(handles):
            output = network.forward(network.model, network.batch)
        learning = _learning(network.model, output, loss, labels)
        passed, lasting = (
            {p.name: _moved_by(currents[p.name], spikes[p.name], p, early) for p in network.populations}
            for early in (False, True)
        )
        with torch.no_grad():  # with the same draws
            forgets = _same(output, network.forward(network.model, network.batch))
    ends = network.outputs
    activity = tuple(
        Activity(
            p, report[p.name], _arrival(p, report), _passing(passed[p.name]), lasting[p.name] != [], p.name in ends
        )
        for p in network.populations
    )
    first = network.populations[0]
    samples = first.layout.as_sequence(currents[first.name][0][0]).shape[1]
    steps = round(activity[0].state.plot_data.duration / first.neuron.kernel.dt)
    return Evidence(network, raw, report, activity, *learning, steps, samples, labels, options, required, forgets)


def _listening(p: Population, currents: list[tuple[Tensor, ...]], spikes: list[Tensor]) -> list[Any]:
    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        currents.append(p.layout.currents(module, args, kwargs, p.most))

    def after(module: nn.Module, args: Any, output: Any) -> None:
        spikes.append(p.emission.spikes(module, output))

    return [p.module.register_forward_pre_hook(before, with_kwargs=True), p.emitter.register_forward_hook(after)]


def _learning(
    model: nn.Module, output: Any, loss: Loss | None, labels: Any
) -> tuple[float | None, Tensor | None, bool, dict[str, float | None]]:
    """Loss, output, whether they are connected, and norms, as in `Evidence`."""
    first = next(tensors_in(output), None)
    if loss is None and labels is not None:
        loss = cross_entropy
    value = None if loss is None else (loss(output) if labels is None else loss(output, labels))
    if value is not None and not (isinstance(value, Tensor) and value.numel() == 1):
        raise ValueError(f"the loss must return one number, got {type(value).__name__}: reduce it, say by mean()")
    ends = [t for t in tensors_in(output if value is None else value) if t.requires_grad]
    named = dict(named_parameters_of(model))
    norms: dict[str, float | None] = dict.fromkeys(named)
    if ends:
        end = torch.stack([t.sum() for t in ends]).sum()
        wanted = {name: p for name, p in named.items() if p.requires_grad}
        found = torch.autograd.grad(end, list(wanted.values()), allow_unused=True, retain_graph=True)
        norms |= {n: None if g is None else float(g.double().norm()) for n, g in zip(wanted, found, strict=True)}
    return None if value is None else float(value.detach()), first, bool(ends), norms


def cross_entropy(output: Any, labels: Any) -> Tensor:
    """Cross entropy of the output, summed over time if it has time."""
    first = next(tensors_in(output), None)
    if first is None:
        raise ValueError("the model returns no tensor to compare with the labels: give loss=")
    while first.ndim > 2:
        first = first.sum(0)
    classes = torch.as_tensor(labels, device=first.device)
    if classes.ndim == 2:  # one hot, or probabilities
        return nn.functional.cross_entropy(first, classes.to(first))
    if classes.is_floating_point() or not 0 <= int(classes.min()) <= int(classes.max()) < first.shape[-1]:
        raise ValueError(
            f"the labels go from {classes.min():g} to {classes.max():g}, but the output has the classes 0 to "
            f"{first.shape[-1] - 1}: give it more classes, or loss= for values"
        )
    return nn.functional.cross_entropy(first, classes.long())


def _moved_by(
    currents: list[tuple[Tensor, ...]], spikes: list[Tensor], p: Population, early: bool
) -> list[Tensor] | None:
    """Gradients of spikes with respect to currents, or of late spikes to early currents, if the graph reaches these.

    None for a readout, and if no current has a graph.
    """
    half = len(currents) // 2
    starts = [c for given in currents[: half if early else None] for c in p.entering(given) if c.requires_grad]
    ends = [s for s in spikes[half if early else 0 :] if s.requires_grad]
    if p.neuron.threshold is None or not starts:
        return None
    ones = [torch.ones_like(s) for s in ends]
    found = torch.autograd.grad(ends, starts, ones, True, allow_unused=True) if ends else ()
    return [p.layout.as_sequence(g) for g in found if g is not None]


def _passing(found: list[Tensor] | None) -> float | None:
    """Share of neurons whose spikes have a gradient with respect to any of their currents."""
    if not found:
        return None if found is None else 0.0
    largest = torch.stack([g.abs().flatten(0, 1).amax(0) for g in found]).amax(0)
    return float((largest > PASSES).double().mean()) if largest.isfinite().all() else nan


def _arrival(p: Population, report: Report) -> int:
    sources = [q for q in report if q.name in p.heard - {p.name}]
    if INPUT in p.heard or not sources:
        return 0
    firsts = [q.plot_data.duration if q.latency is None else q.latency for q in sources]
    return round(min(firsts) / p.neuron.kernel.dt)


def _same(one: Any, other: Any) -> bool:
    pairs = list(zip(tensors_in(one), tensors_in(other), strict=True))
    return all(a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs)
