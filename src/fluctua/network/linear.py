"""The facts of a neuron from its step: its behaviour before the first spike, linearised at rest."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fluctua.network.adapters.framework import Stepping, Timing
from fluctua.network.errors import UnsupportedNeuronError
from fluctua.network.facts import Neuron
from fluctua.network.preserve import preserved
from fluctua.network.stepping import followed
from fluctua.theory.psp import Array
from fluctua.theory.state_space import StateSpaceKernel
from fluctua.timeloop.contract import Dynamics
from fluctua.timeloop.evaluation import Evaluation, by_leaf
from fluctua.timeloop.expressions import Expression, Value, walk
from fluctua.timeloop.tracing import Traced, trace

Run = Callable[[Sequence[Tensor], Sequence[Tensor]], tuple[list[Tensor], Tensor]]
"""State and inputs -> the state after a step, and the observed quantity."""

_DOUBLINGS, _HALVINGS = 60, 100
_SETTLING = 4096  # steps within which a neuron without input comes to rest
_STILL = 1e-12
_CURVED = 1e-6  # change of a derivative that is worth a note, such as
_AWAY = (0.5, -0.5, -2.0)  # distances to threshold above rest
_ENDLESS = 1e-9  # a decay this close to 1 never settles within a trial
_WHILE, _ANSWERS, _SKEWED = 64, 3, 0.9  # steps after an impulse; responses; asymmetry relative to the response
_LIFTS = 12
_ROUNDED = ("round", "floor", "trunc")
_DIGITS = 9  # of a computed threshold


def linear_module(module: nn.Module, stepping: Stepping, timing: Timing) -> Neuron:
    """The facts of a neuron module, from one step. The module stays as it is.

    Raises:
        UnsupportedNeuronError: see `linear_neuron`.
    """
    try:
        with preserved(module):
            left_out = stepping.simplify(module)
            try:
                step = followed(module, stepping)
            except ValueError:
                step = followed(module, stepping, as_numbers=True)
            start = [float(value) for value in stepping.rest(module, torch.zeros(1, 1))[: step.states]]
            neuron = linear_neuron(step.dynamics(), start, timing)
        return replace(neuron, note="; ".join(filter(None, (left_out, neuron.note))) or None)
    except ValueError as error:
        name = type(module).__name__
        raise UnsupportedNeuronError(
            f"{name} cannot be read from its own step: {error}; or describe it with "
            f"neurons={{{name}: fluctua.network.ProbedNeuron(...)}}"
        ) from error


def linear_neuron(
    dynamics: Dynamics, start: Sequence[float], timing: Timing, threshold: Tensor | None = None
) -> Neuron:
    """The facts of a neuron, from its traced step.

    The potential is the first part of the state if what is compared with zero is a multiple of it minus a constant;
    otherwise it is measured from rest, in units of what is compared.

    Args:
        dynamics: the step, and its constants.
        start: state before the first step.
        timing: time step, and length of a trial, over which the moments of a neuron that never settles are averaged.
        threshold: the constant that the potential is compared to, if it is known.

    Raises:
        UnsupportedNeuronError: the step cannot be traced, does not depend on its input, rectifies it, fires without
            any, or is unstable.
    """
    try:
        t = trace(dynamics.step, dynamics.inputs, dynamics.states, len(dynamics.constants))
    except ValueError as error:
        raise UnsupportedNeuronError(f"the kernel of the neuron cannot be found: {error}") from error
    numbers = [c.detach().double().cpu() for c in dynamics.constants]
    constants: list[Tensor] = list(torch.broadcast_tensors(*numbers))  # type: ignore[no-untyped-call]
    emits, begin = _evaluator(t, t.output, constants), [torch.full_like(constants[0], value) for value in start]
    reset_at = None if t.distance is not None else _reset_at(t, emits, begin)
    compared = _compared(t, emits, begin) if reset_at is None else reset_at
    run = emits if compared is None else _evaluator(t, compared, constants)
    state, drift = _at_rest(run, begin, dynamics.inputs, timing)
    if t.distance is None and compared is not None and reset_at is None:
        run = _from_first_spike(emits, run, state, dynamics.inputs)
    output = (emits if reset_at is None else run)(state, _silence(state, dynamics.inputs))[1]
    if compared is not None and bool((output > 0 if reset_at is not None else output != 0).any()):
        raise UnsupportedNeuronError(
            "it fires without input: give it constants with which it rests below its threshold"
        )
    system, at_rest = _linearised(run, state, dynamics.inputs)
    scale = None if compared is None else _scale(system)
    unit = torch.ones_like(at_rest) if scale is None else scale
    kernels = _kernels(system, unit, dynamics.inputs, timing.unit)
    growth = _growth(kernels)
    _check_mirrored(run, state, [at_rest.abs() / 2 / _peak(kernel, unit) for kernel in kernels])
    notes = []
    if (growth > 1 - _ENDLESS).any():
        kernels = [kernel.over_trial(timing.trial) for kernel in kernels]
        notes.append("it never settles, so its sigma_U grows along the trial and meets the target on average over it")
    away = [_linearised(run, [part + k * at_rest.abs() for part in state], dynamics.inputs)[0] for k in _AWAY]
    if not all(_alike(kernels, _kernels(other, unit, dynamics.inputs, timing.unit)) for other in away):
        notes.append("it is linear only near rest; mu_U and sigma_U are those of a linear neuron")
    if compared is None:
        return Neuron(tuple(kernels), None, float((at_rest + drift).mean()), note="; ".join(notes) or None)
    level = torch.zeros_like(at_rest) if scale is None else state[0]
    theta = (level - at_rest / unit).round(decimals=_DIGITS) if threshold is None else threshold.double()
    rest = (level if threshold is None else theta + at_rest / unit) + drift / unit
    resets, size = (True, 1.0) if scale is None else _spikes(run, emits, state, system, dynamics.inputs)
    if size is None:
        notes.append("it emits numbers of any size, so its rate and silence in the report are those of a mean output")
        size = 1.0
    note = "; ".join(notes) or None
    return Neuron.spiking(tuple(kernels), theta, float(rest.mean()), note=note, resets=resets, size=size)


def _alike(kernels: Sequence[StateSpaceKernel], others: Sequence[StateSpaceKernel]) -> bool:
    pairs = zip(kernels, others, strict=True)
    return all(a.matrix.shape == b.matrix.shape and np.allclose(a.matrix, b.matrix, atol=_CURVED) for a, b in pairs)


def _compared(t: Traced, emits: Run, start: Sequence[Tensor]) -> Value | None:
    """The distance of the potential from threshold, for graded spikes up to a constant; None for a readout."""
    if t.distance is not None:
        return t.distance
    found = _last(t, [t.output], "gt", "ge")
    if found is not None:
        return t.graph("sub", *found.args)
    found = _last(t, [t.output], *_ROUNDED)
    if found is None and not _linearised(emits, start, t.inputs)[0][..., 0, :].any():
        found = _last(t, [t.output], "max")  # what does not answer little inputs is no readout
    inside: Value | None = found
    while isinstance(inside, Expression) and inside.op in (*_ROUNDED, "min", "max"):
        inside = next(a for a in inside.args if isinstance(a, Expression))
    return inside


def _reset_at(t: Traced, emits: Run, start: Sequence[Tensor]) -> Value | None:
    """How far the potential is above the threshold that resets it, where it shows in the output all the same."""
    found = _last(t, t.state, "gt", "ge")
    shows = found is not None and bool(_linearised(emits, start, t.inputs)[0][..., 0, :].any())
    return t.graph("sub", *found.args) if found is not None and shows else None


def _last(t: Traced, roots: Sequence[Value], *ops: str) -> Expression | None:
    """The last of such operations that feels the potential."""
    return next((e for e in reversed(walk(roots)) if e.op in ops and _feels(e, t.potential)), None)


def _feels(e: Expression, leaf: Expression) -> bool:
    """Whether small changes of a leaf reach it, which comparisons and rounding block."""
    left = [a for a in e.args if isinstance(a, Expression)]
    while left:
        a = left.pop()
        if a is leaf:
            return True
        if a.op != "leaf" and not a.is_mask and a.op not in _ROUNDED:
            left += [b for b in a.args if isinstance(b, Expression)]
    return False


def _from_first_spike(emits: Run, compares: Run, state: list[Tensor], inputs: int) -> Run:
    """The compared quantity, measured from where a graded neuron starts to emit; found by bisection of its input."""
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
    """A function of state and inputs: the next state, and the observed quantity, without surrogate gradients."""
    evaluation = Evaluation([*t.state, observed])

    def run(state: Sequence[Tensor], inputs: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        found = evaluation(by_leaf(state=state, input=inputs, constant=constants))
        *after, seen = (value.expand_as(state[0]) for value in found)
        return after, seen

    return run


def _silence(state: Sequence[Tensor], inputs: int) -> list[Tensor]:
    return [torch.zeros_like(state[0])] * inputs


def _at_rest(run: Run, state: list[Tensor], inputs: int, timing: Timing) -> tuple[list[Tensor], Tensor]:
    """Where the neuron comes to rest without input, or where it is after many steps.

    Also by how much more is observed on average over the trial, if its length is known.
    """
    silence, steps, total = _silence(state, inputs), timing.steps or 0, torch.zeros_like(state[0])
    left = steps
    for _ in range(max(_SETTLING, steps)):
        after, observed = run(state, silence)
        if left:
            total, left = total + observed, left - 1
        moved = max(float((new - old).abs().max()) for new, old in zip(after, state, strict=True))
        state = after
        if moved <= _STILL:
            break
    observed = run(state, silence)[1]
    return state, ((total - (steps - left) * observed) / max(steps, 1)).nan_to_num(0.0)  # for an infinite threshold


def _peak(kernel: StateSpaceKernel, unit: Tensor) -> Tensor:
    """The largest response to an impulse within `_WHILE` steps, in units of what is compared."""
    return unit * torch.as_tensor(np.abs(kernel.response(_WHILE)).max(0)).clamp_min(_STILL)


def _check_mirrored(run: Run, state: Sequence[Tensor], impulses: Sequence[Tensor]) -> None:
    """Refuse a neuron that responds very differently to negative and positive impulses."""
    silence = _silence(state, len(impulses))
    for p, impulse in enumerate(impulses):
        ends = []
        for sign in (1, 0, -1):
            now, seen = state, list[Tensor]()
            for k in range(_ANSWERS):
                now, observed = run(now, [sign * impulse if k == 0 and j == p else x for j, x in enumerate(silence)])
                seen += [*now, observed]
            ends.append(torch.stack(seen))
        up, down = ends[0] - ends[1], ends[1] - ends[2]
        if bool(((up - down).abs() > _SKEWED * torch.maximum(up.abs(), down.abs()) + _STILL).any()):
            raise UnsupportedNeuronError(
                "it responds differently to negative and positive input: it rectifies its potential, which thus cannot "
                "fluctuate about a mean; lower its floor"
            )


def _linearised(run: Run, state: Sequence[Tensor], inputs: int) -> tuple[Tensor, Tensor]:
    """Derivatives `[*N, 1 + S, S + inputs]` of the observed quantity and the next state, and the observed quantity."""
    given = [s.detach().clone().requires_grad_() for s in (*state, *_silence(state, inputs))]
    with torch.enable_grad():
        after, observed = run(given[: len(state)], given[len(state) :])
        rows = [_gradients(end, given) for end in (observed, *after)]
    return torch.stack(rows, -2), observed.detach()


def _gradients(end: Tensor, given: Sequence[Tensor]) -> Tensor:
    """Gradient of one number per neuron with respect to everything in `given`, `[*N, given]`."""
    found: Sequence[Tensor | None] = [None] * len(given)
    if end.requires_grad:
        found = torch.autograd.grad(end.sum(), given, allow_unused=True, retain_graph=True)
    return torch.stack([torch.zeros_like(given[0]) if g is None else g for g in found], -1)


def _scale(system: Tensor) -> Tensor | None:
    """The compared quantity in units of the first part of the state before or after the step; None if unrelated."""
    compared, after = system[..., 0, :], system[..., 1, :]
    for potential in (after, torch.eye(system.shape[-1], dtype=system.dtype)[0].expand_as(after)):
        scale = (compared * potential).sum(-1) / potential.square().sum(-1)
        if bool((scale > 0).all()) and torch.allclose(scale[..., None] * potential, compared, rtol=1e-9, atol=1e-12):
            return scale
    return None


def _kernels(system: Tensor, unit: Tensor, inputs: int, dt: float) -> list[StateSpaceKernel]:
    """The kernel of each input, from the part of the state that it moves and the potential reads."""
    size, kernels = system.shape[-2] - 1, []
    used = (system != 0).reshape(-1, *system.shape[-2:]).any(0).numpy()
    read = _reached(used[0, :size], used[1:, :size].T)
    for p in range(size, size + inputs):
        keep = np.flatnonzero(read & _reached(used[1:, p], used[1:, :size]))
        numbers = system.numpy()[..., [0, *keep + 1], :][..., [*keep, p]]
        numbers[..., 0, :] /= unit.numpy()[..., None]
        kernels.append(StateSpaceKernel(dt=dt, matrix=numbers))
    return kernels


def _growth(kernels: Sequence[StateSpaceKernel]) -> Array:
    """How fast the states of kernels grow, `[*N]`, 1 where they stay."""
    if not any(kernel.matrix[..., -1].any() for kernel in kernels):
        raise UnsupportedNeuronError("the potential does not depend on the input: check the step")
    transitions = [kernel.parts[2] for kernel in kernels]
    factors = [np.linalg.eigvals(transition) for transition in transitions if transition.shape[-1]]
    if not factors:
        return np.zeros(())
    growth: Array = np.max([np.abs(f).max(-1) for f in factors], 0)
    if (growth > 1 + _CURVED).any():
        raise UnsupportedNeuronError(
            f"{int((growth > 1 + _CURVED).sum())} of {growth.size} neurons are unstable: without input and spikes "
            f"their state grows by up to {growth.max():.6g} a step; check their constants"
        )
    if (least := min(float(np.where(np.isreal(f), f.real, 0.0).min()) for f in factors)) < -_CURVED:
        raise UnsupportedNeuronError(
            f"its state changes sign from step to step (it is multiplied by {least:.6g}): a time constant is shorter "
            "than the time step; give it another"
        )
    return growth


def _reached(first: NDArray[np.bool_], onward: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The parts of the state that are reached from `first`, with `onward[to, from]`."""
    found = first
    for _ in range(len(first)):
        found = found | (onward & found).any(1)
    return found


