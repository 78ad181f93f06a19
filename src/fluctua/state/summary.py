"""From what was measured to the report."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fluctua.network.facts import Pathway, Population
from fluctua.state.facts import PathwayState, PlotData, PopulationState
from fluctua.state.measure import Measurements, Parts, first_event, neuron_mean, population_mean
from fluctua.state.report import Report
from fluctua.state.shares import shares
from fluctua.state.warnings import warnings_of
from fluctua.theory.membrane import Moments
from fluctua.theory.rates import crossing_rate

RASTER_NEURONS = 40


def report_of(
    populations: tuple[Population, ...],
    measured: Mapping[str, Measurements],
    targets: Mapping[str, Moments],
    gradients: Mapping[str, float],
    notes: tuple[str, ...],
    warnings: tuple[str, ...],
    outside: Mapping[str, Parts] | None = None,
) -> Report:
    """The report of what `watch` has measured; with `outside`, see `shares`, it knows the shares of more pathways."""
    known = {p.name: shares(p, measured[p.name].parts, (outside or {}).get(p.name)) for p in populations}
    states = tuple(
        _state(p, measured[p.name], known[p.name], targets.get(p.name), gradients.get(p.name)) for p in populations
    )
    return Report(states, notes, (*warnings, *warnings_of(states)))


def _state(
    p: Population, m: Measurements, known: Parts, target: Moments | None, gradient: float | None
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
        plot_data=PlotData(
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
