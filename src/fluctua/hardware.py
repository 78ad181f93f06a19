"""Weights, thresholds and decays on the grid of a neuromorphic chip, and the state of the network that is left."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod

from fluctua.network.adapters.framework import THRESHOLDS
from fluctua.network.errors import Axis
from fluctua.network.facts import Pathway, Population
from fluctua.network.network import Network
from fluctua.network.preserve import all_or_nothing
from fluctua.network.probe import ProbedNeuron
from fluctua.network.run import Forward, modules_of
from fluctua.neurons.own_step import StepNeuron
from fluctua.state.backward import cell_of
from fluctua.state.facts import wanted
from fluctua.state.inspection import inspect_network
from fluctua.state.measure import Window
from fluctua.state.report import Report
from fluctua.theory.target import Moments

__all__ = ["Grid", "quantize"]

_CLIPPINGS = 64  # number of scales tried, from the largest weight at the edge of the grid down to a quarter of it
_COARSE = 0.1  # rounding error worth a warning, relative to the standard deviation of the weights


@dataclass(frozen=True)
class Grid:
    """The values that a weight may take: integer multiples of a scale.

    Attributes:
        bits: of a weight, 2 to 16. Weights of either sign take `-2^(bits-1) ... 2^(bits-1) - 1` times the scale,
            weights of one sign `0 ... 2^bits - 1` times.
        scale: one for all weights; None for the best fit to each tensor, as on chips that scale each layer.

    Raises:
        ValueError: numbers out of range.

    Example:
        >>> Grid(bits=4).range()
        (-8, 7)
    """

    bits: int = 8
    scale: float | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.bits, Integral) and 2 <= self.bits <= 16):
            raise ValueError(f"a grid has a whole number of bits, 2 to 16, got {self.bits!r}")
        if self.scale is not None and not (isinstance(self.scale, Real) and 0 < self.scale < float("inf")):
            raise ValueError(f"the scale of a grid must be positive and finite, got {self.scale!r}")

    def range(self, signed: bool = True) -> tuple[int, int]:
        """The smallest and the largest integer."""
        return (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1) if signed else (0, 2**self.bits - 1)

    def integers(self, weight: Tensor, scale: float, signed: bool = True) -> Tensor:
        """The integers nearest to a weight, as floating point."""
        return (weight / scale).round().clamp(*self.range(signed))

    def fit(self, weight: Tensor, signed: bool = True) -> float:
        """The scale with the least mean square error of rounding and clipping; the given one if there is one."""
        if self.scale is not None:
            return self.scale
        weight = weight.detach().double()
        widest = float(weight.abs().max()) / self.range(signed)[1] or 1.0  # if all weights are zero, any scale will do

        def error(scale: float) -> float:
            return float((self.integers(weight, scale, signed) * scale - weight).square().mean())

        return min((widest * (1 - 0.75 * k / _CLIPPINGS) for k in range(_CLIPPINGS)), key=error)


@all_or_nothing
def quantize(
    model: nn.Module,
    batch: Any,
    grid: Grid = Grid(),
    *,
    thresholds: bool = False,
    decay_bits: int | None = None,
    report: Report | None = None,
    window: Window = "trial",
    forward: Forward | None = None,
    time: Axis = 0,
    steps: int | None = None,
    dt: float | None = None,
    neurons: Mapping[type[nn.Module], ProbedNeuron] | None = None,
) -> tuple[Report, dict[str, float]]:
    """Round the weights of a network to a grid, in place, and report the state that survives.

    Biases keep their precision, and weights that `initialize` skips are skipped here too.

    Args:
        model: any model of known neurons.
        batch: as for `fluctua.initialize`.
        grid: the values that weights may take.
        thresholds: also round the threshold of each population, to an integer multiple of the scale of the first weight
            that leads to it, since a chip compares the two in that unit.
        decay_bits: also round the decay per step of potential and synaptic current, to multiples of `2^-decay_bits`;
            12 on Loihi.
        report: what `initialize` returned, for the targets; without it the state before rounding is the target.
        window: as for `fluctua.inspect`, and so are the rest.
        forward: runs all time steps.
        time: axis of the batch that is time.
        steps: how many steps a static input is shown for.
        dt: time step in seconds, for neurons that count time in steps.
        neurons: facts about unknown neuron classes.

    Returns:
        The state of every population, with warnings where the grid is too coarse, and the scale of each weight by
        name.

    Raises:
        WiringError: see `Network.of`.
        BatchError: a batch on which nothing can be measured.
        ValueError: weights that are not finite; `decay_bits` out of range, or given for neurons whose decays fluctua
            cannot write. After any error the model is as it was.

    Example:
        >>> from fluctua.neurons import LI, LIF
        >>> model = nn.Sequential(nn.Linear(30, 20), LIF(), nn.Linear(20, 2), LI())
        >>> report, scales = quantize(model, (torch.rand(50, 4, 30) < 0.1).float(), Grid(bits=4))
        >>> model[0].weight.unique().numel() <= 16
        True
    """

    def read() -> Network:
        return Network.of(model, batch, forward=forward, time=time, steps=steps, dt=dt, neurons=neurons, active=True)

    if not isinstance(grid, Grid):
        raise ValueError(f"grid must be a Grid, such as Grid(bits=8), got {grid!r}")
    if not isinstance(report, Report | None):
        raise ValueError(f"report must be what `initialize` returned, got {report!r}")
    network = read()
    written = {q.name: q for p in network.populations for q in p.pathways if q.skipped_because is None}
    for name, q in written.items():
        if not q.weight.isfinite().all():
            raise ValueError(f"{name} has NaN or infinite values, which no grid contains: restore finite values first")
    before = report or inspect_network(network, window=window)
    targets = {p.name: Moments(*map(np.asarray, wanted(p))) for p in before}
    decays = [] if decay_bits is None else list(round_decays(network.populations, decay_bits))
    rounded = {name: rounded_to(grid, q) for name, q in written.items()}
    scales = {name: scale for name, (scale, _) in rounded.items()}
    levels = list(round_thresholds(network.populations, scales)) if thresholds else []
    notes = [f"{name} was rounded to {grid.bits} bits, scale {scale:.4g}" for name, scale in scales.items()]
    masks = {name: q.mask.double() for name, q in written.items() if q.mask is not None}
    notes += [f"{name} keeps its mask: {mask.mean():.0%} of its entries count" for name, mask in masks.items()]
    coarse = tuple(warning for _, warning in rounded.values() if warning is not None)
    changed = read()  # in thresholds and kernels too
    told = (*notes, *levels, *decays)
    return inspect_network(changed, window=window, targets=targets, notes=told, warnings=coarse), scales


def rounded_to(grid: Grid, q: Pathway) -> tuple[float, str | None]:
    """Round a weight in place, where it has entries; under Dale's law, its absolute value.

    Returns the scale, and a warning or None.
    """
    whole = q.weight.detach()
    signed = q.family is None or bool((whole < 0).any())  # a law of sizes alone does not keep signs
    there = torch.ones_like(whole, dtype=torch.bool) if q.mask is None else (q.mask != 0).expand_as(whole)
    weight = whole[there]
    scale = grid.fit(weight, signed)
    new = (grid.integers(weight.double(), scale, signed) * scale).to(weight)
    spread = float(weight.double().std(correction=0))
    error = float((new - weight).double().square().mean().sqrt())
    low, high = (edge * scale for edge in grid.range(signed))
    cut = float(((weight < low) | (weight > high)).double().mean())
    with torch.no_grad():
        q.weight[there] = new
        for hook in q.synapse._forward_pre_hooks.values():
            if isinstance(hook, BasePruningMethod):  # its module holds the weight of its last pass
                hook(q.synapse, None)
    if error <= _COARSE * spread:
        return scale, None
    lost = "" if spread == 0 else f" by {error / spread:.0%} of their standard deviation"
    clipped = f", {cut:.0%} of them lie outside it" if cut else ""
    return scale, (
        f"the grid [{low:.4g}, {high:.4g}] with steps of {scale:.4g} is too coarse for {q.name}: it changes the "
        f"weights{lost}{clipped}; take more bits, or another scale"
    )


# By package: an attribute of its neurons, from it to the decay per step, and back; dt in the neuron's unit.
_DECAYS: Mapping[str, tuple[tuple[str, Callable[..., Any], Callable[..., Any]], ...]] = {
    "fluctua": tuple(
        (f"log_{tau}", lambda value, dt: (-dt / value.exp()).exp(), lambda decay, dt: (-dt / decay.log()).log())
        for tau in ("tau_mem", "tau_syn", "tau_exc", "tau_inh", "tau_adapt")
    ),
    "snntorch": tuple((name, lambda value, dt: value, lambda decay, dt: decay) for name in ("alpha", "beta")),
    "sinabs": tuple(
        (tau, lambda value, dt: (-1 / value).exp(), lambda decay, dt: -1 / decay.log())
        for tau in ("tau_mem", "tau_syn")
    ),
    "spikingjelly": (("tau", lambda value, dt: 1 - 1 / value, lambda decay, dt: 1 / (1 - decay)),),
}


def round_decays(populations: Sequence[Population], bits: int) -> Iterator[str]:
    """Round the decays per step of neurons to multiples of `2^-bits`, in place; yields a sentence on each.

    Raises:
        ValueError: bits out of range, or neurons of an unknown kind; then nothing is written.
    """
    if not (isinstance(bits, Integral) and 2 <= bits <= 24):
        raise ValueError(f"a decay has a whole number of bits, 2 to 24, got decay_bits={bits!r}")
    for name, module, (attribute, decay_of, value_of) in [found for p in populations for found in _decays_of(p)]:
        dt = getattr(module, "dt", 1.0)
        before = decay_of(torch.as_tensor(getattr(module, attribute)).detach().double(), dt)
        after = (before * 2**bits).round().clamp(1, 2**bits - 1) / 2**bits
        _set(module, attribute, value_of(after, dt))
        yield f"the decay by {attribute} of {name} was rounded from {before.mean():.5g} to {after.mean():.5g}"


def _decays_of(p: Population) -> list[tuple[str, nn.Module, Any]]:
    """Name of the population, neuron module, and entry of `_DECAYS`, for each of its decays."""
    found = []
    for module in modules_of(cell_of(p)):
        packages = [base.__module__.partition(".")[0] for base in type(module).__mro__]
        known = next((_DECAYS[package] for package in packages if package in _DECAYS), ())
        found += [(p.name, module, entry) for entry in known if getattr(module, entry[0], None) is not None]
    if not found:
        raise ValueError(
            f"the decays of {p.name} ({type(p.module).__name__}) have no name that fluctua knows, so decay_bits cannot "
            f"round them: known are neurons with time constants of {', '.join(_DECAYS)}"
        )
    return found


def round_thresholds(populations: Sequence[Population], scales: Mapping[str, float]) -> Iterator[str]:
    """Round thresholds to whole multiples of the scale of the first weight, in place; yields a sentence on each."""
    for p in populations:
        own = {m._threshold for m in modules_of(p.module) if isinstance(m, StepNeuron) and m._threshold is not None}
        names = (*THRESHOLDS, *own)
        held = [(m, a) for m in modules_of(cell_of(p)) for a in names if getattr(m, a, None) is not None]
        scale = next((scales[q.name] for q in p.pathways if q.name in scales), None)
        if p.neuron.threshold is not None and held and scale is not None:
            module, attribute = held[0]
            before = torch.as_tensor(getattr(module, attribute)).detach().double()
            after = (before / scale).round().clamp_min(1.0) * scale
            _set(module, attribute, after)
            yield f"the threshold of {p.name} was rounded from {before.mean():.4g} to {after.mean():.4g}"
        elif p.neuron.threshold is not None:
            yield f"the threshold of {p.name} was left: its name is not known, or its weights are on no grid"


def _set(module: nn.Module, attribute: str, value: Tensor) -> None:
    """Write an attribute, in place where it is a tensor."""
    held = getattr(module, attribute)
    if isinstance(held, Tensor):
        with torch.no_grad():
            held.copy_(value)
    else:
        setattr(module, attribute, float(value))
