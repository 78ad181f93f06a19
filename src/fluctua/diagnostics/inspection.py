"""Look at a network: run it once and measure the state of every population."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fluctua.diagnostics.report import PathwayState, PopulationState, Report, Sketch
from fluctua.diagnostics.window import Window, first_event, neuron_mean, population_mean, window_mask
from fluctua.theory import Moments, crossing_rate
from fluctua.wiring import Population, free_potential, trace
from fluctua.wiring.running import Forward, only_requiring_grad, plain_call, preserved
from fluctua.wiring.trace import current_of, hooked

RASTER_NEURONS = 40


def inspect(
    model: nn.Module,
    batch: Any,
    *,
    window: Window = "trial",
    loss: Callable[[Any], Tensor] | None = None,
    forward: Forward = plain_call,
) -> Report:
    """The state of every population of a network on a batch; nothing is changed.

    Args:
        model: any model of known neurons.
        batch: input `[T, B, ...]`, or whatever `forward` takes.
        window: take the moments over the whole "trial", or from the "arrival" of activity at each population on.
        loss: scalar loss of the model's output; with it the report has the gradient norm of every population.
        forward: `forward(model, batch)` runs all time steps, where a plain call does not.

    Raises:
        WiringError: see `fluctua.wiring.trace`.
    """
    return inspect_populations(model, batch, trace(model, batch, forward), window=window, loss=loss, forward=forward)


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
    seen: dict[str, _Measured] = {}
    handles = []
    for population in populations:
        handles += _watch(population, window, seen)
    with preserved(model), hooked(handles):
        if loss is None:
            with torch.no_grad():
                forward(model, batch)
            gradients: dict[str, float] = {}
        else:
            gradients = _gradient_norms(model, batch, populations, loss, forward)
    states = tuple(_state(p, seen[p.name], (targets or {}).get(p.name), gradients.get(p.name)) for p in populations)
    return Report(states, notes, (*warnings, *_warnings(states)))


@dataclass
class _Measured:
    """What the hooks of one population measured."""

    mask: Tensor
    mean: Tensor  # of the free potential, per neuron [N]
    mean_square: Tensor  # likewise
    edges: Tensor
    density: Tensor
    spikes: Tensor | None = None  # [T, B, N]


def _watch(population: Population, window: Window, seen: dict[str, _Measured]) -> list[Any]:
    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        current = current_of(args, population.name).detach()
        u = free_potential(current, population.neuron.kernel)
        mask = window_mask(current, window)
        counts, edges = _histogram(u, mask)
        seen[population.name] = _Measured(mask, neuron_mean(u, mask), neuron_mean(u * u, mask), edges, counts)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        if population.neuron.threshold is not None:
            seen[population.name].spikes = output.detach().flatten(2)

    return [population.module.register_forward_pre_hook(before), population.module.register_forward_hook(after)]


def _histogram(u: Tensor, mask: Tensor, bins: int = 80, samples: int = 1_000_000) -> tuple[Tensor, Tensor]:
    """Density and edges of the potential within the window; a large population is thinned to about `samples`."""
    values = u.flatten(2).flatten(0, 1)[mask.flatten() > 0].flatten()
    values = values[:: max(1, values.numel() // samples)].float().cpu()
    if values.numel() == 0:
        return torch.zeros(bins), torch.linspace(-1, 1, bins + 1)
    middle, spread = values.mean(), values.std(correction=0).clamp_min(1e-12)
    edges = torch.linspace(float(middle - 5 * spread), float(middle + 5 * spread), bins + 1)
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
    weights = {p.name: [q.weight for q in p.pathways] for p in populations}
    flat = [w for group in weights.values() for w in group]
    with only_requiring_grad(model, flat):
        value = loss(forward(model, batch))
        gradients = iter(torch.autograd.grad(value, flat, allow_unused=True))
    norms = {}
    for name, group in weights.items():
        squares = [float(g.double().square().sum()) for _ in group if (g := next(gradients)) is not None]
        norms[name] = float(np.sqrt(sum(squares)))
    return norms


def _state(p: Population, m: _Measured, target: Moments | None, gradient: float | None) -> PopulationState:
    mean, mean_square = m.mean.double(), m.mean_square.double()
    temporal = float((mean_square - mean**2).clamp_min(0).mean())
    across = float(mean.var(correction=0))
    mu, sigma = float(mean.mean()), float(np.sqrt(temporal + across))
    theta, kernel = p.neuron.threshold, p.neuron.kernel
    xi = None if theta is None or sigma == 0 else (theta - mu) / sigma
    rates, raster = np.zeros(0), np.zeros((0, 2))
    spiking: dict[str, float | None] = dict.fromkeys(("rate", "rate_predicted", "latency", "silent", "saturated"))
    if m.spikes is not None and theta is not None:
        rates = (neuron_mean(m.spikes, m.mask) / kernel.dt).double().cpu().numpy()
        raster = _raster(m.spikes, kernel.dt)
        spiking = {
            "rate": population_mean(m.spikes, m.mask) / kernel.dt,
            "rate_predicted": None if xi is None else float(crossing_rate(xi, kernel).mean()),
            "latency": _latency(m.spikes, kernel.dt),
            "silent": float((m.spikes.sum((0, 1)) == 0).double().mean()),
            "saturated": float((mean > theta).double().mean()),
        }
    duration = m.mask.shape[0] * kernel.dt
    return PopulationState(
        name=p.name,
        n=len(mean),
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
        pathways=tuple(_pathway_state(q) for q in p.pathways),
        sketch=Sketch(
            m.edges.numpy().astype(float), m.density.numpy().astype(float), rates, raster, RASTER_NEURONS, duration
        ),
    )


def _latency(spikes: Tensor, dt: float) -> float | None:
    """Median over samples of the first spike's time; None where half of them never see one."""
    steps = first_event(spikes).double().median().item()
    return None if steps >= spikes.shape[0] else steps * dt


