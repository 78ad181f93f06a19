"""Look at a network: run it once and measure the state of every population."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fluctua.network import Pathway, Population, trace
from fluctua.network.hooks import emitted, heard, hooked
from fluctua.network.known_neurons import Reading
from fluctua.network.loop import running_of
from fluctua.network.potential import currents_from_outside
from fluctua.network.preserve import Copies, Forward, only_requiring_grad, plain_call, preserved
from fluctua.network.probe import ProbedNeuron
from fluctua.state.report import PathwayState, PopulationState, Report, Sketch
from fluctua.state.shares import Parts, needs_passes, outer_parts, parts_of, shares, variance
from fluctua.state.window import Window, by_neuron, first_event, neuron_mean, population_mean, window_mask
from fluctua.theory import crossing_rate
from fluctua.theory.membrane import Moments

RASTER_NEURONS = 40
LOST = 1000.0  # factor between the gradients of two layers, from which on one does not learn beside the other


def inspect(
    model: nn.Module,
    batch: Any,
    *,
    window: Window = "trial",
    loss: Callable[[Any], Tensor] | None = None,
    forward: Forward = plain_call,
    dt: float | None = None,
    neurons: Mapping[type[nn.Module], ProbedNeuron] | None = None,
) -> Report:
    """The state of every population of a network on a batch; nothing is changed.

    Args:
        model: any model of known neurons, of any framework.
        batch: input `[T, B, ...]`, or whatever the model or `forward` takes.
        window: take the moments over the whole "trial", or from the "arrival" of activity at each population on.
        loss: scalar loss of the model's output; with it the report has the gradient norm of every population.
        forward: `forward(model, batch)` runs all time steps and resets the state; by default the model is called, or
            looped over time, as its neurons ask for.
        dt: time step in seconds, for frameworks that count time in steps; without it rates are per step.
        neurons: what neuron classes are like that fluctua does not know.

    Raises:
        WiringError: see `fluctua.network.trace`.
        ValueError: an empty batch, an unknown window, or a loss that is no scalar or does not depend on any weight.
    """
    reading = Reading(dt, neurons or {})
    forward = running_of(model, batch, forward, reading)
    populations = trace(model, batch, forward, reading)
    return inspect_populations(model, batch, populations, window=window, loss=loss, forward=forward)


def inspect_populations(
    model: nn.Module,
    batch: Any,
    populations: tuple[Population, ...],
    *,
    window: Window = "trial",
    loss: Callable[[Any], Tensor] | None = None,
    forward: Forward = plain_call,
    targets: Mapping[str, Moments] | None = None,
    notes: tuple[str, ...] = (),
    warnings: tuple[str, ...] = (),
) -> Report:
    """`inspect` for populations that are known already, with the targets they were initialised for, by name."""
    seen: Seen = {}
    modules = dict.fromkeys(p.module for p in populations)
    answers: dict[nn.Module, list[Any]] = {module: [] for module in modules}
    within = [[p for p in populations if p.module is module] for module in modules]
    handles = [handle for together in within for handle in watch(together, window, seen)]
    if any(map(needs_passes, populations)):
        handles += [module.register_forward_hook(_keeping(answers, Copies(model))) for module in modules]
    with preserved(model), hooked(handles):
        if loss is None:
            with torch.no_grad():
                forward(model, batch)
            gradients: dict[str, float] = {}
        else:
            gradients = _gradient_norms(model, batch, populations, loss, forward)
    masks = {name: measured.mask for name, measured in seen.items()}
    outside = outer_parts(model, batch, populations, forward, answers, masks)
    return report(populations, seen, targets or {}, gradients, notes, warnings, outside)


def _keeping(answers: dict[nn.Module, list[Any]], copies: Copies) -> Any:
    def after(module: nn.Module, args: Any, output: Any) -> None:
        with torch.no_grad():
            answers[module].append(copies.of(output))

    return after


def report(
    populations: tuple[Population, ...],
    seen: "Seen",
    targets: Mapping[str, Moments],
    gradients: Mapping[str, float],
    notes: tuple[str, ...],
    warnings: tuple[str, ...],
    outside: Mapping[str, Parts] | None = None,
) -> Report:
    """The report of what `watch` has seen; with `outside`, see `shares`, it knows the shares of more pathways."""
    known = {p.name: shares(p, seen[p.name].parts, (outside or {}).get(p.name)) for p in populations}
    states = tuple(
        _state(p, seen[p.name], known[p.name], targets.get(p.name), gradients.get(p.name)) for p in populations
    )
    return Report(states, notes, (*warnings, *_warnings(states)))


@dataclass
class _Measured:
    """What the hooks of one population measured."""

    mask: Tensor
    mean: Tensor  # of the free potential, per neuron [N]
    variance: Tensor  # likewise
    parts: Parts  # variance of what comes from outside and of each recurrent pathway
    edges: Tensor
    density: Tensor
    spikes: Tensor | None = None  # [T, B, N]
    silent: float | None = None  # share of neurons, or of feature maps


Seen = dict[str, _Measured]


def watch(populations: Sequence[Population], window: Window, seen: Seen) -> list[Any]:
    """Hooks that measure the populations of one module when it runs next."""
    arrived: dict[str, tuple[Tensor, ...]] = {}
    fired: dict[str, Tensor] = {}

    def noting(name: str) -> Any:
        def then(spikes: Tensor) -> None:
            fired[name] = spikes.detach()

        return then

    def measure(module: nn.Module, args: Any, output: Any) -> None:
        if len(fired) < len(populations):  # steps are still to come
            return
        for p in populations:
            if p.name not in seen:
                seen[p.name] = _measured(p, arrived[p.name], fired, window)

    handles = [heard(p, partial(arrived.__setitem__, p.name)) for p in populations]
    handles += [emitted(p, noting(p.name)) for p in populations]
    return [*handles, populations[0].module.register_forward_hook(measure)]


def _measured(p: Population, arguments: tuple[Tensor, ...], spikes: Mapping[str, Tensor], window: Window) -> _Measured:
    if arguments[0].numel() == 0:
        raise ValueError(f"the batch must have a time step and a sample, {p.name} got {[*arguments[0].shape]}")
    with torch.no_grad():
        parts = parts_of(p, arguments, spikes)
    mask = window_mask(next(c for c in currents_from_outside(p, arguments) if c is not None), window)
    variances = {name: variance(part, mask) for name, part in parts.items()} if len(parts) > 1 else {}
    u, *others = map(by_neuron, parts.values())
    for other in others:
        u += other
    if p.neuron.rest:
        u += p.neuron.rest
    density, edges = _histogram(u, mask)
    mean = neuron_mean(u, mask)
    spread = neuron_mean(u.sub_(mean.to(u)).square_(), mask)
    if p.neuron.threshold is None:
        return _Measured(mask, mean, spread, variances, edges, density)
    fired = spikes[p.name]
    return _Measured(mask, mean, spread, variances, edges, density, by_neuron(fired), _silent(fired))


def _silent(spikes: Tensor) -> float:
    """Share of neurons that never fire. Those of a feature map `[T, B, C, ...]` share weights and count as one."""
    counts = spikes.sum((0, 1))
    if counts.ndim > 1:
        counts = counts.flatten(1).sum(1)
    return float((counts == 0).double().mean())


def _histogram(u: Tensor, mask: Tensor, bins: int = 80, samples: int = 200_000) -> tuple[Tensor, Tensor]:
    """Density and edges of the potential `[T, B, N]` within the window; many values are thinned to about `samples`."""
    rows = mask.flatten().nonzero().flatten()  # steps of samples
    rows = rows[:: max(1, rows.numel() * u.shape[2] // samples)]
    values = u.flatten(0, 1)[rows].flatten().double().cpu()
    values = values[values.isfinite()]
    if values.numel() == 0:
        return torch.zeros(bins), torch.linspace(-1, 1, bins + 1)
    middle = float(values.mean())
    spread = max(float(values.std(correction=0)), 1e-9 * (1 + abs(middle)))  # the edges of equal values must differ
    edges = torch.linspace(middle - 5 * spread, middle + 5 * spread, bins + 1, dtype=values.dtype)
    density, _ = torch.histogram(values, edges, density=True)
    return density, edges


def _gradient_norms(
    model: nn.Module,
    batch: Any,
    populations: tuple[Population, ...],
    loss: Callable[[Any], Tensor],
    forward: Forward,
) -> dict[str, float]:
    """Norm of the loss gradient with respect to all weights into each population."""
    with only_requiring_grad(model, None), parametrize.cached():  # so that a parametrised weight is one tensor
        value = loss(forward(model, batch))
        if not (isinstance(value, Tensor) and value.numel() == 1 and value.requires_grad):
            raise ValueError("the loss must return one number, a tensor with a gradient with respect to the weights")
        weights = {p.name: [q.weight for q in p.pathways] for p in populations}
        flat = [w for group in weights.values() for w in group]
        gradients = iter(torch.autograd.grad(value, flat, allow_unused=True))
    norms = {}
    for name, group in weights.items():
        squares = [float(g.double().square().sum()) for _ in group if (g := next(gradients)) is not None]
        norms[name] = float(np.sqrt(sum(squares)))
    return norms


def _state(
    p: Population, m: _Measured, known: Parts, target: Moments | None, gradient: float | None
) -> PopulationState:
    temporal, across = float(m.variance.mean()), float(m.mean.var(correction=0))
    mu, sigma = float(m.mean.mean()), float(np.sqrt(temporal + across))
    theta, kernel = p.neuron.threshold, p.neuron.kernel
    xi = None if theta is None or sigma == 0 else (theta - mu) / sigma
    rates, raster = np.zeros(0), np.zeros((0, 2))
    spiking: dict[str, float | None] = dict.fromkeys(("rate", "rate_predicted", "latency", "silent", "saturated"))
    if m.spikes is not None and theta is not None:
        rates = (neuron_mean(m.spikes, m.mask) / kernel.dt).cpu().numpy()
        raster = _raster(m.spikes, kernel.dt)
        spiking = {
            "rate": population_mean(m.spikes, m.mask) / kernel.dt,
            "rate_predicted": None if xi is None or np.isnan(xi) else float(crossing_rate(xi, kernel).mean()),
            "latency": _latency(m.spikes, kernel.dt),
            "silent": m.silent,
            "saturated": float((m.mean > theta).double().mean()),
        }
    duration = m.mask.shape[0] * kernel.dt
    return PopulationState(
        name=p.name,
        n=len(m.mean),
        threshold=theta,
        mu_u=mu,
        sigma_u=sigma,
        sigma_temporal=float(np.sqrt(temporal)),
        sigma_across=float(np.sqrt(across)),
        xi=xi,
        **spiking,
        target_mu_u=None if target is None else float(np.mean(target.mu_u)),
        target_sigma_u=None if target is None else float(np.sqrt(np.mean(target.sigma_u**2))),
        gradient_norm=gradient,
        pathways=tuple(_pathway_state(q, known.get(q.name)) for q in p.pathways),
        sketch=Sketch(
            m.edges.double().numpy(),
            m.density.double().numpy(),
            rates,
            raster,
            min(len(m.mean), RASTER_NEURONS),
            duration,
        ),
        in_steps=p.neuron.in_steps,
    )


def _latency(spikes: Tensor, dt: float) -> float | None:
    """Median over samples of the first spike's time; None where half of them or more never see one."""
    first = first_event(spikes).cpu()
    steps = int(first.kthvalue(len(first) // 2 + 1).values)  # of an even number, the later of the two in the middle
    return None if steps >= spikes.shape[0] else steps * dt


def _raster(spikes: Tensor, dt: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Time and neuron of the first sample's spikes, for neurons spread evenly over the population."""
    n = spikes.shape[2]
    chosen = torch.linspace(0, n - 1, min(n, RASTER_NEURONS)).long()
    events = spikes[:, 0, chosen.to(spikes.device)].nonzero().double().cpu().numpy()
    return np.column_stack([events[:, 0] * dt, events[:, 1]])


def _pathway_state(q: Pathway, share: float | None) -> PathwayState:
    w = q.weight.detach().double()
    return PathwayState(
        q.name, q.sources, q.fan_in, float(w.mean()), float(w.std(correction=0)), q.skipped_because, share
    )


def _warnings(states: tuple[PopulationState, ...]) -> list[str]:
    """What a user should know: numbers that are none, silence, late activity, missed targets; a sentence each."""
    trial = f"{states[0].sketch.duration:g} {'steps' if states[0].in_steps else 's'}" if states else ""
    broken = [p.name for p in states if not np.isfinite([p.mu_u, p.sigma_u]).all()]
    culprits = [q.name for p in states for q in p.pathways if not np.isfinite(q.mean + q.std)]
    silent = [p.name for p in states if p.rate is not None and p.latency is None]
    late = [p.name for p in states if p.latency is not None and p.latency > 2 / 3 * p.sketch.duration]
    missed = [p for p in states if p.target_sigma_u is not None and abs(p.sigma_u / p.target_sigma_u - 1) > 0.1]
    warnings = []
    if broken:
        warnings.append(
            f"the potential of {_listed(broken)} has NaN or infinite values: "
            + (f"so have the weights {_listed(culprits)}" if culprits else "look for them in the batch and in biases")
        )
    if silent:
        warnings.append(f"no spike within the trial of {trial}, in half of the samples or more: {_listed(silent)}")
    if late:
        warnings.append(
            f"first spike only in the last third of the trial of {trial}: {_listed(late)}; activity needs time in "
            "every layer, so use longer trials or fewer layers"
        )
    if missed:
        worst = max(missed, key=lambda p: abs(np.log(max(p.sigma_u, 1e-9) / (p.target_sigma_u or 1.0))))
        warnings.append(
            f"sigma_U misses its target by more than 10 %: {_listed([p.name for p in missed])} "
            f"(worst: {worst.sigma_u:.2f} for {worst.target_sigma_u:.2f} in {worst.name})"
        )
    return [*warnings, *_gradient_warnings(states)]


def _gradient_warnings(states: tuple[PopulationState, ...]) -> list[str]:
    """Whether the gradient gets lost, or out of hand, on its way back through layers that all spike.

    The first population is left out: its weights hear the input, whose size is not that of spikes.
    """
    spiking = [p for p in states if p.threshold is not None and p.gradient_norm is not None]
    norms = [p.gradient_norm or 0.0 for p in spiking]
    if len(norms) < 3 or any(p.latency is None for p in spiking) or not 0 < norms[-1] < np.inf:
        return []
    if 1 / LOST < norms[1] / norms[-1] < LOST or np.isnan(norms[1]):
        return []
    what, cure, size = ("fades", "blunter", "smaller") if norms[1] < norms[-1] else ("grows", "steeper", "larger")
    return [
        f"the gradient {what} from {norms[-1]:.1e} in {spiking[-1].name} to {norms[1]:.1e} in {spiking[1].name}: "
        f"give the neurons a {cure} surrogate, such as SuperSpike with a {size} beta"
    ]


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])} and {len(names) - 5} more"
