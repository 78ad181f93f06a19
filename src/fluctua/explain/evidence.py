"""What a diagnosis rests on: one run of the network with its gradients, as numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fluctua.explain.watching import reaching
from fluctua.network.facts import INPUT, Population
from fluctua.network.network import Network
from fluctua.network.preserve import only_requiring_grad
from fluctua.network.run import hooked, named_parameters_of, parameters_of, tensors_in
from fluctua.state.facts import PopulationState
from fluctua.state.inspection import inspect_network
from fluctua.state.report import Report

Loss = Callable[..., Tensor]
FAR = 3.0  # standard deviations from threshold, from which on a neuron hardly fires
PASSES = 1e-5  # gradient of a spike with respect to a current, from which on a neuron passes any


@dataclass(frozen=True, eq=False)
class Activity:
    """What one population did, beside its state.

    Attributes:
        population: whose.
        state: as reported.
        arrival: first step in which what it hears fires, in half of the samples or more; 0 where it hears the input.
        passing: share of its neurons whose spikes have a gradient with respect to its currents; None for a readout, or
            where the graph does not reach them.
        from_biases: mean potential that biases alone bring.
    """

    population: Population
    state: PopulationState
    arrival: int
    passing: float | None
    from_biases: float

    @property
    def dead(self) -> bool:
        """Whether it cannot be said to fire: most of its neurons never do, by no chance of a small batch."""
        p = self.state
        far = p.latency is None or p.xi is None or p.xi > FAR
        return p.rate == 0 or ((p.silent_units or 0.0) > 0.5 and far)

    @property
    def per_step(self) -> float:
        """Spikes of a neuron in a step."""
        return (self.state.rate or 0.0) * self.population.neuron.kernel.dt


@dataclass(frozen=True, eq=False)
class Learning:
    """The loss and its gradients.

    Attributes:
        loss: its value, None without one.
        output: the first tensor that the model returned.
        connected: whether the loss, or without one the output, depends on any parameter.
        norms: of the gradient by name of the parameter; None where the graph does not reach it.
    """

    loss: float | None
    output: Tensor | None
    connected: bool
    norms: Mapping[str, float | None]


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that is known of a network on a batch.

    Attributes:
        network: found once.
        raw: the batch as the user gave it.
        report: its state.
        activity: of each population.
        learning: of the loss.
        steps: of the trial, as the first population saw them.
        samples: likewise.
        labels: if given.
        options: what was said besides to `diagnose`, as it stands in a call.
        required: by name of the parameter, whether it requires a gradient.
        forgets: whether a second pass gave what the first did; None where fluctua resets the state itself.
    """

    network: Network
    raw: Any
    report: Report
    activity: tuple[Activity, ...]
    learning: Learning
    steps: int
    samples: int
    labels: Any
    options: str
    required: Mapping[str, bool]
    forgets: bool | None

    @property
    def spiking(self) -> tuple[Activity, ...]:
        """The populations that may spike."""
        return tuple(a for a in self.activity if a.state.threshold is not None)

    def call(self, verb: str, more: str = "") -> str:
        """A line that calls a verb of fluctua on the model and the batch."""
        return "fluctua." + f"{verb}(model, batch{more}{self.options})"


def gather(
    network: Network,
    raw: Any,
    loss: Loss | None,
    labels: Any,
    options: str,
    own_forward: bool,
    required: Mapping[str, bool],
) -> Evidence:
    """Run the network twice, once to measure and once with gradients."""
    report = inspect_network(network)
    currents: dict[str, list[tuple[Tensor, ...]]] = {p.name: [] for p in network.populations}
    spikes: dict[str, list[Tensor]] = {p.name: [] for p in network.populations}
    handles = [handle for p in network.populations for handle in _listening(p, currents[p.name], spikes[p.name])]
    with network.preserved(), only_requiring_grad(parameters_of(network.model), None), parametrize.cached():
        draws = torch.get_rng_state()
        with hooked(handles):
            output = network.forward(network.model, network.batch)
        learning = _learning(network.model, output, loss, labels)
        passing = {p.name: _passing(currents[p.name], spikes[p.name], p) for p in network.populations}
        torch.set_rng_state(draws)
        forgets = _same(output, network.forward(network.model, network.batch)) if own_forward else None
    activity = tuple(
        Activity(p, report[p.name], _arrival(p, report), passing[p.name], _from_biases(p)) for p in network.populations
    )
    first = network.populations[0]
    samples = first.layout.as_sequence(currents[first.name][0][0]).shape[1]
    steps = round(activity[0].state.plot_data.duration / first.neuron.kernel.dt)
    return Evidence(network, raw, report, activity, learning, steps, samples, labels, options, required, forgets)


