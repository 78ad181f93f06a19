"""Synaptic scaling: weights multiplied until every neuron fires at its target rate, without gradients."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fluctua.homeostasis.refinement import Refinement, rates
from fluctua.methods.weights import affine, by_row, excites, write
from fluctua.network.errors import Axis
from fluctua.network.facts import Pathway, Population
from fluctua.network.network import Network
from fluctua.network.preserve import all_or_nothing
from fluctua.network.replay import Replay
from fluctua.network.run import Forward
from fluctua.state.inspection import inspect_network
from fluctua.theory.laws import OneSided
from fluctua.theory.psp import Array, number

# Step in the logarithm of a factor per error in that of the rate; the rate is assumed to respond by the inverse.
_COMMON, _OWN = 0.5, 0.125
_GROWTH = 1.2  # of the largest step, after one in the right direction


@all_or_nothing
def scale_synapses(
    model: nn.Module,
    batch: Any,
    rate: float | Mapping[str, float],
    *,
    rounds: int = 30,
    step: float = 0.5,
    tolerance: float = 0.1,
    share: float = 0.9,
    per_neuron: bool = True,
    forward: Forward | None = None,
    time: Axis = 0,
    steps: int | None = None,
    dt: float | None = None,
) -> Refinement:
    """Synaptic scaling (Turrigiano 2008): multiply afferent weights until every neuron fires at its rate, in place.

    There are two stages. First one factor, from the population's mean rate, multiplies all weights of a population:
    that sets the size of the fluctuations and keeps their ratio to the mean. Then each neuron, from its own rate alone,
    multiplies its *excitatory* weights, the positive ones of its row, which shifts its mean. Under Dale's law there is
    no first stage; only the rows of excitatory pathways are multiplied, and inhibition stays as it is. No weight
    changes its sign.

    A factor changes by `exp(step)` at most in a round, which is what a silent neuron takes, and by half of its last
    change if that went beyond the target. A round is a forward pass. Populations are done in the order in which they
    run, so that their input is final; those of one circuit together. Neurons that share their weights, as in a feature
    map, are scaled together by their mean rate. If a normalisation layer sets the scale of the current, its gains are
    multiplied instead of the weights.

    Biases stay as they are, and so do weights that are frozen, shared or parametrised (the report's notes name them).
    The factor of a neuron that stays silent is undone in the end. So is the common factor if it does not bring half of
    the wanted spikes, for instance because inhibition prevails.

    Args:
        model: any model of known neurons.
        batch: input `[T, B, ...]`, or whatever `forward` takes. Rates are means over its trials.
        rate: target in Hz for all spiking populations, or by name for those to be scaled.
        rounds: maximal number for each population; the first stage takes at most half of them.
        step: largest change of the logarithm of a factor in a round.
        tolerance: largest distance of a rate from its target, in units of the target; half a spike in the whole batch
            is always tolerated.
        share: fraction of a population's neurons (channels) that must be within tolerance, besides its mean rate.
        per_neuron: whether to run the second stage; if not, only the mean rate counts.
        forward: `forward(model, batch)` runs all time steps, if a plain call does not.
        time: axis of the batch that is time, 0 or 1; None for a static input `[B, ...]`.
        steps: how many steps a static input is shown for; not needed if the model makes a sequence of it.
        dt: time step in seconds, for frameworks that count time in steps.

    Returns:
        The result; a population that missed its target is in the best state found.

    Raises:
        ValueError: a rate that is not positive, a name that no spiking population has, or a number out of range.
        BatchError: an empty, all-zero, non-finite or misshapen batch.
        WiringError: no known neuron found, or a model that cannot be traced.

    Example:
        >>> from fluctua.neurons import LI, LIF
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(30, 20), LIF(), nn.Linear(20, 2), LI())
        >>> scale_synapses(model, (torch.rand(200, 8, 30) < 0.1).float(), 20.0).reached
        True
    """
    whole = isinstance(rounds, int) and rounds >= 1
    if not (whole and 0 < step < math.inf and 0 < tolerance < math.inf and 0 <= share <= 1):
        raise ValueError(
            "scaling needs at least one round, a positive step and tolerance, and a share from 0 to 1, got "
            f"rounds={rounds}, step={step}, tolerance={tolerance}, share={share}"
        )
    network = Network.of(model, batch, forward=forward, time=time, steps=steps, dt=dt, active=True)
    targets = _targets(rate, [p.name for p in network.spiking])
    chosen = network.chosen(targets)
    spikes = network.spikes(chosen)
    scalings = {
        p.name: _Scaling(p, _Goal(targets[p.name], tolerance, share, per_neuron), spikes[p.name].shape[2:], step)
        for p in chosen
    }
    needed = 0
    with network.replay() as replay:
        for within in network.groups:
            if working := [scalings[p.name] for p in within if p.name in scalings]:
                needed = max(needed, _scale(working, within, replay, rounds))
            for p in within:
                replay.done(p)
    missed = {name: scaling.missed for name, scaling in scalings.items() if scaling.missed}
    notes = tuple(note for scaling in scalings.values() for note in scaling.notes())
    report = inspect_network(network, notes=notes)
    return Refinement(rates(chosen, spikes), missed, needed, report)


def _targets(rate: float | Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """The target of each population to be scaled, in Hz."""
    targets = dict(rate) if isinstance(rate, Mapping) else dict.fromkeys(names, rate)
    for name, value in targets.items():
        if name not in names:
            raise ValueError(f"no spiking population {name!r} in the model: it has {', '.join(names)}")
        if not 0 < number(value) < math.inf:
            raise ValueError(f"a target rate must be a positive number of Hz, got {value!r} for {name}")
    return targets


@dataclass(frozen=True)
class _Goal:
    """The state that a population should reach: see `scale_synapses`."""

    rate: float
    tolerance: float
    share: float
    per_neuron: bool


def _scale(working: Sequence["_Scaling"], within: Sequence[Population], replay: Replay, rounds: int) -> int:
    """Bring populations of one module, whose populations are `within`, to their goals; returns the number of rounds."""
    if not any(bool(current.any()) for p in within for current in replay.currents(p) if current is not None):
        for scaling in working:
            scaling.missed = "no current reaches it"
        return 0
    best = math.inf
    kept: list[tuple[_Scaling, _Rates, tuple[Array, Array]]] = []
    for done in range(rounds + 1):
        spikes = replay.simulate(within)
        seen = [scaling.look(spikes[scaling.population.name]) for scaling in working]
        distance = max(now.distance for now in seen)
        if distance < best:
            best = distance
            kept = [(scaling, now, scaling.state()) for scaling, now in zip(working, seen, strict=True)]
        if distance == 0 or done == rounds or not any(scaling.scaled for scaling in working):
            break
        for scaling, now in zip(working, seen, strict=True):
            scaling.adjust(now, patient=2 * done < rounds)
    for scaling, now, state in kept:
        scaling.settle(now, state)
    return done


@dataclass(frozen=True, eq=False)
class _Rates:
    """The rates of a population in Hz, against its goal; a unit is the neurons that share weights.

    Attributes:
        goal: the goal.
        mean: rate of the population.
        units: rate of each unit.
        quantum: the rate of a unit with one spike in the whole batch.
    """

    goal: _Goal
    mean: float
    units: Array
    quantum: float

    @property
    def errors(self) -> Array:
        """Logarithm of the factor by which the rate of each unit is too low; 0 within tolerance."""
        allowed = max(self.goal.tolerance * self.goal.rate, self.quantum / 2)
        outside = np.abs(self.units - self.goal.rate) > allowed
        return np.where(outside, np.log(self.goal.rate / np.maximum(self.units, self.quantum / 2)), 0.0)

    @property
    def mean_error(self) -> float:
        """The same for the population's mean."""
        if abs(self.mean - self.goal.rate) <= self.goal.tolerance * self.goal.rate:
            return 0.0
        return math.log(self.goal.rate / max(self.mean, self.quantum / 2))

    @property
    def within(self) -> float:
        """Share of the units within tolerance."""
        return float((self.errors == 0).mean())

    @property
    def distance(self) -> float:
        """Distance from the goal; 0 if it is reached."""
        lacking = max(0.0, self.goal.share - self.within) if self.goal.per_neuron else 0.0
        return lacking + abs(self.mean_error)


