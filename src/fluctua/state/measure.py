"""What is measured of a population while it runs, and over which part of a trial."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fluctua.network.facts import Population, currents_from_outside, recurrent_pathways, response
from fluctua.network.run import emitted, heard
from fluctua.theory.target import Moments

if TYPE_CHECKING:
    from fluctua.state.backward import Drive

Window = Literal["trial", "arrival"]
OUTSIDE = ""  # in place of a pathway's name: everything from outside together
Parts = dict[str, float]


def window_mask(current: Tensor, window: Window) -> Tensor:
    """1 where a time step of a sample counts, else 0: `[T, B]` for a current `[T, B, *N]`.

    "trial" counts all steps. "arrival" counts those of each sample from the first current into the population on:
    activity needs 12 to 20 ms per layer (20/10 ms time constants), and until it arrives a deep population is at rest
    whatever its weights.
    """
    if window == "trial":
        return current.new_ones(current.shape[:2])
    if window != "arrival":
        raise ValueError(f"unknown window {window!r}: choose 'trial' or 'arrival'")
    arrived = by_neuron(current).any(-1).cumsum(0) > 0
    return arrived.to(current.dtype)


def by_neuron(x: Tensor) -> Tensor:
    """`[T, B, *N]` -> `[T, B, N]`."""
    return x.reshape(*x.shape[:2], -1)


def neuron_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of `x` `[T, B, *N]` over the window, per neuron `[N]` (float64); 0, as at rest, if the window is empty."""
    total = mask.flatten().to(x.dtype) @ by_neuron(x).flatten(0, 1)
    return total.double() / mask.sum(dtype=torch.float64).clamp_min(1)


def population_mean(x: Tensor, mask: Tensor, unit: Tensor | float = 1.0) -> float:
    """Mean of `x` `[T, B, *N]` over window and neurons, divided by `unit`: a number, or one for each neuron `[*N]`."""
    if isinstance(unit, Tensor) and unit.ndim:
        return population_mean(x / unit, mask)
    return float(neuron_mean(x, mask).mean()) / float(unit)


def product_mean(u: Tensor, v: Tensor, mask: Tensor, unit: Tensor | float = 1.0) -> float:
    """Mean of `u v` over window and neurons, without the product in memory, in units as in `population_mean`."""
    if isinstance(unit, Tensor) and unit.ndim:
        return product_mean(u / unit, v / unit, mask)
    rows, columns = (by_neuron(x).flatten(0, 1) for x in (u, v))
    products = torch.bmm(rows.unsqueeze(1), columns.unsqueeze(2)).flatten()  # one for each step and sample
    total = mask.flatten().double() @ products.double()
    return float(total / mask.sum(dtype=torch.float64).clamp_min(1)) / rows.shape[1] / float(unit) ** 2


def variance(u: Tensor, mask: Tensor, unit: Tensor | float = 1.0) -> float:
    """Variance of a potential `[T, B, *N]` over window and neurons, in units as in `population_mean`."""
    return product_mean(u, u, mask, unit) - population_mean(u, mask, unit) ** 2


def first_event(x: Tensor) -> Tensor:
    """First step in which `x` `[T, B, *N]` is not all zero, per sample `[B]`; T if there is none."""
    active = by_neuron(x).any(-1)
    return torch.where(active.any(0), active.to(torch.uint8).argmax(0), x.shape[0])


def parts_of(p: Population, arguments: tuple[Tensor, ...], spikes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The free potential `[T, B, *N]` without `rest`, split into the input from outside and each recurrent pathway."""
    parts = {OUTSIDE: response(p.neuron, currents_from_outside(p, arguments))}
    for q in recurrent_pathways(p):
        if q.inner is not None:
            current = q.inner(spikes[q.sources[0]])
            parts[q.name] = response(p.neuron, [current if k == q.port else None for k in range(len(p.neuron.kernels))])
    return parts


@dataclass
class Measurements:
    """What the hooks of one population measured."""

    mask: Tensor
    mean: Tensor  # of the free potential, per neuron [N]
    variance: Tensor  # in time, per neuron [N]
    parts: Parts  # variance of the input from outside and of each recurrent pathway
    edges: Tensor
    density: Tensor
    spikes: Tensor | None = None  # [T, B, N]
    silent_maps: float | None = None
    drive: "Drive | None" = None  # input currents of some of its neurons

    def distance(self, target: Moments) -> float:
        """Distance from a target: of mu_u over the wanted sigma_u, or relative of sigma_u, whichever is larger."""
        wanted: float = np.sqrt(np.mean(target.sigma_u**2))
        sigma = float((self.variance.mean() + self.mean.var(correction=0)).sqrt())
        return max(abs(float(self.mean.mean()) - float(np.mean(target.mu_u))), abs(sigma - wanted)) / wanted


def watch(
    populations: Sequence[Population], window: Window, measured: dict[str, Measurements], *, drives: bool = False
) -> list[Any]:
    """Hooks that measure the populations of one module when it next runs, and their drive if asked."""
    arrived: dict[str, tuple[Tensor, ...]] = {}
    fired: dict[str, Tensor] = {}

    def note(name: str, spikes: Tensor) -> None:
        fired[name] = spikes.detach()

    def measure(module: nn.Module, args: Any, output: Any) -> None:
        if len(fired) < len(populations):  # steps are still to come
            return
        for p in populations:
            if p.name not in measured:
                measured[p.name] = _measure(p, arrived[p.name], fired, window)
                if drives:
                    from fluctua.state.backward import Drive

                    with torch.no_grad():
                        measured[p.name].drive = Drive.of(p, arrived[p.name], fired)

    handles = [heard(p, arrived.__setitem__) for p in populations]
    handles += [emitted(p, note) for p in populations]
    return [*handles, populations[0].module.register_forward_hook(measure)]


def _measure(
    p: Population, arguments: tuple[Tensor, ...], spikes: Mapping[str, Tensor], window: Window
) -> Measurements:
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
        return Measurements(mask, mean, spread, variances, edges, density)
    fired = spikes[p.name]
    mapped = fired.ndim > 3 and not any(isinstance(q.synapse, nn.Linear) for q in p.pathways)
    maps = silent_share(fired.flatten(3).sum(3)) if mapped else None
    return Measurements(mask, mean, spread, variances, edges, density, by_neuron(p.neuron.counted(fired)), maps)


def silent_share(spikes: Tensor) -> float:
    """Share of the neurons of `[T, B, *N]` that never fire."""
    return float(spikes.flatten(0, 1).any(0).logical_not().double().mean())


def _histogram(u: Tensor, mask: Tensor, bins: int = 80, samples: int = 200_000) -> tuple[Tensor, Tensor]:
    """Density and edges of the potential `[T, B, N]` within the window; thinned to about `samples` values."""
    rows = mask.flatten().nonzero().flatten()  # steps of samples
    rows = rows[:: max(1, rows.numel() * u.shape[2] // samples)]
    values = u.flatten(0, 1)[rows].flatten().double().cpu()
    values = values[values.isfinite()]
    if values.numel() == 0:
        return torch.zeros(bins), torch.linspace(-1, 1, bins + 1)
    middle = float(values.mean())
    spread = max(float(values.std(correction=0)), 1e-9 * (1 + abs(middle)))  # equal values need edges that differ too
    density, edges = torch.histogram(values, bins, range=(middle - 5 * spread, middle + 5 * spread), density=True)
    return density, edges
