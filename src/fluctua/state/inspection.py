"""Look at a network: run it once and measure the state of every population."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fluctua.network.errors import Axis
from fluctua.network.facts import Pathway, Population, currents_from_outside, response
from fluctua.network.network import Network
from fluctua.network.preserve import in_turn, only_requiring_grad
from fluctua.network.probe import ProbedNeuron
from fluctua.network.replay import Replay
from fluctua.network.run import Forward, hooked, parameters_of
from fluctua.network.trace_pass import parametrised
from fluctua.state.measure import OUTSIDE, Measurements, Parts, Window, variance, watch
from fluctua.state.report import Report
from fluctua.state.summary import DEEP, needs_passes, report_of
from fluctua.theory.target import Moments


@in_turn
def inspect(
    model: nn.Module,
    batch: Any,
    *,
    window: Window = "trial",
    loss: Callable[[Any], Tensor] | None = None,
    forward: Forward | None = None,
    time: Axis = 0,
    steps: int | None = None,
    dt: float | None = None,
    neurons: Mapping[type[nn.Module], ProbedNeuron] | None = None,
    readouts: Collection[str] | None = None,
) -> Report:
    """The state of every population of a network on a batch; nothing is changed.

    Args:
        model: any model of known neurons, of any framework.
        batch: input `[T, B, ...]`, or whatever the model or `forward` takes.
        window: take the moments over the whole "trial", or from the "arrival" of activity at each population on.
        loss: scalar loss of the model's output. With it the report has the gradient norm of every population and, for
            networks of six spiking populations or more, says how the gradient passes them.
        forward: `forward(model, batch)` runs all time steps and resets the state; by default the model is called, or
            looped over time, as its neurons require.
        time: axis of the batch that is time, 0 or 1; None for a static input `[B, ...]`.
        steps: how many steps a static input is shown for; not needed if the model itself makes a sequence of it.
        dt: time step in seconds, for frameworks that count time in steps; without it rates are per step.
        neurons: facts about neuron classes that fluctua does not know.
        readouts: names of populations that are read by their potential: see `fluctua.initialize`.

    Raises:
        WiringError, BatchError: see `fluctua.network.Network.of`.
        ValueError: an unknown window, or a loss that is no scalar or does not depend on any weight.

    Example:
        >>> from fluctua.neurons import LI, LIF
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(30, 20), LIF(), nn.Linear(20, 2), LI())
        >>> report = inspect(model, (torch.rand(100, 4, 30) < 0.1).float())
        >>> print(f"{report['1'].sigma_u:.1f}")  # in the unit of the threshold
        0.6
    """
    network = Network.of(
        model, batch, forward=forward, time=time, steps=steps, dt=dt, neurons=neurons, readouts=readouts
    )
    return inspect_network(network, window=window, loss=loss)


def inspect_network(
    network: Network,
    *,
    window: Window = "trial",
    loss: Callable[[Any], Tensor] | None = None,
    targets: Mapping[str, Moments] | None = None,
    notes: tuple[str, ...] = (),
    warnings: tuple[str, ...] = (),
) -> Report:
    """`inspect` for a `Network`, with the targets that its populations were initialised for, by name."""
    populations = network.populations
    measured: dict[str, Measurements] = {}
    modules = dict.fromkeys(p.module for p in populations)
    within = [[p for p in populations if p.module is module] for module in modules]
    drives = loss is not None or sum(p.neuron.threshold is not None for p in populations) >= DEEP
    watched = hooked(handle for together in within for handle in watch(together, window, measured, drives=drives))
    separable = _separable([p for p in populations if needs_passes(p)])
    turns, gradients, outside = _turns(separable), dict[str, float](), dict[str, Parts]()
    if loss is not None:
        with watched:
            gradients = _gradient_norms(network, loss)
    elif not turns:
        with watched, torch.no_grad():
            network.run()
    if turns:
        with network.replay() as replay:
            for p in populations:
                replay.done(p)
            if loss is None:
                with watched:
                    replay.finish()
            outside = outer_parts(separable, turns, replay, {name: m.mask for name, m in measured.items()})
    notes, ran = (*network.notes, *notes), (f"window = {window}",)
    return report_of(network, measured, targets or {}, gradients, notes, warnings, outside, ran=ran)


def _gradient_norms(network: Network, loss: Callable[[Any], Tensor]) -> dict[str, float]:
    """Norm of the loss gradient with respect to all weights into each population."""
    # Cached, so that a parametrised weight stays the same tensor.
    with network.preserved(), only_requiring_grad(parameters_of(network.model), None), parametrize.cached():
        value = loss(network.forward(network.model, network.batch))
        if not (isinstance(value, Tensor) and value.numel() == 1 and value.requires_grad):
            raise ValueError("the loss must return one number, a tensor with a gradient with respect to the weights")
        weights = {p.name: [_acting(q) for q in p.pathways] for p in network.populations}
        flat = [w for group in weights.values() for w in group]
        gradients = iter(torch.autograd.grad(value, flat, allow_unused=True))
    norms = {}
    for name, group in weights.items():
        squares = [float(g.double().square().sum()) for _ in group if (g := next(gradients)) is not None]
        norms[name] = float(np.sqrt(sum(squares)))
    return norms


def _acting(q: Pathway) -> Tensor:
    """The weight itself, also if the pathway is known by what it is computed from."""
    computed = (n for n in parametrised(q.synapse) if q.parameter.startswith((f"parametrizations.{n}.", f"{n}_")))
    acting: Tensor = q.weight if (name := next(computed, None)) is None else getattr(q.synapse, name)
    return acting


def outer_parts(
    populations: list[Population], turns: Mapping[nn.Module, int], replay: Replay, masks: Mapping[str, Tensor]
) -> dict[str, Parts]:
    """Variance that each pathway from outside supplies, for populations where only extra passes can tell.

    In each pass the neuron modules repeat their earlier answers, and all but one of the modules that feed a population
    output zeros; weights are not touched. One pass serves all populations at a time.

    Args:
        populations: those to tell apart.
        turns: the pass in which each module is active.
        replay: of the network, all of whose populations are done.
        masks: window `[T, B]` of each population, by name.
    """
    rests: dict[str, Tensor] = {}
    found: dict[str, Parts] = {}
    for turn in (None, *sorted(set(turns.values()))):
        silent = [m for m, t in turns.items() if t != turn]
        arrived = replay.currents_while_silent(silent)
        for p in populations:
            u = response(p.neuron, currents_from_outside(p, arrived[p.name]))
            if turn is None:
                rests[p.name] = u if bool(u.any()) else torch.zeros(())
                found[p.name] = {OUTSIDE: variance(u, masks[p.name])}
            for q in p.pathways:
                if not q.inside and turns[q.synapse] == turn:
                    found[p.name][q.name] = variance(u - rests[p.name].to(u), masks[p.name])
    return found


def _separable(populations: list[Population]) -> list[Population]:
    """Those with no norm shared by pathways, and no pathway through a module that feeds another population."""
    feeding = {q.synapse for p in populations for q in p.pathways}

    def separable(p: Population) -> bool:
        norms = [norm for q in p.pathways for norm in q.norms]
        return len(norms) == len(set(norms)) and not any(m in feeding for q in p.pathways for m in q.through)

    return [p for p in populations if separable(p)]


def _turns(populations: list[Population]) -> dict[nn.Module, int]:
    """The pass in which each module is active; never two that feed one population in the same pass."""
    turns: dict[nn.Module, int] = {}
    beside: dict[nn.Module, set[nn.Module]] = {}
    for p in populations:
        outer = {q.synapse for q in p.pathways if not q.inside}
        for m in outer:
            beside.setdefault(m, set()).update(outer)
    for m, others in beside.items():
        taken = {turns[other] for other in others if other in turns}
        turns[m] = next(t for t in range(len(others)) if t not in taken)
    return turns