def _raster(spikes: Tensor, dt: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Time and neuron of the first sample's spikes, for neurons spread evenly over the population."""
    n = spikes.shape[2]
    chosen = torch.linspace(0, n - 1, min(n, RASTER_NEURONS)).long()
    events = spikes[:, 0, chosen.to(spikes.device)].nonzero().double().cpu().numpy()
    return np.column_stack([events[:, 0] * dt, events[:, 1]])


def _pathway_state(q: Any) -> PathwayState:
    w = q.weight.detach().double()
    return PathwayState(q.name, q.sources, q.fan_in, float(w.mean()), float(w.std(correction=0)), q.left_alone)


def _warnings(states: tuple[PopulationState, ...]) -> list[str]:
    """What a user should know: silence, late activity, missed targets; a sentence each."""
    trial = states[0].sketch.duration if states else 0.0
    silent = [p.name for p in states if p.rate is not None and p.latency is None]
    late = [p.name for p in states if p.latency is not None and p.latency > 0.7 * trial]
    missed = [p for p in states if p.target_sigma_u is not None and abs(p.sigma_u / p.target_sigma_u - 1) > 0.1]
    warnings = []
    if silent:
        warnings.append(f"no spike within the trial of {trial:g} s, in half of the samples or more: {_listed(silent)}")
    if late:
        warnings.append(
            f"first spike only in the last third of the trial of {trial:g} s: {_listed(late)}; activity needs time in "
            "every layer, so use longer trials or fewer layers"
        )
    if missed:
        worst = max(missed, key=lambda p: abs(np.log(max(p.sigma_u, 1e-9) / (p.target_sigma_u or 1.0))))
        warnings.append(
            f"sigma_U misses its target by more than 10 %: {_listed([p.name for p in missed])} "
            f"(worst: {worst.sigma_u:.2f} for {worst.target_sigma_u:.2f} in {worst.name})"
        )
    return warnings


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])} and {len(names) - 5} more"
