"""The facts of a neuron that is known by its step: what it does before its first spike, linear at rest."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluctua.network.facts import Neuron, UnsupportedNeuronError
from fluctua.theory.state_space import StateSpaceKernel
from fluctua.timeloop.contract import Dynamics
from fluctua.timeloop.expressions import Expression, Value, walk
from fluctua.timeloop.tracing import Traced, traced, untraceable

Array = NDArray[np.float64]

_SETTLING = 4096  # steps within which a neuron without input comes to rest
_STILL = 1e-12
_CURVED = 1e-6  # change of a derivative half-way to threshold that is worth a note


def linear_neuron(dynamics: Dynamics, rest: Sequence[float], dt: float, trial: int, threshold: Tensor | None) -> Neuron:
    """The facts of a neuron, from its traced step.

    Args:
        dynamics: the step, and its constants.
        rest: state before the first step.
        dt: time step in seconds.
        trial: length of a trial in steps, over which the moments of a neuron that never settles are taken.
        threshold: the constant that the potential is compared to, or None for a readout.

    Raises:
        UnsupportedNeuronError: a step that cannot be traced, does not depend on its input, or is unstable.
    """
    sizes = dynamics.step, dynamics.inputs, dynamics.states, len(dynamics.constants)
    reason = untraceable(*sizes)
    if reason is not None:
        raise UnsupportedNeuronError(f"the kernel of the neuron cannot be found, for {reason}")
    t = traced(*sizes)
    numbers = [c.detach().double().cpu() for c in dynamics.constants]
    constants: list[Tensor] = list(torch.broadcast_tensors(*numbers))  # type: ignore[no-untyped-call]
    run = _evaluator(t, constants)
    state = _at_rest(run, [torch.full_like(constants[0], value) for value in rest], dynamics.inputs)
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
    level = 0.0 if threshold is None else float(threshold.double().mean() + distance.mean())
    return Neuron.spiking(tuple(kernels), threshold, level, note="; ".join(notes) or None)


def _evaluator(t: Traced, constants: Sequence[Tensor]) -> Callable[..., tuple[list[Tensor], Tensor]]:
    """A function of state and inputs: the state after a step without spikes, and the distance from threshold."""

    def run(state: Sequence[Tensor], inputs: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        leaves = {"state": state, "input": inputs, "constant": constants}
        like, found = constants[0], dict[Expression, Any]()

        def value(e: Value) -> Any:
            return found[e] if isinstance(e, Expression) else torch.full_like(like, e)

        observed = t.output if t.distance is None else t.distance
        for e in walk([*t.state, observed]):
            if e is t.fired:
                found[e] = torch.zeros_like(like, dtype=torch.bool)
            elif e.op == "leaf":
                found[e] = leaves[e.args[0]][e.args[1]]
            else:
                found[e] = _OPERATIONS[e.op](*(value(a) for a in e.args))
        return [value(e) for e in t.state], value(observed)

    return run


_OPERATIONS: dict[str, Callable[..., Tensor]] = {
    **{name: getattr(torch, name) for name in ("add", "sub", "mul", "div", "neg", "abs", "exp", "log", "sqrt")},
    **{name: getattr(torch, name) for name in ("sigmoid", "tanh", "erf", "sin", "cos", "round", "floor", "trunc")},
    **{name: getattr(torch, name) for name in ("gt", "ge", "lt", "le", "eq", "ne")},
    "and": torch.logical_and,
    "or": torch.logical_or,
    "not": torch.logical_not,
    "select": torch.where,
    "max": torch.maximum,
    "min": torch.minimum,
    "float": lambda mask: mask.double(),
}


def _at_rest(run: Callable[..., tuple[list[Tensor], Tensor]], state: list[Tensor], inputs: int) -> list[Tensor]:
    """Where the neuron comes to rest without input; where it has come to after many steps if it never does."""
    silence = [torch.zeros_like(state[0])] * inputs
    for _ in range(_SETTLING):
        after, _ = run(state, silence)
        moved = max(float((new - old).abs().max()) for new, old in zip(after, state, strict=True))
        state = after
        if moved <= _STILL:
            break
    return state


def _linearised(
    run: Callable[..., tuple[list[Tensor], Tensor]], state: Sequence[Tensor], inputs: int
) -> tuple[Array, Array, Array, Array, Tensor]:
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