def _spikes(
    run: Run, emits: Run, state: list[Tensor], system: Tensor, inputs: int
) -> tuple[bool, Array | float | None]:
    """Whether a spike changes the state, and its size (of counts: that of one); None if it may be any number."""
    silence = _silence(state, inputs)
    lift = run(state, silence)[1].abs()
    for _ in range(_LIFTS):
        lift = 2 * lift
        if bool((run([state[0] + lift, *state[1:]], silence)[1] > 0).all()):
            break
    else:
        return True, 1.0
    first, next_to_it, far = (emits([state[0] + k * lift, *state[1:]], silence)[1].abs() for k in (1, 1 + _CURVED, 3))
    now, away = [state[0] + lift, *state[1:]], torch.stack([lift, *[torch.zeros_like(lift)] * (len(state) - 1)], -1)
    resets = False
    for _ in range(2):  # some reset one step late
        now, _ = run(now, silence)
        away = (system[..., 1:, : len(state)] @ away[..., None])[..., 0]
        moved = torch.stack(now, -1) - torch.stack(state, -1)
        resets = resets or not torch.allclose(moved, away, rtol=_CURVED, atol=_CURVED)
    if not torch.equal(first, next_to_it):
        return resets, None
    size: Array = first.numpy() if torch.equal(first, far) else np.ones(())
    return resets, float(size.flat[0]) if np.all(size == size.flat[0]) else size