class _Factors:
    """Logarithms of factors, moved to where errors vanish that grow with them at an unknown rate.

    Resilient propagation (Riedmiller & Braun 1993), but with steps that get shorter with the error.
    """

    def __init__(self, n: int, step: float, toward: float) -> None:
        self.position = np.zeros(n)
        self._bound, self._toward = step, toward
        self._step = np.full(n, step)
        self._last = np.zeros(n)

    def move(self, error: Array) -> None:
        """Move in the direction of the error: by at most the bound, or half the last move if it changed sign."""
        turn = error * self._last
        self._step = np.where(turn < 0, np.abs(self._last) / 2, self._step)
        self._step = np.where(turn > 0, np.minimum(_GROWTH * self._step, self._bound), self._step)
        move = np.sign(error) * np.minimum(self._step, self._toward * np.abs(error))
        self.position = self.position + move
        self._last = np.where(move != 0, move, self._last)


@dataclass(frozen=True, eq=False)
class _ScaledWeight:
    """A parameter to scale, its pathway, its initial value, and 1 where it excites, 0 elsewhere.

    Its axis `rows` counts output units.
    """

    pathway: Pathway
    parameter: Tensor
    base: Tensor
    excites: Tensor
    rows: int = 0


class _Scaling:
    """One population on the way to its goal.

    Attributes:
        population: the population.
        scaled: the parameters that are multiplied.
        missed: what it misses at the end, in words.
    """

    def __init__(self, population: Population, goal: _Goal, shape: Sequence[int], step: float) -> None:
        self.population, self.goal = population, goal
        self.missed = ""
        self.scaled = _scaled(population)
        self._unit_of = _units(self.scaled, shape)
        dale = all(isinstance(s.pathway.family, OneSided) for s in self.scaled)
        self._common = _Factors(1, step, _OWN if dale else _COMMON)
        self._own = _Factors(int(self._unit_of.max()) + 1, step, _OWN)
        self._together = not dale  # in the first stage

    def look(self, spikes: Tensor) -> _Rates:
        """The rates of the population, from its spikes `[T, B, *N]`."""
        seconds = spikes.shape[0] * spikes.shape[1] * self.population.neuron.kernel.dt
        counted = self.population.neuron.counted(spikes)
        neurons = counted.sum((0, 1), dtype=torch.float64).flatten().cpu().numpy() / seconds
        sizes = np.bincount(self._unit_of)
        units = np.bincount(self._unit_of, neurons) / sizes
        return _Rates(self.goal, float(neurons.mean()), units, 1 / (seconds * sizes.max()))

    def adjust(self, seen: _Rates, *, patient: bool) -> None:
        """One round; after the first stage, or unless `patient`, each unit by its own rate."""
        if not self.goal.per_neuron or (self._together and seen.mean_error and patient):
            self._common.move(np.asarray([seen.mean_error]))
        elif self._together and seen.mean < self.goal.rate / 2:
            self._together = False
            self._common.position = np.zeros(1)  # growth alone does not cause enough spikes
        else:
            self._together = False
            self._own.move(seen.errors)
        self._write()

    def state(self) -> tuple[Array, Array]:
        """Logarithms of the common factor and of the own ones."""
        return self._common.position, self._own.position

    def settle(self, seen: _Rates, state: tuple[Array, Array]) -> None:
        """Return to a state and its rates; units that growth could not wake go back to their weights."""
        self._common.position = state[0]
        self._own.position = np.where(seen.units > 0, state[1], 0.0)
        self._write()
        if seen.distance:
            unit = "per step" if self.population.neuron.in_steps else "Hz"
            each = f", {seen.within:.0%} of its neurons within {self.goal.tolerance:.0%}"
            self.missed = f"{seen.mean:.3g} for {self.goal.rate:g} {unit}{each if self.goal.per_neuron else ''}"

    def notes(self) -> Iterator[str]:
        """Notes on what was skipped, and why."""
        for q in self.population.pathways:
            if q.skipped_because is not None:
                yield f"{q.name} was skipped: {q.skipped_because}"
        if not self.scaled:
            yield f"{self.population.name} was skipped: no weight that excites it may be scaled"

    def _write(self) -> None:
        for s in self.scaled:
            exponent = float(self._common.position[0]) + by_row(self._own.position, s.parameter, s.rows) * s.excites
            write(s.parameter, s.base * exponent.exp())


