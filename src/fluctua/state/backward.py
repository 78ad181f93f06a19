"""How the gradient passes a population: the surrogate derivative of its neurons in a trial, and its weights."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from fluctua.network.adapters.framework import Sharpness
from fluctua.network.adapters.registry import framework_of
from fluctua.network.facts import INPUT, Pathway, Population, population_currents
from fluctua.network.stepping import followed
from fluctua.theory.psp import Array
from fluctua.theory.surrogates import gradient_gain
from fluctua.timeloop.contract import Dynamics, step_of
from fluctua.timeloop.evaluation import Evaluation, by_leaf
from fluctua.timeloop.expressions import Value
from fluctua.timeloop.tracing import trace

if TYPE_CHECKING:
    from fluctua.state.measure import Measurements


def cell_of(p: Population) -> nn.Module:
    """The module of a population's neurons: its own, or one of those that a circuit holds."""
    if p.emitter is p.module:
        return p.module
    circuit: Any = p.module
    cell: nn.Module = next(circuit.cells[name] for name, tap in circuit.spikes.items() if tap is p.emitter)
    return cell


def sharpness_of(p: Population) -> Sharpness | None:
    """The parameter that sets the sharpness of a population's surrogate; None if there is none."""
    cell = cell_of(p)
    framework = framework_of(cell)
    return None if framework is None else framework.sharpness(cell)


def step_of_cell(cell: Any, neurons: Sequence[int]) -> tuple[Dynamics, tuple[Tensor, ...]]:
    """The step of neurons of the shape `[*N]`, and each part of their state of rest, which broadcasts to it.

    Raises:
        ValueError: the step is not known, or is no loop over neurons.
    """
    framework = framework_of(cell)
    if framework is None or (framework.stepping is None and framework.package != "fluctua"):
        raise ValueError(f"the step of {type(cell).__name__} is not known")
    if framework.stepping is not None:
        dynamics = followed(cell, framework.stepping).dynamics()
        rest = framework.stepping.rest(cell, torch.zeros(1, *neurons))[: dynamics.states]  # no recurrent spikes
        parts = [part[0] if isinstance(part, Tensor) and part.ndim > len(neurons) else part for part in rest]
        return dynamics, tuple(torch.as_tensor(part) for part in parts)
    state = cell.initial_state(torch.zeros(1, 1, *neurons))
    return cell.dynamics(), tuple(part[0] for part in cell.parts_of(state))


UNITS = 2048  # neurons, each in one sample, that represent all


@dataclass(frozen=True, eq=False)
class Drive:
    """Input currents of some neurons of a population in a trial.

    Attributes:
        currents: `[T, K]` for each input: K neurons, each in one sample.
        units: `[K]`, the index of each neuron.
        neurons: the shape `[*N]` of the whole population.
    """

    currents: tuple[Tensor, ...]
    units: Tensor
    neurons: tuple[int, ...]

    @staticmethod
    def of(p: Population, arguments: tuple[Tensor, ...], spikes: Mapping[str, Tensor]) -> "Drive":
        """From the arguments of its module, and the spikes `[T, B, *N]` of the sources of recurrent pathways."""
        currents = population_currents(p, arguments, spikes)
        first = next(c for c in currents if c is not None)
        count = first[0].numel()
        chosen = torch.arange(count)
        if count > UNITS:
            chosen = torch.randint(count, (UNITS,), generator=torch.Generator().manual_seed(0))
        picked = [None if c is None else c.detach().flatten(1)[:, chosen.to(c.device)].double().cpu() for c in currents]
        parts = tuple(torch.zeros(len(first), len(chosen)).double() if c is None else c for c in picked)
        return Drive(parts, chosen % first[0, 0].numel(), tuple(first.shape[2:]))

    def of_units(self, value: Tensor) -> Tensor:
        """Values for the K neurons, from a constant that broadcasts to `[*N]`."""
        try:
            return value.detach().cpu().double().expand(self.neurons).reshape(-1)[self.units]
        except RuntimeError as error:
            raise ValueError(
                f"a constant of the shape {[*value.shape]} does not fit neurons of the shape {[*self.neurons]}"
            ) from error