def _listening(p: Population, currents: list[tuple[Tensor, ...]], spikes: list[Tensor]) -> list[Any]:
    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        currents.append(p.layout.currents(module, args, kwargs, p.most))

    def after(module: nn.Module, args: Any, output: Any) -> None:
        spikes.append(p.emission.spikes(module, output))

    return [
        p.module.register_forward_pre_hook(before, with_kwargs=True),
        p.emitter.register_forward_hook(after),
    ]


def _learning(model: nn.Module, output: Any, loss: Loss | None, labels: Any) -> Learning:
    first = next(tensors_in(output), None)
    if loss is None and labels is not None:
        loss = _cross_entropy
    value = None if loss is None else (loss(output) if labels is None else loss(output, labels))
    if value is not None and not (isinstance(value, Tensor) and value.numel() == 1):
        raise ValueError(f"the loss must return one number, got {type(value).__name__}: reduce it, such as by mean()")
    ends = [t for t in tensors_in(output if value is None else value) if t.requires_grad]
    named = dict(named_parameters_of(model))
    norms: dict[str, float | None] = dict.fromkeys(named)
    if ends:
        end = torch.stack([t.sum() for t in ends]).sum()
        wanted = {name: p for name, p in named.items() if p.requires_grad}
        found = torch.autograd.grad(end, list(wanted.values()), allow_unused=True, retain_graph=True)
        norms |= {n: None if g is None else float(g.double().norm()) for n, g in zip(wanted, found, strict=True)}
    return Learning(None if value is None else float(value.detach()), first, bool(ends), norms)


def _cross_entropy(output: Any, labels: Tensor) -> Tensor:
    """Of the output summed over time, where it has time."""
    first = next(tensors_in(output), None)
    if first is None:
        raise ValueError("the model returns no tensor to compare with the labels: give loss=")
    while first.ndim > 2:
        first = first.sum(0)
    return nn.functional.cross_entropy(first, torch.as_tensor(labels, device=first.device).long())


def _passing(currents: list[tuple[Tensor, ...]], spikes: list[Tensor], p: Population) -> float | None:
    """Share of neurons whose spikes move with any of their currents."""
    starts = [c for given in currents for c in reaching(p, given) if c.requires_grad]
    ends = [s for s in spikes if s.requires_grad]
    if p.neuron.threshold is None or not starts:
        return None
    if not ends:
        return 0.0
    gradients = torch.autograd.grad(ends, starts, [torch.ones_like(s) for s in ends], True, allow_unused=True)
    felt = [p.layout.as_sequence(g).abs().flatten(0, 1).amax(0) for g in gradients if g is not None]
    return float((torch.stack(felt).amax(0) > PASSES).double().mean()) if felt else 0.0


def _arrival(p: Population, report: Report) -> int:
    sources = [q for q in report if q.name in p.heard - {p.name}]
    if INPUT in p.heard or not sources:
        return 0
    firsts = [q.plot_data.duration if q.latency is None else q.latency for q in sources]
    return round(min(firsts) / p.neuron.kernel.dt)


def _from_biases(p: Population) -> float:
    biases = [
        float(q.bias.detach().double().mean() * p.neuron.kernels[q.port].eps_bar.mean()) / p.neuron.kernel.dt
        for q in p.pathways
        if q.bias is not None and q.norm is None
    ]
    return sum(biases)


def _same(one: Any, other: Any) -> bool:
    pairs = list(zip(tensors_in(one), tensors_in(other), strict=True))
    return all(a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs)