def _scaled(population: Population) -> list[_ScaledWeight]:
    """The weights to scale, or the gains of the normalisation layer behind; none if none excites.

    Inhibitory pathways under Dale's law are not among them.
    """
    found: dict[Tensor, _ScaledWeight] = {}
    for q in population.pathways:
        gains = affine(q, "weight")
        if q.skipped_because is not None or excites(q, population) < 0:
            continue
        if not gains:
            upward = (q.weight.detach() if q.signs is None else q.signs) * float(
                population.neuron.kernels[q.port].eps_bar.mean()
            ) > 0
            found[q.weight] = _ScaledWeight(q, q.weight, q.weight.detach().clone(), upward.to(q.weight), q.rows)
        for gain in (gain for gain in gains if gain.requires_grad):
            found[gain] = _ScaledWeight(q, gain, gain.detach().clone(), torch.ones_like(gain))
    return list(found.values()) if any(bool(s.excites.any()) for s in found.values()) else []


def _units(scaled: Sequence[_ScaledWeight], shape: Sequence[int]) -> NDArray[np.int64]:
    """For each neuron `[*N]`, flattened, the row of the weights that feeds it; one for all if that is not clear."""
    neurons = math.prod(shape)
    if scaled:
        q, rows = scaled[0].pathway, scaled[0].parameter.shape[scaled[0].rows]
        clear = not ({"Permute", "Transpose"} & set(q.via) or isinstance(q.synapse, nn.modules.conv._ConvTransposeNd))
        if neurons == rows or (clear and neurons % rows == 0):
            last = isinstance(q.synapse, nn.Linear)  # its rows are the last axis, those of a convolution the first
            return np.arange(neurons) % rows if last else np.arange(neurons) // (neurons // rows)
    return np.zeros(neurons, dtype=np.int64)
