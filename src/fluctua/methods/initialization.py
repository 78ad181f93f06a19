"""The one call: put a spiking network into the fluctuation-driven regime."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, suppress
from typing import Any, Literal

import torch
from torch import nn

from fluctua.methods import measured, poisson
from fluctua.methods.circuits import fit_circuit
from fluctua.methods.measured import Aim
from fluctua.network import Population, trace
from fluctua.network.batch import check_batch, check_unit, new_generator, short_batch_warnings
from fluctua.network.groups import groups, hears_itself
from fluctua.network.hooks import hooked
from fluctua.network.known_neurons import Reading
from fluctua.network.loop import running_of
from fluctua.network.modules import modules_of, named_modules_of
from fluctua.network.preserve import Forward, plain_call, preserved
from fluctua.network.probe import ProbedNeuron
from fluctua.network.replay import Passes
from fluctua.state import Report
from fluctua.state.inspection import Seen, report, watch
from fluctua.state.window import Window
from fluctua.theory import Normal, Target
from fluctua.theory.laws import Family
from fluctua.theory.membrane import Moments

READOUT = Target(sigma=1.0)


def initialize(
    model: nn.Module,
    batch: Any,
    target: Target | None = None,
    *,
    method: Literal["measured", "poisson"] = "measured",
    nu: poisson.Rate = None,
    balance: bool = True,
    window: Window = "trial",
    readout: Target = READOUT,
    alpha: float = 0.9,
    law: Family = Normal(),  # noqa: B008 - frozen
    seed: int | None = None,
    generator: torch.Generator | None = None,
    populations: Collection[str] | None = None,
    forward: Forward = plain_call,
    dt: float | None = None,
    neurons: Mapping[type[nn.Module], ProbedNeuron] | None = None,
) -> Report:
    """Put a spiking network into the fluctuation-driven regime, in place, and report the state it is in.

    Args:
        model: any model of known neurons, of any framework and on any device; its weights are overwritten.
        batch: input as in training, `[T, B, ...]` or what the model takes, of one or a few hundred samples.
        target: the wanted state of every spiking population (default: mean 0, xi = 1).
        method: "measured" scales the weights by the free potential that they cause on the batch, population after
            population, and holds its target at any depth. "poisson" is the paper's formula.
        nu: for "poisson", the rate of the afferents in Hz: a number for the whole network; None for the mean rate of
            the batch, as in the paper; "per-layer" to measure it for each pathway.
        balance: for "measured", give every neuron the same mean potential: no silent, no saturated neurons.
        window: measure over the whole "trial", or in each sample from the "arrival" of activity at a population on,
            which is what networks deeper than the trial is long need.
        readout: the wanted state of populations without threshold.
        alpha: share of the variance that feed-forward pathways supply in a population with recurrence.
        law: of weights that may take either sign; synapses under Dale's law have theirs.
        seed: of the draws; default: drawn from torch's generator. The same seed gives the same weights.
        generator: of the draws, on the CPU, instead of a seed.
        populations: names of those to initialise; default: all.
        forward: `forward(model, batch)` runs all time steps and resets the state; by default the model is called, or
            looped over time, as its neurons ask for.
        dt: time step in seconds, for frameworks that count time in steps; without it rates are per step.
        neurons: what neuron classes are like that fluctua does not know.

    Returns:
        The state of every population after the call, with what was skipped and why.

    Raises:
        BatchError: an empty, all-zero, non-finite or misshapen batch.
        WiringError: no spiking neuron found, or a model that cannot be run or traced.
        UnsupportedNeuronError: a neuron whose potential is not linear in its input.
        SilentInputError: a population that nothing reaches.
        NoFixedPointError: a recurrent population without a steady state near its target.
        InfeasibleTargetError: a target out of reach, naming the largest feasible `mu_u`.
    """
    if method not in ("measured", "poisson"):
        raise ValueError(f"unknown method {method!r}: choose 'measured' or 'poisson'")
    target = target or Target()
    reading = Reading(dt, neurons or {})
    forward = running_of(model, batch, forward, reading)
    check_batch(batch, forward)
    draws = new_generator(seed, generator)
    found = _traced(model, batch, forward, reading)
    chosen = _chosen(found, populations)
    check_unit(chosen, target)
    aims = {
        p.name: Aim(readout if p.neuron.threshold is None else target, balance, window, alpha, law)
        for p in chosen
        if any(q.skipped_because is None for q in p.pathways)
    }
    targets: dict[str, Moments] = {}
    seen: Seen = {}
    with preserved(model), ExitStack() as watching:
        torch.manual_seed((draws.initial_seed() + 1) % 2**63)  # for dropout: other draws than those of the weights
        passes = Passes(model, batch, forward, found)
        rate = poisson.mean_input_rate(found, passes) if method == "poisson" and nu is None else 0.0
        for group in groups(found):
            wanted = {p.name: aims[p.name] for p in group if p.name in aims}
            if method == "measured" and wanted and hears_itself(group):
                targets |= fit_circuit(group, wanted, passes, draws)
            else:
                for p in group:
                    if p.name in wanted and method == "measured":
                        targets[p.name] = measured.fit(p, wanted[p.name], passes, draws)
                    elif p.name in wanted:
                        targets[p.name] = poisson.fit(p, wanted[p.name], nu, passes, rate, draws)
            for p in group:
                passes.done(p)
            for module in dict.fromkeys(p.module for p in group):  # in the next pass, which runs them
                within = [p for p in group if p.module is module]
                watching.enter_context(hooked(watch(within, window, seen)))
        passes.finish()
    return report(
        found,
        seen,
        targets,
        gradients={},
        notes=(*_notes(chosen), *_unreached(model, found)),
        warnings=tuple(short_batch_warnings(chosen)),
    )


def _traced(model: nn.Module, batch: Any, forward: Forward, reading: Reading) -> tuple[Population, ...]:
    """Two samples show the wiring as well as all of them, unless the model insists on more."""
    if forward is plain_call and batch.shape[1] > 2:
        with suppress(Exception):  # what is wrong with the model shows on the whole batch too
            return trace(model, batch[:, :2].clone(), forward, reading)
    return trace(model, batch, forward, reading)


def _chosen(found: tuple[Population, ...], names: Collection[str] | None) -> tuple[Population, ...]:
    known = {p.name for p in found}
    if names is not None and (unknown := set(names) - known):
        raise ValueError(f"no population {sorted(unknown)[0]!r} in the model: it has {', '.join(sorted(known))}")
    return tuple(p for p in found if names is None or p.name in names)


def _notes(chosen: tuple[Population, ...]) -> Iterator[str]:
    for p in chosen:
        if p.neuron.note is not None:
            yield f"{p.name}: {p.neuron.note}"
        if not p.pathways:
            yield f"{p.name} was skipped: no weight feeds it"
        for q in p.pathways:
            if q.skipped_because is not None:
                yield f"{q.name} was skipped: {q.skipped_because}"
    biases = [q for p in chosen for q in p.pathways if q.skipped_because is None and q.bias is not None]
    moved = [q.name for q in biases if q.bias is not None and bool(q.bias.any())]
    if moved:
        yield f"the bias that goes with {', '.join(moved)} was set to bring mu_u to its target"
    if len(moved) < len(biases):
        yield f"{len(biases) - len(moved)} bias(es) were set to zero"


def _unreached(model: nn.Module, found: tuple[Population, ...]) -> Iterator[str]:
    """Layers whose weights lead to no population: readouts, or what feeds neurons that nobody has named."""
    known = {
        module for p in found for owner in (p.module, *(q.synapse for q in p.pathways)) for module in modules_of(owner)
    }
    layers = nn.Linear | nn.modules.conv._ConvNd
    if names := [n for n, m in named_modules_of(model) if isinstance(m, layers) and m not in known]:
        yield f"{', '.join(names)} feeds no known neuron and was skipped; an unknown one is named by neurons="
