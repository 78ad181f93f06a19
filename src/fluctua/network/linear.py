"""The facts of a neuron that is known by its step: what it does before its first spike, linear at rest."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fluctua.network.adapters.framework import Stepping, Timing
from fluctua.network.errors import UnsupportedNeuronError
from fluctua.network.facts import Neuron
from fluctua.network.stepping import followed
from fluctua.theory.state_space import StateSpaceKernel
from fluctua.timeloop.contract import Dynamics
from fluctua.timeloop.evaluation import evaluated
from fluctua.timeloop.expressions import Expression, Value, walk
from fluctua.timeloop.tracing import Traced, trace

Array = NDArray[np.float64]

Run = Callable[[Sequence[Tensor], Sequence[Tensor]], tuple[list[Tensor], Tensor]]
"""State and inputs -> the state after a step, and what is observed."""

_DOUBLINGS, _HALVINGS = 60, 100
_SETTLING = 4096  # steps within which a neuron without input comes to rest
_STILL = 1e-12
_CURVED = 1e-6  # change of a derivative half-way to threshold that is worth a note


def linear_module(module: nn.Module, stepping: Stepping, timing: Timing) -> Neuron:
    """The facts of a neuron module, from one step of it. The module stays as it is.

    Raises:
        UnsupportedNeuronError: see `linear_neuron`.
    """
    try:
        if stepping.hearing(module) is not None:
            raise ValueError("it hears its own spikes")
        step = followed(module, stepping)
        rest = [float(value) for value in stepping.rest(module, torch.zeros(1, 1))]
        neuron = linear_neuron(step.dynamics(), rest, timing.unit, timing.trial, None)
    except ValueError as error:
        raise UnsupportedNeuronError(
            f"{type(module).__name__} has dynamics of its own, and {error}; or say what it is like by "
            f"neurons={{{type(module).__name__}: fluctua.ProbedNeuron(...)}}"
        ) from error
    note = "its facts are those of its own step"
    if neuron.threshold is None:
        note = "a readout: its own step gives no spikes"
    return replace(neuron, note=f"{note}; {neuron.note}" if neuron.note else note)


def linear_neuron(dynamics: Dynamics, rest: Sequence[float], dt: float, trial: int, threshold: Tensor | None) -> Neuron:
    """The facts of a neuron, from its traced step.

    Args:
        dynamics: the step, and its constants.
        rest: state before the first step.
        dt: time step in seconds.
        trial: length of a trial in steps, over which the moments of a neuron that never settles are taken.
        threshold: the constant that the potential is compared to. Without it potential and threshold of a neuron that
            spikes are counted from rest.

    Raises:
        UnsupportedNeuronError: a step that cannot be traced, does not depend on its input, or is unstable.
    """
    sizes = dynamics.step, dynamics.inputs, dynamics.states, len(dynamics.constants)
    try:
        t = trace(*sizes)
    except ValueError as error:
        raise UnsupportedNeuronError(f"the kernel of the neuron cannot be found, for {error}") from error
    numbers = [c.detach().double().cpu() for c in dynamics.constants]
    constants: list[Tensor] = list(torch.broadcast_tensors(*numbers))  # type: ignore[no-untyped-call]
    distance_of = _distance(t)
    run = _evaluator(t, t.output if distance_of is None else distance_of, constants)
    state = _at_rest(run, [torch.full_like(constants[0], value) for value in rest], dynamics.inputs)
    if t.distance is None and distance_of is not None:
        run = _from_first_spike(_evaluator(t, t.output, constants), run, state, dynamics.inputs)
    a, b, c, d, distance = _linearised(run, state, dynamics.inputs)
    if not b.any() and not d.any():
        raise UnsupportedNeuronError("the potential of the neuron does not depend on its input: check its step")
    growth = np.abs(np.linalg.eigvals(a)).max(-1)
    if (growth > 1 + _CURVED).any():
        raise UnsupportedNeuronError(
            f"{int((growth > 1 + _CURVED).sum())} of {growth.size} neurons are unstable: without input and spikes "
            f"their state grows by up to {growth.max():.6g} a step; check their constants"
        )
    endless = bool((growth >= 1).any())
    kernels = [
        StateSpaceKernel(dt=dt, transition=a, jump=b[..., p], readout=c, direct=d[..., p])
        for p in range(dynamics.inputs)
    ]
    if endless:
        kernels = [kernel.over_trial(trial) for kernel in kernels]
    notes = ["it never settles, so its moments are averages over the trial"] if endless else []
    *elsewhere, _ = _linearised(run, [part + 0.5 * distance.abs() for part in state], dynamics.inputs)
    if not all(np.allclose(x, y, atol=_CURVED) for x, y in zip((a, b, c, d), elsewhere, strict=True)):
        notes.append("it is linear only near rest")
    theta, level = None, 0.0
    if distance_of is not None:
        theta = -distance if threshold is None else threshold.double()
        level = float(theta.mean() + distance.mean())
    return Neuron.spiking(tuple(kernels), theta, level, note="; ".join(notes) or None)


def _distance(t: Traced) -> Value | None:
    """How far the potential is above the threshold, or of a graded spike something that differs from it by a number."""
    if t.distance is not None or not isinstance(t.output, Expression):
        return t.distance
    masks = [e for e in walk([t.output]) if e.op in ("gt", "ge") and "state" in e.leaves]
    return t.graph("sub", *masks[0].args) if masks else None


def _from_first_spike(emits: Run, compares: Run, state: list[Tensor], inputs: int) -> Run:
    """What is compared, from where on it is that a graded neuron emits something: found by bisection of its input."""
    high, low = torch.ones_like(state[0]), torch.zeros_like(state[0])
    for _ in range(_DOUBLINGS):
        silent = emits(state, [high] * inputs)[1] == 0
        if not silent.any():
            break
        high = torch.where(silent, 2 * high, high)
    else:
        return compares  # nothing is emitted in the step of an input
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        silent = emits(state, [middle] * inputs)[1] == 0
        low, high = torch.where(silent, middle, low), torch.where(silent, high, middle)
    _, level = compares(state, [high] * inputs)

    def run(state: Sequence[Tensor], inputs: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        after, value = compares(state, inputs)
        return after, value - level

    return run


def _evaluator(t: Traced, observed: Value, constants: Sequence[Tensor]) -> Run:
    """A function of state and inputs: the state after a step, and what is observed, without surrogate gradients."""

    def run(state: Sequence[Tensor], inputs: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        leaves = {"state": state, "input": inputs, "constant": constants}
        found = evaluated(
            [*t.state, observed], {(kind, k): x for kind, given in leaves.items() for k, x in enumerate(given)}
        )
        *after, seen = (value.expand_as(state[0]) for value in found)
        return after, seen

    return run


def _at_rest(run: Run, state: list[Tensor], inputs: int) -> list[Tensor]:
    """Where the neuron comes to rest without input; where it has come to after many steps if it never does."""
    silence = [torch.zeros_like(state[0])] * inputs
    for _ in range(_SETTLING):
        after, _ = run(state, silence)
        moved = max(float((new - old).abs().max()) for new, old in zip(after, state, strict=True))
        state = after
        if moved <= _STILL:
            break
    return state


def _linearised(run: Run, state: Sequence[Tensor], inputs: int) -> tuple[Array, Array, Array, Array, Tensor]:
    """Derivatives of the state after a step wrt state and inputs, those of the potential, and where it is."""
    given = [s.detach().clone().requires_grad_() for s in (*state, *[torch.zeros_like(state[0])] * inputs)]
    with torch.enable_grad():
        after, distance = run(given[: len(state)], given[len(state) :])
        rows = [_gradients(end, given) for end in (*after, distance)]
    numbers: Array = torch.stack(rows, -2).numpy()
    n = len(state)
    return numbers[..., :n, :n], numbers[..., :n, n:], numbers[..., n, :n], numbers[..., n, n:], distance.detach()


def _gradients(end: Tensor, given: Sequence[Tensor]) -> Tensor:
    """Of one number of each neuron wrt all of what it is given, `[*N, given]`."""
    found: Sequence[Tensor | None] = [None] * len(given)
    if end.requires_grad:
        found = torch.autograd.grad(end.sum(), given, allow_unused=True, retain_graph=True)
    return torch.stack([torch.zeros_like(given[0]) if g is None else g for g in found], -1)
