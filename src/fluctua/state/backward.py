"""How the gradient passes a population: the surrogate derivative of its neurons in a trial, and its weights."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fluctua.network.cells import cell_of, sharpness_of, step_of_cell
from fluctua.network.errors import UnsupportedNeuronError
from fluctua.network.facts import INPUT, Pathway, Population
from fluctua.state.drive import Drive
from fluctua.state.measure import Measurements
from fluctua.theory.psp import Array
from fluctua.theory.surrogates import gradient_gain
from fluctua.timeloop.contract import Dynamics, step_of
from fluctua.timeloop.evaluation import Evaluation
from fluctua.timeloop.expressions import Value
from fluctua.timeloop.tracing import trace


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
        leaves = self._leaves(dynamics)
        for kind, k, gradient in (
            *(("state", k, g) for k, g in enumerate(t.by_state)),
            *(("input", k, g) for k, g in enumerate(t.by_input)),
        ):
            (found,) = Evaluation([gradient])(leaves)
            if bool(found.any()):
                return (found / _moved(t.distance, leaves, (kind, k))).expand_as(self.states[0])
        return torch.zeros_like(self.states[0])

    def share(self) -> float:
        """The participation share of the neurons and steps, with the present surrogate."""
        return participation(self.slopes())

    def _leaves(self, dynamics: Dynamics) -> dict[tuple[str, int], Tensor]:
        """Results of the adjoint of all steps at once, for a gradient of 1 with respect to each spike."""
        one = torch.ones((), dtype=torch.float64)
        kinds = {
            "state": self.states,
            "input": self.drive.currents,
            "constant": tuple(map(self.drive.of_units, dynamics.constants)),
            "gradient": (one, *[0 * one] * dynamics.states),
        }
        return {(kind, k): value for kind, values in kinds.items() for k, value in enumerate(values)}


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


def passages(populations: Iterable[Population], measured: Mapping[str, Measurements]) -> dict[str, Passage]:
    """The passage of each spiking population whose drive is known and whose step can be followed, by name."""
    found = {}
    for p in populations:
        drive = measured[p.name].drive
        if p.neuron.threshold is not None and drive is not None:
            try:
                found[p.name] = passage_of(p, Course.of(p, drive))
            except (ValueError, UnsupportedNeuronError):
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
