"""The neurons of a population as a step: its constants, its state of rest, and the sharpness of its surrogate."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fluctua.network.adapters.framework import Sharpness
from fluctua.network.adapters.registry import framework_of
from fluctua.network.facts import Population
from fluctua.network.stepping import followed
from fluctua.timeloop.contract import Dynamics


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
    """The step of neurons of the shape `[*N]`, and each part of their state of rest, which broadcasts to it."""
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
