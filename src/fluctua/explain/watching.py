"""One training step of a network, observed by hooks: what its populations did, and how their weights changed."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fluctua.network.facts import Population, population_currents, response
from fluctua.state.measure import neuron_mean

SAMPLES = 8  # of the batch, from which the free potential is taken
FELT = 1e-4  # of the largest gradient in a population, from which a gradient counts as passed


class Watch:
    """Observes the passes of a model until it is closed; it only holds what the model computes anyway."""

    def __init__(self, populations: Sequence[Population]) -> None:
        self._seen = [_Seen(p) for p in populations]
        self._before: dict[Tensor, Tensor] = {w: w.detach().clone() for seen in self._seen for w in seen.weights}

    def rows(self) -> list[dict[str, Any]]:
        """The rows, after the step; populations that did not run are left out."""
        seen = {s.population.name: s for s in self._seen if s.currents and s.spikes}
        with torch.no_grad():
            spikes = {name: torch.cat(s.spikes) for name, s in seen.items()}
            return [s.row(spikes, self._before) for s in seen.values()]

    def close(self) -> None:
        """Remove the hooks."""
        for seen in self._seen:
            for handle in seen.handles:
                handle.remove()


class _Seen:
    """One population in one pass."""

    def __init__(self, population: Population) -> None:
        self.population = population
        self.weights = [q.weight for q in population.pathways if isinstance(q.weight, nn.Parameter)]
        self.currents: list[tuple[Tensor, ...]] = []
        self.spikes: list[Tensor] = []
        self.felt: Tensor | None = None  # the largest gradient of each neuron's current [*N]
        self.handles = [
            population.module.register_forward_pre_hook(self._arriving, with_kwargs=True),
            population.emitter.register_forward_hook(self._emitted),
        ]

    def _arriving(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not torch.is_grad_enabled():
            return
        layout = self.population.layout
        given = layout.currents(module, args, kwargs, self.population.most)
        if not layout.stepwise:
            self.currents.clear()
            self.felt = None
        self.currents.append(tuple(layout.as_sequence(c.detach()) for c in given))
        for current in reaching(self.population, given):
            if current.requires_grad:
                current.register_hook(self._feel)  # type: ignore[no-untyped-call]

    def _feel(self, gradient: Tensor) -> None:
        largest = torch.linalg.vector_norm(self.population.layout.as_sequence(gradient.detach()), math.inf, (0, 1))
        self.felt = largest if self.felt is None else torch.maximum(self.felt, largest)

    def _emitted(self, module: Any, args: Any, output: Any) -> None:
        if torch.is_grad_enabled():
            emission = self.population.emission
            if not emission.stepwise:
                self.spikes.clear()
            self.spikes.append(emission.as_sequence(emission.spikes(module, output).detach()))

    def row(self, fired: Mapping[str, Tensor], before: Mapping[Tensor, Tensor]) -> dict[str, Any]:
        """The numbers of the population, from the spikes of all and the weights before the step."""
        p, neuron = self.population, self.population.neuron
        spikes = fired[p.name]
        counts = spikes.sum((0, 1))
        arguments = [torch.cat(steps)[:, :SAMPLES] for steps in zip(*self.currents, strict=True)]
        inner = {name: other[:, :SAMPLES] for name, other in fired.items()}
        u = response(neuron, population_currents(p, arguments, inner)).flatten(2) + neuron.rest
        mask = torch.ones_like(u[..., 0])
        mean = neuron_mean(u, mask)
        temporal = float((neuron_mean(u**2, mask) - mean**2).clamp_min(0).mean().sqrt())
        theta, trials = neuron.threshold, math.prod(spikes.shape[:2])
        gradients = [w.grad for w in self.weights if w.grad is not None]
        known = [w for w in self.weights if w in before]
        moved = _norm([w - before[w] for w in known]) / max(_norm([before[w] for w in known]), 1e-30)
        row = {
            "population": p.name,
            "rate": None if theta is None else float(neuron.counted(counts).mean()) / (trials * neuron.kernel.dt),
            "silent": None if theta is None else float((counts == 0).double().mean()),
            "saturated": None if theta is None else float((mean > theta).double().mean()),
            "mu_u": float(mean.mean()),
            "sigma_u": temporal,
            "xi": None if theta is None or temporal == 0 else (theta - float(mean.mean())) / temporal,
            "gradient_norm": _norm(gradients) if gradients else None,
            "update_ratio": moved if known else None,
            "surrogate": None if self.felt is None or theta is None else _share_felt(self.felt),
        }
        return {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in row.items()}


def reaching(population: Population, given: Sequence[Tensor]) -> list[Tensor]:
    """The currents, among those that a module is called with, that directly enter a population, neuron by neuron."""
    return [given[k] for k in population.arguments if k is not None and k < len(given)]


def _share_felt(felt: Tensor) -> float:
    return float((felt > FELT * felt.max()).double().mean()) if bool(felt.any()) else 0.0


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(sum((t.double().square().sum() for t in tensors), torch.zeros((), dtype=torch.float64)).sqrt())