@dataclass(frozen=True, eq=False)
class Course:
    """The course of some neurons through a trial, resets included.

    Attributes:
        cell: the module of the neurons.
        drive: their input currents.
        states: `[T, K]`, each part of their state before every step.
    """

    cell: nn.Module
    drive: Drive
    states: tuple[Tensor, ...]

    @staticmethod
    def of(p: Population, drive: Drive) -> "Course":
        """Run the neurons of a population step by step.

        Raises:
            ValueError: their step is not known.
        """
        cell = cell_of(p)
        dynamics, rest = step_of_cell(cell, drive.neurons)
        constants = tuple(map(drive.of_units, dynamics.constants))
        if dynamics.inputs != len(drive.currents):
            raise ValueError(f"{type(cell).__name__} takes {dynamics.inputs} currents, not {len(drive.currents)}")
        step, state = step_of(dynamics.step), tuple(map(drive.of_units, rest))
        before = []
        with torch.no_grad():
            for x in zip(*drive.currents, strict=True):
                before.append(state)
                _, state = step(x, state, constants)
        return Course(cell, drive, tuple(torch.stack(part) for part in zip(*before, strict=True)))

    def slopes(self) -> Tensor:
        """The surrogate derivative `[T, K]` with respect to the potential, with the present surrogate."""
        dynamics, _ = step_of_cell(self.cell, self.drive.neurons)
        t = trace(dynamics.step, dynamics.inputs, dynamics.states, len(dynamics.constants))
        constants, one = tuple(map(self.drive.of_units, dynamics.constants)), torch.ones((), dtype=torch.float64)
        by_spike = one, *[0 * one] * dynamics.states  # all steps at once, for a gradient of 1 of each spike
        leaves = by_leaf(state=self.states, input=self.drive.currents, constant=constants, gradient=by_spike)
        for leaf, gradient in by_leaf(state=t.by_state, input=t.by_input).items():
            (found,) = Evaluation([gradient])(leaves)
            if bool(found.any()):
                return (found / _moved(t.distance, leaves, leaf)).expand_as(self.states[0])
        return torch.zeros_like(self.states[0])

    def share(self) -> float:
        """The participation share of the neurons and steps, with the present surrogate."""
        return participation(self.slopes())


def _moved(distance: Value | None, leaves: Mapping[tuple[str, int], Tensor], by: tuple[str, int]) -> Tensor:
    """Derivative of the distance from threshold with respect to a part of the state or an input, `[K]`."""
    first = {leaf: value[0] if value.ndim == 2 else value for leaf, value in leaves.items()}
    with torch.enable_grad():
        first[by] = first[by].clone().requires_grad_()
        found = torch.zeros(()) if distance is None else Evaluation([distance])(first)[0]
        moved = torch.autograd.grad(found.sum(), first[by])[0] if found.requires_grad else torch.ones_like(first[by])
    return torch.where(moved == 0, 1.0, moved)


def participation(slopes: Tensor) -> float:
    """`<phi'>^2 / <phi'^2>` over neurons and steps."""
    square = float(slopes.square().mean())
    return float(slopes.mean()) ** 2 / square if square > 0 else 0.0


@dataclass(frozen=True)
class Passage:
    """How the gradient passes a population.

    Attributes:
        participation: share of neurons and steps that take part.
        sharpness: of its surrogate; None if that has no such parameter.
        gradient_gain: growth of the gradient from its output to that of the populations before it; None without these.
    """

    participation: float
    sharpness: float | None
    gradient_gain: float | None


def passage_of(p: Population, course: Course) -> Passage:
    """How the gradient passes a population as it is now."""
    slopes, knob = course.slopes(), sharpness_of(p)
    correlation = _correlation(slopes)
    gains = [
        gradient_gain(power, _response(p, q, len(correlation)), correlation)
        for q in p.pathways
        if not (q.recurrent or q.norms or INPUT in q.sources) and (power := _power(q)) > 0
    ]
    return Passage(participation(slopes), None if knob is None else knob.value, max(gains, default=None))


def passages(populations: Iterable[Population], measured: "Mapping[str, Measurements]") -> dict[str, Passage]:
    """The passage of each spiking population whose drive is known and whose step can be followed, by name."""
    found = {}
    for p in populations:
        drive = measured[p.name].drive
        if p.neuron.threshold is not None and drive is not None:
            try:
                found[p.name] = passage_of(p, Course.of(p, drive))
            except ValueError:
                continue  # such as neurons with recurrence inside one module of a framework
    return found


def _correlation(slopes: Tensor) -> Array:
    """`E[phi'(t) phi'(t + k)]` for all lags k of the trial."""
    steps = len(slopes)
    spectrum = torch.fft.rfft(slopes, 2 * steps, dim=0).abs().square().mean(1)
    total: Array = torch.fft.irfft(spectrum, 2 * steps)[:steps].numpy()
    return np.asarray(total / np.arange(steps, 0, -1))


def _response(p: Population, q: Pathway, steps: int) -> Array:
    return np.asarray(p.neuron.kernels[q.port].response(steps).reshape(steps, -1).mean(1))


def _power(q: Pathway) -> float:
    """`n_out E[w^2]`: the sum of squares of the weights that leave a unit, averaged over units."""
    weight, synapse = q.weight.detach().double(), q.synapse
    units = weight.shape[1 - q.rows] * getattr(synapse, "groups", 1)
    stride = getattr(synapse, "stride", (1,)) if isinstance(synapse, nn.modules.conv._ConvNd) else (1,)
    spread = float(np.prod(stride))
    if isinstance(synapse, nn.modules.conv._ConvTransposeNd):
        units, spread = len(weight), 1.0
    return float(weight.square().sum()) / units / spread
